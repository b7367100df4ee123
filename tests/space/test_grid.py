"""Grids become runs, and a grid that cannot be used is told what to write instead."""

import ast
import copy
import itertools
import keyword
import operator
import pickle
import re
from collections import OrderedDict
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from runmanager import RunBuilder
from runmanager.parameters import RESERVED_NAMES, ParameterError, name_fault

PARAMS = OrderedDict(lr=[0.01, 0.001], batch_size=[100, 1000], shuffle=[True, False])


def message_of(params):
    with pytest.raises(ParameterError) as caught:
        RunBuilder.get_runs(params)
    return str(caught.value)


def suggested_name(message):
    """The name that a message says to write."""
    return ast.literal_eval(re.search(r"(?:write|like) (['\"].*)$", message, re.DOTALL)[1])


def test_runs_come_in_the_order_of_itertools_product():
    assert [tuple(run) for run in RunBuilder.get_runs(PARAMS)] == list(itertools.product(*PARAMS.values()))


def test_a_run_prints_as_the_classroom_has_it():
    runs = RunBuilder.get_runs(PARAMS)
    assert repr(runs[0]) == "Run(lr=0.01, batch_size=100, shuffle=True)"
    assert str(runs[-1]) == "Run(lr=0.001, batch_size=1000, shuffle=False)"


def test_a_run_is_a_named_tuple():
    run = RunBuilder.get_runs(PARAMS)[1]
    lr, batch_size, shuffle = run
    assert (run.lr, run.batch_size, run.shuffle) == (lr, batch_size, shuffle) == (0.01, 100, False) == run
    assert run._fields == ("lr", "batch_size", "shuffle")
    assert run._asdict() == {"lr": 0.01, "batch_size": 100, "shuffle": False}
    assert repr(run._replace(lr=1)) == "Run(lr=1, batch_size=100, shuffle=False)"


def test_runs_compare_and_hash_by_value():
    once, again = RunBuilder.get_runs(PARAMS), RunBuilder.get_runs(PARAMS)
    assert once == again
    assert len({*once, *again}) == 8


def test_values_keep_their_python_types():
    values = [1, 1.0, "1", None, [1, 2], (1, 2, 3), {"a": 1}, int, operator.add]
    for value, run in zip(values, RunBuilder.get_runs({"value": values}), strict=True):
        assert run.value is value


def test_true_and_one_are_two_runs():
    assert [type(run.flag) for run in RunBuilder.get_runs({"flag": [True, 1, 1.0]})] == [bool, int, float]


def test_tuples_and_ranges_are_lists_enough():
    assert [tuple(run) for run in RunBuilder.get_runs({"a": (1, 2), "b": range(2)})] == [(1, 0), (1, 1), (2, 0), (2, 1)]


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_runs_pickle_by_every_protocol(protocol):
    runs = RunBuilder.get_runs(PARAMS)
    back = pickle.loads(pickle.dumps(runs, protocol))
    assert back == runs
    assert repr(back) == repr(runs)
    assert type(back[0]) is type(runs[0])


def test_runs_travel_to_a_spawned_process_and_back():
    runs = RunBuilder.get_runs(PARAMS)
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        assert pool.submit(repr, runs).result() == repr(runs)
        assert list(pool.map(operator.attrgetter("batch_size"), runs)) == [run.batch_size for run in runs]
        assert pool.submit(list, runs).result() == runs


def test_runs_can_be_copied():
    run = RunBuilder.get_runs({"sizes": [[1, 2]]})[0]
    deep = copy.deepcopy(run)
    assert copy.copy(run) == deep == run
    assert deep.sizes is not run.sizes


def test_reading_what_is_not_in_the_grid_names_what_is():
    with pytest.raises(AttributeError, match=r"run\.momentum.*lr, batch_size, shuffle"):
        RunBuilder.get_runs(PARAMS)[0].momentum


@pytest.mark.parametrize(
    ("params", "parts"),
    [
        ({"lr": 0.1}, ["lr=0.1", "write lr=[0.1]"]),
        ({"optimizer": "adam"}, ["optimizer='adam'", "write optimizer=['adam']"]),
        ({"data": b"abc"}, ["write data=[b'abc']"]),
        ({"sizes": {"a": 1}}, ["write sizes=[{'a': 1}]"]),
        ({"lr": None}, ["lr=None", "write lr=[None]"]),
        ({"lr": []}, ["lr=[]", "no value", "leave lr out"]),
        ({"lr": ()}, ["lr=[]"]),
        ({"lr": {0.1}}, ["lr is a set", "write lr=list(...)"]),
        ({"lr": (x for x in [1])}, ["lr is a generator", "write lr=list(...)"]),
        ({"lr": [0.1, 0.1]}, ["lr lists 0.1 twice"]),
        ({"lr": [float("nan"), float("nan")]}, ["lr lists nan twice"]),
        ({"lr": [lambda: 1]}, ["lr", "lambda", "write a def"]),
        ({"net": [object()]}, ["net", "object", "pass its name"]),
        ({"net": [{1: 2}]}, ["net", "key 1", "strings"]),
        ({"learning rate": [1]}, ["'learning rate'", "write 'learning_rate'"]),
        ({"class": [1]}, ["'class'", "write 'class_'"]),
        ({"_private": [1]}, ["'_private'", "write 'private'"]),
        ({"1st": [1]}, ["'1st'", "write 'p_1st'"]),
        ({"": [1]}, ["''", "write 'p'"]),
        ({7: [1]}, ["7", "not a string"]),
        ({"ﬁt": [1]}, ["'ﬁt'", "write 'fit'"]),
        ([("lr", [1])], ["params is a list", "OrderedDict(lr=[.01, .001])"]),
        (None, ["params is a NoneType"]),
    ],
)
def test_a_grid_that_cannot_be_used_is_told_what_to_write(params, parts):
    message = message_of(params)
    for part in parts:
        assert part in message


@pytest.mark.parametrize("name", sorted(RESERVED_NAMES))
def test_a_name_that_is_a_results_column_is_refused_with_one_that_is_not(name):
    message = message_of({name: [1]})
    assert repr(name) in message
    assert "column" in message
    RunBuilder.get_runs({suggested_name(message): [1]})


@given(st.text(max_size=20) | st.sampled_from([*keyword.kwlist, "loss!", "_loss", "epoch duration", "ﬁ-x", "²", "__"]))
@example("_run")
def test_the_name_that_a_message_suggests_can_be_used(name):
    fault = name_fault(name)
    if fault is None:
        assert getattr(RunBuilder.get_runs({name: [1]})[0], name) == 1
    else:
        RunBuilder.get_runs({suggested_name(fault): [1]})


def test_all_faults_of_a_grid_are_named_together():
    message = message_of({"lr": 0.1, "loss": [1], "sizes": [], "good": [1]})
    assert "lr=0.1" in message
    assert "'loss'" in message
    assert "sizes=[]" in message
    assert "good" not in message


def test_two_names_that_python_reads_as_one_are_refused():
    assert "'ﬁt'" in message_of({"fit": [1], "ﬁt": [2]})


def test_numpy_and_torch_values_need_only_a_list_around_them():
    numpy, torch = pytest.importorskip("numpy"), pytest.importorskip("torch")
    assert "write lr=list(...)" in message_of({"lr": numpy.array([0.1, 0.2])})
    assert "write lr=list(...)" in message_of({"lr": torch.tensor([0.1, 0.2])})
    assert [run.lr for run in RunBuilder.get_runs({"lr": list(numpy.array([0.1, 0.2]))})] == [0.1, 0.2]
