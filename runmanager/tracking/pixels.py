"""Pictures that `log_image` is given, as bytes that can be shown."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from runmanager.tracking.errors import MetricError

_SHAPES = "[H, W], [1, H, W], [3, H, W] or [H, W, 3]"


def pixels_of(name: str, image: Any) -> NDArray[np.uint8]:
    """A picture as bytes [H, W, 3].

    Args:
        name: what it is called.
        image: bytes, or floats from 0 to 1: a tensor, an array or a PIL image of shape [H, W], [1, H, W], [3, H, W] or
            [H, W, 3].

    Raises:
        MetricError: it has another shape, or values that are none of a picture's.
    """
    values = _as_array(name, image)
    if values.ndim == 2:
        values = values[None]
    elif values.ndim == 3 and values.shape[0] not in (1, 3) and values.shape[2] == 3:
        values = values.transpose(2, 0, 1)
    if values.ndim != 3 or values.shape[0] not in (1, 3) or values.size == 0:
        raise MetricError(f"log_image({name!r}): the picture has shape {_shape(image)}; give {_SHAPES}")
    seen = np.broadcast_to(_as_bytes(name, values), (3, *values.shape[1:])).transpose(1, 2, 0)
    return np.ascontiguousarray(seen)


def _as_array(name: str, image: Any) -> NDArray[Any]:
    if hasattr(image, "detach"):  # a tensor, which may be bfloat16, or on another device
        image = image.detach()
        image = (image.float() if image.is_floating_point() else image).cpu()
    values = np.asarray(image)
    if values.dtype.kind not in "buif":
        raise MetricError(f"log_image({name!r}) got a {type(image).__name__}; give a tensor or an array, {_SHAPES}")
    return values


def _as_bytes(name: str, values: NDArray[Any]) -> NDArray[np.uint8]:
    if values.dtype == np.uint8:
        return values
    low, high = values.min(), values.max()
    if values.dtype.kind not in "bf":
        raise MetricError(
            f"log_image({name!r}): the picture is {values.dtype} from {low} to {high}; give uint8, or floats from 0 to 1"
        )
    if not (low >= -1e-3 and high <= 1 + 1e-3):  # NaN is neither
        raise MetricError(
            f"log_image({name!r}): the values go from {low:.4g} to {high:.4g}, but a picture's are from 0 to 1; undo its "
            "normalisation, or stretch it: (image - image.min()) / (image.max() - image.min())"
        )
    return (values.clip(0, 1).astype(np.float64) * 255).round().astype(np.uint8)


def _shape(image: Any) -> list[int]:
    return list(getattr(image, "shape", np.shape(image)))
