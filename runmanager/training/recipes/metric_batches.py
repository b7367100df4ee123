"""Whether the metrics that have a name can be measured of a batch: its shapes, and the range of its classes."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from runmanager.tracking.errors import MetricError
from runmanager.training.recipes.metric_names import REGRESSION, Named
from runmanager.training.settings import TrainerError

_IGNORED = -100
"""The class of samples that count for nothing, as torch's own losses have it."""


def check_top(one: Named, num_classes: int | None) -> None:
    """Refuses a top_<k> of fewer classes than k."""
    if one.base == "top" and num_classes is not None and one.number > num_classes:
        raise TrainerError(
            f"metrics={one.name!r}: there are only {num_classes} classes; choose top_{num_classes} at most"
        )


def class_batch(
    wanted: Sequence[Named], preds: Tensor, targets: Tensor, num_classes: int | None
) -> tuple[Tensor, Tensor]:
    """Scores [M, C] and classes [M] of a batch of scores [N, C, ...] and classes [N, ...].

    Left out are targets of class -100. Waits for the device, once.

    Raises:
        MetricError: these are no scores, or no classes of as many.
    """
    names, batch = ", ".join(one.name for one in wanted), shapes(preds, targets)
    is_integer = not (targets.is_floating_point() or targets.is_complex() or targets.dtype == torch.bool)
    fits = preds.ndim == targets.ndim + 1 and preds.shape[:1] + preds.shape[2:] == targets.shape
    if not (is_integer and fits and preds.is_floating_point() and preds.ndim >= 2 and preds.shape[1] > 1):
        raise MetricError(
            f"metrics={names}: made for scores [N, C] and classes [N], or [N, C, H, W] and [N, H, W], but the batch has "
            f"{batch} (targets like {first(targets)}); for such targets choose mae, mse, rmse, r2 or a function"
        )
    if num_classes is not None and preds.shape[1] != num_classes:
        raise MetricError(f"metrics={names}: there are {num_classes} classes, but scores of {preds.shape[1]}: {batch}")
    scores, classes = preds.movedim(1, -1).flatten(0, -2), targets.flatten().long()
    low, high = torch.stack(classes.aminmax()).tolist() if classes.numel() else (0, 0)
    if low >= 0 and high < scores.shape[1]:
        return scores, classes
    counted = classes != _IGNORED
    outside = classes[counted & ((classes < 0) | (classes >= scores.shape[1]))]
    if outside.numel():
        raise MetricError(
            f"metrics={names}: a target is class {outside[0].item()}, but there are {scores.shape[1]} classes, 0 to "
            f"{scores.shape[1] - 1}; the batch has {batch}"
        )
    return scores[counted], classes[counted]


def same_shape(wanted: Sequence[Named], preds: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Predicted and true values [N] or [N, D]; predictions [N, 1] may be of targets [N]."""
    if preds.ndim == targets.ndim + 1 and preds.shape == (*targets.shape, 1):
        preds = preds.squeeze(-1)
    if preds.shape != targets.shape or preds.ndim == 0:
        names = ", ".join(one.name for one in wanted if one.base in REGRESSION)
        raise MetricError(
            f"metrics={names}: made for predictions and targets of one shape, but the batch has {shapes(preds, targets)} "
            f"(targets like {first(targets)}); for classes choose accuracy, precision, recall, f1 or kappa"
        )
    wide = torch.float32 if preds.device.type == "mps" else torch.float64
    flat = [values.flatten(1) if values.ndim > 2 else values for values in (preds, targets)]
    return flat[0].to(wide), flat[1].to(wide)


def shapes(preds: Tensor, targets: Tensor) -> str:
    """A batch's shapes, for messages."""
    return f"predictions {list(preds.shape)} and targets {list(targets.shape)} of {str(targets.dtype).removeprefix('torch.')}"


def first(targets: Tensor) -> Any:
    """The first target, for messages."""
    return targets.flatten()[0].item() if targets.numel() else "none"
