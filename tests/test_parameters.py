"""What a parameter may be called and hold: encoded as strict JSON, decoded exactly, identified by its value alone."""

import enum
import json
import math
import os.path
import re
from collections import OrderedDict, namedtuple
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runmanager.parameters import (
    RESERVED_NAMES,
    ParameterError,
    canonical,
    check_value,
    decode,
    encode,
    identity,
    name_fault,
    number_from_json,
    number_to_json,
    params_of,
    short_text,
    varying,
)
from tests.same_values import same

TEXT = st.text(max_size=12) | st.sampled_from(["", "$name", "$float", "$dict", "nan", "NaN", "\ud800", "\0", "a\nb"])
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)


class Colour(enum.Enum):
    RED = "red"


class Level(enum.IntEnum):
    HIGH = 3


def strict(text: str) -> Any:
    return json.loads(text, parse_constant=lambda literal: pytest.fail(f"{literal} is not strict JSON"))


@settings(max_examples=500, deadline=None)
@given(VALUES)
def test_any_json_value_comes_back_exactly_through_strict_json(value: Any) -> None:
    assert same(decode(strict(json.dumps(encode(value)))), value)


@pytest.mark.parametrize(
    "imitation",
    [
        {"$name": "x"},
        {"$name": 1},
        {"$float": "NaN"},
        {"$float": "x"},
        {"$dict": []},
        {"$dict": 3},
        {"$": {"$name": []}},
        {"$name": 1, "b": 2},
    ],
)
def test_a_dict_that_imitates_a_mark_comes_back_as_the_dict(imitation: dict[str, Any]) -> None:
    assert same(decode(strict(json.dumps(encode([imitation])))), [imitation])


@pytest.mark.parametrize(
    ("value", "name"),
    [
        (int, "builtins.int"),
        (os.path.join, "posixpath.join"),
        (OrderedDict, "collections.OrderedDict"),
        (Colour.RED, r".*\.Colour\.RED"),
        (Level.HIGH, r".*\.Level\.HIGH"),
        (len, "builtins.len"),
        (math.sqrt, "math.sqrt"),
        (np.float32, "numpy.float32"),
    ],
)
def test_classes_functions_and_enums_are_stored_by_their_name(value: Any, name: str) -> None:
    assert re.fullmatch(name, decode(encode(value)))


def test_torch_devices_dtypes_classes_and_scalars_have_plain_names_and_values() -> None:
    torch = pytest.importorskip("torch")
    assert decode(encode(torch.device("cuda:1"))) == "cuda:1"
    assert decode(encode(torch.float16)) == "torch.float16"
    assert decode(encode(torch.nn.ReLU)).endswith("ReLU")
    assert decode(encode(torch.relu)).endswith("relu")
    assert same(encode(torch.tensor(0.5)), 0.5)
    assert same(encode(torch.tensor(True)), True)


@pytest.mark.parametrize(
    ("scalar", "plain"),
    [
        (np.float64(0.1), 0.1),
        (np.float32(0.1), float(np.float32(0.1))),
        (np.int64(-7), -7),
        (np.uint64(2**64 - 1), 2**64 - 1),
        (np.bool_(True), True),
        (np.str_("a"), "a"),
        (np.array(3), 3),
    ],
)
def test_numpy_scalars_become_plain_values(scalar: Any, plain: Any) -> None:
    assert same(encode(scalar), plain)


@pytest.mark.parametrize(
    "value",
    [
        object(),
        {1, 2},
        b"bytes",
        1j,
        np.array([1, 2]),
        np.longdouble(1) * 2,
        lambda: 0,
        {1: "a"},
        {None: 1},
        [{2: 1}],
        {"a": {(): 1}},
    ],
)
def test_what_cannot_be_written_down_is_refused_by_name(value: Any) -> None:
    with pytest.raises(ParameterError, match="momentum"):
        check_value("momentum", value)


def test_a_value_that_never_ends_is_refused_by_name() -> None:
    loop: list[Any] = []
    loop.append(loop)
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    for value in (loop, deep, 10**5000):
        with pytest.raises(ParameterError, match="layers"):
            check_value("layers", value)


def test_integers_of_any_size_that_python_prints_are_taken() -> None:
    check_value("n", 10**4000)
    assert decode(strict(json.dumps(encode(10**4000)))) == 10**4000


@settings(max_examples=200, deadline=None)
@given(st.dictionaries(st.sampled_from("abcdef"), VALUES, min_size=1), st.randoms())
def test_a_run_is_the_same_run_in_whatever_order_its_parameters_stand(params: dict[str, Any], rng: Any) -> None:
    names = list(params)
    rng.shuffle(names)
    assert identity({name: params[name] for name in names}) == identity(params)
    assert canonical(params).isascii()
    assert re.fullmatch("[0-9a-f]{64}", identity(params))


@settings(max_examples=300, deadline=None)
@given(VALUES, VALUES)
def test_runs_are_the_same_exactly_when_their_values_are(one: Any, other: Any) -> None:
    def unordered(value: Any) -> Any:  # a dict's own order is no difference
        if isinstance(value, dict):
            return {key: unordered(value[key]) for key in sorted(value)}
        return [unordered(item) for item in value] if isinstance(value, list) else value

    equal = same(unordered(one), unordered(other))
    assert (identity({"a": one}) == identity({"a": other})) == equal


@pytest.mark.parametrize(
    "pair", [(1, True), (1, 1.0), (1, "1"), (None, "None"), ("", None), (int, "builtins.int"), ([], {}), (0.0, -0.0)]
)
def test_values_that_python_or_a_table_would_confuse_are_different_runs(pair: tuple[Any, Any]) -> None:
    assert identity({"a": pair[0]}) != identity({"a": pair[1]})


def test_replicates_of_one_configuration_are_different_runs() -> None:
    assert len({identity({"a": 1}, replicate) for replicate in (1, 2, 3)}) == 3
    assert identity({"a": 1}, 1) == identity({"a": 1})


@pytest.mark.parametrize(
    "name",
    [
        "lr rate",
        "lr-rate",
        "class",
        "_lr",
        "__",
        "1st",
        "",
        " ",
        "a.b",
        "a/b",
        "../x",
        "ﬁ",
        "𝓁𝓇",
        "½",
        "a\nb",
        "\ud800",
        "_run",
        "_loss",
        "def",
        "Ⅷ x",
    ],
)
def test_a_name_that_cannot_be_used_gets_one_that_can(name: str) -> None:
    fault = name_fault(name)
    assert fault is not None
    assert repr(name) in fault
    suggested = fault.rsplit("write ", 1)[1].strip("'\"")
    assert name_fault(suggested) is None, fault


@settings(max_examples=300, deadline=None)
@given(st.text(max_size=8))
def test_every_refused_name_is_told_another_that_is_taken(name: str) -> None:
    fault = name_fault(name)
    if fault is not None and name not in RESERVED_NAMES:
        suggested = fault.rsplit("write ", 1)[1].strip("'\"")
        assert name_fault(suggested) is None, fault


@pytest.mark.parametrize("name", sorted(RESERVED_NAMES))
def test_a_column_of_the_results_is_no_parameter_and_the_message_says_what_to_write(name: str) -> None:
    fault = name_fault(name)
    assert fault is not None
    assert repr(name) in fault


@pytest.mark.parametrize(
    "name", ["lr", "batch_size", "count", "index", "größe", "данные", "λ", "x1", "match", "fields"]
)
def test_any_other_identifier_is_a_good_name(name: str) -> None:
    assert name_fault(name) is None


@pytest.mark.parametrize("name", [1, None, ("a",), b"lr"])
def test_a_name_that_is_no_string_is_refused(name: Any) -> None:
    assert repr(name) in (name_fault(name) or "")


def test_the_users_own_named_tuple_is_a_run() -> None:
    assert params_of(namedtuple("Anything", "lr n")(0.1, [1])) == {"lr": 0.1, "n": [1]}


@pytest.mark.parametrize("run", [(0.1, 2), {"lr": 0.1}, "lr=0.1", None, 3])
def test_what_is_no_named_tuple_is_refused_with_the_way_to_make_one(run: Any) -> None:
    with pytest.raises(ParameterError, match=r"RunBuilder\.get_runs"):
        params_of(run)


def test_every_bad_name_of_a_run_is_told_at_once() -> None:
    with pytest.raises(ParameterError, match=r"(?s)'loss'.*'epoch'"):
        params_of(namedtuple("Run", "loss lr epoch")(1, 2, 3))


@pytest.mark.parametrize("number", [0.1, -0.0, 1e308, math.nan, math.inf, -math.inf, 5, None])
def test_a_number_comes_back_from_strict_json(number: float | None) -> None:
    assert repr(number_from_json(strict(json.dumps(number_to_json(number))))) == repr(number)


def test_varying_names_are_those_with_more_than_one_value() -> None:
    runs = [
        {"a": 1, "b": math.nan, "c": [1]},
        {"a": 1.0, "b": math.nan, "c": [1]},
        {"a": 1, "b": math.nan, "c": [1], "d": None},
    ]
    assert varying(runs) == ["a", "d"]


@settings(max_examples=200, deadline=None)
@given(VALUES)
def test_a_short_text_is_short_and_printable(value: Any) -> None:
    text = short_text(value)
    assert len(text) <= 32
    assert text.isprintable()
