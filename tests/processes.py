"""The processes that a test has started."""

import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path


def children():
    """The ids of this process's children, those included that have ended and were not waited for."""
    return {pid for task in Path("/proc/self/task").iterdir() for pid in (task / "children").read_text().split()}


def in_child(work: Callable[[], object]) -> int:
    """How a fork of this process ended that did this, as `subprocess` has it; it has all that is imported already.

    1 where it raised, which is printed; the negative number of a signal where it was killed.
    """
    pid = os.fork()
    if pid == 0:
        try:
            work()
            os._exit(0)
        except BaseException:  # noqa: BLE001 (the child ends here, whatever it raised)
            traceback.print_exc(file=sys.stderr)
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


_PF_EXITING = 4  # of Linux's flags of a process


def is_ending(pid: int) -> bool:
    """Whether a process is giving back its memory and its locks: it runs no code any more, but is not gone either."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
        num_threads = len(os.listdir(f"/proc/{pid}/task"))
    except OSError:
        return False
    fields = stat[stat.rindex(")") + 2 :].split()
    return (fields[0] not in "ZX" or num_threads > 1) and bool(int(fields[6]) & _PF_EXITING)
