"""What the folders of one sweep tell about its health."""

import os
from collections.abc import Iterator
from pathlib import Path

from runmanager.reporting.failures import few
from runmanager.reporting.findings import FAIL, OK, WARN, Finding
from runmanager.reporting.leftovers import leftovers
from runmanager.reporting.stale import table_faults
from runmanager.reporting.tables import plural
from runmanager.tracking.history import RunHistory, read_sweep
from runmanager.tracking.journal import Record
from runmanager.tracking.rows import DONE, RUNNING
from runmanager.tracking.run_dir import RunDir, SweepDir

REPAIR = "runmanager doctor --repair"
_MOST = 8


class SweepCheck:
    """Looks at a sweep's folders, and writes nothing."""

    def __init__(self, sweep_dir: SweepDir) -> None:
        self.sweep_dir = sweep_dir
        self.about = f"sweep {sweep_dir.name}"
        self.history = read_sweep(sweep_dir)
        folders = {run_dir.path.name: run_dir for run_dir in sweep_dir.runs()}
        self._idle = [(run, folders[run.folder]) for run in self.history.runs if run.status != RUNNING]
        self.is_under_way = len(self._idle) < len(self.history.runs)
        """Whether somebody trains a run of it, and so keeps its tables."""

    def findings(self) -> Iterator[Finding]:
        """What is wrong, a line for each kind; one good line where nothing is."""
        faults = [
            *self._torn(),
            *self._lost(),
            *self._unreadable(),
            *self._states(),
            *self._left_over(),
            *self._tables(),
        ]
        num_runs = len(self.history.runs)
        state = "its launch keeps the tables" if self.is_under_way else "tables up to date"
        yield from faults or [Finding(OK, self.about, f"{num_runs} run{plural(num_runs)}, {state}")]

    def torn(self) -> dict[int, RunDir]:
        """The runs, by number, whose journal ends in half a record."""
        return {run.number: run_dir for run, run_dir in self._idle if run.num_bad_lines and run_dir.has_torn_tail()}

    def _torn(self) -> Iterator[Finding]:
        torn = self.torn()
        if torn:
            text = f"half a record at the end of the journal of {runs_text(torn)}"
            yield Finding(WARN, self.about, text, f"{REPAIR}; a launch mends it as well")

    def _lost(self) -> Iterator[Finding]:
        lost = {run.number: _num_lost(run_dir) for run, run_dir in self._idle if run.num_bad_lines}
        each = [f"{count} in run {number}" for number, count in lost.items() if count]
        if each:
            step = "delete a run's folder to train it again, or leave it: all other records count"
            yield Finding(WARN, self.about, f"damaged records, which are left out: {few(each, _MOST)}", step)

    def _unreadable(self) -> Iterator[Finding]:
        for folder in self.history.unreadable:
            step = f"delete runs/{self.sweep_dir.name}/{folder}, and the run is due again"
            yield Finding(FAIL, self.about, f"{folder}: neither its run.json nor its journal says who it is", step)

    def _states(self) -> Iterator[Finding]:
        """Unfinished runs whose last saved state is not what the journal says."""
        for run, run_dir in self._idle:
            if run.checkpoints and run.status not in DONE and not _is_there(run_dir, run.checkpoints[-1]):
                yield self._state(run, [one["epoch"] for one in run.checkpoints if _is_there(run_dir, one)])

    def _state(self, run: RunHistory, sound: list[int]) -> Finding:
        text = f"run {run.number}: its saved state of epoch {run.checkpoints[-1]['epoch']} is missing or cut"
        if sound:
            return Finding(WARN, self.about, f"{text}; it goes on after epoch {sound[-1]}")
        step = f"delete runs/{self.sweep_dir.name}/{run.folder} to train it from the start"
        return Finding(FAIL, self.about, f"{text}, so it cannot go on", step)

    def left_over(self) -> list[Path]:
        """Files of processes that are gone."""
        return leftovers(self.sweep_dir, [run_dir for _, run_dir in self._idle])

    def _left_over(self) -> Iterator[Finding]:
        paths = self.left_over()
        if paths:
            names = few([os.path.relpath(path, self.sweep_dir.path) for path in paths], 3)
            text = f"{len(paths)} file{plural(len(paths))} of processes that are gone: {names}"
            yield Finding(WARN, self.about, text, REPAIR)

    @property
    def may_rebuild(self) -> bool:
        """Whether the tables may be written from the folders: not where they are the last that is left of a run."""
        return bool(self.history.runs) and not self.history.unreadable and not self.is_under_way

    def _tables(self) -> Iterator[Finding]:
        faults = table_faults(self.sweep_dir, self.history) if self.may_rebuild else []
        if faults:
            yield Finding(WARN, self.about, "; ".join(faults), REPAIR)


def runs_text(numbers: dict[int, RunDir]) -> str:
    """`runs 1, 2`."""
    return f"run{plural(len(numbers))} " + few([str(number) for number in numbers], _MOST)


def _num_lost(run_dir: RunDir) -> int:
    """How many records are gone from the middle of a journal. Half a record at its end is no loss: it was never written."""
    numbers = [record["seq"] for record in run_dir.read_journal().records]
    return max(numbers, default=0) - len(numbers)


def _is_there(run_dir: RunDir, record: Record) -> bool:
    """Whether a saved state is as long as its record says."""
    try:
        return bool((run_dir.checkpoints / record["file"]).stat().st_size == record["size"])
    except OSError:
        return False
