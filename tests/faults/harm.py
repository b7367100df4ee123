"""Harms this process at its Nth change of a project's files: kills it there, or lets the operation fail.

It stands between Python and the system: `os.open`, `os.write`, `os.fsync`, `os.replace`, `os.mkdir` and their like, `io.FileIO`
and `open`. Only what goes below one folder is counted, so the same N means the same moment each time.
"""

import builtins
import errno
import io
import os
import resource
import signal
import threading
from typing import Any

KINDS = ("kill", "half", "once", "for ever", "short")
"""Killed before the operation; killed in the middle of a write; one operation fails; all fail from there on; a write takes half."""

_FREES_SPACE = ("unlink", "rmdir")  # what a full disk still does
_CREATING = os.O_CREAT | os.O_TRUNC


class Harm:
    """Counts operations; at the Nth one it does what its kind says."""

    def __init__(self, root: str, kind: str, at: int, error: str = "ENOSPC") -> None:
        assert kind in KINDS
        self._root = os.path.realpath(root) + os.sep
        self._kind, self._at, self._error = kind, at, getattr(errno, error)
        self._lock = threading.RLock()
        self.operations: list[str] = []
        """What was done, by name and file."""

    def meets(self, name: str, target: Any) -> bool:
        """Counts an operation; kills this process or raises where the harm is to be. Whether a write is to be cut in half."""
        path = self._path(target)
        if path is None:
            return False
        with self._lock:
            self.operations.append(f"{name} {path}")
            number = len(self.operations)
        if number == self._at:
            return self._harm(name, path)
        if self._kind == "for ever" and number > self._at:
            self._fail(name, path)
        if self._kind == "short" and number == self._at + 1 and self._was_cut:
            raise OSError(self._error, os.strerror(self._error), path)
        return False

    _was_cut = False

    def _harm(self, name: str, path: str) -> bool:
        if self._kind == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if self._kind in ("half", "short"):
            self._was_cut = name == "write"
            return self._was_cut
        self._fail(name, path)
        return False

    def _fail(self, name: str, path: str) -> None:
        if self._error == errno.ENOSPC and name in _FREES_SPACE:
            return
        raise OSError(self._error, os.strerror(self._error), path)

    def after_half(self) -> None:
        """Half of a write has been done."""
        if self._kind == "half":
            os.kill(os.getpid(), signal.SIGKILL)

    def _path(self, target: Any) -> str | None:
        """The file below the project that is meant; None for any other."""
        try:
            path = os.readlink(f"/proc/self/fd/{target}") if isinstance(target, int) else os.fspath(target)
        except OSError:
            return None
        path = os.path.abspath(path)
        return path.removeprefix(self._root) if path.startswith(self._root) and "__pycache__" not in path else None

    def install(self) -> None:
        """From here on this process is watched."""
        for name in (
            "fsync",
            "replace",
            "rename",
            "mkdir",
            "unlink",
            "remove",
            "rmdir",
            "truncate",
            "ftruncate",
            "utime",
        ):
            setattr(os, name, self._watched(getattr(os, name), "unlink" if name == "remove" else name))
        os.open = self._open(os.open)
        os.write = self._write(os.write)
        io.FileIO = self._file_class()
        builtins.open = io.open = self._opener(io.open)

    def _watched(self, call: Any, name: str) -> Any:
        def watched(target: Any, *args: Any, **options: Any) -> Any:
            self.meets(name, target)
            return call(target, *args, **options)

        return watched

    def _open(self, call: Any) -> Any:
        def open_(path: Any, flags: int, *args: Any, **options: Any) -> int:
            if flags & _CREATING:
                self.meets("create", path)
            return call(path, flags, *args, **options)

        return open_

    def _write(self, call: Any) -> Any:
        def write(descriptor: int, data: Any) -> int:
            if not self.meets("write", descriptor):
                return call(descriptor, data)
            num_written = call(descriptor, bytes(data)[: len(data) // 2])
            self.after_half()
            return num_written

        return write

    def _file_class(self) -> type:
        harm, plain = self, io.FileIO

        class FileIO(plain):
            def __init__(self, file: Any, mode: str = "r", *args: Any, **options: Any) -> None:
                if set(mode) & set("wxa") and not isinstance(file, int):
                    harm.meets("create", file)
                super().__init__(file, mode, *args, **options)

            def write(self, data: Any) -> int:
                if not harm.meets("write", self.fileno()):
                    return super().write(data)
                num_written = super().write(memoryview(data).cast("B")[: len(data) // 2])
                harm.after_half()
                return num_written

            def truncate(self, size: int | None = None) -> int:
                harm.meets("truncate", self.fileno())
                return super().truncate(size)

        return FileIO

    def _opener(self, plain: Any) -> Any:
        def open_(file: Any, mode: str = "r", buffering: int = -1, encoding: Any = None, errors: Any = None,
                  newline: Any = None, closefd: bool = True, opener: Any = None) -> Any:  # fmt: skip
            if not set(mode) & set("wxa+"):
                return plain(file, mode, buffering, encoding, errors, newline, closefd, opener)
            raw = io.FileIO(file, mode.replace("b", "").replace("t", ""), closefd, opener)
            if buffering == 0:
                return raw
            buffer = io.BufferedRandom(raw) if "+" in mode else io.BufferedWriter(raw)
            return buffer if "b" in mode else io.TextIOWrapper(buffer, encoding, errors, newline)

        return open_


def limit_file_size(num_bytes: int) -> None:
    """No file of this process grows beyond that: what a full disk does, to the byte."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
