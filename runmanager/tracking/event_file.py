"""TensorBoard event files: records of length, masked CRC-32C and bytes, written as they come and never held back.

The format is TensorFlow's TFRecord; an event is a protocol buffer. Scalars, which are written at every step, are packed here by
hand; everything rarer comes as a message of TensorBoard's own classes.
"""

import io
import struct
import time
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import google_crc32c

from runmanager.tracking.files import write_all


def masked_crc(data: bytes) -> int:
    """CRC-32C as TFRecord stores it, rotated and offset, so that a checksum of checksums stays sound."""
    crc: int = google_crc32c.value(data)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


class EventFile:
    """One event file. Every event reaches the system before `write` returns."""

    def __init__(self, path: Path) -> None:
        self._file = io.FileIO(path, "x")
        self.write(struct.pack("<Bd", 0x09, time.time()) + b"\x1a\x0dbrain.Event:2")

    def write(self, event: bytes) -> None:
        """Adds one serialised event.

        Raises:
            OSError: it could not be written.
        """
        length = struct.pack("<Q", len(event))
        crcs = struct.pack("<II", masked_crc(length), masked_crc(event))
        write_all(self._file, length + crcs[:4] + event + crcs[4:])

    def close(self) -> None:
        """Lets go of the file."""
        self._file.close()


def scalars_event(step: int, scalars: Mapping[str, float], prefix: str = "") -> bytes:
    """One event that holds all the scalars of a step, as float32; beyond its range they become infinite.

    Args:
        step: where they stand on TensorBoard's axis.
        scalars: the values by tag.
        prefix: goes before each tag.
    """
    packer, layout = _layout(tuple(scalars), prefix)
    fields = layout.copy()
    fields[1::2] = scalars.values()
    try:
        body = packer.pack(*fields)
    except OverflowError:
        fields[1::2] = map(_as_float32, scalars.values())
        body = packer.pack(*fields)
    return struct.pack("<Bd", 0x09, time.time()) + b"\x10" + _varint(step) + b"\x2a" + _varint(len(body)) + body


def _as_float32(value: float) -> float:
    try:
        return float(struct.unpack("<f", struct.pack("<f", value))[0])
    except OverflowError:
        return float("inf") if value > 0 else float("-inf")


@lru_cache(maxsize=512)
def _layout(tags: tuple[str, ...], prefix: str) -> tuple[struct.Struct, list[Any]]:
    """How a Summary of these tags is laid out: before each float its Value's header and tag, which never change.

    The list has those, and between them the places of the floats.
    """
    keys = []
    for tag in tags:
        name = f"{prefix}{tag}".encode("utf-8", "replace")
        tag_field = b"\x0a" + _varint(len(name)) + name
        keys.append(b"\x0a" + _varint(len(tag_field) + 5) + tag_field + b"\x15")
    packer = struct.Struct("<" + "".join(f"{len(key)}sf" for key in keys))
    return packer, [field for key in keys for field in (key, 0.0)]


def _varint(number: int) -> bytes:
    number &= 0xFFFFFFFFFFFFFFFF  # a negative step counts as its two's complement
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)
