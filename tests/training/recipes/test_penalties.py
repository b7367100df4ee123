"""Penalties are those of a plain loop, alone and for many networks at once."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from runmanager.training.recipes.penalties import Penalty, add_gradients
from runmanager.training.settings import TrainerError

FACTORS = [(0.0137, 0.0), (0.0, 0.0071), (0.0137, 0.0071)]


def network_of(seed):
    torch.manual_seed(seed)
    network = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))
    with torch.no_grad():
        network[0].weight[0] = 0.0  # where |w| has no slope
    return network


def batch_of(seed):
    draws = torch.Generator().manual_seed(seed)
    return torch.randn(16, 6, generator=draws), torch.randint(3, (16,), generator=draws)


def flat(tensors):
    return torch.cat([tensor.detach().reshape(-1) for tensor in tensors])


def test_the_penalty_is_the_sum_of_the_sizes_and_of_the_squares():
    params = [nn.Parameter(torch.tensor([[1.0, -2.0]])), nn.Parameter(torch.tensor(-3.0))]
    assert Penalty(l1=0.5)(params).item() == 0.5 * (1 + 2 + 3)
    assert Penalty(l2=0.25)(params).item() == 0.25 * (1 + 4 + 9)
    assert Penalty(0.5, 0.25)(params).item() == 3 + 3.5


@pytest.mark.parametrize(("l1", "l2"), FACTORS)
def test_three_epochs_are_those_of_a_plain_loop_to_the_last_bit(l1, l2):
    ours, theirs = network_of(0), network_of(0)
    optimizers = [torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9) for network in (ours, theirs)]
    penalty = Penalty(l1, l2)
    for epoch in range(3):
        inputs, targets = batch_of(epoch)
        for optimizer in optimizers:
            optimizer.zero_grad()
        (F.cross_entropy(ours(inputs), targets) + penalty(ours.parameters())).backward()
        loss = F.cross_entropy(theirs(inputs), targets)
        sizes = sum(param.abs().sum() for param in theirs.parameters())
        squares = sum((param**2).sum() for param in theirs.parameters())
        (loss + l1 * sizes + l2 * squares).backward()
        for optimizer in optimizers:
            optimizer.step()
    assert torch.equal(flat(ours.parameters()), flat(theirs.parameters()))
    assert not torch.equal(flat(ours.parameters()), flat(network_of(0).parameters()))


def test_a_frozen_parameter_is_left_out():
    network = network_of(0)
    network[0].requires_grad_(False)
    penalty = Penalty(l2=1.0)(network.parameters())
    assert torch.equal(penalty, Penalty(l2=1.0)(network[2].parameters()))
    penalty.backward()
    assert network[0].weight.grad is None


def test_l2_is_twice_a_weight_decay():
    ours, theirs = network_of(0), network_of(0)
    inputs, targets = batch_of(0)
    (F.cross_entropy(ours(inputs), targets) + Penalty(l2=0.05)(ours.parameters())).backward()
    F.cross_entropy(theirs(inputs), targets).backward()
    torch.optim.SGD(ours.parameters(), lr=0.1).step()
    torch.optim.SGD(theirs.parameters(), lr=0.1, weight_decay=0.1).step()
    torch.testing.assert_close(flat(ours.parameters()), flat(theirs.parameters()), rtol=0, atol=1e-7)


@pytest.mark.parametrize(
    "factors", [FACTORS, [(0.0, 0.0), (1.0, 0.0), (0.3, 0.0)], [(0.0, 0.5), (0.0, 0.0), (0.1, 0.2)]]
)
def test_the_gradients_of_many_at_once_are_autograds_of_each_alone_to_the_last_bit(factors):
    networks = [network_of(seed) for seed in range(3)]
    values = torch.stack([flat(network.parameters()) for network in networks])
    grads, expected = [], []
    for seed, (network, pair) in enumerate(zip(networks, factors, strict=True)):
        inputs, targets = batch_of(seed)
        F.cross_entropy(network(inputs), targets).backward()
        grads.append(flat(param.grad for param in network.parameters()))
        network.zero_grad()
        (F.cross_entropy(network(inputs), targets) + Penalty(*pair)(network.parameters())).backward()
        expected.append(flat(param.grad for param in network.parameters()))
    ours, kept = torch.stack(grads), values.clone()
    l1, l2 = torch.tensor(factors).unsqueeze(2).unbind(1)
    add_gradients(values, ours, l1, l2)
    assert torch.equal(ours, torch.stack(expected))
    assert not torch.equal(ours, torch.stack(grads))
    assert torch.equal(values, kept)


@pytest.mark.parametrize("penalty", [Penalty(), Penalty(None, None), Penalty(0, 0.0)])
def test_no_factor_is_no_penalty(penalty):
    assert not penalty
    assert penalty(network_of(0).parameters()).item() == 0
    assert Penalty(l1=1e-9) and Penalty(l2=1e-9)


@pytest.mark.parametrize("value", [-0.1, float("nan"), float("inf"), True, "0.1"])
@pytest.mark.parametrize("name", ["l1", "l2"])
def test_what_is_no_factor_is_refused(name, value):
    with pytest.raises(TrainerError) as error:
        Penalty(**{name: value})
    assert str(error.value).startswith(f"{name}={value!r} is no factor of a penalty; give a number of 0 or more")
