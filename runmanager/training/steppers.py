"""How a group of networks takes steps: the plug point Stepper, and the one for a single run."""

from collections.abc import Callable
from typing import NamedTuple, Protocol

import torch
from torch import Tensor
from torch.nn import Module
from torch.nn.utils import clip_grad_norm_
from torch.optim import Optimizer

Loss = Callable[[Tensor, Tensor], Tensor]


class Outcome(NamedTuple):
    """What comes of a batch, still on the device. For K = 1 the shapes have no K."""

    loss: Tensor  # [K], the mean over the batch
    preds: Tensor  # [K, N, ...]
    targets: Tensor  # [K, N, ...], those of each member


class Stepper(Protocol):
    """Takes steps for a group of K networks."""

    @property
    def size(self) -> int:
        """K."""
        ...

    def step(self, inputs: Tensor, targets: Tensor) -> Outcome:
        """One optimizer step on a batch. Does not wait for the device."""
        ...

    def evaluate(self, inputs: Tensor, targets: Tensor) -> Outcome:
        """The loss and the predictions of a batch that all members share, without a gradient."""
        ...

    def train(self, mode: bool) -> None:
        """Puts the networks into train or eval mode."""
        ...


class SingleStepper:
    """The ordinary PyTorch step of one network."""

    size = 1

    def __init__(self, network: Module, optimizer: Optimizer, loss: Loss, clip_norm: float | None = None) -> None:
        self.network, self.optimizer, self.loss, self.clip_norm = network, optimizer, loss, clip_norm

    def step(self, inputs: Tensor, targets: Tensor) -> Outcome:
        """See `Stepper`."""
        self.optimizer.zero_grad(set_to_none=True)
        preds = self.network(inputs)
        loss = self.loss(preds, targets)
        loss.backward()
        if self.clip_norm is not None:
            clip_grad_norm_(self.network.parameters(), self.clip_norm)
        self.optimizer.step()
        return Outcome(loss.detach(), preds.detach(), targets)

    def evaluate(self, inputs: Tensor, targets: Tensor) -> Outcome:
        """See `Stepper`."""
        with torch.no_grad():
            preds = self.network(inputs)
            return Outcome(self.loss(preds, targets), preds, targets)

    def train(self, mode: bool) -> None:
        """See `Stepper`."""
        self.network.train(mode)
