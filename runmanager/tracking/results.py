"""The results tables of a sweep: one row per run and epoch as CSV and JSON, one row per run as CSV.

They are derived: the journals are the truth, and `rebuild` writes all three again from them. While runs are trained,
`ResultsWriter` keeps them current at a cost that does not grow with the rows already there.
"""

import io
import json
import os
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from runmanager.parameters import ROW_COLUMNS, encode, number_to_json
from runmanager.tracking.cells import csv_line, to_cell
from runmanager.tracking.files import replace_text, write_all
from runmanager.tracking.history import RunHistory, SweepHistory, read_sweep
from runmanager.tracking.rows import RUNNING, Best, EpochRow, Metrics, RunEnd
from runmanager.tracking.run_dir import SweepDir
from runmanager.tracking.writers import Member, Writer

RUN_COLUMNS = ("run", "status", "epochs trained", "run duration")
"""The first columns of the one-row-per-run table; of each metric its last and best follow, then `error`, then the parameters."""

_JSON_END = "\n]\n"
_encode_json = json.JSONEncoder(allow_nan=False).encode  # made once: json.dumps makes an encoder for each call


class Columns:
    """The columns of a sweep's tables: those of the design, then metrics, then parameters, each in the order of appearance."""

    def __init__(self) -> None:
        self.metrics: dict[str, None] = {}
        self.run_metrics: dict[str, None] = {"loss": None, "accuracy": None}
        self.params: dict[str, None] = {}

    def add_row(self, row: EpochRow) -> bool:
        """Makes room for a row's metrics; False when it was there already."""
        return _add(self.metrics, row.metrics) | _add(self.run_metrics, row.metrics)

    def add_run(self, params: Iterable[str], metrics: Iterable[str]) -> bool:
        """Makes room for a run's parameters and its own metrics; False when it was there already."""
        return _add(self.params, params) | _add(self.run_metrics, metrics)

    def epoch_header(self) -> list[str]:
        """The names of the epoch table's columns."""
        return [*ROW_COLUMNS, *self.metrics, *self.params]

    def run_header(self) -> list[str]:
        """The names of the run table's columns."""
        metrics = [name for metric in self.run_metrics for name in (metric, f"best {metric}", f"best {metric} epoch")]
        return [*RUN_COLUMNS, *metrics, "error", *self.params]

    def epoch_cells(self, row: EpochRow, params: dict[str, str]) -> list[str]:
        """A row as cells; `params` are cells already."""
        numbers = [row.run, row.epoch, row.loss, row.accuracy, row.epoch_seconds, row.run_seconds]
        numbers += [row.metrics.get(name) for name in self.metrics]
        return [*map(_number_cell, numbers), *(params.get(name, "") for name in self.params)]

    def run_cells(self, run: "RunSummary") -> list[str]:
        """A run as cells."""
        cells = [str(run.number), run.status, str(run.num_epochs), _number_cell(run.run_seconds)]
        for metric in self.run_metrics:
            best = run.best.get(metric)
            value, epoch = (best.value, best.epoch) if best else (None, None)
            cells += [_number_cell(run.last.get(metric)), _number_cell(value), _number_cell(epoch)]
        cells.append(to_cell(run.error) if run.error else "")
        return [*cells, *(run.params.get(name, "") for name in self.params)]


def _add(names: dict[str, None], more: Iterable[str]) -> bool:
    before = len(names)
    names.update(dict.fromkeys(more))
    return len(names) > before


def _number_cell(value: float | None) -> str:
    return "" if value is None else repr(value)


@dataclass
class RunSummary:
    """One run's row: its state now, its parameters as cells."""

    number: int
    params: dict[str, str]
    status: str = RUNNING
    num_epochs: int = 0
    run_seconds: float | None = None
    last: Metrics = field(default_factory=dict)
    best: dict[str, Best] = field(default_factory=dict)
    error: str | None = None

    @classmethod
    def of(cls, run: RunHistory) -> "RunSummary":
        """The row of a run that was read back."""
        params = {name: to_cell(value) for name, value in run.params.items()}
        return cls(run.number, params, run.status, len(run.rows), run.run_seconds, run.last(), run.best, run.error)


def row_json(columns: Columns, row: EpochRow, params: dict[str, Any]) -> str:
    """A row as one line of strict JSON; `params` are encoded already. What a row does not have is left out."""
    numbers = [row.run, row.epoch, row.loss, row.accuracy, row.epoch_seconds, row.run_seconds]
    values: dict[str, Any] = {name: number_to_json(value) for name, value in zip(ROW_COLUMNS, numbers, strict=True)}
    values |= {name: number_to_json(row.metrics[name]) for name in columns.metrics if name in row.metrics}
    return _encode_json(values | params)


def json_params(params: dict[str, Any]) -> dict[str, Any]:
    """Parameters for a results JSON: a class, function or device as its name."""
    encoded = {name: encode(value) for name, value in params.items()}
    return {
        name: value["$name"] if isinstance(value, dict) and "$name" in value else value
        for name, value in encoded.items()
    }


def epoch_tables(runs: Sequence[tuple[dict[str, Any], Sequence[EpochRow]]]) -> tuple[str, str]:
    """The CSV and the JSON of runs, each given by its parameters and rows."""
    columns = Columns()
    for params, rows in runs:
        columns.add_run(params, ())
        for row in rows:
            columns.add_row(row)
    lines = [csv_line(map(to_cell, columns.epoch_header()))]
    objects = []
    for params, rows in runs:
        cells, encoded = {name: to_cell(value) for name, value in params.items()}, json_params(params)
        lines += [csv_line(columns.epoch_cells(row, cells)) for row in rows]
        objects += [row_json(columns, row, encoded) for row in rows]
    return "".join(lines), "[\n" + ",\n".join(objects) + (_JSON_END if objects else _JSON_END[1:])


def rebuild(sweep_dir: SweepDir, live: Collection[int] = ()) -> SweepHistory:
    """Writes all tables again from the run folders, rows by run and epoch; returns what was read.

    Args:
        live: the numbers of the runs to leave out of the one-row-per-run table, because a writer will add them.

    Raises:
        OSError: a table could not be written; the old one is kept.
    """
    history = read_sweep(sweep_dir)
    epochs_csv, epochs_json = epoch_tables([(run.params, run.rows) for run in history.runs])
    replace_text(sweep_dir.epochs_csv, epochs_csv)
    replace_text(sweep_dir.epochs_json, epochs_json)
    replace_text(sweep_dir.runs_csv, run_table(history, live))
    return history


def run_table(history: SweepHistory, leave_out: Collection[int] = ()) -> str:
    """The one-row-per-run table of a sweep as CSV."""
    columns = _columns_of(history)
    lines = [csv_line(map(to_cell, columns.run_header()))]
    lines += [csv_line(columns.run_cells(RunSummary.of(run))) for run in history.runs if run.number not in leave_out]
    return "".join(lines)


def _columns_of(history: SweepHistory) -> Columns:
    columns = Columns()
    for run in history.runs:
        columns.add_run(run.params, run.metrics)
        for row in run.rows:
            columns.add_row(row)
    return columns


class TailFile:
    """A text file that grows at its end, where the last part may be written over: rows that are settled, and a tail that is not."""

    def __init__(self, path: Path, tail: str = "") -> None:
        """Takes over the file, which ends in `tail`."""
        self._file = io.FileIO(path, "r+")
        self._size = os.fstat(self._file.fileno()).st_size
        self._settled = self._size - len(tail.encode())

    def is_ours(self) -> bool:
        """Whether nobody has written to the file, or replaced it, since we did."""
        stat = os.fstat(self._file.fileno())
        return stat.st_size == self._size and stat.st_nlink > 0

    def write(self, settled: str, tail: str) -> None:
        """Puts `settled` and a new tail in the place of the old tail."""
        new = settled.encode()
        data = new + tail.encode()
        self._file.seek(self._settled)
        write_all(self._file, data)
        end = self._settled + len(data)
        if end < self._size:
            self._file.truncate(end)
        self._settled, self._size = self._settled + len(new), end

    def touch(self) -> None:
        """Says that the file is as new as the journals."""
        os.utime(self._file.fileno())

    def close(self) -> None:
        """Lets go of the file."""
        self._file.close()


class ResultsWriter(Writer):
    """Keeps the three tables of a sweep current after every epoch."""

    def __init__(self, sweep_dir: SweepDir) -> None:
        self._sweep_dir = sweep_dir
        self._columns = Columns()
        self._files: list[TailFile] = []
        self._live: dict[int, RunSummary] = {}
        self._params: dict[int, dict[str, Any]] = {}
        self._has_rows = False

    def begin(self, member: Member) -> None:
        """A new run is a new live row; an earlier attempt of it leaves the tables."""
        cells = {name: to_cell(value) for name, value in member.params.items()}
        self._live[member.number] = RunSummary(member.number, cells)
        self._params[member.number] = json_params(member.params)
        if self._columns.add_run(member.params, ()) or member.attempt > 1 or not self._files_are_ours():
            self._rebuild()
        else:
            self._write_runs("")

    def log(self, member: Member, metrics: Metrics) -> None:
        """A metric of the run shows in its row."""
        run = self._live[member.number]
        run.last.update(metrics)
        if self._columns.add_run((), metrics):
            self._rebuild()
        else:
            self._write_runs("")

    def epoch(self, member: Member, row: EpochRow) -> None:
        """Adds the row."""
        run = self._live[member.number]
        run.num_epochs, run.run_seconds = run.num_epochs + 1, row.run_seconds
        run.last.update(row.values())
        run.best = member.best
        if self._columns.add_row(row) or not self._files_are_ours():
            self._rebuild()  # finds this row in the journal
            return
        epochs_csv, epochs_json, _ = self._files
        epochs_csv.write(csv_line(self._columns.epoch_cells(row, run.params)), "")
        comma = ",\n" if self._has_rows else ""
        epochs_json.write(comma + row_json(self._columns, row, self._params[row.run]), _JSON_END)
        self._has_rows = True
        self._write_runs("")

    def end(self, member: Member, end: RunEnd) -> None:
        """Settles the run's row."""
        run = self._live.pop(member.number)
        del self._params[member.number]
        run.status, run.run_seconds, run.error = end.status, end.run_seconds, end.error
        if not self._files_are_ours():
            self._rebuild()
            return
        self._write_runs(csv_line(self._columns.run_cells(run)))
        for file in self._files:
            file.touch()  # the end record is younger than the rows

    def close(self) -> None:
        """Lets go of the files."""
        for file in self._files:
            file.close()
        self._files = []

    def _files_are_ours(self) -> bool:
        return bool(self._files) and all(file.is_ours() for file in self._files)

    def _write_runs(self, settled: str) -> None:
        live = "".join(csv_line(self._columns.run_cells(run)) for run in self._live.values())
        self._files[2].write(settled, live)

    def _rebuild(self) -> None:
        """Writes the tables from the folders, live rows last, and goes on from there."""
        self.close()
        history = rebuild(self._sweep_dir, self._live)
        self._columns = _columns_of(history)
        self._has_rows = any(run.rows for run in history.runs)
        paths = (self._sweep_dir.epochs_csv, self._sweep_dir.epochs_json, self._sweep_dir.runs_csv)
        tails = ("", _JSON_END if self._has_rows else _JSON_END[1:], "")
        self._files = [TailFile(path, tail) for path, tail in zip(paths, tails, strict=True)]
        self._write_runs("")
