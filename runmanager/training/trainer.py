"""The Trainer: a network, data, an optimizer and a loss in ordinary torch terms, and the loop that drives them."""

import copy
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch.nn import Module
from torch.optim import Optimizer
from torch.utils.data import DataLoader

from runmanager.data.sources import splits_of
from runmanager.data.splits import Splits
from runmanager.tracking.manager import RunManager
from runmanager.tracking.meters import Accuracy, Mean
from runmanager.training.check import exercise, faults_of
from runmanager.training.parts import Parts, build_loss, build_network, build_optimizer, is_function_of_run, of_run
from runmanager.training.seeding import seeded
from runmanager.training.settings import TrainerError, choose_device, default_of, has_classes, setting_fault
from runmanager.training.steppers import SingleStepper, Stepper


class Trainer:
    """Trains a run of the sweep. Network, data, loss and settings are values, or functions of the run that return one.

    A setting that stands in the grid is read from the run: a grid with `batch_size` needs no `batch_size=` here.
    """

    def __init__(
        self,
        network: Any,
        data: Any,
        optimizer: Callable[[Any, Module], Optimizer],
        loss: Any,
        *,
        epochs: Any = None,
        batch_size: Any = None,
        shuffle: Any = None,
        validation: Any = None,
        device: Any = None,
        data_root: str | Path | None = None,
    ) -> None:
        """Nothing is built yet.

        Args:
            network: a Module class, a function of the run that returns a Module, or a Module that each run gets a copy of.
            data: a known name (`fashion_mnist`, `fashion_mnist_sample`), a Dataset, a (train, validation[, test]) tuple of
                them, an (inputs, targets) pair of tensors, or a function of the run that returns one of these.
            optimizer: a function of the run and its network.
            loss: a function of predictions and targets, or a function of the run that returns one.
            epochs: how many times the training data is gone through.
            batch_size: samples per step.
            shuffle: whether the training order is drawn anew in each epoch; by default it is.
            validation: the share of the training data that is held out for val_loss and val_accuracy, by default 0.1; the cut
                is the same for all runs of a sweep, and each class gives its share.
            device: 'cuda', 'mps', 'cpu' or a torch.device; by default the first of these that there is.
            data_root: where to look for a known data set first.
        """
        self.network, self.data, self.optimizer, self.loss = network, data, optimizer, loss
        self._given = {
            "epochs": epochs,
            "batch_size": batch_size,
            "shuffle": shuffle,
            "validation": validation,
            "device": device,
        }
        self.data_root = Path(data_root) if data_root is not None else None

    def with_epochs(self, epochs: int) -> "Trainer":
        """The same Trainer for another number of epochs."""
        other = copy.copy(self)
        other._given = {**self._given, "epochs": epochs}
        return other

    def given(self, name: str) -> Any:
        """A setting as it was given here: a value, a function of the run, or None."""
        return self._given[name]

    def plain_settings(self) -> dict[str, Any]:
        """What was given here and decides what a run reaches, as far as it is a plain value and not a function."""
        given = {"data": self.data, **self._given}
        plain = (bool, int, float, str)
        return {name: value for name, value in given.items() if name != "device" and isinstance(value, plain)}

    def setting(self, name: str, run: Any) -> Any:
        """What a setting is for a run: as given here, else from the run, else the default.

        Raises:
            TrainerError: it is neither given nor in the grid, or its value makes no sense.
        """
        value = self._given[name]
        if value is None:
            value = getattr(run, name) if name in run._fields else default_of(name)
        elif callable(value):
            value = value(run)
        value = value.item() if hasattr(value, "item") else value  # a grid may come from numpy
        fault = setting_fault(name, value)
        if fault:
            raise TrainerError(fault)
        return value

    def settings_twice(self, names: Iterable[str]) -> list[str]:
        """The settings that are given here although the grid has them too."""
        return [name for name in names if self._given.get(name) is not None]

    def splits(self, run: Any, split_seed: int, project: Path) -> Splits:
        """The data of a run, its validation split cut.

        Raises:
            DataError: the data is nothing that can be trained on.
            DataNotFoundError: a known data set is nowhere.
        """
        with seeded(split_seed):  # a function of the run may draw
            data = of_run(self.data, run) if is_function_of_run(self.data) else self.data
            splits = splits_of(data, self.data_root, project)
            return splits.with_validation(self.setting("validation", run), split_seed)

    def build(self, run: Any) -> Parts:
        """The run's network on its device, with optimizer and loss.

        Raises:
            TrainerError: a part is not what it should be.
        """
        network = build_network(self.network, run).to(choose_device(self.setting("device", run)))
        return Parts(network, build_optimizer(self.optimizer, run, network), build_loss(self.loss, run))

    def faults(self, runs: Sequence[Any], split_seed: int, project: Path, objective: str | None = None) -> list[str]:
        """What would go wrong in these runs, as far as building them tells."""
        return faults_of(self, runs, objective, split_seed, project)

    def exercise(self, run: Any, split_seed: int, project: Path) -> None:
        """Puts two samples through the run's network, in eval mode and in train mode, to see what it reads of the run."""
        exercise(self, run, split_seed, project)

    def train(self, run: Any, manager: RunManager, *, seed: int, split_seed: int, project: Path) -> None:
        """Trains a run from its seed; `manager` has begun it and gets its rows.

        The seed decides the first weights, the order of the batches and whatever draws from torch, numpy or random. The
        generators outside are left as they were.
        """
        splits = self.splits(run, split_seed, project)
        with seeded(seed):
            parts = self.build(run)
            stepper = SingleStepper(parts.network, parts.optimizer, parts.loss)
            batches, validation = self._loaders(run, splits, seed)
            manager.watch(parts.network, batches)
            device = parts.device
            for _ in range(self.setting("epochs", run)):
                manager.begin_epoch()
                train_epoch(stepper, batches, device, manager)
                if validation is not None:
                    manager.log(**evaluate(stepper, validation, device))
                manager.end_epoch()

    def _loaders(self, run: Any, splits: Splits, seed: int) -> "tuple[DataLoader[Any], DataLoader[Any] | None]":
        """The batches to train and to validate on. Each has a generator of its own, so neither changes what the network draws."""
        batch_size = self.setting("batch_size", run)
        order, unused = torch.Generator().manual_seed(seed), torch.Generator()
        batches = DataLoader(splits.train, batch_size=batch_size, shuffle=self.setting("shuffle", run), generator=order)
        if splits.validation is None:
            return batches, None
        return batches, DataLoader(splits.validation, batch_size=batch_size, generator=unused)


def train_epoch(stepper: Stepper, batches: Iterable[Any], device: torch.device, manager: RunManager) -> None:
    """One pass over the training data."""
    stepper.train(True)
    for inputs, targets in batches:
        inputs, targets = inputs.to(device, non_blocking=True), targets.to(device, non_blocking=True)
        loss, preds = stepper.step(inputs, targets)
        manager.track_loss(loss, inputs)
        if has_classes(preds, targets):
            manager.track_num_correct(preds, targets)


def evaluate(stepper: Stepper, batches: Iterable[Any], device: torch.device) -> dict[str, float]:
    """`val_loss`, and `val_accuracy` where targets are classes, over the validation data; waits for the device once."""
    loss, accuracy = Mean(1), Accuracy(1)
    stepper.train(False)
    for inputs, targets in batches:
        inputs, targets = inputs.to(device, non_blocking=True), targets.to(device, non_blocking=True)
        batch_loss, preds = stepper.evaluate(inputs, targets)
        loss.add(batch_loss, len(inputs))
        if has_classes(preds, targets):
            accuracy.add(preds, targets)
    results = {"val_loss": loss.compute(), "val_accuracy": accuracy.compute()}
    return {name: values[0] for name, values in results.items() if values}
