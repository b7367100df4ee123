"""Small sweeps whose runs are trained in a folder, each alone or in a group."""

from contextlib import suppress

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.optim.lr_scheduler import StepLR

from runmanager import RunBuilder, RunManager, Trainer
from runmanager.tracking.errors import RunStopped
from runmanager.tracking.history import read_sweep
from runmanager.tracking.manager import Entry
from runmanager.tracking.rows import INTERRUPTED
from runmanager.tracking.run_dir import SweepDir
from runmanager.training.arithmetics import LOOPED
from runmanager.training.seeding import run_seed

torch.set_num_threads(1)
NAME, SPLIT_SEED = "test", 3
IMAGES = torch.rand(50, 1, 6, 6, generator=torch.Generator().manual_seed(0))
LABELS = (IMAGES.sum((1, 2, 3)) * 1.3).long() % 3
TINY = {"lr": [0.1, 0.05, 0.02, 0.01]}
RUNS = [
    *RunBuilder.get_runs({"lr": [0.01], "rate": [0.2, 0.5], "clip_norm": [0.5], "decay": [0.01], "shuffle": [True]}),
    *RunBuilder.get_runs({"lr": [0.003], "rate": [0.0], "clip_norm": [0.05], "decay": [0.0], "shuffle": [True]}),
    *RunBuilder.get_runs({"lr": [0.002], "rate": [0.8], "clip_norm": [None], "decay": [0.3], "shuffle": [False]}),
]


def network(run):
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, bias=False),
        nn.BatchNorm2d(4),
        nn.Tanh(),
        nn.Flatten(),
        nn.Dropout(run.rate),
        nn.Linear(64, 3),
    )


def adam(run, network):
    return torch.optim.Adam(network.parameters(), lr=run.lr, weight_decay=run.decay)


def trainer(**parts):
    usual = {
        "network": network,
        "data": (IMAGES, LABELS),
        "optimizer": adam,
        "scheduler": lambda run, optimizer: StepLR(optimizer, 1, gamma=0.5 if run.lr > 0.005 else 0.9),
        "loss": lambda run: nn.CrossEntropyLoss(label_smoothing=run.rate / 10),
        "epochs": 4,
        "batch_size": 16,
        "validation": 0.2,
        "device": "cpu",
    }
    return Trainer(**{**usual, **parts})


def tiny(**parts):
    """Runs that differ in their rates, of a network without dropout."""

    def sgd(run, network):
        return torch.optim.SGD(network.parameters(), lr=run.lr)

    usual = {"network": mlp, "optimizer": sgd, "scheduler": None, "loss": F.cross_entropy, "epochs": 3}
    return trainer(**{**usual, **parts})


def mlp():
    return nn.Sequential(nn.Flatten(), nn.Linear(36, 8), nn.Tanh(), nn.Linear(8, 3))


def runs_of(**params):
    return RunBuilder.get_runs({**TINY, **params})


def with_epochs(*numbers):
    """Runs of so many epochs, each with a rate of its own."""
    pairs = zip(TINY["lr"], numbers, strict=False)
    return [run for lr, number in pairs for run in RunBuilder.get_runs({"lr": [lr], "epochs": [number]})]


class Sweep:
    """Runs that are trained in a folder, each alone or in a group."""

    def __init__(self, folder, training, runs, **options):
        self.folder, self.training, self.runs, self.options = folder, training, runs, options

    def manager(self):
        options = {"tensorboard": False, "quiet": True, "tables": False, **self.options}
        return RunManager(NAME, root=self.folder, **options)

    def seed(self, number):
        return run_seed(SPLIT_SEED, self.runs[number - 1]._asdict())

    def all(self, numbers):
        return numbers or range(1, len(self.runs) + 1)

    def alone(self, *numbers):
        for number in self.all(numbers):
            manager, run, seed = self.manager(), self.runs[number - 1], self.seed(number)
            with suppress(RunStopped), manager.tracking(run, number=number, seed=seed):
                self.training.train(run, manager, seed=seed, split_seed=SPLIT_SEED, project=self.folder)
        return self

    def together(self, *numbers):
        entries = [Entry(self.runs[number - 1], number, self.seed(number)) for number in self.all(numbers)]
        manager = self.manager()
        with manager.tracking_group(entries):
            self.training.train_group(
                [entry.run for entry in entries],
                manager,
                numbers=[entry.number for entry in entries],
                seeds=[entry.seed for entry in entries],
                arithmetic=LOOPED,
                split_seed=SPLIT_SEED,
                project=self.folder,
            )
        return self

    def history(self):
        return {run.number: run for run in read_sweep(SweepDir(self.folder, NAME)).runs}

    def statuses(self):
        return {number: run.status for number, run in self.history().items()}

    def sizes(self):
        """How many runs were in the group, epoch by epoch."""
        return {number: [row.group_size for row in run.rows] for number, run in self.history().items()}

    def numbers(self):
        """What each run reached, epoch by epoch."""
        return {
            number: [[row.loss, row.accuracy, *row.metrics.values()] for row in run.rows]
            for number, run in self.history().items()
        }

    def losses(self):
        """The losses of each run, in training and in validation, epoch by epoch."""
        return {
            number: [[row.loss, row.metrics["val_loss"]] for row in run.rows] for number, run in self.history().items()
        }

    def bytes_of_states(self):
        return {path.parent.parent.name[:4]: path.stat().st_size for path in self.folder.glob("runs/*/*/checkpoints/*")}


def after(num_epochs):
    """Interrupts each run after so many epochs."""
    return lambda row: RunStopped(INTERRUPTED, "enough") if row.epoch == num_epochs else None


def assert_close(found, expected, tolerance=1e-5):
    assert found.keys() == expected.keys()
    for number, rows in expected.items():
        assert len(found[number]) == len(rows)
        for row, other in zip(found[number], rows, strict=True):
            assert row == pytest.approx(other, rel=0, abs=tolerance)
