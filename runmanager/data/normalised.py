"""Data sets whose inputs are normalised as they are read."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset

from runmanager.data.normalization import DataError, Normalization
from runmanager.data.splits import Samples, Splits, class_names, targets_of


class Normalised(Dataset[Any]):
    """A data set with normalised inputs. Resident data takes its samples from the data set inside, and normalises batches."""

    def __init__(self, dataset: Samples, normalization: Normalization) -> None:
        self.dataset, self.normalization = dataset, normalization

    def __len__(self) -> int:
        return len(self.dataset)  # type: ignore[arg-type]

    def __getitem__(self, index: int) -> tuple[Tensor, Any]:
        return normalised_sample(self.dataset[index], self.normalization)

    def __getitems__(self, indices: list[int]) -> list[tuple[Tensor, Any]]:
        """Many at once, for a data set that has a way of its own to read many."""
        inner = getattr(self.dataset, "__getitems__", None)
        samples = inner(indices) if inner else [self.dataset[index] for index in indices]
        return [normalised_sample(sample, self.normalization) for sample in samples]

    @property
    def targets(self) -> Any:
        """Those of the data set inside; None where it does not have them at hand."""
        return targets_of(self.dataset)

    @property
    def classes(self) -> tuple[str, ...] | None:
        """The names of the classes, if there are any."""
        return class_names(self.dataset)

    def as_seen(self, inputs: Tensor) -> Tensor:
        """What people are shown of inputs [N, ...] of this data set: what they were before they were normalised."""
        return self.normalization.undo(inputs, inputs.dim() - 1)


class NormalisedStream(IterableDataset[Any]):
    """A stream of samples with normalised inputs."""

    def __init__(self, dataset: "IterableDataset[Any]", normalization: Normalization) -> None:
        self.dataset, self.normalization = dataset, normalization

    def __iter__(self) -> Iterator[tuple[Tensor, Any]]:
        return (normalised_sample(sample, self.normalization) for sample in self.dataset)

    def as_seen(self, inputs: Tensor) -> Tensor:
        """See `Normalised`."""
        return self.normalization.undo(inputs, inputs.dim() - 1)


def normalised_sample(sample: Any, normalization: Normalization) -> tuple[Tensor, Any]:
    """A pair with its inputs normalised.

    Raises:
        DataError: it is no pair, or its inputs are no tensor of floats.
    """
    inputs, targets = pair(sample)
    return normalization.apply(inputs, inputs.dim()), targets


def pair(sample: Any) -> tuple[Tensor, Any]:
    """Inputs, as `default_collate` would see them, and targets.

    Raises:
        DataError: there are no such two, or the inputs are no tensor.
    """
    if not isinstance(sample, (tuple, list)) or len(sample) != 2:
        raise DataError("normalize needs (inputs, targets) pairs; let __getitem__ return such a pair")
    inputs, targets = sample
    if isinstance(inputs, Tensor):
        return inputs, targets
    if hasattr(inputs, "__array__") and hasattr(inputs, "dtype"):
        return torch.as_tensor(inputs), targets
    if isinstance(inputs, float):
        return torch.tensor(inputs, dtype=torch.float64), targets
    raise DataError(
        f"normalize needs inputs that are tensors of floats, not {type(inputs).__name__}; turn them into tensors first, as "
        "torchvision's ToTensor does"
    )


def with_normalization(splits: Splits, normalization: Normalization) -> Splits:
    """All parts of a data set, normalised alike."""

    def one(part: Samples | None) -> Samples | None:
        if part is None:
            return None
        return (NormalisedStream if isinstance(part, IterableDataset) else Normalised)(part, normalization)  # type: ignore[arg-type]

    train, validation, test = one(splits.train), one(splits.validation), one(splits.test)
    assert train is not None
    return replace(splits, train=train, validation=validation, test=test, normalization=normalization)


def unnormalised(inputs: Tensor, splits: Splits) -> Tensor:
    """What inputs [N, ...] of these splits were before they were normalised, to within rounding; themselves if they were not."""
    return inputs if splits.normalization is None else splits.normalization.undo(inputs, inputs.dim() - 1)
