"""The clock on the wall jumps by hours and years, in every process: no duration, no deadline and no status follows it."""

import csv
import itertools
import json
import time

import pytest

JUMPING = """\
import random
import time

_real, _draw = time.time, random.Random()
_jumps = [0.0, -3_600.0, 86_400.0, -30 * 365.25 * 86_400.0]
time.time = lambda: _real() + _draw.choice(_jumps)
time.time_ns = lambda: int(time.time() * 1e9)
"""
BODY = """\
began = time.perf_counter()
Path(f"clock-{run.kind}").write_text(str([time.time() for _ in range(100)]))
for epoch in range(4):
    m.begin_epoch()
    begun = time.perf_counter()
    time.sleep(0.1)
    if run.kind == "failing" and epoch == 2:
        raise ValueError("no luck")
    if run.kind == "dying" and epoch == 2:
        os.kill(os.getpid(), 9)
    if run.kind == "hung" and epoch == 2:
        time.sleep(1e9)
    m.log(true_epoch=time.perf_counter() - begun, true_run=time.perf_counter() - began)
    m.end_epoch()
    Path(f"seconds-{run.kind}").write_text(str(time.perf_counter() - began))
"""
BEFORE = "import os\nimport time\nfrom pathlib import Path"
KINDS = {
    "calm": ("completed", 4),
    "hung": ("timed out", 2),
    "failing": ("failed", 2),
    "dying": ("killed", 2),
    "calm too": ("completed", 4),
}
RUN_TIMEOUT = 2.0
BUSY = 15.0  # seconds that a busy machine may take between two lines; the clock jumps by an hour at least


@pytest.fixture
def jumping(project, monkeypatch):
    """A project whose processes have a clock that jumps each time that it is read."""
    shim = project.root.parent / "shim"
    shim.mkdir()
    (shim / "sitecustomize.py").write_text(JUMPING)
    monkeypatch.setenv("PYTHONPATH", str(shim))
    return project


def is_true(recorded, true, more=BUSY):
    """A duration that was recorded beside one that was measured within it."""
    return 0.9 * true - 0.01 <= recorded <= true + more


def test_durations_deadlines_statuses_and_the_order_of_rows_do_not_follow_the_clock(jumping):
    jumping.by_function(BODY, before=BEFORE, params=f"{{'kind': {list(KINDS)}}}")
    options = ("--run-timeout", str(RUN_TIMEOUT), "--epoch-timeout", "100", "--sweep-timeout", "1000")
    said = jumping.process("launch", "tiny", "--workers", "2", *options)
    runs = jumping.history().runs
    seen = json.loads((jumping.root / "clock-calm").read_text())
    assert max(seen) - min(seen) > 30 * 365 * 86_400  # or the shim is not in the workers
    assert {run.params["kind"]: (run.status, len(run.rows)) for run in runs} == KINDS
    assert said.status == 1
    for run in runs:
        assert [row.epoch for row in run.rows] == list(range(1, len(run.rows) + 1))
        for row in run.rows:
            assert is_true(row.epoch_seconds, row.metrics["true_epoch"])
            assert is_true(row.run_seconds, row.metrics["true_run"])
    seconds = {run.params["kind"]: run.run_seconds for run in runs}
    for kind in ("calm", "calm too"):
        assert is_true(seconds[kind], float((jumping.root / f"seconds-{kind}").read_text()))
    assert is_true(seconds["failing"], 0.3)
    assert 0.2 <= seconds["dying"] <= 0.3 + BUSY  # that the driver tells, who looks ten times a second
    assert RUN_TIMEOUT <= seconds["hung"] <= RUN_TIMEOUT + BUSY


def test_the_tables_and_the_command_that_shows_them_stand_the_clock(jumping):
    jumping.by_function(BODY, before=BEFORE, params="{'kind': ['calm', 'calm too', 'failing']}")
    assert jumping.process("launch", "tiny", "--workers", "3", "-q", "--no-tensorboard").status == 1
    with open(jumping.root / "results" / "tiny.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        assert is_true(float(row["epoch duration"]), float(row["true_epoch"]))
        assert is_true(float(row["run duration"]), float(row["true_run"]))
    for kind in ("calm", "calm too"):
        assert [row["epoch"] for row in rows if row["kind"] == kind] == ["1", "2", "3", "4"]
    status = jumping.process("status", "tiny")
    assert status.status == 0
    assert "failed" in status.out and "-1" not in status.out and "-3" not in status.out


def test_a_run_that_is_taken_up_again_counts_its_seconds_on(project, monkeypatch):
    body = (
        "state = m.load_checkpoint()\n"
        "for epoch in range(m.num_epochs, 4):\n"
        "    m.begin_epoch()\n"
        "    time.sleep(0.1)\n"
        "    m.log(x=epoch)\n"
        "    m.end_epoch(checkpoint={'epoch': epoch})\n"
        "    if epoch == 1 and state is None:\n"
        "        raise ValueError('no luck')"
    )
    project.by_function(body, before=BEFORE, params="{'k': [1]}")
    clock, jumps = time.time, itertools.cycle([0.0, -3_600.0, 86_400.0, -30 * 365.25 * 86_400.0])
    monkeypatch.setattr(time, "time", lambda: clock() + next(jumps))
    (run,) = project.launch(retries=1).runs
    assert (run.status, run.attempts) == ("completed", 2)
    assert all(is_true(row.epoch_seconds, 0.1) for row in run.rows)
    assert [row.run_seconds for row in run.rows] == sorted(row.run_seconds for row in run.rows)
    assert is_true(run.run_seconds, sum(row.epoch_seconds for row in run.rows), more=60)  # it imports torch to save


def test_two_launches_with_clocks_of_their_own_share_a_sweep(jumping):
    """Each sees the other's owner by its process, not by its last sign of life."""
    jumping.by_function(BODY, before=BEFORE, params="{'kind': ['calm', 'calm too', 'calm as well']}")
    words = ("launch", "tiny", "--workers", "1", "-q", "--no-tensorboard")
    with jumping.started(*words) as one, jumping.started(*words) as other:
        said = jumping.said(one), jumping.said(other)
    assert [one.status for one in said] == [0, 0], said
    runs = jumping.history().runs
    assert [(run.status, run.attempts, len(run.rows)) for run in runs] == [("completed", 1, 4)] * 3
