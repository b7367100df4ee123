"""Clipping a network's gradient by its norm, by its values, or both."""

from collections.abc import Iterable
from typing import Any

from torch import Tensor
from torch.nn.parameter import Parameter
from torch.nn.utils import clip_grad_norm_, clip_grad_value_, get_total_norm

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


def _limit(name: str, value: Any) -> float | None:
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if value is not None and not (is_number and value > 0):
        raise TrainerError(f"{name}={value!r} is no limit of a gradient; give a number above 0, or None for any")
    return None if value is None else float(value)
