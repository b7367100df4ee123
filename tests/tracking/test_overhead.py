"""What tracking costs: counted once, shared among the members of a group, and recorded with each run."""

import csv
import time
from pathlib import Path

import pytest
import torch

from runmanager import RunBuilder, RunManager, load_results
from runmanager.tracking.history import read_sweep
from runmanager.tracking.manager import Entry
from runmanager.tracking.overhead import Overhead
from runmanager.tracking.run_dir import find_sweep
from runmanager.tracking.writers import Writer

RUNS = RunBuilder.get_runs({"lr": [0.1, 0.2]})
BATCH = torch.zeros(4, 2)


class Slow(Writer):
    """Takes its time with each epoch."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def epoch(self, member, row):
        time.sleep(self.seconds)


def overheads(root: Path) -> list[float]:
    return [run.overhead_seconds for run in read_sweep(find_sweep("mine", root)).runs]


def manager(root: Path, *writers: Writer, **options) -> RunManager:
    return RunManager("mine", root=root, tensorboard=False, quiet=True, writers=writers, **options)


def one_epoch(m: RunManager, loss: torch.Tensor) -> None:
    m.begin_epoch()
    m.track_loss(loss, BATCH)
    m.end_epoch()


def test_one_inside_another_counts_once():
    overhead = Overhead()
    with overhead:
        time.sleep(0.02)
        with overhead:
            time.sleep(0.02)
    assert 0.04 <= overhead.seconds < 0.07


def test_what_is_between_the_calls_does_not_count():
    overhead = Overhead()
    for _ in range(2):
        with overhead:
            time.sleep(0.01)
        time.sleep(0.05)
    assert 0.02 <= overhead.seconds < 0.05


def test_what_raises_counts_too():
    overhead = Overhead()
    with pytest.raises(ValueError), overhead, overhead:
        time.sleep(0.02)
        raise ValueError
    assert overhead.seconds >= 0.02
    with overhead:
        time.sleep(0.02)
    assert 0.04 <= overhead.seconds < 0.07


def test_it_is_divided_among_the_members():
    overhead = Overhead()
    overhead.begin(4)
    with overhead:
        time.sleep(0.04)
    assert 0.01 <= overhead.seconds < 0.02


def test_it_is_recorded_with_the_run_and_shown_in_the_runs_table(tmp_path):
    m = manager(tmp_path, Slow(0.05))
    m.begin_run(RUNS[0])
    one_epoch(m, torch.tensor(1.0))
    time.sleep(0.2)
    one_epoch(m, torch.tensor(1.0))
    m.end_run()
    m.close()
    (seconds,) = overheads(tmp_path)
    assert 0.1 <= seconds < 0.25  # both epochs' writers, and not what the loop does itself
    with (tmp_path / "results/mine.runs.csv").open() as file:
        (row,) = csv.DictReader(file)
    assert float(row["overhead_seconds"]) == seconds
    names = list(row)
    assert names[names.index("run duration") + 1] == "overhead_seconds"
    assert load_results(tmp_path / "results/mine.runs.csv")["overhead_seconds"].tolist() == [seconds]


def test_each_run_has_its_own(tmp_path):
    m = manager(tmp_path, Slow(0.05))
    for run, num_epochs in zip(RUNS, (3, 1), strict=True):
        m.begin_run(run)
        for _ in range(num_epochs):
            one_epoch(m, torch.tensor(1.0))
        m.end_run()
    m.close()
    first, second = overheads(tmp_path)
    assert first >= 0.15
    assert 0.05 <= second < first


def test_a_failed_run_has_its_own_as_well(tmp_path):
    m = manager(tmp_path, Slow(0.05))
    with pytest.raises(ValueError), m.tracking(RUNS[0]):
        one_epoch(m, torch.tensor(1.0))
        raise ValueError
    m.close()
    assert overheads(tmp_path)[0] >= 0.05


def test_the_members_of_a_group_share_it(tmp_path):
    m = manager(tmp_path, Slow(0.05))
    with m.tracking_group([Entry(run, number, None, 0) for number, run in enumerate(RUNS, 1)]):
        for _ in range(2):
            one_epoch(m, torch.ones(2))
            time.sleep(0.1)
    m.close()
    first, second = overheads(tmp_path)
    assert first == pytest.approx(second, rel=0.2)
    assert 0.2 <= first + second < 0.35  # 2 epochs of 2 members, each once


def test_a_member_that_leaves_takes_its_part_and_leaves_the_others_theirs(tmp_path):
    m = manager(tmp_path, Slow(0.05))
    with m.tracking_group([Entry(run, number, None, 0) for number, run in enumerate(RUNS, 1)]):
        one_epoch(m, torch.ones(2))
        m.leave(1)
        one_epoch(m, torch.tensor(1.0))
    m.close()
    first, second = overheads(tmp_path)
    assert 0.05 <= first < 0.1
    assert 0.1 <= second < 0.2


def test_a_run_is_never_said_to_have_cost_more_than_it_took(tmp_path):
    m = manager(tmp_path)
    for run in RUNS:
        m.begin_run(run)
        for _ in range(20):
            one_epoch(m, torch.tensor(1.0))
        m.end_run()
    m.close()
    for run in read_sweep(find_sweep("mine", tmp_path)).runs:
        assert 0 < run.overhead_seconds <= run.run_seconds + 0.1  # a run's own clock begins when it has been begun
