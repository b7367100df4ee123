"""How the runs of a launch end, and what follows from it."""

from collections import Counter

from runmanager.launching.options import OnError
from runmanager.tracking.checkpoint import Checkpoints
from runmanager.tracking.faults import signature
from runmanager.tracking.progress import say
from runmanager.tracking.rows import COMPLETED, DIVERGED, DONE, FAILURES, INTERRUPTED, STOPPED, Number, RunEnd, score
from runmanager.tracking.run_dir import RunDir
from runmanager.tracking.writers import Member, Writer


class Outcomes(Writer):
    """Counts how runs end, and decides whether one is tried again and whether the sweep goes on."""

    def __init__(self, on_error: OnError, num_retries: int) -> None:
        self._on_error, self._num_retries = on_error, num_retries
        self._retries: Counter[int] = Counter()
        self._failures: Counter[str] = Counter()
        self._ended: dict[int, RunEnd] = {}
        self.trained: set[int] = set()
        """The numbers of the runs that have ended."""
        self.num_completed = self.num_resumed = 0
        self.metrics: dict[str, None] = {}
        """What the completed ones have logged."""
        self.training_seconds = self.overhead_seconds = 0.0
        """What the runs' attempts have taken, those of a group together as long as one; and what of it was tracking."""
        self.unrecorded: list[str] = []
        """What could not even be recorded as failed."""

    def end(self, member: Member, end: RunEnd) -> None:
        """A run has ended."""
        self._ended[member.number] = end
        self.trained.add(member.number)
        self.overhead_seconds += end.overhead_seconds or 0.0
        seconds = end.run_seconds if end.attempt_seconds is None else end.attempt_seconds
        self.training_seconds += seconds / (member.rows[-1].group_size if member.rows else 1)
        if end.status in (COMPLETED, STOPPED):
            self.num_completed += 1
            self.metrics.update(dict.fromkeys(member.last))

    def resume(self, member: Member) -> None:
        """A run goes on, and may read less than one that begins."""
        self.num_resumed += 1

    def lose(self, number: int, why: str) -> None:
        """What a run recorded may not be there."""
        self.unrecorded.append(f"run {number} cannot be recorded: {why}")
        if number not in self._ended:  # else it counts when it is asked whether to try it again
            self._failures[signature(why, None) if self._on_error.same else ""] += 1
        say(self.unrecorded[-1], to_stderr=True)

    def take(self, number: int) -> RunEnd | None:
        """How a run has just ended; None when it has not."""
        return self._ended.pop(number, None)

    def was_interrupted(self, number: int) -> bool:
        """Whether a run has just ended as one that goes on."""
        end = self._ended.get(number)
        return end is not None and end.status == INTERRUPTED

    def tries_again(self, number: int, end: RunEnd) -> bool:
        """Whether a run that ended like this is tried again at once; else it counts as failed."""
        if end.status not in FAILURES:
            return False
        if self._retries[number] < self._num_retries:
            self._retries[number] += 1
            return True
        self._failures[signature(end.error, end.traceback) if self._on_error.same else ""] += 1
        return False

    @property
    def fault(self) -> str | None:
        """Why the sweep has to stop, if it has to."""
        most = max(self._failures.values(), default=0)
        limit = self._on_error.num_failures
        if limit is None or most < limit:
            return None
        return f"{most} run{'s' if most > 1 else ''} failed{' alike' if self._on_error.same else ''} (--on-error)"


class KeepBest(Writer):
    """Drops the saved states of runs that are not among the best, when a run has ended by itself."""

    def __init__(self, num_kept: int | None, objective: str | None, mode: str | None) -> None:
        self._num_kept, self._objective = num_kept, objective
        self._sign = -1.0 if mode == "min" else 1.0
        self._kept: list[tuple[float, int, RunDir]] = []

    def end(self, member: Member, end: RunEnd) -> None:
        """A run has ended."""
        if self._num_kept is None or self._objective is None or end.status not in DONE:
            return
        if member.run_dir.checkpoints.is_dir():
            value = score(self._objective, member.best, member.metrics)
            self.add(member.run_dir, value if end.status != DIVERGED else None)

    def add(self, run_dir: RunDir, value: Number | None) -> None:
        """A run that has ended by itself has saved states, and this value of the objective."""
        if self._num_kept is None or self._objective is None:
            return
        rank = -float("inf") if value is None else self._sign * value
        others = [one for one in self._kept if one[2].number != run_dir.number]
        self._kept = sorted([*others, (rank, -run_dir.number, run_dir)], key=lambda one: one[:2], reverse=True)
        for _, _, loser in self._kept[self._num_kept :]:
            Checkpoints(loser.checkpoints).drop()
        del self._kept[self._num_kept :]
