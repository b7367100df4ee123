"""How far a sweep has come: what the live table, the notebook's table and the plain lines all show."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from runmanager.tracking.rows import RUNNING, EpochRow, Metrics, RunEnd, better_is, improves
from runmanager.tracking.writers import Member

MAX_SHOWN = 12
"""How many runs a live table shows: the latest."""


@dataclass
class ShownRun:
    """A run as a table shows it."""

    number: int
    params: Mapping[str, Any]
    status: str = RUNNING
    epoch: int = 0
    values: Metrics = field(default_factory=dict)
    seconds: float = 0.0
    error: str | None = None


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
        self.shown: list[ShownRun] = []
        self.num_ended = 0
        self.best: tuple[float, int] | None = None  # value and run
        self._began = time.perf_counter()

    def begin(self, member: Member) -> ShownRun:
        """A run begins."""
        run = ShownRun(member.number, member.params)
        self.shown = [*self.shown[-MAX_SHOWN + 1 :], run]
        return run

    def epoch(self, row: EpochRow) -> ShownRun:
        """A run has another row."""
        run = self._run(row.run)
        run.epoch, run.seconds, run.values = row.epoch, row.run_seconds, row.values()
        self._note_best(run)
        return run

    def _note_best(self, run: ShownRun) -> None:
        value = run.values.get(self.objective) if self.objective else None
        if value is not None and improves(value, self.best and self.best[0], self._mode or "max"):
            self.best = (value, run.number)

    def end(self, member: Member, end: RunEnd) -> ShownRun:
        """A run has ended."""
        run = self._run(member.number)
        run.status, run.seconds, run.error = end.status, end.run_seconds, end.error
        run.values = run.values | member.metrics
        self._note_best(run)
        self.num_ended += 1
        return run

    def _run(self, number: int) -> ShownRun:
        return next(run for run in reversed(self.shown) if run.number == number)

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
        done = float(self.num_ended)
        if self.num_epochs:
            done += sum(min(run.epoch / self.num_epochs, 1.0) for run in self.shown if run.status == RUNNING)
        if done <= 0:
            return None
        return (time.perf_counter() - self._began) / done * (self.num_runs - done)

    def summary(self) -> str:
        """One line: how many runs, the best so far, the time left."""
        parts = [self.count_text()]
        if self.best:
            parts.append(f"best {self.objective} {number_text(self.best[0])} (run {self.best[1]})")
        left = self.seconds_left()
        if left is not None and self.num_ended != self.num_runs:
            parts.append(f"about {seconds_text(left)} left")
        return " · ".join(parts)


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
