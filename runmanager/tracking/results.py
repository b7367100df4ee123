"""The results tables of a sweep on disk.

They are derived: the journals are the truth, and `rebuild` writes all three again from them. While runs are trained,
`ResultsWriter` keeps them current at a cost that does not grow with the rows already there.
"""

import atexit
import functools
import io
import os
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from runmanager.tracking.files import put_text, write_all
from runmanager.tracking.history import SweepHistory, read_sweep
from runmanager.tracking.rows import FAILURES, EpochRow, Metrics, RunEnd
from runmanager.tracking.run_dir import SweepDir
from runmanager.tracking.tables import (
    JSON_END,
    NO_ROWS_END,
    Columns,
    ParamsText,
    RunSummary,
    epoch_csv,
    epoch_json,
    epoch_line,
    epoch_object,
    rows_of,
    run_csv,
)
from runmanager.tracking.writers import Member, Writer

_QUICK_SECONDS = 0.01


def rebuild(sweep_dir: SweepDir, live: Mapping[int, Member] = MappingProxyType({})) -> tuple[SweepHistory, bool]:
    """Writes all tables again from the run folders, rows by run and epoch.

    Args:
        sweep_dir: the sweep.
        live: runs that are under way, by number: of them the rows are taken that their writer has been told of, and they are
            left out of the one-row-per-run table, because the writer will add them.

    Returns:
        What was read, and whether it is all: not when another process has recorded something meanwhile. The tables are then
        marked older than any journal.

    Raises:
        OSError: a table could not be written; the old one is kept.
    """
    history, is_all, files = _rebuilt(sweep_dir, live)
    for file in files:
        file.close()
    return history, is_all


def _rebuilt(sweep_dir: SweepDir, live: Mapping[int, Member]) -> tuple[SweepHistory, bool, list[io.FileIO]]:
    """Does as `rebuild`; returns the new tables, too, which are open."""
    before = sweep_dir.journal_sizes(live)
    history = read_sweep(sweep_dir)
    for run in history.runs:
        if run.number in live:
            told = live[run.number]
            run.rows, run.metrics, run.last = told.rows, told.metrics, told.last
    texts = {
        sweep_dir.epochs_csv: epoch_csv(rows_of(history)),
        sweep_dir.epochs_json: epoch_json(rows_of(history)),
        sweep_dir.runs_csv: run_csv(history, live),
    }
    files: list[io.FileIO] = []
    try:
        for path, text in texts.items():
            files.append(put_text(path, text))
        is_all = sweep_dir.journal_sizes(live) == before
        for path in texts if not is_all else ():
            os.utime(path, (0, 0))
    except BaseException:
        for file in files:
            file.close()
        raise
    return history, is_all, files


class TailFile:
    """A text file that grows at its end, where the last part may be written over: rows that are settled, and a tail that is not."""

    def __init__(self, path: Path, file: io.FileIO, tail: str = "") -> None:
        """Takes over the open file, which ends in `tail` and was put at `path`."""
        self.path, self._file = path, file
        stat = os.fstat(self._file.fileno())
        self._inode, self._size = stat.st_ino, stat.st_size
        self._tail = tail.encode()
        self._settled = self._size - len(self._tail)

    def is_ours(self) -> bool:
        """Whether nobody has written to the file, or replaced it, since we did; opens it when it was closed."""
        try:
            self._open()
        except OSError:
            return False
        stat = os.fstat(self._file.fileno())
        return (stat.st_ino, stat.st_size) == (self._inode, self._size) and stat.st_nlink > 0

    def _open(self) -> None:
        if self._file.closed:
            self._file = io.FileIO(self.path, "r+")

    def write(self, settled: str, tail: str) -> None:
        """Puts `settled` and a new tail in the place of the old tail.

        Raises:
            OSError: it could not be written; the old tail is put back.
        """
        self._open()
        new = settled.encode()
        new_tail = tail.encode()
        try:
            self._put(new + new_tail)
        except OSError:
            self._size = os.fstat(self._file.fileno()).st_size  # a part may have been written
            self._put(self._tail)
            raise
        self._settled, self._tail = self._settled + len(new), new_tail

    def _put(self, data: bytes) -> None:
        if self._file.tell() != self._settled:
            self._file.seek(self._settled)
        write_all(self._file, data)
        end = self._settled + len(data)
        if end < self._size:
            self._file.truncate(end)
        self._size = end

    def touch(self) -> None:
        """Says that the file is as new as the journals."""
        self._open()
        os.utime(self._file.fileno())

    def close(self) -> None:
        """Lets go of the file, until `is_ours` is asked again."""
        self._file.close()


def _or_out_of_date(change: Callable[..., None]) -> Callable[..., None]:
    """Where a table cannot be written, all are marked older than any journal, so that nobody takes them for the results."""

    @functools.wraps(change)
    def changed(writer: "ResultsWriter", *args: Any) -> None:
        try:
            change(writer, *args)
        except OSError:
            writer.mark_out_of_date()
            raise

    return changed


class ResultsWriter(Writer):
    """Keeps the three tables of a sweep current after every epoch."""

    def __init__(self, sweep_dir: SweepDir) -> None:
        self._sweep_dir = sweep_dir
        self._columns = Columns()
        self._files: list[TailFile] = []  # epochs as CSV, epochs as JSON, runs
        self._live: dict[int, Member] = {}
        self._lines: dict[int, str] = {}  # of the live runs, in the runs table
        self._params: dict[int, ParamsText] = {}
        self._in_tables: set[int] = set()  # runs that have a settled row
        self._has_rows = False
        self._is_behind = False  # whether the tables lack something that another process has recorded
        self._closes_at_exit = False
        self._not_before = 0.0  # by the monotonic clock

    @_or_out_of_date
    def begin(self, member: Member) -> None:
        """A new run is a new live row; what there is of an earlier attempt leaves the tables."""
        self._live[member.number] = member
        if self._columns.add_run(member.params, ()):
            self._rebuild()
        elif not self._files_are_ours():
            self._catch_up()
        else:
            self._params[member.number] = ParamsText(member.params, self._columns)
            if member.number in self._in_tables:
                self._catch_up()
            else:
                self._write_runs("", member)

    @_or_out_of_date
    def resume(self, member: Member) -> None:
        """The rows up to the saved state count again."""
        if max(map(self._columns.add_row, member.rows), default=False):
            self._rebuild()
        elif not self._files_are_ours():
            self._catch_up()
        else:
            for row in member.rows:
                self._write_row(row)
            self._write_runs("", member)

    @_or_out_of_date
    def log(self, member: Member, metrics: Metrics) -> None:
        """A metric of the run shows in its row."""
        if self._columns.add_run((), metrics):
            self._rebuild()
        elif not self._files_are_ours():
            self._catch_up()
        else:
            self._write_runs("", member)

    @_or_out_of_date
    def epoch(self, member: Member, row: EpochRow) -> None:
        """Adds the row."""
        if self._columns.add_row(row):
            self._rebuild()  # the member has this row already
        elif not self._files_are_ours():
            self._catch_up()
        else:
            self._write_row(row)
            self._write_runs("", member)

    @_or_out_of_date
    def end(self, member: Member, end: RunEnd) -> None:
        """Settles the run's row."""
        del self._live[member.number]
        self._lines.pop(member.number, None)
        params = self._params.pop(member.number, None)
        has_earlier_rows = (
            member.attempt > 1 and not member.rows
        )  # which count, since it has put nothing in their place
        if params is None or has_earlier_rows or not self._files_are_ours():
            self._catch_up()
        else:
            self._write_runs(RunSummary.under_way(member, end).line(self._columns, params))
            self._in_tables.add(member.number)
        if not self._is_behind:
            for file in self._files[:2]:
                file.touch()  # the end record is younger than the rows
        if end.status in FAILURES:
            self._let_go()  # the disk may be full, and whoever deletes a table wants its room

    def close(self) -> None:
        """Brings the tables up to date, and lets go of them.

        Raises:
            OSError: they cannot be written.
        """
        if self._is_behind or (self._files and not self._files_are_ours()):
            self._rebuild()
        self._let_go()

    def _let_go(self) -> None:
        for file in self._files:
            file.close()

    def mark_out_of_date(self) -> None:
        """Says that the tables lack what the journals have; they are written again as soon as that can be done.

        Whoever never closes this writer, as a loop by hand may not, has it closed at the end of the program.
        """
        self._is_behind = True
        if not self._closes_at_exit:
            self._closes_at_exit = True
            atexit.register(self._close_at_exit)
        self._let_go()
        for file in self._files:
            if file.path.exists():
                os.utime(file.path, (0, 0))
        self._files = []

    def _close_at_exit(self) -> None:
        """Closes; where a table cannot be written, the end of the program is no worse than the end of an epoch."""
        try:
            self.close()
        except OSError as error:
            warnings.warn(
                f"{self._sweep_dir.epochs_csv} and the tables beside it lack rows that the journals have; "
                f"`runmanager results {self._sweep_dir.name}` shows them all ({type(error).__name__}: {error})",
                RuntimeWarning,
                stacklevel=2,
            )

    def _files_are_ours(self) -> bool:
        """Whether the tables lack nothing, and no other process has put its own in the place of any of them."""
        return not self._is_behind and bool(self._files) and all(file.is_ours() for file in self._files)

    def _write_row(self, row: EpochRow) -> None:
        params = self._params[row.run]
        self._files[0].write(epoch_line(row, self._columns, params), "")
        comma = ",\n" if self._has_rows else ""
        self._files[1].write(comma + epoch_object(row, self._columns, params), JSON_END)
        self._has_rows = True

    def _write_runs(self, settled: str, changed: Member | None = None) -> None:
        """Writes settled rows, and behind them those of the live runs, of which one may have changed."""
        if changed is not None:
            params = self._params[changed.number]
            self._lines[changed.number] = RunSummary.under_way(changed).line(self._columns, params)
        self._files[2].write(settled, "".join(self._lines.values()))

    def _catch_up(self) -> None:
        """Rebuilds the tables where adding to them would not do, but spends no more than a tenth of the time on it."""
        if time.monotonic() < self._not_before:
            self.mark_out_of_date()
            return
        began = time.monotonic()
        self._rebuild()
        took = time.monotonic() - began
        self._not_before = time.monotonic() + (10 * took if took > _QUICK_SECONDS else 0)

    def _rebuild(self) -> None:
        """Writes the tables from the folders, live rows last, and goes on from there."""
        history, is_all, files = _rebuilt(self._sweep_dir, self._live)
        self._is_behind = False
        self._columns = Columns.of(history)
        self._params = {number: ParamsText(run.params, self._columns) for number, run in self._live.items()}
        self._in_tables = {run.number for run in history.runs} - set(self._live)
        self._take_over(files, any(run.rows for run in history.runs))
        self._lines = {
            number: RunSummary.under_way(run).line(self._columns, self._params[number])
            for number, run in self._live.items()
        }
        self._write_runs("")
        if not is_all:
            self.mark_out_of_date()

    def _take_over(self, files: Sequence[io.FileIO], has_rows: bool) -> None:
        """Goes on at the end of the tables that were just put in place, live rows not among them."""
        self._let_go()
        self._has_rows = has_rows
        paths = (self._sweep_dir.epochs_csv, self._sweep_dir.epochs_json, self._sweep_dir.runs_csv)
        tails = ("", JSON_END if has_rows else NO_ROWS_END, "")
        self._files = [TailFile(*each) for each in zip(paths, files, tails, strict=True)]
