"""The first worker of a launch by command, started before the command line is read: most of what it imports is always the same."""

import atexit
import sys
from collections.abc import Sequence
from pathlib import Path

from runmanager.launching.pool import WorkerPool
from runmanager.launching.slots import Slot, WorkersError, make_slots, parse_workers

_pools: list[WorkerPool] = []


def start_early(arguments: Sequence[str]) -> None:
    """Starts the first worker, where the arguments of `launch` are to have any as far as a glance tells."""
    text = _value_of("--workers", arguments, "auto")
    try:
        slots = make_slots(parse_workers(text), sys.maxsize)
    except WorkersError:  # which is said when the command line is read
        return
    if slots and not {"-h", "--help"} & set(arguments):
        pool = pool_for(slots[0])
        pool.submit("runmanager.launching.remote:get_ready")
        _pools.append(pool)
        atexit.register(_end_unused)


def _value_of(option: str, arguments: Sequence[str], default: str) -> str:
    for place, argument in enumerate(arguments):
        if argument == option:
            return arguments[place + 1] if place + 1 < len(arguments) else default
        if argument.startswith(f"{option}="):
            return argument.partition("=")[2]
    return default


def pool_for(slot: Slot) -> WorkerPool:
    """A pool whose first worker has this slot: the one that was started early, if its slot is the same."""
    if _pools and _pools[0].first_slot == slot:
        return _pools.pop()
    return WorkerPool([slot], Path.cwd())


def _end_unused() -> None:
    while _pools:
        _pools.pop().terminate()
