"""What is measured beside loss and accuracy, on torchmetrics: by name, as its objects, or as functions of (preds, labels)."""

import copy
import inspect
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

import torch
from torch import Tensor

from runmanager.tracking.errors import MetricError
from runmanager.tracking.untouched import frozen_rng
from runmanager.training.recipes.metric_batches import check_top, class_batch, first, same_shape, shapes
from runmanager.training.recipes.metric_names import REGRESSION, Named, class_columns, named
from runmanager.training.recipes.named_metrics import ClassMetrics, key_of, value_metrics, values_of
from runmanager.training.recipes.naming import as_list
from runmanager.training.settings import TrainerError


def build_metrics(
    specs: Any, *, classes: Sequence[str] | None, num_classes: int | None, device: torch.device
) -> "Metrics | None":
    """What measures what was asked for; None where nothing was.

    Args:
        specs: one or several names (`metric_names.CHOICES`), torchmetrics objects, or functions of (preds, labels).
        classes: the classes' names.
        num_classes: how many there are; where that is not known, the first batch tells.
        device: where predictions will be.

    Raises:
        TrainerError: a name is unknown, or something cannot be measured.
    """
    wanted = [] if specs is None else as_list(specs)
    return Metrics(wanted, classes, num_classes, device) if wanted else None


class Metrics:
    """The metrics of one run. `reset` begins an epoch, `add` takes a batch, `compute` gives the values.

    Nothing here is shared with other runs: torchmetrics objects are copied. One batch's look at the classes' range is all that
    waits for the device before `compute`; functions get the epoch's predictions on the host, which are kept for them.
    """

    def __init__(
        self, specs: Sequence[Any], classes: Sequence[str] | None, num_classes: int | None, device: torch.device
    ) -> None:
        self._classes, self._num_classes, self._device = classes, num_classes, device
        self._named = [named(spec) for spec in specs if isinstance(spec, str)]
        given = [_given(spec) for spec in specs if not isinstance(spec, str)]
        self._objects = {name: _own(spec, device) for name, spec in given if _is_torchmetrics(spec)}
        self._functions = {name: spec for name, spec in given if not _is_torchmetrics(spec)}
        self.names = [*(one.name for one in self._named), *(name for name, _ in given)]
        """What was asked for."""
        _refuse_twice(self.names)
        for one in self._named:
            check_top(one, num_classes)
        self._of_classes = ClassMetrics([one for one in self._named if one.base not in REGRESSION], device)
        self._of_values = value_metrics([one for one in self._named if one.base in REGRESSION], device)
        self._kept: list[tuple[Tensor, Tensor]] = []  # for the functions
        self._is_checked = False
        self._has_batches = False
        self.confusion: Tensor | None = None
        """[C, C], a row for each true class: of the epoch that was computed last, where it was asked for."""
        self.notes: list[str] = []
        """What was counted as 0, and why, in the epoch that was computed last."""

    def reset(self) -> None:
        """Begins an epoch; nothing is left of the one before."""
        self._kept, self._has_batches, self.confusion, self.notes = [], False, None, []
        for metric in (self._of_classes, self._of_values, *self._objects.values()):
            if metric is not None:
                metric.reset()

    def add(self, preds: Tensor, targets: Tensor) -> None:
        """Adds a batch.

        Args:
            preds: scores [N, C] or [N, C, ...], or predicted values.
            targets: classes [N] or [N, ...], or true values of the shape of `preds`. Class -100 counts for nothing.

        Raises:
            MetricError: the metrics are not made for such a batch, or a target is no class.
        """
        preds, targets = preds.detach(), targets.detach()
        if self._of_classes.wanted:
            scores, classes = class_batch(self._of_classes.wanted, preds, targets, self._num_classes)
            self._num_classes = scores.shape[1]
            self._of_classes.add(scores, classes)
        if self._of_values is not None:
            self._of_values.update(*same_shape(self._named, preds, targets))
        for name, metric in self._objects.items():
            _update(name, metric, preds, targets)
        if self._functions:
            self._kept.append((_on_host(preds), _on_host(targets)))
        self._has_batches = True
        if not self._is_checked:
            self._check_values(preds, targets)
            self._is_checked = True

    def _check_values(self, preds: Tensor, targets: Tensor) -> None:
        """Refuses what gives no numbers, after the first batch."""
        for name, value in self._tried().items():
            try:
                _numbers(name, value, self._columns())
            except MetricError as error:
                raise MetricError(f"{error} (of a batch of {shapes(preds, targets)})") from None

    def _tried(self) -> dict[str, Any]:
        """What the objects and functions make of the first batch. What raises is left out: a batch may be too little for it."""
        calls: dict[str, Callable[[], Any]] = {
            name: copy.deepcopy(metric).compute for name, metric in self._objects.items()
        }
        calls |= {name: partial(function, *self._kept[0]) for name, function in self._functions.items()}
        values: dict[str, Any] = {}
        for name, compute in calls.items():
            with (
                frozen_rng(),
                warnings.catch_warnings(),
                suppress(Exception),
            ):  # with all of the epoch it raises again
                warnings.simplefilter("ignore")
                values[name] = compute()
        return values

    def value_names(self) -> list[str]:
        """The names of the values, as far as the first batch tells; a metric that it is too little for is there by its own."""
        names, tried = list(self._named_values()), self._tried()
        for name, metric in {**self._objects, **self._functions}.items():
            unknown = list(metric.keys()) if hasattr(metric, "keys") else [name]
            names += _numbers(name, tried[name], self._columns()) if name in tried else unknown
        return names

    def compute(self) -> dict[str, float]:
        """The values of what was added, by name; those of each class as `accuracy/<class>`. Waits for the device.

        Raises:
            MetricError: one is no number, or cannot be computed.
        """
        if not self._has_batches:
            return {}
        values = self._named_values()
        calls: dict[str, Callable[[], Any]] = {name: metric.compute for name, metric in self._objects.items()}
        if self._functions:
            all_of_it = [torch.cat(kept) for kept in zip(*self._kept, strict=True)]
            calls |= {name: partial(function, *all_of_it) for name, function in self._functions.items()}
        for name, call in calls.items():
            values |= _numbers(name, _computed(name, call), self._columns())
        return values

    def _named_values(self) -> dict[str, float]:
        found = self._of_classes.compute()
        self.confusion = found["confusion"].long() if "confusion" in found else None
        self.notes = list(_notes(self._named, self._of_classes.counts(), self._names()))
        if "kappa" in found and found["kappa"].isnan():
            found["kappa"] = found["kappa"].nan_to_num(0.0)
            self.notes.append("kappa: all samples and all predictions are of one class, counted as 0")
        if self._of_values is not None:
            of_values, notes = values_of(self._of_values)
            found |= of_values
            self.notes += notes
        values: dict[str, float] = {}
        for one in self._named:
            if one.base != "confusion":
                values |= _numbers(one.column, found[key_of(one)], self._columns())
        return values

    def _names(self) -> list[str]:
        return list(self._classes or map(str, range(self._num_classes or 0)))

    def _columns(self) -> list[str]:
        return class_columns(self._names())


def _given(spec: Any) -> tuple[str, Any]:
    """The name of an object or a function, and the thing itself."""
    if isinstance(spec, type) or not callable(spec):
        add = f"; give an object: {spec.__name__}(...)" if isinstance(spec, type) else ""
        raise TrainerError(
            f"metrics={spec!r:.80}: a metric is a name, a torchmetrics object or a function of (preds, labels){add}"
        )
    name = getattr(inspect.unwrap(getattr(spec, "func", spec)), "__name__", type(spec).__name__)
    if name in ("<lambda>", "loss"):
        raise TrainerError(
            f"metrics: a function is called {name!r}, which no column can be; define it with another name"
        )
    return name, spec


def _is_torchmetrics(spec: Any) -> bool:
    return hasattr(spec, "update") and hasattr(spec, "compute") and hasattr(spec, "reset")


def _own(spec: Any, device: torch.device) -> Any:
    """A run's own copy of a torchmetrics object, which knows nothing of what the other has seen."""
    metric = copy.deepcopy(spec)
    metric.reset()
    for one in metric.values() if hasattr(metric, "values") else [metric]:
        one.sync_on_compute = False  # it sees all of the validation data
    return metric.to(device)


def _refuse_twice(names: Sequence[str]) -> None:
    for name in names:
        if names.count(name) > 1:
            raise TrainerError(
                f"metrics: two are called {name!r}; leave one out, or name torchmetrics objects by "
                f"MetricCollection({{'{name}_a': ..., '{name}_b': ...}})"
            )


def _update(name: str, metric: Any, preds: Tensor, targets: Tensor) -> None:
    try:
        metric.update(preds, targets)
    except Exception as error:
        raise MetricError(
            f"metrics={name} cannot take the batch {shapes(preds, targets)} (targets like {first(targets)}): {error}"
        ) from error


def _computed(name: str, compute: Callable[[], Any]) -> Any:
    try:
        with frozen_rng():  # one may draw, as a bootstrap does, and the training does not notice
            return compute()
    except Exception as error:
        raise MetricError(f"metrics={name} raised {type(error).__name__}: {error}") from error


def _numbers(name: str, value: Any, columns: Sequence[str]) -> dict[str, float]:
    """A metric's value by name: one number, one for each class, or a dict of these."""
    if isinstance(value, dict):
        found = [_numbers(str(one), its_value, columns) for one, its_value in value.items()]
        return {key: number for part in found for key, number in part.items()}
    size = getattr(value, "numel", lambda: getattr(value, "size", 1))()
    if size == 1 and not isinstance(value, str):
        try:
            return {name: float(value)}
        except (TypeError, ValueError):
            pass
    shape = list(getattr(value, "shape", ()))
    if shape and shape == [len(columns)]:
        return {f"{name}/{column}": float(one) for column, one in zip(columns, value.tolist(), strict=True)}
    what = f"has shape {shape}" if shape else f"is {value!r:.80}"
    raise MetricError(f"metrics={name}: the value {what}; a metric is one number, or one for each class")


def _notes(wanted: Sequence[Named], counts: Tensor | None, names: Sequence[str]) -> Iterator[str]:
    """What was counted as 0: of each class the predictions, or the samples, that there are none of."""
    if counts is None:
        return
    hits, wrongly_taken, _, _, samples = counts.unbind(1)
    predicted = hits + wrongly_taken
    averaged = [one for one in wanted if one.base in ("precision", "recall", "f", "iou") or one.is_of_each_class]
    bases = {"recall" if one.base == "accuracy" else one.base for one in averaged if one.average != "micro"}
    if not bases:
        return
    if "precision" in bases and (never := _listed(names, (predicted == 0) & (samples > 0))):
        yield f"precision of {never}: never predicted, counted as 0"
    if "recall" in bases and (absent := _listed(names, (samples == 0) & (predicted > 0))):
        yield f"recall of {absent}: no sample is of that class, counted as 0"
    if nowhere := _listed(names, (samples == 0) & (predicted == 0)):
        yield f"{nowhere}: neither there nor predicted, counted as 0; means over the classes leave it out"


def _listed(names: Sequence[str], chosen: Tensor) -> str:
    found = [repr(names[index]) for index in chosen.nonzero().flatten().tolist()]
    more = f" and {len(found) - 5} more" if len(found) > 5 else ""
    return ", ".join(found[:5]) + more


def _on_host(values: Tensor) -> Tensor:
    """A copy that no later batch changes; bfloat16, which numpy has not, as float32."""
    values = values.float() if values.dtype == torch.bfloat16 else values
    return values.cpu() if values.device.type != "cpu" else values.clone()
