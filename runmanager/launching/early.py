"""The first worker of a launch by command, started before anything else is imported.

While the command line is read, it imports what every worker needs. So this module imports next to nothing.
"""

import fcntl
import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

HELD_SIGNALS = (10, 15) if sys.platform == "linux" else ()  # SIGUSR1 and SIGTERM, without the cost of their names


def with_source(environment: "dict[str, str]") -> "dict[str, str]":
    """An environment in which a package that was not installed is found where it stands."""
    source = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))  # noqa: PTH100, PTH120 (see above)
    if os.path.basename(source) in ("site-packages", "dist-packages"):  # noqa: PTH119
        return environment
    paths = environment.get("PYTHONPATH")
    return {**environment, "PYTHONPATH": f"{source}{os.pathsep}{paths}" if paths else source}


def worker_arguments(command: int, report: int) -> list[str]:
    """How a worker is started that takes its calls from one pipe and answers into another."""
    module = "runmanager.launching.worker"
    return [sys.executable, "-P", "-m", module, str(command), str(report), str(os.getpid())]


class EarlyWorker:
    """A worker process without a pool yet."""

    def __init__(self) -> None:
        """Starts the process.

        Raises:
            OSError: it cannot be started.
        """
        self.output = os.memfd_create("worker output")
        fcntl.fcntl(self.output, fcntl.F_SETFL, os.O_RDWR | os.O_APPEND)
        command, self.command = os.pipe()
        self.report, report = os.pipe()
        for end in (command, report):
            os.set_inheritable(end, True)
        try:
            self.pid = os.posix_spawn(
                sys.executable,
                worker_arguments(command, report),
                with_source({"PYTHONHASHSEED": "0", **os.environ}),
                file_actions=[
                    (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                    (os.POSIX_SPAWN_DUP2, self.output, 1),
                    (os.POSIX_SPAWN_DUP2, self.output, 2),
                ],
                setpgroup=0,
                setsigmask=HELD_SIGNALS,
            )
        finally:
            os.close(command)
            os.close(report)
        os.write(self.command, b'{"import": "runmanager.launching.remote"}\n')

    def wait(self) -> int:
        """Its exit status once it has ended, or its signal's number below zero."""
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])

    def kill(self) -> None:
        """Ends it and its children."""
        os.killpg(self.pid, 9)
        self.wait()


_workers: list[EarlyWorker] = []


def start_early(arguments: "Sequence[str]") -> None:
    """Starts the first worker, where the arguments of `launch` are to have any as far as a glance tells."""
    text = " ".join(arguments)
    without = {"--help", "-h"} & {*arguments} or any(one in text for one in ("--workers 0", "--workers=0"))
    if sys.platform != "linux" or without or not arguments:
        return
    try:
        _workers.append(EarlyWorker())
    except OSError:  # the pool starts one, or tells why it cannot
        return
    import atexit

    atexit.register(_end_unused)


def take_early() -> EarlyWorker | None:
    """The worker that was started early, if there is one and nobody has taken it."""
    return _workers.pop() if _workers else None


def _end_unused() -> None:
    while _workers:
        _workers.pop().kill()
