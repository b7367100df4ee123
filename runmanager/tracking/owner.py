"""Who is writing a run, and whether they still live."""

import json
import os
import time
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

REMOTE_SECONDS = 300.0
"""How long another machine's process counts as living after its last sign of life in the run's folder."""


def host_name() -> str:
    """This machine's name."""
    if hasattr(os, "uname"):
        return os.uname().nodename
    import socket  # which costs as much to import as all else here

    return socket.gethostname()


@lru_cache(maxsize=1)
def _machine() -> dict[str, str]:
    """What tells this machine, its boot, and the container's process ids from all others."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        pids = str(Path("/proc/self/ns/pid").readlink())
    except OSError:  # not Linux
        boot = pids = ""
    return {"host": host_name(), "boot": boot, "pids": pids}


def machine_text() -> str:
    """What tells this machine, its boot and its container from all others, in one text."""
    return "|".join(_machine().values())


def this_process() -> dict[str, Any]:
    """What tells this process from every other: machine, boot, process id and the time that it started."""
    return _described(os.getpid())


@lru_cache(maxsize=1)
def _described(pid: int) -> dict[str, Any]:
    return {**_machine(), "pid": pid, "started": _start_time(pid)}


def is_alive(owner: dict[str, Any], last_sign: float = 0.0) -> bool:
    """Whether the process that `this_process` described is still there.

    On this machine the system knows. Of another one only signs of life are seen, and they may be late.

    Args:
        owner: the process.
        last_sign: when it last wrote to its run's folder, in seconds since 1970.
    """
    here = _machine()
    is_same_host = owner.get("host") == here["host"]
    if is_same_host and owner.get("boot") != here["boot"]:
        return False  # the machine was started again since
    if not is_same_host or owner.get("pids") != here["pids"]:
        return abs(time.time() - last_sign) < REMOTE_SECONDS
    pid = owner.get("pid")
    if os.name == "nt":
        return False  # there, signal 0 is Ctrl-C, so nobody can be asked
    if not isinstance(pid, int) or pid <= 0:
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # another user's, of which the system may not tell more
        return _start_time(pid) in (owner.get("started"), None)
    return _start_time(pid) == owner.get("started")


def is_on_this_machine(owner: Mapping[str, Any], pid: int) -> bool:
    """Whether an owner is the process of this machine, boot and container that has this number."""
    return owner.get("pid") == pid and all(owner.get(name) == value for name, value in _machine().items())


def read_owner(path: Path) -> dict[str, Any]:
    """Who made a claim; nobody where its maker died before saying so."""
    try:
        owner = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    is_whole = isinstance(owner, dict) and isinstance(owner.get("host"), str) and isinstance(owner.get("pid"), int)
    return owner if is_whole else {}


def owner_text(owner: Mapping[str, Any]) -> str:
    """`pid 1234`, or `pid 1234 on gpu-box` for another machine's."""
    elsewhere = "" if owner.get("host") == _machine()["host"] else f" on {owner.get('host')}"
    return f"pid {owner.get('pid')}{elsewhere}"


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
