"""What follows from how runs end: tries again, stopping the sweep, whose saved states are kept."""

import re
import time

import pytest

from runmanager.launching import launch as launching
from runmanager.tracking.writers import Writers

EPOCHS = """\
for epoch in range(m.num_epochs, 2):
    m.begin_epoch()
    m.log(val_loss=run.lr)
    m.end_epoch()
"""
ONCE_BROKEN = """\
mark = Path(f"tried-{run.lr}")
tries = len(mark.read_text()) if mark.exists() else 0
mark.write_text("x" * (tries + 1))
if run.lr == 0.1 and tries < 2:
    raise RuntimeError("not yet")
m.log(score=run.lr)
"""
PATH = "from pathlib import Path"
SIX = "{'k': [1, 2, 3, 4, 5, 6]}"
IN_BOTH_WAYS = pytest.mark.parametrize("workers", [0, 1])


@pytest.fixture
def launched(command):
    """Launches the sweep by the command, in this process and so many workers."""
    return lambda workers, *options: command("launch", "tiny", "--no-tensorboard", "--workers", str(workers), *options)


@IN_BOTH_WAYS
def test_a_run_that_fails_is_tried_again_at_once_as_often_as_was_asked(workers, project, launched):
    project.by_function(ONCE_BROKEN, before=PATH)
    said = launched(workers, "--retries", "2")
    assert project.statuses() == {1: "completed", 2: "completed"}
    assert [run.attempts for run in project.history().runs] == [3, 1]
    assert [run.metrics for run in project.history().runs] == [{"score": 0.1}, {"score": 0.01}]
    assert said.status == 0, said.out + said.err
    assert "2 runs" in said.out


@IN_BOTH_WAYS
def test_a_run_that_has_succeeded_is_not_tried_once_more(workers, project, launched):
    project.by_function(ONCE_BROKEN, before=PATH)
    said = launched(workers, "--retries", "5")
    assert [run.attempts for run in project.history().runs] == [3, 1]
    assert said.status == 0


@IN_BOTH_WAYS
def test_a_run_that_fails_once_more_than_that_has_failed(workers, project, launched):
    project.by_function(ONCE_BROKEN, before=PATH)
    said = launched(workers, "--retries", "1")
    assert said.status == 1
    assert project.statuses() == {1: "failed", 2: "completed"}
    assert [run.attempts for run in project.history().runs] == [2, 1]


@IN_BOTH_WAYS
def test_a_run_is_told_of_once_for_each_time_it_is_tried(workers, project, launched):
    project.by_function(ONCE_BROKEN, before=PATH)
    said = launched(workers, "--retries", "2")
    assert said.out.count("run 1 failed") == 2
    assert said.out.count("run 1 completed") == 1
    assert said.out.count("run 1: lr=0.1") == 3


def test_each_run_has_tries_of_its_own(project):
    project.by_function("raise ValueError(run.lr)")
    project.launch(retries=1)
    assert [run.attempts for run in project.history().runs] == [2, 2]


def test_what_failed_is_tried_by_a_later_launch_only_when_asked(project):
    project.by_function("raise ValueError(run.lr)")
    for options, attempts in (({}, 1), ({}, 1), ({"retry_failed": True}, 2), ({"retry_status": "failed"}, 3)):
        project.launch(**options)
        assert [run.attempts for run in project.history().runs] == [attempts] * 2
    project.launch(retry_status="diverged")
    assert [run.attempts for run in project.history().runs] == [3, 3]


@pytest.mark.parametrize(
    ("on_error", "tried"), [("continue", 6), ("stop", 1), ("stop-after=2", 3), ("stop-after=2-same", 5)]
)
def test_failures_stop_the_sweep_as_was_asked(on_error, tried, project):
    """Runs 1 and 5 fail alike, run 3 in another place."""
    project.by_function(
        "if run.k == 3:\n    raise ValueError('odd one')\nif run.k in (1, 5):\n    raise ValueError(f'of {run.k}')",
        params=SIX,
    )
    history = project.launch(on_error=on_error)
    assert len(history.runs) == tried
    assert (history.stopped is None) == (on_error == "continue")
    assert history.trained == list(range(1, tried + 1))
    assert project.launch().trained == list(range(tried + 1, 7))


@IN_BOTH_WAYS
def test_a_sweep_that_failures_have_stopped_says_why_and_ends_with_one(workers, project, launched):
    project.by_function("if run.k == 2:\n    raise ValueError('no')", params=SIX)
    said = launched(workers, "--on-error", "stop")
    assert said.status == 1
    assert "stopped (1 run failed (--on-error)); the same command goes on" in said.out
    assert project.statuses() == {1: "completed", 2: "failed"}


@IN_BOTH_WAYS
def test_a_run_that_succeeds_when_it_is_tried_again_stops_nothing(workers, project, launched):
    project.by_function(ONCE_BROKEN, before=PATH)
    said = launched(workers, "--retries", "2", "--on-error", "stop")
    assert project.statuses() == {1: "completed", 2: "completed"}
    assert "stopped" not in said.out
    assert said.status == 0


def test_a_run_that_diverged_is_no_failure(project):
    body = "m.begin_epoch()\nm.log(loss=float('nan') if run.k < 3 else 1.0)\nm.end_epoch()"
    project.by_function(body, params=SIX)
    history = project.launch(on_error="stop", retries=1)
    assert [run.status for run in history.runs] == ["diverged"] * 2 + ["completed"] * 4
    assert [run.attempts for run in history.runs] == [1] * 6
    assert project.launch().trained == []
    assert project.launch(retry_status="diverged").trained == [1, 2]


@IN_BOTH_WAYS
def test_a_loss_that_is_not_finite_ends_a_run_at_once_when_asked(workers, project, launched):
    body = "for epoch in range(5):\n    m.begin_epoch()\n    m.log(loss=1.0 if epoch < 2 else float('inf'))\n    m.end_epoch()"
    project.by_function(body)
    said = launched(workers, "--stop-diverged")
    (run, other) = project.history().runs
    assert (run.status, other.status) == ("diverged", "diverged")
    assert len(run.rows) == 3
    assert run.error == "the loss of epoch 3 is inf (--stop-diverged)"
    assert said.status == 0


KEEPING = """\
for epoch in range(3):
    m.begin_epoch()
    m.log(score=run.k if epoch == 1 else 0)
    m.end_epoch(checkpoint={"epoch": epoch})
"""


def with_states(project):
    return [int(folder.name[:4]) for folder in project.folders() if (folder / "checkpoints").is_dir()]


def test_only_the_best_runs_keep_their_states(project):
    project.by_function(KEEPING, params="{'k': [2, 5, 1, 4, 3]}", sweep="objective='score'")
    project.launch(keep=2)
    assert with_states(project) == [2, 4]
    kept = sorted(path.name for path in (project.folders()[1] / "checkpoints").iterdir())
    assert kept == ["epoch-0002.pt", "epoch-0003.pt"]  # the best and the last


def test_the_smallest_are_best_where_the_objective_says_so(project):
    project.by_function(
        KEEPING.replace("else 0", "else 9"), params="{'k': [2, 5, 1, 4, 3]}", sweep="objective='score', mode='min'"
    )
    project.launch(keep=2)
    assert with_states(project) == [1, 3]


def test_all_runs_keep_their_states_where_nothing_says_which_is_best(project):
    project.by_function(KEEPING, params="{'k': [2, 5, 1]}")
    project.launch(keep=1)
    assert with_states(project) == [1, 2, 3]


def test_all_runs_keep_their_states_when_asked(project):
    project.by_function(KEEPING, params="{'k': [2, 5, 1]}", sweep="objective='score'")
    project.launch(keep="all")
    assert with_states(project) == [1, 2, 3]


def test_no_run_keeps_its_states_when_asked(project):
    project.by_function(KEEPING, params="{'k': [2, 5, 1]}", sweep="objective='score'")
    project.launch(keep=0)
    assert with_states(project) == []


def test_runs_of_an_earlier_launch_are_reckoned_with(project):
    project.by_function(KEEPING, params="{'k': [5, 2]}", sweep="objective='score'")
    project.launch(keep=2)
    project.by_function(KEEPING, params="{'k': [5, 2, 3]}", sweep="objective='score'")
    project.launch(keep=2)
    assert with_states(project) == [1, 3]


def test_a_run_that_failed_keeps_its_states_to_be_tried_again(project):
    body = KEEPING + "if run.k == 2 and not Path('mended').exists():\n    raise RuntimeError('late')\n"
    project.by_function(body, params="{'k': [2, 5, 1]}", sweep="objective='score'", before=PATH)
    project.launch(keep=1)
    assert with_states(project) == [1, 2]
    (project.root / "mended").touch()
    project.launch(keep=1, retry_failed=True)
    assert with_states(project) == [2]


def test_of_runs_that_are_as_good_the_first_keep_theirs(project):
    project.by_function(KEEPING.replace("run.k", "1"), params="{'k': [2, 5, 1]}", sweep="objective='score'")
    project.launch(keep=1)
    assert with_states(project) == [1]


def test_states_are_saved_as_often_as_asked_and_at_the_end(project):
    body = KEEPING.replace("range(3)", "range(5)").replace("'epoch': epoch", "'epoch': epoch")
    project.by_function(body, params="{'k': [1]}")
    for every, kept in ((0, None), (2, ["epoch-0005.pt"]), (5, ["epoch-0005.pt"]), (9, ["epoch-0005.pt"])):
        project.launch(checkpoint_every=every, fresh=True)
        folder = project.folders()[0] / "checkpoints"
        assert (sorted(path.name for path in folder.iterdir()) if folder.exists() else None) == kept


@IN_BOTH_WAYS
@pytest.mark.parametrize("leaves", ["raise SystemExit(0)", "raise SystemExit('no more')"])
def test_a_function_that_wants_to_leave_its_process_ends_one_run_alone(leaves, workers, project, launched):
    project.by_function(f"if run.lr == 0.1:\n    {leaves}\nm.log(score=1)")
    said = launched(workers)
    statuses = project.statuses()
    assert statuses.get(2) == "completed"
    assert statuses[1] in ("failed", "interrupted")
    assert said.status == 1
    assert "cannot be recorded" not in said.err


@IN_BOTH_WAYS
def test_what_a_run_read_before_it_failed_is_not_said_to_be_unread(workers, project, launched):
    project.by_function("float(run.lr)\nraise ValueError('no')")
    assert "never read" not in launched(workers).out


def test_what_a_killed_run_has_read_is_not_said_to_be_unread(project, launched):
    project.by_function("float(run.lr)\nimport os\nos._exit(1)")
    assert "never read" not in launched(1).out


def test_what_tracking_takes_is_told_as_a_share_of_all_that_the_runs_take(project, monkeypatch, capsys):
    """What comes before the first epoch, as the network's graph, is left out of a run's own duration."""
    monkeypatch.setattr(launching, "_LEAST_OVERHEAD_SECONDS", 0.05)
    monkeypatch.setattr(Writers, "watch", lambda self, member: time.sleep(0.2))
    project.by_function(
        "time.sleep(0.1)\nm.watch(None, None)\nm.begin_epoch()\nm.log(v=1)\nm.end_epoch()", before="import time"
    )
    history = project.launch(quiet=False)
    assert all(run.overhead_seconds >= 0.2 for run in history.runs)
    share = float(re.search(r"tracking took ([\d.]+)% of the runs' time", capsys.readouterr().out)[1])
    assert share < 100


def test_the_best_runs_are_known_by_a_metric_of_the_run_too(project):
    body = KEEPING.replace("m.log(score=run.k if epoch == 1 else 0)", "m.log(v=0)") + "return {'score': run.k}"
    project.by_function(body, params="{'k': [2, 5, 1, 4, 3]}", sweep="objective='score'")
    project.launch(keep=2)
    assert with_states(project) == [2, 4]
