"""The Stepper of many runs at once: K ordinary networks, each with its own optimizer, take one step together."""

import copy
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Generator, Tensor
from torch.nn import Module

from runmanager.training.captured import CapturedStep
from runmanager.training.parts import Parts
from runmanager.training.recipes.precision import pieces
from runmanager.training.skeleton import Skeleton, output_types
from runmanager.training.stack import Stack
from runmanager.training.stacked_averages import StackedAverages
from runmanager.training.stacked_gradients import StackedGradients
from runmanager.training.stacked_losses import OneByOne, stacked_loss
from runmanager.training.stacked_mixing import StackedMixing
from runmanager.training.stacked_optimizers import stacked
from runmanager.training.steppers import Outcome, joined

if TYPE_CHECKING:
    from runmanager.training.recipes.scheduling import Schedule


class FusedStepper:
    """Steps K networks as one, each by its own optimizer's hyperparameters, and each as it would step alone.

    Their parameters become views of one tensor; networks and optimizers stay what they were to all who look at them.

    Behind the last network the stack has a row that is nobody's. Where a tensor ends, its last numbers are worked out by scalar
    code, which may round otherwise than vector code; that falls on the spare row, so that no member's bits depend on how
    many there are. Nor is a group of one trained by other operations than a larger one.
    """

    def __init__(
        self,
        members: Sequence[Parts],
        generators: Sequence[Generator],
        arithmetic: str,
        *,
        shared: bool,
        mixers: Sequence[Generator] | None = None,
        sample: Tensor | None = None,
    ) -> None:
        """Takes K runs that are alike (`alike.group_key`).

        Args:
            members: networks, optimizers, with the state that they may have already, losses and recipes.
            generators: of each, what its dropout layers draw from.
            arithmetic: one of `arithmetics.ARITHMETICS`.
            shared: whether all have the same batches to train on.
            mixers: of each, what mixup and cutmix draw from, which is on the CPU; None for `generators`.
            sample: inputs [N, ...], which tell the types of the layers' outputs where the recipes autocast; any N will do.
        """
        networks, optimizers = [one.network for one in members], [one.optimizer for one in members]
        self._stack = Stack(networks, optimizers, num_spare=1)
        self._mixing = _stacked_mixing(members, generators if mixers is None else mixers)
        self._gets_shared, self._shared = shared, shared and self._mixing is None
        self._precision = members[0].recipe.precision
        types = self._types_alone(networks[0], sample)
        self._skeleton = Skeleton(networks, generators, self._stack.tensors(), arithmetic, types)
        self._optimizer = stacked(optimizers, *self._rows())
        self._loss = stacked_loss([one.loss for one in members], is_autocast=self._precision is not None)
        self._schedules = [one.recipe.schedule for one in members]
        self._stepwise = self._schedules_of_steps()
        self._gradients = StackedGradients([one.recipe for one in members], self._stack.values)
        self._num_pieces = members[0].recipe.accumulate
        self.averages = _stacked_averages(members, self._stack)
        """Of the members' weights; None where they have none."""
        self._captured = self._capturable()
        self._evaluated = self._stack.tensors
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
        """The step by a CUDA graph; None where there is no CUDA, or where something is done in Python at each step."""
        if not self._stack.values.is_cuda or isinstance(self._loss, OneByOne) or self._gradients.is_clipped:
            return None
        return CapturedStep(self._step, lambda: self._skeleton.generators)

    def _schedules_of_steps(self) -> "list[Schedule]":
        """Those that go on after each step."""
        return [one for one in self._schedules if one is not None and one.every == "step"]

    def begin_epoch(self) -> None:
        """Reads each optimizer's hyperparameters, which its schedule may have changed: between epochs, or after each step."""
        if self._optimizer.read() and self._captured is not None:
            self._captured.forget()

    def step(self, inputs: Tensor, targets: Tensor) -> Outcome:
        """See `Stepper`; inputs and targets are [K, N, ...], or [N, ...] where all members have the same batches."""
        if self._mixing is not None:
            inputs, targets = self._mixing(inputs, targets, shared=self._gets_shared)
        outcome = self._step(inputs, targets) if self._captured is None else self._captured(inputs, targets)
        if self._stepwise:
            for schedule in self._stepwise:
                schedule.after_step()
            self.begin_epoch()
        if self.averages is not None:
            self.averages.after_step()
        return outcome

    def _step(self, inputs: Tensor, targets: Tensor) -> Outcome:
        outcome = self._forward_and_backward(inputs, targets)
        self._gradients.change(*self._rows())
        self._optimizer.step()
        hard = outcome.targets if self._mixing is None else outcome.targets.argmax(2)
        return self._without_k(Outcome(outcome.loss, outcome.preds, hard))

    def _forward_and_backward(self, inputs: Tensor, targets: Tensor) -> Outcome:
        """In as many pieces as the recipes say."""
        if self._num_pieces == 1:
            outcome = self._forward(self._stack.tensors(), inputs, targets, self._shared)
            self._stack.take_grads(outcome.loss)
            return Outcome(outcome.loss.detach(), outcome.preds.detach(), outcome.targets)
        found: list[Outcome] = []
        for some_inputs, some_targets, share in pieces(inputs, targets, self._num_pieces, 0 if self._shared else 1):
            outcome = self._forward(self._stack.tensors(), some_inputs, some_targets, self._shared)
            loss = outcome.loss * share
            self._stack.take_grads(loss, adds=bool(found))
            found.append(Outcome(loss.detach(), outcome.preds.detach(), outcome.targets))
        losses, preds, each = zip(*found, strict=True)
        own = torch.cat(each, 1)
        return Outcome(torch.stack(losses).sum(0), joined(preds, own.shape[1], 1), own)

    def evaluate(self, inputs: Tensor, targets: Tensor) -> Outcome:
        """See `Stepper`."""
        with torch.no_grad():
            return self._without_k(self._forward(self._evaluated(), inputs, targets, True))

    def _forward(self, tensors: dict[str, Tensor], inputs: Tensor, targets: Tensor, shared: bool) -> Outcome:
        own = targets.expand(self.size, *targets.shape) if shared else targets
        with self._autocast():
            preds = self._predict(tensors, inputs, shared)
            losses = self._loss(preds, own)
        self.failures.update(self._loss.failures)
        return Outcome(losses, preds, own)

    def _autocast(self) -> AbstractContextManager[None]:
        return nullcontext() if self._precision is None else self._precision.autocast()

    def _types_alone(self, network: Module, sample: Tensor | None) -> dict[str, torch.dtype] | None:
        """Of the layers' outputs; None where nothing is cast."""
        if self._precision is None or sample is None:
            return None
        with self._precision.autocast():
            return output_types(network, sample)

    def _predict(self, tensors: dict[str, Tensor], inputs: Tensor, shared: bool) -> Tensor:
        if not shared:
            inputs = torch.cat([inputs, inputs[:1]])  # the spare row's
        return self._skeleton(tensors, inputs, shared=shared)[: self.size]

    def refresh_averages(self, batches: Iterable[Tensor], *, shared: bool) -> None:
        """Measures the averages' statistics of BatchNorm on training inputs; `shared` as in `step`."""
        if self.averages is not None:
            self.averages.refresh(self._skeleton, batches, partial(self._predict, shared=shared))

    def averaged(self) -> "FusedStepper":
        """The same for the averaged networks, to evaluate them."""
        assert self.averages is not None
        other = copy.copy(self)
        other._evaluated = self.averages.tensors
        if isinstance(self._loss, OneByOne):  # whose losses may count their calls
            other._loss = self._loss.without(index for index, has in enumerate(self.averages.have_begun) if not has)
        return other

    def _without_k(self, outcome: Outcome) -> Outcome:
        return Outcome(*(values[0] for values in outcome)) if self.size == 1 else outcome

    def grad_norms(self) -> list[float | None] | None:
        """See `Stepper`."""
        return self._gradients.take_norms()

    def train(self, mode: bool) -> None:
        """Puts the networks into train or eval mode."""
        self._skeleton.train(mode)

    @property
    def generators(self) -> list[Generator]:
        """What each network's dropout layers draw from."""
        return self._skeleton.generators

    @property
    def mixers(self) -> list[Generator]:
        """What mixup and cutmix draw from; none where there is neither."""
        return [] if self._mixing is None else self._mixing.generators

    def write_back(self) -> None:
        """Gives each optimizer the state that it would have alone; networks have theirs at any time."""
        self._optimizer.write_back()
        if self.averages is not None:
            self.averages.write_back()

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
        self._gradients.keep(indices)
        if self._mixing is not None:
            self._mixing.keep(indices)
        if self.averages is not None:
            self.averages.keep(indices)
        self._schedules = [self._schedules[index] for index in indices]
        self._stepwise = self._schedules_of_steps()
        self.failures = {}


def _stacked_mixing(members: Sequence[Parts], generators: Sequence[Generator]) -> StackedMixing | None:
    """None where the members do not mix their samples."""
    mixings = [one.recipe.mixing for one in members if one.recipe.mixing is not None]
    return StackedMixing(mixings, generators) if mixings else None


def _stacked_averages(members: Sequence[Parts], stack: Stack) -> StackedAverages | None:
    """None where the members do not average their weights."""
    averages = [one.recipe.average for one in members if one.recipe.average is not None]
    return StackedAverages(averages, stack) if averages else None
