"""Processes that are forks of the tests' own: they have what a fresh one takes seconds to import, torch above all."""

import atexit
import gc
import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterable
from pathlib import Path


class Forked:
    """A process that does this and ends; it is used as a `subprocess.Popen` is."""

    def __init__(
        self, work: Callable[[], object], cwd: Path, env: dict[str, str], out: int, err: int, keep: Iterable[int] = ()
    ) -> None:
        """Begins. `out` and `err` are files of this process, and of those `keep` stays open too."""
        self.returncode: int | None = None
        self._out, self._err = out, err
        self.pid = os.fork()
        if self.pid == 0:
            _live(work, cwd, env, [os.open(os.devnull, os.O_RDWR), out, err], keep)

    def poll(self) -> int | None:
        return self._take(os.WNOHANG)

    def wait(self, timeout: float | None = None) -> int:
        if timeout is None:
            self._take(0)
        deadline = time.monotonic() + (timeout or 0)
        while self.poll() is None:
            if time.monotonic() > deadline:
                raise subprocess.TimeoutExpired(f"fork {self.pid}", timeout or 0)
            time.sleep(0.01)
        return self.returncode or 0

    def _take(self, options: int) -> int | None:
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, options)
            self.returncode = os.waitstatus_to_exitcode(status) if pid else None
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def close(self) -> None:
        """Kills it if it is still there."""
        self.kill()
        self.wait()
        for file in (self._out, self._err):
            os.close(file)

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        self.wait(timeout)
        return self.printed()

    def printed(self) -> tuple[str, str]:
        """What it has printed so far."""
        texts = [os.pread(file, 1 << 24, 0).decode(errors="replace") for file in (self._out, self._err)]
        return texts[0], texts[1]


def _live(work: Callable[[], object], cwd: Path, env: dict[str, str], standard: list[int], keep: Iterable[int]) -> None:
    """The fork's life; nothing of the tests' that is on the stack below it is ever unwound."""
    gc.freeze()  # what the tests have dropped, a process group say, would wait for threads that the fork has not
    status: object = 1
    try:
        os.setpgid(0, 0)
        os.chdir(cwd)
        os.environ.clear()
        os.environ.update(env)
        atexit._clear()  # that of the tests is not its affair
        signal.signal(signal.SIGINT, signal.default_int_handler)
        if "torch" in sys.modules:
            sys.modules["torch"].set_num_threads(
                1
            )  # the threads that this process had for arithmetic are not in the fork
        _take_files(standard, keep)
        status = _status_of(work)
        sys.stdout.flush()
        sys.stderr.flush()
    finally:  # the fork ends here, whatever was raised
        os._exit(status if isinstance(status, int) else 1)


def _status_of(work: Callable[[], object]) -> object:
    try:
        work()
    except SystemExit as leaving:
        return leaving.code or 0
    except BaseException:  # noqa: BLE001 (it is told as an interpreter tells it)
        traceback.print_exc()
        return 1
    return 0


def _take_files(standard: list[int], keep: Iterable[int]) -> None:
    """Lets go of all other files, pipes and locks. Their numbers stay taken, for objects of the tests' may close them yet."""
    for number, file in enumerate(standard):
        os.dup2(file, number)
    for file in map(int, os.listdir("/proc/self/fd")):
        if file > 2 and file not in {*keep}:
            try:
                os.fstat(file)
                os.dup2(0, file, inheritable=False)
            except OSError:  # the one that lists them
                pass
    sys.stdin, sys.stdout, sys.stderr = (os.fdopen(number, mode, 1, closefd=False) for number, mode in enumerate("rww"))


def fork_worker(
    words: list[str],
    *,
    cwd: Path,
    env: dict[str, str],
    stdout: int,
    stderr: int,
    pass_fds: tuple[int, ...],
    **_: object,
) -> Forked:
    """In place of the `subprocess.Popen` that starts a worker: the same worker in a fork."""
    from runmanager.launching import remote, worker

    assert "runmanager.launching.worker" in words, words

    def work() -> None:
        sys.argv[:] = ["worker", *words[-3:]]
        remote._loaded.clear()
        worker.main()
        worker.leave()

    return Forked(work, cwd, env, stdout, stderr, pass_fds)


def fork_command(arguments: tuple[str, ...], cwd: Path, env: dict[str, str]) -> Forked:
    """The `runmanager` command in a fork."""
    from runmanager.cli import main

    def work() -> None:
        sys.argv[:] = ["runmanager", *arguments]
        main()

    return Forked(work, cwd, env, os.memfd_create("out"), os.memfd_create("err"))
