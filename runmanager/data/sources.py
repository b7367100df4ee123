"""What `Trainer(data=...)` takes, made into splits."""

from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import Dataset, TensorDataset

from runmanager.data.splits import DataError, Samples, Splits
from runmanager.nearest import nearest


def _cifar10(root: Path | None, project: Path) -> Splits:
    from runmanager.data.cifar10 import CIFAR10_SET

    return CIFAR10_SET.find(root, project)


def _fashion_mnist(root: Path | None, project: Path) -> Splits:
    from runmanager.data.fashion_mnist import fashion_mnist

    return fashion_mnist(root, project)


def _fashion_mnist_sample(root: Path | None, project: Path) -> Splits:
    from runmanager.data.fashion_mnist import fashion_mnist_sample

    return fashion_mnist_sample(root, project)


def _image_folder(root: Path | None, project: Path) -> Splits:
    from runmanager.data.image_folder import IMAGE_FOLDER

    return IMAGE_FOLDER.find(root, project)


def _mnist(root: Path | None, project: Path) -> Splits:
    from runmanager.data.mnist_sets import MNIST_SET

    return MNIST_SET.find(root, project)


KNOWN: dict[str, Callable[[Path | None, Path], Splits]] = {
    "cifar10": _cifar10,
    "fashion_mnist": _fashion_mnist,
    "fashion_mnist_sample": _fashion_mnist_sample,
    "image_folder": _image_folder,
    "mnist": _mnist,
}
"""The data sets that have a name."""


def splits_of(data: Any, root: Path | None, project: Path) -> Splits:
    """The splits behind a known name, a Dataset, a pair or triple of them, tensors, or a list of samples.

    One part is training data; a second is validation data; a third is test data. Each part is a Dataset, an (inputs,
    targets) pair of tensors, or a list of (input, target) samples.

    Args:
        data: what the user gave.
        root: where to look for a known data set first.
        project: the project's folder, whose data/ is looked in next.

    Raises:
        DataError: it is none of these.
        DataNotFoundError: a known data set is nowhere.
    """
    if isinstance(data, str):
        return _known(data, root, project)
    if isinstance(data, Splits):
        return data
    part = _part(data)
    if part is not None:
        return Splits(part)
    if isinstance(data, (tuple, list)) and 1 <= len(data) <= 3:
        parts = [part for part in map(_part_or_list, data) if part is not None]
        if len(parts) == len(data):
            validation, test = [*parts[1:], None, None][:2]
            return Splits(parts[0], validation, test)
    samples = _listed(data)
    if samples is not None:
        return Splits(samples)
    raise DataError(
        f"data={_described(data)} cannot be trained on; give a known name ({', '.join(KNOWN)}), a torch Dataset, "
        "(train, validation) or (train, validation, test), an (inputs, targets) pair of tensors, a list of (input, target) "
        "samples, or a function of the run"
    )


@lru_cache(maxsize=8)
def _known(name: str, root: Path | None, project: Path) -> Splits:
    if name not in KNOWN:
        raise DataError(f"data={name!r} is unknown; choose {', '.join(KNOWN)}{nearest(name, KNOWN)}")
    return KNOWN[name](root, project)


def _part(data: Any) -> Samples | None:
    if isinstance(data, Dataset):
        return data
    if _is_pair(data) and all(isinstance(one, torch.Tensor) and one.dim() for one in data):
        if len(data[0]) != len(data[1]):
            raise DataError(f"data has {len(data[0])} inputs but {len(data[1])} targets; each input needs its target")
        return TensorDataset(*data)
    return None


class _Listed(Dataset[Any]):
    """A plain list of (input, target) samples."""

    def __init__(self, samples: list[Any]) -> None:
        self._samples = samples

    def __len__(self) -> int:
        return len(self._samples)

    def __getitem__(self, index: int) -> Any:
        return self._samples[index]


def _listed(data: Any) -> Samples | None:
    """A list of samples as a data set; None where it is none.

    Raises:
        DataError: it begins as one, and has something else in it.
    """
    if not isinstance(data, list) or not data or not _is_pair(data[0]):
        return None
    for index, one in enumerate(data):
        if not _is_pair(one):
            raise DataError(
                f"item {index} of the list of samples is a {type(one).__name__}, and no (input, target) pair as the first is; "
                "mend it or take it away"
            )
    return _Listed(data)


def _part_or_list(data: Any) -> Samples | None:
    part = _part(data)
    return _listed(data) if part is None else part


def _is_pair(data: Any) -> bool:
    return isinstance(data, (tuple, list)) and len(data) == 2


def _described(data: Any) -> str:
    if isinstance(data, (tuple, list)):
        more = [f"... {len(data)} in all"] if len(data) > 4 else []
        return f"({', '.join([*(type(one).__name__ for one in data[:4]), *more])})"
    return f"{data!r:.100}"
