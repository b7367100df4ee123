"""The batches of a run or of a group: taken from resident data by index, or read by a DataLoader where that has to be."""

import ctypes
import multiprocessing
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, Protocol

import torch
from torch import Generator, Tensor
from torch.utils.data import DataLoader, default_collate

from runmanager.data.balance import balanced_order, balanced_sampler, class_shares, targets_tensor
from runmanager.data.collating import collated
from runmanager.data.order import epoch_order
from runmanager.data.resident import NotResident, Resident, memory_budget, resident
from runmanager.data.splits import DataError, Samples, Splits
from runmanager.tracking.generators import own_generators, state_of

_SET_PARENT_DEATH_SIGNAL = 1
_AS_TRAINED = 0  # the seed of an order that is no epoch's

Batch = tuple[Tensor, Tensor]
"""Inputs [N, ...] and targets [N, ...], on the device; of a group whose members have batches of their own [K, N, ...]."""


class _Shown:
    """Stands for a loader of resident data, for those who show samples; it is its own data set."""

    collate_fn = staticmethod(default_collate)

    def __init__(self, data: Resident) -> None:
        self._data = data

    @property
    def dataset(self) -> "_Shown":
        return self

    def __len__(self) -> int:
        return len(self._data)

    def __getitem__(self, index: int) -> Batch:
        inputs, targets = self._data.batch(torch.tensor([index], device=self._data.device))
        return inputs[0], targets[0]

    def as_seen(self, inputs: Tensor) -> Tensor:
        """What people are shown of inputs [N, ...]: what they were before they were normalised."""
        return self._data.as_seen(inputs)


class Batches(Protocol):
    """The batches to train and to validate on."""

    shown: Any
    """A loader, or what stands for one, for those who show samples. Where its inputs are normalised, its `dataset` has a method
    `as_seen` that gives for them what people are to see."""

    def train(self) -> Iterator[Batch]:
        """One epoch of training batches."""
        ...

    def in_order(self) -> Iterator[Batch]:
        """The training samples in the order in which they lie; the order of the epochs does not notice."""
        ...

    def as_trained(self) -> Iterator[Batch]:
        """The training batches of an epoch in an order like any other, the same each time; the epochs do not notice."""
        ...

    def validation(self) -> Iterator[Batch] | None:
        """The batches to validate on; None where there are none."""
        ...


class ResidentSplits(NamedTuple):
    """Training and validation data on the device."""

    train: Resident
    validation: Resident | None


def resident_splits(splits: Splits, device: torch.device) -> ResidentSplits:
    """The data on a device, made once for all runs of this process.

    Raises:
        NotResident: why it cannot be there.
    """
    budget = memory_budget(device)

    def one(split: Samples) -> Resident:
        found = own_generators({"data": split}).values()
        return resident(split, device, budget=budget, watched=lambda: [state_of(one) for one in found])

    return ResidentSplits(one(splits.train), None if splits.validation is None else one(splits.validation))


def is_balanced(sampling: str | None) -> bool:
    """Whether samples are drawn so that all classes come equally often.

    Raises:
        DataError: the setting says something else.
    """
    if sampling not in (None, "balanced"):
        raise DataError(f"sampling={sampling!r} is unknown; give 'balanced', or None for each sample once in an epoch")
    return sampling is not None


class _Way(NamedTuple):
    """How a member goes through the samples."""

    shuffle: bool
    sampling: str | None


class ResidentBatches:
    """Batches by index, in the order in which a DataLoader with the same generator would give them.

    The members of a group each have an order of their own, and share the batches where none of them is shuffled or draws its
    samples.
    """

    def __init__(
        self,
        data: ResidentSplits,
        orders: Sequence[Generator],
        *,
        batch_size: int,
        shuffles: Sequence[bool],
        samplings: Sequence[str | None] | None = None,
    ) -> None:
        """Reads nothing yet.

        Args:
            data: training and validation data.
            orders: draws the order of each member, [K].
            batch_size: samples per step.
            shuffles: whether each member's order is drawn, [K].
            samplings: "balanced" for members whose samples are drawn so that all classes come equally often, shuffled or not, [K];
                None for the others.

        Raises:
            DataError: a sampling is unknown, or the targets are no classes.
        """
        samplings = [None] * len(orders) if samplings is None else list(samplings)
        self._data, self._orders, self._batch_size = data, list(orders), batch_size
        self._ways = [_Way(shuffle, way) for shuffle, way in zip(shuffles, samplings, strict=True)]
        self._weights = class_shares(_classes(data.train)) if any(map(is_balanced, samplings)) else None
        self._rows = torch.empty(len(orders), 0)  # of the epoch under way
        self.shown = _Shown(data.train)
        self.are_shared = len(orders) == 1 or not any(shuffle or way for shuffle, way in self._ways)
        """Whether all members have the same batches, so that these have no K."""

    @property
    def device(self) -> torch.device:
        """Where the data is."""
        return self._data.train.device

    def keep(self, indices: Sequence[int]) -> None:
        """Goes on with some of the members."""
        self._orders = [self._orders[index] for index in indices]
        self._ways = [self._ways[index] for index in indices]
        if not self.are_shared:
            self._rows = self._rows[list(indices)]

    def train(self) -> Iterator[Batch]:
        """See `Batches`."""
        self._rows = self._new_rows()
        for start in range(0, self._rows.shape[-1], self._batch_size):  # a member may leave in the middle of an epoch
            yield self._data.train.batch(self._rows[..., start : start + self._batch_size])

    def last(self) -> Batch:
        """The last batch of an epoch, which may be a short one."""
        rows = self._new_rows()
        return self._data.train.batch(rows[..., (rows.shape[-1] - 1) // self._batch_size * self._batch_size :])

    def _new_rows(self) -> Tensor:
        """The samples of the epoch in each member's order, [K, N], or [N] where the batches are shared."""
        each = [self._order(way, order) for way, order in zip(self._ways, self._orders, strict=True)]
        return (each[0] if self.are_shared else torch.stack(each)).to(self._data.train.device)

    def _order(self, way: _Way, generator: Generator) -> Tensor:
        """The samples of one member's epoch, int64 [N]."""
        if way.sampling is None or self._weights is None:
            return epoch_order(len(self._data.train), way.shuffle, generator)
        return balanced_order(self._weights, generator)

    def sample(self) -> Tensor:
        """The inputs of the first training sample, [1, ...]."""
        inputs, _ = self._data.train.batch(torch.zeros(1, dtype=torch.int64, device=self.device))
        return inputs

    def in_order(self) -> Iterator[Batch]:
        """See `Batches`; the same for all members."""
        return self._through(self._data.train)

    def as_trained(self) -> Iterator[Batch]:
        """See `Batches`; [K, N, ...] each where the members go through the samples in different ways."""
        ways = self._ways[:1] if self.have_one_way else self._ways
        each = [self._order(way, Generator().manual_seed(_AS_TRAINED)) for way in ways]
        return self._through(self._data.train, each[0] if self.have_one_way else torch.stack(each))

    @property
    def have_one_way(self) -> bool:
        """Whether all members are shuffled and draw their samples alike, so that batches as trained have no K."""
        return len(set(self._ways)) == 1

    def validation(self) -> Iterator[Batch] | None:
        """See `Batches`; the same for all members."""
        return None if self._data.validation is None else self._through(self._data.validation)

    def _through(self, data: Resident, order: Tensor | None = None) -> Iterator[Batch]:
        rows = (torch.arange(len(data)) if order is None else order).to(data.device)
        for start in range(0, rows.shape[-1], self._batch_size):
            yield data.batch(rows[..., start : start + self._batch_size])


class LoadedBatches:
    """Batches that a DataLoader reads, of data that cannot be resident.

    Each loader has a generator of its own, so neither changes what the network draws. Processes that load batches start anew
    in each epoch: one that lived on would have random numbers that nobody can save.
    """

    def __init__(
        self,
        splits: Splits,
        order: Generator,
        seed: int,
        device: torch.device,
        *,
        batch_size: int,
        shuffle: bool,
        num_workers: int,
        sampling: str | None = None,
    ) -> None:
        """Begins no process yet.

        Args:
            splits: the data.
            order: draws the order of the training samples.
            seed: what the validation loader draws from.
            device: where the batches go.
            batch_size: samples per step.
            shuffle: whether the training order is drawn.
            num_workers: how many processes read.
            sampling: "balanced" to draw samples so that all classes come equally often, shuffled or not; or None.

        Raises:
            DataError: the sampling is unknown, or the targets are no classes.
        """
        self._seed, self._device, self._draws = seed, device, Generator()
        settings: dict[str, Any] = {"batch_size": batch_size, "num_workers": num_workers, "collate_fn": collated}
        if num_workers:
            settings["worker_init_fn"] = _begin_loading
        self.shown: DataLoader[Any] = DataLoader(
            splits.train, generator=order, **_order_settings(splits.train, order, shuffle, sampling), **settings
        )
        self._in_order: DataLoader[Any] = DataLoader(splits.train, generator=self._draws, **settings)
        self._train, self._settings = splits.train, settings
        self._way = _Way(shuffle, sampling)
        self._validation: DataLoader[Any] | None = None
        if splits.validation is not None:
            self._validation = DataLoader(splits.validation, generator=self._draws, **settings)

    def train(self) -> Iterator[Batch]:
        """See `Batches`."""
        return self._on_device(self.shown)

    def in_order(self) -> Iterator[Batch]:
        """See `Batches`."""
        self._draws.manual_seed(self._seed)
        return self._on_device(self._in_order)

    def as_trained(self) -> Iterator[Batch]:
        """See `Batches`."""
        order = Generator().manual_seed(_AS_TRAINED)
        way = _order_settings(self._train, order, *self._way)
        return self._on_device(DataLoader(self._train, generator=order, **way, **self._settings))

    def validation(self) -> Iterator[Batch] | None:
        """See `Batches`. What loads them draws the same in each epoch, so that nothing of it has to be saved."""
        self._draws.manual_seed(self._seed)
        return None if self._validation is None else self._on_device(self._validation)

    def _on_device(self, loader: "DataLoader[Any]") -> Iterator[Batch]:
        for inputs, targets in loader:
            yield inputs.to(self._device, non_blocking=True), targets.to(self._device, non_blocking=True)


def _order_settings(dataset: Samples, order: Generator, shuffle: bool, sampling: str | None) -> dict[str, Any]:
    """What tells a DataLoader the order of the samples."""
    if not is_balanced(sampling):
        return {"shuffle": shuffle}
    return {"sampler": balanced_sampler(class_shares(targets_tensor(dataset)), order)}


def _classes(data: Resident) -> Tensor:
    """The class of each sample, int64 [N] on the CPU; or what is refused as no classes."""
    targets = data.targets().cpu()
    return targets if targets.is_floating_point() else targets.to(torch.int64)


def _begin_loading(number: int) -> None:
    """In a process that loads batches: it goes on at Ctrl-C, since the epoch may be ended yet, and dies with its parent."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_SET_PARENT_DEATH_SIGNAL, ctypes.c_ulong(signal.SIGKILL))
        parent = multiprocessing.parent_process()
        if parent is not None and multiprocessing.get_start_method() == "fork" and os.getppid() != parent.pid:
            os._exit(1)  # it was dead already, and nobody would ever ask for a batch


__all__ = ["Batch", "Batches", "LoadedBatches", "NotResident", "ResidentBatches", "ResidentSplits", "resident_splits"]
