"""The same K runs twice: in one step, and each alone."""

import copy
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Generator, nn

from runmanager.training.arithmetics import VMAP
from runmanager.training.fused import FusedStepper
from runmanager.training.parts import Parts
from runmanager.training.recipe import Recipe
from runmanager.training.recipes.clipping import Clip
from runmanager.training.steppers import SingleStepper

NUM_CLASSES = 3


@dataclass
class Member:
    """A run as it is built, and where the global generator stands then."""

    network: nn.Module
    optimizer: Any
    loss: Any
    recipe: Recipe
    random_state: torch.Tensor

    @classmethod
    def build(cls, index, network, optimizer, loss, clip_norm):
        with torch.random.fork_rng([]):
            torch.manual_seed(100 + index)
            made = network(index)
            limit = clip_norm(index)
            recipe = Recipe(clip=None if limit is None else Clip(norm=limit))
            return cls(made, optimizer(index, made), loss(index), recipe, torch.get_rng_state())

    @property
    def parts(self):
        return Parts(self.network, self.optimizer, self.loss, self.recipe)


class Alone:
    """A member that steps by itself, with the global generator as it would be for it alone."""

    def __init__(self, member):
        self.member, self.state = member, member.random_state
        self.stepper = SingleStepper(member.parts)

    def step(self, *batch):
        return self._drawing(self.stepper.step, *batch)

    def evaluate(self, *batch):
        return self._drawing(self.stepper.evaluate, *batch)

    def _drawing(self, call, *batch):
        with torch.random.fork_rng([]):
            torch.set_rng_state(self.state)
            outcome = call(*(part.clone() for part in batch))
            self.state = torch.get_rng_state()
        return outcome


def sgd(index, network):
    return torch.optim.SGD(network.parameters(), lr=[0.1, 0.03, 0.05, 0.01][index % 4])


def fused_stepper(members, arithmetic=VMAP, *, shared=False):
    generators = []
    for member in members:
        generators.append(Generator())
        generators[-1].set_state(member.random_state)
    stepper = FusedStepper([member.parts for member in members], generators, arithmetic, shared=shared)
    stepper.begin_epoch()
    stepper.train(True)
    return stepper


class Twins:
    """K members in a group, and each alone, with batches that are drawn for both."""

    def __init__(
        self,
        network,
        inputs,
        *,
        size=4,
        optimizer=sgd,
        loss=lambda index: F.cross_entropy,
        clip_norm=lambda index: None,
        targets=None,
        arithmetic=VMAP,
        dtype=torch.float64,
        shared=False,
    ):
        """`network`, `optimizer`, `loss` and `clip_norm` are functions of the member's place.

        Args:
            inputs: draws a batch's inputs [N, ...], from a generator.
            targets: draws its targets; by default classes.
        """

        def make(index):
            return network(index).to(dtype)

        def build():
            return [Member.build(index, make, optimizer, loss, clip_norm) for index in range(size)]

        self.members, self.alone = build(), [Alone(member) for member in build()]
        self.stepper = fused_stepper(self.members, arithmetic, shared=shared)
        for one in self.alone:
            one.stepper.train(True)
        self.shared, self.dtype, self.inputs, self.targets = shared, dtype, inputs, targets or classes
        self.draws = Generator().manual_seed(5)

    def batch(self):
        """Of each member its own, or one for all."""
        made = [self._one() for _ in range(1 if self.shared else self.stepper.size)]
        return made[0] if self.shared else tuple(torch.stack(parts) for parts in zip(*made, strict=True))

    def _one(self):
        inputs = self.inputs(self.draws)
        inputs = inputs.to(self.dtype) if inputs.is_floating_point() else inputs
        return inputs, self.targets(self.draws, inputs)

    def each(self, batch):
        return [batch] * len(self.alone) if self.shared else list(zip(*(part.unbind(0) for part in batch), strict=True))

    def step(self):
        """The losses of a step, [K] in the group and [K] alone."""
        batch = self.batch()
        outcome = self.stepper.step(*(part.clone() for part in batch))
        alone = [one.step(*its) for one, its in zip(self.alone, self.each(batch), strict=True)]
        return outcome.loss.reshape(-1), torch.stack([one.loss for one in alone])

    def apart(self, times):
        """The largest difference between the losses of each step."""
        return [largest(*self.step()) for _ in range(times)]

    def evaluation(self):
        """The predictions on a shared batch, [K, N, ...], in the group and alone."""
        self.stepper.train(False)
        for one in self.alone:
            one.stepper.train(False)
        batch = self._one()
        together = self.stepper.evaluate(*batch).preds
        return together, torch.stack([one.evaluate(*batch).preds for one in self.alone])

    def states(self):
        """What the networks hold, in the group and alone."""
        return [copy.deepcopy(member.network.state_dict()) for member in self.members], [
            one.member.network.state_dict() for one in self.alone
        ]


def classes(draws, inputs):
    return torch.randint(NUM_CLASSES, (len(inputs),), generator=draws)


def largest(one, other):
    return (one - other).abs().max().item()


def rows(*shape, size=8):
    """Draws a batch's inputs of this shape."""
    return lambda draws: torch.rand(size, *shape, generator=draws)


def tokens(num_tokens, length, size=8):
    """Draws a batch of sequences of whole numbers."""
    return lambda draws: torch.randint(num_tokens, (size, length), generator=draws)
