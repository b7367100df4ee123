"""Values read from pickled files: what pickle itself would give, and nothing that a file could do."""

import os
import pickle
import pickletools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runmanager.data.plain_pickle import NotPlainError, plain_values

ARRAY = np.random.default_rng(0).integers(0, 256, (5, 7), dtype=np.uint8)
plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text() | st.binary() | st.floats(allow_nan=False),
    lambda inner: st.lists(inner) | st.tuples(inner, inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


@settings(deadline=None, max_examples=150)
@given(value=plain, protocol=st.integers(0, 5))
def test_plain_values_are_those_that_pickle_gives(value, protocol):
    data = pickle.dumps(value, protocol)
    assert repr(plain_values(data)) == repr(pickle.loads(data))


@pytest.mark.parametrize("protocol", range(5))
@pytest.mark.parametrize("array", [ARRAY, np.asfortranarray(ARRAY), ARRAY[:0]], ids=["rows", "columns", "empty"])
def test_arrays_of_bytes_are_those_that_pickle_gives(array, protocol):
    found = plain_values(pickle.dumps({"data": array, "labels": [1, 2]}, protocol))
    assert found["data"].dtype == np.uint8
    assert np.array_equal(found["data"], array)
    assert found["labels"] == [1, 2]


def test_texts_of_python_2_are_texts():
    data = b"\x80\x02}q\x01(U\x06labelsq\x02]q\x03(K\x06K\x09eU\x0bbatch_labelq\x04U\x0ctraining b 1q\x05u."
    assert plain_values(data) == {"labels": [6, 9], "batch_label": "training b 1"}
    assert plain_values(b"(dp1\nS'label_names'\np2\n(lp3\nS'airplane'\np4\naS'cat'\np5\nasS'n'\nI10000\ns.") == {
        "label_names": ["airplane", "cat"],
        "n": 10000,
    }


class Touch:
    """What a malicious file does when it is unpickled: makes a file."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("wrap", [lambda one: one, lambda one: {"data": one}, lambda one: [1, (one,)]])
def test_a_file_that_calls_something_is_refused_and_calls_nothing(wrap, protocol, tmp_path):
    data = pickle.dumps(wrap(Touch(tmp_path / "made")), protocol)
    with pytest.raises(NotPlainError, match="mkdir"):
        plain_values(data)
    assert not (tmp_path / "made").exists()
    pickle.loads(data)  # the file is a true one: unpickling it does the harm
    assert (tmp_path / "made").exists()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b".",
        b"K\x01",
        b"e.",
        b"(e.",
        b"]K\x01K\x02.",
        b"h\x05.",
        b"K\x01K\x02s.",
        b"R.",
        b"]]R.",
        b"}]b.",
        b"\xff\xff",
        b"\x80\x02T\xff\xff\xff\x7fabc.",
        b"cbuiltins\neval\n(S'1'\ntR.",
        b"cnumpy\ndtype\n.",
        b"P1\n.",
        b"(S'1'\nios\nsystem\n.",
        b"\x82\x01.",
    ],
)
def test_what_is_damaged_or_no_plain_value_is_refused(data):
    with pytest.raises(NotPlainError):
        plain_values(data)


@pytest.mark.parametrize("array", [ARRAY.astype(np.int64), np.array([{}], object), ARRAY.astype(">u2")])
def test_arrays_of_other_things_are_refused(array):
    with pytest.raises(NotPlainError):
        plain_values(pickle.dumps(array, 2))


@settings(deadline=None, max_examples=300)
@given(st.data())
def test_no_changed_byte_does_anything_but_change_a_value_or_be_refused(data):
    whole = bytearray(pickle.dumps({"data": ARRAY, "labels": list(range(5)), "names": ["a.png"] * 3}, 2))
    for _ in range(data.draw(st.integers(1, 3))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    try:
        plain_values(bytes(whole))
    except NotPlainError:
        pass


def test_every_word_that_is_done_is_one_of_the_format():
    from runmanager.data import plain_pickle

    words = {opcode.name for opcode in pickletools.opcodes}
    assert {*plain_pickle._VALUES, *plain_pickle._CONSTANTS, *plain_pickle._WORDS} <= words
