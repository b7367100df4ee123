"""The results of a sweep, as a table for the terminal or as JSON."""

import json
from typing import Any

from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from runmanager.nearest import nearest
from runmanager.parameters import encode, number_to_json, params_text, short_text, varying
from runmanager.reporting.failures import print_errors
from runmanager.reporting.notes import print_notes
from runmanager.tracking.display import fitting, least_telling
from runmanager.tracking.history import RunHistory, SweepHistory
from runmanager.tracking.progress import number_text, seconds_text
from runmanager.tracking.rows import metrics_to_json


class ReportError(ValueError):
    """What was asked for is not in the results; the message lists what is."""


def chosen_runs(history: SweepHistory, sort: str | None, top: int | None) -> list[RunHistory]:
    """The runs, best first by a metric's best value; those that have none come last, by number.

    Args:
        history: the sweep.
        sort: the metric; by default the sweep's objective, and without one the runs stay in the order of their numbers.
        top: how many.

    Raises:
        ReportError: there is no such metric, or `top` is below 1.
    """
    if top is not None and top < 1:
        raise ReportError(f"--top {top}: give a whole number of 1 or more")
    metric = sort or history.objective
    names = history.metric_names()
    if sort is not None and sort not in names:
        raise ReportError(f"--sort {sort}: sweep {history.name} has {', '.join(names)}{nearest(sort, names)}")
    ranked = history.ranked(metric) if metric else []
    others = [run for run in history.runs if all(run is not one for one in ranked)]
    return [*ranked, *others][:top]


def print_results(
    history: SweepHistory, sort: str | None = None, top: int | None = None, console: Console | None = None
) -> None:
    """Prints a row for each run: the parameters that vary, the last metrics, the best of one and its epoch, how it ended."""
    console = console or Console()
    runs = chosen_runs(history, sort, top)
    metric = sort or history.objective or next((name for name in history.metric_names() if name != "loss"), "loss")
    varied = varying([run.params for run in history.runs])
    constant = {name: value for run in history.runs for name, value in run.params.items() if name not in varied}
    title = f"{history.name}: {len(history.runs)} run{plural(len(history.runs))}" + (
        f", best {metric} first" if sort or history.objective else ""
    )
    console.print(Text(title, style="bold"))
    if constant:
        console.print(Text("all with " + params_text(constant)))
    metrics = [name for name in history.metric_names() if any(name in run.last for run in runs)]
    shown = list(metrics) if console.is_terminal else fitting(metrics, metric)
    header, rows = _results_rows(runs, shown, metric, varied)
    while console.is_terminal and shown and _width(header, rows) > console.width:
        shown.remove(least_telling(shown))
        header, rows = _results_rows(runs, shown, metric, varied)
    print_table(console, header, rows)
    if left_out := [name for name in metrics if name not in shown]:
        console.print(Text(f"{', '.join(left_out)} left out to fit; --json has everything", style="dim"))
    print_notes(runs, console)
    print_errors(history, runs, console)


def _results_rows(
    runs: list[RunHistory], metrics: list[str], metric: str, varied: list[str]
) -> tuple[list[str], list[list[str]]]:
    header = ["run", *varied, *metrics, f"best {metric}", "best epoch", "duration", "status"]
    rows = []
    for run in runs:
        best, score = run.best.get(metric), run.score(metric)
        params = [short_text(run.params[name]) if name in run.params else "" for name in varied]
        numbers = [number_text(run.last.get(name)) for name in metrics]
        epoch = str(best.epoch) if best else ""
        ending = [number_text(score), epoch, seconds_text(run.run_seconds), run.status]
        rows.append([str(run.number), *params, *numbers, *ending])
    return header, rows


def _width(header: list[str], rows: list[list[str]]) -> int:
    """How wide a table will be: its headers may break between words, its cells may not."""
    return sum(_column_width(header, rows, index) + 1 for index in range(len(header)))


def _column_width(header: list[str], rows: list[list[str]], index: int) -> int:
    return max(cell_len(text) for text in [*header[index].split(), *(row[index] for row in rows)])


def print_table(console: Console, header: list[str], rows: list[list[str]]) -> None:
    """Prints rows of text below their header; in a pipe each row is one line, however wide."""
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold")
    for index, name in enumerate(header):
        width = _column_width(header, rows, index)
        is_text = name in ("status", "sweep", "best")
        table.add_column(
            Text(name), justify="left" if is_text else "right", width=width if console.is_terminal else None
        )
    for row in rows:
        table.add_row(*(Text(cell, no_wrap=True) for cell in row))
    wide = console if console.is_terminal else Console(file=console.file, width=max(80, 2 * _width(header, rows)))
    wide.print(table, crop=False)


def results_json(history: SweepHistory, sort: str | None = None, top: int | None = None) -> str:
    """The same runs as strict JSON, with all parameters and the best of every metric."""
    return json.dumps([_run_json(run) for run in chosen_runs(history, sort, top)], indent=1, allow_nan=False)


def _run_json(run: RunHistory) -> dict[str, Any]:
    return {
        "run": run.number,
        "status": run.status,
        "params": {name: encode(value) for name, value in run.params.items()},
        "attempts": run.attempts,
        "epochs_trained": len(run.rows),
        "run_seconds": run.run_seconds,
        "last": metrics_to_json(run.last),
        "best": {name: {"value": number_to_json(best.value), "epoch": best.epoch} for name, best in run.best.items()},
        "notes": run.notes,
        "error": run.error,
        "traceback": run.traceback,
        "folder": run.folder,
    }


def plural(count: int) -> str:
    """The `s` of a word that is counted."""
    return "" if count == 1 else "s"
