"""How a group of networks takes steps: the plug point Stepper, and the one for a single run."""

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import Module
from torch.optim import Optimizer

Loss = Callable[[Tensor, Tensor], Tensor]


class Stepper(Protocol):
    """Takes steps for a group of K networks; for K = 1 the shapes have no K."""

    def step(self, inputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """One optimizer step on a batch; returns the loss, [] or [K], and the predictions. Does not wait for the device."""
        ...

    def evaluate(self, inputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """The loss and the predictions of a batch, without a gradient."""
        ...

    def train(self, mode: bool) -> None:
        """Puts the networks into train or eval mode."""
        ...


class SingleStepper:
    """The ordinary PyTorch step of one network."""

    def __init__(self, network: Module, optimizer: Optimizer, loss: Loss) -> None:
        self.network, self.optimizer, self.loss = network, optimizer, loss

    def step(self, inputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """See `Stepper`."""
        self.optimizer.zero_grad(set_to_none=True)
        preds = self.network(inputs)
        loss = self.loss(preds, targets)
        loss.backward()
        self.optimizer.step()
        return loss.detach(), preds.detach()

    def evaluate(self, inputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """See `Stepper`."""
        with torch.no_grad():
            preds = self.network(inputs)
            return self.loss(preds, targets), preds

    def train(self, mode: bool) -> None:
        """See `Stepper`."""
        self.network.train(mode)
