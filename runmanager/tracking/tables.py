"""The text of a sweep's tables: one row per run and epoch as CSV and JSON, one row per run as CSV.

Every row is one line of text, whatever its values are, so rows can be added and taken out as lines.
"""

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson

from runmanager.parameters import ROW_COLUMNS, encode, number_to_json
from runmanager.tracking.cells import csv_line, to_cell
from runmanager.tracking.history import RunHistory, SweepHistory
from runmanager.tracking.rows import RUNNING, Best, EpochRow, Metrics, RunEnd, has_best
from runmanager.tracking.writers import Member

RUN_COLUMNS = ("run", "status", "epochs trained", "run duration", "overhead_seconds", "peak_memory_mib")
"""The first columns of the one-row-per-run table; then come the last of each metric and its best, `error` and the parameters."""

JSON_START, JSON_END = "[\n", "\n]\n"
NO_ROWS_END = "]\n"

Params = Mapping[str, Any]


class Columns:
    """The columns of a sweep's tables: those of the design, then metrics, then parameters, each in the order of appearance."""

    def __init__(self, objective: str | None = None) -> None:
        """No columns yet; the objective has a best, whatever its name is."""
        self._objective = objective
        self.metrics: dict[str, None] = {}
        self.run_metrics: dict[str, None] = {"loss": None, "accuracy": None}
        self.params: dict[str, None] = {}

    @classmethod
    def of(cls, history: SweepHistory) -> "Columns":
        """The columns that a sweep needs."""
        columns = cls(history.objective)
        for run in history.runs:
            columns.add_run(run.params, ())
            for row in run.rows:
                columns.add_row(row)
            columns.add_run((), run.metrics)
        return columns

    def add_row(self, row: EpochRow) -> bool:
        """Makes room for a row's metrics; False when it was there already."""
        if row.metrics.keys() <= self.metrics.keys():
            return False
        return _add(self.metrics, row.metrics) | _add(self.run_metrics, row.metrics)

    def add_run(self, params: Iterable[str], metrics: Iterable[str]) -> bool:
        """Makes room for a run's parameters and its own metrics; False when it was there already."""
        return _add(self.params, params) | _add(self.run_metrics, metrics)

    def epoch_header(self) -> str:
        """The epoch table's first line."""
        return csv_line(map(to_cell, [*ROW_COLUMNS, *self.metrics, *self.without(self.metrics)]))

    def without(self, metrics: Collection[str]) -> list[str]:
        """The parameters, but for those that bear the name of another run's metric: the two share a column."""
        return [name for name in self.params if name not in metrics]

    def run_header(self) -> str:
        """The run table's first line."""
        metrics: list[str] = []
        for name in self.run_metrics:
            metrics += [name, f"best {name}", f"best {name} epoch"] if self.has_best(name) else [name]
        return csv_line(map(to_cell, [*RUN_COLUMNS, *metrics, "error", *self.without(self.run_metrics)]))

    def has_best(self, metric: str) -> bool:
        """Whether the run table has a metric's best beside its last."""
        return metric == self._objective or has_best(metric)


def _add(names: dict[str, None], more: Iterable[str]) -> bool:
    before = len(names)
    names.update(dict.fromkeys(more))
    return len(names) > before


class ParamsText:
    """A run's parameters as they stand behind the numbers of each of its rows; made once for a run."""

    def __init__(self, params: Params, columns: Columns) -> None:
        self.cells = {name: to_cell(value) for name, value in params.items()}
        self.csv = self._tail(columns.without(columns.metrics))
        self.run_csv = self._tail(columns.without(columns.run_metrics))
        self.json = json.dumps({name: _json_value(value) for name, value in params.items()}, allow_nan=False)[1:]

    def _tail(self, names: list[str]) -> str:
        return "," + csv_line(self.cells.get(name, "") for name in names) if names else "\n"


def _json_value(value: object) -> Any:
    """A parameter for the results JSON: a class, function or device as its name."""
    encoded = encode(value)
    return encoded["$name"] if isinstance(encoded, dict) and "$name" in encoded else encoded


def epoch_line(row: EpochRow, columns: Columns, params: ParamsText) -> str:
    """A row as one line of CSV."""
    numbers = [row.run, row.epoch, row.loss, row.accuracy, row.epoch_seconds, row.run_seconds, row.group_size]
    cells = ["" if number is None else repr(number) for number in numbers]
    cells += [_metric_cell(name, row.metrics, params) for name in columns.metrics]
    return ",".join(cells) + params.csv


def _metric_cell(name: str, metrics: Metrics, params: ParamsText) -> str:
    return repr(metrics[name]) if name in metrics else params.cells.get(name, "")


def epoch_object(row: EpochRow, columns: Columns, params: ParamsText) -> str:
    """A row as one line of strict JSON. A metric that it does not have is left out."""
    values: dict[str, Any] = {
        "run": row.run,
        "epoch": row.epoch,
        "loss": number_to_json(row.loss),
        "accuracy": number_to_json(row.accuracy),
        "epoch duration": row.epoch_seconds,
        "run duration": row.run_seconds,
        "group size": row.group_size,
    }
    for name in columns.metrics:
        if name in row.metrics:
            values[name] = number_to_json(row.metrics[name])
    try:
        text = orjson.dumps(values).decode()
    except TypeError:  # a metric's name with a lone surrogate
        text = json.dumps(values, allow_nan=False, separators=(",", ":"))
    return f"{text[:-1]},{params.json}" if len(params.json) > 1 else text


@dataclass
class RunSummary:
    """One run's row: its state now."""

    number: int
    params: Params
    status: str = RUNNING
    num_epochs: int = 0
    run_seconds: float | None = None
    overhead_seconds: float | None = None
    peak_memory_mib: float | None = None
    last: Metrics = field(default_factory=dict)
    best: dict[str, Best] = field(default_factory=dict)
    error: str | None = None

    @classmethod
    def of(cls, run: RunHistory) -> "RunSummary":
        """The row of a run that was read back."""
        took = run.run_seconds, run.overhead_seconds, run.peak_memory_mib
        return cls(run.number, run.params, run.status, len(run.rows), *took, run.last, run.best, run.error)

    @classmethod
    def under_way(cls, run: Member, end: RunEnd | None = None) -> "RunSummary":
        """The row of a run that is tracked, or has just ended."""
        seconds = run.rows[-1].run_seconds if run.rows else None
        if end is None:
            return cls(run.number, run.params, RUNNING, len(run.rows), seconds, None, None, run.last, run.best)
        took = end.run_seconds, end.overhead_seconds, end.peak_memory_mib
        return cls(run.number, run.params, end.status, len(run.rows), *took, run.last, run.best, end.error)

    def line(self, columns: Columns, params: ParamsText) -> str:
        """The run as one line of CSV."""
        took = [self.run_seconds, self.overhead_seconds, self.peak_memory_mib]
        cells = [
            str(self.number),
            self.status,
            str(self.num_epochs),
            *("" if one is None else repr(one) for one in took),
        ]
        for metric in columns.run_metrics:
            best = self.best.get(metric)
            cells.append(repr(self.last[metric]) if metric in self.last else params.cells.get(metric, ""))
            if columns.has_best(metric):
                cells.append(f"{best.value!r},{best.epoch}" if best else ",")
        error = csv_line([to_cell(self.error)])[:-1] if self.error else ""
        return ",".join([*cells, error]) + params.run_csv


RunRows = Sequence[tuple[Params, Sequence[EpochRow]]]


def epoch_csv(runs: RunRows) -> str:
    """The CSV of runs, each given by its parameters and rows."""
    columns = _columns_of(runs)
    lines = [columns.epoch_header()]
    for params, rows in runs:
        text = ParamsText(params, columns)
        lines += [epoch_line(row, columns, text) for row in rows]
    return "".join(lines)


def epoch_json(runs: RunRows) -> str:
    """The JSON of runs, each given by its parameters and rows: a list of objects, one on a line."""
    columns = _columns_of(runs)
    objects: list[str] = []
    for params, rows in runs:
        text = ParamsText(params, columns)
        objects += [epoch_object(row, columns, text) for row in rows]
    return JSON_START + ",\n".join(objects) + (JSON_END if objects else NO_ROWS_END)


def _columns_of(runs: RunRows) -> Columns:
    columns = Columns()
    for params, rows in runs:
        columns.add_run(params, ())
        for row in rows:
            columns.add_row(row)
    return columns


def run_csv(history: SweepHistory, leave_out: Collection[int] = ()) -> str:
    """The one-row-per-run table of a sweep, without the runs of the given numbers."""
    columns = Columns.of(history)
    runs = [run for run in history.runs if run.number not in leave_out]
    return columns.run_header() + "".join(
        RunSummary.of(run).line(columns, ParamsText(run.params, columns)) for run in runs
    )


def rows_of(history: SweepHistory) -> RunRows:
    """A sweep as its tables need it."""
    return [(run.params, run.rows) for run in history.runs]
