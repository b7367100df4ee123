"""The metrics that have a name, as torchmetrics' objects. torchmetrics is imported when the first is made."""

import copy
import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from runmanager.training.recipes.metric_batches import check_top
from runmanager.training.recipes.metric_names import Named

if TYPE_CHECKING:
    from torchmetrics import Metric, MetricCollection

_FROM_COUNTS = {"accuracy", "precision", "recall", "f"}  # computed from the same hits and misses
_FROM_TABLE = {"kappa", "confusion"}  # computed from the same confusion matrix


class ClassMetrics:
    """The named metrics of classes, made when the first batch has told how many classes there are."""

    def __init__(self, wanted: list[Named], device: torch.device) -> None:
        self.wanted, self._device = wanted, device
        self._metrics: MetricCollection | None = None

    def add(self, preds: Tensor, targets: Tensor) -> None:
        """Adds scores [M, C] and classes [M].

        Raises:
            TrainerError: there are fewer classes than a metric is of.
        """
        if self._metrics is None:
            for one in self.wanted:
                check_top(one, preds.shape[1])
            self._metrics = _of_classes(self.wanted, preds.shape[1]).to(self._device)
        self._metrics.update(preds, targets)

    def compute(self) -> dict[str, Tensor]:
        """Their values by key, on the host; of each class where they are of each class."""
        if self._metrics is None:
            return {}
        values = {name: _in_double(one) for name, one in self._metrics.items()}
        ious = [one for one in self.wanted if one.base == "iou"]
        return values | {key_of(one): _iou(values["counts"], one.average) for one in ious}

    def counts(self) -> Tensor | None:
        """Of each class what was rightly and wrongly taken for it, rightly and wrongly not, and how many there are [C, 5]."""
        return None if self._metrics is None else _in_double(self._metrics["counts"]).long()

    def reset(self) -> None:
        """Begins an epoch."""
        if self._metrics is not None:
            self._metrics.reset()


def _in_double(metric: "Metric") -> Tensor:
    """What a metric computes of its counts; in float64, where torchmetrics divides whole numbers in float32."""
    wide = copy.deepcopy(metric).cpu()
    for name, counts in wide.metric_state.items():
        setattr(wide, name, counts.double())  # type: ignore[union-attr]
    value: Tensor = wide.compute()
    return value


def _iou(counts: Tensor, average: str) -> Tensor:
    """Intersection over union of the counts [C, 5]: hits / (hits + wrongly taken + wrongly not).

    torchmetrics divides in float32. Of a class that is nowhere it is 0, and the mean over the classes leaves it out.
    """
    hits, wrongly_taken, _, missed, samples = counts.unbind(1)
    if average == "micro":
        hits, wrongly_taken, missed = hits.sum(), wrongly_taken.sum(), missed.sum()
    union = hits + wrongly_taken + missed
    each = hits / union.clamp(min=1)
    if average == "weighted":
        return (each * samples).sum() / samples.sum().clamp(min=1)
    return each[union > 0].mean().nan_to_num(0.0) if average == "macro" else each


def _of_classes(wanted: Sequence[Named], num_classes: int) -> "MetricCollection":
    """torchmetrics' objects; what is computed from the same counts is counted once."""
    from torchmetrics import Metric, MetricCollection
    from torchmetrics.classification import MulticlassStatScores

    wanted = [one for one in wanted if one.base != "iou"]
    made: dict[str, Metric | MetricCollection] = {key_of(one): _made(one, num_classes) for one in wanted}
    made["counts"] = MulticlassStatScores(num_classes, average="none", validate_args=False, sync_on_compute=False)
    groups: dict[Any, list[str]] = {"classes": ["counts"]}
    for one in wanted:
        group: Any = key_of(one)
        if one.base in _FROM_COUNTS:
            group = "all" if one.average == "micro" else "classes"
        elif one.base in _FROM_TABLE:
            group = "table"
        groups.setdefault(group, []).append(key_of(one))
    # torchmetrics' own grouping merges metrics whose states agree after one batch: top_1 and top_2 where all were right
    return MetricCollection(made, compute_groups=list(groups.values()))


def _made(one: Named, num_classes: int) -> "Metric":
    from torchmetrics import classification

    average: Any = one.average
    options: dict[str, Any] = {"num_classes": num_classes, "validate_args": False, "sync_on_compute": False}
    if one.base == "kappa":
        return classification.MulticlassCohenKappa(**options)
    if one.base == "confusion":
        return classification.MulticlassConfusionMatrix(**options)
    if one.base in ("accuracy", "top"):
        k = int(one.number) if one.base == "top" else 1
        return classification.MulticlassAccuracy(average=average, top_k=k, **options)
    options |= {"average": average, "zero_division": 0}
    if one.base == "f":
        return classification.MulticlassFBetaScore(beta=one.number, **options)
    kinds: dict[str, Callable[..., Metric]] = {
        "precision": classification.MulticlassPrecision,
        "recall": classification.MulticlassRecall,
    }
    return kinds[one.base](**options)


def value_metrics(wanted: Sequence[Named], device: torch.device) -> "MetricCollection | None":
    """torchmetrics' objects for regression, which sum in float64 where the device has it."""
    if not wanted:
        return None
    from torchmetrics import MeanAbsoluteError, MeanSquaredError, MetricCollection, R2Score

    kinds: dict[str, Callable[..., Metric]] = {
        "mae": MeanAbsoluteError,
        "mse": MeanSquaredError,
        "rmse": lambda **options: MeanSquaredError(squared=False, **options),
        "r2": R2Score,
    }
    made = MetricCollection({one.base: kinds[one.base](sync_on_compute=False) for one in wanted}, compute_groups=False)
    return made.to(device).set_dtype(torch.float32 if device.type == "mps" else torch.float64)


def values_of(metrics: "MetricCollection") -> tuple[dict[str, Tensor], list[str]]:
    """What the metrics of regression come to, and what has to be said of it."""
    values = {name: metric.compute() for name, metric in metrics.items() if name != "r2"}
    if "r2" not in metrics:
        return values, []
    values["r2"], note = _r2(metrics["r2"])
    return values, [note] if note else []


def _r2(metric: Any) -> tuple[Tensor, str | None]:
    """R2 from torchmetrics' sums, the mean over the values of a sample.

    Its own `compute` takes every residual below 1e-4 for none, whatever the targets' scale, and refuses a single sample.
    """
    if metric.total < 2:
        return torch.tensor(math.nan), "r2: there are not two samples to compare, so that it is not known"
    residual = metric.residual
    spread = metric.sum_squared_error - metric.sum_error**2 / metric.total
    is_constant = spread <= 1e-12 * metric.sum_squared_error  # what rounding leaves
    r2 = torch.where(is_constant, (residual == 0).to(residual), 1 - residual / spread.where(~is_constant, 1))
    note = "r2: all targets are the same, counted as 0" if bool((is_constant & (residual > 0)).any()) else None
    return r2.mean(), note


def key_of(one: Named) -> str:
    """The metric's name as a module's may be."""
    return one.name.replace(".", "_")
