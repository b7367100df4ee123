"""Who is writing a run, and whether they still live."""

import os
import socket
from functools import lru_cache
from pathlib import Path
from typing import Any


@lru_cache(maxsize=1)
def _machine() -> dict[str, str]:
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:  # not Linux
        boot = ""
    return {"host": socket.gethostname(), "boot": boot}


def this_process() -> dict[str, Any]:
    """What tells this process from every other: host, boot, process id and the time that it started."""
    pid = os.getpid()
    return {**_machine(), "pid": pid, "started": _start_time(pid)}


def is_alive(owner: dict[str, Any]) -> bool:
    """Whether the process that `this_process` described is provably still there."""
    if {name: owner.get(name) for name in ("host", "boot")} != _machine():
        return False
    pid = owner.get("pid")
    if os.name == "nt":
        return False  # there, signal 0 is Ctrl-C, so nobody can be asked
    if not isinstance(pid, int) or pid <= 0:
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # it is there, and another user's
    return _start_time(pid) == owner.get("started")


def _start_time(pid: int) -> int | None:
    """When a process started, in clock ticks since boot; None where the system does not say."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return None
    # the command's name may hold spaces and brackets, so count from the last one
    fields = stat[stat.rindex(b")") + 2 :].split()
    state, start = fields[0], fields[19]
    return None if state == b"Z" else int(start)
