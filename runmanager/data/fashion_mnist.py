"""Fashion-MNIST: the full set, wherever it is, and the sample that this package ships."""

from pathlib import Path

from torchvision.datasets import FashionMNIST

from runmanager.data.known import DataNotFoundError as DataNotFoundError
from runmanager.data.mnist_sets import FASHION_MNIST_SET, read
from runmanager.data.mnist_sets import FILES as FILES
from runmanager.data.splits import Splits

_SAMPLE = Path(__file__).with_name("fashion_mnist_sample")


def fashion_mnist(root: Path | None, project: Path) -> Splits:
    """The full set, 60,000 training and 10,000 test images [1, 28, 28] of 10 kinds of clothing.

    Looked for in `root`, in the project's data/, in the system's data set folders, and at last downloaded.

    Raises:
        DataNotFoundError: it is in none of them and cannot be downloaded.
    """
    return FASHION_MNIST_SET.find(root, project)


def fashion_mnist_sample(root: Path | None = None, project: Path | None = None) -> Splits:
    """6,000 training and 1,000 test images of the full set, equally many of each class; they come with this package."""
    splits = read(FashionMNIST, _SAMPLE)
    if splits is None:
        raise DataNotFoundError(f"the sample is not in {_SAMPLE}; install runmanager again")
    return Splits(splits.train, None, splits.test, "the sample that runmanager ships")
