"""The Trainer: a network, data, an optimizer and a loss in ordinary torch terms, and the loop that drives them."""

import copy
import inspect
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import Module
from torch.optim import Optimizer
from torch.utils.data import DataLoader

from runmanager.data.sources import splits_of
from runmanager.data.splits import Splits
from runmanager.tracking.manager import RunManager
from runmanager.tracking.meters import Accuracy, Mean
from runmanager.training.seeding import seeded
from runmanager.training.steppers import Loss, SingleStepper, Stepper

SETTINGS = ("epochs", "batch_size", "shuffle", "validation", "device")
"""What a Trainer reads from the run by itself when the grid has a parameter of that name."""

_DEFAULTS = {"shuffle": True, "validation": 0.1, "device": None}
_USUAL = {
    "lr": "0.01",
    "momentum": "0.9",
    "weight_decay": "0.0001",
    "batch_size": "100",
    "dropout": "0.5",
    "epochs": "3",
}


class TrainerError(ValueError):
    """A part of the Trainer cannot be used; the message names it and says what to write."""


@dataclass
class Parts:
    """What one run is trained with."""

    network: Module
    optimizer: Optimizer
    loss: Loss


class Trainer:
    """Trains a run of the sweep. Every argument is a value, or a function of the run that returns one.

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

    def setting(self, name: str, run: Any) -> Any:
        """What a setting is for a run: as given here, else from the run, else the default.

        Raises:
            TrainerError: it is neither given nor in the grid, or its value makes no sense.
        """
        value = self._given[name]
        if value is None:
            value = getattr(run, name) if name in run._fields else _DEFAULTS.get(name, _missing(name))
        elif callable(value):
            value = value(run)
        fault = _setting_fault(name, value)
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
        data = _of_run(self.data, run) if _is_function_of_run(self.data) else self.data
        return splits_of(data, self.data_root, project).with_validation(self.setting("validation", run), split_seed)

    def has_validation(self, run: Any, split_seed: int, project: Path) -> bool:
        """Whether there will be val_loss."""
        return self.splits(run, split_seed, project).validation is not None

    def build(self, run: Any) -> Parts:
        """The run's network on its device, with optimizer and loss.

        Raises:
            TrainerError: a part is not what it should be.
        """
        network = _network_of(self.network, run)
        network.to(choose_device(self.setting("device", run)))
        if isinstance(self.optimizer, type) or not callable(self.optimizer):
            raise TrainerError(
                f"optimizer={_name(self.optimizer)} has to be a function of the run and its network; "
                "write optimizer=lambda run, network: torch.optim.Adam(network.parameters(), lr=run.lr)"
            )
        optimizer = self.optimizer(run, network)
        if not isinstance(optimizer, Optimizer):
            raise TrainerError(f"the optimizer function returned {_name(optimizer)}, not a torch.optim.Optimizer")
        return Parts(network, optimizer, _loss_of(self.loss, run))

    def train(self, run: Any, manager: RunManager, *, seed: int, split_seed: int, project: Path) -> None:
        """Trains a run from its seed; `manager` has begun it and gets its rows.

        The seed decides the first weights, the order of the batches and whatever draws from torch, numpy or random. The
        generators outside are left as they were.
        """
        with seeded(seed):
            splits = self.splits(run, split_seed, project)
        with seeded(seed):
            parts = self.build(run)
            stepper = SingleStepper(parts.network, parts.optimizer, parts.loss)
            batch_size, shuffle = self.setting("batch_size", run), self.setting("shuffle", run)
            order = torch.Generator().manual_seed(seed)
            batches = DataLoader(splits.train, batch_size=batch_size, shuffle=shuffle, generator=order)
            validation = DataLoader(splits.validation, batch_size=batch_size) if splits.validation is not None else None
            manager.watch(parts.network, batches)
            device = next((param.device for param in parts.network.parameters()), torch.device("cpu"))
            for _ in range(self.setting("epochs", run)):
                manager.begin_epoch()
                train_epoch(stepper, batches, device, manager)
                if validation is not None:
                    manager.log(**evaluate(stepper, validation, device))
                manager.end_epoch()

    def faults(self, runs: Sequence[Any], split_seed: int, project: Path) -> list[str]:
        """What would go wrong in these runs, as far as building them tells; the first also tries the network on its data."""
        found: dict[str, None] = {}
        for index, run in enumerate(runs):
            with seeded(0):
                self._note_faults(found, run, index == 0, split_seed, project)
        return list(found)

    def _note_faults(self, found: dict[str, None], run: Any, is_first: bool, split_seed: int, project: Path) -> None:
        before = len(found)
        for name in SETTINGS:
            _note(found, name, partial(self.setting, name, run))
        parts = _note(found, "network, optimizer or loss", partial(self.build, run))
        if is_first or _is_function_of_run(self.data):
            splits = _note(found, "data", partial(self.splits, run, split_seed, project))
            if parts and splits and len(found) == before:
                _note(found, "first batch", partial(_try_batch, parts, splits))


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


def has_classes(preds: Tensor, targets: Tensor) -> bool:
    """Whether targets are class numbers and predictions are their scores, so that there is an accuracy."""
    return not targets.is_floating_point() and preds.ndim == targets.ndim + 1


def choose_device(device: Any) -> torch.device:
    """The device that was asked for, or the best there is.

    Raises:
        TrainerError: there is no such device here.
    """
    if device is None:
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
        return torch.device(name)
    try:
        chosen = torch.device(device)
    except (RuntimeError, TypeError):
        raise TrainerError(f"device={device!r} is unknown; choose 'cuda', 'mps' or 'cpu', or leave it out") from None
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not there.get(chosen.type, True):
        raise TrainerError(f"device={device!r} was asked for, but there is none here; choose 'cpu', or leave it out")
    return chosen


def _try_batch(parts: Parts, splits: Splits) -> None:
    """Two samples through network and loss."""
    loader = DataLoader(splits.train, batch_size=2)
    batch = next(iter(loader))
    if not isinstance(batch, (list, tuple)) or len(batch) != 2 or not all(isinstance(one, Tensor) for one in batch):
        raise TrainerError("the data gives no (inputs, targets) pairs of tensors; let __getitem__ return such a pair")
    device = next((param.device for param in parts.network.parameters()), torch.device("cpu"))
    inputs, targets = batch[0].to(device), batch[1].to(device)
    shapes = f"inputs {list(inputs.shape)}, targets {list(targets.shape)}"
    parts.network.eval()
    with torch.no_grad():
        try:
            loss = parts.loss(parts.network(inputs), targets)
        except (RuntimeError, TypeError, ValueError, IndexError) as error:
            raise TrainerError(f"{shapes} do not go through: {type(error).__name__}: {error}") from error
    if loss.ndim != 0:
        raise TrainerError(f"the loss has shape {list(loss.shape)}; return its mean over the batch, shape []")


def _note(found: dict[str, None], part: str, make: Callable[[], Any]) -> Any:
    """What `make` returns; where it raises, None, and the fault is noted."""
    try:
        return make()
    except AttributeError as error:
        if error.name and hasattr(error.obj, "_fields"):
            names = ", ".join(error.obj._fields) or "no parameters"
            example = _USUAL.get(error.name, "...")
            found[f"the {part} reads run.{error.name}, but the grid has {names}; add {error.name}=[{example}]"] = None
        else:
            found[f"{part}: AttributeError: {error}"] = None
    except (TrainerError, FileNotFoundError) as error:
        found[f"{part}: {error}" if part == "first batch" else str(error)] = None
    except Exception as error:  # noqa: BLE001 (the user's own functions may raise anything, and all of it is a fault)
        found[f"{part}: {type(error).__name__}: {error}"] = None
    return None


def _network_of(network: Any, run: Any) -> Module:
    if isinstance(network, Module):
        return copy.deepcopy(network)
    made = _of_run(network, run) if callable(network) else network
    if not isinstance(made, Module):
        raise TrainerError(
            f"network={_name(network)} gives {_name(made)}; give a Module class or a function that returns a Module"
        )
    return made


def _loss_of(loss: Any, run: Any) -> Loss:
    if not callable(loss):
        raise TrainerError(f"loss={_name(loss)} is no function of predictions and targets; write loss=F.cross_entropy")
    if isinstance(loss, Module) or (not isinstance(loss, type) and _num_required(loss) != 1):
        return loss
    made = _of_run(loss, run)
    if not callable(made):
        raise TrainerError(f"the loss function of the run returned {_name(made)}, which cannot be called")
    return made  # type: ignore[no-any-return]


def _is_function_of_run(data: Any) -> bool:
    return inspect.isfunction(data) or inspect.ismethod(data)


def _of_run(make: Callable[..., Any], run: Any) -> Any:
    """Calls `make` with the run, or with nothing where it takes nothing."""
    return make(run) if _num_required(make) >= 1 else make()


def _num_required(function: Callable[..., Any]) -> int:
    """How many arguments a call must give by position; 2 for what has no signature, as C functions."""
    try:
        params = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return 2
    by_position = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return sum(param.kind in by_position and param.default is inspect.Parameter.empty for param in params)


def _missing(name: str) -> Any:
    return _Missing if name in ("epochs", "batch_size") else None


class _Missing:
    """Stands for a setting that nobody gave."""


def _setting_fault(name: str, value: Any) -> str | None:
    if value is _Missing:
        return f"{name} is neither given to the Trainer nor in the grid; add {name}={_USUAL[name]}"
    if name in ("epochs", "batch_size") and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
        return f"{name}={value!r} is not a whole number of 1 or more"
    if name == "shuffle" and not isinstance(value, bool):
        return f"shuffle={value!r} is neither True nor False"
    if name == "validation" and (isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < 1):
        return f"validation={value!r} is no share of the training data; give a number from 0 up to, not including, 1"
    return None


def _name(value: Any) -> str:
    return getattr(value, "__qualname__", None) or f"a {type(value).__name__}"
