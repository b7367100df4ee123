"""The state of sweeps: what is done, what is under way and for how much longer, what failed and why."""

import time
from collections.abc import Iterable, Sequence

from rich.console import Console
from rich.text import Text

from runmanager.parameters import params_text, varying
from runmanager.reporting.tables import plural, print_table
from runmanager.tracking.history import RunHistory, SweepHistory
from runmanager.tracking.owner import owner_text
from runmanager.tracking.progress import number_text, seconds_text, visible, whole_seconds
from runmanager.tracking.rows import COMPLETED, INTERRUPTED, RUNNING, STATUSES, STOPPED

_WHOLE = (COMPLETED, STOPPED)
"""Whose time tells that of the others."""

_MAX_PARAMS = 60  # letters of a run's parameters that the other lines make room for


class Estimate:
    """About how long the runs of a sweep still take, from what is on disk."""

    def __init__(self, history: SweepHistory, now: float) -> None:
        self._history, self._now = history, now
        self._running = [run for run in history.runs if run.status == RUNNING]
        ended = [run.run_seconds for run in history.runs if run.status in _WHOLE and run.run_seconds is not None]
        known = ended or [whole for run in self._running if (whole := self._whole(run, None)) is not None]
        self._mean = sum(known) / len(known) if known else None

    def of_run(self, run: RunHistory) -> float | None:
        """Of a run under way; None while nothing tells."""
        whole = self._whole(run, self._mean)
        return None if whole is None else max(0.0, whole - self._spent(run))

    def of_sweep(self) -> float | None:
        """Of all that is under way, interrupted or missing, by as many at once as there are now; None when none is."""
        if not self._running or self._mean is None:
            return None
        left = [seconds for run in self._running if (seconds := self.of_run(run)) is not None]
        waiting = sum(map(self._of_interrupted, self._history.runs)) + self._history.num_missing * self._mean
        return max([(sum(left) + waiting) / len(self._running), *left])

    def _whole(self, run: RunHistory, mean: float | None) -> float | None:
        epoch, seconds = (run.rows[-1].epoch, run.rows[-1].run_seconds) if run.rows else (0, 0.0)
        return whole_seconds(epoch, seconds, self._history.num_epochs, mean)

    def _spent(self, run: RunHistory) -> float:
        if run.rows and self._history.num_epochs:
            return run.rows[-1].run_seconds + max(0.0, self._now - run.last_sign)
        return max(0.0, self._now - (run.began or self._now))

    def _of_interrupted(self, run: RunHistory) -> float:
        if run.status != INTERRUPTED or self._mean is None:
            return 0.0
        saved, epochs = _saved_epoch(run), self._history.num_epochs
        return self._mean * (1 - saved / epochs if epochs and saved <= epochs else 1)


def print_status(histories: Sequence[SweepHistory], console: Console | None = None) -> None:
    """Prints a line for each sweep, then one for each run that is not completed, and for each folder that nobody can read."""
    console = console or Console()
    now = time.time()
    estimates = [Estimate(history, now) for history in histories]
    _print_sweeps(histories, estimates, console)
    for history, estimate in zip(histories, estimates, strict=True):
        lines = [*_run_lines(history, estimate, now), *_unreadable_lines(history)]
        _print_lines(lines, console)


def _print_sweeps(histories: Sequence[SweepHistory], estimates: Sequence[Estimate], console: Console) -> None:
    statuses = [status for status in STATUSES if any(history.count(status) for history in histories)]
    missing = ["missing"] if any(history.num_missing for history in histories) else []
    left = [estimate.of_sweep() for estimate in estimates]
    header = ["sweep", "runs", *statuses, *missing, "best", *(["left"] if any(one is not None for one in left) else [])]
    rows = []
    for history, seconds in zip(histories, left, strict=True):
        counts = [history.count(status) for status in statuses] + [history.num_missing for _ in missing]
        texts = [str(count or "") for count in counts]
        about = "" if seconds is None else f"about {seconds_text(seconds)}"
        num_runs = len(history.runs) + history.num_missing
        rows.append([history.name, str(num_runs), *texts, _best_text(history), about][: len(header)])
    print_table(console, header, rows)


def _best_text(history: SweepHistory) -> str:
    best = history.best
    if best is None or history.objective is None:
        return ""
    return f"{history.objective} {number_text(best.score(history.objective))} (run {best.number})"


def _run_lines(history: SweepHistory, estimate: Estimate, now: float) -> Iterable[str]:
    shown = [run for run in history.runs if run.status != COMPLETED]
    names = varying([run.params for run in history.runs]) if shown else []
    heads = []
    for run in shown:
        params = {name: run.params[name] for name in names if name in run.params} or run.params
        heads.append((f"{history.name} run {run.number}", run.status, params_text(params)))
    widths = [max((len(head[place]) for head in heads), default=0) for place in range(3)]
    widths[2] = min(widths[2], _MAX_PARAMS)
    for run, head in zip(shown, heads, strict=True):
        columns = [text.ljust(width) for text, width in zip(head, widths, strict=True)]
        yield "  ".join([*columns, " · ".join(_parts(run, history.num_epochs, estimate, now))]).rstrip()


def _parts(run: RunHistory, num_epochs: int | None, estimate: Estimate, now: float) -> Iterable[str]:
    """What there is to say of a run, the most telling first, since a terminal may cut the line."""
    if num_epochs or run.rows:
        yield f"epoch {run.rows[-1].epoch if run.rows else 0}" + (f"/{num_epochs}" if num_epochs else "")
    if run.status == RUNNING:
        left = estimate.of_run(run)
        yield from [f"about {seconds_text(left)} left"] if left is not None else []
        yield owner_text(run.owner)
        yield f"began {age_text(now - (run.began or now))} ago, last sign {age_text(now - run.last_sign)} ago"
    if run.status == INTERRUPTED and _saved_epoch(run):
        yield f"goes on after epoch {_saved_epoch(run)}"
    if run.attempts > 1:
        yield f"tried {run.attempts} times"
    if run.num_bad_lines:
        yield f"{run.num_bad_lines} damaged line{plural(run.num_bad_lines)} in its journal"
    if run.error and run.status != RUNNING:
        yield visible(run.error.strip().splitlines()[-1])


def _saved_epoch(run: RunHistory) -> int:
    """The epoch that the run goes on after; 0 where nothing is saved."""
    return int(run.checkpoints[-1]["epoch"]) if run.checkpoints else 0


def _unreadable_lines(history: SweepHistory) -> Iterable[str]:
    for folder in history.unreadable:
        yield f"{history.name}: {folder} cannot be read: neither its run.json nor its journal says who it is"


def _print_lines(lines: Iterable[str], console: Console) -> None:
    """One line each: cut to a terminal, and whole in a pipe."""
    for line in lines:
        if console.is_terminal:
            console.print(Text(line), no_wrap=True, overflow="ellipsis")
        else:
            console.print(line, markup=False, highlight=False, soft_wrap=True)


def age_text(seconds: float) -> str:
    """How long something has been: `12 s`, `3 min`, `2 h 5 min`, `4 d 1 h`."""
    minutes, hours = int(seconds // 60), int(seconds // 3600)
    if seconds < 60:
        return f"{max(0, int(seconds))} s"
    if minutes < 60:
        return f"{minutes} min"
    return f"{hours} h {minutes % 60} min" if hours < 24 else f"{hours // 24} d {hours % 24} h"
