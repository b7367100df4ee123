"""Clipping a network's gradient by its norm, by its values, or both."""

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.nn.parameter import Parameter
from torch.nn.utils import clip_grad_norm_, clip_grad_value_, get_total_norm

from runmanager.tracking.meters import in_double
from runmanager.training.settings import TrainerError


class Clip:
    """Clips gradients in place: first the norm of all together, then each value. Afterwards both bounds hold.

    The norm comes first because the norm that is recorded is the one before any clipping, which torch's clip_grad_norm_
    has worked out already. `norm=float("inf")` clips nothing and only measures.
    """

    def __init__(self, norm: float | None = None, value: float | None = None) -> None:
        """Takes the largest norm and the largest value; None for any.

        Raises:
            TrainerError: one is no number above 0.
        """
        self.norm, self.value = _limit("clip_norm", norm), _limit("clip_value", value)

    def __bool__(self) -> bool:
        """Whether there is anything to clip."""
        return self.norm is not None or self.value is not None

    def __call__(self, params: Iterable[Parameter]) -> Tensor | None:
        """The norm before clipping, [], still on the device; None where nothing is clipped."""
        if not self:
            return None
        trained = [param for param in params if param.grad is not None]
        if self.norm is not None:
            before = clip_grad_norm_(trained, self.norm)
        else:
            before = get_total_norm([param.grad for param in trained if param.grad is not None])
        if self.value is not None and trained:
            clip_grad_value_(trained, self.value)
        return before


class MeanNorm:
    """The mean norm of the gradients of an epoch's steps. Steps that float16 skips do not count: theirs is infinite or NaN."""

    def __init__(self, *, skips: bool) -> None:
        """`skips` says that steps may be skipped; where none is, a norm that is not finite is a fact to be seen."""
        self._skips = skips
        self._total: Tensor | None = None  # [2] on the device: the norms' sum and their number

    def add(self, norm: Tensor) -> None:
        """Adds that of a step, []. Does not wait for the device."""
        counts = norm.isfinite() if self._skips else torch.ones_like(norm, dtype=torch.bool)
        both = torch.stack([torch.where(counts, norm, 0), counts.to(norm.dtype)])
        self._total = in_double(both) + (0 if self._total is None else self._total)

    def take(self) -> float | None:
        """The mean since this was called last: NaN where all steps were skipped, None where there was none."""
        if self._total is None:
            return None
        (total, number), self._total = self._total.tolist(), None
        return total / number if number else math.nan


def _limit(name: str, value: Any) -> float | None:
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if value is not None and not (is_number and value > 0):
        raise TrainerError(f"{name}={value!r} is no limit of a gradient; give a number above 0, or None for any")
    return None if value is None else float(value)
