"""Sums over the batches of an epoch, kept where the values are: nothing here waits for a device before `compute`."""

import math
from typing import TYPE_CHECKING, Any

from runmanager.tracking.errors import MetricError

if TYPE_CHECKING:
    from torch import Tensor

_IGNORED = -100  # the class that torch's losses leave out


class Mean:
    """Mean over samples of a batch statistic, one value per member of the group.

    The sum is taken in float64 where the device has it, on the device, so `add` never waits for the GPU.
    """

    def __init__(self, size: int) -> None:
        self.size = size  # K
        self.num_samples = 0
        self._total: Any = None  # [K], or [] for K = 1; on the device of the first value

    def add(self, batch_mean: "Tensor | float", num_samples: int) -> None:
        """Adds one batch; `batch_mean` has shape [] or [K], and may be a plain number for K = 1.

        Raises:
            MetricError: the shape is another one.
        """
        if isinstance(batch_mean, (int, float)) or not hasattr(batch_mean, "detach"):  # a number of Python's or numpy's
            self._total = float(batch_mean) * num_samples + (0.0 if self._total is None else self._total)
        elif self._total is None:
            self._check(batch_mean)
            self._total = in_double(batch_mean.detach()) * num_samples
        elif isinstance(self._total, float):
            self._total = self._total + in_double(batch_mean.detach()) * num_samples
        else:
            self._total.add_(batch_mean.detach(), alpha=num_samples)
        self.num_samples += num_samples

    def _check(self, batch_mean: "Tensor") -> None:
        if batch_mean.numel() != self.size:
            raise MetricError(
                f"the loss has shape {list(batch_mean.shape)}; pass its mean over the batch, shape []"
                f"{f' or [{self.size}]' if self.size > 1 else ''}"
            )

    def compute(self) -> list[float] | None:
        """The mean so far of each member, or None when nothing was added. Waits for the device."""
        if self._total is None or self.num_samples == 0:
            return None
        sums = [self._total] if isinstance(self._total, float) else self._total.reshape(-1).tolist()
        return [total / self.num_samples for total in sums]

    def drop(self, index: int) -> None:
        """A member leaves."""
        self.size -= 1
        self._total = _without(self._total, index)


class Accuracy:
    """Share of right predictions, one value per member of the group. `add` never waits for the GPU."""

    def __init__(self, size: int) -> None:
        self.size = size  # K
        self.num_labels = 0
        self._num_correct: Any = None  # [K], or [] for K = 1
        self._num_ignored: Any = None  # [K]; None where labels are no pixels

    def add(self, preds: "Tensor", labels: "Tensor") -> None:
        """Adds one batch of `labels` [N, ...] and `preds`: scores [N, C, ...], or classes of the labels' shape.

        For K > 1 both have a first dimension of K. Of labels [N, H, W] and the like, those of class -100 count for nothing.

        Raises:
            MetricError: the shapes do not fit.
        """
        hits = self._hits(preds.detach(), labels)
        num_correct = hits.sum() if self.size == 1 else hits.reshape(self.size, -1).sum(1)
        if self._num_correct is None:
            self._num_correct = num_correct
        else:
            self._num_correct.add_(num_correct)
        self.num_labels += labels.numel() // self.size
        if labels.ndim > (1 if self.size == 1 else 2):
            self._ignore(labels)

    def _ignore(self, labels: "Tensor") -> None:
        ignored = labels.eq(_IGNORED).reshape(self.size, -1).sum(1)
        self._num_ignored = ignored if self._num_ignored is None else self._num_ignored + ignored

    def _hits(self, preds: "Tensor", labels: "Tensor") -> "Tensor":
        classes_at = 1 if self.size == 1 else 2
        if preds.ndim == labels.ndim + 1 and preds.ndim > classes_at:
            preds = preds.argmax(dim=classes_at)
        elif preds.is_floating_point():
            raise MetricError(
                f"preds has shape {list(preds.shape)} and labels {list(labels.shape)}; "
                "pass scores [N, C] with labels [N], or predicted classes as integers"
            )
        if preds.shape != labels.shape:
            raise MetricError(f"preds give classes of shape {list(preds.shape)}, but labels have {list(labels.shape)}")
        return preds.eq(labels)

    def compute(self) -> list[float] | None:
        """The accuracy so far of each member, or None when nothing was added. Waits for the device."""
        if self._num_correct is None or self.num_labels == 0:
            return None
        counts = self._num_correct.reshape(-1).tolist()
        ignored = [0] * len(counts) if self._num_ignored is None else self._num_ignored.tolist()
        totals = [self.num_labels - number for number in ignored]
        return [count / total if total else math.nan for count, total in zip(counts, totals, strict=True)]

    def drop(self, index: int) -> None:
        """A member leaves."""
        self.size -= 1
        self._num_correct = _without(self._num_correct, index)
        self._num_ignored = _without(self._num_ignored, index)


def _without(values: Any, index: int) -> Any:
    """The values [K] without one of them."""
    if values is None:
        return None
    return values[[other for other in range(len(values)) if other != index]]


def in_double(value: "Tensor") -> "Tensor":
    """In float64, where the device has it."""
    return value.float() if value.device.type == "mps" else value.double()  # mps has no float64
