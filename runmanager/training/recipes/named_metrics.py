"""The metrics that have a name, as torchmetrics' objects. torchmetrics is imported when the first is made."""

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
_FROM_TABLE = {"kappa", "iou", "confusion"}  # computed from the same confusion matrix


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
        """Their values by key; of each class where they are of each class."""
        return {} if self._metrics is None else dict(self._metrics.compute())

    def counts(self) -> Tensor | None:
        """Of each class what was rightly and wrongly taken for it, rightly and wrongly not, and how many there are [C, 5]."""
        return None if self._metrics is None else self._metrics["counts"].compute().cpu()

    def reset(self) -> None:
        """Begins an epoch."""
        if self._metrics is not None:
            self._metrics.reset()


def _of_classes(wanted: Sequence[Named], num_classes: int) -> "MetricCollection":
    """torchmetrics' objects; what is computed from the same counts is counted once."""
    from torchmetrics import Metric, MetricCollection
    from torchmetrics.classification import MulticlassStatScores

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
        "iou": classification.MulticlassJaccardIndex,
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


def values_of(metrics: "MetricCollection") -> dict[str, Tensor]:
    """What the metrics of regression come to; R2, which torchmetrics refuses of one sample, is NaN there."""
    return {
        name: torch.tensor(math.nan) if name == "r2" and metric.total < 2 else metric.compute()
        for name, metric in metrics.items()
    }


def key_of(one: Named) -> str:
    """The metric's name as a module's may be."""
    return one.name.replace(".", "_")
