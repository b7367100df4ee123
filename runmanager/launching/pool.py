"""Worker processes that live for many calls, as a standard Executor."""

import fcntl
import json
import os
import signal
import subprocess
import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError, Executor, Future
from pathlib import Path
from typing import Any

from runmanager.launching.early import EarlyWorker, worker_arguments
from runmanager.launching.guard import Guard
from runmanager.launching.slots import Slot
from runmanager.launching.worker import HELD_SIGNALS, read_lines, write_all

_CLOSING_SECONDS = 2.0  # that an idle worker has to end by itself
_KILLING_SECONDS = 10.0  # that killed ones are waited for; the system may hold one that waits for a device
_MAX_TAIL = 2_000  # characters of a dead worker's output that are kept
_MAX_OUTPUT = 1 << 20  # bytes of output, from which on the next call starts with an empty file


class WorkerDied(RuntimeError):  # noqa: N818 - it says what happened
    """The worker process ended in the middle of a call.

    `returncode` is as subprocess has it: the exit status, or the signal's number below zero. `output` is the last that the
    process printed outside runs.
    """

    def __init__(self, returncode: int, output: str) -> None:
        super().__init__(f"the worker process {_how_it_ended(returncode)} in the middle of a call")
        self.returncode, self.output = returncode, output


class CallFailed(RuntimeError):  # noqa: N818 - as above
    """The function raised an exception, which the message gives in one line; the worker lives on."""

    def __init__(self, error: str, traceback: str) -> None:
        super().__init__(error)
        self.traceback = traceback


def _how_it_ended(returncode: int) -> str:
    if returncode >= 0:
        return f"exited with status {returncode}"
    return f"was killed by {signal_name(-returncode)}"


def signal_name(number: int) -> str:
    """`SIGSEGV`, or `signal 40` for one that has no name."""
    names = {int(known): known.name for known in signal.Signals}
    return names.get(number, f"signal {number}")


class WorkerPool(Executor):
    """Calls functions in worker processes, one for each slot, that are started when they are first needed.

    What crosses the border is plain: the function by its name, arguments and result as JSON. A worker leads a process
    group; when it ends, what is left of the group is killed. When this process ends in whatever way, so do they all.
    """

    def __init__(self, slots: Sequence[Slot], folder: Path, early: EarlyWorker | None = None) -> None:
        """Starts nothing yet.

        Args:
            slots: how many workers there may be, and what each may use.
            folder: the workers' current folder.
            early: a process that was started already, in that folder; it becomes the first slot's worker.
        """
        self._early = early
        self._folder = folder
        self._lock = threading.RLock()  # for all below; the handler of a signal may come back to a thread that has it
        self._changed = threading.Condition(self._lock)
        self._free = list(slots)
        self._queue: deque[_Call] = deque()
        self._workers: list[_Worker] = []
        self._num_returning = 0  # workers that have answered and are about to be idle
        self._guard = Guard()
        self._closed = False

    def add_slots(self, more: Sequence[Slot]) -> None:
        """Allows more workers; those that there are stay."""
        with self._lock:
            self._free += more
        self._serve()

    def submit(self, fn: Callable[..., Any] | str, /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Calls a function in a worker, as soon as one is free.

        The future fails with CallFailed when the function raises, with WorkerDied when the process ends, and with OSError
        when no process can be started.

        Args:
            fn: a function of a module, or its name, `"module:function"`.
            args: what it is called with; plain values, as JSON has them.
            kwargs: the same, by name.

        Raises:
            TypeError: the function is not a module's, or an argument is not plain.
            RuntimeError: the pool is shut down.
        """
        name = fn if isinstance(fn, str) else _name_of(fn)
        call = _Call(json.dumps({"call": name, "args": args, "kwargs": kwargs}).encode() + b"\n")
        with self._lock:
            if self._closed:
                raise RuntimeError("the pool is shut down; make a new one")
            self._queue.append(call)
        self._serve()
        return call

    def pid_of(self, future: Future[Any]) -> int | None:
        """The process that works on it, or did so last; None while it waits."""
        worker = future.worker if isinstance(future, _Call) else None
        return worker.pid if worker else None

    def signal(self, future: Future[Any], number: int) -> bool:
        """Sends a signal to the process that works on it, and to that alone; False when there is none."""
        with self._lock:
            worker = self._worker_of(future)
            if worker:
                os.kill(worker.pid, number)
            return worker is not None

    def kill(self, future: Future[Any]) -> bool:
        """Kills the process that works on it, and its whole group; False when there is none."""
        with self._lock:
            worker = self._worker_of(future)
            if worker:
                worker.kill()
            return worker is not None

    def recycle(self, future: Future[Any]) -> None:
        """Has the worker that did this call replaced: at once if it is idle, else when the call that it does is done."""
        with self._lock:
            worker = future.worker if isinstance(future, _Call) else None
            if worker is not None and not worker.has_ended:
                worker.is_worn_out = True
                if worker.is_idle:
                    worker.kill()

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Ends the workers once all calls are done; one that does not end within two seconds is killed.

        Args:
            wait: return only when no process is left.
            cancel_futures: drop the calls that no worker has begun.
        """
        with self._lock:
            self._closed = True
        if cancel_futures:
            self._cancel_queue()
        self._serve()
        if wait:
            self._finish()
        else:
            threading.Thread(target=self._finish, daemon=True, name="workers' end").start()

    def terminate(self) -> None:
        """Kills all workers and their groups now. Calls under way fail with WorkerDied; those that wait are cancelled."""
        with self._lock:
            self._closed = True
            for worker in self._workers:
                worker.kill()
        self._cancel_queue()
        self._finish()

    def _cancel_queue(self) -> None:
        with self._lock:
            waiting = list(self._queue)
            self._queue.clear()
        for call in waiting:
            if call.cancel():
                call.set_running_or_notify_cancel()  # tells those that wait for it
            else:
                call.set_exception(CancelledError())  # a worker should have had it, but was dead

    def _finish(self) -> None:
        """Waits until every worker has its last answer given and is gone."""
        with self._lock:
            self._changed.wait_for(lambda: not self._queue and all(worker.is_dismissed for worker in self._workers))
            self._changed.wait_for(lambda: not self._workers, _CLOSING_SECONDS)
            for worker in self._workers:
                worker.kill()
            self._changed.wait_for(lambda: not self._workers, _KILLING_SECONDS)
            self._guard.close()

    def _worker_of(self, future: Future[Any]) -> "_Worker | None":
        """Who works on it. While the lock is held, the worker's process id cannot become another's."""
        worker = future.worker if isinstance(future, _Call) else None
        return worker if worker and worker.call is future and not worker.has_ended else None

    def _serve(self) -> None:
        """Gives waiting calls to idle workers, and to new ones while there are slots."""
        refused: list[_Call] = []
        with self._lock:
            try:
                self._hand_out()
            except (OSError, RuntimeError) as failure:  # no process or no thread can be started
                error = failure
                if not self._workers:  # else they wait for those that there are
                    refused = list(self._queue)
                    self._queue.clear()
            self._changed.notify_all()
        for call in refused:  # without the lock, for this calls whoever waits
            if call.is_wanted():
                call.set_exception(error)

    def _hand_out(self) -> None:
        while self._queue and (worker := self._find_worker()):
            call = self._queue.popleft()
            if call.is_wanted() and not worker.take(call):
                self._queue.appendleft(call)
        if self._closed and not self._queue:
            for worker in self._workers:
                worker.dismiss_if_idle()

    def _find_worker(self) -> "_Worker | None":
        """An idle one, the first slot's before others; else a new one, unless one is just about to be idle."""
        idle = [worker for worker in self._workers if worker.is_idle]
        if idle:
            return min(idle, key=lambda worker: worker.slot.index)
        return self._start_worker() if self._free and len(self._queue) > self._num_returning else None

    def _start_worker(self) -> "_Worker":
        early, self._early = self._early, None
        worker = _Worker(self._free[0], self._folder, self._answered, self._ended, early)
        del self._free[0]
        self._workers.append(worker)
        self._guard.add(worker.pid)
        return worker

    def _answered(self, worker: "_Worker", answer: dict[str, Any]) -> None:
        """Called by the worker's thread. Callbacks of the future may still recycle the worker before its next call."""
        with self._lock:
            call, worker.call = worker.call, None
            self._num_returning += 1
        if call:
            call.settle(answer)
        with self._lock:
            self._num_returning -= 1
            if worker.is_worn_out or not call:  # what answers unasked is not to be trusted
                worker.kill()
            else:
                worker.is_idle = True
        self._serve()

    def _ended(self, worker: "_Worker") -> None:
        """Called by the worker's thread when its pipe has ended."""
        with self._lock:
            worker.is_idle, worker.has_ended = False, True  # its process id may be another's from here on
        died = worker.reap()
        with self._lock:
            self._guard.remove(worker.pid)
        if worker.call:
            worker.call.set_exception(died)
        with self._lock:
            self._workers.remove(worker)
            self._free = sorted([*self._free, worker.slot], key=lambda slot: slot.index)
        self._serve()


class _Call(Future[Any]):
    """A call that waits for a worker, or is worked on."""

    def __init__(self, line: bytes) -> None:
        super().__init__()
        self.line = line
        self.worker: _Worker | None = None  # that did it last

    def is_wanted(self) -> bool:
        """Whether nobody has cancelled it; nobody can from here on."""
        return self.running() or self.set_running_or_notify_cancel()

    def settle(self, answer: dict[str, Any]) -> None:
        if "result" in answer:
            self.set_result(answer["result"])
        else:
            self.set_exception(CallFailed(answer["error"], answer["traceback"]))


class _Worker:
    """A worker process, and the thread that starts it and reads its answers.

    The thread outlives the process: on Linux a child's parent-death signal is sent when the *thread* that made it ends.
    """

    def __init__(
        self,
        slot: Slot,
        folder: Path,
        answered: "Callable[[_Worker, dict[str, Any]], None]",
        ended: "Callable[[_Worker], None]",
        early: EarlyWorker | None = None,
    ) -> None:
        """Returns when the process is started.

        Raises:
            OSError: it cannot be started.
        """
        self.slot, self._folder, self._early = slot, folder, early
        self._tell_answer, self._tell_end = answered, ended
        self.call: _Call | None = None
        self.is_idle = True
        self.is_dismissed = self.is_worn_out = self.has_ended = self._has_worked = False
        started: Future[None] = Future()
        threading.Thread(target=self._run, args=[started], daemon=True, name=f"worker {slot.index}").start()
        started.result()

    def _run(self, started: Future[None]) -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, HELD_SIGNALS)  # in this thread, whose mask the process inherits
        try:
            self._start()
        except OSError as error:
            started.set_exception(error)
            return
        started.set_result(None)
        try:
            for line in read_lines(self._report):
                self._tell_answer(self, json.loads(line))
        except ValueError:
            pass  # something else writes into its pipe; it is not to be trusted
        finally:
            self._tell_end(self)

    def _start(self) -> None:
        if self._early is None:
            self._start_process()
            return
        self._process: subprocess.Popen[bytes] | EarlyWorker = self._early
        self.pid = self._early.pid
        self._output, self._command, self._report = self._early.output, self._early.command, self._early.report
        environment = self.slot.whole_environment()
        write_all(self._command, json.dumps({"environment": environment}).encode() + b"\n")

    def _start_process(self) -> None:
        self._output = _output_file()
        command, self._command = os.pipe()
        self._report, report = os.pipe()
        try:
            self._process = subprocess.Popen(
                worker_arguments(command, report),
                cwd=self._folder,
                env=self.slot.whole_environment(),
                stdin=subprocess.DEVNULL,
                stdout=self._output,
                stderr=self._output,
                pass_fds=(command, report),
                process_group=0,
            )
        except OSError:
            self._close()
            raise
        finally:
            os.close(command)
            os.close(report)
        self.pid = self._process.pid

    def take(self, call: _Call) -> bool:
        """Begins a call; False when the process is found to have died while it was idle."""
        self.is_idle = False
        if os.fstat(self._output).st_size > _MAX_OUTPUT:
            os.ftruncate(self._output, 0)
        try:
            write_all(self._command, call.line)
        except BrokenPipeError:
            if self._has_worked:
                return False
            # one that dies before its first call would do so every time, so the call is told
        self.call, call.worker, self._has_worked = call, self, True
        call.line = b""
        return True

    def dismiss_if_idle(self) -> None:
        """Has it end by itself."""
        if self.is_idle:
            self.is_idle, self.is_dismissed = False, True
            os.close(self._command)

    def kill(self) -> None:
        """Kills its process group, unless it has ended. It gets no other call, though its answer may be on the way."""
        self.is_idle, self.is_worn_out = False, True
        if not self.has_ended:
            _kill_group(self.pid)

    def reap(self) -> WorkerDied:
        """Ends what is left of it; the group first, whose number is safe until the process is waited for."""
        _kill_group(self.pid)
        died = WorkerDied(self._process.wait(), _tail(self._output))
        self._close()
        return died

    def _close(self) -> None:
        for file in (self._output, self._report) if self.is_dismissed else (self._output, self._report, self._command):
            os.close(file)


def _kill_group(group: int) -> None:
    try:
        os.killpg(group, signal.SIGKILL)
    except OSError:  # only zombies are left
        pass


def _name_of(function: Callable[..., Any]) -> str:
    module, name = getattr(function, "__module__", None), getattr(function, "__qualname__", "<no name>")
    if not module or module == "__main__" or not name.isidentifier():
        raise TypeError(
            f"{function!r:.80} cannot be called in a worker; give a function of a module, or 'module:function'"
        )
    return f"{module}:{name}"


def _output_file() -> int:
    """A file without a name, written at its end by whoever writes."""
    if hasattr(os, "memfd_create"):
        file = os.memfd_create("worker output")
    else:
        import tempfile

        with tempfile.TemporaryFile() as temporary:
            file = os.dup(temporary.fileno())
    fcntl.fcntl(file, fcntl.F_SETFL, fcntl.fcntl(file, fcntl.F_GETFL) | os.O_APPEND)
    return file


def _tail(file: int) -> str:
    """The last of what was printed."""
    num_bytes = 4 * _MAX_TAIL
    return os.pread(file, num_bytes, max(0, os.fstat(file).st_size - num_bytes)).decode(errors="replace")[-_MAX_TAIL:]
