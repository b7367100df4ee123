"""MNIST and the sets in its format: torchvision's own layout, or the four packed files."""

import gzip
import tempfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from torchvision.datasets import MNIST, FashionMNIST
from torchvision.transforms import ToTensor

from runmanager.data.errors import DataError
from runmanager.data.idx import read_idx
from runmanager.data.known import DamagedError, KnownSet, remove_empty
from runmanager.data.splits import Splits

FILES = (
    "train-images-idx3-ubyte.gz",
    "train-labels-idx1-ubyte.gz",
    "t10k-images-idx3-ubyte.gz",
    "t10k-labels-idx1-ubyte.gz",
)
_FULL_SIZE = 60_000
_FIRST_LABELS = {
    MNIST: [5, 0, 4, 1, 9, 2, 1, 3, 1, 4],
    FashionMNIST: [9, 0, 0, 3, 0, 2, 7, 2, 5, 5],
}
"""Both sets have files of the same names; these tell whose they are."""


def read(kind: Any, folder: Path) -> Splits | None:
    """The set from a folder that has it packed or unpacked; None when it has neither.

    Args:
        kind: torchvision's class.
        folder: where to look.

    Raises:
        DamagedError: the files cannot be read.
    """
    raw = folder / kind.__name__ / "raw"
    files = [raw / name.removesuffix(".gz") for name in FILES]
    if all(map(Path.is_file, files)):
        with _told(files):
            return _splits(kind, folder, folder)
    for place in (folder, raw):
        files = [place / name for name in FILES]
        if all(map(Path.is_file, files)):
            with _told(files):
                splits = _unpacked(kind, place, folder)
            if not _is_of_another(kind, splits.train):
                return splits
    return None


@contextmanager
def _told(files: Sequence[Path]) -> Iterator[None]:
    """Tells what is wrong with these files where torchvision's class cannot read them; its own words name none."""
    try:
        yield
    except (OSError, EOFError, RuntimeError, ValueError, TypeError, AssertionError, zlib.error) as error:
        reasons = [reason for reason in map(_wrong, files, (3, 1, 3, 1)) if reason]
        raise DamagedError(reasons[0] if reasons else str(error)) from error


def _wrong(file: Path, num_dims: int) -> str | None:
    """What is wrong with a file of pictures, of 3 dimensions, or of labels, of one; None if nothing."""
    try:
        array = read_idx(file)
    except (DataError, OSError) as error:
        return str(error)
    if array.dtype == np.uint8 and array.ndim == num_dims and len(array):
        return None
    wanted = "pictures are [N, H, W]" if num_dims == 3 else "labels are [N]"
    return f"{file.name} is {list(array.shape)} of {array.dtype}, and {wanted} of uint8"


def _unpacked(kind: Any, place: Path, source: Path) -> Splits:
    """The set from the packed files, which torchvision's class cannot read itself; it reads all into memory at once."""
    with tempfile.TemporaryDirectory(prefix="runmanager-") as temporary:
        raw = Path(temporary) / kind.__name__ / "raw"
        raw.mkdir(parents=True)
        for name in FILES:
            (raw / name.removesuffix(".gz")).write_bytes(_plain_bytes(place / name))
        return _splits(kind, Path(temporary), source)


def _plain_bytes(file: Path) -> bytes:
    try:
        return gzip.decompress(file.read_bytes())
    except (OSError, EOFError, zlib.error) as error:
        raise OSError(f"{file.name}: {error}") from error


def _splits(kind: Any, root: Path, source: Path) -> Splits:
    train, test = (kind(root, train=is_train, transform=ToTensor()) for is_train in (True, False))
    for part, name in ((train, "train"), (test, "t10k")):
        if len(part.data) != len(part.targets):
            raise ValueError(f"{name} has {len(part.data)} images but {len(part.targets)} labels")
        outside = (part.targets >= len(kind.classes)).nonzero().flatten().tolist()
        if outside:
            label = int(part.targets[outside[0]])
            raise ValueError(
                f"{name}-labels has the class {label} for picture {outside[0]}, of {len(kind.classes)} classes"
            )
    if train.data.shape[1:] != test.data.shape[1:]:
        sizes = [f"{list(part.data.shape[1:])}" for part in (train, test)]
        raise ValueError(f"train has pictures {sizes[0]}, and t10k {sizes[1]}")
    train.root = test.root = str(source)
    return Splits(train, None, test, str(source))


def _is_of_another(kind: Any, train: Any) -> bool:
    first = train.targets[:10].tolist()
    others = [labels for other, labels in _FIRST_LABELS.items() if other is not kind]
    return len(train) == _FULL_SIZE and first in others


def download(kind: Any, root: Path) -> Splits:
    """Gets the set by torchvision's class, which checks it.

    Raises:
        OSError, RuntimeError: it cannot be had; no folder is left.
    """
    there = root.exists()
    try:
        kind(root, download=True)
    except (OSError, RuntimeError):
        remove_empty(root / kind.__name__ / "raw", up_to=root / kind.__name__ if there else root)
        raise
    return _splits(kind, root, root)


def _fashion_remedies(folder: Path) -> list[str]:
    return [
        "on Debian or Ubuntu: apt-get install dataset-fashion-mnist",
        f"put the files {', '.join(FILES)} into {folder}",
        "train on the sample that needs no network: data='fashion_mnist_sample'",
    ]


def _mnist_remedies(folder: Path) -> list[str]:
    return [
        f"put the files {', '.join(FILES)} into {folder}",
        "train on a sample of pictures of the same size that needs no network: data='fashion_mnist_sample'",
    ]


FASHION_MNIST_SET = KnownSet(
    "Fashion-MNIST", partial(read, FashionMNIST), partial(download, FashionMNIST), "fashion-mnist", _fashion_remedies
)
MNIST_SET = KnownSet("MNIST", partial(read, MNIST), partial(download, MNIST), "mnist", _mnist_remedies)
