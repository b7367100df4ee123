"""Data sets that stay on the device, from which batches are taken by index."""

import math
import os
import sys
import weakref
import zlib
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Subset

from runmanager.data.columns import Column
from runmanager.data.draws import Draws
from runmanager.data.making import OneByOne, TooLarge, from_pictures, from_tensors, is_quick, is_same, room
from runmanager.data.normalised import Normalised
from runmanager.data.normalization import Normalization
from runmanager.data.reading import NotResident as NotResident
from runmanager.data.reading import refuse_own_batches, size_of
from runmanager.data.splits import targets_of
from runmanager.machine import memory

_LARGE = 10_000  # samples of a data set of which a small part is read alone


class Resident:
    """A data set whose samples stay on a device; several parts of one data set share them."""

    def __init__(self, inputs: Column, targets: Column, rows: Tensor | None = None) -> None:
        """`rows` are the part's samples among all, int64 [N]; None for all of them."""
        self._inputs, self._targets = inputs, targets
        self._rows = None if rows is None else rows.to(inputs.device)

    def __len__(self) -> int:
        return len(self._inputs) if self._rows is None else len(self._rows)

    @property
    def device(self) -> torch.device:
        """Where the samples are."""
        return self._inputs.device

    @property
    def num_bytes(self) -> int:
        """What they take there, with those of the other parts."""
        return self._inputs.num_bytes + self._targets.num_bytes

    def batch(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Inputs and targets, each [B, ...], of the samples `rows`: int64 [B] on the device; or [K, B, ...] of rows [K, B].

        They are bit-equal to what `default_collate` makes of the samples.
        """
        if self._rows is not None:
            rows = self._rows.index_select(0, rows.reshape(-1)).view(rows.shape)
        return self._inputs.take(rows), self._targets.take(rows)

    def targets(self) -> Tensor:
        """The targets of all samples, [N, ...]."""
        rows = torch.arange(len(self), device=self.device) if self._rows is None else self._rows
        return self._targets.take(rows)

    def as_seen(self, inputs: Tensor) -> Tensor:
        """What people are shown of inputs [N, ...]: what they were before they were normalised, to within rounding."""
        return self._inputs.plain(inputs)


def resident(
    dataset: Any, device: torch.device | str, *, budget: int, watched: Callable[[], Any] = lambda: None
) -> Resident:
    """A data set on a device, if its samples are the same whenever they are read.

    Subsets of one data set share what was made of it, in this call or an earlier one, for as long as the data set lives.
    The global random number generators are left as they were found.

    Args:
        dataset: gives pairs of inputs and targets, each a tensor or a number.
        device: where the samples will be.
        budget: the bytes that they may take.
        watched: gives the states of the data set's own generators; it is noticed when they draw, but they are not put back.

    Raises:
        NotResident: why it cannot be.
    """
    place = _numbered(torch.device(device))
    base, rows, normalizations = _whole(dataset)
    part = Subset(base, rows.tolist()) if normalizations and rows is not None else dataset
    if rows is not None and _is_small_part(base, rows, place):
        base, rows = part, None
    try:
        samples = _samples(base, place, budget, watched)
    except NotResident:
        if rows is None:
            raise
        # the part may fit, or be without the odd samples
        samples, rows = _samples(part, place, budget, watched), None
    inputs = samples.inputs
    for normalization in normalizations:
        inputs = inputs.normalised(normalization)
    return Resident(inputs, samples.targets, rows)


def memory_budget(device: torch.device | str) -> int:
    """The bytes that resident data may take: half of what is free on a GPU, else this worker's share of a quarter."""
    place = torch.device(device)
    if place.type == "cuda":
        return int(torch.cuda.mem_get_info(place)[0] // 2)
    workers = os.environ.get("RUNMANAGER_WORKERS", "")
    free = memory()[1] / 4 / (max(1, int(workers)) if workers.isdecimal() else 1)
    return sys.maxsize if math.isinf(free) else int(free)


def _numbered(device: torch.device) -> torch.device:
    """With the number that tensors on it have."""
    return torch.device("cuda", torch.cuda.current_device()) if device == torch.device("cuda") else device


def _whole(dataset: Any) -> tuple[Any, Tensor | None, list[Normalization]]:
    """The data set that this one is a part of, which of its samples, [N], None if all, and what they are normalised by."""
    rows: Tensor | None = None
    normalizations: list[Normalization] = []
    while (is_normalised := type(dataset) is Normalised) or _is_subset(dataset):
        if is_normalised:
            normalizations.insert(0, dataset.normalization)
        else:
            inner = _rows(dataset.indices, size_of(dataset.dataset))
            rows = inner if rows is None else inner[rows]
        dataset = dataset.dataset
    return dataset, rows, normalizations


def _is_subset(dataset: Any) -> bool:
    """Whether it is torch's, or of a class that picks samples no other way."""
    ways = ("__getitem__", "__getitems__", "__len__")
    return isinstance(dataset, Subset) and all(getattr(type(dataset), way) is getattr(Subset, way) for way in ways)


def _rows(indices: Any, size: int) -> Tensor:
    """A subset's indices, int64 [N]."""
    try:
        rows = torch.as_tensor(indices, device="cpu")
    except (TypeError, ValueError, RuntimeError) as error:
        raise NotResident(f"the indices of its subset are no numbers ({error})") from error
    if rows.dim() != 1 or rows.numel() == 0:
        raise NotResident("it has no samples")
    if rows.is_floating_point() or rows.dtype == torch.bool or rows.min() < 0 or rows.max() >= size:
        raise NotResident(f"the indices of its subset are not all whole numbers from 0 to {size - 1}")
    return rows.to(torch.int64)


def _is_small_part(base: Any, rows: Tensor, device: torch.device) -> bool:
    """Whether most of a data set would be read in vain: of one that is read sample by sample and is not there yet."""
    size = size_of(base)
    return not is_quick(base) and size >= _LARGE and 4 * len(rows) < size and device not in _kept_of(base)


class _Samples(NamedTuple):
    """What is kept of a data set, and the mark of the targets that it was made with."""

    inputs: Column
    targets: Column
    mark: int | None


_Kept = dict[torch.device, _Samples | str]  # a text is the reason why it is not kept
_KEPT: dict[int, tuple["weakref.ref[Any]", _Kept]] = {}  # by id: a data set may have no hash, or be equal to another


def _kept_of(dataset: Any) -> _Kept:
    """What was made of a data set before. It is forgotten when the data set dies, and does not keep it alive."""
    key = id(dataset)
    reference, kept = _KEPT.get(key, (None, {}))
    if reference is None or reference() is not dataset:
        kept = {}
        try:
            _KEPT[key] = weakref.ref(dataset, lambda gone: _forget(key, gone)), kept
        except TypeError:  # of a class that cannot be referred to weakly
            pass
    return kept


def _forget(key: int, gone: "weakref.ref[Any]") -> None:
    if key in _KEPT and _KEPT[key][0] is gone:
        del _KEPT[key]


def _samples(dataset: Any, device: torch.device, budget: int, watched: Callable[[], Any]) -> _Samples:
    """All samples of a data set, made now or before."""
    kept = _kept_of(dataset)
    known = kept.get(device)
    if isinstance(known, str):
        raise NotResident(known)
    refuse_own_batches(dataset)
    with Draws(watched) as draws:
        for place in dict.fromkeys((device, *kept)):  # what is on another device need not be read again
            known = kept.get(place)
            if isinstance(known, _Samples) and _is_still(dataset, known) and draws.found() is None:
                samples = kept[device] = _moved(known, device, budget)
                return samples
            kept.pop(place, None)
        return _make(dataset, device, budget, draws, kept)


def _moved(samples: _Samples, device: torch.device, budget: int) -> _Samples:
    """The same on a device; themselves where they are there."""
    if samples.inputs.device != device:
        room(budget, device)(samples.inputs.num_bytes + samples.targets.num_bytes)
    return _Samples(samples.inputs.to(device), samples.targets.to(device), samples.mark)


def _is_still(dataset: Any, samples: _Samples) -> bool:
    """Whether a data set still gives what was made of it: a function of the run may have changed it since."""
    is_alike = len(samples.inputs) == size_of(dataset) and samples.mark == _mark(dataset)
    return is_alike and is_same(dataset, (samples.inputs, samples.targets))


def _mark(dataset: Any) -> int | None:
    """A number that stands for all targets, where the data set has them at hand."""
    try:
        targets = targets_of(dataset)
        return None if targets is None else zlib.crc32(np.ascontiguousarray(targets).tobytes())
    except (TypeError, ValueError, RuntimeError):  # they make no array
        return None


def _make(dataset: Any, device: torch.device, budget: int, draws: Draws, kept: _Kept) -> _Samples:
    size, ask = size_of(dataset), room(budget, device)
    columns = from_tensors(dataset, device, ask) or from_pictures(dataset, device, ask)
    if columns is None:
        one_by_one = OneByOne(dataset, size, ask if device.type == "cpu" else _host_too(ask), draws)
        try:
            columns = one_by_one.columns()
        except NotResident as reason:
            if not isinstance(reason, TooLarge):
                kept[device] = str(reason)  # it took a while to find out
            raise
    inputs, targets = (column.to(device) for column in columns)
    samples = kept[device] = _Samples(inputs, targets, _mark(dataset))
    return samples


def _host_too(ask: Callable[[int], None]) -> Callable[[int], None]:
    """For samples that are put together in this process before they go to the device."""
    ask_here = room(memory_budget("cpu"), torch.device("cpu"))

    def ask_both(num_bytes: int) -> None:
        ask(num_bytes)
        ask_here(num_bytes)

    return ask_both
