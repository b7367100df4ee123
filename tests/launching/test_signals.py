"""Ctrl-C and its like: the first one finishes the epoch, the second one stops now, and nothing is left behind."""

import os
import signal
import time

import pytest

BEFORE = "import os\nimport subprocess\nimport time\nfrom pathlib import Path"
GOES_ON = """\
epoch = m.num_epochs
while epoch < (3 if Path("mended").exists() else 2000):
    epoch += 1
    m.begin_epoch()
    m.log(val_loss=run.k)
    Path(f"run-{run.k}-epoch-{epoch}").touch()
    time.sleep(0.02)
    m.end_epoch()
"""
HANGS = """\
m.begin_epoch()
m.log(val_loss=run.k)
m.end_epoch()
if not Path("mended").exists():
    m.begin_epoch()
    Path(f"run-{run.k}-epoch-2").touch()
    for _ in range(600):
        time.sleep(0.1)
"""
WITH_CHILD = "subprocess.Popen(['sleep', '60'])\n"
PARAMS = "{'k': [1, 2, 3, 4]}"
IN_BOTH_WAYS = pytest.mark.parametrize("workers", [0, 2])
SOON = 15  # seconds; of itself, a launch waits 25 for an epoch
EXITS = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGHUP: 129}


def started(project, workers, *options):
    return project.forked("launch", "tiny", "--no-tensorboard", "--workers", str(workers), *options)


def started_afresh(project, workers):
    """As a user starts it, with the first worker before all else."""
    return project.started("launch", "tiny", "--no-tensorboard", "--workers", str(workers))


def wait_for_epoch(project, workers, epoch=2):
    """All that can be under way is in this epoch."""
    for run in range(1, max(workers, 1) + 1):
        project.wait_for(f"run-{run}-epoch-{epoch}")


def begun(project, run):
    return len(list(project.root.glob(f"run-{run}-epoch-*")))


def nothing_is_left(project):
    project.wait_for(lambda: not project.alive(), 20)


def first_signal_is_taken(project, process):
    """Or the second one might be the same to it."""
    project.wait_for(lambda: "once more stops now" in process.printed()[1])


@pytest.mark.parametrize(
    ("number", "workers"),
    [
        (signal.SIGINT, 0),
        (signal.SIGINT, 2),
        (signal.SIGTERM, 0),
        pytest.param(signal.SIGTERM, 2, marks=pytest.mark.long),
        (signal.SIGHUP, 2),
    ],
)
def test_the_first_signal_ends_the_epoch_and_prints_the_table(number, workers, project):
    project.by_function(GOES_ON, params=PARAMS, before=BEFORE)
    with started_afresh(project, workers) as process:
        wait_for_epoch(project, workers)
        process.send_signal(number)
        said = project.said(process)
    assert said.status == EXITS[number], said.out + said.err
    nothing_is_left(project)
    history = project.history()
    assert project.statuses() == dict.fromkeys(range(1, max(workers, 1) + 1), "interrupted")
    for run in history.runs:
        assert len(run.rows) == begun(project, run.number)
        assert "after epoch" in run.error
    assert "stopping at the end of the epoch; once more stops now" in said.err
    assert "Traceback" not in said.err + said.out
    assert f"stopped ({number.name}); the same command goes on" in said.out
    table = said.out[said.out.index("the same command goes on") :]
    assert table.count("interrupted") == max(workers, 1)


@IN_BOTH_WAYS
def test_the_same_command_goes_on_with_what_was_stopped(workers, project):
    project.by_function(GOES_ON, params=PARAMS, before=BEFORE)
    with started(project, workers) as process:
        wait_for_epoch(project, workers)
        process.send_signal(signal.SIGINT)
        project.said(process)
    (project.root / "mended").touch()
    with started(project, workers) as process:
        said = project.said(process)
    assert said.status == 0, said.out + said.err
    assert set(project.statuses().values()) == {"completed"}
    assert [run.attempts for run in project.history().runs] == [2] * max(workers, 1) + [1] * (4 - max(workers, 1))


@IN_BOTH_WAYS
def test_the_second_signal_stops_at_once(workers, project):
    project.by_function((WITH_CHILD if workers else "") + HANGS, params=PARAMS, before=BEFORE)
    with started(project, workers) as process:
        wait_for_epoch(project, workers)
        process.send_signal(signal.SIGINT)
        first_signal_is_taken(project, process)
        process.send_signal(signal.SIGINT)
        said = project.said(process, SOON)
    assert said.status == 130, said.out + said.err
    assert "Traceback" not in said.err + said.out
    assert project.statuses() == dict.fromkeys(range(1, max(workers, 1) + 1), "interrupted")
    assert [len(run.rows) for run in project.history().runs] == [1] * max(workers, 1)
    nothing_is_left(project)


@IN_BOTH_WAYS
def test_another_signal_than_the_first_stops_at_once_too_and_the_first_one_counts(workers, project):
    project.by_function(HANGS, params=PARAMS, before=BEFORE)
    with started(project, workers) as process:
        wait_for_epoch(project, workers)
        process.send_signal(signal.SIGTERM)
        first_signal_is_taken(project, process)
        process.send_signal(signal.SIGINT)
        said = project.said(process, SOON)
    assert said.status == 143
    nothing_is_left(project)


@IN_BOTH_WAYS
def test_an_epoch_that_outlasts_the_grace_period_is_stopped(workers, project):
    project.by_function(HANGS, params=PARAMS, before=BEFORE)
    with started(project, workers, "--grace", "0.7") as process:
        wait_for_epoch(project, workers)
        began = time.monotonic()
        process.send_signal(signal.SIGTERM)
        said = project.said(process, SOON)
    assert time.monotonic() - began > 0.6
    assert said.status == 143
    assert project.statuses() == dict.fromkeys(range(1, max(workers, 1) + 1), "interrupted")
    nothing_is_left(project)


def test_a_run_that_was_killed_after_the_grace_period_says_so(project):
    project.by_function(HANGS, params="{'k': [1]}", before=BEFORE)
    with started(project, 1, "--grace", "0.5") as process:
        wait_for_epoch(project, 1)
        process.send_signal(signal.SIGINT)
        project.said(process)
    (run,) = project.history().runs
    assert run.error == "stopped (SIGINT), and killed 0.50 s after that"


@pytest.mark.parametrize("workers", [pytest.param(0, marks=pytest.mark.long), 2])
def test_ctrl_c_in_a_terminal_reaches_the_whole_group_and_is_one_stop(workers, project):
    project.by_function(GOES_ON, params=PARAMS, before=BEFORE)
    with started(project, workers) as process:
        wait_for_epoch(project, workers)
        os.killpg(process.pid, signal.SIGINT)
        said = project.said(process)
    assert said.status == 130
    for run in project.history().runs:
        assert len(run.rows) == begun(project, run.number)
    nothing_is_left(project)


@IN_BOTH_WAYS
def test_a_signal_between_runs_loses_none(workers, project):
    """Runs of a few milliseconds, so that the signal comes between two of them or in one."""
    project.by_function(
        "m.begin_epoch()\nm.log(v=run.k)\nPath('begun').touch()\nm.end_epoch()",
        params="{'k': list(range(100))}",
        before=BEFORE,
    )
    with started(project, workers) as process:
        project.wait_for("begun")
        process.send_signal(signal.SIGTERM)
        said = project.said(process)
    assert said.status in (0, 143)
    assert set(project.statuses().values()) <= {"completed", "interrupted"}
    with started(project, workers) as process:
        assert project.said(process, 30).status == 0
    assert list(project.statuses().values()) == ["completed"] * 100
    nothing_is_left(project)


def test_a_signal_while_the_sweep_is_being_read_leaves_nothing(project):
    project.by_function("m.log(v=1)", before=f"{BEFORE}\nPath('reading').touch()\ntime.sleep(20)")
    with started(project, 2) as process:
        project.wait_for("reading")
        process.send_signal(signal.SIGINT)
        said = project.said(process)
    assert said.status == 130
    assert "Traceback" not in said.err + said.out
    nothing_is_left(project)


def test_sigterm_while_the_sweep_is_being_read_leaves_nothing(project):
    project.by_function("m.log(v=1)", before=f"{BEFORE}\nPath('reading').touch()\ntime.sleep(20)")
    with started(project, 2) as process:
        project.wait_for("reading")
        process.send_signal(signal.SIGTERM)
        said = project.said(process)
    assert said.status in (143, -signal.SIGTERM)
    nothing_is_left(project)


def test_a_launch_under_nohup_outlives_its_terminal(project, monkeypatch):
    project.by_function(GOES_ON, params="{'k': [1, 2]}", before=BEFORE)
    previous = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # which a process inherits
    try:
        with started(project, 2) as process:
            wait_for_epoch(project, 2)
            process.send_signal(signal.SIGHUP)
            (project.root / "mended").touch()
            said = project.said(process)
    finally:
        signal.signal(signal.SIGHUP, previous)
    assert said.status == 0, said.out + said.err
    assert project.statuses() == {1: "completed", 2: "completed"}


@IN_BOTH_WAYS
def test_when_the_launch_itself_is_killed_no_process_is_left_and_none_is_running(workers, project):
    project.by_function((WITH_CHILD if workers else "") + HANGS, params=PARAMS, before=BEFORE)
    with started(project, workers) as process:
        wait_for_epoch(project, workers)
        process.kill()
        process.wait()
    nothing_is_left(project)
    assert project.statuses() == dict.fromkeys(range(1, max(workers, 1) + 1), "interrupted")
    (project.root / "mended").touch()
    with started(project, workers) as process:
        assert project.said(process).status == 0
    assert set(project.statuses().values()) == {"completed"}


@IN_BOTH_WAYS
def test_a_launch_whose_output_nobody_reads_any_more_still_saves_its_epochs(workers, project):
    """`runmanager launch ... | tee log`: Ctrl-C ends tee first. A terminal that is gone is the same."""
    project.by_function(GOES_ON, params=PARAMS, before=BEFORE)
    with started_afresh(project, workers) as process:
        wait_for_epoch(project, workers)
        process.stdout.close()
        process.stderr.close()
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 130
    nothing_is_left(project)
    for run in project.history().runs:
        assert (run.status, len(run.rows)) == ("interrupted", begun(project, run.number))
