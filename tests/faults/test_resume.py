"""A run that is stopped and taken up again reaches the numbers of one that never was, to the last bit."""

import copy
import functools
import os
import random
import select
import shutil
import signal
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn, optim
from torch.optim import lr_scheduler
from torch.utils.data import Dataset

from runmanager import RunBuilder, RunManager, Trainer
from runmanager.tracking import checkpoint
from runmanager.tracking.history import read_sweep
from runmanager.tracking.run_dir import find_sweep
from runmanager.training.checkpoints import TrainingState
from runmanager.training.trainer import TrainerError
from tests.processes import in_child

pytestmark = pytest.mark.usefixtures("one_thread")

NUM_SAMPLES, BATCH_SIZE, NUM_EPOCHS = 50, 8, 6
NUM_BATCHES = 5  # of an epoch; a fifth of the samples validates
SEED = 11
DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
GLOBAL_GENERATORS = ["python", "numpy", "torch"]
OPTIMIZERS = [
    optim.Adam,
    optim.AdamW,
    optim.RMSprop,
    optim.Adagrad,
    optim.NAdam,
    optim.ASGD,
    optim.Rprop,
    optim.Adadelta,
]
SCHEDULES = {
    "Lambda": lambda optimizer: lr_scheduler.LambdaLR(optimizer, lambda epoch: 0.8**epoch),
    "MultiStep": lambda optimizer: lr_scheduler.MultiStepLR(optimizer, [2, 3]),
    "Cosine": lambda optimizer: lr_scheduler.CosineAnnealingLR(optimizer, 5),
    "WarmRestarts": lambda optimizer: lr_scheduler.CosineAnnealingWarmRestarts(optimizer, 2),
    "OneCycle": lambda optimizer: lr_scheduler.OneCycleLR(optimizer, 0.3, total_steps=25),
    "Cyclic": lambda optimizer: lr_scheduler.CyclicLR(optimizer, 0.01, 0.3, step_size_up=2),
    "Sequential": lambda optimizer: lr_scheduler.SequentialLR(
        optimizer, [lr_scheduler.LinearLR(optimizer), lr_scheduler.ExponentialLR(optimizer, 0.7)], [2]
    ),
    "Chained": lambda optimizer: lr_scheduler.ChainedScheduler(
        [lr_scheduler.ConstantLR(optimizer), lr_scheduler.ExponentialLR(optimizer, 0.7)]
    ),
}


class Augmented(Dataset):
    """Draws from the generators of python, numpy and torch, and from three of its own."""

    def __init__(self):
        self.inputs = torch.rand(NUM_SAMPLES, 4, generator=torch.Generator().manual_seed(0))
        self.targets = (self.inputs.sum(1) > 2).long()
        self.own = [np.random.default_rng(1), torch.Generator().manual_seed(2), random.Random(3)]

    def __len__(self):
        return NUM_SAMPLES

    def __getitem__(self, index):
        numpy_own, torch_own, python_own = self.own
        noise = [random.random(), np.random.rand(), torch.rand(()).item()]
        noise += [numpy_own.random(), torch.rand((), generator=torch_own).item(), python_own.random()]
        return self.inputs[index] + 0.02 * sum(noise), self.targets[index]


class Moody(nn.Module):
    """Keeps what no state_dict has: a buffer that is not persistent, and a plain number."""

    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.zeros(8), persistent=False)
        self.num_steps = 0

    def forward(self, inputs):
        if self.training:
            self.num_steps += 1
            self.mean = 0.9 * self.mean + 0.1 * inputs.detach().mean(0)
        return inputs + 0.1 * self.mean + 0.01 * self.num_steps


class Balanced(nn.Module):
    """A loss that goes by how large it was before."""

    def __init__(self):
        super().__init__()
        self.register_buffer("usual", torch.ones(()))

    def forward(self, preds, targets):
        loss = F.cross_entropy(preds, targets)
        if torch.is_grad_enabled():
            self.usual.lerp_(loss.detach(), 0.1)
        return loss * self.usual


def network():
    return nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), Moody(), nn.ReLU(), nn.Dropout(0.3), nn.Linear(8, 2))


def schedule(run, optimizer):
    return lr_scheduler.StepLR(optimizer, step_size=2, gamma=0.5)


def trainer(stop, **parts):
    """A Trainer of all that a checkpoint has to hold; `stop` is called in each training batch with the batches so far."""

    class Stopping(Balanced):
        num_batches: ClassVar = [0]  # no part of its state

        def forward(self, preds, targets):
            if torch.is_grad_enabled():
                self.num_batches[0] += 1
                stop(self.num_batches[0])
            return super().forward(preds, targets)

    usual = {
        "network": network,
        "data": lambda: Augmented(),
        "optimizer": lambda run, network: optim.SGD(network.parameters(), lr=run.lr, momentum=0.9),
        "scheduler": schedule,
        "loss": Stopping,
        "epochs": NUM_EPOCHS,
        "batch_size": BATCH_SIZE,
        "validation": 0.2,
        "device": "cpu",
    }
    return Trainer(**{**usual, **parts})


def never(num_batches=0):
    """Goes on."""


def stop_now(num_batches=0):
    raise KeyboardInterrupt


def train(folder: Path, stop=never, *, at_the_end=never, tensorboard=False, checkpoint_every=1, **parts) -> None:
    """One attempt at the run, in this process."""
    (run,) = RunBuilder.get_runs({"lr": [0.1]})
    manager = RunManager("test", root=folder, tensorboard=tensorboard, quiet=True, checkpoint_every=checkpoint_every)
    try:
        with manager.tracking(run, seed=SEED):
            trainer(stop, **parts).train(run, manager, seed=SEED, split_seed=1, project=folder)
            at_the_end()
    finally:
        manager.close()


def train_and_interrupt(folder: Path, num_batches: int, **parts) -> None:
    """One attempt that is interrupted in its n-th batch."""

    def stop(done):
        if done == num_batches:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(folder, stop, **parts)


def train_and_kill(folder: Path, num_batches: int, **parts) -> None:
    """One attempt in a process of its own, which is killed in its n-th batch, and with it its loader's processes.

    One of these that has just begun would not notice, and live for ever.
    """
    alive, held = os.pipe()  # each process of the attempt holds one end open as long as it lives

    def die(done):
        if done == num_batches:
            os.killpg(os.getpid(), signal.SIGKILL)

    def train_in_a_group():
        os.setpgid(0, 0)
        train(folder, die, **parts)

    assert in_child(train_in_a_group) == -signal.SIGKILL
    os.close(held)
    assert select.select([alive], [], [], 60)[0], "a process of the loader is still there"
    os.close(alive)


def reached(folder: Path):
    """Every metric of every epoch, and the last weights."""
    (run,) = read_sweep(find_sweep("test", folder)).runs
    assert run.status == "completed"
    rows = [(row.epoch, row.loss, row.accuracy, row.metrics) for row in run.rows]
    last = max((folder / "runs" / "test").glob("*/checkpoints/*.pt"), key=lambda path: path.name)
    weights = torch.load(last, weights_only=True)["state"]["network"]
    return rows, {name: weight.tolist() for name, weight in weights.items()}


def interrupt_in_every_epoch(folder: Path, attempt, **parts) -> None:
    """Attempts that each end one epoch, and are stopped in another batch of the next; then the last one."""
    for epoch in range(NUM_EPOCHS):
        attempt(folder, (NUM_BATCHES if epoch else 0) + 1 + epoch % NUM_BATCHES, **parts)
    train(folder, **parts)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """What a run reaches that nothing disturbs; it is trained once for all tests."""

    @functools.cache
    def trained(num_workers, device):
        folder = tmp_path_factory.mktemp("whole")
        train(folder, num_workers=num_workers, device=device)
        return reached(folder)

    return lambda num_workers=0, device="cpu": trained(num_workers, device)


@pytest.fixture(scope="module")
def all_interrupted(tmp_path_factory, one_thread):
    folder = tmp_path_factory.mktemp("interrupted")
    train_and_interrupt(folder, 3 * NUM_BATCHES + 1)
    return folder


@pytest.fixture
def interrupted(all_interrupted, tmp_path):
    """A folder whose run was interrupted in its fourth epoch."""
    return Path(shutil.copytree(all_interrupted, tmp_path / "parts"))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_run_that_is_interrupted_in_every_epoch_is_bit_equal(num_workers, device, whole, tmp_path):
    parts = {"num_workers": num_workers, "device": device}
    rows, _ = whole(num_workers, device)
    assert [row[0] for row in rows] == list(range(1, NUM_EPOCHS + 1))
    assert len({row[1] for row in rows}) == NUM_EPOCHS
    interrupt_in_every_epoch(tmp_path, train_and_interrupt, **parts)
    assert reached(tmp_path) == whole(num_workers, device)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="kills a fork of this process")
@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_run_that_is_killed_in_every_epoch_is_bit_equal(num_workers, whole, tmp_path):
    interrupt_in_every_epoch(tmp_path, train_and_kill, num_workers=num_workers)
    assert reached(tmp_path) == whole(num_workers)


def test_tensorboard_in_some_attempts_changes_nothing(whole, tmp_path):
    train_and_interrupt(tmp_path, NUM_BATCHES + 2, tensorboard=True)
    train_and_interrupt(tmp_path, 2 * NUM_BATCHES + 1)
    train(tmp_path, tensorboard=True)
    assert reached(tmp_path) == whole()


def test_states_saved_every_third_epoch_are_enough(whole, tmp_path):
    for num_batches in (4 * NUM_BATCHES, 2 * NUM_BATCHES, 3 * NUM_BATCHES):
        train_and_interrupt(tmp_path, num_batches, checkpoint_every=3)
    train(tmp_path, checkpoint_every=3)
    assert reached(tmp_path) == whole()


def test_a_run_that_was_stopped_after_its_last_epoch_has_nothing_left_to_train(whole, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, at_the_end=stop_now)
    train(tmp_path, stop_now)
    assert reached(tmp_path) == whole()


@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=lambda optimizer: optimizer.__name__)
def test_every_optimizer_goes_on_as_it_was(optimizer, tmp_path):
    parts = {"optimizer": lambda run, network: optimizer(network.parameters(), lr=run.lr)}
    train(tmp_path / "whole", epochs=3, **parts)
    for _ in range(2):
        train_and_interrupt(tmp_path / "parts", NUM_BATCHES + 2, epochs=3, **parts)
    train(tmp_path / "parts", epochs=3, **parts)
    assert reached(tmp_path / "parts") == reached(tmp_path / "whole")


@pytest.mark.parametrize("name", SCHEDULES)
def test_every_schedule_goes_on_as_it_was(name, tmp_path):
    parts = {"scheduler": lambda run, optimizer: SCHEDULES[name](optimizer)}
    train(tmp_path / "whole", epochs=5, **parts)
    for _ in range(3):
        train_and_interrupt(tmp_path / "parts", NUM_BATCHES + 2, epochs=5, **parts)
    train(tmp_path / "parts", epochs=5, **parts)
    assert reached(tmp_path / "parts") == reached(tmp_path / "whole")


FIELDS = [
    "network",
    "optimizer",
    "optimizer.state",
    "optimizer.param_groups",
    "scheduler",
    "loss",
    "order",
    "buffers",
    "numbers",
    "generators",
    *(f"generators.train.dataset.own.{index}" for index in range(3)),
]


def test_these_are_all_the_fields_of_a_state(tmp_path):
    train(tmp_path)
    (path, *_) = (tmp_path / "runs" / "test").glob("*/checkpoints/*.pt")
    saved = torch.load(path, weights_only=True)
    checked = {"groups"}  # the names of the optimizer's groups, which are compared and not put back
    assert set(saved["state"]) == {field for field in FIELDS if "." not in field} | checked
    assert set(saved["state"]["optimizer"]) == {"state", "param_groups"}
    assert {f"generators.{name}" for name in saved["state"]["generators"]} <= set(FIELDS)
    assert set(saved["generators"]) - {"cuda"} == set(GLOBAL_GENERATORS)


@pytest.mark.parametrize("field", FIELDS)
def test_without_any_one_field_it_is_not_bit_equal(field, whole, interrupted, monkeypatch):
    """The field is left at what a run has that was just built, as if it had not been saved."""
    restore = TrainingState.restore

    def restore_but_one(self, saved):
        saved = dict(saved)
        name, _, inner = field.partition(".")
        at_first = self.capture().get(name, {})
        if inner:
            saved[name] = {**saved[name], inner: at_first[inner]}
        elif at_first:
            saved[name] = at_first
        else:
            del saved[name]
        restore(self, copy.deepcopy(saved))

    monkeypatch.setattr(TrainingState, "restore", restore_but_one)
    train(interrupted)
    (rows, weights), (whole_rows, whole_weights) = reached(interrupted), whole()
    assert rows[:3] == whole_rows[:3]
    assert rows[3:] != whole_rows[3:]
    assert weights != whole_weights


@pytest.mark.parametrize("name", GLOBAL_GENERATORS)
def test_without_any_one_of_the_global_generators_it_is_not_bit_equal(name, whole, interrupted, monkeypatch):
    put_back = checkpoint.put_back

    def put_back_but_one(states):
        put_back({**states, name: checkpoint.generators()[name]})

    monkeypatch.setattr(checkpoint, "put_back", put_back_but_one)
    train(interrupted)
    (rows, weights), (whole_rows, whole_weights) = reached(interrupted), whole()
    assert rows[:3] == whole_rows[:3]
    assert rows[3:] != whole_rows[3:]
    assert weights != whole_weights


def test_a_field_that_is_missing_altogether_is_refused(tmp_path, monkeypatch):
    restore = TrainingState.restore
    train_and_interrupt(tmp_path, NUM_BATCHES + 1)
    for field in ("network", "optimizer", "scheduler", "loss", "order"):
        without = {"gone": field}

        def restore_without(self, saved, without=without):
            restore(self, {name: content for name, content in saved.items() if name != without["gone"]})

        monkeypatch.setattr(TrainingState, "restore", restore_without)
        with pytest.raises(TrainerError, match=f"the checkpoint has no {field}, and the run has one now"):
            train(tmp_path)
