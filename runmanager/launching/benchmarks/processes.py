"""Fresh processes for a bench: each is waited for, and none is left behind."""

import os
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from runmanager.launching.early import with_source

_OUTPUT = "output.txt"
_MAX_SHOWN = 2_000


class ArmError(RuntimeError):
    """A command of a bench has failed; the message has the end of what it printed."""


def run(words: Sequence[str], folder: Path, *, one_core: bool = False, one_thread: bool = False) -> float:
    """Seconds that a command takes in `folder`, from its start to its end.

    Args:
        words: the command.
        folder: where it runs, and where its output is kept.
        one_core: whether it has a single core, and so a single thread for arithmetic.
        one_thread: whether it has a single thread for arithmetic.

    Raises:
        ArmError: it failed.
    """
    threads = {"OMP_NUM_THREADS": "1"} if one_core or one_thread else {}
    environment = with_source({**os.environ, **threads})
    with (folder / _OUTPUT).open("wb") as output, _pinned(one_core):
        began = time.perf_counter()
        process = subprocess.Popen(  # a session of its own: Ctrl-C is ours to pass on
            words,
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    try:
        status = process.wait()
    except BaseException:
        _end(process)
        raise
    if status:
        raise ArmError(f"{' '.join(words)}: exit status {status}\n{output_of(folder)[-_MAX_SHOWN:]}")
    return time.perf_counter() - began


def output_of(folder: Path) -> str:
    """What the last command there printed."""
    return (folder / _OUTPUT).read_text(encoding="utf-8", errors="replace")


def _end(process: "subprocess.Popen[bytes]") -> None:
    """Ends the process and its children; workers have groups of their own, and die with their parent."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


@contextmanager
def _pinned(one_core: bool) -> Iterator[None]:
    """What is started meanwhile has the last of our cores alone, where the system can do that."""
    if not one_core or not hasattr(os, "sched_setaffinity"):
        yield
        return
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(cores)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, cores)


_STOPPING = [signal.SIGINT, signal.SIGTERM, *([signal.SIGHUP] if hasattr(signal, "SIGHUP") else [])]


class Interrupted(BaseException):
    """A signal has asked the bench to stop."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


@contextmanager
def interruptible() -> Iterator[None]:
    """Ctrl-C, SIGTERM and SIGHUP raise `Interrupted`, once: what comes after does not disturb the tidying up."""
    before = {number: signal.getsignal(number) for number in _STOPPING}

    def stop(number: int, frame: object) -> None:
        for one in _STOPPING:
            signal.signal(one, signal.SIG_IGN)
        raise Interrupted(number)

    try:
        for number, handler in before.items():
            if handler is not signal.SIG_IGN:  # nohup means it
                signal.signal(number, stop)
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
