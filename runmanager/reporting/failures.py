"""Failures, alike ones together: what, which runs, with which parameters, and at which place in the code."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from rich.console import Console

from runmanager.parameters import params_text, short_text, varying
from runmanager.tracking.faults import signature
from runmanager.tracking.history import RunHistory, SweepHistory
from runmanager.tracking.progress import verb, visible
from runmanager.tracking.rows import FAILURES, KILLED
from runmanager.tracking.run_dir import RunDir, SweepDir, project_root

_MAX_GROUPS, _MAX_NUMBERS, _MAX_VALUES = 10, 8, 5
_FRAME = re.compile(r'^[\s|]*File "(?P<file>.+)", line (?P<line>\d+)(?:, in (?P<function>.+))?$')
_TOOL = Path(__file__).parents[1]
_PACKAGES = re.compile(r".*[/\\](?:site|dist)-packages[/\\]")


@dataclass(frozen=True)
class Place:
    """A line of code that a traceback names."""

    file: str
    line: int
    function: str
    source: str

    def text(self, root: Path) -> str:
        """`sweeps/toy.py:7 in train: raise ValueError()`, the file as short as it can be told."""
        function = f" in {self.function}" if self.function else ""
        source = f": {self.source}" if self.source else ""
        return visible(f"{self._short_file(root)}:{self.line}{function}{source}")

    def is_in(self, root: Path) -> bool:
        """Whether it is the project's own code."""
        file = Path(self.file)
        return file.is_relative_to(root) and not file.is_relative_to(_TOOL) and not _PACKAGES.match(self.file)

    def _short_file(self, root: Path) -> str:
        base = root if self.is_in(root) else _TOOL.parent
        file = Path(self.file)
        return str(file.relative_to(base)) if file.is_relative_to(base) else _PACKAGES.sub("", self.file)


def places(traceback: str | None) -> list[Place]:
    """The places that a traceback came through, the last one last."""
    lines = (traceback or "").splitlines()
    found = []
    for line, after in pairwise([*lines, ""]):
        match = _FRAME.match(line)
        if match:
            source = "" if _FRAME.match(after) or not after.startswith((" ", "|")) else after.strip(" |")
            found.append(Place(match["file"], int(match["line"]), match["function"] or "", source))
    return found


def print_errors(
    history: SweepHistory, runs: Iterable[RunHistory], console: Console | None = None, root: Path | None = None
) -> None:
    """Prints an entry for each kind of failure, the most frequent first; to stderr unless told otherwise.

    Args:
        history: the sweep.
        runs: which of its runs to look at.
        console: where to.
        root: the project that the sweep belongs to; by default that of the current folder.
    """
    console = console or Console(stderr=True)
    root = root or project_root()
    groups = _groups(runs)
    names = varying([run.params for run in history.runs]) if groups else []
    for group in groups[:_MAX_GROUPS]:
        for line in _entry(history.name, group, names, root):
            console.print(line, markup=False, highlight=False, soft_wrap=True)
    if len(groups) > _MAX_GROUPS:
        left_out = (
            f"and {len(groups) - _MAX_GROUPS} other kinds of failure; runmanager results {history.name} --json has all"
        )
        console.print(left_out, markup=False, highlight=False, soft_wrap=True)


def _groups(runs: Iterable[RunHistory]) -> list[list[RunHistory]]:
    """The runs that failed, those together that failed alike."""
    groups: dict[tuple[str, str], list[RunHistory]] = {}
    for run in runs:
        if run.status in FAILURES:
            groups.setdefault((run.status, signature(run.error, run.traceback)), []).append(run)
    for group in groups.values():
        group.sort(key=lambda run: run.number)
    return sorted(groups.values(), key=lambda group: (-len(group), group[0].number))


def _entry(sweep: str, group: list[RunHistory], names: Sequence[str], root: Path) -> list[str]:
    first = group[0]
    also = "" if all(run.error == first.error for run in group) else " (their messages differ)"
    lines = [f"{_who(group)} {_verb(group)}: {visible(first.error or 'nothing said why')}{also}"]
    params = _params(group, names)
    if len(group) > 1:
        lines.append(f"  runs {_numbers(group)}" + (f", with {params}" if params else ""))
    elif params:
        lines.append(f"  with {params}")
    lines += [f"  {text}" for text in _where(first.traceback, root)]
    return lines + [f"  its output: {log}" for log in _log(sweep, group, root)]


def _who(group: list[RunHistory]) -> str:
    return f"run {group[0].number}" if len(group) == 1 else f"{len(group)} runs"


def _verb(group: list[RunHistory]) -> str:
    status = group[0].status
    return "were killed" if status == KILLED and len(group) > 1 else verb(status)


def _numbers(group: list[RunHistory]) -> str:
    return few([str(run.number) for run in group], _MAX_NUMBERS)


def few(texts: list[str], most: int) -> str:
    """`1, 2, 3 and 12 more`."""
    more = f" and {len(texts) - most} more" if len(texts) > most else ""
    return ", ".join(texts[:most]) + more


def _params(group: list[RunHistory], names: Sequence[str]) -> str:
    """What varies in the sweep, as these runs have it: a parameter with one value for all of them may well be the cause."""
    if len(group) == 1:
        params: dict[str, Any] = group[0].params
        return params_text({name: params[name] for name in names if name in params} or params)
    values = {
        name: dict.fromkeys(short_text(run.params[name]) for run in group if name in run.params) for name in names
    }
    return " · ".join(f"{name}={few(list(some), _MAX_VALUES)}" for name, some in values.items() if some)


def _where(traceback: str | None, root: Path) -> list[str]:
    """The last place, and the last one in the project's own code where that is another."""
    found = places(traceback)
    if not found:
        return []
    own = [place for place in found if place.is_in(root)]
    called = [f"called at {own[-1].text(root)}"] if own and own[-1] != found[-1] else []
    return [f"at {found[-1].text(root)}", *called]


def _log(sweep: str, group: list[RunHistory], root: Path) -> list[str]:
    """What the first of the runs printed, if anything."""
    sweep_dir = SweepDir(root, sweep)
    logs = (RunDir(sweep_dir.path / run.folder, run.number).log_file for run in group)
    return next(([str(log.relative_to(root))] for log in logs if log.is_file()), [])
