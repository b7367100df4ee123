"""How far runs that are trained together are from what each is alone: a few steps of both, side by side."""

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, count, islice

import torch
from torch import Tensor
from torch.nn import Module

from runmanager.tracking.checkpoint import put_back
from runmanager.training.choice import Trial
from runmanager.training.group import Member, build_stepper
from runmanager.training.loaders import Batch, Batches
from runmanager.training.seeding import seeded
from runmanager.training.skeleton import without_advice
from runmanager.training.steppers import SingleStepper

_TYPES = (torch.float64, torch.float32)
TOLERANCES = {torch.float64: (1e-12, 1e-12), torch.float32: (1e-6, 1e-5), torch.bfloat16: (4e-3, 2e-2)}
"""What the largest difference of the losses may be at the first step, and in all of ten."""


@dataclass(frozen=True)
class Differences:
    """The largest differences between a group and its members alone."""

    dtype: torch.dtype  # in which forward rounds
    arithmetic: str
    size: int
    num_steps: int
    first_loss: float  # of the first step's losses
    losses: float  # of all steps' losses
    weights: float  # of the parameters after the last step

    @property
    def is_within(self) -> bool:
        """Whether they are as small as rounding makes them; that is said of ten steps, after which chaos has its way."""
        first, all_steps = TOLERANCES[self.dtype]
        return self.first_loss <= first and (self.num_steps > 10 or self.losses <= all_steps)


def verify(trial: Trial, size: int, num_steps: int) -> list[Differences]:
    """Trains a group both ways for some steps, in float64 and in float32, with each arithmetic.

    Args:
        trial: of runs of one kind.
        size: of the group.
        num_steps: how many.

    Raises:
        NotFusable: they cannot be trained together.
    """
    ways = [(dtype, arithmetic) for dtype in _TYPES for arithmetic in trial.arithmetics()]
    with without_advice(), seeded(0):
        for arithmetic in trial.arithmetics():
            trial.fused(size, arithmetic)  # says why, where they cannot
        return [_differences(trial, size, num_steps, arithmetic, dtype) for dtype, arithmetic in ways]


def _differences(trial: Trial, size: int, num_steps: int, arithmetic: str, dtype: torch.dtype) -> Differences:
    members = [_in(dtype, member) for member in trial.members(size)]
    alone = [_alone(trial, _in(dtype, member), num_steps) for member in trial.members(size)]
    batches = trial.batches(members)
    sample, _ = _as(dtype, (batches.sample(), torch.empty(0)))
    stepper = build_stepper(members, arithmetic, shared=batches.are_shared, sample=sample)
    stepper.begin_epoch()
    stepper.train(True)
    together = [stepper.step(*_as(dtype, batch)).loss.reshape(-1).clone() for batch in _first(num_steps, batches)]
    losses = (torch.stack(together) - torch.stack([one for one, _ in alone], dim=1)).abs()  # [steps, K]
    weights = [_weights(member.parts.network) - its for member, (_, its) in zip(members, alone, strict=True)]
    largest = max(one.abs().max().item() for one in weights)
    return Differences(
        _rounding(members[0], dtype),
        arithmetic,
        size,
        len(losses),
        losses[0].max().item(),
        losses.max().item(),
        largest,
    )


def _alone(trial: Trial, member: Member, num_steps: int) -> tuple[Tensor, Tensor]:
    """The losses [steps] of a member that is trained by itself, and its weights afterwards."""
    parts = member.parts
    with seeded(0):
        put_back(member.states)
        stepper = SingleStepper(parts)
        stepper.train(True)
        steps = _first(num_steps, trial.batches([member]))
        losses = [stepper.step(*_as(dtype_of(parts.network), batch)).loss for batch in steps]
    return torch.stack(losses), _weights(parts.network)


def _rounding(member: Member, dtype: torch.dtype) -> torch.dtype:
    """The type that forward rounds to; autocast leaves float64 as it is."""
    precision = member.parts.recipe.precision
    return dtype if precision is None or dtype == torch.float64 else precision.dtype


def _first(num_steps: int, batches: Batches) -> Iterator[Batch]:
    """So many batches, of as many epochs as that takes."""
    return islice(chain.from_iterable(batches.train() for _ in count()), num_steps)


def dtype_of(network: Module) -> torch.dtype:
    """The type of a network's parameters."""
    return next(network.parameters()).dtype


def _in(dtype: torch.dtype, member: Member) -> Member:
    """The member with its network, and its loss where it keeps numbers, of another type."""
    member.parts.network.to(dtype)
    if isinstance(member.parts.loss, Module):
        member.parts.loss = copy.deepcopy(member.parts.loss).to(dtype)
    return member


def _as(dtype: torch.dtype, batch: Batch) -> Sequence[Tensor]:
    return [one.to(dtype) if one.is_floating_point() else one for one in batch]


def _weights(network: Module) -> Tensor:
    return torch.cat([param.detach().reshape(-1).clone() for param in network.parameters()])
