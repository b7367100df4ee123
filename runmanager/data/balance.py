"""Classes that are not equally frequent: how often each comes, and an order that draws all of them alike."""

from typing import Any

import numpy as np
import torch
from torch import Generator, Tensor
from torch.utils.data import IterableDataset, WeightedRandomSampler

from runmanager.data.draws import Draws
from runmanager.data.splits import DataError, Samples, target_of, targets_of
from runmanager.data.targets import origin

_MOST_PROBED = 32  # classes of which one sample is read, to see that the targets at hand are the samples' own
_LARGEST_DRAW = 2**24  # samples that torch.multinomial draws from


def balanced_order(weights: Tensor, generator: Generator) -> Tensor:
    """The samples of one pass that draws each with a chance in proportion to its weight, int64 [N] on the CPU.

    Some come several times and some not at all. `DataLoader(..., sampler=balanced_sampler(weights, generator),
    generator=generator)` gives them in the same order, whatever its batch size, and leaves the generator in the same state;
    so do any number of epochs, one after another.

    Args:
        weights: of each sample, [N] on the CPU (`class_shares`).
        generator: draws, and goes on.
    """
    # first of all, a DataLoader draws a seed for processes that load batches, though there may be none
    torch.empty((), dtype=torch.int64, device="cpu").random_(generator=generator)
    return torch.multinomial(weights.double(), len(weights), replacement=True, generator=generator)


def balanced_sampler(weights: Tensor, generator: Generator) -> WeightedRandomSampler:
    """The same for a DataLoader, which is to be given the same generator."""
    return WeightedRandomSampler(weights.tolist(), len(weights), replacement=True, generator=generator)


def class_shares(targets: Tensor) -> Tensor:
    """A weight for each sample, 1 / the count of its class, float64 [N]: drawn by it, all classes come equally often.

    Args:
        targets: the class of each sample, int64 [N] (`targets_tensor`).

    Raises:
        DataError: they are no classes, all one class, or too many for one draw.
    """
    _refuse(targets)
    if len(targets) > 1 and bool((targets == targets[0]).all()):
        raise DataError(
            f"balanced sampling has one class alone: all {len(targets)} training samples are of class {int(targets[0])}; look at "
            "the targets, or leave sampling out"
        )
    if len(targets) > _LARGEST_DRAW:
        raise DataError(f"balanced sampling draws from up to {_LARGEST_DRAW} samples, and there are {len(targets)}")
    return 1 / torch.bincount(targets).to(torch.float64)[targets]


def num_classes(targets: Tensor) -> int:
    """One more than the largest class among targets [N].

    Raises:
        DataError: they are no classes.
    """
    _refuse(targets)
    return int(targets.max()) + 1


def targets_tensor(dataset: Samples) -> Tensor:
    """The class of each sample, int64 [N] on the CPU.

    They are taken from where the data set has them at hand, if its samples have the same, else from all samples, which may
    take a while. The global random number generators are left as they were found.

    Raises:
        DataError: they are no classes, or are only known when they come.
    """
    if isinstance(dataset, IterableDataset):
        raise DataError(f"the data is a stream ({type(dataset).__name__}), whose targets are only known when they come")
    with Draws(lambda: None):
        at_hand = _at_hand(dataset)
        targets = _read_all(dataset) if at_hand is None else at_hand
    _refuse(targets, dataset)
    return targets.to("cpu", torch.int64)


def _at_hand(dataset: Samples) -> Tensor | None:
    """All targets of a data set; None where it has none, or where its samples have others (a target_transform)."""
    targets = targets_of(dataset)
    if targets is None:
        return None
    tensor = _tensor(targets)
    if tensor.ndim != 1:
        return tensor
    _, first = np.unique(tensor.numpy(), return_index=True)
    rows = first[:_MOST_PROBED].tolist()
    own = _tensor([target_of(dataset, row) for row in rows])
    return tensor if torch.equal(own, tensor[rows].to(own.dtype)) else None


def _read_all(dataset: Samples) -> Tensor:
    return _tensor([target_of(dataset, index) for index in range(len(dataset))])  # type: ignore[arg-type]


def _tensor(targets: Any) -> Tensor:
    try:
        return torch.as_tensor(np.asarray(targets))
    except (TypeError, ValueError, RuntimeError):
        one = targets[0]
        raise DataError(f"{_WANTED}; the first of them is {one!r:.80}, a {type(one).__name__}") from None


_WANTED = "the targets have to be classes, whole numbers from 0 up, one for each sample"


def _refuse(targets: Tensor, dataset: Samples | None = None) -> None:
    what = f"{list(targets.shape)} of {str(targets.dtype).removeprefix('torch.')}"
    if targets.ndim != 1 or targets.is_floating_point() or targets.is_complex():
        raise DataError(f"{_WANTED}; these are {what}")
    if targets.numel() == 0:
        raise DataError("there are no samples, and so no classes")
    if targets.min() < 0:
        row = int((targets < 0).nonzero()[0])
        raise DataError(f"{_WANTED}; that of sample {origin(dataset, row)} is {int(targets[row])}")
