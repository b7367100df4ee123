"""idx, the format of MNIST's files: arrays written and read, and pictures exported to image files and packed again.

A file is two zero bytes, the type of the numbers, how many dimensions there are, the size of each as four bytes, and the numbers,
all with the largest byte first; a name that ends in .gz has it packed.
"""

import gzip
import math
import os
import re
import struct
import tempfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from runmanager.data.errors import DataError
from runmanager.nearest import nearest

_TYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
_CODES = {np.dtype(name): code for code, name in _TYPES.items()}
_PACKED = b"\x1f\x8b"
_CHUNK = 2**20
_NAME = re.compile(r"(\d{1,9})\.png", re.ASCII)
_MOST_NAME_BYTES = 200
_CLASSES = "classes.txt"


class IdxError(DataError):
    """An idx file, or a folder to be packed into one, that cannot be used; the message has what was found and expected."""


def read_idx(path: str | Path) -> NDArray[Any]:
    """The array in an idx file, packed or not, with numbers in this machine's order of bytes.

    No more memory is taken than the file fills, whatever its header says.

    Raises:
        IdxError: it is none, or has fewer or more numbers than its header says.
        OSError: it cannot be read.
    """
    path = Path(path)
    try:
        with path.open("rb") as plain, _unpacking(plain) as file:
            shape, kind = _header(path, file)
            content = _content(path, file, math.prod(shape) * kind.itemsize, shape, kind)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise IdxError(f"{path} is packed, and damaged ({error}); get it again") from error
    return np.frombuffer(content, kind).reshape(shape).astype(kind.newbyteorder("="))


def write_idx(path: str | Path, array: NDArray[Any]) -> None:
    """Writes an array as an idx file, packed where the name ends in .gz; its folder is made where there is none.

    The same array gives the same bytes.

    Raises:
        IdxError: its numbers are of a type that the format does not have.
    """
    array, path = np.asarray(array), Path(path)
    code = _CODES.get(array.dtype.newbyteorder(">"))
    if code is None or not 1 <= array.ndim <= 255:
        raise IdxError(
            f"idx has no arrays {list(array.shape)} of {array.dtype}; it has {_type_names()}, of 1 to 255 dimensions"
        )
    if any(size >= 2**32 for size in array.shape):
        raise IdxError(f"idx has no arrays as large as {list(array.shape)}; a dimension has up to {2**32 - 1:,}")
    header = struct.pack(f">HBB{array.ndim}I", 0, code, array.ndim, *array.shape)
    content = header + array.astype(array.dtype.newbyteorder(">")).tobytes()
    _replace(path, gzip.compress(content, mtime=0) if path.suffix == ".gz" else content)


def export_images(
    images: str | Path, labels: str | Path, folder: str | Path, classes: Sequence[str] | None = None
) -> int:
    """Writes each picture of an idx file to <folder>/<class>/<its place>.png, without loss.

    Args:
        images: an idx file of bytes, [N, H, W], or [N, H, W, 3] in colour.
        labels: an idx file of bytes, [N].
        folder: is made, or is empty; at a fault it is left as it was.
        classes: the folders' names, by label, which are noted in <folder>/classes.txt; by default the labels themselves.

    Returns:
        How many there are.

    Raises:
        IdxError: a file is not there, the files do not go together, a label has no name, a name is no folder's, or the folder has
            something in it.
    """
    for path in (Path(images), Path(labels)):
        _refuse_missing(path)
    pixels, numbers = _pictures(Path(images)), read_idx(labels)
    _refuse_labels(Path(labels), numbers, len(pixels))
    names = _class_names(numbers, classes)
    folder = Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise IdxError(
            f"{folder} is there and not empty; give a new folder, so that no picture of another set is among these"
        )
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".export-") as temporary:
        made = Path(temporary) / "pictures"
        _write_pictures(made, pixels, numbers, names)
        if classes is not None:
            (made / _CLASSES).write_text("".join(f"{name}\n" for name in names), encoding="utf-8")
        if folder.is_dir():
            folder.rmdir()
        made.rename(folder)
    return len(pixels)


def pack_images(folder: str | Path, images_out: str | Path, labels_out: str | Path) -> tuple[str, ...]:
    """Packs <folder>/<class>/<place>.png into idx files, in the order of the places; an exported set comes out as it was.

    A class's label is its line in <folder>/classes.txt, where there is one; else its folder's name, where all of them are numbers;
    else its place among the sorted names.

    Args:
        folder: has a folder of pictures for each class.
        images_out: the idx file of the pictures, which is not there yet.
        labels_out: that of their labels, which is not there yet.

    Returns:
        The names of the folders, sorted by label.

    Raises:
        IdxError: there is no such folder, or one of the idx files is there; the pictures are of several sizes or kinds, a place is
            missing or taken twice, or a file is no such picture.
    """
    for path in (Path(images_out), Path(labels_out)):
        if path.exists():
            raise IdxError(f"{path} is there; give a new file, or remove it")
    labels = _labels_of(Path(folder))
    found = _found_pictures(Path(folder), labels)
    pixels: NDArray[np.uint8] | None = None
    for place, (file, _) in enumerate(found):
        one = _read_picture(file)
        if pixels is None:
            pixels = np.empty((len(found), *one.shape), np.uint8)
        if one.shape != pixels.shape[1:]:
            raise IdxError(
                f"{file} is {list(one.shape)}, and the pictures before it {list(pixels.shape[1:])}; make them alike"
            )
        pixels[place] = one
    assert pixels is not None
    write_idx(images_out, pixels)
    write_idx(labels_out, np.array([label for _, label in found], np.uint8))
    return tuple(sorted(labels, key=labels.__getitem__))


def _refuse_missing(path: Path) -> None:
    if not path.is_file():
        beside = [entry.name for entry in path.parent.iterdir()] if path.parent.is_dir() else []
        raise IdxError(f"there is no file {path}; give an idx file, packed (.gz) or not{nearest(path.name, beside)}")


def _unpacking(plain: BinaryIO) -> Any:
    is_packed = plain.read(2) == _PACKED
    plain.seek(0)
    return gzip.GzipFile(fileobj=plain) if is_packed else plain


def _header(path: Path, file: Any) -> tuple[tuple[int, ...], np.dtype[Any]]:
    start = file.read(4)
    if len(start) < 4 or start[:2] != b"\0\0":
        raise IdxError(
            f"{path} begins with {start.hex(' ') or 'nothing'}, and an idx file with 00 00, a type and its dimensions"
        )
    code, num_dims = start[2], start[3]
    if code not in _TYPES:
        raise IdxError(f"{path} has numbers of type {code:#04x}, and idx has {_type_names()}")
    if num_dims == 0:
        raise IdxError(f"{path} has no dimensions, and an idx file has at least one")
    sizes = file.read(4 * num_dims)
    if len(sizes) < 4 * num_dims:
        raise IdxError(
            f"{path} ends after {4 + len(sizes)} bytes, and the header of {num_dims} dimensions has {4 + 4 * num_dims}"
        )
    return struct.unpack(f">{num_dims}I", sizes), np.dtype(_TYPES[code])


def _content(path: Path, file: Any, expected: int, shape: tuple[int, ...], kind: np.dtype[Any]) -> bytearray:
    """The numbers' bytes; they are read in pieces, since the header may promise more than any memory has."""
    content = bytearray()
    while len(content) <= expected:
        piece = file.read(min(_CHUNK, expected + 1 - len(content)))
        if not piece:
            break
        content += piece
    if len(content) != expected:
        found = "more" if len(content) > expected else f"{len(content):,}"
        raise IdxError(
            f"{path} has {found} bytes behind its header, and {list(shape)} numbers of {kind.itemsize} bytes are {expected:,}"
        )
    return content


def _type_names() -> str:
    return ", ".join(f"{np.dtype(name).name} ({code:#04x})" for code, name in _TYPES.items())


def _pictures(path: Path) -> NDArray[np.uint8]:
    pixels = read_idx(path)
    is_colour = pixels.ndim == 4 and pixels.shape[3] == 3
    if pixels.dtype != np.uint8 or not (pixels.ndim == 3 or is_colour) or 0 in pixels.shape:
        raise IdxError(
            f"{path} is {list(pixels.shape)} of {pixels.dtype}, and pictures are uint8 [N, H, W] or [N, H, W, 3]"
        )
    return pixels


def _refuse_labels(path: Path, labels: NDArray[Any], num_images: int) -> None:
    if labels.dtype != np.uint8 or labels.ndim != 1:
        raise IdxError(f"{path} is {list(labels.shape)} of {labels.dtype}, and labels are uint8 [N]")
    if len(labels) != num_images:
        raise IdxError(
            f"pictures and labels are not as many, {num_images} and {len(labels)}; give the two files of one set"
        )


def _class_names(labels: NDArray[Any], classes: Sequence[str] | None) -> list[str]:
    """The folder of each label."""
    names = [str(number) for number in range(256)] if classes is None else list(classes)
    for name in names:
        if not _is_folder_name(name):
            raise IdxError(
                f"class {name!r:.80} cannot be a folder's name; give names without / and \\ that begin with no dot"
            )
    lowered = [name.casefold() for name in names]
    twice = next((name for name in lowered if lowered.count(name) > 1), None)
    if twice is not None:
        raise IdxError(
            f"two classes are named {twice!r}; give each a name of its own, not only in upper and lower case"
        )
    if labels.size and int(labels.max()) >= len(names):
        place = int(np.flatnonzero(labels >= len(names))[0])
        raise IdxError(f"picture {place} has label {int(labels[place])}, but there are {len(names)} class names")
    return names


def _is_folder_name(name: object) -> bool:
    if not isinstance(name, str) or not name.isprintable() or name != name.strip() or name.startswith(".") or not name:
        return False
    return not set(name) & set('/\\:*?"<>|') and not name.endswith(".") and len(name.encode()) <= _MOST_NAME_BYTES


def _write_pictures(folder: Path, pixels: NDArray[np.uint8], labels: NDArray[Any], names: list[str]) -> None:
    from PIL import Image

    width = max(5, len(str(len(pixels) - 1)))
    folder.mkdir()
    for label in np.unique(labels):
        (folder / names[label]).mkdir()
    for place, (picture, label) in enumerate(zip(pixels, labels, strict=True)):
        Image.fromarray(picture).save(folder / names[label] / f"{place:0{width}d}.png", "png", compress_level=1)


def _labels_of(folder: Path) -> dict[str, int]:
    """The label of each class, by its folder's name."""
    if not folder.is_dir():
        raise IdxError(f"there is no folder {folder}; give one that has a folder of pictures for each class")
    names = sorted(entry.name for entry in os.scandir(folder) if entry.is_dir() and not entry.name.startswith("."))
    if not names:
        raise IdxError(f"{folder} has no folders; give one that has a folder of pictures for each class")
    if (folder / _CLASSES).is_file():
        labels = {
            name: label for label, name in enumerate((folder / _CLASSES).read_text(encoding="utf-8").splitlines())
        }
        other = next((name for name in names if name not in labels), None)
        if other is not None:
            raise IdxError(f"{folder} has the class {other!r}, which is not in its {_CLASSES} ({', '.join(labels)})")
        labels = {name: labels[name] for name in names}
    elif all(re.fullmatch(r"0|[1-9]\d{0,2}", name, re.ASCII) for name in names):
        labels = {name: int(name) for name in names}
    else:
        labels = {name: place for place, name in enumerate(names)}
    if max(labels.values()) > 255:
        raise IdxError(f"{folder} has the label {max(labels.values())}, and idx labels are bytes, from 0 to 255")
    return labels


def _found_pictures(folder: Path, labels: dict[str, int]) -> list[tuple[Path, int]]:
    """Files and labels, in the order of their places."""
    found: dict[int, tuple[Path, int]] = {}
    for name, label in labels.items():
        for entry in os.scandir(folder / name):
            file = Path(entry.path)
            match = _NAME.fullmatch(entry.name)
            if match is None or not entry.is_file(follow_symlinks=False):
                raise IdxError(f"{file} is no picture's file; they are named by their place: 00000.png, 00001.png, ...")
            place = int(match[1])
            if place in found:
                raise IdxError(f"{file} and {found[place][0]} have the same place; give each picture its own")
            found[place] = file, label
    missing = next((place for place in range(len(found)) if place not in found), None)
    if missing is not None:
        raise IdxError(
            f"{folder} has no picture with place {missing} among its {len(found)}; number them from 0 without a gap"
        )
    if not found:
        raise IdxError(f"{folder} has no pictures; give each class a folder with <place>.png")
    return [found[place] for place in range(len(found))]


def _read_picture(file: Path) -> NDArray[np.uint8]:
    from PIL import Image

    try:
        with Image.open(file, formats=["PNG"]) as picture:
            if picture.mode not in ("L", "RGB"):
                raise IdxError(
                    f"{file} is a picture of mode {picture.mode}; idx has grey (L) and coloured (RGB) ones of bytes"
                )
            return np.array(picture)
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise IdxError(f"{file} cannot be read as a PNG ({type(error).__name__}: {error})") from error


def _replace(path: Path, content: bytes) -> None:
    """Writes a whole file, or leaves the one that is there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".idx-") as temporary:
        made = Path(temporary) / path.name
        made.write_bytes(content)
        made.replace(path)
