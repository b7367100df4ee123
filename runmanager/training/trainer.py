"""The Trainer: a network, data, an optimizer and a loss in ordinary torch terms, and the loop that drives them."""

import copy
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch.nn import Module
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from runmanager.data.sources import splits_of
from runmanager.data.splits import Splits
from runmanager.tracking.faults import one_line
from runmanager.tracking.manager import RunManager
from runmanager.training.alone import Alone
from runmanager.training.check import exercise, faults_of
from runmanager.training.loaded import LoadedData
from runmanager.training.loaders import (
    LoadedBatches,
    NotResident,
    ResidentBatches,
    ResidentSplits,
    resident_splits,
)
from runmanager.training.parts import (
    Parts,
    build_loss,
    build_network,
    build_optimizer,
    build_scheduler,
    is_function_of_run,
    of_run,
)
from runmanager.training.seeding import seeded
from runmanager.training.settings import TrainerError, choose_device, default_of, setting_fault


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
        scheduler: Callable[[Any, Optimizer], LRScheduler] | None = None,
        epochs: Any = None,
        batch_size: Any = None,
        shuffle: Any = None,
        validation: Any = None,
        num_workers: Any = None,
        clip_norm: Any = None,
        device: Any = None,
        data_root: str | Path | None = None,
    ) -> None:
        """Nothing is built yet.

        Args:
            network: a Module class, a function of the run that returns a Module, or a Module that each run gets a copy of.
            data: a known name (`fashion_mnist`, `fashion_mnist_sample`), a Dataset, a (train, validation[, test]) tuple of
                them, an (inputs, targets) pair of tensors, or a function of the run that returns one of these. A function is called
                once for all runs in which it reads the same values.
            optimizer: a function of the run and its network.
            loss: a function of predictions and targets, or a function of the run that returns one.
            scheduler: a function of the run and its optimizer that returns one of torch.optim.lr_scheduler. It is stepped after
                each epoch.
            epochs: how many times the training data is gone through.
            batch_size: samples per step.
            shuffle: whether the training order is drawn anew in each epoch; by default it is.
            validation: the share of the training data that is held out for val_loss and val_accuracy, by default 0.1; the cut
                is the same for all runs of a sweep, and each class gives its share.
            num_workers: how many processes load the batches of data that cannot be resident, by default 0: this one does.
            clip_norm: the most that the norm of a run's whole gradient may be; a larger one is scaled down to it. By default any.
            device: 'cuda', 'mps', 'cpu' or a torch.device; by default the first of these that there is.
            data_root: where to look for a known data set first.
        """
        self.network, self.data, self.optimizer, self.loss, self.scheduler = network, data, optimizer, loss, scheduler
        self._given = {
            "epochs": epochs,
            "batch_size": batch_size,
            "shuffle": shuffle,
            "validation": validation,
            "num_workers": num_workers,
            "clip_norm": clip_norm,
            "device": device,
        }
        self.data_root = Path(data_root) if data_root is not None else None
        self._loaded = LoadedData()

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
        given |= {name: default_of(name) for name in ("shuffle", "validation") if given[name] is None}
        plain = (bool, int, float, str)
        beside = ("device", "num_workers")  # where it is reached
        return {name: value for name, value in given.items() if name not in beside and isinstance(value, plain)}

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
        """The data of a run, its validation split cut; as it was when it was loaded, whatever was drawn from it since.

        Raises:
            DataError: the data is nothing that can be trained on.
            DataNotFoundError: a known data set is nowhere.
        """

        def load(run: Any) -> Splits:
            data = of_run(self.data, run) if is_function_of_run(self.data) else self.data
            return splits_of(data, self.data_root, project)

        return self._loaded.splits(load, run, project, validation=self.setting("validation", run), seed=split_seed)

    def build(self, run: Any) -> Parts:
        """The run's network on its device, with optimizer, schedule and loss.

        Raises:
            TrainerError: a part is not what it should be.
        """
        device = choose_device(self.setting("device", run))
        network = build_network(self.network, run).to(device)
        optimizer = build_optimizer(self.optimizer, run, network)
        scheduler = build_scheduler(self.scheduler, run, optimizer)
        return Parts(network, optimizer, build_loss(self.loss, run, device), scheduler)

    def faults(
        self,
        runs: Sequence[Any],
        split_seed: int,
        project: Path,
        objective: str | None = None,
        *,
        checkpoints: bool = True,
    ) -> list[str]:
        """What would go wrong in these runs, as far as building them tells.

        Args:
            runs: the runs.
            split_seed: decides the validation split.
            project: where a known data set is looked for.
            objective: the metric that has to be there.
            checkpoints: whether the runs' states will be saved.
        """
        with self._loaded.left_as_it_was():
            return faults_of(self, runs, objective, split_seed, project, checkpoints)

    def exercise(self, run: Any, split_seed: int, project: Path) -> None:
        """Puts two samples through the run's network, in eval mode and in train mode, to see what it reads of the run."""
        with self._loaded.left_as_it_was():
            exercise(self, run, split_seed, project)

    def train(self, run: Any, manager: RunManager, *, seed: int, split_seed: int, project: Path) -> None:
        """Trains a run from its seed, or from where an earlier attempt left it; `manager` has begun it and gets its rows.

        The seed decides the first weights, the order of the batches and whatever draws from torch, numpy or random. The
        generators outside are left as they were. A run that was stopped reaches the same numbers as one that was not.

        Raises:
            TrainerError: the run is built from other parts than those whose state was saved.
        """
        splits = self.splits(run, split_seed, project)
        with self.ready(run, splits, seed) as alone:
            alone.train(manager, self.setting("epochs", run))

    @contextmanager
    def ready(self, run: Any, splits: Splits, seed: int) -> Iterator[Alone]:
        """A run that is to be trained by itself, and inside the `with` the random numbers that are its own.

        Args:
            run: the run.
            splits: its data, or as much of it as it is to see.
            seed: what its random numbers come from.
        """
        with self._loaded.left_as_it_was(), seeded(seed):
            parts = self.build(run)
            order = torch.Generator().manual_seed(seed)
            batches = self._batches(run, splits, order, seed, parts.device)
            yield Alone(parts, order, splits, batches, self.setting("clip_norm", run))

    def train_group(
        self,
        runs: Sequence[Any],
        manager: RunManager,
        *,
        numbers: Sequence[int],
        seeds: Sequence[int],
        arithmetic: str,
        split_seed: int,
        project: Path,
    ) -> None:
        """Trains runs together, each as `train` does it alone to within rounding; `manager` has begun them as a group.

        Raises:
            GroupBroken: they cannot be trained together, or not so many of them.
        """
        from runmanager.training.group import Group, GroupBroken

        try:
            first, *others = [self.splits(run, split_seed, project) for run in runs]
        except Exception as error:
            raise GroupBroken(1, f"the data of a run cannot be had ({one_line(error)[:200]})") from error
        if any(one is not first for one in others):
            raise GroupBroken(1, "the runs of the group have different data")
        with self._loaded.left_as_it_was():
            Group(self, manager, first, arithmetic).train(runs, numbers, seeds)

    def not_resident(self, run: Any, splits: Splits) -> str | None:
        """Why a run's data cannot stay on its device, and is read by a DataLoader instead; None where it can."""
        try:
            self.resident(splits, choose_device(self.setting("device", run)))
        except NotResident as reason:
            return str(reason)
        return None

    def resident(self, splits: Splits, device: torch.device) -> ResidentSplits:
        """The data on a device, once for all runs of this process.

        Raises:
            NotResident: why it cannot be there.
        """
        try:
            return resident_splits(splits, device)
        finally:
            self._loaded.rewind()  # a data set that draws has drawn while it was found out

    def _batches(
        self, run: Any, splits: Splits, order: torch.Generator, seed: int, device: torch.device
    ) -> ResidentBatches | LoadedBatches:
        batch_size, shuffle = self.setting("batch_size", run), self.setting("shuffle", run)
        try:
            data = self.resident(splits, device)
        except NotResident:
            num_workers = self.setting("num_workers", run)
            return LoadedBatches(
                splits, order, seed, device, batch_size=batch_size, shuffle=shuffle, num_workers=num_workers
            )
        return ResidentBatches(data, [order], batch_size=batch_size, shuffles=[shuffle])
