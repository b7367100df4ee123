"""The journal: one run's records, one line each, checksummed, only ever appended to.

A line is strict JSON and ends in its own checksum: `{"seq":3,"kind":"epoch",…,"crc":"0a1b2c3d"}` and a line feed. The CRC-32 is
taken over all before `,"crc"`. Lines are split on the byte `\\n` alone.
"""

import json
import os
import re
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson

from runmanager.tracking.errors import RunInUseError, StorageError
from runmanager.tracking.files import SyncedFile

_TAIL = re.compile(rb',"crc":"([0-9a-f]{8})"\}$')
_LONG_NUMBER = re.compile(rb"\d{19}")  # perhaps an integer beyond 64 bits, which orjson would make a float
_TAIL_SIZE = len(b',"crc":"00000000"}')

Record = dict[str, Any]


def encode_line(record: Record) -> bytes:
    """One journal line. Floats that JSON has no literal for must have been spelled out before."""
    try:
        body = orjson.dumps(record)
    except TypeError:  # a lone surrogate, or an integer beyond 64 bits
        body = json.dumps(record, allow_nan=False, separators=(",", ":")).encode("ascii")
    return b'%s,"crc":"%08x"}\n' % (body[:-1], zlib.crc32(body[:-1]))


def decode_line(line: bytes) -> Record | None:
    """The record of one line (without its line feed), or None when the line is damaged."""
    match = _TAIL.search(line)
    body = line[:-_TAIL_SIZE]
    if match is None or int(match[1], 16) != zlib.crc32(body):
        return None
    try:
        record = json.loads(line) if _LONG_NUMBER.search(line) else orjson.loads(line)
    except orjson.JSONDecodeError:  # a lone surrogate, which only Python's own parser takes
        try:
            record = json.loads(line)
        except ValueError:
            return None
    except ValueError:
        return None
    return record if isinstance(record, dict) and isinstance(record.get("seq"), int) else None


@dataclass
class JournalContent:
    """What a journal holds."""

    records: list[Record] = field(default_factory=list)
    num_bad_lines: int = 0


def read_journal(path: Path) -> JournalContent:
    """All sound records in their order, each once. Damaged, doubled and misplaced lines are counted; nothing is written.

    Raises:
        StorageError: there is something at `path` that cannot be read.
    """
    content = JournalContent()
    try:
        data = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return content
    except OSError as error:
        raise storage_error(path, error) from error
    *lines, tail = data.split(b"\n")
    content.num_bad_lines = int(bool(tail))
    by_seq: dict[int, Record] = {}
    last = 0
    for line in lines:
        record = decode_line(line)
        in_order = record is not None and record["seq"] > last
        content.num_bad_lines += not in_order and line != b""  # a blank line is what a mended tail may leave
        if record is not None:
            last = max(last, record["seq"])
            by_seq.setdefault(record["seq"], record)
    content.records = [by_seq[seq] for seq in sorted(by_seq)]
    return content


class TailReader:
    """Reads the records that are added to a journal, while another process writes it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = 0  # of the first byte that was not read as a whole line
        self._seq = 0  # of the last record that was read
        self._head = b""  # how the file begins

    def read(self) -> list[Record]:
        """The sound records that are new. A last line that is still being written waits for the next call.

        Raises:
            StorageError: there is something that cannot be read.
        """
        try:
            with self._path.open("rb") as file:
                self._start_over_if_new(file.read(128), os.fstat(file.fileno()).st_size)
                file.seek(self._offset)
                data = file.read()
        except FileNotFoundError:
            return []
        except OSError as error:
            raise storage_error(self._path, error) from error
        *lines, tail = data.split(b"\n")
        self._offset += len(data) - len(tail)
        new = [record for record in map(decode_line, lines) if record is not None and record["seq"] > self._seq]
        self._seq = max([self._seq, *(record["seq"] for record in new)])
        return new

    def _start_over_if_new(self, head: bytes, size: int) -> None:
        if not head.startswith(self._head):  # deleted, and made anew
            self._offset = self._seq = 0
        elif size < self._offset:  # a write that failed was taken back
            self._offset = 0
        self._head = head


class Journal:
    """The one writer of a run's journal."""

    def __init__(self, path: Path, *, new: bool = False) -> None:
        """Opens the journal, or begins it.

        A torn last line is closed with a line feed first, so that it hides only itself.

        Args:
            path: where.
            new: it must not be there yet; of several processes that try, one succeeds.

        Raises:
            FileExistsError: it is there, and has to be new.
            RunInUseError: somebody else has it open.
            StorageError: the file cannot be opened or mended.
        """
        self.path = path
        self.content = JournalContent()
        """What was in it when it was opened."""
        try:
            self._file = SyncedFile(path, new=new)
        except FileExistsError:
            raise
        except OSError as error:
            raise storage_error(path, error) from error
        try:
            self._take_over(new)
        except BaseException:
            self._file.close()
            raise
        self.seq = max((record["seq"] for record in self.content.records), default=0)
        """The number of its last record."""

    def _take_over(self, new: bool) -> None:
        try:
            if not self._file.lock():
                raise RunInUseError(
                    None, "another RunManager is writing this run; let that one end first", str(self.path)
                )
            if not new:
                if not ends_in_line_feed(self.path):
                    self._file.append(b"\n")  # before the records are counted: it may complete the last one
                self.content = read_journal(self.path)
        except RunInUseError:
            raise
        except OSError as error:
            raise storage_error(self.path, error) from error

    def has_changed(self) -> bool:
        """Whether somebody else has written records since it was opened."""
        return len(read_journal(self.path).records) != len(self.content.records)

    def append(self, *records: tuple[str, Record]) -> None:
        """Adds records, each given by its kind and its fields, all of them or none.

        When this returns, another process can read them even if this one is killed; within a second they outlive a power cut.

        Raises:
            StorageError: they could not be written; the journal is as it was before.
        """
        lines = [
            encode_line({"seq": self.seq + place, "kind": kind, **fields})
            for place, (kind, fields) in enumerate(records, start=1)
        ]
        try:
            self._file.append(b"".join(lines))
        except OSError as error:
            raise storage_error(self.path, error) from error
        self.seq += len(lines)

    def close(self) -> None:
        """Lets go of the file."""
        try:
            self._file.close()
        except OSError as error:
            raise storage_error(self.path, error) from error


def last_record(path: Path) -> Record | None:
    """The record of a journal's last line; None when that is torn or damaged, or when there is none."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            block = 1024
            while True:
                file.seek(max(0, size - block))
                lines = file.read().split(b"\n")
                if len(lines) > 2 or block >= size:
                    return decode_line(lines[-2]) if len(lines) > 1 and lines[-1] == b"" else None
                block *= 8
    except OSError:
        return None


def ends_in_line_feed(path: Path) -> bool:
    """Whether the last line of a file is whole."""
    with path.open("rb") as file:
        if file.seek(0, os.SEEK_END) == 0:
            return True
        file.seek(-1, os.SEEK_END)
        return file.read(1) == b"\n"


def storage_error(path: Path, error: OSError) -> StorageError:
    """The same failure, saying which file and what to do."""
    return StorageError(
        error.errno,
        f"{error.strerror or error}; what was recorded before is kept. Free some space or mend the folder, then launch again",
        str(path),
    )
