"""What `Trainer(data=...)` takes, made into splits."""

import difflib
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import Dataset, TensorDataset

from runmanager.data.splits import DataError, Samples, Splits


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
    """The splits behind a known name, a Dataset, a pair or triple of them, or tensors.

    One part is training data; a second is validation data; a third is test data. Each part is a Dataset or an (inputs,
    targets) pair of tensors.

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
        parts = [part for part in map(_part, data) if part is not None]
        if len(parts) == len(data):
            validation, test = [*parts[1:], None, None][:2]
            return Splits(parts[0], validation, test)
    raise DataError(
        f"data={_described(data)} cannot be trained on; give a known name ({', '.join(KNOWN)}), a torch Dataset, "
        "(train, validation) or (train, validation, test), an (inputs, targets) pair of tensors, or a function of the run"
    )


@lru_cache(maxsize=8)
def _known(name: str, root: Path | None, project: Path) -> Splits:
    if name not in KNOWN:
        near = difflib.get_close_matches(name, KNOWN, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise DataError(f"data={name!r} is unknown; choose {', '.join(KNOWN)}{hint}")
    return KNOWN[name](root, project)


def _part(data: Any) -> Samples | None:
    if isinstance(data, Dataset):
        return data
    if isinstance(data, (tuple, list)) and len(data) == 2 and all(isinstance(one, torch.Tensor) for one in data):
        if len(data[0]) != len(data[1]):
            raise DataError(f"data has {len(data[0])} inputs but {len(data[1])} targets; each input needs its target")
        return TensorDataset(*data)
    return None


def _described(data: Any) -> str:
    if isinstance(data, (tuple, list)):
        return f"({', '.join(type(one).__name__ for one in data)})"
    return f"{data!r:.100}"
