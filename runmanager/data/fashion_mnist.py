"""Fashion-MNIST: the full set, wherever it is, and the sample that this package ships."""

import gzip
import os
import tempfile
import zlib
from collections.abc import Iterator
from pathlib import Path

from torchvision.datasets import FashionMNIST
from torchvision.transforms import ToTensor

from runmanager.data.splits import Splits

FILES = (
    "train-images-idx3-ubyte.gz",
    "train-labels-idx1-ubyte.gz",
    "t10k-images-idx3-ubyte.gz",
    "t10k-labels-idx1-ubyte.gz",
)
_SAMPLE = Path(__file__).with_name("fashion_mnist_sample")


class DataNotFoundError(FileNotFoundError):
    """A data set is nowhere; the message names every place looked in and what can be done."""


def fashion_mnist(root: Path | None, project: Path) -> Splits:
    """The full set, 60,000 training and 10,000 test images [1, 28, 28] of 10 kinds of clothing.

    Looked for in `root`, in the project's data/, in the system's data set folders, and at last downloaded.

    Raises:
        DataNotFoundError: it is in none of them and cannot be downloaded.
    """
    looked_in = [*([root] if root else []), project / "data", *system_folders()]
    for folder in looked_in:
        splits = _from_folder(folder)
        if splits is not None:
            return splits
    return _download(root or project / "data", looked_in)


def fashion_mnist_sample(root: Path | None = None, project: Path | None = None) -> Splits:
    """6,000 training and 1,000 test images of the full set, equally many of each class; they come with this package."""
    splits = _from_folder(_SAMPLE)
    if splits is None:
        raise DataNotFoundError(f"the sample is not in {_SAMPLE}; install runmanager again")
    return Splits(splits.train, None, splits.test, "the sample that runmanager ships")


def system_folders() -> Iterator[Path]:
    """Where a system keeps the set: Debian's package dataset-fashion-mnist puts it under share/datasets."""
    for share in (os.environ.get("XDG_DATA_DIRS") or "/usr/local/share:/usr/share").split(":"):
        if share:
            yield Path(share) / "datasets" / "fashion-mnist"


def _from_folder(folder: Path) -> Splits | None:
    """The set from torchvision's own layout, or from the four packed files; None when the folder has neither."""
    try:
        if all((folder / "FashionMNIST" / "raw" / name.removesuffix(".gz")).is_file() for name in FILES):
            return _splits(folder, folder)
        if all((folder / name).is_file() for name in FILES):
            return _unpacked(folder)
    except (OSError, EOFError, RuntimeError, ValueError, AssertionError, zlib.error) as error:
        raise DataNotFoundError(
            f"Fashion-MNIST in {folder} is damaged ({type(error).__name__}: {error}); delete its files there and get them again"
        ) from error
    return None


def _unpacked(folder: Path) -> Splits:
    """The set from the packed files, which torchvision's class cannot read itself; it reads all into memory at once."""
    with tempfile.TemporaryDirectory(prefix="runmanager-") as temporary:
        raw = Path(temporary) / "FashionMNIST" / "raw"
        raw.mkdir(parents=True)
        for name in FILES:
            (raw / name.removesuffix(".gz")).write_bytes(_plain_bytes(folder / name))
        return _splits(Path(temporary), folder)


def _plain_bytes(file: Path) -> bytes:
    try:
        return gzip.decompress(file.read_bytes())
    except (OSError, EOFError, zlib.error) as error:
        raise OSError(f"{file.name}: {error}") from error


def _splits(root: Path, source: Path) -> Splits:
    train, test = (FashionMNIST(root, train=is_train, transform=ToTensor()) for is_train in (True, False))
    train.root = test.root = str(source)
    return Splits(train, None, test, str(source))


def _remove_empty(folder: Path, up_to: Path) -> None:
    """Takes away the folders that a download made and could not fill."""
    for empty in (folder, *folder.parents):
        if not empty.is_dir() or any(empty.iterdir()):
            return
        empty.rmdir()
        if empty == up_to:
            return


def _download(root: Path, looked_in: list[Path]) -> Splits:
    there = root.exists()
    try:
        FashionMNIST(root, download=True)
    except (OSError, RuntimeError) as error:
        _remove_empty(root / "FashionMNIST" / "raw", up_to=root / "FashionMNIST" if there else root)
        places = "\n".join(f"  - {folder}" for folder in looked_in)
        raise DataNotFoundError(
            f"Fashion-MNIST is in none of these folders:\n{places}\n"
            f"and cannot be downloaded ({' '.join(str(error).split())[:200]}). What can be done:\n"
            "  - on Debian or Ubuntu: apt-get install dataset-fashion-mnist\n"
            f"  - put the files {', '.join(FILES)} into {looked_in[0]}\n"
            "  - connect to the network and launch again, and it is downloaded\n"
            "  - train on the sample that needs no network: data='fashion_mnist_sample'"
        ) from error
    return _splits(root, root)
