"""Text in pictures, by Pillow's own font."""

from functools import lru_cache
from typing import Any

from PIL import Image, ImageDraw, ImageFont


@lru_cache(maxsize=16)
def font(size: int) -> Any:
    """Pillow's font, `size` pixels high; where Pillow was built without FreeType, its only one."""
    return ImageFont.load_default(size)


def width_of(text: str, size: int) -> int:
    """How many pixels a line of text takes."""
    return int(font(size).getlength(_drawable(text, size))) + 1


def fitted(text: str, size: int, width: int) -> str:
    """A text, cut where it is wider than there is room for."""
    text = " ".join(text.split())
    if width_of(text, size) <= width:
        return text
    length = len(text)
    while length and width_of(text[:length] + "..", size) > width:
        length -= 1
    return text[:length].rstrip() + ".."


def write(image: Image.Image, at: tuple[float, float], text: str, size: int, colour: Any, anchor: str) -> None:
    """Draws a line of text; `anchor` says which of its points stands there, as Pillow has it ("mm": the middle)."""
    chosen = font(size)
    if not isinstance(chosen, ImageFont.FreeTypeFont):  # the old font knows no anchors
        width, height = width_of(text, size), 11
        at = (at[0] - {"l": 0, "m": width / 2, "r": width}[anchor[0]], at[1] - {"t": 0, "m": height / 2}[anchor[1]])
        ImageDraw.Draw(image).text(at, _drawable(text, size), font=chosen, fill=colour)
        return
    ImageDraw.Draw(image).text(at, text, font=chosen, fill=colour, anchor=anchor)


def upright(text: str, size: int, colour: Any) -> Image.Image:
    """A line of text that is read from below."""
    line = Image.new("RGB", (width_of(text, size), size + 4), "white")
    write(line, (0, line.height / 2), text, size, colour, "lm")
    return line.transpose(Image.Transpose.ROTATE_90)


def _drawable(text: str, size: int) -> str:
    """The text as the font can draw it: the old one has Latin letters alone."""
    if isinstance(font(size), ImageFont.FreeTypeFont):
        return text
    return text.encode("latin-1", "replace").decode("latin-1")
