"""Reading samples one by one, as a DataLoader would, to find out whether they can be kept."""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import IterableDataset, StackDataset, Subset, default_collate

from runmanager.data.columns import same_bits

_NO_PAIRS = "its samples are not pairs of inputs and targets"


class NotResident(Exception):  # noqa: N818 - a reason, which is told and ends nothing
    """Why a data set cannot be kept on the device; the text goes behind "the data is read by a DataLoader: "."""


class Read(NamedTuple):
    """Some samples as `default_collate` stacks them, [B, ...] each, and what each of them was."""

    inputs: Tensor
    targets: Tensor
    kinds: frozenset[Any]

    def is_same(self, inputs: Tensor, targets: Tensor) -> bool:
        """Whether they are these, to the last bit."""
        return same_bits(self.inputs, inputs) and same_bits(self.targets, targets)


def read(dataset: Any, rows: Iterable[int], kinds: frozenset[Any] = frozenset()) -> Read:
    """Reads some samples.

    Args:
        dataset: gives one sample at a time.
        rows: which of them.
        kinds: what other samples were; all must be alike, since `default_collate` looks at the first of a batch alone.

    Raises:
        NotResident: one cannot be read, or is no pair, or is of another kind than the others.
    """
    samples = [_sample(dataset, row) for row in rows]
    if not all(isinstance(sample, (tuple, list)) and len(sample) == 2 for sample in samples):
        raise NotResident(_NO_PAIRS)
    kinds |= {(kind_of(inputs), kind_of(targets)) for inputs, targets in samples}
    if len(kinds) > 1:
        one, other, *_ = sorted(map(_pair_text, kinds))
        raise NotResident(f"its samples differ: there are ({one}) and ({other})")
    try:
        batch = default_collate(samples)
    except Exception as error:
        raise NotResident(f"its samples ({_pair_text(*kinds)}) make no batch: {type(error).__name__}") from error
    if not all(type(values) is Tensor and not values.requires_grad for values in batch):
        raise NotResident(f"its samples ({_pair_text(*kinds)}) are not plain tensors or numbers")
    return Read(batch[0], batch[1], kinds)


def _sample(dataset: Any, row: int) -> Any:
    try:
        return dataset[row]
    except Exception as error:
        raise NotResident(f"sample {row} cannot be read ({type(error).__name__}: {error!s:.200})") from error


def kind_of(value: Any) -> Any:
    """What decides of which type and shape a batch is."""
    if isinstance(value, (Tensor, np.ndarray)):
        return value.dtype, tuple(value.shape)
    return type(value)


def _pair_text(pair: tuple[Any, Any]) -> str:
    return ", ".join(map(kind_text, pair))


def kind_text(kind: Any) -> str:
    """A type, or the type of a tensor's numbers and its shape, in words."""
    if isinstance(kind, tuple):
        return f"{str(kind[0]).removeprefix('torch.')} {list(kind[1])}"
    return str(kind.__name__)


def size_of(dataset: Any) -> int:
    """The number of samples.

    Raises:
        NotResident: nobody knows, or there are none.
    """
    if isinstance(dataset, IterableDataset):
        raise NotResident("an IterableDataset gives its samples in an order of its own")
    try:
        size = len(dataset)
    except (TypeError, NotImplementedError, AttributeError) as error:
        raise NotResident(f"{type(dataset).__name__} has no length") from error
    if size == 0:
        raise NotResident("it has no samples")
    return size


def refuse_own_batches(dataset: Any) -> None:
    """Raises NotResident for a class that gives many samples at once in a way of its own."""
    batched = getattr(type(dataset), "__getitems__", None) or getattr(dataset, "__getitems__", None)
    if batched not in (None, Subset.__getitems__, StackDataset.__getitems__):
        raise NotResident(f"{type(dataset).__name__} gives whole batches by a __getitems__ of its own")
    if isinstance(dataset, StackDataset):
        parts = dataset.datasets
        for part in parts.values() if isinstance(parts, dict) else parts:
            refuse_own_batches(part)
    if isinstance(dataset, Subset):
        refuse_own_batches(dataset.dataset)


def spread(size: int, number: int) -> list[int]:
    """At most so many of `size` samples, from the first to the last."""
    number = min(size, number)
    return [row * (size - 1) // max(1, number - 1) for row in range(number)]


def as_rows(rows: Sequence[int], device: torch.device) -> Tensor:
    """The same as an index, int64 [B]."""
    return torch.tensor(rows, dtype=torch.int64, device=device)
