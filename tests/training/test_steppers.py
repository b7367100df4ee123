"""The step of a single network is the ordinary PyTorch step."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from runmanager.training.parts import Parts
from runmanager.training.recipe import Recipe
from runmanager.training.recipes.clipping import Clip
from runmanager.training.recipes.precision import precision_of
from runmanager.training.steppers import SingleStepper

INPUTS, TARGETS = torch.rand(8, 3), torch.tensor([0, 1] * 4)


def stepper_of(network, clip_norm=None):
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9)
    return SingleStepper(Parts(network, optimizer, F.cross_entropy, Recipe(clip=clip_norm and Clip(norm=clip_norm))))


def test_steps_are_bit_equal_to_those_written_by_hand():
    network = nn.Linear(3, 2)
    by_hand = copy.deepcopy(network)
    stepper, optimizer = stepper_of(network), torch.optim.SGD(by_hand.parameters(), lr=0.1, momentum=0.9)
    for _ in range(5):
        loss, preds, targets = stepper.step(INPUTS, TARGETS)
        optimizer.zero_grad()
        hand_preds = by_hand(INPUTS)
        hand_loss = F.cross_entropy(hand_preds, TARGETS)
        hand_loss.backward()
        optimizer.step()
        assert torch.equal(loss, hand_loss)
        assert torch.equal(preds, hand_preds)
        assert targets is TARGETS
    assert torch.equal(network.weight, by_hand.weight)


@pytest.mark.parametrize("clip_norm", [1e-3, 1e3])
def test_a_clipped_step_is_bit_equal_to_one_clipped_by_hand(clip_norm):
    network = nn.Linear(3, 2)
    by_hand = copy.deepcopy(network)
    stepper, optimizer = stepper_of(network, clip_norm), torch.optim.SGD(by_hand.parameters(), lr=0.1, momentum=0.9)
    for _ in range(3):
        stepper.step(INPUTS, TARGETS)
        optimizer.zero_grad()
        F.cross_entropy(by_hand(INPUTS), TARGETS).backward()
        torch.nn.utils.clip_grad_norm_(by_hand.parameters(), clip_norm)
        optimizer.step()
    assert torch.equal(network.weight, by_hand.weight)
    assert torch.equal(network.bias, by_hand.bias)


@pytest.mark.parametrize("amp", [None, "fp16"])
def test_clipping_passes_over_what_the_optimizer_does_not_train(amp):
    """Nobody sets those gradients to zero, and a scaler does not scale them back."""
    network = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    alike = copy.deepcopy(network)
    alike[0].requires_grad_(False)
    steppers = []
    for one in (network, alike):
        precision = amp and precision_of(amp, torch.device("cpu"))
        recipe = Recipe(clip=Clip(norm=0.1), precision=precision)
        optimizer = torch.optim.SGD(one[1].parameters(), lr=0.1)
        steppers.append(SingleStepper(Parts(one, optimizer, F.cross_entropy, recipe)))
    for _ in range(5):
        for stepper in steppers:
            stepper.step(INPUTS, TARGETS)
    assert torch.equal(network[1].weight, alike[1].weight)
    norms, theirs = (stepper.grad_norms() for stepper in steppers)
    assert norms == theirs
    assert norms[0] < 10


def test_what_a_step_returns_keeps_no_graph_alive():
    loss, preds, _ = stepper_of(nn.Linear(3, 2)).step(INPUTS, TARGETS)
    assert loss.shape == ()
    assert preds.shape == (8, 2)
    assert not loss.requires_grad
    assert not preds.requires_grad


def test_a_parameter_that_a_batch_does_not_use_is_not_moved_by_momentum_of_zeros():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.used, self.unused = nn.Linear(3, 2), nn.Linear(3, 2)

        def forward(self, inputs):
            return self.used(inputs)

    network = Two()
    stepper = stepper_of(network)
    network.unused.weight.grad = torch.ones(2, 3)  # left over from before
    before = network.unused.weight.clone()
    stepper.step(INPUTS, TARGETS)
    assert network.unused.weight.grad is None  # gradients are set to None, not to zero
    assert torch.equal(network.unused.weight, before)


def test_evaluation_leaves_no_gradient_and_no_step():
    network = nn.Linear(3, 2)
    before = network.weight.clone()
    loss, preds, _ = stepper_of(network).evaluate(INPUTS, TARGETS)
    assert torch.equal(loss, F.cross_entropy(network(INPUTS), TARGETS))
    assert not loss.requires_grad
    assert not preds.requires_grad
    assert network.weight.grad is None
    assert torch.equal(network.weight, before)


def test_the_mode_reaches_every_module():
    network = nn.Sequential(nn.Linear(3, 2), nn.Dropout())
    stepper = stepper_of(network)
    stepper.train(False)
    assert [module.training for module in network.modules()] == [False] * 3
    stepper.train(True)
    assert [module.training for module in network.modules()] == [True] * 3
