"""The results tables of a sweep on disk.

They are derived: the journals are the truth, and `rebuild` writes all three again from them. While runs are trained,
`ResultsWriter` keeps them current at a cost that does not grow with the rows already there.
"""

import functools
import io
import os
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

from runmanager.tracking.files import replace_text, write_all
from runmanager.tracking.history import SweepHistory, read_sweep
from runmanager.tracking.rows import EpochRow, Metrics, RunEnd
from runmanager.tracking.run_dir import SweepDir
from runmanager.tracking.tables import (
    JSON_END,
    JSON_START,
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


def rebuild(sweep_dir: SweepDir, live: Collection[int] = ()) -> SweepHistory:
    """Writes all tables again from the run folders, rows by run and epoch; returns what was read.

    Args:
        sweep_dir: the sweep.
        live: the numbers of the runs to leave out of the one-row-per-run table, because a writer will add them.

    Raises:
        OSError: a table could not be written; the old one is kept.
    """
    history = read_sweep(sweep_dir)
    replace_text(sweep_dir.epochs_csv, epoch_csv(rows_of(history)))
    replace_text(sweep_dir.epochs_json, epoch_json(rows_of(history)))
    replace_text(sweep_dir.runs_csv, run_csv(history, live))
    return history


class TailFile:
    """A text file that grows at its end, where the last part may be written over: rows that are settled, and a tail that is not."""

    def __init__(self, path: Path, tail: str = "") -> None:
        """Takes over the file, which ends in `tail`."""
        self.path = path
        self._file = io.FileIO(path, "r+")
        stat = os.fstat(self._file.fileno())
        self._inode, self._size = stat.st_ino, stat.st_size
        self._tail = tail.encode()
        self._settled = self._size - len(self._tail)

    def is_ours(self) -> bool:
        """Whether nobody has written to the file, or replaced it, since we did; opens it when it was closed."""
        if self._file.closed:
            try:
                self._file = io.FileIO(self.path, "r+")
            except OSError:
                return False
        stat = os.fstat(self._file.fileno())
        return (stat.st_ino, stat.st_size) == (self._inode, self._size) and stat.st_nlink > 0

    def write(self, settled: str, tail: str) -> None:
        """Puts `settled` and a new tail in the place of the old tail.

        Raises:
            OSError: it could not be written; the old tail is put back.
        """
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
        self._live: dict[int, RunSummary] = {}
        self._params: dict[int, ParamsText] = {}
        self._has_rows = False

    @_or_out_of_date
    def begin(self, member: Member) -> None:
        """A new run is a new live row; an earlier attempt of it leaves the tables."""
        run = RunSummary(member.number, member.params, last=member.last, best=member.best)
        self._live[run.number] = run
        if self._columns.add_run(member.params, ()) or not self._files_are_ours():
            self._rebuild()
            return
        self._params[run.number] = ParamsText(run.params, self._columns)
        if member.attempt > 1:
            self._take_out(run.number)
        self._write_runs("")
        self._files[0].touch()  # the run's folder is new

    @_or_out_of_date
    def log(self, member: Member, metrics: Metrics) -> None:
        """A metric of the run shows in its row."""
        if self._columns.add_run((), metrics) or not self._files_are_ours():
            self._rebuild()
        else:
            self._write_runs("")

    @_or_out_of_date
    def epoch(self, member: Member, row: EpochRow) -> None:
        """Adds the row."""
        run = self._live[member.number]
        run.num_epochs, run.run_seconds = run.num_epochs + 1, row.run_seconds
        if self._columns.add_row(row) or not (
            self._files and self._files[0].is_ours()
        ):  # whoever writes one, writes all
            self._rebuild()  # finds this row in the journal
            return
        params = self._params[row.run]
        self._files[0].write(epoch_line(row, self._columns, params), "")
        comma = ",\n" if self._has_rows else ""
        self._files[1].write(comma + epoch_object(row, self._columns, params), JSON_END)
        self._has_rows = True
        self._write_runs("")

    @_or_out_of_date
    def end(self, member: Member, end: RunEnd) -> None:
        """Settles the run's row."""
        run = self._live.pop(member.number)
        params = self._params.pop(member.number, None)
        run.status, run.run_seconds, run.error = end.status, end.run_seconds, end.error
        if params is None or not self._files_are_ours():
            self._rebuild()
        else:
            self._write_runs(run.line(self._columns, params))
        for file in self._files:
            file.touch()  # the end record is younger than the rows
        if not self._live:
            self.close()  # until the next run begins, if one does

    def close(self) -> None:
        """Lets go of the files."""
        for file in self._files:
            file.close()

    def mark_out_of_date(self) -> None:
        """Says that the tables lack what the journals have; they are written again as soon as that can be done."""
        for file in self._files:
            file.close()
            if file.path.exists():
                os.utime(file.path, (0, 0))
        self._files = []

    def _files_are_ours(self) -> bool:
        return bool(self._files) and all(file.is_ours() for file in self._files)

    def _write_runs(self, settled: str) -> None:
        live = "".join(run.line(self._columns, self._params[number]) for number, run in self._live.items())
        self._files[2].write(settled, live)

    def _take_out(self, number: int) -> None:
        """Takes a run's rows out of all tables, line by line, which is far quicker than writing them again."""
        start = (f"{number},", f'{{"run":{number},', f"{number},")
        lines, objects, runs = (
            [line for line in file.path.read_text(encoding="utf-8").split("\n") if not line.startswith(first)]
            for file, first in zip(self._files, start, strict=True)
        )
        objects = [line.removesuffix(",") for line in objects if line.startswith("{")]
        end = JSON_END if objects else NO_ROWS_END
        texts = ("\n".join(lines), JSON_START + ",\n".join(objects) + end, "\n".join(runs))
        for file, text in zip(self._files, texts, strict=True):
            replace_text(file.path, text)
        self._take_over(bool(objects))

    def _rebuild(self) -> None:
        """Writes the tables from the folders, live rows last, and goes on from there."""
        history = rebuild(self._sweep_dir, self._live)
        self._columns = Columns.of(history)
        self._params = {number: ParamsText(run.params, self._columns) for number, run in self._live.items()}
        self._take_over(any(run.rows for run in history.runs))
        self._write_runs("")

    def _take_over(self, has_rows: bool) -> None:
        """Goes on at the end of the tables as they stand, live rows not among them."""
        self.close()
        self._has_rows = has_rows
        paths = (self._sweep_dir.epochs_csv, self._sweep_dir.epochs_json, self._sweep_dir.runs_csv)
        tails = ("", JSON_END if has_rows else NO_ROWS_END, "")
        self._files = [TailFile(path, tail) for path, tail in zip(paths, tails, strict=True)]
