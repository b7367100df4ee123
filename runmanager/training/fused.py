"""The Stepper of many runs at once: K ordinary networks, each with its own optimizer, take one step together."""

from collections.abc import Sequence

import torch
from torch import Generator, Tensor
from torch.nn import Module
from torch.optim import Optimizer

from runmanager.training.captured import CapturedStep
from runmanager.training.skeleton import Skeleton
from runmanager.training.stack import Stack
from runmanager.training.stacked_losses import OneByOne, stacked_loss
from runmanager.training.stacked_optimizers import stacked
from runmanager.training.steppers import Loss, Outcome


class FusedStepper:
    """Steps K networks as one, each by its own optimizer's hyperparameters, and each as it would step alone.

    Their parameters become views of one tensor; networks and optimizers stay what they were to all who look at them.

    Behind the last network the stack has a row that is nobody's. Where a tensor ends, its last numbers are worked out by scalar
    code, which may round otherwise than vector code; that falls on the spare row, so that no member's bits depend on how
    many there are. Nor is a group of one trained by other operations than a larger one.
    """

    def __init__(
        self,
        networks: Sequence[Module],
        optimizers: Sequence[Optimizer],
        losses: Sequence[Loss],
        generators: Sequence[Generator],
        clip_norms: Sequence[float | None],
        arithmetic: str,
        *,
        shared: bool,
    ) -> None:
        """Takes K networks whose runs are alike (`alike.group_key`).

        Args:
            networks: the networks.
            optimizers: of each, with the state that it may have already.
            losses: of each.
            generators: of each, what its dropout layers draw from.
            clip_norms: of each, the most that the norm of its gradient may be; None for any.
            arithmetic: one of `arithmetics.ARITHMETICS`.
            shared: whether all have the same batches to train on.
        """
        self._stack = Stack(networks, optimizers, num_spare=1)
        self._shared = shared
        self._skeleton = Skeleton(networks, generators, self._stack.tensors(), arithmetic)
        self._optimizer = stacked(optimizers, *self._rows())
        self._loss = stacked_loss(losses)
        self._limits = self._limits_of(clip_norms)
        self._captured = self._capturable()
        self.failures: dict[int, BaseException] = {}
        """What the losses of single members have raised, by their places; those members are to be dropped."""

    @property
    def module(self) -> Module:
        """The network that is gone through for all."""
        return self._skeleton.module

    @property
    def size(self) -> int:
        """K."""
        return self._stack.size

    def _rows(self) -> tuple[Tensor, Tensor]:
        """The members' parameters and gradients, each [K, P]."""
        return self._stack.values[: self.size], self._stack.grads[: self.size]

    def _capturable(self) -> CapturedStep | None:
        """The step by a CUDA graph; None where there is no CUDA, or where a loss of the user's own is called at each step."""
        if not self._stack.values.is_cuda or isinstance(self._loss, OneByOne):
            return None
        return CapturedStep(self._step, lambda: self._skeleton.generators)

    def _limits_of(self, clip_norms: Sequence[float | None]) -> Tensor | None:
        """The largest norm of each network's gradient, [K, 1]; None where none has one."""
        if all(limit is None for limit in clip_norms):
            return None
        limits = [float("inf") if limit is None else limit for limit in clip_norms]
        return self._stack.values.new_tensor(limits).unsqueeze(1)

    def begin_epoch(self) -> None:
        """Reads each optimizer's hyperparameters, which its schedule may have changed."""
        if self._optimizer.read() and self._captured is not None:
            self._captured.forget()

    def step(self, inputs: Tensor, targets: Tensor) -> Outcome:
        """See `Stepper`; inputs and targets are [K, N, ...], or [N, ...] where all members have the same batches."""
        return self._step(inputs, targets) if self._captured is None else self._captured(inputs, targets)

    def _step(self, inputs: Tensor, targets: Tensor) -> Outcome:
        outcome = self._forward(inputs, targets, self._shared)
        self._stack.take_grads(outcome.loss)
        self._clip()
        self._optimizer.step()
        return self._without_k(Outcome(outcome.loss.detach(), outcome.preds.detach(), outcome.targets))

    def evaluate(self, inputs: Tensor, targets: Tensor) -> Outcome:
        """See `Stepper`."""
        with torch.no_grad():
            return self._without_k(self._forward(inputs, targets, True))

    def _forward(self, inputs: Tensor, targets: Tensor, shared: bool) -> Outcome:
        if not shared:
            inputs = torch.cat([inputs, inputs[:1]])  # the spare row's
        preds = self._skeleton(self._stack.tensors(), inputs, shared=shared)[: self.size]
        own = targets.expand(self.size, *targets.shape) if shared else targets
        losses = self._loss(preds, own)
        self.failures.update(self._loss.failures)
        return Outcome(losses, preds, own)

    def _clip(self) -> None:
        """As torch.nn.utils.clip_grad_norm_ does for each network alone."""
        if self._limits is None:
            return
        _, grads = self._rows()
        factors = self._limits / (grads.norm(dim=1, keepdim=True) + 1e-6)
        grads.mul_(torch.where(self._limits.isinf(), 1.0, factors.clamp(max=1.0)))

    def _without_k(self, outcome: Outcome) -> Outcome:
        return Outcome(*(values[0] for values in outcome)) if self.size == 1 else outcome

    def train(self, mode: bool) -> None:
        """Puts the networks into train or eval mode."""
        self._skeleton.train(mode)

    @property
    def generators(self) -> list[Generator]:
        """What each network's dropout layers draw from."""
        return self._skeleton.generators

    def write_back(self) -> None:
        """Gives each optimizer the state that it would have alone; networks have theirs at any time."""
        self._optimizer.write_back()

    def close(self) -> None:
        """Lets go of the memory that only steps need; none is taken any more."""
        self._captured = None
        self._skeleton.close()

    def keep(self, indices: Sequence[int]) -> None:
        """Goes on with some of the members; nothing changes for them."""
        self.write_back()
        self._stack.keep(indices)
        self._optimizer.keep(list(indices), *self._rows())
        self._skeleton.keep(indices)
        self._loss.keep(indices)
        if self._captured is not None:
            self._captured.forget()
        if self._limits is not None:
            self._limits = self._limits[list(indices)]
        self.failures = {}
