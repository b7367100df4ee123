"""How far a sweep has come: what the live table, the notebook's table and the plain lines all show."""

import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from runmanager.tracking.rows import (
    COMPLETED,
    DONE,
    INTERRUPTED,
    KILLED,
    OUT_OF_MEMORY,
    RUNNING,
    EpochRow,
    Metrics,
    RunEnd,
    better_is,
    improves,
)
from runmanager.tracking.writers import Member

MAX_SHOWN = 12
"""How many runs a live table shows: the latest, but every one that is running."""

_VERBS = {
    COMPLETED: "completed",
    OUT_OF_MEMORY: "ran out of memory",
    KILLED: "was killed",
    INTERRUPTED: "was interrupted",
}


@dataclass
class ShownRun:
    """A run as a table shows it."""

    number: int
    params: Mapping[str, Any]
    status: str = RUNNING
    attempt: int = 1
    epoch: int = 0
    values: Metrics = field(default_factory=dict)
    seconds: float = 0.0  # that its last row, or its end, tells
    error: str | None = None
    taken_up: float = 0.0  # the seconds that earlier attempts left it
    seen: float = field(default_factory=time.monotonic)  # when it was last heard of

    def seconds_now(self) -> float:
        """How long it has taken, the epoch under way included."""
        return self.seconds + (time.monotonic() - self.seen if self.status == RUNNING else 0.0)

    def note(self, epoch: int, seconds: float, values: Metrics) -> None:
        """It has come so far."""
        self.epoch, self.seconds, self.values, self.seen = epoch, seconds, values, time.monotonic()


class Progress:
    """The runs so far, the best of them, and about how long the rest will take."""

    def __init__(
        self,
        num_runs: int | None = None,
        num_epochs: int | None = None,
        objective: str | None = None,
        mode: str | None = None,
    ) -> None:
        """Any of these may be unknown, as they are to a hand-written loop.

        Args:
            num_runs: how many runs are to be trained.
            num_epochs: how many epochs a run has.
            objective: the metric that decides which run is best.
            mode: 'min' or 'max'.
        """
        self.num_runs, self.num_epochs = num_runs, num_epochs
        self.objective, self._mode = objective, mode or (better_is(objective) if objective else None)
        self.shown: list[ShownRun] = []  # in the order in which they began; replaced, since another thread draws it
        self.num_ended = 0
        self.best: tuple[float, int] | None = None  # value and run
        self._again: set[int] = set()  # the runs that ended badly, which may be tried again
        self._num_timed, self._timed_seconds = 0, 0.0  # of the runs that took their whole time
        self._taken_up = 0.0  # what of the ended runs was done before, in runs
        self._began = time.monotonic()

    def begin(self, member: Member) -> ShownRun:
        """A run begins, or is tried again."""
        run = ShownRun(member.number, member.params, attempt=member.attempt)
        if run.number in self._again:
            self._again.discard(run.number)
            self.num_ended -= 1
        self.shown = _latest([*(one for one in self.shown if one.number != run.number), run], MAX_SHOWN)
        return run

    def watch(self, member: Member) -> None:
        """A run is built, and its clock begins anew: as in its rows, the time that this took is left out."""
        run = self._run(member.number)
        if run.epoch == 0:
            run.seen = time.monotonic()

    def resume(self, member: Member) -> ShownRun:
        """A run goes on from a saved state."""
        run = self._run(member.number)
        run.note(member.epoch, member.rows[-1].run_seconds if member.rows else 0.0, dict(member.last))
        run.taken_up = run.seconds
        best = member.best.get(self.objective) if self.objective else None
        if best is not None:
            self._note_best(run.number, best.value)
        return run

    def epoch(self, row: EpochRow) -> ShownRun:
        """A run has another row."""
        run = self._run(row.run)
        run.note(row.epoch, row.run_seconds, row.values())
        self._note_best(run.number, self._score(run))
        return run

    def end(self, member: Member, end: RunEnd) -> ShownRun:
        """A run has ended."""
        run = self._run(member.number)
        self._taken_up += run.taken_up / end.run_seconds if end.run_seconds > 0 else 0.0
        run.note(run.epoch, end.run_seconds, run.values | member.metrics)
        run.status, run.error = end.status, end.error
        self._note_best(run.number, self._score(run))
        self._count(run)
        return run

    def _count(self, run: ShownRun) -> None:
        if run.status == INTERRUPTED:
            return
        self.num_ended += 1
        if run.status == COMPLETED:
            self._num_timed, self._timed_seconds = self._num_timed + 1, self._timed_seconds + run.seconds
        if run.status not in DONE:
            self._again.add(run.number)

    def _score(self, run: ShownRun) -> float | None:
        return run.values.get(self.objective) if self.objective else None

    def _note_best(self, number: int, value: float | None) -> None:
        if value is not None and improves(value, self.best and self.best[0], self._mode or "max"):
            self.best = (value, number)

    def _run(self, number: int) -> ShownRun:
        return next(run for run in reversed(self.shown) if run.number == number)

    def latest(self, most: int | None) -> list[ShownRun]:
        """The runs to show where there is room for `most`: those that are running come before others."""
        return self.shown if most is None else _latest(self.shown, most)[-most:]

    def epoch_text(self, run: ShownRun) -> str:
        """`2/3`, or `2`."""
        return f"{run.epoch}/{self.num_epochs}" if self.num_epochs else str(run.epoch)

    def count_text(self) -> str:
        """`3/8 runs`, or `3 runs`."""
        count = f"{self.num_ended}/{self.num_runs}" if self.num_runs else str(self.num_ended)
        return f"{count} run{'' if count == '1' else 's'}"

    def seconds_left(self) -> float | None:
        """About how long the rest will take, from what was done so far; None while that is unknown."""
        if not self.num_runs:
            return None
        running = [(run, whole) for run in self.shown if run.status == RUNNING and (whole := self._whole_seconds(run))]
        parts = [min(run.seconds_now() / whole, 1.0) for run, whole in running]
        done = self.num_ended - self._taken_up + sum(parts) - sum(run.taken_up / whole for run, whole in running)
        if done <= 0:
            return None
        at_this_rate = (time.monotonic() - self._began) / done * (self.num_runs - self.num_ended - sum(parts))
        return max([at_this_rate, *(whole - run.seconds_now() for run, whole in running)])

    def _whole_seconds(self, run: ShownRun) -> float | None:
        mean = self._timed_seconds / self._num_timed if self._num_timed else None
        return whole_seconds(run.epoch, run.seconds, self.num_epochs, mean)

    def summary(self) -> str:
        """One line: how many runs, the best so far, the time left."""
        parts = [self.count_text()]
        if self.best:
            parts.append(f"best {self.objective} {number_text(self.best[0])} (run {self.best[1]})")
        left = self.seconds_left()
        if left is not None and self.num_ended != self.num_runs:
            parts.append(f"about {seconds_text(left)} left")
        return " · ".join(parts)


def _latest(runs: list[ShownRun], most: int) -> list[ShownRun]:
    """The last `most` runs, but every one that is running."""
    num_left_out = len(runs) - most
    kept = []
    for run in runs:
        if num_left_out > 0 and run.status != RUNNING:
            num_left_out -= 1
        else:
            kept.append(run)
    return kept


def whole_seconds(epoch: int, seconds: float, num_epochs: int | None, mean: float | None) -> float | None:
    """About how long a run takes from begin to end; None while nothing tells.

    Args:
        epoch: how many epochs it has done.
        seconds: how long these took.
        num_epochs: how many it has in all, where that is known.
        mean: how long other runs took.
    """
    return seconds / epoch * num_epochs if epoch and num_epochs else mean


def verb(status: str) -> str:
    """What a run did that has this status: `completed`, `was killed`."""
    return _VERBS.get(status, status)


def visible(text: str) -> str:
    """Text for a line of a terminal: what would move the cursor, or colour what follows, is a dot."""
    if text.isprintable():
        return text
    return "".join(letter if letter.isprintable() else "·" for letter in text)


def number_text(value: float | None) -> str:
    """A metric in a narrow column: four digits that count."""
    if value is None:
        return ""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def seconds_text(seconds: float | None) -> str:
    """A duration: `0.42 s`, `12.3 s`, `3:05`, `2:00:07`."""
    if seconds is None:
        return ""
    if seconds < 60:
        return f"{seconds:.2f} s" if seconds < 10 else f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def say(text: str, *, to_stderr: bool = False) -> None:
    """Prints a line. Where nobody reads any more, a sweep goes on without."""
    try:
        print(text, file=sys.stderr if to_stderr else sys.stdout, flush=True)
    except (OSError, ValueError):  # the terminal is gone, the pipe broken, the stream closed
        return
