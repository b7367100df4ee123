"""All inputs, or all targets, of a data set in one tensor."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from runmanager.data.normalization import Normalization

_AS_BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}  # by the bytes of a number


@dataclass(frozen=True)
class Scale:
    """How a byte becomes a float32 number from 0 to 1. Dividing by 255 and multiplying by 1/255 differ in their last bits."""

    apply: Callable[[Tensor, Tensor], Tensor]
    number: float

    def factor(self, device: torch.device) -> Tensor:
        """The number as a tensor: CUDA would take a plain number's reciprocal, and lose a bit."""
        return torch.tensor(self.number, dtype=torch.float32, device=device)

    def floats(self, pixels: Tensor, factor: Tensor) -> Tensor:
        """The numbers of some bytes, in a tensor of the same shape."""
        return self.apply(pixels.float(), factor)


SCALES = (Scale(Tensor.div_, 255.0), Scale(Tensor.mul_, 1 / 255))
"""What turns pictures into tensors does the first (ToTensor) or the second (ToDtype of torchvision's v2)."""


class Column:
    """The values of all samples, [N, ...], on one device; float32 may be kept as the bytes that it came from.

    What they are normalised by is applied to those that are taken, so that they are kept once however they are normalised.
    """

    def __init__(
        self, values: Tensor, scale: Scale | None = None, normalizations: tuple[Normalization, ...] = ()
    ) -> None:
        self._values, self._scale, self._normalizations = values, scale, normalizations
        self._factor = scale.factor(values.device) if scale else None

    def __len__(self) -> int:
        return len(self._values)

    @property
    def device(self) -> torch.device:
        """Where they are."""
        return self._values.device

    @property
    def num_bytes(self) -> int:
        """What they take there."""
        return int(self._values.nbytes)

    def to(self, device: torch.device) -> "Column":
        """The same on another device; itself where it is there already."""
        return (
            self
            if self._values.device == device
            else Column(self._values.to(device), self._scale, self._normalizations)
        )

    def normalised(self, normalization: Normalization) -> "Column":
        """The same samples, normalised, without a copy of them."""
        return Column(self._values, self._scale, (*self._normalizations, normalization))

    def plain(self, values: Tensor) -> Tensor:
        """What values [..., *shape of one] were before they were normalised, to within rounding."""
        for normalization in reversed(self._normalizations):
            values = normalization.undo(values, self._values.dim() - 1)
        return values

    def take(self, rows: Tensor) -> Tensor:
        """The values [..., *shape of one] of the samples `rows` [...], laid out as if they had been stacked one by one."""
        taken = self._values.index_select(0, rows.reshape(-1))
        if self._scale is not None and self._factor is not None:
            taken = self._scale.floats(taken, self._factor)
        for normalization in self._normalizations:
            taken = normalization.apply(taken, self._values.dim() - 1)
        return taken.view(*rows.shape, *self._values.shape[1:])


class Growing:
    """A column in the making, chunk by chunk; it keeps bytes for as long as that loses nothing."""

    def __init__(self, size: int, few: Tensor, ask: Callable[[int], None], scales: Sequence[Scale] = ()) -> None:
        """Nothing is allocated before the first chunk.

        Args:
            size: the number of samples.
            few: the values of some of them, [B, ...].
            ask: is told how many bytes the column needs when it turns out to need more; raises if there are none.
            scales: how the values may have been made of bytes.
        """
        self._shape, self._dtype, self._ask = (size, *few.shape[1:]), few.dtype, ask
        self._scales = _suiting(few, _pixels(few), scales) if few.dtype == torch.float32 else []
        self._values: Tensor | None = None
        self._filled = 0

    @property
    def num_bytes(self) -> int:
        """What the whole column takes, as far as is known yet."""
        size = 1 if self._scales else int(self._dtype.itemsize)
        return int(math.prod(self._shape)) * size

    def add(self, values: Tensor) -> None:
        """Appends a chunk, [B, ...]."""
        if self._scales:
            pixels = _pixels(values)
            suiting = _suiting(values, pixels, self._scales)
            if suiting:
                self._scales, values = suiting, pixels
            else:
                self._widen()
        if self._values is None:
            self._values = values.new_empty(self._shape)
        self._values[self._filled : self._filled + len(values)] = values
        self._filled += len(values)

    def _widen(self) -> None:
        """From bytes to numbers; any of the scales that suited so far gives what was added."""
        scale, self._scales = self._scales[0], []
        self._ask(self.num_bytes)
        if self._values is not None:
            wide = torch.empty(self._shape, dtype=self._dtype, device=self._values.device)
            done = self._values[: self._filled]
            wide[: self._filled] = scale.floats(done, scale.factor(done.device))
            self._values = wide

    def column(self) -> Column:
        """What was added."""
        assert self._values is not None
        return Column(self._values, self._scales[0] if self._scales else None)


def _pixels(values: Tensor) -> Tensor:
    """The bytes that float32 numbers from 0 to 1 would have come from."""
    return values.mul(255).round_().to(torch.uint8)


def _suiting(values: Tensor, pixels: Tensor, scales: Sequence[Scale]) -> list[Scale]:
    """Those scales that turn these bytes into these numbers, to the last bit."""
    return [scale for scale in scales if same_bits(scale.floats(pixels, scale.factor(pixels.device)), values)]


def same_bits(first: Tensor, second: Tensor) -> bool:
    """Whether two tensors are of the same type and shape and hold the same bits: 0.0 is not -0.0, a NaN is itself."""
    if first.dtype != second.dtype or first.shape != second.shape:
        return False
    as_bits = _AS_BITS[min(8, first.dtype.itemsize)]
    return torch.equal(first.reshape(-1).view(as_bits), second.reshape(-1).view(as_bits))
