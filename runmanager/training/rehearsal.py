"""A rehearsal: a run goes through all that training does, with the first batch of its data and the last."""

import math
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, Subset

from runmanager.data.normalised import Normalised
from runmanager.data.resident import Resident
from runmanager.data.splits import Samples, Splits, targets_of
from runmanager.tracking.manager import RunManager
from runmanager.training.alone import Alone
from runmanager.training.epochs import evaluate, track
from runmanager.training.loaders import Batch, NotResident, ResidentSplits

if TYPE_CHECKING:
    from runmanager.training.trainer import Trainer

NUM_EPOCHS = 2
"""Of a rehearsal."""

_MOST_GATHERED, _GATHERED_AT_ONCE = 200_000, 1_000  # samples, whose targets are looked at by taking them
_LOOK_SECONDS, _MOST_STEPS = 0.5, 200


def rehearse(
    trainer: "Trainer", run: Any, splits: Splits, manager: RunManager, number: int, seed: int, project: Path
) -> None:
    """Trains a run for two epochs of the ends of its data; what it raises is what training it would raise.

    Args:
        trainer: whose run it is.
        run: the run.
        splits: all of its data.
        manager: tracks it, in a folder where nothing is kept.
        number: of the run.
        seed: what its random numbers come from.
        project: whose runs it may start from.
    """
    batch_size = trainer.setting("batch_size", run)
    data = _resident(trainer, run, splits)
    validation = None if splits.validation is None else ends(splits.validation, batch_size, data and data.validation)
    train = ends(splits.train, batch_size, data and data.train)
    part = replace(splits, train=train, validation=validation)
    with manager.tracking(run, number=number, seed=seed), trainer.ready(run, part, seed, project) as alone:
        alone.shown = DataLoader(splits.train)
        alone.parts.recipe.profile_steps = None  # it would be that of the ends
        alone.train(manager, NUM_EPOCHS)


def _resident(trainer: "Trainer", run: Any, splits: Splits) -> ResidentSplits | None:
    try:
        return trainer.resident(splits, trainer.device(run))
    except NotResident:
        return None


def ends(samples: Samples, batch_size: int, data: Resident | None = None) -> Samples:
    """The samples of the first batch, and of one that is as short as the last.

    The samples with the smallest and the largest target are among them: what a loss refuses is found there first.

    Args:
        samples: all that an epoch has.
        batch_size: of a batch.
        data: the same on the device, if they are there.
    """
    size = size_of(samples)
    if size is None:
        return _Beginning(samples, batch_size)
    num_last = (size - 1) % batch_size + 1
    if size <= batch_size + num_last:
        return samples
    rows = [*range(batch_size), *range(size - num_last, size)]
    for place, row in enumerate(_extremes(samples, data)):
        if row not in rows:
            rows[batch_size - 1 - place] = row
    return Subset(samples, rows)


def whole(samples: Any) -> Any:
    """The data set that a part was taken from, as it was before it was normalised."""
    return whole(samples.dataset) if isinstance(samples, (Subset, Normalised)) else samples


def size_of(samples: Samples) -> int | None:
    """How many samples there are; None for a stream that does not tell."""
    try:
        return len(samples)  # type: ignore[arg-type]
    except (TypeError, NotImplementedError):
        return None


class _Beginning(IterableDataset[Any]):
    """The first samples of a stream."""

    def __init__(self, samples: Samples, num_samples: int) -> None:
        self.samples, self.num_samples = samples, num_samples

    def __iter__(self) -> Iterator[Any]:
        return islice(iter(self.samples), self.num_samples)


def _extremes(samples: Samples, data: Resident | None) -> list[int]:
    """Where the smallest and the largest target are, or one that is no number; nowhere where they are not at hand."""
    targets = targets_of(samples)
    if targets is None and data is not None and len(data) <= _MOST_GATHERED:
        rows = torch.arange(len(data), device=data.device).split(_GATHERED_AT_ONCE)
        targets = torch.cat([data.batch(some)[1] for some in rows]).cpu()
    array = np.asarray([] if targets is None else targets)
    if array.ndim != 1 or not array.size or array.dtype.kind not in "biuf":
        return []
    return [int(array.argmin()), int(array.argmax())]


class UnknownSizeError(Exception):
    """How many steps an epoch has, only going through it tells."""


@dataclass(frozen=True)
class Measures:
    """What one run by itself takes."""

    num_steps: int  # of an epoch
    step_seconds: float  # its tracking included
    first_seconds: float  # of the first step, beyond that: processes that load data are started in it
    validation_seconds: float  # of an epoch
    state_bytes: int  # parameters, buffers, gradients and what the optimizer keeps
    activation_bytes: int  # what a step keeps for its backward pass; on a GPU, all that it allocates


def measure(
    trainer: "Trainer", run: Any, splits: Splits, manager: RunManager, number: int, seed: int, project: Path
) -> Measures:
    """Takes a few steps of a run, tracked as in training, and validates on a few batches.

    Raises:
        UnknownSizeError: the data is a stream that does not tell how long it is.
    """
    size, validation_size = size_of(splits.train), 0 if splits.validation is None else size_of(splits.validation)
    if size is None or validation_size is None:
        raise UnknownSizeError
    batch_size = trainer.setting("batch_size", run)
    with manager.tracking(run, number=number, seed=seed), trainer.ready(run, splits, seed, project) as alone:
        manager.begin_epoch()
        batches = _endless(alone)
        first_seconds = _seconds_of(alone, batches, 1, manager)
        state_bytes, activation_bytes = _footprint(alone, next(batches))
        step_seconds = _paced(alone, batches, manager)
        validation_seconds = _validation_seconds(alone, math.ceil(validation_size / batch_size))
        manager.end_epoch()
    num_steps = math.ceil(size / batch_size)
    beyond = max(0.0, first_seconds - step_seconds)
    return Measures(num_steps, step_seconds, beyond, validation_seconds, state_bytes, activation_bytes)


def pace(trainer: "Trainer", run: Any, splits: Splits, seed: int, project: Path, wait: Callable[[], None]) -> float:
    """The seconds of a step of a run, as they are after `wait` has returned; nothing is tracked."""
    with trainer.ready(run, splits, seed, project) as alone:
        batches = _endless(alone)
        _seconds_of(alone, batches, 2, None)
        wait()
        return _paced(alone, batches, None)


def _endless(alone: Alone) -> Iterator[Batch]:
    while True:
        yield from alone.batches.train()


def _paced(alone: Alone, batches: Iterator[Batch], manager: RunManager | None) -> float:
    """The seconds of a step, over as many as there is time for."""
    one = _seconds_of(alone, batches, 1, manager)
    num_steps = min(_MOST_STEPS, int(_LOOK_SECONDS / one))
    if num_steps < 2:
        return one
    return _seconds_of(alone, batches, num_steps, manager) / num_steps


def _seconds_of(alone: Alone, batches: Iterator[Batch], num_steps: int, manager: RunManager | None) -> float:
    alone.stepper.train(True)
    began = time.perf_counter()
    for inputs, targets in islice(batches, num_steps):
        outcome = alone.stepper.step(inputs, targets)
        if manager is not None:
            track(manager, outcome, 1)
    outcome.loss.item()  # waits for the device
    return time.perf_counter() - began


def _validation_seconds(alone: Alone, num_batches: int) -> float:
    """The seconds of an epoch's validation, from as many batches as there is time for."""
    batches = alone.batches.validation()
    if batches is None:
        return 0.0
    one = _evaluation_seconds(alone, islice(batches, 1))
    most = int(_LOOK_SECONDS / one)
    if most < 2:
        return one * num_batches
    again = alone.batches.validation() or batches
    return _evaluation_seconds(alone, islice(again, most)) * num_batches / min(most, num_batches)


def _evaluation_seconds(alone: Alone, batches: Iterable[Batch]) -> float:
    began = time.perf_counter()
    evaluate(alone.stepper, batches)
    return time.perf_counter() - began


def _footprint(alone: Alone, batch: Batch) -> tuple[int, int]:
    """The bytes of the run's state, and those that a step takes beside it."""
    alone.stepper.train(True)
    own = {tensor.data_ptr() for tensor in alone.parts.network.parameters()}
    kept: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        if tensor.layout == torch.strided and tensor.data_ptr() not in own:
            storage = tensor.untyped_storage()
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    device, before = alone.parts.device, 0
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        alone.stepper.step(*batch)
    taken = torch.cuda.max_memory_allocated(device) - before if device.type == "cuda" else sum(kept.values())
    return _state_bytes(alone), taken


def _state_bytes(alone: Alone) -> int:
    network, optimizer = alone.parts.network, alone.parts.optimizer
    params = list(network.parameters())
    tensors: list[Any] = [*params, *network.buffers(), *(param.grad for param in params)]
    tensors += [value for state in optimizer.state.values() if isinstance(state, dict) for value in state.values()]
    return sum(one.numel() * one.element_size() for one in tensors if isinstance(one, Tensor))
