"""MNIST, and that sets whose files have the same names are not taken for one another."""

import gzip

import numpy as np
import pytest
import torch
from torchvision.datasets import MNIST, FashionMNIST

from runmanager.data.known import DataNotFoundError
from runmanager.data.mnist_sets import FASHION_MNIST_SET, FILES, MNIST_SET
from runmanager.data.sources import splits_of
from tests.data.test_fashion_mnist import maker, put_packed, tiny_set

FIRST = {"mnist": [5, 0, 4, 1, 9, 2, 1, 3, 1, 4], "fashion": [9, 0, 0, 3, 0, 2, 7, 2, 5, 5]}


@pytest.fixture(autouse=True)
def nowhere_else(share, offline):
    """Nothing is found but what a test puts there."""


def put_full(folder, first):
    """Four packed files of the full set's size, with black pictures and the labels that it begins with."""
    folder.mkdir(parents=True)
    for part, size in (("train", 60_000), ("t10k", 10_000)):
        labels = np.resize(np.array(first, np.uint8), size)
        images = maker().idx_bytes(np.zeros((size, 2, 2), np.uint8))
        (folder / f"{part}-images-idx3-ubyte.gz").write_bytes(images)
        (folder / f"{part}-labels-idx1-ubyte.gz").write_bytes(maker().idx_bytes(labels))


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("place", ["", "MNIST/raw"])
def test_mnist_is_read_from_each_layout(place, packed, tmp_path):
    put_packed(tmp_path / "data" / place, 20)
    if not packed:
        for name, content in tiny_set(20).items():
            (tmp_path / "data" / "MNIST" / "raw").mkdir(parents=True, exist_ok=True)
            (tmp_path / "data" / "MNIST" / "raw" / name.removesuffix(".gz")).write_bytes(gzip.decompress(content))
    splits = splits_of("mnist", None, tmp_path)
    assert type(splits.train) is MNIST
    assert (len(splits.train), len(splits.test), splits.train[3][1]) == (20, 10, 3)
    assert splits.train[3][0].shape == (1, 28, 28)
    assert splits.classes[3] == "3 - three"
    assert splits.source == str(tmp_path / "data")
    pixels = np.frombuffer(gzip.decompress(tiny_set(20)[FILES[0]]), np.uint8, offset=16).reshape(-1, 28, 28)
    assert torch.equal(splits.train.data, torch.tensor(pixels))


def test_files_of_one_set_are_not_taken_for_the_other(tmp_path):
    put_full(tmp_path / "a" / "data", FIRST["fashion"])
    put_full(tmp_path / "b" / "data", FIRST["mnist"])
    assert type(FASHION_MNIST_SET.find(None, tmp_path / "a").train) is FashionMNIST
    assert type(MNIST_SET.find(None, tmp_path / "b").train) is MNIST
    for known, project in ((MNIST_SET, "a"), (FASHION_MNIST_SET, "b")):
        with pytest.raises(DataNotFoundError):
            known.find(None, tmp_path / project)


def test_when_mnist_is_nowhere_every_place_and_remedy_is_named(tmp_path):
    with pytest.raises(DataNotFoundError) as caught:
        MNIST_SET.find(tmp_path / "root", tmp_path / "project")
    message = str(caught.value)
    for part in ("root", "project/data", "share/datasets/mnist"):
        assert f"- {tmp_path / part}\n" in message
    assert all(name in message for name in FILES)
    assert list(tmp_path.iterdir()) == []


def test_pictures_without_a_label_are_damage(tmp_path):
    put_packed(tmp_path / "data", 20)
    labels = maker().idx_bytes(np.zeros(19, np.uint8))
    (tmp_path / "data" / FILES[1]).write_bytes(labels)
    with pytest.raises(DataNotFoundError, match="20 images but 19 labels"):
        MNIST_SET.find(None, tmp_path)


def idx(array, kind=8):
    return bytes([0, 0, kind, array.ndim]) + b"".join(size.to_bytes(4, "big") for size in array.shape) + array.tobytes()


IMAGES, LABELS = (name.removesuffix(".gz") for name in FILES[:2])


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        (IMAGES, idx(np.zeros((20, 28, 28), np.uint8))[:-9], "has 15,671 bytes behind its header, and .* are 15,680"),
        (IMAGES, b"<html>not found</html>", "begins with 3c 68"),
        (IMAGES, b"", "begins with nothing"),
        (IMAGES, idx(np.zeros(20, np.uint8)), r"is \[20\] of uint8, and pictures are \[N, H, W\] of uint8"),
        (IMAGES, idx(np.zeros((20, 28, 28), ">f4"), 0x0D), r"is \[20, 28, 28\] of float32, and pictures are"),
        (LABELS, idx(np.zeros((20, 28, 28), np.uint8)), r"is \[20, 28, 28\] of uint8, and labels are \[N\] of uint8"),
        (LABELS, idx(np.full(20, -1, np.int8), 9), r"is \[20\] of int8, and labels are"),
        (LABELS, idx(np.full(20, 10, np.uint8)), "has the class 10 for picture 0, of 10 classes"),
        (IMAGES, idx(np.zeros((20, 20, 20), np.uint8)), r"has pictures \[20, 20\], and t10k \[28, 28\]"),
    ],
)
def test_a_file_that_is_not_what_it_should_be_is_named_with_what_is_wrong(name, content, said, packed, tmp_path):
    folder = tmp_path / "data" / "MNIST" / "raw"
    put_packed(folder, 20)
    (folder / f"{name}.gz").write_bytes(gzip.compress(content))
    for path in () if packed else tuple(folder.iterdir()):
        (folder / path.stem).write_bytes(gzip.decompress(path.read_bytes()))
        path.unlink()
    with pytest.raises(
        DataNotFoundError, match=f"MNIST in .* is damaged .*{name.split('-')[0]}.*{said}.*get them again"
    ):
        MNIST_SET.find(None, tmp_path)
