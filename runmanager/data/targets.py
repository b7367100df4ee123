"""Targets that a network has no output for, found before it is trained."""

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Subset, TensorDataset

from runmanager.data.splits import Samples, Splits, targets_of

_IGNORED = -100  # what torch's losses ignore by default


class Outside(NamedTuple):
    """The first target that is no class."""

    sample: int
    value: int


def first_outside(targets: Any, num_outputs: int, ignored: int = _IGNORED) -> Outside | None:
    """The first of targets [N, ...] that is none of 0 to `num_outputs` - 1; None where all are, or where they are no whole numbers.

    Args:
        targets: the class of each sample, or of each pixel; a tensor on any device, an array or a list.
        num_outputs: how many classes the network tells apart.
        ignored: a value that the loss passes over.
    """
    tensor = targets if isinstance(targets, Tensor) else _tensor(targets)
    if tensor is None or tensor.numel() == 0 or tensor.is_floating_point() or tensor.is_complex():
        return None
    if tensor.dtype == torch.bool or tensor.dim() == 0:
        return None
    is_outside = ((tensor < 0) | (tensor >= num_outputs)) & (tensor != ignored)
    if not bool(is_outside.any()):
        return None
    place = int(is_outside.reshape(-1).to(torch.uint8).argmax())
    return Outside(place // (tensor.numel() // len(tensor)), int(tensor.reshape(-1)[place]))


def target_fault(splits: Splits, num_outputs: int, ignored: int = _IGNORED) -> str | None:
    """What is wrong with the targets of training and validation data for a network with so many outputs; None if nothing.

    They are to have names, too, where the classes have any.

    Only targets that the data has at hand are looked at, where its samples have the same; `first_outside` takes
    those of resident data, `Resident.targets()`.
    """
    names = splits.classes or ()
    for name, part in (("training", splits.train), ("validation", splits.validation)):
        found = _found(part, num_outputs, ignored)
        if found is not None:
            return outside_text(name, found, num_outputs)
        unnamed = _found(part, len(names), ignored) if names else None
        if unnamed is not None:
            return (
                f"sample {unnamed.sample} of the {name} data has class {unnamed.value}, but there are names for {len(names)} "
                f"classes ({', '.join(names)}); give one for each class, or mend the target"
            )
    return None


def _found(part: Samples | None, num_classes: int, ignored: int) -> Outside | None:
    """The first target of a part that is no class, which its sample has too."""
    found = None if part is None else first_outside(targets_of(part), num_classes, ignored)
    if part is None or found is None or not _has(part, found):
        return None
    return Outside(origin(part, found.sample), found.value)


def batch_fault(preds: Tensor, targets: Tensor, ignored: int = _IGNORED) -> str | None:
    """What is wrong with the targets [N, ...] of a batch for predictions [N, C, ...]; None if nothing."""
    found = first_outside(targets, preds.shape[1], ignored) if preds.ndim == targets.ndim + 1 else None
    if found is None:
        return None
    return (
        f"sample {found.sample} of a batch with predictions {list(preds.shape)} and targets {list(targets.shape)} has class "
        f"{found.value}, but the network has {preds.shape[1]} outputs, for classes 0 to {preds.shape[1] - 1}; mend the target, "
        "or the number of outputs"
    )


def outside_text(part: str, outside: Outside, num_outputs: int) -> str:
    """The message for a target that is no class of the network."""
    return (
        f"sample {outside.sample} of the {part} data has class {outside.value}, but the network has {num_outputs} outputs, for "
        f"classes 0 to {num_outputs - 1}; give it {max(outside.value, 0) + 1} outputs, or mend the target"
        if outside.value >= 0
        else f"sample {outside.sample} of the {part} data has class {outside.value}, and classes are 0 to {num_outputs - 1}; mend "
        "the target"
    )


def _has(dataset: Any, outside: Outside) -> bool:
    """Whether the sample itself has the target, which a data set may turn into another as it is read."""
    return bool((np.asarray(dataset[outside.sample][1]) == outside.value).any())


def _tensor(targets: Any) -> Tensor | None:
    array = np.asarray(targets)
    return torch.as_tensor(array) if array.dtype.kind in "iu" else None


def origin(dataset: Any, row: int) -> int:
    """The sample's index in the data set that a part was taken from."""
    while not isinstance(dataset, TensorDataset) and hasattr(dataset, "dataset"):
        row = int(dataset.indices[row]) if isinstance(dataset, Subset) else row
        dataset = dataset.dataset
    return row
