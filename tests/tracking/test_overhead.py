"""What tracking costs: counted once, shared among the members of a group, and recorded with each run."""

import csv
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from runmanager import RunBuilder, RunManager, load_results
from runmanager.tracking import overhead as overhead_module
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


@pytest.fixture
def clock(monkeypatch):
    """A clock that goes on when it is told to."""
    one = SimpleNamespace(now=100.0)
    monkeypatch.setattr(overhead_module, "time", SimpleNamespace(perf_counter=lambda: one.now))
    return one


def test_one_inside_another_counts_once(clock):
    overhead = Overhead()
    with overhead:
        clock.now += 1
        with overhead:
            clock.now += 2
        clock.now += 4
    assert overhead.seconds == 7


def test_what_is_between_the_calls_does_not_count(clock):
    overhead = Overhead()
    for _ in range(2):
        with overhead:
            clock.now += 1
        clock.now += 10
    assert overhead.seconds == 2


def test_what_raises_counts_too(clock):
    overhead = Overhead()
    with pytest.raises(ValueError), overhead, overhead:
        clock.now += 1
        raise ValueError
    with overhead:
        clock.now += 2
    assert overhead.seconds == 3


def test_it_is_divided_among_the_members(clock):
    overhead = Overhead()
    overhead.begin(4)
    with overhead:
        clock.now += 2
        assert overhead.so_far() == 0.5
    assert overhead.so_far() == overhead.seconds == 0.5
    overhead.num_members = 1  # the others have left
    with overhead:
        clock.now += 2
    assert overhead.seconds == 2.5


def test_it_is_recorded_with_the_run_and_shown_in_the_runs_table(tmp_path):
    m = manager(tmp_path, Slow(0.05))
    began = time.perf_counter()
    m.begin_run(RUNS[0])
    one_epoch(m, torch.tensor(1.0))
    time.sleep(0.2)
    one_epoch(m, torch.tensor(1.0))
    m.end_run()
    whole = time.perf_counter() - began
    m.close()
    (seconds,) = overheads(tmp_path)
    assert 0.1 <= seconds <= whole - 0.2  # both epochs' writers, and not what the loop does itself
    with (tmp_path / "results/mine.runs.csv").open() as file:
        (row,) = csv.DictReader(file)
    assert float(row["overhead_seconds"]) == seconds
    names = list(row)
    assert names[names.index("run duration") + 1] == "overhead_seconds"
    assert load_results(tmp_path / "results/mine.runs.csv")["overhead_seconds"].tolist() == [seconds]


def test_each_run_has_its_own(tmp_path):
    m = manager(tmp_path, Slow(0.05))
    began = time.perf_counter()
    for run, num_epochs in zip(RUNS, (3, 1), strict=True):
        m.begin_run(run)
        for _ in range(num_epochs):
            one_epoch(m, torch.tensor(1.0))
        m.end_run()
    whole = time.perf_counter() - began
    m.close()
    first, second = overheads(tmp_path)
    assert first >= 0.15
    assert second >= 0.05
    assert first + second <= whole


def test_a_failed_run_has_its_own_as_well(tmp_path):
    m = manager(tmp_path, Slow(0.05))
    with pytest.raises(ValueError), m.tracking(RUNS[0]):
        one_epoch(m, torch.tensor(1.0))
        raise ValueError
    m.close()
    assert overheads(tmp_path)[0] >= 0.05


def test_the_members_of_a_group_share_it(tmp_path):
    m = manager(tmp_path, Slow(0.05))
    began = time.perf_counter()
    with m.tracking_group([Entry(run, number, None, 0) for number, run in enumerate(RUNS, 1)]):
        for _ in range(2):
            one_epoch(m, torch.ones(2))
            time.sleep(0.1)
    whole = time.perf_counter() - began
    m.close()
    first, second = overheads(tmp_path)
    assert min(first, second) >= 0.1
    assert 0.2 <= first + second <= whole - 0.2  # 2 epochs of 2 members, each counted once


def test_a_member_that_leaves_takes_its_part_and_leaves_the_others_theirs(tmp_path):
    m = manager(tmp_path, Slow(0.05))
    began = time.perf_counter()
    with m.tracking_group([Entry(run, number, None, 0) for number, run in enumerate(RUNS, 1)]):
        one_epoch(m, torch.ones(2))
        m.leave(1)
        one_epoch(m, torch.tensor(1.0))
    whole = time.perf_counter() - began
    m.close()
    first, second = overheads(tmp_path)
    assert first >= 0.05
    assert second >= first + 0.05
    assert first + second <= whole
