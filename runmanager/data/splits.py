"""Training, validation and test data, and the cut between the first two."""

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from torch import Tensor
from torch.utils.data import Dataset, Subset, TensorDataset

from runmanager.data.normalization import DataError as DataError
from runmanager.data.normalization import Normalization

Samples = Dataset[Any]


@dataclass(frozen=True)
class Splits:
    """The three parts of a data set. A sweep reads the first two and leaves the test split alone."""

    train: Samples
    validation: Samples | None = None
    test: Samples | None = None
    source: str = "given"  # where it came from, for people
    classes: tuple[str, ...] | None = None
    """The names of the classes; where none are given, those that the training data has."""
    normalization: Normalization | None = None
    """What the inputs were normalised by."""

    def __post_init__(self) -> None:
        if self.classes is None:
            object.__setattr__(self, "classes", class_names(self.train))

    @cached_property
    def num_classes(self) -> int | None:
        """How many classes there are: as many as names; else one more than the largest target; None for other targets.

        Where a data set has no list of its targets every sample is read, once.
        """
        if self.classes:
            return len(self.classes)
        from runmanager.data.balance import num_classes

        try:
            return num_classes(self.train_targets)
        except (DataError, TypeError, NotImplementedError):  # other targets; or a stream
            return None

    @cached_property
    def train_targets(self) -> Tensor:
        """The class of each training sample, int64 [N]. Where a data set has no list of them every sample is read, once.

        Raises:
            DataError: they are no classes.
        """
        from runmanager.data.balance import targets_tensor

        return targets_tensor(self.train)

    def with_validation(self, fraction: float, seed: int) -> "Splits":
        """The same with a validation split cut from the training data, unless there is one already or `fraction` is 0.

        Raises:
            DataError: a part is empty, or would be; or the training data is a stream.
        """
        self._refuse_empty()
        if self.validation is not None or fraction == 0:
            return self
        train, validation = stratified_split(self.train, fraction, seed)
        return replace(self, train=train, validation=validation)

    def _refuse_empty(self) -> None:
        for name, part in (("training", self.train), ("validation", self.validation)):  # the test data is left alone
            if part is not None and _size(part) == 0:
                raise DataError(f"the {name} data ({type(part).__name__}) is empty; {LOOK_AT}")


LOOK_AT = "look at where its samples come from: the path, the filter or the cut that makes them"
"""What to do about data without samples."""


def _size(dataset: Samples) -> int | None:
    """The number of samples; None of a stream, which does not tell."""
    try:
        return len(dataset)  # type: ignore[arg-type]
    except (TypeError, NotImplementedError, AttributeError):
        return None


def stratified_split(dataset: Samples, fraction: float, seed: int) -> tuple[Samples, Samples]:
    """Cuts `fraction` off a data set, with the classes in the same proportions; both parts keep the samples' order.

    The same seed gives the same cut. Targets that are no classes are cut without regard to them.

    Raises:
        DataError: one of the parts would be empty, or the data does not tell how many samples it has.
    """
    size = _size(dataset)
    if size is None:
        raise DataError(
            f"validation={fraction} cannot be cut from {type(dataset).__name__}, which has no length; give "
            "data=(train, validation), or validation=0"
        )
    classes = _classes_of(dataset, size)
    generator = np.random.default_rng(seed)
    taken = _take(classes, round(size * fraction), generator)
    if len(taken) in (0, size):
        raise DataError(f"validation={fraction} of {size} samples leaves a part empty; give more data, or validation=0")
    rest = np.setdiff1d(np.arange(size), taken)
    return Subset(dataset, rest.tolist()), Subset(dataset, taken.tolist())


def _take(classes: "np.ndarray[Any, Any]", num_taken: int, generator: np.random.Generator) -> "np.ndarray[Any, Any]":
    """Sorted indices of `num_taken` samples: each class gives its share, the largest remainders round up."""
    names, counts = np.unique(classes, return_counts=True)
    shares = counts * (num_taken / len(classes))
    quotas = np.floor(shares).astype(int)
    order = np.random.default_rng(len(names)).permutation(len(names))  # so that ties favour no end of the classes
    by_remainder = order[np.argsort(-(shares - quotas)[order], kind="stable")]
    quotas[by_remainder[: num_taken - quotas.sum()]] += 1
    chosen = [
        generator.permutation(np.flatnonzero(classes == name))[:quota]
        for name, quota in zip(names, quotas, strict=True)
    ]
    return np.sort(np.concatenate(chosen))


def _classes_of(dataset: Samples, size: int) -> "np.ndarray[Any, Any]":
    """The class of each sample, [N]; all the same where targets are no classes."""
    targets = targets_of(dataset)
    if targets is None:
        targets = [target_of(dataset, index) for index in range(size)]
    array = np.asarray(targets)
    return array if array.ndim == 1 and array.dtype.kind in "biuUS" else np.zeros(size, dtype=int)


def target_of(dataset: Samples, index: int) -> Any:
    """The target of one sample.

    Raises:
        DataError: it cannot be read, or is no pair.
    """
    try:
        sample = dataset[index]
    except (DataError, AttributeError):  # the second may tell what of the run is missing
        raise
    except Exception as error:
        raise DataError(
            f"sample {index} of the data cannot be read ({type(error).__name__}: {error!s:.200}); mend it or take it away"
        ) from error
    if not isinstance(sample, (tuple, list)) or len(sample) != 2:
        raise DataError("the data gives no (inputs, targets) pairs; let __getitem__ return such a pair")
    return sample[1]


def targets_of(dataset: Any) -> Any:
    """All targets at once where the data set has them at hand; None where only its samples tell."""
    if isinstance(dataset, TensorDataset) and len(dataset.tensors) > 1:
        return dataset.tensors[1].cpu()
    if isinstance(dataset, Subset):
        inner = targets_of(dataset.dataset)
        return None if inner is None else np.asarray(inner)[np.asarray(dataset.indices)]
    targets = getattr(dataset, "targets", None)
    return targets if targets is not None and len(targets) == len(dataset) else None


def class_names(dataset: Any) -> tuple[str, ...] | None:
    """What a data set, or the one that it is a part of, calls its classes; None where it has no names for them."""
    while isinstance(dataset, Subset):
        dataset = dataset.dataset
    names = getattr(dataset, "classes", None)
    if not isinstance(names, (tuple, list)) or not names:
        return None
    firsts = [name[0] if isinstance(name, tuple) and name else name for name in names]  # ImageNet has several for each
    return tuple(firsts) if all(isinstance(name, str) for name in firsts) else None
