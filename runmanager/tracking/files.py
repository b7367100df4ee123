"""Files that survive: replaced whole, or appended to and synced soon."""

import io
import os
import threading
from pathlib import Path

try:
    import fcntl
except ImportError:  # not a POSIX system
    fcntl = None  # type: ignore[assignment]

SYNC_SECONDS = 1.0
"""A flushed record reaches the disk itself, and so survives a power cut, within this time."""


def replace_text(path: Path, text: str, *, durable: bool = False) -> None:
    """Puts `text` in the place of the file at `path`: a reader sees the old file or the new one, never a part.

    Args:
        durable: the new file must also outlive a power cut.

    Raises:
        OSError: it could not be written; the old file is untouched and nothing is left beside it.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}.tmp")
    try:
        with temporary.open("w", encoding="utf-8", newline="") as file:
            file.write(text)
            if durable:
                file.flush()
                os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    if durable:
        sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Makes the names in `folder` outlive a power cut, where the system lets a folder be synced."""
    if os.name == "nt":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_all(file: io.FileIO, data: bytes) -> None:
    """Writes all of `data` to an unbuffered file, where one `write` may take less.

    Raises:
        OSError: the disk is full, say; a part may have been written.
    """
    num_written = file.write(data)
    while num_written < len(data):
        num_written += file.write(memoryview(data)[num_written:])


class SyncedFile:
    """A file that is only ever appended to.

    `append` returns when the bytes are with the system, so they survive SIGKILL of this process. They reach the disk within
    SYNC_SECONDS, by one thread for all files, so that no caller waits for a disk; `sync` waits.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = io.FileIO(path, "a")
        self._size = os.fstat(self._file.fileno()).st_size
        self._lock = threading.Lock()  # against closing while the other thread syncs
        self._sync_error: OSError | None = None

    def lock(self) -> bool:
        """Whether nobody else has locked this file; it is ours until it is closed. True where the system has no locks."""
        if fcntl is None:
            return True
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._file.close()
            return False
        except OSError:  # a file system without locks
            return True
        return True

    def append(self, data: bytes) -> None:
        """Adds `data` to the file, all of it or nothing.

        Raises:
            OSError: it could not be written, or what was written before did not reach the disk.
        """
        if self._sync_error:
            raise self._sync_error
        try:
            write_all(self._file, data)
        except OSError:
            self._file.truncate(self._size)  # a torn record would swallow the next one
            raise
        self._size += len(data)
        _syncer.soon(self)

    def sync(self) -> None:
        """Waits until all that was appended is on the disk.

        Raises:
            OSError: it did not get there. A second try on the same file would lie, so every later call raises as well.
        """
        self._sync()
        if self._sync_error:
            raise self._sync_error

    def _sync(self) -> None:
        with self._lock:
            if self._file.closed or self._sync_error:
                return
            try:
                os.fsync(self._file.fileno())
            except OSError as error:
                self._sync_error = error

    def close(self) -> None:
        """Syncs and lets go of the file."""
        self._sync()
        with self._lock:
            if fcntl is not None and not self._file.closed:
                _unlock(self._file)
            self._file.close()
        if self._sync_error:
            raise self._sync_error


def _unlock(file: io.FileIO) -> None:
    """Lets go of the lock at once, where a forked process still has the file open."""
    try:
        fcntl.flock(file, fcntl.LOCK_UN)
    except OSError:  # a file system without locks
        return


class _Syncer:
    """One thread that syncs the files that were appended to, once every SYNC_SECONDS."""

    def __init__(self) -> None:
        self._waiting: set[SyncedFile] = set()
        self._wake = threading.Event()
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()

    def soon(self, file: SyncedFile) -> None:
        if file in self._waiting:
            return
        with self._lock:
            self._waiting.add(file)
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="runmanager-sync", daemon=True)
                self._thread.start()
        self._wake.set()

    def _work(self) -> None:
        while True:
            self._wake.wait()
            self._wake.clear()
            threading.Event().wait(SYNC_SECONDS / 2)
            with self._lock:
                files, self._waiting = self._waiting, set()
            for file in files:
                file._sync()


_syncer = _Syncer()
