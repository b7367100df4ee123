"""Ranks for tests: workers that call a function of a test's module."""

from contextlib import contextmanager
from pathlib import Path

from runmanager.launching.pool import WorkerPool
from runmanager.launching.rank import fault_of
from runmanager.launching.slots import Slot


def start_ranks(meeting):
    return ranks_of("distributed_cases:serve", meeting)


@contextmanager
def ranks_of(function, meeting):
    slots = [Slot(rank, {"PYTHONPATH": str(Path(__file__).parent)}) for rank in range(1, meeting.size)]
    pool = WorkerPool(slots, Path.cwd())
    try:
        calls = {rank: pool.submit(function, meeting._asdict(), rank) for rank in range(1, meeting.size)}
        yield lambda seconds: fault_of(calls, meeting.size, seconds)
    finally:
        pool.terminate()
