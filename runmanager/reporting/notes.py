"""What was said of runs, as how their networks were built: each note once, with the runs that have it."""

from collections.abc import Sequence

from rich.console import Console
from rich.text import Text

from runmanager.reporting.failures import few
from runmanager.tracking.history import RunHistory
from runmanager.tracking.progress import visible

_MAX_LINES, _MAX_NUMBERS = 10, 8


def print_notes(runs: Sequence[RunHistory], console: Console) -> None:
    """Prints a line for each note; on a terminal it is cut to its width.

    Args:
        runs: those that are looked at.
        console: where to.
    """
    lines = note_lines(runs)
    left_out = f"and {len(lines) - _MAX_LINES} other notes; --json has them all"
    for line in [*lines[:_MAX_LINES], *([left_out] if len(lines) > _MAX_LINES else [])]:
        if console.is_terminal:
            console.print(Text(line, style="dim"), no_wrap=True, overflow="ellipsis")
        else:
            console.print(line, markup=False, highlight=False, soft_wrap=True)


def note_lines(runs: Sequence[RunHistory]) -> list[str]:
    """`all runs: ...` or `runs 1, 3: ...`, in the order in which the notes were made."""
    numbers: dict[str, list[int]] = {}
    for run in sorted(runs, key=lambda run: run.number):
        for text in dict.fromkeys(run.notes):
            numbers.setdefault(text, []).append(run.number)
    return [f"{_who(some, len(runs))}: {visible(text)}" for text, some in numbers.items()]


def _who(numbers: Sequence[int], num_runs: int) -> str:
    if len(numbers) == num_runs > 1:
        return "all runs"
    return f"run{'s' * (len(numbers) > 1)} " + few([str(number) for number in numbers], _MAX_NUMBERS)
