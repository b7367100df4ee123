"""How a group of networks takes steps: the plug point Stepper, and the one for a single run."""

import copy
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, NamedTuple, Protocol

import torch
from torch import Tensor
from torch.nn import Module

from runmanager.data.splits import DataError
from runmanager.data.targets import batch_fault
from runmanager.training.recipes.clipping import MeanNorm
from runmanager.training.recipes.precision import inputs_channels_last, pieces

if TYPE_CHECKING:
    from runmanager.training.parts import Parts
    from runmanager.training.recipes.clipping import Clip

Loss = Callable[[Tensor, Tensor], Tensor]


def valued(loss: Loss, preds: Tensor, targets: Tensor) -> Tensor:
    """The loss of a batch.

    Raises:
        DataError: the network has no output for a class among the targets. A GPU raises an error of its own, and says no more.
    """
    try:
        return loss(preds, targets)
    except (IndexError, RuntimeError):
        from runmanager.training.recipes.losses import ignored_class

        ignored = ignored_class(loss)
        fault = batch_fault(preds, targets, ignored) if ignored is not None and targets.device.type == "cpu" else None
        if fault is None:
            raise
        raise DataError(fault) from None


def joined(pieces: Sequence[Tensor], num_samples: int, dim: int = 0) -> Tensor:
    """The predictions of a batch from those of its pieces; the last piece's where that dimension is not that of the samples."""
    has_samples = pieces[0].ndim > dim and sum(one.shape[dim] for one in pieces) == num_samples
    return torch.cat(tuple(pieces), dim) if has_samples else pieces[-1]


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

    def grad_norms(self) -> Sequence[float | None] | None:
        """The mean norm of each member's gradients before they were clipped, since this was asked last.

        None for a member that is not clipped, and where none is.
        """
        ...


class SingleStepper:
    """The ordinary PyTorch step of one network, and what the run's recipe adds to it."""

    size = 1

    def __init__(self, parts: "Parts") -> None:
        self.network, self.optimizer, self.loss, self.recipe = parts.network, parts.optimizer, parts.loss, parts.recipe
        mixing = parts.recipe.mixing
        self._train_loss = self.loss if mixing is None else mixing.soft_loss(self.loss)
        self._norms = MeanNorm(skips=parts.recipe.skips_steps)

    def step(self, inputs: Tensor, targets: Tensor) -> Outcome:
        """See `Stepper`."""
        recipe = self.recipe
        self.optimizer.zero_grad(set_to_none=True)
        if recipe.is_plain:
            preds = self.network(inputs)
            loss = valued(self.loss, preds, targets)
            loss.backward()
        else:
            loss, preds, targets = self._forward_and_backward(inputs, targets)
        if recipe.clip is not None:
            self._clip(recipe.clip)
        if recipe.precision is None:
            self.optimizer.step()
        else:
            recipe.precision.step(self.optimizer)
        recipe.after_step()
        return Outcome(loss.detach(), preds.detach(), targets)

    def _forward_and_backward(self, inputs: Tensor, targets: Tensor) -> Outcome:
        """In as many pieces as the recipe says; the gradients are those of the whole batch's mean."""
        mixing = self.recipe.mixing
        if mixing is not None:
            inputs, targets = mixing(inputs, targets)
        pieces = [self._piece(*piece) for piece in self._pieces(inputs, targets)]
        if len(pieces) == 1:
            loss, preds = pieces[0]
        else:
            losses, each = zip(*pieces, strict=True)
            loss, preds = torch.stack(losses).sum(), joined(each, len(targets))
        return Outcome(loss, preds, targets if mixing is None else mixing.hard(targets))

    def _pieces(self, inputs: Tensor, targets: Tensor) -> Iterable[tuple[Tensor, Tensor, float]]:
        if self.recipe.accumulate == 1:
            return [(inputs, targets, 1.0)]
        return pieces(inputs, targets, self.recipe.accumulate)

    def _piece(self, inputs: Tensor, targets: Tensor, share: float) -> tuple[Tensor, Tensor]:
        """The loss of a piece, times its share of the batch, and its predictions; its gradients are added."""
        with self._autocast():
            preds = self.network(self._laid_out(inputs))
            loss = valued(self._train_loss, preds, targets)
        penalty = self.recipe.penalty
        objective = loss if penalty is None else loss + penalty(self.network.parameters())
        precision = self.recipe.precision
        scaled = objective * share if share != 1 else objective
        if precision is None:
            scaled.backward()
        else:
            precision.backward(scaled)
        return loss.detach() * share, preds.detach()

    def _autocast(self) -> AbstractContextManager[None]:
        return nullcontext() if self.recipe.precision is None else self.recipe.precision.autocast()

    def _laid_out(self, inputs: Tensor) -> Tensor:
        return inputs_channels_last(inputs) if self.recipe.channels_last else inputs

    def _clip(self, clip: "Clip") -> None:
        if self.recipe.precision is not None:
            self.recipe.precision.before_clip(self.optimizer)
        # the gradients of others are neither set to zero between steps nor scaled back
        stepped = {id(param) for group in self.optimizer.param_groups for param in group["params"]}
        norm = clip(param for param in self.network.parameters() if id(param) in stepped)
        if norm is not None:
            self._norms.add(norm)

    def evaluate(self, inputs: Tensor, targets: Tensor) -> Outcome:
        """See `Stepper`."""
        with torch.no_grad(), self._autocast():
            preds = self.network(self._laid_out(inputs))
            return Outcome(valued(self.loss, preds, targets), preds, targets)

    def train(self, mode: bool) -> None:
        """See `Stepper`."""
        self.network.train(mode)

    def grad_norms(self) -> list[float] | None:
        """See `Stepper`."""
        norm = self._norms.take()
        return None if norm is None else [norm]

    def with_network(self, network: Module) -> "SingleStepper":
        """The same for another network, as to evaluate it."""
        other = copy.copy(self)
        other.network = network
        return other
