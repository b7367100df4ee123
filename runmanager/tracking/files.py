"""Files that survive: replaced whole, or appended to and synced soon."""

import atexit
import io
import os
import sys
import threading
import weakref
from pathlib import Path
from typing import Any

from runmanager.tracking.temporaries import temporary_for

try:
    import fcntl
except ImportError:  # not a POSIX system
    fcntl = None  # type: ignore[assignment]

SYNC_SECONDS = 1.0
"""A flushed record reaches the disk itself, and so survives a power cut, within this time."""

_MANY = 16  # files that are synced one by one; more are synced with their whole file system


def replace_text(path: Path, text: str, *, durable: bool = False) -> None:
    """Puts `text` in the place of the file at `path`: a reader sees the old file or the new one, never a part.

    Args:
        durable: the new file must also outlive a power cut.

    Raises:
        OSError: it could not be written; the old file is untouched and nothing is left beside it.
    """
    temporary = temporary_for(path)
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


def put_text(path: Path, text: str) -> io.FileIO:
    """Does as `replace_text`, and returns the new file: this very one, also where somebody has put another in its place since.

    Raises:
        OSError: it could not be written; the old file is untouched and nothing is left beside it.
    """
    temporary = temporary_for(path)
    file = None
    try:
        file = io.FileIO(temporary, "w+")
        write_all(file, text.encode())
        if os.name == "nt":  # which renames no open file
            file.close()
        temporary.replace(path)
        return file if not file.closed else io.FileIO(path, "r+")
    except BaseException:
        if file is not None:
            file.close()
        temporary.unlink(missing_ok=True)
        raise


def write_new(path: Path, data: bytes) -> None:
    """Writes a small file in one call, without the cost of a buffer.

    Raises:
        OSError: it cannot be written.
    """
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o666)
    try:
        os.write(descriptor, data)
    finally:
        os.close(descriptor)


def create_text(path: Path, text: str) -> None:
    """Makes a file with its content in one step: of several processes that try, one succeeds, and nobody sees it empty.

    Raises:
        FileExistsError: it is there already.
        OSError: it cannot be made.
    """
    temporary = temporary_for(path)
    try:
        temporary.write_text(text, encoding="utf-8")
        path.hardlink_to(temporary)
    except FileExistsError:
        raise
    except OSError:  # a file system without links
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    finally:
        temporary.unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    """Makes the names in `folder` outlive a power cut, where the system lets a folder be synced."""
    if os.name != "nt":
        sync_path(folder)


def sync_path(path: Path) -> None:
    """Makes what is in a file or a folder outlive a power cut.

    Raises:
        OSError: it did not get to the disk.
    """
    descriptor = os.open(path, os.O_RDONLY)
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


_open_files: "weakref.WeakSet[SyncedFile]" = weakref.WeakSet()


class SyncedFile:
    """A file that is only ever appended to.

    `append` returns when the bytes are with the system, so they survive SIGKILL of this process. They reach the disk within
    SYNC_SECONDS, by one thread for all files, so that no caller waits for a disk.
    """

    def __init__(self, path: Path, *, new: bool = False) -> None:
        """Opens the file, or makes it.

        Args:
            path: where.
            new: it must not be there yet; of several processes that try, one succeeds.

        Raises:
            FileExistsError: it is there, and has to be new.
            OSError: it cannot be opened.
        """
        self.path = path
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | (os.O_EXCL if new else 0)
        self._file = io.FileIO(os.open(path, flags, 0o666), "a")
        self._size = 0 if new else os.fstat(self._file.fileno()).st_size
        self._lock = threading.Lock()  # against closing while the other thread syncs
        self.sync_error: OSError | None = None
        """Why what was appended did not reach the disk."""
        self._is_torn = False  # whether the last line has no end
        _open_files.add(self)

    def leave_to_parent(self) -> None:
        """After a fork: closes this process's copy, so that the lock ends with the parent."""
        self._file.close()

    def lock(self) -> bool:
        """Whether nobody else has locked this file; it is ours until it is closed. True where the system has no locks."""
        try:
            return try_lock(self._file.fileno())
        except OSError:  # a file system without locks
            return True

    def wait_for_lock(self) -> None:
        """Waits until nobody else has locked this file; not at all where the system has no locks."""
        if fcntl is None:
            return
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX)
        except OSError:  # a file system without locks
            return

    def append(self, data: bytes) -> None:
        """Adds `data` to the file, all of it or nothing.

        Raises:
            OSError: it could not be written, or what was written before did not reach the disk.
        """
        if self.sync_error:
            raise self.sync_error
        if self._is_torn:
            data = b"\n" + data
        try:
            write_all(self._file, data)
        except OSError:
            self._take_back()
            raise
        self._is_torn = False
        self._size += len(data)
        _syncer.soon(self)

    def _take_back(self) -> None:
        """Takes back a record that was written in part, since it would swallow the next one."""
        try:
            self._file.truncate(self._size)
        except OSError:
            self._is_torn = True
            self._size = os.fstat(self._file.fileno()).st_size

    def sync(self) -> None:
        """Brings what was appended to the disk; after a failure every `append` raises, because a second try would lie."""
        with self._lock:
            if self.sync_error:
                return
            try:
                if self._file.closed:
                    sync_path(self.path)
                else:
                    os.fsync(self._file.fileno())
            except FileNotFoundError:  # the run's folder was deleted
                return
            except OSError as error:
                self.sync_error = error

    def fail(self, error: OSError) -> None:
        """What was appended did not reach the disk."""
        self.sync_error = error

    def close(self) -> None:
        """Lets go of the file. What is not on the disk yet gets there within SYNC_SECONDS."""
        with self._lock:
            if self._file.closed:
                return
            if fcntl is not None:
                _unlock(self._file)
            self._file.close()
        if self.sync_error:
            raise self.sync_error


def try_lock(descriptor: int) -> bool:
    """Locks an open file for this process, unless somebody else has; True where the system has no such call.

    Raises:
        OSError: its file system has no locks.
    """
    if fcntl is None:
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def locks_hold(folder: Path) -> bool:
    """Whether the file system of a folder keeps locks: some network file systems refuse them, or grant each of them.

    Raises:
        OSError: the folder cannot be written.
    """
    path = temporary_for(folder / "locks")
    first = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    second = os.open(path, os.O_RDWR)
    try:
        return fcntl is not None and try_lock(first) and not try_lock(second)
    except OSError:  # it has none
        return False
    finally:
        os.close(first)
        os.close(second)
        path.unlink()


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
        self._lock = threading.Lock()  # of the set
        self._at_work = threading.Lock()
        self.error: OSError | None = None  # the first, until it is told

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
            self.now()

    def now(self) -> None:
        """Syncs what waits."""
        with self._at_work:
            with self._lock:
                files, self._waiting = list(self._waiting), set()
            if len(files) < _MANY or not _sync_file_systems(files):
                for file in files:
                    file.sync()
            self.error = next((file.sync_error for file in files if file.sync_error), self.error)

    def forget(self) -> None:
        """After a fork: the thread and whatever it was doing are the parent's."""
        self.__init__()  # type: ignore[misc]


def _sync_file_systems(files: list[SyncedFile]) -> bool:
    """Syncs many small files by one call for each file system, far quicker than one by one; False where there is no such call."""
    libc = _libc()
    if libc is None:
        return False
    by_device: dict[int, list[SyncedFile]] = {}
    for file in files:
        try:
            by_device.setdefault(file.path.parent.stat().st_dev, []).append(file)
        except OSError:  # the run's folder was deleted
            continue
    for same in by_device.values():
        error = _sync_file_system(libc, same[0].path.parent)
        for file in same if error else ():
            file.fail(error)  # type: ignore[arg-type]
    return True


def _libc() -> Any:
    """The C library with its errno, where it has `syncfs` (Linux); else None."""
    try:
        import ctypes

        libc = ctypes.CDLL(None, use_errno=True)
        libc.syncfs  # noqa: B018 (an AttributeError where there is none)
    except (ImportError, OSError, AttributeError, TypeError):
        return None
    return libc


def _sync_file_system(libc: Any, folder: Path) -> OSError | None:
    import ctypes

    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:  # deleted since
        return None
    try:
        if libc.syncfs(descriptor) == 0:
            return None
        number = ctypes.get_errno()
        return OSError(number, os.strerror(number), str(folder))
    finally:
        os.close(descriptor)


def sync_all_files(folder: Path) -> bool:
    """Waits until all that was written to the file system of a folder is on the disk; False where the system has no such call.

    Raises:
        OSError: some of it did not get there.
    """
    libc = _libc()
    if libc is None:
        return False
    failure = _sync_file_system(libc, folder)
    if failure is not None:
        raise failure
    return True


_syncer = _Syncer()


def _leave_all_to_parent() -> None:
    _syncer.forget()
    for file in list(_open_files):
        file.leave_to_parent()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_leave_all_to_parent)


def sync_now() -> None:
    """Waits until all that this process has appended anywhere is on the disk.

    Raises:
        OSError: some of it did not get there.
    """
    _syncer.now()
    error, _syncer.error = _syncer.error, None
    if error:
        raise error


@atexit.register
def _sync_at_exit() -> None:
    try:
        sync_now()
    except OSError as error:
        print(f"what was written last may not outlive a power cut: {error}", file=sys.stderr)
