"""Checks of the machine that a project stands on: disk, locks, shared memory, open files."""

import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from runmanager.reporting.findings import FAIL, OK, WARN, Finding, size_text
from runmanager.tracking.files import locks_hold, replace_text, sync_path, try_lock

SCRATCH = ".doctor-"
"""How the names of the doctor's own folders begin; the process id follows."""

_NETWORK = ("nfs", "cifs", "smb", "fuse", "9p", "afs", "ceph", "lustre", "gpfs", "beegfs", "glusterfs")
_IN_MEMORY = ("tmpfs", "ramfs")
_TRY_LOCK = "import fcntl, sys; fcntl.flock(open(sys.argv[1], 'ab'), fcntl.LOCK_EX | fcntl.LOCK_NB)"
_NUM_REPLACED = 200


@contextmanager
def scratch(root: Path) -> Iterator[Path]:
    """A hidden folder on the project's own disk, for a while.

    Raises:
        OSError: it cannot be made.
    """
    runs = root / "runs"
    folder = Path(tempfile.mkdtemp(prefix=f"{SCRATCH}{os.getpid()}-", dir=runs if runs.is_dir() else root))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def check_machine(root: Path) -> Iterator[Finding]:
    """The disk, what the file system promises, shared memory and open files."""
    try:
        with scratch(root) as folder:
            yield check_disk(folder)
            yield from check_file_system(folder)
    except OSError as error:
        yield Finding(
            FAIL, "disk", f"{root} cannot be written: {error.strerror or error}", "free some space, or its rights"
        )
    yield check_shared_memory()
    yield check_open_files()


def check_disk(folder: Path) -> Finding:
    """Space, files that may still be made, and how long it takes until a record is on the disk."""
    free = shutil.disk_usage(folder).free
    num_files = _num_files_left(folder)
    milliseconds = _sync_milliseconds(folder)
    text = f"{size_text(free)} free, a record is on it in {milliseconds:.1f} ms"
    if free < 2**28 or num_files < 1000:
        left = text if free < 2**28 else f"only {num_files} more files can be made"
        return Finding(FAIL, "disk", left, "free some space; completed runs need their checkpoints/ no more")
    if free < 2**31:
        return Finding(WARN, "disk", text, "free some space before a long sweep")
    if milliseconds > 200:
        return Finding(WARN, "disk", text, "keep the project on a nearer disk, if there is one")
    return Finding(OK, "disk", text)


def _num_files_left(folder: Path) -> float:
    if not hasattr(os, "statvfs"):
        return float("inf")
    system = os.statvfs(folder)
    return system.f_favail if system.f_files else float("inf")  # some file systems do not count them


def _sync_milliseconds(folder: Path) -> float:
    """The median of a few flushed and synced records."""
    path, times = folder / "synced", []
    for _ in range(5):
        with path.open("ab") as file:
            file.write(b"x" * 512)
        began = time.perf_counter()
        sync_path(path)
        times.append(1000 * (time.perf_counter() - began))
    return statistics.median(times)


def check_file_system(folder: Path) -> Iterator[Finding]:
    """What the journals, claims and tables rest on: locks, exclusive creation, replacement in one step."""
    kind = file_system(folder)
    broken = [text for text in (_create_fault(folder), _replace_fault(folder)) if text]
    lock = _lock_fault(folder)
    for text in broken:
        yield Finding(FAIL, "file system", f"{kind}: {text}", "put the project on a local disk")
    if lock:
        yield Finding(WARN, "locks", f"{kind}: {lock}", "launch a sweep once at a time")
    elif kind.startswith(_NETWORK):
        text = f"{kind}: honoured on this machine; between machines a run is claimed by a file that only one can make"
        yield Finding(OK, "locks", text)
    elif not broken:
        yield Finding(OK, "locks", f"{kind}: locks, exclusive creation and replacement work")
    if kind in _IN_MEMORY:
        yield Finding(WARN, "file system", f"{kind}: runs are gone at the next start", "put the project on a disk")


def _create_fault(folder: Path) -> str | None:
    """Of several that make a file, one must succeed."""
    for _ in range(2):
        try:
            os.close(os.open(folder / "claimed", os.O_WRONLY | os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            return None
    return "a file that has to be new can be made twice"


def _replace_fault(folder: Path) -> str | None:
    """A reader must see the old file or the new one, never none and never a part."""
    path, texts = folder / "replaced", ("a" * 5000, "b" * 5000)
    replace_text(path, texts[0])
    seen: set[str] = set()
    is_over = threading.Event()

    def read() -> None:
        while not is_over.is_set():
            try:
                seen.add(path.read_text())
            except FileNotFoundError:
                seen.add("")

    reader = threading.Thread(target=read)
    reader.start()
    try:
        for place in range(_NUM_REPLACED):
            replace_text(path, texts[place % 2])
    finally:
        is_over.set()
        reader.join()
    return None if seen <= set(texts) else "a file that is being replaced is not there, or in part, for a moment"


def _lock_fault(folder: Path) -> str | None:
    """Two that have a file open must not both lock it: neither in one process nor in two."""
    if not locks_hold(folder):
        return "it refuses locks, or grants one twice"
    path = folder / "locked"
    with path.open("ab") as mine:
        if try_lock(mine.fileno()) and _another_process_locks(path):
            return "two processes can lock one file"
    return None


def _another_process_locks(path: Path) -> bool:
    command = [sys.executable, "-I", "-S", "-c", _TRY_LOCK, str(path)]
    return subprocess.run(command, stderr=subprocess.DEVNULL, timeout=60, check=False).returncode == 0


def file_system(path: Path) -> str:
    """The type of the file system that a path is on, as the system calls it: `ext4`, `nfs4`, `fuse.sshfs`."""
    try:
        mounts = [line.split() for line in Path("/proc/mounts").read_text().splitlines()]
    except OSError:
        return "file system"
    real = path.resolve()
    points = [(Path(_unescaped(fields[1])), fields[2]) for fields in mounts if len(fields) > 2]
    above = [
        (len(point.parts), place, kind) for place, (point, kind) in enumerate(points) if real.is_relative_to(point)
    ]
    return max(above)[2] if above else "file system"  # of those at one place, the one that was mounted last


def _unescaped(field: str) -> str:
    """A mount point as it is: the kernel writes blanks as octal."""
    return field.encode("latin-1", "backslashreplace").decode("unicode_escape") if "\\" in field else field


def check_shared_memory() -> Finding:
    """What the workers of a DataLoader hand their batches over in."""
    folder = Path("/dev/shm")
    if not folder.is_dir():
        return Finding(OK, "shared memory", "this system keeps none in a folder")
    usage = shutil.disk_usage(folder)
    text = f"{size_text(usage.free)} of {size_text(usage.total)} free in {folder}"
    if not os.access(folder, os.W_OK):
        return Finding(WARN, "shared memory", f"{folder} cannot be written", "use DataLoaders with num_workers=0")
    if usage.free < 2**28:
        step = "give a container more, like docker run --shm-size=2g, or use DataLoaders with num_workers=0"
        return Finding(WARN, "shared memory", text, step)
    return Finding(OK, "shared memory", text)


def check_open_files() -> Finding:
    """How many files a process may have open: journals, logs, and the batches of DataLoader workers."""
    try:
        import resource
    except ImportError:
        return Finding(OK, "open files", "this system sets no limit")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    limit = "no limit" if soft == resource.RLIM_INFINITY else f"{soft} a process"
    if 0 <= soft < 1024:
        return Finding(WARN, "open files", limit, f"ulimit -n {4096 if hard < 0 else min(hard, 4096)}")
    return Finding(OK, "open files", limit)
