"""Pictures for TensorBoard: samples with what was predicted of them, and the confusion matrix."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from runmanager.tracking.errors import MetricError

if TYPE_CHECKING:
    from PIL.Image import Image

_TILE, _MAX_TILE, _FONT, _LINE, _EDGE, _GAP = 96, 224, 12, 16, 3, 6  # pixels
_MAX_COLUMNS = 8
_RIGHT, _WRONG, _GREY = (0, 128, 0), (200, 0, 0), (80, 80, 80)


def predictions_picture(inputs: Tensor, preds: Tensor, targets: Tensor, classes: Sequence[str] | None = None) -> Tensor:
    """A picture, bytes [3, H', W'], of samples with their predicted and true classes: right ones green, wrong ones red.

    Args:
        inputs: [N, C, H, W], grey or RGB, from 0 to 1 or bytes; what has other values is stretched to be seen.
        preds: scores [N, C'], or classes [N].
        targets: classes [N].
        classes: their names; without them their numbers stand there.

    Raises:
        MetricError: the shapes are others, or there are no samples.
    """
    _check(inputs, preds, targets)
    predicted = (preds.argmax(1) if preds.ndim == 2 else preds).tolist()
    tiles = [
        _tile(pixels, _name(guess, classes), _name(truth, classes), guess == truth)
        for pixels, guess, truth in zip(_as_bytes(inputs), predicted, targets.tolist(), strict=True)
    ]
    return _as_tensor(_grid(tiles))


def confusion_picture(counts: Tensor | Sequence[Sequence[int]], classes: Sequence[str] | None = None) -> Tensor:
    """A picture, bytes [3, H, W], of counts [C, C]: a row for each true class and a column for each predicted one.

    Raises:
        MetricError: they are no counts, or there are not as many names.
    """
    from runmanager.tracking.confusion import confusion_of
    from runmanager.tracking.confusion_picture import confusion_pixels

    checked = confusion_of("confusion", 0, counts, classes)
    return _as_tensor(confusion_pixels(checked.counts, checked.classes))


def _check(inputs: Tensor, preds: Tensor, targets: Tensor) -> None:
    is_picture = inputs.ndim == 4 and inputs.shape[1] in (1, 3) and inputs.numel() > 0
    fits = preds.ndim in (1, 2) and len(preds) == len(inputs) and targets.shape == inputs.shape[:1]
    if not (is_picture and fits):
        raise MetricError(
            f"the predictions cannot be shown: inputs have shape {list(inputs.shape)}, predictions {list(preds.shape)} and "
            f"targets {list(targets.shape)}; there have to be pictures [N, 1, H, W] or [N, 3, H, W], scores [N, C] and classes [N]"
        )


def _name(index: int, classes: Sequence[str] | None) -> str:
    return classes[index] if classes is not None and 0 <= index < len(classes) else str(index)


def _as_bytes(inputs: Tensor) -> Any:
    """Pictures [N, H, W, 3] on the host."""
    seen = inputs.detach().cpu()
    if seen.dtype != torch.uint8:
        seen = seen.double().nan_to_num(0.0, 1.0, 0.0)
        low, high = seen.amin(), seen.amax()
        if low < -1e-3 or high > 1 + 1e-3:
            seen = (seen - low) / (high - low).clamp(min=1e-12)
        seen = (seen.clamp(0, 1) * 255).round().byte()
    return seen.expand(-1, 3, -1, -1).permute(0, 2, 3, 1).contiguous().numpy()


def _tile(pixels: Any, predicted: str, true: str, is_right: bool) -> "Image":
    """A sample in its frame, and below it the class that was predicted and the true one."""
    from PIL import Image, ImageDraw

    from runmanager.tracking.drawing import fitted, write

    picture = Image.fromarray(pixels)
    size = _size(picture.width, picture.height)
    picture = picture.resize(size, Image.Resampling.BOX if size[0] < picture.width else Image.Resampling.NEAREST)
    width = max(picture.width, _TILE) + 2 * _EDGE
    tile = Image.new("RGB", (width, picture.height + 2 * _EDGE + 2 * _LINE), "white")
    colour, left = _RIGHT if is_right else _WRONG, (width - picture.width) // 2
    frame = (left - _EDGE, 0, left + picture.width + _EDGE - 1, picture.height + 2 * _EDGE - 1)
    ImageDraw.Draw(tile).rectangle(frame, fill=colour)
    tile.paste(picture, (left, _EDGE))
    for number, (text, ink) in enumerate(((predicted, colour), (f"true: {true}", _GREY))):
        at = width / 2, picture.height + 2 * _EDGE + (number + 0.5) * _LINE
        write(tile, at, fitted(text, _FONT, width), _FONT, ink, "mm")
    return tile


def _size(width: int, height: int) -> tuple[int, int]:
    """How large a sample is shown: a small one so many times as it is, a large one so that it fits."""
    largest = max(width, height)
    factor = max(1, math.ceil(_TILE / largest)) if largest <= _MAX_TILE else _MAX_TILE / largest
    return max(1, round(width * factor)), max(1, round(height * factor))


def _grid(tiles: "Sequence[Image]") -> "Image":
    """The tiles in rows, all of one size."""
    from PIL import Image

    num_columns = min(_MAX_COLUMNS, math.ceil(math.sqrt(len(tiles))))
    num_rows = math.ceil(len(tiles) / num_columns)
    width, height = tiles[0].width + _GAP, tiles[0].height + _GAP
    grid = Image.new("RGB", (num_columns * width + _GAP, num_rows * height + _GAP), "white")
    for number, tile in enumerate(tiles):
        row, column = divmod(number, num_columns)
        grid.paste(tile, (column * width + _GAP, row * height + _GAP))
    return grid


def _as_tensor(pixels: Any) -> Tensor:
    """Bytes [3, H, W] of a picture or of bytes [H, W, 3]."""
    import numpy as np

    return torch.from_numpy(np.array(pixels)).permute(2, 0, 1).contiguous()
