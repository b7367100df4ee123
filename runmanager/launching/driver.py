"""Training in worker processes: hands out runs, reads their journals, enforces limits, and stops what has to be stopped."""

import signal
import time
from collections import Counter
from collections.abc import Mapping
from concurrent.futures import FIRST_COMPLETED, CancelledError, Future, wait
from dataclasses import dataclass
from typing import Any

from runmanager.launching.memory import OutOfMemoryKills
from runmanager.launching.options import Limits
from runmanager.launching.outcomes import Outcomes
from runmanager.launching.pool import CallFailed, WorkerDied, WorkerPool, signal_name
from runmanager.launching.schedule import ScheduledRun
from runmanager.launching.signals import StopRequest
from runmanager.launching.work import Work
from runmanager.tracking.attempt import end_for_dead
from runmanager.tracking.errors import StorageError
from runmanager.tracking.follow import Follower
from runmanager.tracking.progress import say, seconds_text
from runmanager.tracking.rows import INTERRUPTED, KILLED, OUT_OF_MEMORY, TIMED_OUT, RunEnd
from runmanager.tracking.writers import Writers

_TICK_SECONDS = 0.1
_START_SECONDS = 120.0  # that a worker has to begin a run, beside its limit
_MAX_INTERRUPTIONS = 3  # of a run by somebody who stops its worker
_DUMP_SECONDS = 0.5  # that a worker has to write its stacks before it is killed


@dataclass(eq=False)
class _Running:
    """A run that a worker trains."""

    one: ScheduledRun
    future: "Future[dict[str, Any]]"
    follower: Follower | None = None  # once the worker is known
    verdict: tuple[str, str] | None = None  # the status and the reason for which its worker was killed
    dumped: float | None = None  # when its worker was told to write its stacks
    is_told: bool = False  # to stop at the end of the epoch
    is_unreadable: bool = False  # its journal
    handed_out: float = 0.0  # by the monotonic clock


class Driver:
    """Trains the work of a launch in worker processes."""

    def __init__(
        self,
        pool: WorkerPool,
        num_workers: int,
        call: tuple[Any, ...],
        modes: Mapping[str, str],
        writers: Writers,
        outcomes: Outcomes,
        limits: Limits,
        stop: StopRequest,
    ) -> None:
        """Hands out nothing yet.

        Args:
            pool: the workers.
            num_workers: how many there may be.
            call: the first arguments of `remote.train_run`.
            modes: which way the objective improves, by its name.
            writers: who is told what the workers record.
            outcomes: counts failures.
            limits: how long things may take.
            stop: whether somebody has asked to stop.
        """
        self._pool, self._num_workers, self._call = pool, num_workers, call
        self._modes, self._writers = dict(modes), writers
        self._outcomes, self._limits, self._stop = outcomes, limits, stop
        self._running: dict[Future[dict[str, Any]], _Running] = {}
        self._began = time.monotonic()
        self._memory = OutOfMemoryKills()
        self._interruptions: Counter[int] = Counter()
        self._stop_by: float | None = None  # when the grace period is over
        self.reads: set[str] = set()
        """The parameters that a hand-written function has read."""

    def train(self, work: Work) -> None:
        """Trains all that is due, and waits for what other launches train."""
        while self._running or (not self._stop.is_asked and (work.due or work.elsewhere)):
            self._hand_out(work)
            self._wait(work)
            work.look()
            for running in list(self._running.values()):
                if running.verdict is None:
                    self._follow(running)
                self._enforce(running)
            self._check_stop()

    def _hand_out(self, work: Work) -> None:
        while work.due and len(self._running) < self._num_workers and not self._stop.is_asked:
            one = work.due.popleft()
            future = self._pool.submit(
                "runmanager.launching.remote:train_run", *self._call, one.index, one.id, one.number, one.attempts
            )
            self._running[future] = _Running(one, future, handed_out=time.monotonic())

    def _wait(self, work: Work) -> None:
        """Waits for a run to end, or a moment."""
        if not self._running:
            work.wait()
            return
        done, _ = wait(self._running, timeout=_TICK_SECONDS, return_when=FIRST_COMPLETED)
        for future in done:
            running = self._running.pop(future)
            self._finish(running, work)

    def _follow(self, running: _Running) -> None:
        """Tells the writers what the run's worker has recorded."""
        if running.follower is None:
            pid = self._pool.pid_of(running.future)
            if pid is None:
                return
            params = running.one.run._asdict()
            running.follower = Follower(
                running.one.run_dir, params, pid, running.one.attempts, self._writers, self._modes
            )
        try:
            running.follower.read()
        except StorageError as error:
            if not running.is_unreadable:
                say(str(error), to_stderr=True)
            running.is_unreadable = True

    def _finish(self, running: _Running, work: Work) -> None:
        """A worker has answered, or died."""
        try:
            answer = running.future.result()
        except WorkerDied as died:
            answer = self._note_death(running, died)
        except CallFailed as error:
            answer = {"lost": f"{error}\n{error.traceback}"}
        except (OSError, RuntimeError, CancelledError) as error:  # no worker can be started
            answer = {"lost": f"no worker process could be started for it: {error}"}
        else:
            self._overrule(running)
        self._follow(running)
        self.reads.update(answer.get("reads", ()))
        if "taken" in answer:
            work.taken(running.one)
        elif "lost" in answer:
            self._outcomes.lose(running.one.number, answer["lost"])
            self._pool.recycle(running.future)  # while it lives, its run counts as running
        end = self._outcomes.take(running.one.number)
        if end is not None and end.status == OUT_OF_MEMORY:
            self._pool.recycle(running.future)  # what it could not give back would fail the next run too
        if end is None or self._stop.is_asked:
            return
        if end.status == INTERRUPTED and running.verdict is None:  # somebody has told the worker alone to stop
            self._interruptions[running.one.number] += 1
            if self._interruptions[running.one.number] <= _MAX_INTERRUPTIONS:
                work.again(running.one)
        elif self._outcomes.tries_again(running.one.number, end):
            work.again(running.one)

    def _overrule(self, running: _Running) -> None:
        """A run that ended after its limit and before it was killed: writing its stacks has woken it from what it hung in."""
        follower = running.follower
        if follower is None or follower.member is None or running.verdict is None or running.verdict[0] != TIMED_OUT:
            return
        status, reason = running.verdict
        try:
            end_for_dead(follower.run_dir, follower.pid, RunEnd(status, self._run_seconds(follower), reason))
        except StorageError as error:
            say(str(error), to_stderr=True)

    def _note_death(self, running: _Running, died: WorkerDied) -> dict[str, Any]:
        """Records how a run ended whose worker can no longer say so."""
        if running.verdict is None:
            self._follow(running)
        follower = running.follower
        if follower is None or follower.member is None:
            why = running.verdict[1] if running.verdict else f"{died} before the run began\n{died.output}"
            return {"lost": why.strip()}
        if follower.end is not None:
            return {}
        status, reason = running.verdict or self._cause_of_death(died)
        end = RunEnd(status, self._run_seconds(follower), reason)
        try:
            end_for_dead(follower.run_dir, follower.pid, end)
        except StorageError as error:
            return {"lost": f"{reason}; {error}"}
        return {}

    def _cause_of_death(self, died: WorkerDied) -> tuple[str, str]:
        """The status and the reason of a run whose worker ended without being told to."""
        if died.returncode >= 0:
            return KILLED, f"the worker process ended with exit status {died.returncode} before the run had ended"
        name = signal_name(-died.returncode)
        if died.returncode == -signal.SIGKILL and self._memory.has_struck():
            return OUT_OF_MEMORY, f"the system had no memory left and killed the worker process ({name})"
        return KILLED, f"the worker process was killed by {name}"

    def _run_seconds(self, follower: Follower) -> float:
        rows = follower.member.rows if follower.member else []
        done = rows[-1].run_seconds if rows else 0.0
        return done + time.monotonic() - (follower.last_epoch if rows else follower.began)

    def _enforce(self, running: _Running) -> None:
        """Kills a worker whose run takes too long, once it has written where it was."""
        if running.verdict is None:
            reason = self._overdue(running)
            if reason is None:
                return
            running.verdict, running.dumped = (TIMED_OUT, reason), time.monotonic()
            self._signal(running, signal.SIGUSR1)
        elif running.dumped is None or time.monotonic() - running.dumped > _DUMP_SECONDS:
            self._pool.kill(running.future)

    def _overdue(self, running: _Running) -> str | None:
        follower, now = running.follower, time.monotonic()
        if follower is None or follower.member is None:
            return self._overdue_to_begin(running)
        if follower.end is not None:
            return None
        if self._limits.run is not None and now - follower.began > self._limits.run:
            return f"the run took longer than {seconds_text(self._limits.run)} (--run-timeout)"
        if self._limits.epoch is not None and now - follower.last_epoch > self._limits.epoch:
            epoch = follower.member.epoch + 1
            return f"epoch {epoch} took longer than {seconds_text(self._limits.epoch)} (--epoch-timeout)"
        return None

    def _overdue_to_begin(self, running: _Running) -> str | None:
        """A worker that hangs while it reads the sweep file; to import torch it may take its time."""
        limits = [limit for limit in (self._limits.run, self._limits.epoch) if limit is not None]
        longest = min(limits, default=float("inf")) + _START_SECONDS
        if time.monotonic() - running.handed_out <= longest:
            return None
        return f"the worker did not begin the run within {seconds_text(longest)}"

    def _signal(self, running: _Running, number: int) -> bool:
        """Whether the run had a worker to be told."""
        try:
            return self._pool.signal(running.future, number)
        except ProcessLookupError:  # it has just ended
            return False

    def _check_stop(self) -> None:
        """Passes on that somebody wants to stop: to the runs at first, and once that takes too long, to the system."""
        now = time.monotonic()
        self._memory.look(now)
        if self._limits.sweep is not None and now - self._began > self._limits.sweep:
            self._stop.ask(f"the sweep took longer than {seconds_text(self._limits.sweep)} (--sweep-timeout)")
        if self._outcomes.fault:
            self._stop.ask(self._outcomes.fault)
        if not self._stop.is_asked:
            return
        self._stop_by = self._stop_by or now + self._limits.grace
        is_over = self._stop.is_urgent or now > self._stop_by
        for running in self._running.values():
            if running.future.done() or (running.follower and running.follower.end):
                continue
            if is_over and running.verdict is None:
                why = "at once" if self._stop.is_urgent else f"{seconds_text(self._limits.grace)} after that"
                running.verdict = (INTERRUPTED, f"stopped ({self._stop.reason}), and killed {why}")
                if self._stop.is_urgent:
                    self._pool.kill(running.future)
                else:  # its stacks first
                    running.dumped = now
                    self._signal(running, signal.SIGUSR1)
            elif not running.is_told:
                running.is_told = self._signal(running, signal.SIGTERM)
