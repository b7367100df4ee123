"""Clipped gradients are torch's own, and the norm that is given back is the one before."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import clip_grad_norm_, clip_grad_value_

from runmanager.training.recipes.clipping import Clip
from runmanager.training.settings import TrainerError

INPUTS, TARGETS = torch.randn(16, 6, generator=torch.Generator().manual_seed(0)), torch.arange(16) % 3


def network_of(with_grads=True):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))
    if with_grads:
        (10 * F.cross_entropy(network(INPUTS), TARGETS)).backward()
    return network


def flat_grads(network):
    return torch.cat([param.grad.reshape(-1) for param in network.parameters()])


def clip_plainly(network, norm, value):
    if norm is not None:
        clip_grad_norm_(network.parameters(), norm)
    if value is not None:
        clip_grad_value_(network.parameters(), value)


@pytest.mark.parametrize(
    ("norm", "value"), [(1.0, None), (None, 0.1), (1.0, 0.1), (3, 1), (1e6, 1e6), (float("inf"), None)]
)
def test_gradients_are_clipped_as_torch_does_and_the_norm_is_the_one_before(norm, value):
    ours, theirs = network_of(), network_of()
    before = flat_grads(ours)
    clipped_from = Clip(norm, value)(ours.parameters())
    clip_plainly(theirs, norm, value)
    assert torch.equal(flat_grads(ours), flat_grads(theirs))
    assert clipped_from.shape == ()
    assert clipped_from.item() == pytest.approx(before.double().square().sum().sqrt().item(), rel=1e-6)


def test_both_bounds_hold_afterwards():
    network = network_of()
    assert flat_grads(network).norm() > 1 and flat_grads(network).abs().max() > 0.2
    Clip(norm=1.0, value=0.2)(network.parameters())
    assert flat_grads(network).norm() <= 1 and flat_grads(network).abs().max() <= 0.2


def test_the_norm_is_the_same_whichever_way_it_is_clipped():
    norms = {Clip(*pair)(network_of().parameters()).item() for pair in [(1.0, None), (None, 0.1), (2.0, 0.1)]}
    assert len(norms) == 1


def test_three_epochs_are_those_of_a_plain_loop_to_the_last_bit():
    ours, theirs = network_of(with_grads=False), network_of(with_grads=False)
    optimizers = [torch.optim.Adam(network.parameters(), lr=0.1) for network in (ours, theirs)]
    clip = Clip(norm=0.5, value=0.05)
    for _ in range(3):
        for network, optimizer in zip((ours, theirs), optimizers, strict=True):
            optimizer.zero_grad()
            F.cross_entropy(network(INPUTS), TARGETS).backward()
            clip(network.parameters()) if network is ours else clip_plainly(network, 0.5, 0.05)
            optimizer.step()
    for our_param, their_param in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert torch.equal(our_param, their_param)


def test_off_touches_nothing():
    network = network_of()
    before = flat_grads(network)
    clip = Clip()
    assert not clip and clip(network.parameters()) is None
    assert torch.equal(flat_grads(network), before)
    assert Clip(norm=1.0) and Clip(value=1.0)


@pytest.mark.parametrize("pair", [(1.0, None), (None, 1.0)])
def test_parameters_without_a_gradient_do_not_count(pair):
    network = network_of()
    network[0].weight.grad = None
    rest = torch.cat([param.grad.reshape(-1) for param in network.parameters() if param.grad is not None])
    assert Clip(*pair)(network.parameters()).item() == pytest.approx(rest.norm().item())
    assert Clip(*pair)(network_of(with_grads=False).parameters()).item() == 0


@pytest.mark.parametrize("value", [0, -1.0, float("nan"), True, "1"])
@pytest.mark.parametrize("name", ["norm", "value"])
def test_what_is_no_limit_is_refused(name, value):
    with pytest.raises(TrainerError) as error:
        Clip(**{name: value})
    assert str(error.value).startswith(
        f"clip_{name}={value!r} is no limit of a gradient; give a number above 0, or None"
    )
