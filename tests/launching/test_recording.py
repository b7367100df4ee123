"""Runs remember what was read from them, and are otherwise runs."""

import pickle

import pytest

from runmanager import RunBuilder
from runmanager.launching.recording import covering, recorded

RUN = RunBuilder.get_runs({"lr": [0.1], "batch_size": [10], "shuffle": [True]})[0]
ALL = {"lr", "batch_size", "shuffle"}


@pytest.mark.parametrize(
    ("read", "names"),
    [
        (lambda run: run.lr, {"lr"}),
        (lambda run: getattr(run, "shuffle", None), {"shuffle"}),
        (lambda run: run._asdict(), ALL),
        (lambda run: run._replace(lr=1), ALL),
        (lambda run: list(run), ALL),
        (lambda run: run[0], ALL),
        (lambda run: run._fields, set()),
        (lambda run: repr(run), set()),
        (lambda run: len(run), set()),
    ],
)
def test_what_is_read_is_remembered(read, names):
    reads = set()
    read(recorded(RUN, reads))
    assert reads == names


def test_a_recorded_run_equals_prints_and_pickles_as_the_run():
    run = recorded(RUN, set())
    assert run == RUN
    assert hash(run) == hash(RUN)
    assert repr(run) == repr(RUN)
    assert pickle.loads(pickle.dumps(run)) == RUN
    assert isinstance(run, type(RUN))


def test_what_is_not_there_is_an_error_that_names_what_is():
    with pytest.raises(AttributeError, match=r"run\.momentum: the run has lr, batch_size, shuffle"):
        recorded(RUN, set()).momentum


def test_the_first_runs_show_every_value():
    runs = RunBuilder.get_runs({"a": [1, 2, 3], "b": [4, 5], "c": [True, 1]})
    first, rest = covering(runs)
    assert sorted([*first, *rest], key=runs.index) == runs
    assert len(first) < len(rest)
    shown = [{repr(run[place]) for run in first} for place in range(3)]
    assert shown == [{"1", "2", "3"}, {"4", "5"}, {"True", "1"}]
