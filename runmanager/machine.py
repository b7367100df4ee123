"""What the machine has for a process: cores and memory, as its container allows them.

This is ground that every room may stand on; it is read before the first worker starts, so it imports next to nothing.
"""

import math
import os
from collections.abc import Iterator
from pathlib import Path

_ROOT = Path("/")


def num_cores(folder: Path = _ROOT) -> int:
    """Those that this process may run on, or as many as its container has the time of.

    Args:
        folder: where the system's own files are.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    for text in _limits(folder, "cpu.max"):
        quota, period = text.split()
        if quota != "max":
            cores = min(cores, math.ceil(int(quota) / int(period)))
    return max(1, cores)


def memory(folder: Path = _ROOT) -> tuple[float, float]:
    """The bytes that this process may have at all, and those that are free; infinite where the system does not say."""
    try:
        lines = (folder / "proc/meminfo").read_text().splitlines()
    except OSError:
        return math.inf, math.inf
    kilobytes = {name: int(value.split()[0]) for name, _, value in (line.partition(":") for line in lines)}
    total, free = (1024 * kilobytes.get(name, math.inf) for name in ("MemTotal", "MemAvailable"))
    limits = [int(text) for text in _limits(folder, "memory.max") if text != "max"]
    return min([total, *limits]), min([free, *limits])


def _limits(folder: Path, name: str) -> Iterator[str]:
    """What a file says of each control group that this process is in, its own and those above."""
    try:
        lines = (folder / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    own = [line.removeprefix("0::/") for line in lines if line.startswith("0::/")]
    top = folder / "sys/fs/cgroup"
    for path in own:
        for group in [top / path, *(top / path).parents]:
            if group.is_relative_to(top) and (group / name).is_file():
                yield (group / name).read_text().strip()
