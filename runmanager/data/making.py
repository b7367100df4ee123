"""The columns of a data set, made in the quickest way that gives what a DataLoader would."""

import sys
from collections.abc import Callable
from typing import Any

import torch
from torch.utils.data import TensorDataset

from runmanager.data.columns import SCALES, Column, Growing
from runmanager.data.draws import Draws
from runmanager.data.reading import NotResident, Read, as_rows, read, spread

_CHUNK = 512  # samples that are read at once
_FEW = 16  # that tell what the others will be like
_SOME = 64  # that prove that all may be turned into numbers at once
_MANY = 256  # that are read once more when all were read
_CONVERTERS = ("ToTensor", "ToImage", "PILToTensor", "ToDtype", "ConvertImageDtype")

Columns = tuple[Column, Column]
"""The inputs and the targets of all samples."""
Ask = Callable[[int], None]
"""Is told how many bytes are needed; raises TooLarge if there are not so many."""


class TooLarge(NotResident):
    """A data set needs more memory than there is."""


def room(budget: int, device: torch.device) -> Ask:
    """Asks for no more than `budget`."""

    def ask(num_bytes: int) -> None:
        if num_bytes > budget:
            raise TooLarge(f"it takes {_size_text(num_bytes)}, and may take {_size_text(budget)} on {device}")

    return ask


def _size_text(num_bytes: int) -> str:
    for unit, size in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if num_bytes >= size:
            return f"{num_bytes / size:.1f} {unit}"
    return f"{num_bytes} bytes"


def is_same(dataset: Any, columns: Columns, number: int = _FEW) -> bool:
    """Whether a spread of samples, read from the data set now, is what the columns have."""
    rows = spread(len(columns[0]), number)
    return _has(columns, rows, read(dataset, rows))


def _has(columns: Columns, rows: list[int], samples: Read) -> bool:
    inputs, targets = (column.take(as_rows(rows, column.device)).cpu() for column in columns)
    return samples.is_same(inputs, targets)


def is_quick(dataset: Any) -> bool:
    """Whether its samples need not be read one by one."""
    return type(dataset) is TensorDataset or _is_of_pictures(dataset)


def from_tensors(dataset: Any, device: torch.device, ask: Ask) -> Columns | None:
    """A TensorDataset's own tensors."""
    if type(dataset) is not TensorDataset:
        return None
    tensors = dataset.tensors
    if len(tensors) != 2:
        raise NotResident(f"its samples have {len(tensors)} tensors, and are not pairs of inputs and targets")
    if any(
        type(tensor) is not torch.Tensor or tensor.layout != torch.strided or tensor.requires_grad for tensor in tensors
    ):
        raise NotResident("its tensors are sparse, or trained, or of a class of their own")
    ask(sum(tensor.nbytes for tensor in tensors if tensor.device != device))
    return Column(tensors[0]), Column(tensors[1])


def from_pictures(dataset: Any, device: torch.device, ask: Ask) -> Columns | None:
    """The pictures of torchvision's MNIST and CIFAR classes all at once; None unless a spread of them proves right."""
    if not _is_of_pictures(dataset):
        return None
    pixels, targets = torch.as_tensor(dataset.data), torch.as_tensor(dataset.targets)
    if pixels.dtype != torch.uint8 or pixels.dim() not in (3, 4) or targets.is_floating_point() or targets.dim() != 1:
        return None
    pixels = pixels.unsqueeze(1) if pixels.dim() == 3 else pixels.permute(0, 3, 1, 2)  # [N, C, H, W]
    labels = Column(targets.to(torch.int64))
    rows = spread(len(pixels), _SOME)
    some = read(dataset, rows)
    suiting = [scale for scale in SCALES if _has((Column(pixels, scale), labels), rows, some)]
    if len(suiting) != 1:  # these pictures suit none, or are all black and suit any
        return None
    is_there = pixels.is_contiguous() and pixels.device == device
    ask(0 if is_there else pixels.nbytes + labels.num_bytes)
    return Column(pixels.contiguous(), suiting[0]), labels


def _is_of_pictures(dataset: Any) -> bool:
    if "torchvision" not in sys.modules:
        return False
    from torchvision.datasets import CIFAR10, MNIST

    is_known = getattr(type(dataset), "__getitem__", None) in (MNIST.__getitem__, CIFAR10.__getitem__)
    return is_known and dataset.target_transform is None and _converts_alone(dataset.transform)


def _converts_alone(transform: Any) -> bool:
    """Whether torchvision's transform does the same to each pixel of every picture."""
    kind = type(transform)
    if not kind.__module__.startswith("torchvision.transforms."):
        return False
    if kind.__name__ == "Compose":
        return all(map(_converts_alone, transform.transforms))
    return kind.__name__ in _CONVERTERS


class OneByOne:
    """The columns of a data set whose samples must be read one by one.

    When it is made, a few are read; what it cannot do is mostly found then.
    """

    def __init__(self, dataset: Any, size: int, ask: Ask, draws: Draws) -> None:
        self._dataset, self._size, self._draws = dataset, size, draws
        rows = spread(size, _FEW)
        self._few = self._read(rows)
        if not self._read(rows).is_same(self._few.inputs, self._few.targets):
            raise NotResident("its samples are not the same when they are read again")
        self._inputs = Growing(size, self._few.inputs, ask, SCALES)
        self._targets = Growing(size, self._few.targets, ask)
        ask(self._inputs.num_bytes + self._targets.num_bytes)

    def columns(self) -> Columns:
        """Reads all."""
        for start in range(0, self._size, _CHUNK):
            chunk = self._read(range(start, min(start + _CHUNK, self._size)), self._few.kinds)
            self._inputs.add(chunk.inputs)
            self._targets.add(chunk.targets)
        columns = self._inputs.column(), self._targets.column()
        if not is_same(self._dataset, columns, _MANY):
            raise NotResident("its samples are not the same when they are read again")
        self._refuse_draws()
        return columns

    def _read(self, *arguments: Any) -> Read:
        chunk = read(self._dataset, *arguments)
        self._refuse_draws()
        return chunk

    def _refuse_draws(self) -> None:
        found = self._draws.found()
        if found is not None:
            raise NotResident(f"its samples draw {found}")
