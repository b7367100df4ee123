"""The plain data that a tracked run leaves: epoch rows, and how it ended."""

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from runmanager.parameters import number_from_json, number_to_json
from runmanager.tracking.errors import MetricError

COMPLETED, FAILED, INTERRUPTED, RUNNING = "completed", "failed", "interrupted", "running"
OUT_OF_MEMORY, KILLED, DIVERGED, STOPPED, TIMED_OUT = "out of memory", "killed", "diverged", "stopped", "timed out"
"""What a run's status may be. Running needs a living owner, interrupted is what is left without one, all else a record says."""

STATUSES = (COMPLETED, STOPPED, DIVERGED, RUNNING, INTERRUPTED, FAILED, OUT_OF_MEMORY, KILLED, TIMED_OUT)
FAILURES = (FAILED, OUT_OF_MEMORY, KILLED, TIMED_OUT)
"""Ended badly: such a run is trained again when that is asked for."""

DONE = (COMPLETED, STOPPED, DIVERGED)
"""Ended by itself: such a run needs no more training."""

_SMALLER_IS_BETTER = frozenset(
    [
        "loss",
        "error",
        "err",
        "mae",
        "mse",
        "rmse",
        "perplexity",
        "nll",
        "seconds",
        "time",
        "distance",
        "divergence",
        "regret",
    ]
)
_LARGER_IS_BETTER = re.compile(r"accuracy|acc|precision|recall|f\d+|fbeta|kappa|iou|top\d*|r2|auc|auroc|dice|jaccard")
_NO_WAY_IS_BETTER = re.compile(r"learning rate(/.*)?|gradient norm|skipped steps", re.DOTALL)
_NEGATED = frozenset(("neg", "negative", "minus"))
_WORD = re.compile(r"[A-Z]+(?![a-z])\d*|[A-Z]?[a-z]+\d*|\d+")  # MeanAbsoluteError has three
_TAKEN = {
    "log": {
        "run",
        "epoch",
        "step",
        "status",
        "error",
        "epoch duration",
        "run duration",
        "group size",
        "overhead_seconds",
        "peak_memory_mib",
        "epochs trained",
        "Loss",
        "Accuracy",
    },
    "log_step": {"run", "epoch", "step"},
}
"""What a metric may not be called: a column of the tables, or the tag of the tracked loss and accuracy in TensorBoard."""

Number = float | int
Metrics = dict[str, Number]


@dataclass(frozen=True, slots=True)
class EpochRow:
    """One run, one epoch."""

    run: int  # the run's number
    epoch: int  # counted from 1
    loss: float | None  # mean over the samples seen; None when none was tracked
    accuracy: float | None
    epoch_seconds: float
    run_seconds: float  # since the run began
    metrics: Metrics = field(default_factory=dict)
    group_size: int = 1  # how many runs were trained in one step; they share the epoch's wall time

    def values(self) -> Metrics:
        """Loss, accuracy and the metrics by name, those that there are."""
        named = {"loss": self.loss, "accuracy": self.accuracy, **self.metrics}
        return {name: value for name, value in named.items() if value is not None}

    def record(self) -> dict[str, Any]:
        """The row as strict JSON."""
        return {
            "epoch": self.epoch,
            "loss": number_to_json(self.loss),
            "accuracy": number_to_json(self.accuracy),
            "epoch_seconds": self.epoch_seconds,
            "run_seconds": self.run_seconds,
            "metrics": metrics_to_json(self.metrics),
            "group_size": self.group_size,
        }

    @classmethod
    def from_record(cls, run: int, record: Mapping[str, Any]) -> "EpochRow":
        """The row behind `record`."""
        return cls(
            run,
            record["epoch"],
            number_from_json(record["loss"]),
            number_from_json(record["accuracy"]),
            record["epoch_seconds"],
            record["run_seconds"],
            metrics_from_json(record["metrics"]),
            record.get("group_size", 1),
        )


@dataclass(frozen=True, slots=True)
class RunEnd:
    """How a run ended, and why."""

    status: str
    run_seconds: float
    error: str | None = None  # one line
    traceback: str | None = None
    overhead_seconds: float | None = None  # that tracking has taken, its part of the group's; None where nobody can say
    peak_memory_mib: float | None = None  # the most that was held; None where nobody can say
    attempt_seconds: float | None = None  # of the latest attempt, what comes before its epochs too

    def record(self) -> dict[str, Any]:
        """The end as strict JSON; text that UTF-8 cannot hold is written out."""
        return {
            "status": self.status,
            "run_seconds": self.run_seconds,
            "error": _safe(self.error),
            "traceback": _safe(self.traceback),
            "overhead_seconds": self.overhead_seconds,
            "peak_memory_mib": self.peak_memory_mib,
            "attempt_seconds": self.attempt_seconds,
        }

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> "RunEnd":
        """The end behind `record`."""
        measured = {name: record.get(name) for name in ("overhead_seconds", "peak_memory_mib", "attempt_seconds")}
        return cls(record["status"], record["run_seconds"], record["error"], record["traceback"], **measured)


def _safe(text: str | None) -> str | None:
    """Text that UTF-8 can hold: a lone surrogate, as file names may have, is written out."""
    return text if text is None else text.encode("utf-8", "backslashreplace").decode("utf-8")


@dataclass(frozen=True, slots=True)
class Best:
    """The best value of a metric, and the epoch that had it."""

    value: Number
    epoch: int


@lru_cache(maxsize=1024)
def better_is(metric: str) -> str:
    """'min' or 'max': which way a metric improves, told from its name where nobody has said so.

    A word of the name like loss, error, mse or seconds means smaller; anything else means larger. What follows a slash may be
    a class's name, and is looked at only where what stands before it says nothing: `train/loss`, but not `val_accuracy/time`.
    """
    return _told_by(metric.split("/")[0]) or _told_by(metric) or "max"


def _told_by(name: str) -> str | None:
    ways = ways_told(name)
    return "min" if "min" in ways else "max" if ways else None


def ways_told(name: str) -> set[str]:
    """'min' and 'max', where a word of a metric's name says that smaller or larger is better. What is negated says nothing."""
    words = {word.lower() for word in _WORD.findall(name)}
    if words & _NEGATED:
        return set()
    smaller, larger = words & _SMALLER_IS_BETTER, any(map(_LARGER_IS_BETTER.fullmatch, words))
    return {way for way, is_told in (("min", smaller), ("max", larger)) if is_told}


@lru_cache(maxsize=1024)
def has_best(metric: str) -> bool:
    """Whether one of its values is the best. No way is better for what a Trainer records beside metrics, as the learning rate."""
    return _NO_WAY_IS_BETTER.fullmatch(metric) is None


def improves(value: Number, best: Number | None, mode: str) -> bool:
    """Whether `value` beats `best`. NaN and infinities never do."""
    if not math.isfinite(value):
        return False
    return best is None or (value < best if mode == "min" else value > best)


def best_of(rows: Iterable[EpochRow], modes: Mapping[str, str]) -> dict[str, Best]:
    """The best of each metric over a run's rows, where it has one; a metric that was never finite has none."""
    best: dict[str, Best] = {}
    for row in rows:
        for name, value in row.values().items():
            update_best(best, name, value, row.epoch, modes)
    return best


def score(metric: str, best: Mapping[str, Best], metrics: Mapping[str, Number]) -> Number | None:
    """The best value of a metric over a run's epochs, or what `metrics` has of it; None when there is no finite one."""
    if metric in best:
        return best[metric].value
    value = metrics.get(metric)
    return value if value is not None and math.isfinite(value) else None


def update_best(best: dict[str, Best], name: str, value: Number, epoch: int, modes: Mapping[str, str]) -> None:
    """Puts `value` into `best` when it improves on what is there. Of what has no best, only an objective gets one."""
    if name not in modes and not has_best(name):
        return
    standing = best.get(name)
    if improves(value, standing.value if standing else None, modes.get(name) or better_is(name)):
        best[name] = Best(value, epoch)


def metrics_to_json(metrics: Metrics) -> dict[str, Number | str]:
    """Metrics as strict JSON: a float that it has no literal for is spelled out. May be `metrics` itself."""
    if math.isfinite(sum(metrics.values())):  # one look instead of one for each
        return metrics  # type: ignore[return-value]
    return {name: number_to_json(value) for name, value in metrics.items()}  # type: ignore[misc]


def metrics_from_json(metrics: Mapping[str, Any]) -> Metrics:
    """The numbers behind `metrics_to_json`."""
    return {name: number_from_json(value) if isinstance(value, str) else value for name, value in metrics.items()}  # type: ignore[misc]


def check_metric_names(call: str, names: Iterable[str], params: Mapping[str, Any]) -> None:
    """Refuses a metric that bears the name of a column or of a parameter.

    Args:
        call: `log` or `log_step`.
        names: the metrics' names.
        params: the run's parameters.

    Raises:
        MetricError: it names the metric and says what to write instead.
    """
    taken = _TAKEN[call]
    for name in names:
        if name in params:
            raise MetricError(f"{call}({name}=...): {name!r} is a parameter of this run; log it as '{name}_now', say")
        if name in taken or (call == "log" and name.startswith("best ")):
            raise MetricError(
                f"{call}({name}=...): {name!r} is a column of the results; log it as '{name}_metric', say"
            )


def plain_number(call: str, name: str, value: object) -> Number:
    """A metric as a Python number; numpy and torch scalars by their `item`.

    Raises:
        MetricError: it is no number.
    """
    if type(value) is float:
        return value
    if hasattr(value, "item"):
        try:
            value = value.item()
        except (RuntimeError, ValueError):  # more than one number in it
            raise MetricError(f"{call}({name}=...): the value has shape {tuple(value.shape)}; log one number") from None  # type: ignore[attr-defined]
    if isinstance(value, (bool, int)) and -(2**63) <= value < 2**63:
        return int(value)
    if isinstance(value, (int, float)):
        try:
            return float(value)  # an integer beyond 64 bits has no column type
        except OverflowError:
            raise MetricError(
                f"{call}({name}=...): the integer is too large for a float; log its logarithm, say"
            ) from None
    raise MetricError(f"{call}({name}={value!r:.80}): a metric is a number, not a {type(value).__name__}")
