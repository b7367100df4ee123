"""How tensors' values are spread: the histograms of torch's SummaryWriter, bin for bin, at a fraction of their cost.

The bins are its own: each edge is 1.1 times the one before, on both sides of zero.
"""

import sys
from collections.abc import Iterator, Mapping
from functools import lru_cache
from itertools import accumulate, chain, groupby, repeat, takewhile
from operator import mul
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import torch

_POSITIVE = [*takewhile(lambda edge: edge < 1e20, accumulate(repeat(1.1), mul, initial=1e-12)), sys.float_info.max]
EDGES = np.array([-edge for edge in reversed(_POSITIVE)] + [0.0] + _POSITIVE)
"""The edges of the bins. Torch's SummaryWriter lacks the outermost two, which the values of a diverging network need."""

_BLOCK_SIZE = 2**15  # values that are looked up together; their bins stay in the processor's cache
_PACK_SIZE = 2**20  # values that come from their device in one copy; a larger tensor comes alone


class Histogram(NamedTuple):
    """How many values lie in each bin, from the bin before the first that has any to the last that has any."""

    min: float
    max: float
    num: int
    sum: float
    sum_squares: float
    limits: NDArray[np.float64]  # the right edge of each bin, [num_bins]
    counts: NDArray[np.int64]  # [num_bins]


def histogram(values: NDArray[Any]) -> Histogram:
    """Counts finite values [N], N ≥ 1, of type float32 or float64."""
    counts = _bins_of(values.dtype).count(values)
    first = int((counts > 0).argmax())
    exact = values.astype(np.float64, copy=False)
    return Histogram(
        min=float(exact.min()),
        max=float(exact.max()),
        num=len(values),
        sum=float(exact.sum()),
        sum_squares=float(exact.dot(exact)),
        limits=EDGES[first : len(counts) + 1],
        counts=counts[first - 1 :] if first else np.append(0, counts),
    )


class _Bins:
    """Finds the bins of all values of one float type, without sorting them.

    The upper 16 bits of a float are its sign, its exponent and the first bits of its mantissa. Floats that share them lie so
    close together that at most one edge parts them. So a table gives the bin of the lowest of them, and one comparison tells
    whether a value is in that bin or in the next.
    """

    def __init__(self, dtype: np.dtype[Any]) -> None:
        self._bits = np.dtype(f"u{dtype.itemsize}")
        self._shift = 8 * dtype.itemsize - 16
        edges = _rounded_up(dtype)
        self._right_edges = np.append(edges[1:-1], dtype.type(np.inf))  # the last bin has its right edge too
        lowest = _lowest_of_each_16_bits(dtype)
        # those that are NaN are never looked up
        self._table = (edges.searchsorted(lowest, "right") - 1).clip(0, len(self._right_edges) - 1)

    def count(self, values: NDArray[Any]) -> NDArray[np.int64]:
        """How many of the values [N] lie in each bin, up to the last bin that has any."""
        counts = np.zeros(0, np.int64)
        for start in range(0, len(values), _BLOCK_SIZE):
            found = self._find(values[start : start + _BLOCK_SIZE])
            more = np.bincount(found, minlength=len(counts))
            more[: len(counts)] += counts
            counts = more
        return counts

    def _find(self, values: NDArray[Any]) -> NDArray[np.int64]:
        upper_bits = (values.view(self._bits) >> self._shift).astype(np.intp, copy=False)
        found: NDArray[np.int64] = self._table.take(upper_bits)
        found += values >= self._right_edges.take(found)
        return found


_bins_of = lru_cache(_Bins)


def _rounded_up(dtype: np.dtype[Any]) -> NDArray[Any]:
    """The lowest float of the type that is not below each edge, so that comparing with it is comparing with the edge."""
    with np.errstate(over="ignore"):
        edges = EDGES.astype(dtype)
    return np.where(edges.astype(np.float64) < EDGES, np.nextafter(edges, dtype.type(np.inf)), edges)


def _lowest_of_each_16_bits(dtype: np.dtype[Any]) -> NDArray[Any]:
    """The lowest float of the type for each value of its upper 16 bits, [65536]."""
    bits = np.dtype(f"u{dtype.itemsize}").type
    shift = bits(8 * dtype.itemsize - 16)
    all_bits = np.arange(2**16, dtype=bits) << shift
    all_bits[2**15 :] |= (bits(1) << shift) - bits(1)  # of negative floats, the one with the largest mantissa
    lowest: NDArray[Any] = all_bits.view(dtype)
    return lowest


def histograms(tensors: Mapping[str, "torch.Tensor"]) -> tuple[dict[str, Histogram], dict[str, float]]:
    """Histograms of each tensor's finite values, by its tag, and how many were not finite, as `<tag>.non_finite`."""
    found: dict[str, Histogram] = {}
    num_not_finite: dict[str, float] = {}
    with np.errstate(over="ignore", invalid="ignore"):  # the sums of huge doubles are infinite or NaN, and may be
        for tag, values in chain.from_iterable(map(_on_host, _packs(tensors))):
            is_finite = np.isfinite(values)
            if not is_finite.all():
                num_not_finite[f"{tag}.non_finite"] = len(values) - int(is_finite.sum())
                values = values[is_finite]
            if len(values):
                found[tag] = histogram(values)
    return found, num_not_finite


def _packs(tensors: Mapping[str, "torch.Tensor"]) -> Iterator[dict[str, "torch.Tensor"]]:
    """The tensors by what one copy may bring: neighbours of one type, on one device, and not too large together."""
    for _, neighbours in groupby(tensors.items(), lambda item: (item[1].device, item[1].dtype)):
        pack: dict[str, torch.Tensor] = {}
        size = 0
        for tag, tensor in neighbours:
            if pack and size + tensor.numel() > _PACK_SIZE:
                yield pack
                pack, size = {}, 0
            pack[tag] = tensor
            size += tensor.numel()
        yield pack


def _on_host(pack: Mapping[str, "torch.Tensor"]) -> Iterator[tuple[str, NDArray[Any]]]:
    """Each tensor's values [N]. They come in one copy, since each copy waits for all that the device has to do."""
    import torch

    flat = [_flat(tensor) for tensor in pack.values()]
    together = torch.cat(flat) if len(flat) > 1 else flat[0]
    parts = together.cpu().split([len(values) for values in flat])
    return zip(pack, (part.numpy() for part in parts), strict=True)


def _flat(tensor: "torch.Tensor") -> "torch.Tensor":
    """The values [N] as float32, or float64 where they are; a sparse tensor's stored ones, a complex one's parts."""
    import torch

    tensor = tensor.detach()
    if tensor.is_sparse:
        tensor = tensor.coalesce().values()
    if tensor.is_complex():
        tensor = torch.view_as_real(tensor.resolve_conj())
    flat = tensor.reshape(-1).contiguous()
    return flat if flat.dtype in (torch.float32, torch.float64) else flat.float()
