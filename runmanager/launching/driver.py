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
class _Member:
    """A run that a worker trains, alone or in a group."""

    one: ScheduledRun
    follower: Follower | None = None  # once the worker is known
    is_unreadable: bool = False  # its journal

    @property
    def has_ended(self) -> bool:
        """Whether its end is recorded."""
        return self.follower is not None and self.follower.end is not None


@dataclass(eq=False)
class _Running:
    """A group of runs that a worker trains."""

    members: list[_Member]
    future: "Future[dict[str, Any]]"
    verdict: tuple[str, str] | None = None  # the status and the reason for which its worker was killed
    dumped: float | None = None  # when its worker was told to write its stacks
    is_told: bool = False  # to stop at the end of the epoch
    size: int | None = None  # of the groups in which its runs go on, where the worker cannot say so itself
    handed_out: float = 0.0  # by the monotonic clock

    @property
    def has_ended(self) -> bool:
        """Whether all its runs have."""
        return all(member.has_ended for member in self.members)


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
            call: the first arguments of `remote.train_runs`.
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
            group, arithmetic = work.take()
            told = [(one.index, one.id, one.number, one.attempts) for one in group]
            future = self._pool.submit("runmanager.launching.remote:train_runs", *self._call, told, arithmetic)
            members = [_Member(one) for one in group]
            self._running[future] = _Running(members, future, handed_out=time.monotonic())

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
        """Tells the writers what the worker has recorded of its runs."""
        pid = self._pool.pid_of(running.future)
        for member in running.members:
            if member.follower is None and pid is not None:
                member.follower = self._follower(member.one, pid)
            if member.follower is None:
                continue
            try:
                member.follower.read()
            except StorageError as error:
                if not member.is_unreadable:
                    say(str(error), to_stderr=True)
                member.is_unreadable = True

    def _follower(self, one: ScheduledRun, pid: int) -> Follower:
        return Follower(one.run_dir, one.run._asdict(), pid, one.attempts, self._writers, self._modes)

    def _finish(self, running: _Running, work: Work) -> None:
        """A worker has answered, or died."""
        everyone = [member.one.number for member in running.members]
        try:
            answer = running.future.result()
        except WorkerDied as died:
            answer = self._note_death(running, died)
        except CallFailed as error:
            self._follow(running)
            unended = [member.one.number for member in running.members if not member.has_ended]
            answer = _lost(unended or everyone, f"{error}\n{error.traceback}")
        except (OSError, RuntimeError, CancelledError) as error:  # no worker can be started
            answer = _lost(everyone, f"no worker process could be started for it: {error}")
        else:
            self._overrule(running)
        self._follow(running)
        self.reads.update(answer.get("reads", ()))
        for number, why in answer.get("lost", ()):
            self._outcomes.lose(number, why)
        if answer.get("lost"):
            self._pool.recycle(running.future)  # while it lives, its run counts as running
        for member in reversed(running.members):  # those that are tried again keep their order so
            if member.one.number in answer.get("taken", ()):
                work.taken(member.one)
            if member.one.number in answer.get("unbegun", ()) and not self._stop.is_asked:
                work.again_in_groups_of(running.size or 1, [member.one])
            self._settle(member.one, running, work, answer.get("size") or running.size)

    def _settle(self, one: ScheduledRun, running: _Running, work: Work, size: int | None) -> None:
        """What follows from how a run has ended: nothing more, or another try."""
        end = self._outcomes.take(one.number)
        if end is not None and end.status == OUT_OF_MEMORY:
            self._pool.recycle(running.future)  # what it could not give back would fail the next run too
        if end is None or self._stop.is_asked:
            return
        if end.status == INTERRUPTED and size is not None:
            work.again_in_groups_of(size, [one])
        elif end.status == INTERRUPTED and running.verdict is None:  # somebody has told the worker alone to stop
            self._interruptions[one.number] += 1
            if self._interruptions[one.number] <= _MAX_INTERRUPTIONS:
                work.again(one)
        elif self._outcomes.tries_again(one.number, end):
            work.again(one)

    def _overrule(self, running: _Running) -> None:
        """Runs that ended after their limit and before they were killed: writing its stacks has woken one from what it hung in."""
        if running.verdict is None or running.dumped is None or self._stop.is_asked:
            return
        for follower in _begun(running):
            if follower.end is not None:  # before the verdict
                continue
            try:
                self._end_for(follower, *running.verdict)
            except StorageError as error:
                say(str(error), to_stderr=True)

    def _end_for(self, follower: Follower, status: str, reason: str) -> None:
        end_for_dead(follower.run_dir, follower.pid, RunEnd(status, self._run_seconds(follower), reason))

    def _note_death(self, running: _Running, died: WorkerDied) -> dict[str, Any]:
        """Records how runs ended whose worker can no longer say so."""
        if running.verdict is None:
            self._follow(running)
        answer: dict[str, Any] = {"lost": [], "unbegun": []}
        verdict = running.verdict or self._verdict_on(running, *self._cause_of_death(died))
        for member in running.members:
            follower, number = member.follower, member.one.number
            if (follower is None or follower.member is None) and running.size is not None:
                answer["unbegun"].append(number)  # the group's end was no affair of its own
            elif follower is None or follower.member is None:
                why = running.verdict[1] if running.verdict else f"{died} before the run began\n{died.output}"
                answer["lost"].append((number, why.strip()))
            elif follower.end is None:
                try:
                    self._end_for(follower, *verdict)
                except StorageError as error:
                    answer["lost"].append((number, f"{verdict[1]}; {error}"))
        return answer

    def _verdict_on(self, running: _Running, status: str, reason: str) -> tuple[str, str]:
        """The status and the reason of runs that something has brought down; who of a group it was is found out one by one."""
        num_runs = len(running.members)
        if num_runs == 1:
            return status, reason
        running.size = num_runs // 2 if status == OUT_OF_MEMORY else 1
        how = f"in groups of up to {running.size}" if running.size > 1 else "alone"
        return INTERRUPTED, f"{reason}, in a group of {num_runs} runs, which go on {how}"

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
            running.verdict, running.dumped = self._verdict_on(running, TIMED_OUT, reason), time.monotonic()
            self._signal(running, signal.SIGUSR1)
        elif running.dumped is None or time.monotonic() - running.dumped > _DUMP_SECONDS:
            self._pool.kill(running.future)

    def _overdue(self, running: _Running) -> str | None:
        begun = _begun(running)
        if not begun:
            return self._overdue_to_begin(running)
        return next(filter(None, map(self._overdue_run, begun)), None)

    def _overdue_run(self, follower: Follower) -> str | None:
        now = time.monotonic()
        if follower.end is not None:
            return None
        if self._limits.run is not None and now - follower.began > self._limits.run:
            return f"the run took longer than {seconds_text(self._limits.run)} (--run-timeout)"
        if self._limits.epoch is not None and now - follower.last_epoch > self._limits.epoch:
            epoch = 1 + (follower.member.epoch if follower.member else 0)
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
            if running.future.done() or running.has_ended:
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


def _begun(running: _Running) -> list[Follower]:
    """Those who follow the runs that the worker has begun."""
    followers = [member.follower for member in running.members if member.follower is not None]
    return [follower for follower in followers if follower.member is not None]


def _lost(numbers: list[int], why: str) -> dict[str, Any]:
    return {"lost": [(number, why) for number in numbers]}
