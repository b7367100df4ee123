"""Whatever becomes plain loads with weights_only=True and is what it was; all else is refused when it is saved."""

import io
import random
from collections import Counter, OrderedDict, defaultdict, namedtuple
from enum import Enum

import numpy as np
import pytest
import torch

from runmanager.training.plain import differences, from_plain, to_plain
from runmanager.training.settings import TrainerError


class Colour(Enum):
    RED = 1


def through_a_file(value):
    file = io.BytesIO()
    torch.save(to_plain(value, "it"), file)
    file.seek(0)
    return from_plain(torch.load(file, weights_only=True))


@pytest.mark.parametrize(
    "value",
    [
        None,
        True,
        2**127 - 1,
        -(2**70),
        1.5,
        float("inf"),
        1j,
        "text \udc80",
        b"bytes",
        torch.float16,
        torch.device("cpu"),
        torch.Size([2, 3]),
        (1, (2.0, "three")),
        [1, [2]],
        {1, 2},
        {"a": {2: [3]}, (1, 2): 4},
        OrderedDict(b=1, a=2),
        Counter([1, 1, 2]),
        random.Random(1).getstate(),
        np.float32(0.1),
        np.int64(-3),
        np.bool_(True),
        np.uint64(2**64 - 1),
    ],
    ids=lambda value: f"{value!r:.30}",
)
def test_a_plain_value_comes_back_as_it_was(value):
    back = through_a_file(value)
    assert back == value
    assert type(back) is type(value)


@pytest.mark.parametrize("dtype", ["float64", "float16", "int8", "uint16", "uint32", "uint64", "bool", "complex64"])
def test_an_array_comes_back_as_it_was(dtype):
    array = np.arange(6).reshape(2, 3).astype(dtype)
    back = through_a_file({"array": array})["array"]
    assert back.dtype == array.dtype
    assert np.array_equal(back, array)


def test_a_defaultdict_comes_back_as_a_dict():
    assert through_a_file(defaultdict(list, {1: [2]})) == {1: [2]}


@pytest.mark.parametrize("make", [np.random.default_rng, np.random.RandomState])
def test_where_a_generator_of_numpy_stands_comes_back(make):
    generator, other = make(1), make(2)
    generator.random(7)
    if hasattr(generator, "bit_generator"):
        other.bit_generator.state = through_a_file(generator.bit_generator.state)
    else:
        other.set_state(through_a_file(generator.get_state()))
    assert generator.random(5).tolist() == other.random(5).tolist()


def test_the_versions_of_a_networks_modules_come_back():
    state = torch.nn.BatchNorm1d(2).state_dict()
    assert through_a_file(state)._metadata == state._metadata


def test_tensors_are_not_copied():
    tensor = torch.rand(3)
    assert to_plain({"deep": [tensor]}, "it")["deep"][0] is tensor


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (lambda: 1, "function"),
        (len, "builtin_function_or_method"),
        (int, "type"),
        (Colour.RED, "Colour"),
        (namedtuple("Pair", "a b")(1, 2), "Pair"),
        (torch.Generator(), "Generator"),
        (range(3), "range"),
        (2**4000, "int"),
        (np.array(["a"]), "ndarray"),
        (torch.nn.Linear(1, 1), "Linear"),
    ],
)
def test_what_would_not_load_again_is_refused_by_its_place(value, kind):
    with pytest.raises(TrainerError, match=r"scheduler\.inner\[1\] is .*which a checkpoint cannot hold") as caught:
        to_plain({"inner": [1, value]}, "scheduler")
    assert f"({kind})" in str(caught.value)
    assert "--checkpoint-every 0" in str(caught.value)


def test_a_difference_is_named_to_the_last_bit():
    saved = {"a": {"b": [1, torch.tensor([1.0, float("nan")])]}, "c": float("nan")}
    same = {"a": {"b": [1, torch.tensor([1.0, float("nan")])]}, "c": float("nan"), "new": 1}
    assert list(differences(saved, same, "")) == []
    for other in (torch.tensor([-1.0, float("nan")]), torch.tensor([1.0, float("nan")], dtype=torch.float64), None):
        assert list(differences(saved, {**same, "a": {"b": [1, other]}}, "")) == ["a.b[1]"]
    assert list(differences({"zero": torch.tensor(0.0)}, {"zero": torch.tensor(-0.0)}, "")) == ["zero"]
    assert list(differences({"a": 1}, {"a": True}, "")) == ["a"]
    assert list(differences({"a": 1}, {}, "")) == ["a"]
