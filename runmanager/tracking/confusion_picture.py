"""The picture of a confusion matrix: a cell for each pair of classes, the darker the more of its row it has."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from runmanager.tracking.drawing import fitted, upright, width_of, write

_GRID, _MAX_CELL, _MAX_CELLS = 640, 56, 1280  # pixels of the grid and of a cell; cells in a row
_NAME_WIDTH, _MAX_FONT, _MIN_FONT = 120, 14, 8
_FULL = np.array([8, 48, 107])  # the colour of a cell that has all of its row
_INK, _GREY, _LINE = "black", (90, 90, 90), 225


def confusion_pixels(counts: Sequence[Sequence[int]], classes: Sequence[str]) -> NDArray[np.uint8]:
    """A picture [H, W, 3] of counts [C, C], whose rows are true classes and whose columns are predicted ones.

    Numbers and names stand where there is room for them; of many classes every so many is named.
    """
    table, names = _merged(np.asarray(counts, dtype=np.float64), list(classes))
    size = max(1, min(_MAX_CELL, _GRID // len(table)))
    depth = np.sqrt(
        table / np.maximum(table.sum(1, keepdims=True), 1)
    )  # the root, so that a few errors can be seen too
    grid = Image.fromarray(_cells(depth, size))
    if size > _MIN_FONT:
        _write_counts(grid, table, depth, size)
    return np.asarray(_with_names(grid, names, size))


def _merged(table: NDArray[np.float64], names: list[str]) -> tuple[NDArray[np.float64], list[str]]:
    """The table with as many cells as a picture can have: neighbouring classes are counted together where there are more."""
    step = -(-len(table) // _MAX_CELLS)
    starts = np.arange(0, len(table), step)
    return np.add.reduceat(np.add.reduceat(table, starts, 0), starts, 1), names[::step]


def _cells(depth: NDArray[np.float64], size: int) -> NDArray[np.uint8]:
    """The cells' colours, from white to dark, each cell `size` pixels wide; lines between them where they are not too small."""
    colours = 255 + depth[..., None] * (_FULL - 255)
    pixels: NDArray[np.uint8] = colours.round().astype(np.uint8).repeat(size, 0).repeat(size, 1)
    if size >= 8:
        pixels[size - 1 :: size] = pixels[:, size - 1 :: size] = _LINE
    return pixels


def _write_counts(grid: Image.Image, table: NDArray[np.float64], depth: NDArray[np.float64], size: int) -> None:
    """Writes all counts but 0 into their cells, or none: a count that is left out would be taken for 0."""
    texts = {(row, column): _short(int(count)) for (row, column), count in np.ndenumerate(table) if count}
    longest = "0" * max(map(len, texts.values()), default=0)
    fonts = (height for height in range(_MAX_FONT, _MIN_FONT - 1, -1) if width_of(longest, height) < size)
    font_size = next(fonts, None)
    if font_size is None:
        return
    for (row, column), text in texts.items():
        colour = "white" if depth[row, column] > 0.6 else _INK
        write(grid, ((column + 0.5) * size - 1, (row + 0.5) * size - 1), text, font_size, colour, "mm")


def _short(count: int) -> str:
    """A count in four letters or so; the exact one is in the run's folder."""
    for unit, letter in ((10**9, "G"), (10**6, "M"), (10**3, "k")):
        if count >= max(unit, 10**4):
            return f"{count / unit:.0f}{letter}"
    return str(count)


def _with_names(grid: Image.Image, names: list[str], size: int) -> Image.Image:
    """The grid with the classes' names at its left and below, and what the axes are."""
    font_size = max(_MIN_FONT, min(_MAX_FONT, size - 2))
    step = -(-(font_size + 2) // size)
    shown = [(index, fitted(names[index], font_size, _NAME_WIDTH)) for index in range(0, len(names), step)]
    margin = max(width_of(name, font_size) for _, name in shown) + 6
    left, title = margin + 22, _MAX_FONT
    image = Image.new("RGB", (left + max(grid.width, 70) + 12, grid.height + left + 12), "white")
    ImageDraw.Draw(image).rectangle((left - 1, 11, left + grid.width, 12 + grid.height), outline=(_LINE,) * 3)
    image.paste(grid, (left, 12))
    for index, name in shown:
        middle = round((index + 0.5) * size)
        write(image, (left - 4, 12 + middle), name, font_size, _INK, "rm")
        below = upright(name, font_size, _INK)
        image.paste(below, (left + middle - below.width // 2, 12 + grid.height + 4))
    axis = upright("true", title, _GREY)
    image.paste(axis, (2, 12 + max(0, (grid.height - axis.height) // 2)))
    write(image, (left + grid.width / 2, image.height - 11), "predicted", title, _GREY, "mm")
    return image
