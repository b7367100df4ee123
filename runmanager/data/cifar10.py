"""CIFAR-10 from its Python or binary files, unpacked or in their archive.

The Python files are pickled. torchvision unpickles them when their check sums are right; here they are read without
unpickling, so that neither a changed file nor a part of the set has to be trusted.
"""

import itertools
import tarfile
import tempfile
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torchvision.datasets import CIFAR10, VisionDataset
from torchvision.transforms import ToTensor

from runmanager.data.known import DamagedError, KnownSet, first_missing, remove_empty
from runmanager.data.plain_pickle import NotPlainError, plain_values
from runmanager.data.splits import Splits

_PIXELS = 3 * 32 * 32
_TRAIN, _TEST = [f"data_batch_{number}" for number in range(1, 6)], ["test_batch"]
_MOST_BYTES = 2**28  # of a file in an archive; a true one has 31 MB
_Part = tuple[NDArray[np.uint8], list[int]]
"""Pixels [N, 3072] and classes."""
_Read = Callable[[str], bytes]
"""The bytes of the file of a name."""


def read(folder: Path) -> Splits | None:
    """The set from a folder; None when it is not there.

    Raises:
        DamagedError: its files cannot be read.
    """
    try:
        for kind in (_PYTHON, _BINARY):
            for place in (folder / kind.folder, folder):
                if all((place / name).is_file() for name in kind.files()):
                    return kind.splits(lambda name, place=place: (place / name).read_bytes(), folder)  # type: ignore[misc]
            if (folder / kind.archive).is_file():
                files = _members(folder / kind.archive, kind)
                return kind.splits(files.__getitem__, folder)
        for kind in (_PYTHON, _BINARY):
            _refuse_part(folder / kind.folder, kind.files())
    except (OSError, ValueError) as error:
        raise DamagedError(f"{type(error).__name__}: {error}") from error
    return None


def _refuse_part(folder: Path, names: list[str]) -> None:
    """Raises ValueError where some of these files are in a folder and others are not."""
    missing = [name for name in names if not (folder / name).is_file()]
    if folder.is_dir() and len(missing) < len(names):
        raise ValueError(f"{folder.name} lacks {', '.join(missing)}")


class _Kind:
    """One of the two forms in which the set is handed out."""

    def __init__(
        self,
        folder: str,
        archive: str,
        suffix: str,
        meta: str,
        batch: Callable[[str, bytes], _Part],
        names: Callable[[bytes], Any],
    ) -> None:
        self.folder, self.archive = folder, archive
        self._suffix, self._meta, self._batch, self._names = suffix, meta, batch, names

    def files(self) -> list[str]:
        """The names of all."""
        return [*(name + self._suffix for name in _TRAIN + _TEST), self._meta]

    def splits(self, read_file: _Read, source: Path) -> Splits:
        """The set in its files."""
        classes = _checked(self._meta, read_file, self._names)
        if not isinstance(classes, list) or not classes or not all(isinstance(name, str) for name in classes):
            raise ValueError(f"{self._meta} has no names of classes")
        twice = next((name for name in classes if classes.count(name) > 1), None)
        if twice is not None:
            raise ValueError(f"{self._meta} has the class {twice!r} twice")
        batches = {name: self._part(name + self._suffix, classes, read_file) for name in _TRAIN + _TEST}
        _refuse_copies(batches)
        train, test = ([batches[name] for name in names] for names in (_TRAIN, _TEST))
        return Splits(
            _data_set(train, classes, source, is_train=True),
            None,
            _data_set(test, classes, source, is_train=False),
            str(source),
        )

    def _part(self, name: str, classes: list[str], read_file: _Read) -> _Part:
        pixels, labels = _checked(name, read_file, partial(self._batch, name))
        if not labels:
            raise ValueError(f"{name} has no pictures")
        for row, label in enumerate(labels):
            if not 0 <= label < len(classes):
                raise ValueError(f"{name} has class {label} for picture {row}, of {len(classes)} classes")
        return pixels, labels


def _refuse_copies(batches: dict[str, _Part]) -> None:
    """Raises ValueError where one batch lies under the names of two."""
    for (one, (first, _)), (other, (second, _)) in itertools.combinations(batches.items(), 2):
        if np.array_equal(first[0], second[0]) and np.array_equal(first, second):
            raise ValueError(f"{other} has the same pictures as {one}")


def _checked(name: str, read_file: _Read, make: Callable[[bytes], Any]) -> Any:
    try:
        return make(read_file(name))
    except (ValueError, KeyError, OSError) as error:
        reason = f"it lacks {error}" if isinstance(error, KeyError) else error
        raise ValueError(f"{name}: {reason}") from error


def _data_set(batches: list[_Part], classes: list[str], source: Path, *, is_train: bool) -> CIFAR10:
    """torchvision's class with these pictures; its own __init__ would unpickle."""
    dataset = object.__new__(CIFAR10)
    VisionDataset.__init__(dataset, str(source), transform=ToTensor())
    dataset.train = is_train
    pixels = np.concatenate([pixels for pixels, _ in batches])
    dataset.data = pixels.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)  # [N, 32, 32, 3], as torchvision has it
    dataset.targets = [label for _, labels in batches for label in labels]
    dataset.classes = classes
    dataset.class_to_idx = {name: place for place, name in enumerate(classes)}
    return dataset


def _python_batch(name: str, content: bytes) -> _Part:
    entry = _dictionary(content)
    label = entry.get("batch_label", b"")
    text = label.decode("latin-1") if isinstance(label, bytes) else str(label)
    if text.startswith("training" if name in _TEST else "testing"):  # "training batch 1 of 5"
        raise ValueError(f"it calls itself {text!r:.40}")
    pixels, labels = entry["data"], entry["labels"]
    if not isinstance(pixels, np.ndarray) or pixels.ndim != 2 or pixels.shape[1] != _PIXELS:
        raise ValueError(f"data is {getattr(pixels, 'shape', type(pixels).__name__)}, not [N, {_PIXELS}]")
    if not isinstance(labels, list) or not all(type(label) is int for label in labels):
        raise ValueError("labels is no list of whole numbers")
    if len(labels) != len(pixels):
        raise ValueError(f"there are {len(pixels)} pictures but {len(labels)} labels")
    return pixels, labels


def _python_names(content: bytes) -> Any:
    return _dictionary(content)["label_names"]


def _dictionary(content: bytes) -> dict[Any, Any]:
    values = plain_values(content)
    if not isinstance(values, dict):
        raise NotPlainError(f"it holds a {type(values).__name__}, not a dictionary")
    return {key.decode("latin-1") if isinstance(key, bytes) else key: value for key, value in values.items()}


def _binary_batch(_: str, content: bytes) -> _Part:
    if not content or len(content) % (1 + _PIXELS):
        raise ValueError(
            f"it has {len(content):,} bytes, which are no whole number of pictures of {1 + _PIXELS:,} bytes"
        )
    rows = np.frombuffer(content, np.uint8).reshape(-1, 1 + _PIXELS)
    return rows[:, 1:], rows[:, 0].tolist()


def _binary_names(content: bytes) -> Any:
    return [line.strip() for line in content.decode("utf-8").splitlines() if line.strip()]


_PYTHON = _Kind("cifar-10-batches-py", "cifar-10-python.tar.gz", "", "batches.meta", _python_batch, _python_names)
_BINARY = _Kind(
    "cifar-10-batches-bin", "cifar-10-binary.tar.gz", ".bin", "batches.meta.txt", _binary_batch, _binary_names
)


def _members(archive: Path, kind: _Kind) -> dict[str, bytes]:
    """The files in an archive that are the set's, by name. They are read into memory: nothing is put where a name says."""
    found = {}
    try:
        with tarfile.open(archive) as tar:
            for name, member in _files(tar, kind):
                if member.size > _MOST_BYTES:
                    raise ValueError(
                        f"{name} in {archive.name} has {member.size:,} bytes, which no file of the set has"
                    )
                content = tar.extractfile(member)
                assert content is not None
                found[name] = content.read()
    except (OSError, EOFError, tarfile.TarError, zlib.error) as error:
        reason = str(error).partition("\n")[0].rstrip(":")
        raise ValueError(f"{archive.name} cannot be unpacked ({reason})") from error
    missing = [name for name in kind.files() if name not in found]
    if missing:
        raise ValueError(f"{archive.name} lacks {', '.join(missing)}")
    return found


def _files(tar: tarfile.TarFile, kind: _Kind) -> Iterator[tuple[str, tarfile.TarInfo]]:
    wanted = {f"{kind.folder}/{name}": name for name in kind.files()}
    for member in tar:
        name = wanted.get(member.name.removeprefix("./"))
        if name is not None and member.isreg():
            yield name, member


def _download(root: Path) -> Splits:
    """Gets the archive, checks it as torchvision does, and leaves its files in `root`, or nothing."""
    from torchvision.datasets.utils import download_url

    made = first_missing(root)
    root.mkdir(parents=True, exist_ok=True)
    try:
        with tempfile.TemporaryDirectory(dir=root, prefix=".runmanager-") as temporary:
            download_url(CIFAR10.url, temporary, _PYTHON.archive, CIFAR10.tgz_md5)
            unpacked = Path(temporary) / _PYTHON.folder
            unpacked.mkdir()
            for name, content in _members(Path(temporary) / _PYTHON.archive, _PYTHON).items():
                (unpacked / name).write_bytes(content)
            _put(unpacked, root / _PYTHON.folder)
    except BaseException:
        if made is not None:
            remove_empty(root, up_to=made)
        raise
    splits = read(root)
    assert splits is not None
    return splits


def _put(made: Path, place: Path) -> None:
    """Moves a folder to its place, where another process may have put the same just now."""
    try:
        made.rename(place)
    except OSError:
        if not place.is_dir():
            raise


def _remedies(folder: Path) -> list[str]:
    return [
        f"put {_PYTHON.archive}, or its folder {_PYTHON.folder}, into {folder}; the binary version does as well",
        "or train another network, for pictures [1, 28, 28], on the sample that comes with runmanager: "
        "data='fashion_mnist_sample'",
    ]


CIFAR10_SET = KnownSet("CIFAR-10", read, _download, "cifar-10", _remedies)
