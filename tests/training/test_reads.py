"""A run that is watched is the run, and what is read from it is known."""

import pickle

import pytest

from runmanager import RunBuilder
from runmanager.training.reads import recorded, values_of

RUN = RunBuilder.get_runs({"lr": [0.1], "size": [3], "name": ["a"]})[0]


def reads_of(read):
    reads = set()
    read(recorded(RUN, reads))
    return reads


def test_only_what_is_read_counts():
    assert reads_of(lambda run: run.lr + run.size) == {"lr", "size"}
    assert reads_of(lambda run: run._fields) == set()


def test_whoever_looks_at_the_whole_run_reads_all_of_it():
    for read in (
        tuple,
        list,
        repr,
        hash,
        {"a": 1}.get,
        lambda run: run == RUN,
        lambda run: 0.1 in run,
        lambda run: run[0],
    ):
        assert reads_of(read) == set(RUN._fields), read
    assert reads_of(lambda run: run._asdict()) == set(RUN._fields)
    assert reads_of(lambda run: run._replace(lr=1)) == set(RUN._fields)


def test_it_is_the_run_in_all_else():
    watched = recorded(RUN, set())
    assert (watched, repr(watched), hash(watched), watched._asdict()) == (RUN, repr(RUN), hash(RUN), RUN._asdict())
    assert isinstance(watched, type(RUN))
    assert values_of(watched) == RUN._asdict()


def test_a_run_can_be_watched_twice_and_watching_reads_nothing():
    outer, inner = set(), set()
    watched = recorded(recorded(RUN, outer), inner)
    assert (outer, inner) == (set(), set())
    assert values_of(watched) == RUN._asdict()
    assert (outer, inner) == (set(), set())
    watched.lr
    assert (outer, inner) == ({"lr"}, {"lr"})


def test_it_pickles_as_the_run():
    assert pickle.loads(pickle.dumps(recorded(RUN, set()))) == RUN


def test_what_is_not_there_is_an_error_that_names_what_is():
    with pytest.raises(AttributeError, match=r"run\.momentum: the run has lr, size, name"):
        recorded(RUN, set()).momentum
