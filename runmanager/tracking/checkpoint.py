"""A run's saved states: written so that one is always whole, and read only after their checksum.

A state becomes the run's by the journal's record, which is written after the file is on the disk. Until then it is nobody's.
"""

import hashlib
import os
import random
import re
import stat
import struct
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from runmanager.tracking.errors import CheckpointError
from runmanager.tracking.files import sync_folder
from runmanager.tracking.journal import Record, storage_error
from runmanager.tracking.temporaries import temporary_for

State = Mapping[str, Any]

_OURS = re.compile(r"epoch-\d+\.pt|\.epoch-\d+\.pt\..+\.tmp")


class Written(NamedTuple):
    """A state that is written and has no name yet."""

    temporary: Path
    record: Record


class Checkpoints:
    """The saved states of one run, in a folder of their own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def save(self, epoch: int, state: State, *, verify: bool = True) -> Record:
        """Saves a state and the random number generators; returns the journal's record, which makes it count.

        When this returns, the file outlives a power cut. What was there before is still there.

        Args:
            epoch: after which it was taken.
            state: tensors, numbers, strings, lists and dicts.
            verify: load it once more, to be sure that it can be.

        Raises:
            CheckpointError: it could be written, but not loaded again; nothing is left of it.
            StorageError: it could not be written; nothing is left of it.
        """
        written = self.write(epoch, state, verify=verify, sync=True)
        self.put_in_place(written)
        try:
            sync_folder(self.folder)
        except OSError as error:
            raise storage_error(self.folder, error) from error
        return written.record

    def write(self, epoch: int, state: State, *, verify: bool, sync: bool) -> "Written":
        """Writes a state under a name that is nobody's yet.

        Args:
            epoch: after which it was taken.
            state: as `save` has it.
            verify: load it once more.
            sync: wait until it is on the disk.

        Raises:
            CheckpointError: it could be written, but not loaded again; nothing is left of it.
            StorageError: it could not be written; nothing is left of it.
        """
        name = f"epoch-{epoch:04d}.pt"
        content = {"state": dict(state), "generators": generators()}
        temporary = temporary_for(self.folder / name)
        try:
            self.folder.mkdir(mode=0o700, exist_ok=True)
            size, digest = _write(temporary, content, sync=sync)
            if verify:
                _verify(temporary, state)
        except OSError as error:
            _remove(temporary)
            raise storage_error(self.folder / name, error) from error
        except BaseException:
            _remove(temporary)
            raise
        return Written(temporary, {"epoch": epoch, "file": name, "size": size, "sha256": digest})

    def put_in_place(self, written: "Written") -> None:
        """Gives a written state its name.

        Raises:
            StorageError: it cannot be; nothing is left of it.
        """
        path = self.folder / written.record["file"]
        try:
            written.temporary.replace(path)
        except OSError as error:
            _remove(written.temporary)
            raise storage_error(path, error) from error

    def load(self, record: Record) -> dict[str, Any]:
        """The state behind a record, once its checksum is right; the generators are put back to where they were.

        Raises:
            CheckpointError: the file is missing, damaged or another one, or holds more than plain data. Nothing in it was run.
        """
        content = read_checked(self.folder / record["file"], record)
        try:
            state, saved = dict(content["state"]), content["generators"]
            put_back(saved)
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise CheckpointError(f"{self.folder / record['file']} holds no state of a run: {error}") from error
        return state

    def keep(self, names: set[str]) -> None:
        """Drops all but these, and whatever a killed process left half written.

        Raises:
            StorageError: a file cannot be deleted.
        """
        try:
            for name in set(os.listdir(self.folder)) - names:
                if _OURS.fullmatch(name):
                    (self.folder / name).unlink(missing_ok=True)
        except FileNotFoundError:
            return
        except OSError as error:
            raise storage_error(self.folder, error) from error

    def drop(self) -> None:
        """Drops all of them, and the folder where nothing else is in it.

        Raises:
            StorageError: a file cannot be deleted.
        """
        self.keep(set())
        try:
            self.folder.rmdir()
        except OSError:  # it is not there, or the user keeps something in it
            return


class _Hashing:
    """A file that knows the checksum of what went through it."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._sha256 = hashlib.sha256()
        self.size = 0
        self.error: OSError | None = None  # torch tells of another one when a write fails

    def write(self, data: Any) -> int:
        data = memoryview(data).cast("B")
        self._sha256.update(data)
        try:
            self._file.write(data)
        except OSError as error:
            self.error = self.error or error
            raise
        self.size += len(data)
        return len(data)

    def flush(self) -> None:
        self._file.flush()

    def digest(self) -> str:
        return self._sha256.hexdigest()


def _write(path: Path, content: dict[str, Any], *, sync: bool) -> tuple[int, str]:
    """Writes a new file, down to the disk where that is asked for; returns its size and its SHA-256."""
    import torch

    path.unlink(missing_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with open(descriptor, "wb") as file:  # noqa: PTH123 (the descriptor is open already)
        hashing = _Hashing(file)
        try:
            torch.save(content, hashing)  # type: ignore[arg-type]  # it only writes
        except RuntimeError:
            if hashing.error:
                raise hashing.error from None
            raise
        file.flush()
        if sync:
            os.fsync(descriptor)
        if os.fstat(descriptor).st_size != hashing.size:
            raise OSError(None, "the disk kept another number of bytes than were written", str(path))
    return hashing.size, hashing.digest()


def _verify(path: Path, state: State) -> None:
    """Loads a file as a resume would."""
    import torch

    try:
        torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        faults = ", ".join(f"checkpoint[{name!r}] is a {type(one).__name__}" for name, one in _not_plain(state).items())
        raise CheckpointError(
            f"{faults or 'the checkpoint'}, which could not be loaded again as plain data; keep tensors, numbers, strings, "
            "lists and dicts in a checkpoint, and the state_dict() of what is more than that"
        ) from error


def _not_plain(state: State) -> dict[str, Any]:
    """The parts that cannot be loaded again."""
    import io

    import torch

    found = {}
    for name, one in state.items():
        buffer = io.BytesIO()
        torch.save(one, buffer)
        buffer.seek(0)
        try:
            torch.load(buffer, map_location="cpu", weights_only=True)
        except Exception:  # noqa: BLE001 (which says no more than the first did)
            found[name] = one
    return found


def _remove(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError:  # what went wrong before it is what is told
        return


def read_checked(path: Path, record: Record) -> dict[str, Any]:
    """What was saved in a file, after its checksum.

    Raises:
        CheckpointError: it cannot be read, or is not what its record says.
    """
    import io

    import torch

    try:
        data = _bytes_of(path)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror or error}") from error
    if len(data) != record["size"] or hashlib.sha256(data).hexdigest() != record["sha256"]:
        raise CheckpointError(f"{path} is not what was saved: its checksum is another one")
    try:
        content = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:
        raise CheckpointError(f"{path} holds more than plain data, and is not loaded: {_first_line(error)}") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} holds a {type(content).__name__}, not a state of a run")
    return content


def _bytes_of(path: Path) -> bytes:
    """What a file holds. What is no file, a pipe say, is not waited for."""
    with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:  # noqa: PTH123 (for its flags)
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise OSError(None, "it is no regular file", str(path))
        return file.read()


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:300]


_WORDS = struct.Struct("<625I")  # of python's generator


def generators() -> dict[str, Any]:
    """The state of python's, numpy's and torch's random number generators, as plain data.

    Words are in hexadecimal: a pickle takes as long for each number of a list as for the whole text.
    """
    version, words, gauss = random.getstate()
    states: dict[str, Any] = {"python": [version, _WORDS.pack(*words).hex(), gauss]}
    if "numpy" in sys.modules:
        name, keys, position, has_gauss, cached = sys.modules["numpy"].random.get_state()
        states["numpy"] = [name, keys.astype("<u4").tobytes().hex(), int(position), int(has_gauss), float(cached)]
    if "torch" in sys.modules:
        torch = sys.modules["torch"]
        states["torch"] = torch.get_rng_state()
        if torch.cuda.is_initialized():
            states["cuda"] = torch.cuda.get_rng_state_all()
    return states


def put_back(states: Mapping[str, Any]) -> None:
    """Puts the generators back to where `generators` found them."""
    version, words, gauss = states["python"]
    random.setstate((version, _WORDS.unpack(bytes.fromhex(words)), gauss))
    if "numpy" in states:
        import numpy

        name, keys, position, has_gauss, cached = states["numpy"]
        numpy.random.set_state((name, numpy.frombuffer(bytes.fromhex(keys), "<u4"), position, has_gauss, cached))
    if "torch" in states:
        import torch

        torch.set_rng_state(states["torch"])
        if "cuda" in states:
            for device, state in enumerate(states["cuda"][: torch.cuda.device_count()]):
                torch.cuda.set_rng_state(state, device)
