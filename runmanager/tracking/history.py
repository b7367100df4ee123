"""What a run and a sweep left behind, read from their folders alone."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from runmanager.tracking.counting import Counting, counted
from runmanager.tracking.errors import StorageError
from runmanager.tracking.journal import JournalContent, Record
from runmanager.tracking.owner import is_alive
from runmanager.tracking.rows import (
    COMPLETED,
    INTERRUPTED,
    RUNNING,
    Best,
    EpochRow,
    Metrics,
    Number,
    best_of,
    better_is,
    metrics_from_json,
    score,
)
from runmanager.tracking.run_dir import RunDir, SweepDir, decoded_run


@dataclass
class StepScalars:
    """The scalars of one `log_step` call."""

    epoch: int | None
    step: int
    scalars: Metrics


@dataclass
class RunHistory:
    """One run: who it is, what it reached, how it ended. An attempt counts on from the state it took up, or from nothing."""

    number: int
    params: dict[str, Any]
    status: str
    rows: list[EpochRow] = field(default_factory=list)
    metrics: Metrics = field(default_factory=dict)  # logged outside any epoch
    last: Metrics = field(default_factory=dict)  # of every metric, whether of an epoch or of the run
    run_seconds: float | None = None
    overhead_seconds: float | None = None  # that tracking has taken in the latest attempt
    peak_memory_mib: float | None = None  # of the latest attempt
    error: str | None = None
    traceback: str | None = None
    began: float | None = None  # wall clock, seconds since 1970: a label
    attempts: int = 0
    owner: dict[str, Any] = field(default_factory=dict)  # the process of the latest attempt, as `this_process` has it
    last_sign: float = 0.0  # when it last wrote to the run's folder, seconds since 1970; of a run that has no end
    checkpoints: list[Record] = field(default_factory=list)  # the records of the saved states, oldest first
    notes: list[str] = field(default_factory=list)  # what was said of it, as how it was built
    num_bad_lines: int = 0
    folder: str = ""
    modes: Mapping[str, str] = field(default_factory=dict)

    @cached_property
    def best(self) -> dict[str, Best]:
        """The best of each metric, and its epoch."""
        return best_of(self.rows, self.modes)

    def score(self, metric: str) -> Number | None:
        """The best value of a metric, or the last of one that has no best; None when there is no finite one."""
        return score(metric, self.best, self.last)


class SweepHistory:
    """One sweep: its runs by number, and what it was after. The run folders are read when somebody first looks at the runs."""

    def __init__(self, sweep_dir: SweepDir) -> None:
        plan = sweep_dir.read_plan()
        numbers, settings = plan.get("numbers"), plan.get("settings")
        self._sweep_dir, self._numbers = sweep_dir, set(numbers.values()) if isinstance(numbers, dict) else set()
        self.name: str = sweep_dir.name
        self.objective: str | None = plan.get("objective")
        self.mode: str | None = plan.get("mode")
        epochs = settings.get("epochs") if isinstance(settings, dict) else None
        self.num_epochs: int | None = epochs if isinstance(epochs, int) else None  # of a run, where all have as many
        self.trained: list[int] = []  # the numbers of the runs that a launch has just trained
        self.unrecorded: list[str] = []  # what a launch could not even record as failed
        self.stopped: str | None = None  # why a launch stopped before all was done

    def __repr__(self) -> str:
        best = f", best {self.objective} in run {self.best.number}" if self.best else ""
        return f"SweepHistory({self.name!r}: {self.count(COMPLETED)} of {len(self.runs)} runs completed{best})"

    @cached_property
    def _found(self) -> list[tuple[RunDir, RunHistory | None]]:
        modes = {self.objective: self.mode} if self.objective and self.mode else {}
        return [(run_dir, read_run(run_dir, modes)) for run_dir in self._sweep_dir.runs()]

    @cached_property
    def runs(self) -> list[RunHistory]:
        """The runs that can be read. One that cannot hides no other."""
        return [run for _, run in self._found if run]

    @property
    def unreadable(self) -> list[str]:
        """The run folders of which neither the journal nor run.json can be read."""
        return [run_dir.path.name for run_dir, run in self._found if run is None]

    @property
    def num_missing(self) -> int:
        """How many runs of the plan have no folder."""
        return len(self._numbers - {run_dir.number for run_dir, _ in self._found})

    @property
    def best(self) -> RunHistory | None:
        """The run with the best objective; None without an objective or a finite value. NaN is never best."""
        return next(iter(self.ranked(self.objective)), None) if self.objective else None

    def ranked(self, metric: str) -> list[RunHistory]:
        """The runs that have a finite value of `metric`, best first."""
        scored = [run for run in self.runs if run.score(metric) is not None]
        return sorted(scored, key=lambda run: run.score(metric) or 0, reverse=self.mode_of(metric) == "max")

    def mode_of(self, metric: str) -> str:
        """'min' or 'max': the sweep's own word for its objective, else told from the name."""
        return self.mode if self.mode and metric == self.objective else better_is(metric)

    def metric_names(self) -> list[str]:
        """Every metric of any run, loss and accuracy first, then in the order of their first appearance."""
        return list(dict.fromkeys(["loss", "accuracy", *(name for run in self.runs for name in run.last)]))

    def count(self, status: str) -> int:
        """How many runs have this status."""
        return sum(run.status == status for run in self.runs)


def read_sweep(sweep_dir: SweepDir) -> SweepHistory:
    """Everything that a sweep left."""
    return SweepHistory(sweep_dir)


def read_run(run_dir: RunDir, modes: Mapping[str, str]) -> RunHistory | None:
    """One run from its folder; None when nothing says who it is, or its journal cannot be read."""
    try:
        content = run_dir.read_journal()
    except StorageError:
        return None
    params = read_params(run_dir, content)
    if params is None:
        return None
    history = RunHistory(run_dir.number, params, INTERRUPTED, folder=run_dir.path.name, modes=modes)
    history.num_bad_lines = content.num_bad_lines
    counting = Counting()
    for record in content.records:
        counting.add(record)
        if record["kind"] == "begin":
            _begin_attempt(history, record)
        elif record["kind"] == "end":
            history.status, history.run_seconds = record["status"], record["run_seconds"]
            history.error, history.traceback = record["error"], record["traceback"]
            history.overhead_seconds = record.get("overhead_seconds")
            history.peak_memory_mib = record.get("peak_memory_mib")
    _fold(history, counting.records)
    if history.rows:  # an attempt that ended before it took up an earlier one has been shorter than that
        history.run_seconds = max(history.run_seconds or 0.0, history.rows[-1].run_seconds)
    if history.status == RUNNING:
        history.last_sign = run_dir.last_sign()
        if not is_alive(history.owner, history.last_sign):
            history.status = INTERRUPTED
    return history


def read_params(run_dir: RunDir, content: JournalContent) -> dict[str, Any] | None:
    """A run's parameters, from its journal or from its run.json; None when neither tells."""
    begun = next((record["run"] for record in content.records if record["kind"] == "begin"), None)
    who = decoded_run(begun) if begun is not None else run_dir.read_run()
    return who["params"] if who is not None else None


def _begin_attempt(history: RunHistory, record: Mapping[str, Any]) -> None:
    history.attempts += 1
    history.began, history.owner = record["time"], record["owner"]
    history.status = RUNNING  # until an end record or a dead owner says otherwise
    history.run_seconds = history.overhead_seconds = history.peak_memory_mib = None
    history.error = history.traceback = None


def _fold(history: RunHistory, records: list[Record]) -> None:
    """What the records that count say that the run has reached."""
    rows: dict[int, EpochRow] = {}
    for record in records:
        kind = record["kind"]
        if kind == "epoch":
            rows[record["epoch"]] = row = EpochRow.from_record(history.number, record)
            history.last.update(row.values())
        elif kind == "log" and record["epoch"] is None:
            metrics = metrics_from_json(record["metrics"])
            history.metrics.update(metrics)
            history.last.update(metrics)
        elif kind == "checkpoint":
            history.checkpoints.append(record)
        elif kind == "note":
            history.notes.append(record["text"])
    history.rows = [rows[epoch] for epoch in sorted(rows)]


def read_steps(run_dir: RunDir) -> Iterable[StepScalars]:
    """The step scalars of a run that count."""
    return [
        StepScalars(record["epoch"], record["step"], metrics_from_json(record["scalars"]))
        for record in counted(run_dir.read_journal().records)
        if record["kind"] == "step"
    ]
