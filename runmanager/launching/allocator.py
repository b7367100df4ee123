"""Keeps the memory that a process frees, where glibc would give it back to the system at every step of a training.

glibc maps each large block afresh, and the system fills it with zeros page by page as it is touched. A step allocates and
frees the same large blocks each time: with the classroom's network and batches of 1000 nearly half of its time goes there.
"""

import ctypes
import os
import sys
from pathlib import Path

# of glibc's malloc.h
_MMAP_MAX = -4
_TRIM_THRESHOLD = -1
_RECIPE = (
    (_MMAP_MAX, 0, "M_MMAP_MAX"),  # a threshold would not do: glibc maps whatever is above 32 MiB all the same
    (_TRIM_THRESHOLD, -1, "M_TRIM_THRESHOLD"),  # -1 is never; any number of bytes ends at 2 GiB, which a step may need
)
_NAMES = ("mmap_max", "mmap_threshold", "trim_threshold", "top_pad")  # of its variables, MALLOC_TOP_PAD_ and the like
_MAX_GROWTH = 1 << 30  # bytes that a process may hold more than it did, between runs

_held: list[int] = []  # bytes that this process held at the least since it began to keep its memory


def keep_memory() -> str | None:
    """Has this process keep what it frees, for its next allocation. It changes no number.

    It holds for the whole process with all its threads, and is not taken back: it is for workers, never for the user's own
    process. What was freed stays with the process, and not every hole fits what comes next: the most that training needs grows, by
    nothing to two fifths in the networks that were measured.

    Returns:
        None when it is done, else why not.
    """
    if sys.platform != "linux":
        return f"the allocator of {sys.platform} is left as it is; the recipe is for glibc's"
    chosen = _chosen_by_user()
    if chosen:
        return f"{', '.join(chosen)} in the environment is left to decide"
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "gnu_get_libc_version"):
        return "the C library is not glibc, and its allocator is left as it is"
    refused = [name for parameter, value, name in _RECIPE if libc.mallopt(parameter, value) != 1]
    if refused:
        return f"glibc refused to set {', '.join(refused)}"
    if not _held:
        _held.append(_resident())
    return None


def give_back_memory() -> bool:
    """Between runs: gives back what is free once the process holds 1 GiB more than it did; whether it was so.

    A small run that follows a big one would hold all that the big one needed. Below that it is not worth it: the next run
    would spend its first steps on fetching it again.
    """
    if not _held:
        return False
    now = _resident()
    has_grown = now > _held[0] + _MAX_GROWTH
    if has_grown:
        ctypes.CDLL(None).malloc_trim(0)
        _held[0] = _resident()  # with what the process really uses, like data that it has loaded
    else:
        _held[0] = min(_held[0], now)
    return has_grown


def _chosen_by_user() -> list[str]:
    """The variables by which glibc was told already when to give memory back."""
    names = [f"MALLOC_{name.upper()}_" for name in _NAMES]
    tunables = os.environ.get("GLIBC_TUNABLES", "")
    by_tunables = any(f"glibc.malloc.{name}=" in tunables for name in _NAMES)
    return [*(name for name in names if os.environ.get(name)), *(["GLIBC_TUNABLES"] if by_tunables else [])]


def _resident() -> int:
    """The bytes of memory that this process holds; 0 where the system does not say."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")
    except OSError:
        return 0
