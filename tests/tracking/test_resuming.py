"""A run that goes on where it was cut off: nothing lost but the epoch under way, nothing counted twice."""

import math
import os
import random
import signal
import subprocess
import sys
import textwrap
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

from runmanager import RunBuilder, RunManager, load_results
from runmanager.tracking.errors import CallOrderError, CheckpointError, StorageError
from runmanager.tracking.history import RunHistory, read_steps, read_sweep
from runmanager.tracking.run_dir import RunDir, SweepDir
from tests.processes import in_child

RUN, OTHER = RunBuilder.get_runs({"lr": [0.1, 0.2]})


def manager(root: Path, **options: Any) -> RunManager:
    return RunManager("sweep", root=root, tensorboard=False, quiet=True, **options)


def epoch(m: RunManager, checkpoint: Any = None, **metrics: float) -> None:
    m.begin_epoch()
    m.log_step(s=float(m.num_epochs + 1))
    m.log(**(metrics or {"x": float(m.num_epochs + 1)}))
    m.end_epoch(checkpoint={"done": m.num_epochs + 1} if checkpoint is None else checkpoint)


def interrupted(root: Path, num_epochs: int, **options: Any) -> RunDir:
    """A run that went on from wherever it was, for so many epochs in all, and was cut off in the next."""
    m = manager(root, **options)
    m.begin_run(RUN)
    m.load_checkpoint()
    while m.num_epochs < num_epochs:
        epoch(m)
    m.begin_epoch()
    m.log_step(s=-1.0)
    m.log(x=-1.0)
    m.close()
    (run_dir,) = SweepDir(root, "sweep").runs()
    return run_dir


def only(root: Path) -> RunHistory:
    (run,) = read_sweep(SweepDir(root, "sweep")).runs
    return run


def states(run_dir: RunDir) -> list[int]:
    """The epochs whose states are kept."""
    return sorted(int(name[6:10]) for name in os.listdir(run_dir.checkpoints))


def damage(run_dir: RunDir, *epochs: int) -> None:
    for number in epochs:
        file = run_dir.checkpoints / f"epoch-{number:04d}.pt"
        data = bytearray(file.read_bytes())
        data[len(data) // 2] ^= 1
        file.write_bytes(data)


# By hand, in a script that is killed


SCRIPT = """
import os, signal, sys
from runmanager import RunBuilder, RunManager
m = RunManager("sweep", root=sys.argv[1], tensorboard=False, quiet=True)
weights = 0
if "saves" in sys.argv:
    import torch
    weights = torch.zeros(1)
m.begin_run(RunBuilder.get_runs({"lr": [0.1]})[0])
state = m.load_checkpoint() if "loads" in sys.argv else None
if state:
    weights = state["weights"]
for epoch in range(m.num_epochs + 1, 6):
    m.begin_epoch()
    m.log_step(s=float(epoch))
    weights += epoch
    m.log(x=float(weights))
    if str(epoch) in sys.argv:
        os.kill(os.getpid(), signal.SIGKILL)
    print(epoch, flush=True)
    m.end_epoch(checkpoint={"weights": weights} if "saves" in sys.argv else None)
m.end_run()
"""


def run_script(root: Path, *words: str) -> list[int]:
    """The epochs that the script trains before it ends or is killed."""
    done = subprocess.run([sys.executable, "-c", SCRIPT, str(root), *words], capture_output=True, text=True)
    assert done.returncode in (0, -signal.SIGKILL), done.stderr
    return [int(line) for line in done.stdout.split()]


def test_a_script_that_is_killed_in_epoch_3_and_run_again_goes_on_with_epoch_3(tmp_path: Path) -> None:
    assert run_script(tmp_path, "loads", "saves", "3") == [1, 2]
    assert only(tmp_path).status == "interrupted"
    assert run_script(tmp_path, "loads", "saves") == [3, 4, 5]
    run = only(tmp_path)
    assert (run.status, run.attempts) == ("completed", 2)
    assert [(row.epoch, row.metrics["x"]) for row in run.rows] == [(1, 1), (2, 3), (3, 6), (4, 10), (5, 15)]
    assert load_results(tmp_path / "results" / "sweep.csv")["x"].tolist() == [1, 3, 6, 10, 15]


def test_a_script_that_saves_no_state_begins_again_with_epoch_1(tmp_path: Path) -> None:
    assert run_script(tmp_path, "loads", "3") == [1, 2]
    assert run_script(tmp_path, "loads") == [1, 2, 3, 4, 5]
    assert load_results(tmp_path / "runs" / "sweep")["epoch"].tolist() == [1, 2, 3, 4, 5]
    assert load_results(tmp_path / "results" / "sweep.csv")["epoch"].tolist() == [1, 2, 3, 4, 5]


def test_a_script_that_does_not_load_begins_again_with_epoch_1(tmp_path: Path) -> None:
    interrupted(tmp_path, 2)
    m = manager(tmp_path)
    m.begin_run(RUN)
    for value in (10.0, 20.0, 30.0):
        epoch(m, x=value)
    m.end_run()
    m.close()
    assert [(row.epoch, row.metrics["x"]) for row in only(tmp_path).rows] == [(1, 10), (2, 20), (3, 30)]
    assert load_results(tmp_path / "results" / "sweep.csv")["x"].tolist() == [10.0, 20.0, 30.0]


# What goes on


def test_after_any_number_of_interruptions_each_epoch_and_step_is_there_once(tmp_path: Path) -> None:
    for num_epochs in (1, 1, 2, 4, 4, 7):
        run_dir = interrupted(tmp_path, num_epochs)
    m = manager(tmp_path)
    with m.tracking(RUN):
        assert m.load_checkpoint() == {"done": 7}
        epoch(m)
    m.close()
    run = only(tmp_path)
    assert (run.status, run.attempts) == ("completed", 7)
    assert [(row.epoch, row.metrics["x"]) for row in run.rows] == [(number, number) for number in range(1, 9)]
    assert [(one.epoch, one.step, one.scalars["s"]) for one in read_steps(run_dir)] == [(n, n, n) for n in range(1, 9)]
    for table in ("runs/sweep", "results/sweep.csv"):
        assert load_results(tmp_path / table)["epoch"].tolist() == list(range(1, 9))
    assert load_results(tmp_path / "runs" / "sweep", runs=True)["epochs trained"].tolist() == [8]
    assert m.run_data[0]["epoch"] == 1 and len(m.run_data) == 8


def test_the_manager_knows_where_it_is(tmp_path: Path) -> None:
    interrupted(tmp_path, 3)
    m = manager(tmp_path)
    m.begin_run(RUN)
    assert m.num_epochs == 0
    assert m.load_checkpoint() == {"done": 3}
    assert m.num_epochs == 3
    assert [row["epoch"] for row in m.run_data] == [1, 2, 3]
    m.end_run()
    m.begin_run(OTHER)
    assert (m.num_epochs, m.load_checkpoint()) == (0, None)
    m.close()


def test_the_runs_own_metrics_go_on_and_those_after_the_state_do_not(tmp_path: Path) -> None:
    m = manager(tmp_path)
    m.begin_run(RUN)
    m.log(num_parameters=7)
    epoch(m)
    m.log(too_late=1.0)
    m.close()
    m = manager(tmp_path)
    with m.tracking(RUN):
        m.load_checkpoint()
        m.log(test=0.5)
    m.close()
    assert only(tmp_path).metrics == {"num_parameters": 7, "test": 0.5}
    table = load_results(tmp_path / "runs" / "sweep", runs=True)
    assert (table["num_parameters"].tolist(), table["test"].tolist()) == ([7], [0.5])


@pytest.mark.parametrize("mode", ["min", "max"])
def test_the_best_so_far_goes_on(tmp_path: Path, mode: str) -> None:
    sweep_dir = SweepDir(tmp_path, "sweep")
    sweep_dir.make()
    sweep_dir.write_plan({"objective": "x", "mode": mode})
    values = [5.0, 1.0, 9.0, 4.0]
    for attempt in (values[:3], values[3:]):
        m = manager(tmp_path)
        m.begin_run(RUN)
        m.load_checkpoint()
        for value in attempt:
            epoch(m, x=value)
        m.close()
    best = {"min": (1.0, 2), "max": (9.0, 3)}[mode]
    (row,) = load_results(tmp_path / "results" / "sweep.csv").iloc[-1:].to_dict("records")
    assert row["x"] == 4.0
    run = only(tmp_path)
    assert (run.best["x"].value, run.best["x"].epoch) == best
    (run_dir,) = sweep_dir.runs()
    assert best[1] in states(run_dir)


def test_the_runs_clock_goes_on_and_leaves_out_the_time_between(tmp_path: Path, monkeypatch) -> None:
    import time

    now = 100.0
    monkeypatch.setattr(time, "perf_counter", lambda: now)
    m = manager(tmp_path)
    m.begin_run(RUN)
    for _ in range(2):
        now += 10.0
        epoch(m)
    now += 5.0  # lost with the epoch under way
    m.close()
    now += 1e6
    m = manager(tmp_path)
    m.begin_run(RUN)
    m.load_checkpoint()
    now += 10.0
    epoch(m)
    m.end_run()
    m.close()
    assert [row.run_seconds for row in only(tmp_path).rows] == [10.0, 20.0, 30.0]
    assert only(tmp_path).run_seconds == 30.0


# Bit-equal


def train(root: Path, stop_after: int | None, num_epochs: int = 4) -> tuple[list[float], list[Any]]:
    """Losses and weights of a training with dropout, momentum, shuffling and numbers of Python's own."""
    torch.manual_seed(3)
    random.seed(3)
    network = torch.nn.Sequential(
        torch.nn.Linear(4, 8), torch.nn.BatchNorm1d(8), torch.nn.Dropout(), torch.nn.Linear(8, 1)
    )
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, 2)
    inputs = torch.rand(40, 4, generator=torch.Generator().manual_seed(0))
    parts = {"network": network, "optimizer": optimizer, "schedule": schedule}
    m = manager(root)
    m.begin_run(RUN)
    for name, state in (m.load_checkpoint() or {}).items():
        parts[name].load_state_dict(state)
    while m.num_epochs < num_epochs:
        m.begin_epoch()
        for batch in inputs[torch.randperm(40)].split(10):
            loss = ((network(batch) - batch.sum(1, keepdim=True)) ** 2).mean() * random.random()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            m.track_loss(loss, batch)
        schedule.step()
        m.end_epoch(checkpoint=lambda: {name: part.state_dict() for name, part in parts.items()})
        if m.num_epochs == stop_after:
            m.close()
            return [], []
    m.end_run()
    m.close()
    return [row.loss for row in only(root).rows if row.loss], [
        value.tolist() for value in network.state_dict().values()
    ]


def test_a_run_that_is_stopped_at_any_epoch_and_resumed_is_bit_equal_to_one_that_was_not(tmp_path: Path) -> None:
    whole = train(tmp_path / "whole", None)
    assert len(whole[0]) == 4
    for stop_after in (1, 2, 3):
        root = tmp_path / str(stop_after)
        train(root, stop_after)
        torch.rand(7), random.random()  # whatever else the process did
        assert train(root, None) == whole


# What cannot be loaded


def test_a_damaged_state_is_told_and_the_one_before_is_taken_up(tmp_path: Path) -> None:
    run_dir = interrupted(tmp_path, 4)
    damage(run_dir, 4)
    m = manager(tmp_path)
    m.begin_run(RUN)
    with pytest.warns(RuntimeWarning, match=r"epoch-0004\.pt.*checksum.*goes on from epoch 3"):
        assert m.load_checkpoint() == {"done": 3}
    assert m.num_epochs == 3
    for _ in range(2):
        epoch(m)
    m.end_run()
    m.close()
    assert [row.epoch for row in only(tmp_path).rows] == [1, 2, 3, 4, 5]
    assert [one.step for one in read_steps(run_dir)] == [1, 2, 3, 4, 5]


def test_where_no_state_can_be_loaded_the_run_is_not_silently_begun_again(tmp_path: Path) -> None:
    run_dir = interrupted(tmp_path, 3)
    damage(run_dir, *states(run_dir))
    m = manager(tmp_path)
    with pytest.raises(CheckpointError, match=r"epoch-0003\.pt.*[Dd]elete its folder"), m.tracking(RUN):
        m.load_checkpoint()
    m.close()
    run = only(tmp_path)
    assert run.status == "failed" and "CheckpointError" in (run.error or "")
    assert len(run.rows) == 3
    for path in sorted(run_dir.path.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    run_dir.path.rmdir()
    m = manager(tmp_path)
    with m.tracking(RUN):
        assert m.load_checkpoint() is None
        epoch(m)
    m.close()
    assert only(tmp_path).status == "completed"


def test_states_that_somebody_deleted_are_an_error_that_names_the_last(tmp_path: Path) -> None:
    run_dir = interrupted(tmp_path, 2)
    for file in run_dir.checkpoints.iterdir():
        file.unlink()
    m = manager(tmp_path)
    m.begin_run(RUN)
    with pytest.raises(CheckpointError, match=r"epoch-0002\.pt"):
        m.load_checkpoint()
    m.close()


def test_a_state_that_was_saved_and_never_recorded_is_nobodys(tmp_path: Path) -> None:
    run_dir = interrupted(tmp_path, 2)
    (run_dir.checkpoints / "epoch-0009.pt").write_bytes((run_dir.checkpoints / "epoch-0001.pt").read_bytes())
    m = manager(tmp_path)
    m.begin_run(RUN)
    assert m.load_checkpoint() == {"done": 2}
    m.close()


@pytest.mark.parametrize("kind", ["begin", "step", "log", "epoch", "checkpoint"])
def test_a_damaged_line_of_the_journal_stops_no_resume(tmp_path: Path, kind: str) -> None:
    run_dir = interrupted(tmp_path, 3)
    journal = run_dir.path / "journal.jsonl"
    lines = journal.read_bytes().split(b"\n")
    hit = next(index for index, line in enumerate(lines) if f'"kind":"{kind}"'.encode() in line)
    lines[hit] = lines[hit].replace(b"kind", b"kinb")
    journal.write_bytes(b"\n".join(lines))
    m = manager(tmp_path)
    m.begin_run(RUN)
    assert m.load_checkpoint() == {"done": 3}
    epoch(m)
    m.end_run()
    m.close()
    assert [row.epoch for row in only(tmp_path).rows] == ([2, 3, 4] if kind == "epoch" else [1, 2, 3, 4])


# When


def test_a_loop_that_is_run_once_more_leaves_its_completed_runs_as_they_are(tmp_path: Path) -> None:
    m = manager(tmp_path)
    with m.tracking(RUN):
        epoch(m)
    with m.tracking(OTHER):
        epoch(m, loss=math.nan)
    m.close()
    assert [run.status for run in read_sweep(SweepDir(tmp_path, "sweep")).runs] == ["completed", "diverged"]
    m = manager(tmp_path)
    for run in (RUN, OTHER):
        m.begin_run(run)
        assert m.load_checkpoint() is not None
        assert m.num_epochs == 1
        m.end_run()
    m.close()
    runs = read_sweep(SweepDir(tmp_path, "sweep")).runs
    assert [(run.status, len(run.rows)) for run in runs] == [("completed", 1), ("diverged", 1)]


def test_a_launch_trains_a_run_that_ended_by_itself_from_nothing(tmp_path: Path) -> None:
    m = manager(tmp_path)
    with m.tracking(RUN, known_attempts=0):
        epoch(m)
    with m.tracking(RUN, known_attempts=1):
        assert m.load_checkpoint() is None
        epoch(m)
    m.close()


def test_a_run_that_failed_goes_on_from_its_last_state(tmp_path: Path) -> None:
    m = manager(tmp_path)
    with pytest.raises(ZeroDivisionError), m.tracking(RUN):
        epoch(m)
        1 / 0
    with m.tracking(RUN):
        assert m.load_checkpoint() == {"done": 1}
        epoch(m)
    m.close()
    assert (only(tmp_path).status, [row.epoch for row in only(tmp_path).rows]) == ("completed", [1, 2])


def test_a_state_is_loaded_before_the_first_epoch_or_not_at_all(tmp_path: Path) -> None:
    interrupted(tmp_path, 1)
    m = manager(tmp_path)
    with pytest.raises(CallOrderError, match="no run is open"):
        m.load_checkpoint()
    m.begin_run(RUN)
    m.begin_epoch()
    with pytest.raises(CallOrderError, match=r"before the first begin_epoch\(\)"):
        m.load_checkpoint()
    m.log(x=1.0)
    m.end_epoch()
    with pytest.raises(CallOrderError, match=r"before the first begin_epoch\(\)"):
        m.load_checkpoint()
    m.end_run()
    m.close()


@pytest.mark.parametrize("call", ["log", "log_step"])
def test_what_was_logged_before_the_state_is_loaded_costs_none_of_its_rows(tmp_path: Path, call: str) -> None:
    interrupted(tmp_path, 3)
    m = manager(tmp_path)
    m.begin_run(RUN)
    getattr(m, call)(num_parameters=7)
    try:
        m.load_checkpoint()
    except CallOrderError:  # to refuse it is as good
        m.close()
        return
    epoch(m)
    m.end_run()
    m.close()
    assert [row.epoch for row in only(tmp_path).rows] == [1, 2, 3, 4]


def test_a_state_of_the_first_attempt_is_taken_up_whole_though_a_second_died_before_it_saved_one(
    tmp_path: Path,
) -> None:
    run_dir = interrupted(tmp_path, 3)
    m = manager(tmp_path)
    m.begin_run(RUN)
    m.log_step(s=1.0)  # without load_checkpoint(), so it starts from nothing
    m.close()
    m = manager(tmp_path)
    with m.tracking(RUN):
        if m.load_checkpoint() is not None:
            assert m.num_epochs == 3
        while m.num_epochs < 4:
            epoch(m)
    m.close()
    assert [row.epoch for row in only(tmp_path).rows] == [1, 2, 3, 4]
    assert [one.step for one in read_steps(run_dir)] == [1, 2, 3, 4]
    assert load_results(tmp_path / "results" / "sweep.csv")["epoch"].tolist() == [1, 2, 3, 4]


# What is kept


def kept(root: Path, values: list[float], *, mode: str = "min", every: int = 1, end: bool = False) -> list[int]:
    sweep_dir = SweepDir(root, "sweep")
    sweep_dir.make()
    sweep_dir.write_plan({"objective": "x", "mode": mode})
    m = manager(root, checkpoint_every=every)
    m.begin_run(RUN)
    for value in values:
        epoch(m, x=value)
    if end:
        m.end_run()
    m.close()
    (run_dir,) = sweep_dir.runs()
    return states(run_dir) if run_dir.checkpoints.exists() else []


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"values": [3, 1, 2, 4, 5, 6]}, [2, 5, 6]),
        ({"values": [3, 1, 2, 4, 5, 6], "end": True}, [2, 6]),
        ({"values": [3, 1, 9, 4, 5, 6], "mode": "max"}, [3, 5, 6]),
        ({"values": [3, 2, 1], "end": True}, [3]),
        ({"values": [math.nan, math.inf, math.nan], "end": True}, [3]),
        ({"values": [1]}, [1]),
        ({"values": [6, 5, 4, 3, 2, 1, 0], "every": 3}, [3, 6]),
        ({"values": [6, 5, 4, 3, 2, 1, 0], "every": 3, "end": True}, [7]),
        ({"values": [1, 5, 3, 4], "every": 3, "end": True}, [3, 4]),
        ({"values": [1, 2], "every": 5, "end": True}, [2]),
        ({"values": [1, 2], "every": 0, "end": True}, []),
    ],
)
def test_the_last_two_and_the_best_are_kept_and_at_the_end_the_last_and_the_best(
    tmp_path: Path, options: dict[str, Any], expected: list[int]
) -> None:
    assert kept(tmp_path, **options) == expected


def test_every_state_that_is_kept_is_that_of_its_epoch(tmp_path: Path) -> None:
    from runmanager.tracking.checkpoint import Checkpoints

    run_dir = interrupted(tmp_path, 3)
    interrupted(tmp_path, 5)
    records = {record["epoch"]: record for record in only(tmp_path).checkpoints}
    for number in states(run_dir):
        assert Checkpoints(run_dir.checkpoints).load(records[number]) == {"done": number}


def test_a_best_that_an_earlier_attempt_reached_is_kept(tmp_path: Path) -> None:
    kept(tmp_path, [5, 1, 7, 8])
    m = manager(tmp_path)
    with m.tracking(RUN):
        m.load_checkpoint()
        for _ in range(3):
            epoch(m, x=6.0)
    m.close()
    (run_dir,) = SweepDir(tmp_path, "sweep").runs()
    assert states(run_dir) == [2, 7]


def test_a_state_given_as_a_function_is_asked_for_only_when_it_is_due(tmp_path: Path) -> None:
    asked: list[int] = []
    m = manager(tmp_path, checkpoint_every=2)
    m.begin_run(RUN)
    for _ in range(5):
        epoch(m, checkpoint=lambda: {"done": asked.append(m.num_epochs)})
    assert asked == [2, 4]
    m.end_run()
    assert asked == [2, 4, 5]
    m.close()


def test_a_state_of_an_epoch_is_not_saved_once_another_epoch_has_ended(tmp_path: Path) -> None:
    """What was given for epoch 1 holds the weights of epoch 2 by then."""
    m = manager(tmp_path, checkpoint_every=3)
    m.begin_run(RUN)
    epoch(m)
    m.begin_epoch()
    m.log(x=1.0)
    m.end_epoch()
    m.end_run()
    m.close()
    assert only(tmp_path).checkpoints == []


@pytest.mark.parametrize("state", [torch.nn.Linear(1, 1), [1, 2], 3, lambda: None, "weights"], ids=repr)
def test_what_is_no_dict_is_refused_with_a_word_on_what_to_pass(tmp_path: Path, state: Any) -> None:
    m = manager(tmp_path)
    m.begin_run(RUN)
    with pytest.raises((TypeError, ValueError), match=r"checkpoint.*dict|dict.*checkpoint"):
        epoch(m, checkpoint=state)
    m.close()


def test_a_state_that_cannot_be_saved_fails_the_run_and_not_silently(tmp_path: Path) -> None:
    m = manager(tmp_path)
    with pytest.raises(StorageError, match="checkpoints"), m.tracking(RUN):
        epoch(m)
        (run_dir,) = SweepDir(tmp_path, "sweep").runs()
        for file in run_dir.checkpoints.iterdir():
            file.unlink()
        run_dir.checkpoints.rmdir()
        run_dir.checkpoints.write_text("in the way")
        epoch(m)
    m.close()
    run = only(tmp_path)
    assert run.status == "failed"
    assert [row.epoch for row in run.rows] in ([1], [1, 2])


def test_without_a_state_nothing_of_torch_is_needed(tmp_path: Path) -> None:
    script = textwrap.dedent("""
        import sys
        from runmanager import RunBuilder, RunManager
        m = RunManager("sweep", root=sys.argv[1], tensorboard=False, quiet=True)
        m.begin_run(RunBuilder.get_runs({"lr": [0.1]})[0])
        assert m.load_checkpoint() is None
        m.begin_epoch()
        m.log(x=1.0)
        m.end_epoch()
        m.end_run()
        print("torch" in sys.modules)
    """)
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_loading_a_sound_state_warns_of_nothing(tmp_path: Path) -> None:
    interrupted(tmp_path, 1)
    m = manager(tmp_path)
    m.begin_run(RUN)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        m.load_checkpoint()
    m.close()


def test_a_chain_of_kills_in_every_epoch_leaves_each_row_once(tmp_path: Path) -> None:
    """Twelve processes, each killed in the epoch after the one that it recorded."""

    def one_epoch() -> None:
        m = manager(tmp_path)
        m.begin_run(RUN)
        m.load_checkpoint()
        epoch(m)
        m.begin_epoch()
        m.log(x=-1.0)
        os.kill(os.getpid(), signal.SIGKILL)

    for _ in range(12):
        assert in_child(one_epoch) == -signal.SIGKILL
    run = only(tmp_path)
    assert [(row.epoch, row.metrics["x"]) for row in run.rows] == [(number, number) for number in range(1, 13)]
    assert (run.status, run.attempts) == ("interrupted", 12)
    assert run.num_bad_lines == 0
