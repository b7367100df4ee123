"""Which runs of a sweep are due, and what number each has: worked out from the grid and from what is on disk."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from runmanager.launching.sweep import Sweep, SweepError
from runmanager.parameters import ParameterError, identity, short_text
from runmanager.space.grid import Run
from runmanager.tracking.history import RunHistory, is_complete, read_run
from runmanager.tracking.rows import RUNNING
from runmanager.tracking.run_dir import SweepDir


@dataclass(frozen=True)
class ScheduledRun:
    """A run of the grid, and what is to be done with it."""

    number: int
    run: Run
    history: RunHistory | None  # what is there already

    @property
    def id(self) -> str:
        """The first 12 digits of the run's identity."""
        return identity(self.run._asdict())[:12]

    @property
    def action(self) -> str:
        """'train', 'train again', 'skip (completed)' or 'skip (running elsewhere)'."""
        if self.history is None or self.history.attempts == 0:
            return "train"
        if is_complete(self.history):
            return "skip (completed)"
        if self.history.status == RUNNING:
            return "skip (running elsewhere)"
        return f"train again ({self.history.status})"

    @property
    def is_due(self) -> bool:
        """Whether it is to be trained."""
        return self.action.startswith("train")


@dataclass(frozen=True)
class Schedule:
    """The runs that were asked for, and how many of earlier grids no longer are."""

    runs: list[ScheduledRun]
    numbers: dict[str, int]  # every number that was ever given, by the first 12 digits of the run's identity
    num_not_asked_for: int = 0

    @property
    def due(self) -> list[ScheduledRun]:
        """Those to be trained."""
        return [run for run in self.runs if run.is_due]

    def summary(self) -> str:
        """`8 runs: 3 to train, 5 completed`."""
        parts = [f"{len(self.due)} to train"]
        num_complete = sum(is_complete(run.history) for run in self.runs)
        num_running = sum(run.action == "skip (running elsewhere)" for run in self.runs)
        parts += [f"{num_complete} completed"] if num_complete else []
        parts += [f"{num_running} running elsewhere"] if num_running else []
        parts += [f"{self.num_not_asked_for} no longer asked for"] if self.num_not_asked_for else []
        return f"{len(self.runs)} run{'s' if len(self.runs) != 1 else ''}: {', '.join(parts)}"


def schedule(
    sweep: Sweep, sweep_dir: SweepDir, only: Sequence[str] = (), limit: int | None = None, *, fresh: bool = False
) -> Schedule:
    """What is to be done.

    A run keeps the number it once had; a new one gets the next free number, so a grid that grows renumbers nothing.

    Args:
        sweep: the sweep.
        sweep_dir: what is there of it.
        only: which runs: numbers (`3`), ranges (`3-5`) or values (`lr=0.01`). A run must match one of the numbers, if there
            are any, and all of the values.
        limit: at most how many runs to train.
        fresh: as if nothing were there.

    Raises:
        SweepError: `only` or `limit` makes no sense.
    """
    known = {} if fresh else sweep_dir.runs_by_id()
    numbers = {run_id: run_dir.number for run_id, run_dir in known.items()}
    if not fresh:
        numbers |= sweep_dir.read_plan().get("numbers", {})
    next_number = 1 + max(numbers.values(), default=0)
    scheduled: list[ScheduledRun] = []
    for run in sweep.runs():
        run_id = identity(run._asdict())[:12]
        if run_id not in numbers:
            numbers[run_id] = next_number
            next_number += 1
        history = read_run(known[run_id], {}) if run_id in known else None
        scheduled.append(ScheduledRun(numbers[run_id], run, history))
    not_asked_for = set(known) - {one.id for one in scheduled}
    chosen = _only(scheduled, only, sweep)
    if limit is not None:
        if limit < 1:
            raise SweepError(sweep.name, [f"--limit {limit}: give a whole number of 1 or more"])
        first_due = {one.id for one in [one for one in chosen if one.is_due][:limit]}
        chosen = [one for one in chosen if not one.is_due or one.id in first_due]
    return Schedule(chosen, numbers, len(not_asked_for))


def _only(scheduled: list[ScheduledRun], only: Sequence[str], sweep: Sweep) -> list[ScheduledRun]:
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


def parse_value(text: str, like: Sequence[Any]) -> Any:
    """A value from the command line, of the type that the grid's own values have where it fits one.

    True, False and None are themselves, numbers are numbers, all else is text. A whole number becomes a float among floats.
    """
    if any(isinstance(value, str) for value in like):
        return text
    constants = {"true": True, "false": False, "none": None}
    if text.lower() in constants:
        return constants[text.lower()]
    kinds = (float,) if like and all(isinstance(value, float) for value in like) else (int, float)
    for kind in kinds:
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def parse_set(settings: Sequence[str], params: Mapping[str, Sequence[Any]]) -> dict[str, list[Any]]:
    """`name=v1,v2` from the command line as lists of values.

    Raises:
        ParameterError: one is not of that form, names a parameter twice, or gives text to a parameter that has none.
    """
    parsed: dict[str, list[Any]] = {}
    for setting in settings:
        name, equals, texts = setting.partition("=")
        if not equals or not name:
            raise ParameterError(f"--set {setting}: write --set name=value or --set name=value,value")
        if name in parsed:
            raise ParameterError(f"--set {name} is given twice; list its values in one: --set {name}=v1,v2")
        like = list(params.get(name, ()))
        parsed[name] = [parse_value(text, like) for text in texts.split(",")]
        for value in parsed[name]:
            if isinstance(value, str) and like and not any(isinstance(one, str) for one in like):
                raise ParameterError(f"--set {name}={value}: the grid has {name}={like!r:.100}; give values like those")
    return parsed
