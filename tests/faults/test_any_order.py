"""A run reaches the same numbers to the last bit: alone, in any order, in any worker, and when it is retried."""

import random

import numpy as np
import pytest
import torch

NETWORK = "lambda: nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.3), nn.Linear(8, 2))"
OPTIMIZER = "lambda run, network: torch.optim.SGD(network.parameters(), lr=run.lr, momentum=0.9)"
LRS, BATCH_SIZES = [0.1, 0.01], [10, 20]
NUM_EPOCHS = 3
NOISY = """
class Noisy(Dataset):
    def __len__(self):
        return 60

    def __getitem__(self, index):
        return inputs[index] + 0.01 * (torch.rand(()) + np.random.rand() + random.random()), targets[index]
"""
FAILS_ONCE = """
from pathlib import Path
seen = []
def loss(preds, targets):
    seen.append(1)
    failures = len(list(Path().glob("failed-*")))
    if failures < 3 and len(seen) in (4, 20, 43):
        Path(f"failed-{failures}").touch()
        raise RuntimeError("once more")
    return F.cross_entropy(preds, targets)
"""


@pytest.fixture
def write(project):
    """Writes the sweep under a name, with its grid in some order."""

    def write(name, *, lrs=LRS, batch_sizes=BATCH_SIZES, before="", **parts):
        project.sweep(
            name=name,
            params=f"lr={lrs}, batch_size={batch_sizes}",
            network=NETWORK,
            optimizer=OPTIMIZER,
            data="lambda: Noisy()",
            epochs=str(NUM_EPOCHS),
            before=NOISY + before,
            **parts,
        )

    return write


@pytest.fixture
def rows(project):
    """All that each run of a sweep has reached, by its parameters."""

    def rows(name):
        return {
            (run.params["lr"], run.params["batch_size"]): [(row.loss, row.accuracy, row.metrics) for row in run.rows]
            for run in project.history(name).runs
        }

    return rows


_reached = []


@pytest.fixture
def in_order(project, write, rows):
    """What the runs reach one after another in this process; no two alike. They are trained once for all tests."""
    if not _reached:
        write("in_order")
        project.launch("in_order")
        _reached.append(rows("in_order"))
    (found,) = _reached
    assert len({str(found[run]) for run in found}) == len(found) == 4
    assert all(len(run) == NUM_EPOCHS for run in found.values())
    return found


def test_each_run_alone(project, write, rows, in_order):
    write("alone")
    for number in (3, 1, 4, 2):
        assert project.launch("alone", only=number).trained == [number]
    assert rows("alone") == in_order


def test_in_reversed_order(project, write, rows, in_order):
    write("reversed", lrs=LRS[::-1], batch_sizes=BATCH_SIZES[::-1])
    project.launch("reversed")
    assert rows("reversed") == in_order


def test_in_a_grid_that_has_grown(project, write, rows, in_order):
    write("grown", lrs=LRS[1:])
    project.launch("grown")
    write("grown", lrs=[0.5, *LRS])
    project.launch("grown")
    assert {run: found for run, found in rows("grown").items() if run[0] != 0.5} == in_order


@pytest.mark.parametrize("checkpoint_every", [0, 1, 2])
def test_retried_at_once(checkpoint_every, project, write, rows, in_order):
    write("retried", before=FAILS_ONCE, loss="loss")
    project.launch("retried", retries=3, checkpoint_every=checkpoint_every)
    assert sum(run.attempts for run in project.history("retried").runs) == 4 + 3
    assert rows("retried") == in_order


def test_retried_by_a_later_launch(project, write, rows, in_order):
    write("retried", before=FAILS_ONCE, loss="loss")
    project.launch("retried")
    assert "failed" in project.statuses("retried").values()
    for _ in range(3):
        project.launch("retried", retry_failed=True)
    assert set(project.statuses("retried").values()) == {"completed"}
    assert rows("retried") == in_order


def test_after_a_user_has_seeded_every_generator(project, write, rows, in_order):
    write("seeded")
    torch.manual_seed(5)
    np.random.seed(6)
    random.seed(7)
    project.launch("seeded")
    assert rows("seeded") == in_order


@pytest.mark.parametrize("workers", [pytest.param(1, marks=pytest.mark.long), 2])
def test_in_worker_processes(workers, project, write, rows, in_order, forked_workers):
    write("workers")
    project.launch("workers", workers=workers)
    assert rows("workers") == in_order
    pids = {run.owner["pid"] for run in project.history("workers").runs}
    assert len(pids) <= workers
