"""What a launch has left to do: runs of its own, and those that other launches train meanwhile."""

import time

import pytest

from runmanager import RunBuilder, RunManager, Sweep
from runmanager.launching import work as work_module
from runmanager.launching.description import describe
from runmanager.launching.fusion import Fusion, Kind
from runmanager.launching.schedule import Schedule, ScheduledRun, schedule
from runmanager.launching.work import Work
from runmanager.tracking.run_dir import SweepDir

PARAMS = {"k": [1, 2, 3]}


@pytest.fixture
def looks_always(monkeypatch):
    monkeypatch.setattr(work_module, "_LOOK_SECONDS", -1.0)


@pytest.fixture(autouse=True)
def is_another_process(monkeypatch):
    """The other launch of these tests lives in the same process, where it would be refused."""
    monkeypatch.setattr(work_module, "this_process", dict)


class Other:
    """Another launch, as far as its runs tell."""

    def __init__(self, folder):
        self.manager = RunManager("mine", root=folder, tensorboard=False, quiet=True)

    def begins(self, place):
        self.manager.begin_run(runs()[place])
        return self

    def ends(self, error=None):
        if error:
            self.manager.abandon(error)
        else:
            self.manager.end_run()
        self.manager.close()


def runs():
    return Sweep(PARAMS, train=print, name="mine").runs()


def work_of(folder, retried=(), **options):
    plan = schedule(
        describe(Sweep(PARAMS, train=print, name="mine")), SweepDir(folder, "mine"), retried=retried, **options
    )
    return Work(plan, retried, print)


def due(work):
    return [one.run.k for one in work.due]


def elsewhere(work):
    return [one.run.k for one in work.elsewhere]


def test_at_first_all_is_due_in_the_grids_order(tmp_path):
    work = work_of(tmp_path)
    assert due(work) == [1, 2, 3]
    assert elsewhere(work) == []


def test_a_run_that_another_launch_trains_is_waited_for(tmp_path, looks_always):
    other = Other(tmp_path).begins(1)
    work = work_of(tmp_path)
    assert due(work) == [1, 3]
    work.look()
    assert elsewhere(work) == [2]
    other.ends()
    work.look()
    assert (due(work), elsewhere(work)) == ([1, 3], [])


def test_a_run_that_another_launch_left_is_taken_over(tmp_path, looks_always):
    other = Other(tmp_path).begins(1)
    work = work_of(tmp_path)
    other.ends(KeyboardInterrupt())
    work.look()
    assert due(work) == [1, 3, 2]
    assert [one.attempts for one in work.due] == [0, 0, 1]


def test_a_run_that_fails_elsewhere_is_left_at_that(tmp_path, looks_always):
    other = Other(tmp_path).begins(0)
    work = work_of(tmp_path, {"failed"})
    other.ends(ValueError("no"))
    work.look()
    assert (due(work), elsewhere(work)) == ([2, 3], [])


def test_with_a_limit_nothing_is_waited_for(tmp_path):
    other = Other(tmp_path).begins(1)
    work = work_of(tmp_path, limit=1)
    assert (due(work), elsewhere(work)) == ([1], [])
    other.ends()


def test_a_run_that_somebody_took_first_is_waited_for(tmp_path, looks_always):
    work = work_of(tmp_path)
    one = work.due.popleft()
    other = Other(tmp_path).begins(0)
    work.taken(one)
    assert elsewhere(work) == [1]
    other.ends()
    work.look()
    assert (due(work), elsewhere(work)) == ([2, 3], [])


def test_a_run_that_somebody_has_trained_meanwhile_is_done(tmp_path):
    work = work_of(tmp_path)
    one = work.due.popleft()
    Other(tmp_path).begins(0).ends()
    work.taken(one)
    assert (due(work), elsewhere(work)) == ([2, 3], [])


def test_a_failure_that_somebody_has_retried_meanwhile_is_not_tried_once_more(tmp_path):
    Other(tmp_path).begins(0).ends(ValueError("no"))
    work = work_of(tmp_path, {"failed"})
    one = work.due.popleft()
    Other(tmp_path).begins(0).ends(ValueError("no"))
    work.taken(one)
    assert due(work) == [2, 3]


def test_what_is_tried_again_is_next_and_knows_its_attempts(tmp_path):
    work = work_of(tmp_path)
    one = work.due.popleft()
    Other(tmp_path).begins(0).ends(ValueError("no"))
    work.again(one)
    assert due(work) == [1, 2, 3]
    assert work.due[0].attempts == 1


def planned(count, *, resumes_after=lambda index: None):
    """A plan of so many runs that are all due, without folders."""
    made = RunBuilder.get_runs({"k": list(range(count))})
    scheduled = [
        ScheduledRun(index + 1, run, str(index), index, None, resumes_after=resumes_after(index))
        for index, run in enumerate(made)
    ]
    return Schedule(scheduled, {})


def kind(size, key="a", seconds=1.0):
    return Kind(key, size, "vmap" if size > 1 else "one by one", "", seconds, True, size)


def grouped(count, size, **plan):
    """Work of so many runs of one kind, in groups of at most that size."""
    return Work(planned(count, **plan), (), print, Fusion([kind(size)], dict.fromkeys(range(count), 0)))


def taken(work):
    """The groups that are taken until nothing is due, by the runs' k."""
    groups = []
    while work.due:
        group, arithmetic = work.take()
        assert len(group) == 1 or arithmetic == "vmap"
        groups.append([one.run.k for one in group])
    return groups


def test_where_nothing_is_known_runs_are_taken_one_by_one(tmp_path):
    work = work_of(tmp_path)
    assert [work.take()[1] for _ in range(2)] == ["", ""]
    assert taken(work) == [[3]]
    assert not work.has_grouped


def test_runs_of_one_kind_are_taken_together_in_their_order():
    work = grouped(4, 4)
    assert not work.has_grouped
    assert taken(work) == [[0, 1, 2, 3]]
    assert work.has_grouped


@pytest.mark.parametrize(
    ("count", "size", "sizes"),
    [(9, 8, [5, 4]), (8, 8, [8]), (3, 8, [3]), (17, 8, [6, 6, 5]), (1, 8, [1]), (10, 3, [3, 3, 3, 1])],
)
def test_groups_are_of_about_one_size(count, size, sizes):
    assert sorted(map(len, taken(grouped(count, size))), reverse=True) == sizes


def test_runs_of_different_kinds_are_never_in_one_group():
    fusion = Fusion([kind(4, "a"), kind(4, "b"), kind(1, "c")], {0: 0, 1: 1, 2: 0, 3: 2, 4: 1, 5: 2})
    work = Work(planned(7), (), print, fusion)
    assert taken(work) == [[0, 2], [1, 4], [3], [5], [6]]


def test_runs_that_go_on_at_different_epochs_are_never_in_one_group():
    work = grouped(6, 6, resumes_after=lambda index: (None, 2, 3)[index % 3])
    assert taken(work) == [[0, 3], [1, 4], [2, 5]]


@pytest.mark.parametrize(("size", "groups"), [(2, [1, 2]), (1, [1, 1, 1])])
def test_runs_whose_group_did_not_hold_are_next_in_smaller_ones(size, groups, tmp_path):
    plan = schedule(describe(Sweep(PARAMS, train=print, name="mine")), SweepDir(tmp_path, "mine"))
    work = Work(plan, (), print, Fusion([kind(3)], dict.fromkeys(range(3), 0)))
    whole, _ = work.take()
    assert len(whole) == 3
    work.again_in_groups_of(size, whole)
    found = taken(work)
    assert sorted(map(len, found)) == groups
    assert sorted(k for group in found for k in group) == [1, 2, 3]


def test_what_takes_longest_is_taken_first_and_the_unknown_before_it():
    fusion = Fusion([kind(2, "short", 1.0), kind(2, "long", 5.0)], {0: 0, 1: 1, 2: 0, 3: 1})
    work = Work(planned(5), (), print, fusion)
    work.spread_over(2)
    assert taken(work) == [[4], [1, 3], [0, 2]]


@pytest.mark.parametrize("num_kinds", [1, 100])
@pytest.mark.parametrize("size", [2, 8, 128])
def test_ten_thousand_runs_are_grouped_in_no_time(size, num_kinds):
    fusion = Fusion([kind(size, str(number)) for number in range(num_kinds)], {i: i % num_kinds for i in range(10_000)})
    work = Work(planned(10_000), (), print, fusion)
    began = time.thread_time()
    work.spread_over(2)
    groups = taken(work)
    assert time.thread_time() - began < 5  # it was 37 s when each group looked at all runs
    assert sum(map(len, groups)) == 10_000
    assert max(map(len, groups)) <= size
