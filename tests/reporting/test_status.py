"""`runmanager status`: what is done, under way, broken off, and for how much longer."""

import io
import os
import resource
import signal
import subprocess
import sys

import pytest
from rich.console import Console

from runmanager.reporting.status import age_text, print_status
from runmanager.tracking.owner import this_process
from runmanager.tracking.rows import STATUSES
from tests.reporting.sweep_on_disk import SweepOnDisk
from tests.tensorboard_server import until

ALIVE = this_process()


def status_of(*sweeps, width=None):
    """The lines of the status, in a pipe or in a terminal of this width."""
    file = io.StringIO()
    console = Console(file=file, width=width, force_terminal=width is not None, color_system=None)
    print_status([sweep.history() for sweep in sweeps], console)
    return file.getvalue().splitlines()


def line_of(number, *sweeps, width=None):
    (line,) = [line for line in status_of(*sweeps, width=width) if f" run {number} " in line]
    return line


def test_every_status_that_occurs_is_counted_and_every_run_that_is_not_completed_has_a_line(tmp_path):
    sweep = SweepOnDisk(tmp_path, numbers=11)
    for number, status in enumerate(STATUSES, start=1):
        recorded = None if status in ("running", "interrupted") else status
        sweep.run(
            number,
            {"lr": number},
            recorded,
            owner=ALIVE if status == "running" else {},
            epochs=1,
            began=400,
            last_sign=400,
        )
    header, counts, *lines = status_of(sweep)
    assert " ".join(header.split()) == f"sweep runs {' '.join(STATUSES)} missing best left"
    assert (
        " ".join(counts.split()) == "toy 11 1 1 1 1 1 1 1 1 1 2 val_loss 2 (run 1) about 3.00 s"
    )  # 2 missing, 1 interrupted
    assert len(lines) == 8
    for number, status in list(enumerate(STATUSES, start=1))[1:]:
        assert f"toy run {number}  {status}" in " ".join(lines)


def test_a_sweep_that_is_done_is_one_line(tmp_path):
    sweep = SweepOnDisk(tmp_path)
    sweep.run(1, {"lr": 1}, epochs=2)
    assert [line.split() for line in status_of(sweep)] == [
        ["sweep", "runs", "completed", "best"],
        ["toy", "1", "1", "val_loss", "1.5", "(run", "1)"],
    ]


def test_a_run_under_way_tells_its_progress_its_owner_its_age_and_the_time_left(tmp_path):
    sweep = SweepOnDisk(tmp_path, epochs=10)
    sweep.run(1, {"lr": 0.1, "size": 3}, epochs=1)
    sweep.run(2, {"lr": 0.2, "size": 3}, None, owner=ALIVE, epochs=4, epoch_seconds=60, began=300, last_sign=59.9)
    line = line_of(2, sweep)
    assert line.startswith("toy run 2  running  lr=0.2  epoch 4/10 · about 5:0")  # six epochs of 60 s, but for 60 s
    assert f"pid {os.getpid()}" in line
    assert "began 5 min ago, last sign 59 s ago" in line or "last sign 1 min ago" in line


def test_a_run_of_a_function_is_expected_to_take_as_long_as_the_others_did(tmp_path):
    sweep = SweepOnDisk(tmp_path)
    sweep.run(1, {"lr": 0.1}, epochs=2, epoch_seconds=100)
    sweep.run(2, {"lr": 0.2}, None, owner=ALIVE, epochs=1, began=50)
    assert "epoch 1 · about 2:30 left" in line_of(2, sweep)


def test_nothing_is_said_of_the_time_left_while_nothing_tells(tmp_path):
    sweep = SweepOnDisk(tmp_path)
    sweep.run(1, {"lr": 0.1}, None, owner=ALIVE, began=50)
    lines = status_of(sweep)
    assert "left" not in " ".join(lines)
    assert lines[1].split() == ["toy", "1", "1"]


def test_the_sweep_takes_what_is_under_way_missing_and_interrupted_by_as_many_at_once_as_there_are(tmp_path):
    sweep = SweepOnDisk(tmp_path, epochs=10, numbers=8)
    sweep.run(1, {"lr": 1}, epochs=10, epoch_seconds=10)
    sweep.run(2, {"lr": 2}, None, owner=ALIVE, epochs=5, epoch_seconds=10)  # 50 s left
    sweep.run(3, {"lr": 3}, None, owner=ALIVE, epochs=5, epoch_seconds=10)  # 50 s left
    sweep.run(4, {"lr": 4}, None, epochs=5, epoch_seconds=10, saved=(4,))  # 60 s of 100
    sweep.run(5, {"lr": 5}, "failed", error="it is not tried again by itself")
    assert status_of(sweep)[1].endswith("about 3:50")  # (50 + 50 + 60 + 3 * 100) / 2


def test_the_sweep_takes_at_least_as_long_as_its_longest_run(tmp_path):
    sweep = SweepOnDisk(tmp_path, epochs=10)
    sweep.run(1, {"lr": 1}, None, owner=ALIVE, epochs=1, epoch_seconds=100)
    sweep.run(2, {"lr": 2}, None, owner=ALIVE, epochs=9, epoch_seconds=1)
    assert status_of(sweep)[1].endswith("about 15:00")


def test_a_sweep_that_nobody_trains_has_no_time_left(tmp_path):
    sweep = SweepOnDisk(tmp_path, numbers=3)
    sweep.run(1, {"lr": 1}, epochs=1)
    sweep.run(2, {"lr": 2}, None)
    assert "about" not in " ".join(status_of(sweep))


def test_an_interrupted_run_tells_where_it_goes_on(tmp_path):
    sweep = SweepOnDisk(tmp_path, epochs=10)
    sweep.run(1, {"lr": 1}, None, epochs=5, saved=(2, 4))
    sweep.run(2, {"lr": 2}, None, epochs=5)
    assert line_of(1, sweep).endswith("interrupted  lr=1  epoch 5/10 · goes on after epoch 4")
    assert line_of(2, sweep).endswith("interrupted  lr=2  epoch 5/10")


def test_a_failed_run_tells_how_often_it_was_tried_and_the_last_line_of_its_error(tmp_path):
    sweep = SweepOnDisk(tmp_path)
    sweep.run(1, {"lr": 1}, "failed", epochs=3, attempts=2, error="first line\nValueError: \x1b[31mno good\n")
    assert line_of(1, sweep) == "toy run 1  failed  lr=1  epoch 3 · tried 2 times · ValueError: ·[31mno good"


def test_a_line_is_cut_to_the_terminal_and_whole_in_a_pipe(tmp_path):
    sweep = SweepOnDisk(tmp_path)
    sweep.run(1, {"lr": 1}, "failed", error="ValueError: " + "x" * 500)
    assert len(line_of(1, sweep, width=60)) == 60
    assert line_of(1, sweep, width=60).endswith("…")
    assert "x" * 500 in line_of(1, sweep)


def test_damage_is_told(tmp_path):
    sweep = SweepOnDisk(tmp_path)
    run_dir = sweep.run(1, {"lr": 1}, "diverged", epochs=2)
    journal = run_dir.path / "journal.jsonl"
    journal.write_bytes(journal.read_bytes().replace(b'"epoch":1', b'"epoch":7'))
    assert "1 damaged line in its journal" in line_of(1, sweep)


def test_a_run_of_another_machine_names_it(tmp_path):
    sweep = SweepOnDisk(tmp_path)
    sweep.run(1, {"lr": 1}, None, owner={"host": "gpu-box", "pid": 12, "boot": "x", "pids": "", "started": 1})
    assert "running" in line_of(1, sweep) and "pid 12 on gpu-box" in line_of(1, sweep)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(-5, "0 s"), (59.9, "59 s"), (60, "1 min"), (3599, "59 min"), (7500, "2 h 5 min"), (4 * 86400 + 3700, "4 d 1 h")],
)
def test_an_age_is_told_in_the_units_of_people(seconds, text):
    assert age_text(seconds) == text


def test_a_thousand_runs_are_shown_in_half_a_second(tmp_path):
    sweep = SweepOnDisk(tmp_path, numbers=1200)
    for number in range(1, 1001):
        sweep.run(number, {"lr": number / 7, "size": number % 5}, None if number % 3 else "completed", epochs=3)
    command = [sys.executable, "-m", "runmanager", "status", "toy"]
    times = []
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        said = subprocess.check_output(command, cwd=tmp_path, text=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        times.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    assert len(said.splitlines()) == 2 + 667
    assert min(times) < 0.5  # of the processor, since other tests may be running


SLOW = "for epoch in range(4000):\n    m.begin_epoch()\n    time.sleep(0.05)\n    m.log(val_loss=run.lr)\n    m.end_epoch()"


def test_a_real_launch_is_seen_from_another_process_and_so_is_its_death(project):
    project.by_function(SLOW, before="import time", params="{'lr': [0.1, 0.2, 0.3]}", sweep="objective='val_loss'")
    command = [sys.executable, "-m", "runmanager", "launch", "tiny", "--workers", "2", "-q", "--no-tensorboard"]
    launch = subprocess.Popen(command, cwd=project.root, env=project.environment())
    try:

        def two_under_way():
            lines = project.process("status", "tiny").out.splitlines()
            shown = [line for line in lines if " running " in line and "epoch " in line]
            return shown if len(shown) == 2 else None

        first, second = until(two_under_way)
        assert "tiny run 1  running  lr=0.1  epoch " in first
        assert "tiny run 2  running  lr=0.2  epoch " in second
        pids = {int(line.partition("pid ")[2].split()[0]) for line in (first, second)}
        assert len(pids) == 2 and launch.pid not in pids
        assert all(f"tiny run {number} " not in project.process("status").out for number in (3,))  # it is missing
    finally:
        launch.send_signal(signal.SIGKILL)
        launch.wait()
    said = until(lambda: said if " running" not in (said := project.process("status", "tiny").out) else None)
    assert "tiny run 1  interrupted  lr=0.1" in said and "tiny run 2  interrupted  lr=0.2" in said


def test_a_folder_that_cannot_be_read_is_named_and_hides_no_other(tmp_path):
    sweep = SweepOnDisk(tmp_path)
    sweep.run(1, {"lr": 1}, "failed", error="why")
    broken = sweep.run(2, {"lr": 2}).path
    (broken / "run.json").write_text("{")
    (broken / "journal.jsonl").unlink()
    lines = status_of(sweep)
    assert lines[-1] == f"toy: {broken.name} cannot be read: neither its run.json nor its journal says who it is"
    assert "toy run 1  failed" in lines[-2]
