"""Makes the sample that runmanager ships, from the full Fashion-MNIST.

Of each class the same number of images, drawn with a fixed seed and kept in the order of the full set, in the full set's own file
format: 6,000 for training and 1,000 for tests. Run it from the repository's root:

    python tests/data/make_fashion_mnist_sample.py /usr/share/datasets/fashion-mnist runmanager/data/fashion_mnist_sample
"""

import gzip
import struct
import sys
from pathlib import Path

import numpy as np

SEED = 20170828  # the day the full set was published
PARTS = {"train": 6_000, "t10k": 1_000}


def read_idx(path: Path) -> np.ndarray:
    """The array in a packed idx file of unsigned bytes."""
    data = gzip.decompress(path.read_bytes())
    zero, kind, num_dims = struct.unpack(">HBB", data[:4])
    if zero != 0 or kind != 8:
        raise ValueError(f"{path} is no idx file of unsigned bytes")
    shape = struct.unpack(f">{num_dims}I", data[4 : 4 + 4 * num_dims])
    return np.frombuffer(data, np.uint8, offset=4 + 4 * num_dims).reshape(shape)


def idx_bytes(array: np.ndarray) -> bytes:
    """The array as a packed idx file; the same array gives the same bytes."""
    header = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape)
    return gzip.compress(header + array.tobytes(), compresslevel=9, mtime=0)


def stratified(labels: np.ndarray, size: int, generator: np.random.Generator) -> np.ndarray:
    """Sorted indices of `size` samples, equally many of each class."""
    classes = np.unique(labels)
    drawn = [generator.choice(np.flatnonzero(labels == name), size // len(classes), replace=False) for name in classes]
    return np.sort(np.concatenate(drawn))


def make(source: Path) -> dict[str, bytes]:
    """The sample's four files, by name."""
    generator = np.random.default_rng(SEED)
    files = {}
    for part, size in PARTS.items():
        labels_name, images_name = f"{part}-labels-idx1-ubyte.gz", f"{part}-images-idx3-ubyte.gz"
        labels = read_idx(source / labels_name)
        chosen = stratified(labels, size, generator)
        files[labels_name] = idx_bytes(labels[chosen])
        files[images_name] = idx_bytes(read_idx(source / images_name)[chosen])
    return files


if __name__ == "__main__":
    for name, content in make(Path(sys.argv[1])).items():
        (Path(sys.argv[2]) / name).write_bytes(content)
        print(f"{name}: {len(content):,} bytes")
