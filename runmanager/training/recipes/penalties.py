"""L1 and L2 penalties on the size of a network's parameters."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.nn.parameter import Parameter

from runmanager.training.settings import TrainerError


class Penalty:
    """l1 * sum(|w|) + l2 * sum(w²) over all parameters w that require a gradient, biases and norms among them.

    It is added to the loss that goes backward, never to the one that is recorded. Its gradient is l1 * sign(w) + 2 * l2 * w:
    under SGD, l2=0.05 is a weight_decay of 0.1, and under AdamW it is another thing. Work it out after the loss, as below:
    autograd adds up what was made last first, so that the order decides the last bit.

        loss = F.cross_entropy(network(inputs), targets)
        (loss + penalty(network.parameters())).backward()
    """

    def __init__(self, l1: float | None = None, l2: float | None = None) -> None:
        """Takes the factors; None or 0 leaves a part out.

        Raises:
            TrainerError: one is no number of 0 or more.
        """
        self.l1, self.l2 = _factor("l1", l1), _factor("l2", l2)

    def __bool__(self) -> bool:
        """Whether there is anything to add."""
        return bool(self.l1 or self.l2)

    def __call__(self, params: Iterable[Parameter]) -> Tensor:
        """The penalty, [], with a gradient."""
        trained = [param for param in params if param.requires_grad]
        parts = []
        if self.l1:
            parts += [self.l1 * param.abs().sum() for param in trained]
        if self.l2:
            parts += [self.l2 * param.square().sum() for param in trained]
        return torch.stack(parts).sum() if parts else torch.zeros(())


def add_gradients(values: Tensor, grads: Tensor, l1: Tensor, l2: Tensor) -> None:
    """Adds the gradients of K networks' penalties to those of their losses, in place and to the last bit as autograd would.

    Args:
        values: the networks' parameters, [K, P].
        grads: the gradients of their losses, [K, P].
        l1: the factor of each, [K, 1]; 0 for none.
        l2: the factor of each, [K, 1]; 0 for none.
    """
    with torch.no_grad():
        grads.add_(values.sign().mul_(l1).add_(values.mul(2).mul_(l2)))


def _factor(name: str, value: Any) -> float:
    if value is None:
        return 0.0
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not is_number or not 0 <= value < float("inf"):
        raise TrainerError(f"{name}={value!r} is no factor of a penalty; give a number of 0 or more, or None for none")
    return float(value)
