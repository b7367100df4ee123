"""Which runs of a sweep are due, and what number each has: worked out from the grid and from what is on disk."""

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from runmanager.launching.sweep import SweepError
from runmanager.launching.texts import parse_value
from runmanager.parameters import short_text
from runmanager.space.grid import Run
from runmanager.tracking.history import RunHistory, read_run
from runmanager.tracking.rows import DONE, FAILURES, INTERRUPTED, RUNNING, STATUSES
from runmanager.tracking.run_dir import RunDir, SweepDir

if TYPE_CHECKING:
    from runmanager.launching.description import Description


@dataclass(frozen=True)
class ScheduledRun:
    """A run of the grid, and what is to be done with it."""

    number: int
    run: Run
    id: str  # the first 12 digits of its identity
    index: int  # its place in the grid
    run_dir: RunDir  # which may not be there yet
    status: str | None = None  # None when nothing was tried yet
    attempts: int = 0
    resumes_after: int | None = None  # the epoch of its last saved state
    is_due: bool = True
    owner: Mapping[str, Any] = field(default_factory=dict)  # the process of its latest attempt

    @property
    def action(self) -> str:
        """What is done with it, for people: 'train', 'go on after epoch 3 (interrupted)', 'skip (completed)' and the like."""
        if self.status is None:
            return "train"
        if self.is_due:
            return f"{self._where()} ({self.status})"
        return "running elsewhere" if self.status == RUNNING else f"skip ({self.status})"

    def _where(self) -> str:
        return "train again" if self.resumes_after is None else f"go on after epoch {self.resumes_after}"

    def seen(self, history: RunHistory | None, retried: Collection[str]) -> "ScheduledRun":
        """The same run, as its folder has it now."""
        if history is None or history.attempts == 0:
            return replace(self, status=None, attempts=0, resumes_after=None, is_due=True)
        is_due = history.status == INTERRUPTED or history.status in retried
        saved = history.checkpoints[-1]["epoch"] if history.checkpoints and history.status not in DONE else None
        return replace(
            self,
            status=history.status,
            attempts=history.attempts,
            resumes_after=saved,
            is_due=is_due,
            owner=history.owner,
        )


@dataclass(frozen=True)
class Schedule:
    """The runs that were asked for, and how many of earlier grids no longer are."""

    runs: list[ScheduledRun]
    numbers: dict[str, int]  # every number that was ever given, by the first 12 digits of the run's identity
    num_not_asked_for: int = 0
    limit: int | None = None
    num_tried: int = 0  # runs that were begun, those that were not asked for too

    @property
    def due(self) -> list[ScheduledRun]:
        """Those to be trained."""
        return [run for run in self.runs if run.is_due][: self.limit]

    @property
    def elsewhere(self) -> list[ScheduledRun]:
        """Those that another launch trains."""
        return [run for run in self.runs if run.status == RUNNING]

    def count(self, *statuses: str) -> int:
        """How many runs have one of these statuses."""
        return sum(run.status in statuses for run in self.runs)

    def summary(self) -> str:
        """`8 runs: 3 to train, 5 completed`."""
        waiting = [run for run in self.runs if not run.is_due]
        parts = [f"{len(self.due)} to train"]
        for status in STATUSES:
            number = sum(run.status == status for run in waiting)
            parts += [f"{number} {status}{' elsewhere' if status == RUNNING else ''}"] if number else []
        parts += [f"{self.num_not_asked_for} no longer asked for"] if self.num_not_asked_for else []
        failed = any(run.status in FAILURES for run in waiting)
        hint = "; --retry-failed tries those that failed again" if failed else ""
        return f"{len(self.runs)} run{'s' if len(self.runs) != 1 else ''}: {', '.join(parts)}{hint}"


def schedule(
    sweep: "Description",
    sweep_dir: SweepDir,
    only: Sequence[str] = (),
    limit: int | None = None,
    *,
    retried: Collection[str] = (),
    fresh: bool = False,
) -> Schedule:
    """What is to be done.

    A run keeps the number it once had; a new one gets the next free number, so a grid that grows renumbers nothing.

    Args:
        sweep: the sweep.
        sweep_dir: what is there of it.
        only: which runs: numbers (`3`), ranges (`3-5`) or values (`lr=0.01`). A run must match one of the numbers, if there
            are any, and all of the values.
        limit: at most how many runs to train.
        retried: statuses whose runs are due again, beside interrupted.
        fresh: as if nothing were there.

    Raises:
        SweepError: `only` or `limit` makes no sense.
    """
    known = {} if fresh else sweep_dir.runs_by_id()
    numbers = {run_id: run_dir.number for run_id, run_dir in known.items()}
    if not fresh:
        planned = sweep_dir.read_plan().get("numbers")
        numbers |= planned if isinstance(planned, dict) else {}
    next_number = 1 + max(numbers.values(), default=0)
    scheduled: list[ScheduledRun] = []
    for index, (run, run_id) in enumerate(sweep.runs):
        if run_id not in numbers:
            numbers[run_id] = next_number
            next_number += 1
        number, run_dir = numbers[run_id], known.get(run_id)
        if run_dir is None:
            run_dir = sweep_dir.run_dir(number, run._asdict(), run_id)
        one = ScheduledRun(number, run, run_id, index, run_dir)
        scheduled.append(one.seen(read_run(run_dir, {}), retried) if run_id in known else one)
    if limit is not None and limit < 1:
        raise SweepError(sweep.name, [f"--limit {limit}: give a whole number of 1 or more"])
    num_not_asked_for = len(set(known) - {one.id for one in scheduled})
    num_tried = sum(one.attempts > 0 for one in scheduled) + num_not_asked_for
    return Schedule(_only(scheduled, only, sweep), numbers, num_not_asked_for, limit, num_tried)


def _only(scheduled: list[ScheduledRun], only: Sequence[str], sweep: "Description") -> list[ScheduledRun]:
    if not only:
        return scheduled
    numbers: set[int] = set()
    values: list[tuple[str, str]] = []
    faults = []
    there = {one.number for one in scheduled}
    for part in (part.strip() for text in only for part in text.split(",")):
        name, equals, value = part.partition("=")
        asked = _numbers(part, there)
        if equals and name in sweep.params:
            values.append((name, value))
        elif asked is None:
            example = next(iter(sweep.params), "lr")
            faults.append(f"--only {part}: give run numbers like 3 or 3-5, or a value like {example}=...")
        elif not asked:
            faults.append(f"--only {part}: there is no such run; the numbers go from {min(there)} to {max(there)}")
        else:
            numbers |= asked
    found = [one for one in scheduled if (not numbers or one.number in numbers) and _matches(one.run, values)]
    if not faults and not found:
        faults.append(f"--only {','.join(only)}: none of the {len(scheduled)} runs is that; see them with --dry-run")
    if faults:
        raise SweepError(sweep.name, faults)
    return found


def _numbers(part: str, there: set[int]) -> set[int] | None:
    """The numbers of `3` or `3-5`, as far as there are such runs; None for anything else."""
    match = re.fullmatch(r"([0-9]{1,9})(?:-([0-9]{1,9}))?", part)
    if match is None:
        return None
    first, last = int(match[1]), int(match[2] or match[1])
    return {number for number in there if first <= number <= last}


def _matches(run: Run, values: list[tuple[str, str]]) -> bool:
    return all(_is_meant(text, getattr(run, name)) for name, text in values)


def _is_meant(text: str, value: Any) -> bool:
    """Whether a value was meant: by what the command line can write of it, or by the name that tables show."""
    return text == short_text(value) or parse_value(text, [value]) == value
