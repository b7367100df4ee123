"""A worker process: it takes calls from one pipe, a JSON line each, and answers each by a line in another.

`python -m runmanager.launching.worker <command pipe> <report pipe> <parent>`; WorkerPool starts it.
"""

import atexit
import faulthandler
import json
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any, NoReturn

HELD_SIGNALS = (signal.SIGTERM, signal.SIGUSR1)
"""The driver starts a worker with these held back: one that comes early waits until there is somebody to take it."""

_SET_PARENT_DEATH_SIGNAL = 1  # of Linux's prctl
_MAX_ERROR = 1_000  # characters of the error's one line; the traceback has the whole

_in_worker = False
_stop_asked = False
_pipes: list[int] = []


def in_worker() -> bool:
    """Whether this process is a worker of a driver, or a child of one."""
    return _in_worker


def stop_asked() -> bool:
    """Whether the driver has asked the call under way, by SIGTERM, to stop."""
    return _stop_asked


def read_lines(file: int) -> Iterator[bytes]:
    """The lines of a pipe, each as soon as it is whole; a line without its end is dropped."""
    parts: list[bytes] = []
    while chunk := os.read(file, 65_536):
        *lines, rest = chunk.split(b"\n")
        for line in lines:
            yield b"".join([*parts, line])
            parts.clear()
        parts.append(rest)


def write_all(file: int, data: bytes) -> None:
    """Writes all of it, however little the pipe takes at a time."""
    view = memoryview(data)
    while view:
        view = view[os.write(file, view) :]


def main() -> None:
    """Answers calls until the driver closes the pipe, or is gone."""
    global _in_worker, _stop_asked
    command, report, parent = map(int, sys.argv[1:])
    del sys.argv[1:]  # they are no business of the functions that are called
    _die_with(parent)
    _in_worker = True
    _keep_from_children(command, report)
    _set_signals()
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]  # what it printed is there if it crashes
    for line in read_lines(command):
        if not line.startswith(b'{"call"'):
            _prepare(json.loads(line))
            continue
        answer = _answer(line)
        _stop_asked = False  # before the driver has the answer; it may ask the next call as soon as it has made it
        try:
            write_all(report, answer)
        except BrokenPipeError:
            return


def _prepare(message: dict[str, Any]) -> None:
    """What a worker is told that was started before the driver knew what for; there is no answer."""
    os.environ.update(message.get("environment", {}))
    if "import" in message:
        __import__(message["import"])


def _die_with(parent: int) -> None:
    """Has this process killed as soon as its parent is gone; it may be gone already."""
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(_SET_PARENT_DEATH_SIGNAL, ctypes.c_ulong(signal.SIGKILL))
    if os.getppid() != parent:
        os._exit(1)


def _keep_from_children(*pipes: int) -> None:
    """A child that outlives the worker would hold its pipes open, and the driver would wait for an answer for ever."""
    _pipes.extend(pipes)
    for pipe in pipes:
        os.set_inheritable(pipe, False)
    # SIGTERM waits meanwhile, since Python drops in a child what came before it was set up
    os.register_at_fork(before=_hold_sigterm, after_in_parent=_release_sigterm, after_in_child=_leave_worker)


def _hold_sigterm() -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])


def _release_sigterm() -> None:
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM])


def _leave_worker() -> None:
    """Undoes in a forked child what only the worker itself is to have."""
    while _pipes:
        os.close(_pipes.pop())
    if callable(signal.getsignal(signal.SIGTERM)):  # to stop at the end of the epoch; a child has none
        signal.signal(signal.SIGTERM, signal.SIG_DFL)  # which is how multiprocessing ends its processes
    _release_sigterm()


def _set_signals() -> None:
    """Ctrl-C is the driver's affair. SIGUSR1 prints every thread's stack, even while a C function holds the GIL."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _note_stop)
    faulthandler.enable(file=2)
    faulthandler.register(signal.SIGUSR1, file=2, all_threads=True, chain=False)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, HELD_SIGNALS)


def _note_stop(number: int, frame: Any) -> None:
    global _stop_asked
    _stop_asked = True


def _answer(line: bytes) -> bytes:
    """Does one call; whatever it raises is its answer, SystemExit too."""
    try:
        call = json.loads(line)
        result = _function(call["call"])(*call["args"], **call["kwargs"])
        return json.dumps({"result": result}).encode() + b"\n"
    except BaseException as error:  # noqa: BLE001 - the worker outlives every call
        return json.dumps(_failure(error)).encode() + b"\n"


def _function(name: str) -> Callable[..., Any]:
    module, _, function = name.partition(":")
    __import__(module)
    found: Callable[..., Any] = getattr(sys.modules[module], function)
    return found


def _failure(error: BaseException) -> dict[str, str]:
    import traceback

    called = error.__traceback__ and error.__traceback__.tb_next  # from the function on
    text = "".join(traceback.format_exception(type(error), error, called))
    return {"error": _one_line(error), "traceback": text}


def _one_line(error: BaseException) -> str:
    name = type(error).__name__
    try:
        lines = str(error).strip().splitlines()
    except Exception:  # noqa: BLE001 - an error's own text may fail too
        lines = []
    return f"{name}: {lines[0]}"[:_MAX_ERROR] if lines else name


def leave() -> NoReturn:
    """Ends the process as its interpreter would, but for taking apart what torch has built, which takes a second."""
    threading._shutdown()  # type: ignore[attr-defined]  # waits for threads that are no daemons
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    os._exit(0)


if __name__ == "__main__":
    from runmanager.launching import worker

    worker.main()  # of the module that everyone else imports, so that they see its state
    worker.leave()
