"""The stack holds the parameters of all networks, and each network has its own as before."""

import copy

import pytest
import torch
from torch import nn
from torch.optim import SGD

from runmanager.training.stack import Stack
from tests.training.fused_networks import ClassroomCNN, Remembering, Tied, with_batch_norm

MAKERS = {
    "cnn": ClassroomCNN,
    "tied": Tied,
    "buffers": Remembering,
    "batch norm": lambda: with_batch_norm(0),
    "turned": lambda: turned(nn.Linear(5, 3)),
}
each_network = pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)


def turned(layer):
    """A weight that lies in memory column by column."""
    layer.weight = nn.Parameter(layer.weight.detach().t().contiguous().t())
    return layer


def stack_of(networks, trained=lambda network: network.parameters()):
    return Stack(networks, [SGD(trained(network), lr=0.1) for network in networks])


def tensors_of(network):
    return [*network.parameters(), *network.buffers()]


@each_network
def test_stacking_changes_no_value(make):
    networks = [make() for _ in range(3)]
    before = [[tensor.clone() for tensor in tensors_of(network)] for network in networks]
    stack_of(networks)
    for network, values in zip(networks, before, strict=True):
        assert all(map(torch.equal, tensors_of(network), values))
        assert [tensor.dtype for tensor in tensors_of(network)] == [value.dtype for value in values]


@each_network
def test_the_stack_has_the_value_of_each_network_under_its_name(make):
    networks = [make() for _ in range(3)]
    tensors = stack_of(networks).tensors()
    own = [dict([*network.named_parameters(), *network.named_buffers()]) for network in networks]
    assert tensors.keys() == own[0].keys()
    for name, values in tensors.items():
        assert torch.equal(values, torch.stack([one[name] for one in own]))


@each_network
def test_what_is_written_to_the_stack_is_in_the_networks_and_the_reverse(make):
    networks = [make() for _ in range(3)]
    stack = stack_of(networks)
    with torch.no_grad():
        stack.values[1].fill_(7)
        next(networks[2].parameters()).fill_(5)
    assert all((param == 7).all() for param in networks[1].parameters())
    assert (stack.values[2] == 5).any()
    assert not any((param == 7).any() for param in networks[0].parameters())


def test_parameters_stay_the_objects_that_they_were():
    network = ClassroomCNN()
    before = list(network.parameters())
    stack_of([network, ClassroomCNN()])
    assert all(one is other for one, other in zip(before, network.parameters(), strict=True))
    assert all(param.is_leaf and param.requires_grad for param in before)


def test_gradients_are_those_of_each_network_by_its_own_loss():
    networks = [nn.Linear(4, 3), nn.Linear(4, 3)]
    stack, inputs = stack_of(networks), torch.rand(5, 4)
    preds = torch.einsum("kof,nf->kno", stack.leaves["weight"], inputs) + stack.leaves["bias"].unsqueeze(1)
    stack.take_grads(torch.stack([preds[0].square().mean(), preds[1].exp().mean()]))
    for network, function in zip(networks, (torch.square, torch.exp), strict=True):
        alone = copy.deepcopy(network)
        alone.zero_grad()
        function(alone(inputs)).mean().backward()
        torch.testing.assert_close(network.weight.grad, alone.weight.grad)
        torch.testing.assert_close(network.bias.grad, alone.bias.grad)


def test_a_frozen_parameter_is_held_but_gets_no_gradient():
    networks = [ClassroomCNN().requires_grad_(False) for _ in range(2)]
    for network in networks:
        network.out.requires_grad_(True)
    stack = stack_of(networks, lambda network: network.out.parameters())
    assert stack.values.shape == (2, 33)
    assert stack.leaves.keys() == {"out.weight", "out.bias"}
    assert torch.equal(stack.tensors()["conv1.weight"][1], networks[1].conv1.weight)
    assert not stack.tensors()["conv1.weight"].requires_grad


def test_the_order_of_a_row_is_that_of_the_optimizer():
    networks = [nn.Linear(4, 3), nn.Linear(4, 3)]
    stack = stack_of(networks, lambda network: [network.bias, network.weight])
    assert torch.equal(stack.values[1], torch.cat([networks[1].bias, networks[1].weight.flatten()]))


def test_those_who_stay_move_on_and_those_who_leave_are_left_alone():
    networks = [with_batch_norm(0) for _ in range(4)]
    stack = stack_of(networks)
    before = [[tensor.clone() for tensor in tensors_of(network)] for network in networks]
    stack.keep([3, 1])
    assert stack.size == 2
    assert all(map(torch.equal, tensors_of(networks[3]), before[3]))
    with torch.no_grad():
        stack.values.add_(1)
        networks[3][1].num_batches_tracked.add_(1)
    for index in (1, 3):
        for param, value in zip(networks[index].parameters(), before[index], strict=False):
            assert torch.equal(param, value + 1)
    for index in (0, 2):
        assert all(map(torch.equal, tensors_of(networks[index]), before[index]))
    assert [int(network[1].num_batches_tracked) for network in networks] == [0, 0, 0, 1]
