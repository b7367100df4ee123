"""What a run and a sweep left behind, read from their folders alone."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from runmanager.tracking.errors import StorageError
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
    improves,
    metrics_from_json,
)
from runmanager.tracking.run_dir import RunDir, SweepDir


@dataclass
class StepScalars:
    """The scalars of one `log_step` call."""

    epoch: int | None
    step: int
    scalars: Metrics


@dataclass
class RunHistory:
    """One run: who it is, what it reached, how it ended. Only what its latest attempt left counts."""

    number: int
    params: dict[str, Any]
    status: str
    rows: list[EpochRow] = field(default_factory=list)
    metrics: Metrics = field(default_factory=dict)  # logged outside any epoch
    last: Metrics = field(default_factory=dict)  # of every metric, whether of an epoch or of the run
    run_seconds: float | None = None
    error: str | None = None
    traceback: str | None = None
    began: float | None = None  # wall clock, seconds since 1970: a label
    attempts: int = 0
    num_bad_lines: int = 0
    folder: str = ""
    modes: Mapping[str, str] = field(default_factory=dict)

    @cached_property
    def best(self) -> dict[str, Best]:
        """The best of each metric, and its epoch."""
        return best_of(self.rows, self.modes)

    def score(self, metric: str) -> Number | None:
        """The best value of a metric, or the run's own; None when there is no finite one."""
        if metric in self.best:
            return self.best[metric].value
        value = self.metrics.get(metric)
        return value if value is not None and improves(value, None, "max") else None


@dataclass(repr=False)
class SweepHistory:
    """One sweep: its runs by number, and what it was after."""

    name: str
    runs: list[RunHistory]
    objective: str | None = None
    mode: str | None = None
    trained: list[int] = field(default_factory=list)  # the numbers of the runs that a launch has just trained
    unrecorded: list[str] = field(default_factory=list)  # what a launch could not even record as failed
    num_missing: int = 0  # runs of the plan that have no folder
    unreadable: list[str] = field(default_factory=list)  # run folders whose run.json or journal cannot be read

    def __repr__(self) -> str:
        best = f", best {self.objective} in run {self.best.number}" if self.best else ""
        return f"SweepHistory({self.name!r}: {self.count(COMPLETED)} of {len(self.runs)} runs completed{best})"

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
    """Everything that a sweep left. A run that cannot be read hides no other."""
    plan = sweep_dir.read_plan()
    objective, mode = plan.get("objective"), plan.get("mode")
    modes = {objective: mode} if objective and mode else {}
    found = [(run_dir, read_run(run_dir, modes)) for run_dir in sweep_dir.runs()]
    unreadable = [run_dir.path.name for run_dir, run in found if run is None]
    missing = set(plan.get("numbers", {}).values()) - {run_dir.number for run_dir, _ in found}
    runs = [run for _, run in found if run]
    return SweepHistory(sweep_dir.name, runs, objective, mode, num_missing=len(missing), unreadable=unreadable)


def read_run(run_dir: RunDir, modes: Mapping[str, str]) -> RunHistory | None:
    """One run from its folder; None when nothing says who it is, or its journal cannot be read."""
    who = run_dir.read_run()
    try:
        content = run_dir.read_journal()
    except StorageError:
        return None
    if who is None:
        return None
    history = RunHistory(run_dir.number, who["params"], INTERRUPTED, folder=run_dir.path.name, modes=modes)
    history.num_bad_lines = content.num_bad_lines
    owner: dict[str, Any] = {}
    rows: dict[int, EpochRow] = {}
    for record in content.records:
        kind = record["kind"]
        if kind == "epoch":
            rows[record["epoch"]] = row = EpochRow.from_record(run_dir.number, record)
            history.last.update(row.values())
        elif kind == "log" and record["epoch"] is None:
            metrics = metrics_from_json(record["metrics"])
            history.metrics.update(metrics)
            history.last.update(metrics)
        elif kind == "begin":
            rows, owner = {}, record["owner"]
            _begin_attempt(history, record)
        elif kind == "end":
            history.status, history.run_seconds = record["status"], record["run_seconds"]
            history.error, history.traceback = record["error"], record["traceback"]
    history.rows = [rows[epoch] for epoch in sorted(rows)]
    if history.run_seconds is None and history.rows:
        history.run_seconds = history.rows[-1].run_seconds
    if history.status == RUNNING and not is_alive(owner):
        history.status = INTERRUPTED
    return history


def _begin_attempt(history: RunHistory, record: Mapping[str, Any]) -> None:
    history.attempts += 1
    history.began = record["time"]
    history.status = RUNNING  # until an end record or a dead owner says otherwise
    history.metrics, history.last = {}, {}
    history.run_seconds = history.error = history.traceback = None


def read_steps(run_dir: RunDir) -> Iterable[StepScalars]:
    """The step scalars of a run's latest attempt."""
    steps: list[StepScalars] = []
    for record in run_dir.read_journal().records:
        if record["kind"] == "begin":
            steps.clear()
        elif record["kind"] == "step":
            steps.append(StepScalars(record["epoch"], record["step"], metrics_from_json(record["scalars"])))
    return steps


def is_complete(history: RunHistory | None) -> bool:
    """Whether a run needs no more training."""
    return history is not None and history.status == COMPLETED
