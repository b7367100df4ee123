"""The two numbers of each channel that inputs are normalised by."""

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from runmanager.data.errors import DataError as DataError

_NEARLY = 1e-5  # of a pixel's whole range, far more than rounding takes and far less than an eye sees
_WAYS = (
    '"measured", or (means, stds) with one number for each channel or one for all: ((0.5, 0.5, 0.5), (0.2, 0.2, 0.2))'
)


class Normalization(NamedTuple):
    """Mean and standard deviation of each channel, or one for all: normalised is (value - mean) / std.

    Channels are the third dimension from the end, as torchvision has them, and the first of smaller samples: of a sample [F]
    each feature is one.
    """

    means: tuple[float, ...]
    stds: tuple[float, ...]

    def apply(self, inputs: Tensor, num_dims: int) -> Tensor:
        """Normalised inputs [..., *shape of a sample], bit-equal to torchvision's v2.Normalize on each sample.

        Args:
            inputs: of one sample, or of many.
            num_dims: how many dimensions a sample has.

        Raises:
            DataError: they are no floats, or have another number of channels.
        """
        mean, std = self._tensors(inputs, num_dims)
        return inputs.sub(mean).div_(std)

    def undo(self, inputs: Tensor, num_dims: int) -> Tensor:
        """What the inputs were before, to within rounding; what was from 0 to 1 is so again."""
        mean, std = self._tensors(inputs, num_dims)
        plain = inputs.mul(std).add_(mean)
        inside = plain.clamp(0, 1)
        return torch.where((plain - inside).abs() < _NEARLY, inside, plain)

    def _tensors(self, inputs: Tensor, num_dims: int) -> tuple[Tensor, Tensor]:
        shape = tuple(inputs.shape[inputs.dim() - num_dims :])
        return _tensors(self, shape, inputs.dtype, inputs.device)


@lru_cache(maxsize=64)  # a copy to a GPU for each batch would make it wait
def _tensors(
    normalization: Normalization, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Mean and std as they are broadcast over samples of a shape."""
    type_name = str(dtype).removeprefix("torch.")
    if not dtype.is_floating_point:
        raise DataError(
            f"normalize needs inputs that are floats, not {type_name} {list(shape)}; turn them into floats first, as "
            "torchvision's v2.ToDtype(torch.float32, scale=True) does"
        )
    if len(normalization.means) not in (1, num_channels(shape)):
        raise DataError(
            f"normalize has {len(normalization.means)} means, but inputs {list(shape)} have {num_channels(shape)} channels; "
            "give one number for each channel, or one for all"
        )
    view = [-1, *[1] * (min(len(shape), 3) - 1)] if shape else []
    mean, std = (torch.tensor(numbers, dtype=dtype, device=device).view(view) for numbers in normalization)
    if bool((std == 0).any()):
        raise DataError(
            f"normalize has a std of {min(normalization.stds):g}, which is 0 as {type_name}; give a larger one"
        )
    return mean, std


def num_channels(shape: Sequence[int]) -> int:
    """How many channels a sample of this shape has."""
    return shape[-3] if len(shape) >= 3 else (shape[0] if shape else 1)


def wanted(how: Any) -> "Normalization | str | None":
    """What a setting says: None, "measured", or the numbers.

    Raises:
        DataError: it says none of these, or numbers that nothing can be divided by.
    """
    if how is None or isinstance(how, Normalization):
        return how
    if isinstance(how, str):
        if how == "measured":
            return how
        raise DataError(f"normalize={how!r} is unknown; give {_WAYS}")
    if not isinstance(how, (tuple, list)) or len(how) != 2:
        raise DataError(f"normalize={how!r:.100} makes no sense; give {_WAYS}")
    means, stds = (_numbers(how, one) for one in how)
    if len(means) != len(stds):
        raise DataError(f"normalize has {len(means)} means but {len(stds)} stds; give one of each for each channel")
    for place, std in enumerate(stds):
        if std <= 0:
            raise DataError(f"normalize has a std of {std:g} for channel {place}; give one that is larger than 0")
    return Normalization(means, stds)


def _numbers(how: Any, given: Any) -> tuple[float, ...]:
    given = given.tolist() if hasattr(given, "tolist") else given
    each = tuple(given) if isinstance(given, (tuple, list)) else (given,)
    try:
        numbers = tuple(map(float, each))
    except (TypeError, ValueError):
        numbers = ()
    if not numbers or not all(map(math.isfinite, numbers)) or any(isinstance(one, str) for one in each):
        raise DataError(f"normalize={how!r:.100} has {given!r:.60}, which are no finite numbers; give {_WAYS}")
    return numbers
