"""What the pool's tests call in workers."""

import ctypes
import os
import signal
import sys
import threading
import time
from pathlib import Path

from runmanager.launching import worker


def echo(value):
    return value


def pid():
    return os.getpid()


def add(first, *, second):
    return first + second


def environment(name):
    return os.environ.get(name)


def about():
    """What a worker knows of itself."""
    return {
        "in_worker": worker.in_worker(),
        "folder": str(Path.cwd()),
        "argv": sys.argv[1:],
        "group": os.getpgid(0) == os.getpid(),
        "num_files": len(os.listdir("/proc/self/fd")) - 1,
        "heavy": sorted({"torch", "numpy", "rich", "typer", "subprocess", "multiprocessing"} & set(sys.modules)),
    }


def fail(text="no luck"):
    raise ValueError(text)


def fail_unprintably():
    class UnprintableError(Exception):
        def __str__(self):
            raise RuntimeError("not even that")

    raise UnprintableError


def leave(status):
    sys.exit(status)


def leave_at_once(status):
    os._exit(status)


def die(number):
    """Ends by a signal; prints first, without the end of a line."""
    print("a last word", end="", file=sys.stderr)
    if number == signal.SIGSEGV:
        ctypes.string_at(0)
    os.kill(os.getpid(), number)
    time.sleep(30)


def say(text):
    print(text)


def unspeakable():
    return {1, 2}


def letters(number):
    return "x" * number


def meet(folder, name, other):
    """Returns once another worker is in here too."""
    (Path(folder) / name).touch()
    wait_for(Path(folder) / other)
    return os.getpid()


def wait_for(path):
    deadline = time.monotonic() + 20
    while not Path(path).exists():
        assert time.monotonic() < deadline, f"{path} never came"
        time.sleep(0.005)


def sleep(seconds, started=None):
    if started:
        Path(started).write_text(str(os.getpid()))
    time.sleep(seconds)
    return os.getpid()


def hold_gil(started, seconds):
    """No other thread, and no handler in Python, runs meanwhile."""
    Path(started).write_text(str(os.getpid()))
    while seconds:  # a signal ends a sleep
        seconds = ctypes.PyDLL(None).sleep(seconds)


def wait_until_asked_to_stop(started):
    Path(started).touch()
    deadline = time.monotonic() + 20
    while not worker.stop_asked():
        assert time.monotonic() < deadline
        time.sleep(0.005)
    return "stopped"


def was_asked_to_stop():
    return worker.stop_asked()


def have_children(started, end="sleep"):
    """A child that ignores SIGTERM and has forked, and a grandchild by exec; then ends in the way it is told to."""
    import subprocess

    child = os.fork()
    if child == 0:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        grandchild = subprocess.Popen(["sleep", "300"])
        Path(f"{started}.new").write_text(f"{os.getppid()} {os.getpid()} {grandchild.pid}")
        Path(f"{started}.new").rename(started)
        time.sleep(300)
    wait_for(started)
    if end == "exit":
        os._exit(7)
    if end == "sleep":
        time.sleep(300)
    return child


def start_and_stop_child():
    """Ends a forked child in the way that multiprocessing does, from a process that has another use for the signal."""
    signal.signal(signal.SIGTERM, lambda number, frame: None)
    child = os.fork()
    if child == 0:
        time.sleep(30)
        os._exit(0)
    os.kill(child, signal.SIGTERM)
    return os.waitpid(child, 0)[1]


def leave_a_thread():
    """The interpreter waits for it at its end."""
    threading.Thread(target=time.sleep, args=[300]).start()


def write_nonsense():
    os.write(int(worker._pipes[1]), b"nonsense\n")
    time.sleep(30)
