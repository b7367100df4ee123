"""What is shown while runs are trained: a live table in a terminal and in a notebook, plain lines anywhere else."""

import html
import sys
import time
from collections.abc import Callable
from typing import Any

from runmanager.parameters import params_text, short_text
from runmanager.tracking.exits import notebook_shell
from runmanager.tracking.progress import Progress, ShownRun, number_text, say, seconds_text, verb, visible
from runmanager.tracking.rows import COMPLETED, RUNNING, EpochRow, RunEnd
from runmanager.tracking.writers import Member, Writer

_REFRESH_SECONDS = 0.25
_MOST_VALUES = 8  # of a line, where there are some of single classes
_OTHER_LINES = 3  # of a terminal: the header, the summary, and the cursor's


def make_display(progress: Progress | None = None) -> Writer:
    """The display that fits where the output goes."""
    progress = progress or Progress()
    if notebook_shell() is not None:
        return NotebookDisplay(progress)
    if sys.stdout is not None and sys.stdout.isatty():
        return TerminalDisplay(progress)
    return PlainDisplay(progress)


class PlainDisplay(Writer):
    """A line for each epoch and for each run's end, which names the run, as several may be under way: for pipes, logs and CI."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress

    def begin(self, member: Member) -> None:  # noqa: D102 (see Writer)
        run = self._progress.begin(member)
        self._print_run(run, f"attempt {run.attempt}" if run.attempt > 1 else "")

    def resume(self, member: Member) -> None:  # noqa: D102
        run = self._progress.resume(member)
        self._print_run(run, f"goes on after epoch {run.epoch}")

    def _print_run(self, run: ShownRun, how: str) -> None:
        line = f"run {run.number}: {params_text(run.params)}".rstrip(": ")
        say(f"{line} ({how})" if how else line)

    def epoch(self, member: Member, row: EpochRow) -> None:  # noqa: D102
        run = self._progress.epoch(row)
        values = _value_texts(run, self._progress.objective)
        where = f"run {run.number}", f"epoch {self._progress.epoch_text(run)}"
        say("  ".join([*where, *values, seconds_text(row.epoch_seconds)]))

    def end(self, member: Member, end: RunEnd) -> None:  # noqa: D102
        run = self._progress.end(member, end)
        say(f"{ending_text(run)} · {self._progress.summary()}")


def _value_texts(run: ShownRun, objective: str | None) -> list[str]:
    """The values for a line, each with its name, and of how many there is no room."""
    names = fitting(list(run.values), objective)
    texts = [f"{name} {number_text(run.values[name])}" for name in names]
    left_out = [name for name in run.values if name not in names]
    if left_out:
        kinds = dict.fromkeys(name.split("/")[0] for name in left_out)
        texts.append(f"({len(left_out)} more of {', '.join(f'{kind}/*' for kind in kinds)})")
    return texts


def fitting(metrics: list[str], objective: str | None = None) -> list[str]:
    """The metrics that have room where no terminal says how much there is: of many, the last of single classes are left out."""
    of_classes = [name for name in metrics if is_of_a_class(name) and name != objective]
    left_out = of_classes[-(len(metrics) - _MOST_VALUES) :] if len(metrics) > _MOST_VALUES else []
    return [name for name in metrics if name not in left_out]


def ending_text(run: ShownRun) -> str:
    """How a run ended; when badly, with its parameters and its error."""
    if run.status == COMPLETED:
        return f"run {run.number} completed in {seconds_text(run.seconds)}"
    error = f": {visible(run.error)}" if run.error else ""
    return f"run {run.number} {verb(run.status)} after {seconds_text(run.seconds)} ({params_text(run.params)}){error}"


def table_of(
    progress: Progress, width: int | None = None, height: int | None = None
) -> tuple[list[str], list[list[str]]]:
    """The live table's header and rows, all text.

    Metrics are left out where it would be wider than `width`, the objective last, and runs where there are more than `height`,
    those that are running last.
    """
    shown = progress.latest(height)
    metrics = list(dict.fromkeys(name for run in shown for name in run.values))
    header, rows = _cells(progress, shown, metrics)
    while width and len(metrics) > 1 and _width(header, rows) > width:
        metrics.remove(least_telling([name for name in metrics if name != progress.objective]))
        header, rows = _cells(progress, shown, metrics)
    return header, rows


def is_of_a_class(metric: str) -> bool:
    """Whether it is one of many that are alike, as `val_accuracy/cat` is."""
    return "/" in metric


def least_telling(metrics: list[str]) -> str:
    """Which of these columns is left out first where there is no room: the last of those of single classes, else the first."""
    return next((name for name in reversed(metrics) if is_of_a_class(name)), metrics[0])


def _cells(progress: Progress, shown: list[ShownRun], metrics: list[str]) -> tuple[list[str], list[list[str]]]:
    params = list(dict.fromkeys(name for run in shown for name in run.params))
    rows = [
        [
            str(run.number),
            run.status,
            progress.epoch_text(run),
            *(number_text(run.values.get(name)) for name in metrics),
            seconds_text(run.seconds_now()),
            *(short_text(run.params[name]) if name in run.params else "" for name in params),
        ]
        for run in shown
    ]
    return ["run", "status", "epoch", *metrics, "duration", *params], rows


def _width(header: list[str], rows: list[list[str]]) -> int:
    return sum(max(len(row[index]) for row in [header, *rows]) + 1 for index in range(len(header)))


class TerminalDisplay(Writer):
    """A live table by rich. What the user's own code prints scrolls above it.

    Of a sweep, one table stays to the end. A hand-written loop never says when it is over, so there the table goes when
    its run ends, and a line takes its place.
    """

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._live: Any = None

    def begin(self, member: Member) -> None:  # noqa: D102
        self._progress.begin(member)
        if self._live is None:
            from rich.live import Live

            whole_sweep = self._progress.num_runs is not None
            self._live = Live(
                get_renderable=self._render, transient=not whole_sweep, refresh_per_second=1 / _REFRESH_SECONDS
            )
            self._live.start()

    def watch(self, member: Member) -> None:  # noqa: D102
        self._progress.watch(member)

    def resume(self, member: Member) -> None:  # noqa: D102
        self._progress.resume(member)

    def epoch(self, member: Member, row: EpochRow) -> None:  # noqa: D102
        self._progress.epoch(row)

    def end(self, member: Member, end: RunEnd) -> None:  # noqa: D102
        run = self._progress.end(member, end)
        if self._progress.num_runs is None:
            self.close()
            values = "".join(f" · {text}" for text in _value_texts(run, self._progress.objective))
            print(f"{ending_text(run)}{values} · {self._progress.summary()}")
        elif run.status != COMPLETED:
            self._live.console.print(ending_text(run), markup=False, highlight=False)

    def close(self) -> None:  # noqa: D102
        if self._live is not None:
            self._live.stop()  # which shows the table once more
            self._live = None

    def _render(self) -> Any:
        from rich.console import Group
        from rich.table import Table
        from rich.text import Text

        width, height = self._live.console.size if self._live else (None, None)
        header, rows = table_of(self._progress, width, height and max(1, height - _OTHER_LINES))
        table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold")
        for name in header:
            table.add_column(Text(name), justify="left" if name == "status" else "right", no_wrap=True)
        for row in rows:
            table.add_row(*map(Text, row))
        left_out = sum(run.status == RUNNING for run in self._progress.shown) - sum(row[1] == RUNNING for row in rows)
        more = f" · {left_out} more running" if left_out > 0 else ""
        return Group(table, Text(self._progress.summary() + more, style="bold"))


class NotebookDisplay(Writer):
    """A live table in the cell that trains, updated in place: the cell's other output stays."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._handle: Any = None
        self._cell: int | None = None
        self._shown_at = 0.0

    def begin(self, member: Member) -> None:  # noqa: D102
        self._progress.begin(member)
        self._show(at_once=True)

    def watch(self, member: Member) -> None:  # noqa: D102
        self._progress.watch(member)

    def resume(self, member: Member) -> None:  # noqa: D102
        self._progress.resume(member)
        self._show(at_once=False)

    def epoch(self, member: Member, row: EpochRow) -> None:  # noqa: D102
        self._progress.epoch(row)
        self._show(at_once=False)

    def end(self, member: Member, end: RunEnd) -> None:  # noqa: D102
        run = self._progress.end(member, end)
        self._show(at_once=True)
        if run.status != COMPLETED:
            print(ending_text(run))

    def _show(self, *, at_once: bool) -> None:
        now = time.monotonic()
        if not at_once and now - self._shown_at < _REFRESH_SECONDS:
            return
        self._shown_at = now
        display: Callable[..., Any] = sys.modules["IPython"].display.display
        page = sys.modules["IPython"].display.HTML(self._html())
        shell = notebook_shell()
        cell = shell.execution_count if shell is not None else None
        if self._handle is None or cell != self._cell:
            self._handle, self._cell = display(page, display_id=True), cell
        else:
            self._handle.update(page)

    def _html(self) -> str:
        header, rows = table_of(self._progress)
        head = "".join(f"<th>{html.escape(name)}</th>" for name in header)
        body = "".join("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
        summary = html.escape(self._progress.summary())
        return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table><p>{summary}</p>"
