"""Samples in a batch, and what is said where they make none, or one that does not suit a network."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, default_collate

from runmanager.data.reading import kind_of, kind_text
from runmanager.data.splits import LOOK_AT, DataError, Samples

_NO_PAIRS = "the data gives no (inputs, targets) pairs of tensors; let __getitem__ return such a pair"


def first_batch(dataset: Samples, number: int) -> tuple[Tensor, Tensor]:
    """Inputs and targets of the first samples, up to so many, [N, ...] each, as a DataLoader gives them.

    Raises:
        DataError: there are none, or they make no batch.
    """
    try:
        inputs, targets = next(iter(DataLoader(dataset, batch_size=number, collate_fn=collated)))
    except StopIteration as error:
        raise DataError(f"the training data ({type(dataset).__name__}) is empty; {LOOK_AT}") from error
    return inputs, targets


def collated(samples: Sequence[Any]) -> Sequence[Tensor]:
    """Inputs and targets, [N, ...] each, as `default_collate` makes them.

    Raises:
        DataError: they make no such two tensors; the text tells which sample is to blame.
    """
    try:
        batch = default_collate(list(samples))
    except (TypeError, RuntimeError, ValueError, KeyError) as error:
        raise DataError(_fault(samples) or f"the samples make no batch: {error}") from error
    if isinstance(batch, (list, tuple)) and len(batch) == 2 and all(isinstance(one, Tensor) for one in batch):
        return batch
    raise DataError(_fault(samples) or _NO_PAIRS)


def _fault(samples: Sequence[Any]) -> str | None:
    """Why samples make no batch of two tensors; None where nothing is known."""
    if not all(isinstance(sample, (tuple, list)) and len(sample) == 2 for sample in samples):
        return _NO_PAIRS
    for place, sample in enumerate(samples):
        for what, value, first in zip(("inputs", "targets"), sample, samples[0], strict=True):
            if not _is_stackable(value):
                return f"sample {place} of a batch has {what} {_described(value)}; {_remedy(what, value)}"
            if kind_of(value) != kind_of(first):
                kinds = [kind_text(kind_of(one)) for one in (value, first)]
                return (
                    f"sample {place} of a batch has {what} {kinds[0]}, and the first has {kinds[1]}; make them alike, as "
                    "torchvision's v2.Resize or padding does, or write batch_size=1"
                )
    return None


def _is_stackable(value: Any) -> bool:
    try:
        return isinstance(default_collate([value]), Tensor)
    except (TypeError, RuntimeError, ValueError):
        return False


def _described(value: Any) -> str:
    text = f" ({value!r:.60})" if isinstance(value, (str, bytes)) else ""
    return f"of type {type(value).__name__}{text}"


def _remedy(what: str, value: Any) -> str:
    if what == "inputs":
        return "turn them into tensors, as torchvision's ToTensor does with pictures"
    if isinstance(value, (str, bytes)):
        return "give each class a number, from 0 up"
    return "give a number or a tensor"


def advice(inputs: Tensor, targets: Tensor, error: Exception) -> str:
    """What is to be added to torch's words about a batch whose numbers are of a type that does not suit; empty for other words.

    Integers are what an Embedding takes, so it is only said where torch has complained.
    """
    words = str(error)
    if "multi-target not supported" in words:
        return f"; classes are [N], and the targets are {_kind(targets)}: give one number for each sample"
    if "target dtype" in words or "scalar type Long" in words:
        return f"; the targets are {_kind(targets)}, and classes are int64: give them as whole numbers, targets.long()"
    is_type = any(word in words for word in ("dtype", "Input type", "scalar type"))
    if not is_type or inputs.dtype == torch.get_default_dtype():
        return ""
    if inputs.is_floating_point():
        return f"; the inputs are {_kind(inputs)}: turn them into float32, inputs.float()"
    return (
        f"; the inputs are {_kind(inputs)}: turn them into floats, as torchvision's v2.ToDtype(torch.float32, scale=True) does "
        "with pictures"
    )


def _kind(values: Tensor) -> str:
    return kind_text(kind_of(values))
