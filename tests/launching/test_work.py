"""What a launch has left to do: runs of its own, and those that other launches train meanwhile."""

import pytest

from runmanager import RunManager, Sweep
from runmanager.launching import work as work_module
from runmanager.launching.description import describe
from runmanager.launching.schedule import schedule
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
