"""What is read back from run folders alone: rows, attempts, and a status that is never optimistic."""

import json
import math
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from runmanager import RunBuilder, RunManager, load_results
from runmanager.parameters import identity
from runmanager.tracking.errors import RunStopped
from runmanager.tracking.history import RunHistory, SweepHistory, read_steps, read_sweep
from runmanager.tracking.journal import encode_line
from runmanager.tracking.rows import STATUSES
from runmanager.tracking.run_dir import SweepDir, run_record


def manager(root: Path) -> RunManager:
    return RunManager("sweep", root=root, tensorboard=False, quiet=True)


def epoch(m: RunManager, **metrics: float) -> None:
    m.begin_epoch()
    m.log(**metrics)
    m.end_epoch()


def history(root: Path) -> SweepHistory:
    return read_sweep(SweepDir(root, "sweep"))


def only(root: Path) -> RunHistory:
    (run,) = history(root).runs
    return run


(RUN,) = RunBuilder.get_runs({"lr": [0.1]})

CHILD = """
import sys
from runmanager import RunBuilder, RunManager
m = RunManager("sweep", root=sys.argv[1], tensorboard=False, quiet=True)
m.begin_run(RunBuilder.get_runs({"lr": [0.1]})[0])
for number in range(1, 100_000):
    m.begin_epoch()
    m.log(x=float(number))
    m.log_step(s=float(number))
    m.end_epoch()
    print(number, flush=True)
    if number == int(sys.argv[2]):
        sys.stdin.read()
"""


@contextmanager
def trainer(root: Path, pause_after: int) -> Iterator["subprocess.Popen[str]"]:
    """A process that trains, tells each epoch that it has recorded, and pauses after one of them."""
    command = [sys.executable, "-c", CHILD, str(root), str(pause_after)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def read_until(process: "subprocess.Popen[str]", number: int) -> None:
    assert process.stdout is not None
    while int(process.stdout.readline()) < number:
        pass


def status_in_table(root: Path) -> str:
    (status,) = load_results(root / "runs" / "sweep", runs=True)["status"]
    return str(status)


def test_a_run_is_running_while_its_process_lives_and_interrupted_once_that_is_killed(tmp_path: Path) -> None:
    with trainer(tmp_path, pause_after=3) as process:
        read_until(process, 3)
        assert only(tmp_path).status == "running"
        assert status_in_table(tmp_path) == "running"
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert only(tmp_path).status == "interrupted"
        assert status_in_table(tmp_path) == "interrupted"


@pytest.mark.parametrize("kill_after", [1, 2, 5, 11, 23])
def test_every_epoch_and_step_whose_call_returned_outlives_sigkill(tmp_path: Path, kill_after: int) -> None:
    with trainer(tmp_path, pause_after=0) as process:
        read_until(process, kill_after)
        process.send_signal(signal.SIGKILL)
        assert process.stdout is not None
        returned = max([kill_after, *(int(line) for line in process.stdout if line.endswith("\n"))])
    numbers = [float(number) for number in range(1, returned + 1)]
    for table, column in (
        (load_results(tmp_path / "runs" / "sweep"), "x"),
        (load_results(tmp_path / "runs" / "sweep", steps=True), "s"),
    ):
        found = table[column].tolist()
        assert found[:returned] == numbers
        assert len(found) <= returned + 1  # one more may have been recorded before its call returned
    run = only(tmp_path)
    assert run.status == "interrupted"
    assert run.rows[-1].metrics["x"] == len(run.rows)


def test_a_run_that_is_launched_again_after_a_kill_shows_one_row_per_epoch(tmp_path: Path) -> None:
    with trainer(tmp_path, pause_after=5) as process:
        read_until(process, 5)
    m = manager(tmp_path)
    m.begin_run(RUN)
    for value in (10.0, 20.0):
        epoch(m, x=value)
    m.end_run()
    m.close()
    run = only(tmp_path)
    assert (run.status, run.attempts) == ("completed", 2)
    assert load_results(tmp_path / "runs" / "sweep")["x"].tolist() == [10.0, 20.0]
    assert load_results(tmp_path / "results" / "sweep.csv")["x"].tolist() == [10.0, 20.0]
    assert load_results(tmp_path / "runs" / "sweep", steps=True)["step"].tolist() == []


def test_a_run_is_completed_failed_or_interrupted_only_by_its_own_word(tmp_path: Path) -> None:
    m = manager(tmp_path)
    one, two, three, four = RunBuilder.get_runs({"lr": [1, 2, 3, 4]})
    with m.tracking(one):
        epoch(m, x=1.0)
    with pytest.raises(ZeroDivisionError), m.tracking(two):
        epoch(m, x=1.0)
        raise ZeroDivisionError("by nought, \ud800")
    with pytest.raises(KeyboardInterrupt), m.tracking(three):
        raise KeyboardInterrupt
    m.begin_run(four)
    m.close()
    runs = history(tmp_path).runs
    assert [run.status for run in runs] == ["completed", "failed", "interrupted", "interrupted"]
    assert "ZeroDivisionError" in (runs[1].error or "")
    assert "raise ZeroDivisionError" in (runs[1].traceback or "")
    assert len(runs[1].rows) == 1
    assert load_results(tmp_path / "runs" / "sweep", runs=True)["status"].tolist() == [run.status for run in runs]


def test_the_end_of_an_earlier_attempt_says_nothing_of_this_one(tmp_path: Path) -> None:
    m = manager(tmp_path)
    with m.tracking(RUN):
        epoch(m, x=1.0)
        m.log(final=1.0)
    second = manager(tmp_path)
    with pytest.raises(ValueError), second.tracking(RUN):
        second.log_step(s=1.0)
        raise ValueError("this time")
    run = only(tmp_path)
    assert (run.status, run.rows, run.metrics, run.attempts) == ("failed", [], {}, 2)


def test_an_attempt_that_recorded_nothing_leaves_the_rows_of_the_one_before_in_view(tmp_path: Path) -> None:
    with manager(tmp_path).tracking(RUN) as m:
        epoch(m, x=1.0)
        m.log(final=1.0)
    with pytest.raises(ValueError), manager(tmp_path).tracking(RUN):
        raise ValueError("this time")
    run = only(tmp_path)
    assert (run.status, run.error, run.attempts) == ("failed", "ValueError: this time", 2)
    assert ([row.metrics["x"] for row in run.rows], run.metrics) == ([1.0], {"final": 1.0})
    assert load_results(tmp_path / "runs" / "sweep")["x"].tolist() == [1.0]
    assert load_results(tmp_path / "results" / "sweep.csv")["x"].tolist() == [1.0]


def test_a_run_with_no_journal_at_all_is_interrupted(tmp_path: Path) -> None:
    sweep_dir = SweepDir(tmp_path, "sweep")
    sweep_dir.make()
    run_dir = sweep_dir.run_dir(1, {"lr": 0.1}, identity({"lr": 0.1}))
    run_dir.make()
    run_dir.write_run(run_record(1, identity({"lr": 0.1}), {"lr": 0.1}, None, 1))
    assert (only(tmp_path).status, only(tmp_path).rows) == ("interrupted", [])


def test_a_lost_end_record_never_reads_as_completed(tmp_path: Path) -> None:
    with manager(tmp_path).tracking(RUN) as m:
        epoch(m, x=1.0)
    (journal,) = tmp_path.glob("runs/sweep/*/journal.jsonl")
    lines = journal.read_bytes().splitlines(keepends=True)
    journal.write_bytes(b"".join(lines[:-1]) + lines[-1].replace(b"completed", b"COMPLETED"))
    assert only(tmp_path).status != "completed"
    assert only(tmp_path).num_bad_lines == 1


@pytest.mark.parametrize(
    "damage", ["both files are gone", "both files are damaged", "journal is a folder", "folder is a file"]
)
def test_a_run_that_cannot_be_read_hides_no_other(tmp_path: Path, damage: str) -> None:
    m = manager(tmp_path)
    for run in RunBuilder.get_runs({"lr": [1, 2, 3]}):
        with m.tracking(run):
            epoch(m, x=float(run.lr))
    m.close()
    second = next((tmp_path / "runs" / "sweep").glob("0002-*"))
    if damage == "both files are gone":
        (second / "run.json").unlink()
        (second / "journal.jsonl").unlink()
    elif damage == "both files are damaged":
        (second / "run.json").write_text('{"params": 3')
        (second / "journal.jsonl").write_text('{"seq": 1')
    elif damage == "journal is a folder":
        (second / "journal.jsonl").unlink()
        (second / "journal.jsonl").mkdir()
    else:
        for file in second.iterdir():
            file.unlink()
        second.rmdir()
        second.write_text("in the way")
    for table in (tmp_path / "results").iterdir():
        table.unlink()
    assert [run.number for run in history(tmp_path).runs if run.rows] == [1, 3]
    assert load_results(tmp_path / "runs" / "sweep")["x"].tolist() == [1.0, 3.0]


def test_nan_and_infinite_losses_are_recorded_and_are_never_the_best(tmp_path: Path) -> None:
    m = manager(tmp_path)
    losses = {1: [math.nan, 0.5, math.inf], 2: [-math.inf, math.nan], 3: [0.25, math.nan]}
    for run in RunBuilder.get_runs({"lr": [1, 2, 3]}):
        m.begin_run(run)
        for loss in losses[run.lr]:
            m.begin_epoch()
            m.track_loss(loss, batch=[0, 0])
            m.end_epoch()
        m.end_run()
    m.close()
    runs = history(tmp_path).runs
    assert [list(map(repr, (row.loss for row in run.rows))) for run in runs] == [
        list(map(repr, each)) for each in losses.values()
    ]
    assert [run.best["loss"].value if run.best else None for run in runs] == [0.5, None, 0.25]
    assert [run.number for run in history(tmp_path).ranked("loss")] == [3, 1]
    frame = load_results(tmp_path / "runs" / "sweep")
    assert list(map(repr, frame["loss"].tolist())) == [repr(loss) for each in losses.values() for loss in each]
    table = load_results(tmp_path / "runs" / "sweep", runs=True)
    assert table["best loss"].tolist()[0::2] == [0.5, 0.25]
    assert math.isnan(table["best loss"][1])
    rows = json.loads((tmp_path / "results" / "sweep.json").read_text(), parse_constant=pytest.fail)
    assert [row["loss"] for row in rows] == ["NaN", 0.5, "Infinity", "-Infinity", "NaN", 0.25, "NaN"]


def test_a_run_with_only_its_own_infinite_metric_is_not_ranked(tmp_path: Path) -> None:
    m = manager(tmp_path)
    for run, score in zip(RunBuilder.get_runs({"lr": [1, 2, 3]}), (math.inf, 5.0, math.nan), strict=True):
        with m.tracking(run):
            m.log(score=score)
    m.close()
    assert [run.number for run in history(tmp_path).ranked("score")] == [2]


def test_the_objective_of_the_plan_decides_which_way_is_better(tmp_path: Path) -> None:
    sweep_dir = SweepDir(tmp_path, "sweep")
    sweep_dir.make()
    sweep_dir.write_plan({"objective": "reward_loss", "mode": "max"})
    m = manager(tmp_path)
    for run in RunBuilder.get_runs({"lr": [1, 2]}):
        with m.tracking(run):
            epoch(m, reward_loss=float(run.lr))
            epoch(m, reward_loss=run.lr / 2)
    m.close()
    best = history(tmp_path).best
    assert best is not None
    assert (best.number, best.best["reward_loss"].value) == (2, 2.0)
    assert load_results(tmp_path / "runs" / "sweep", runs=True)["best reward_loss"].tolist() == [1.0, 2.0]


def test_a_damaged_plan_hides_no_run(tmp_path: Path) -> None:
    with manager(tmp_path).tracking(RUN) as m:
        epoch(m, x=1.0)
    for text in ('{"objective": "x", "mo', "[]", "null"):
        (tmp_path / "runs" / "sweep" / "sweep.json").write_text(text)
        assert [row.metrics for row in only(tmp_path).rows] == [{"x": 1.0}]


def test_steps_are_those_of_the_latest_attempt_in_their_order(tmp_path: Path) -> None:
    for value in (1.0, 2.0):
        m = manager(tmp_path)
        m.begin_run(RUN)
        m.log_step(s=value)
        m.begin_epoch()
        m.log_step(s=value + 0.5, t=1)
        m.log(x=1.0)
        m.end_epoch()
        m.end_run()
        m.close()
    (run_dir,) = SweepDir(tmp_path, "sweep").runs()
    assert [(step.epoch, step.step, step.scalars) for step in read_steps(run_dir)] == [
        (None, 1, {"s": 2.0}),
        (1, 2, {"s": 2.5, "t": 1}),
    ]


def cut_off(root: Path, num_epochs: int) -> None:
    """A run that went on from its last state for so many epochs in all, and was cut off in the next."""
    m = manager(root)
    m.begin_run(RUN)
    m.load_checkpoint()
    while m.num_epochs < num_epochs:
        m.begin_epoch()
        m.log_step(s=float(m.num_epochs + 1))
        m.log(x=float(m.num_epochs + 1))
        m.end_epoch(checkpoint={"epoch": m.num_epochs + 1})
    m.begin_epoch()
    m.log_step(s=-1.0)
    m.close()


def test_of_a_run_that_went_on_several_times_each_epoch_step_and_state_counts_once(tmp_path: Path) -> None:
    for num_epochs in (2, 3, 3, 5):
        cut_off(tmp_path, num_epochs)
    run = only(tmp_path)
    assert [row.metrics["x"] for row in run.rows] == [1, 2, 3, 4, 5]
    assert [record["epoch"] for record in run.checkpoints] == [1, 2, 3, 4, 5]
    assert (run.status, run.attempts, run.best["x"].value) == ("interrupted", 4, 5)
    (run_dir,) = SweepDir(tmp_path, "sweep").runs()
    assert [step.scalars["s"] for step in read_steps(run_dir)] == [1, 2, 3, 4, 5, -1]


@pytest.mark.parametrize("first", ["nothing", "a log", "a step"])
def test_metrics_before_and_after_a_resume_are_those_of_the_states_time(tmp_path: Path, first: str) -> None:
    m = manager(tmp_path)
    m.begin_run(RUN)
    m.log(early=1)
    m.begin_epoch()
    m.log(x=1.0)
    m.end_epoch(checkpoint={"epoch": 1})
    m.log(late=1)
    m.close()
    m = manager(tmp_path)
    m.begin_run(RUN)
    m.load_checkpoint()
    if first == "a log":
        m.log(then=2)
    if first == "a step":
        m.log_step(s=1.0)
    m.close()
    run = only(tmp_path)
    assert run.metrics == ({"early": 1, "then": 2} if first == "a log" else {"early": 1})
    assert run.last["x"] == 1.0
    assert len(run.rows) == 1


def test_every_status_that_is_recorded_is_read_back(tmp_path: Path) -> None:
    m = manager(tmp_path)
    for number, status in enumerate(STATUSES):
        with pytest.raises(RunStopped), m.tracking(RunBuilder.get_runs({"lr": [number]})[0]):
            raise RunStopped(status, "so")
    recorded = [run.status for run in history(tmp_path).runs]
    assert recorded == list(STATUSES) or recorded == [s if s != "running" else "interrupted" for s in STATUSES]


def test_a_run_of_another_machine_is_running_while_it_gives_signs(tmp_path: Path) -> None:
    m = manager(tmp_path)
    m.begin_run(RUN)
    epoch(m, x=1.0)
    (run_dir,) = SweepDir(tmp_path, "sweep").runs()
    journal = run_dir.path / "journal.jsonl"
    records = [
        {**record, "owner": {**record["owner"], "host": "gpu-box"}} if "owner" in record else record
        for record in run_dir.read_journal().records
    ]
    m.close()
    for record in records:
        del record["crc"]
    journal.write_bytes(b"".join(map(encode_line, records)))
    assert only(tmp_path).status == "running"
    long_ago = journal.stat().st_mtime - 10_000
    os.utime(journal, (long_ago, long_ago))
    assert only(tmp_path).status == "interrupted"
    assert only(tmp_path).last_sign == pytest.approx(long_ago)
    run_dir.heartbeat.touch()
    assert only(tmp_path).status == "running"
