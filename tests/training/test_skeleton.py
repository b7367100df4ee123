"""One network is gone through for all; each keeps its own tensors, its own dropout and its own draws."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.optim import SGD

from runmanager.training.arithmetics import ARITHMETICS, LOOPED, VMAP
from runmanager.training.skeleton import Skeleton
from runmanager.training.stack import Stack
from tests.training.fused_networks import NETWORKS, Tied

each_arithmetic = pytest.mark.parametrize("arithmetic", ARITHMETICS)


class Group:
    """A skeleton over the stack of its networks, and the networks as they would be alone."""

    def __init__(self, networks, arithmetic=VMAP):
        self.alone = copy.deepcopy(networks)
        self.stack = Stack(networks, [SGD(network.parameters(), lr=0.1) for network in networks])
        generators = [torch.Generator().manual_seed(seed) for seed in range(len(networks))]
        self.skeleton = Skeleton(networks, generators, self.stack.tensors(), arithmetic)

    def __call__(self, inputs, shared=True):
        with torch.no_grad():
            return self.skeleton(self.stack.tensors(), inputs, shared=shared)

    def each_alone(self, inputs):
        """What each gives alone, drawing from a generator that stands where its own stood."""
        made = []
        for seed, network in enumerate(self.alone):
            with torch.random.fork_rng([]), torch.no_grad():
                torch.manual_seed(seed)
                made.append(network(inputs))
        return torch.stack(made)


def dropping(rates, kind=nn.Dropout):
    return [nn.Sequential(Scale(), kind(rate)) for rate in rates]


class Scale(nn.Module):
    """It has a parameter."""

    def __init__(self):
        super().__init__()
        self.by = nn.Parameter(torch.ones(()))

    def forward(self, inputs):
        return inputs * self.by


@each_arithmetic
@pytest.mark.parametrize("name", [name for name in NETWORKS if name not in ("transformer", "recurrent cell")])
def test_predictions_are_those_of_each_network(name, arithmetic):
    network, inputs = NETWORKS[name]
    group = Group([network(index).double() for index in range(3)], arithmetic)
    batch = inputs(torch.Generator().manual_seed(0))
    batch = batch.double() if batch.is_floating_point() else batch
    torch.testing.assert_close(group(batch), group.each_alone(batch), rtol=0, atol=1e-13)


@pytest.mark.parametrize(
    ("kind", "shape"),
    [(nn.Dropout, (6, 5)), (nn.Dropout1d, (6, 5, 4)), (nn.Dropout2d, (6, 5, 4, 3)), (nn.Dropout3d, (6, 5, 2, 2, 2))],
)
def test_dropout_draws_what_each_network_draws_alone(kind, shape):
    group = Group(dropping([0.3, 0.0, 1.0, 0.8], kind))
    inputs = torch.rand(shape) + 1
    together = group(inputs)
    assert torch.equal(together, group.each_alone(inputs))
    assert not torch.equal(together[0], together[1])
    assert torch.equal(together[1], inputs)
    assert (together[2] == 0).all()


def test_dropout_goes_on_drawing_where_it_stands():
    group, inputs = Group(dropping([0.5, 0.5])), torch.rand(6, 5)
    first, second = group(inputs), group(inputs)
    assert not torch.equal(first, second)
    torch.manual_seed(1)
    assert torch.equal(torch.stack([F.dropout(inputs, 0.5) for _ in range(2)]), torch.stack([first[1], second[1]]))


def test_dropout_does_nothing_in_eval_mode_and_draws_nothing():
    group, inputs = Group(dropping([0.5, 0.9])), torch.rand(6, 5)
    before = [generator.get_state() for generator in group.skeleton.generators]
    group.skeleton.train(False)
    assert torch.equal(group(inputs), torch.stack([inputs, inputs]))
    assert all(map(torch.equal, before, [generator.get_state() for generator in group.skeleton.generators]))


def test_who_stays_draws_as_if_nobody_had_left():
    group, other, inputs = Group(dropping([0.5, 0.3, 0.9])), Group(dropping([0.5, 0.3, 0.9])), torch.rand(6, 5)
    group(inputs), other(inputs)
    group.skeleton.keep([2])
    group.stack.keep([2])
    assert torch.equal(group(inputs)[0], other(inputs)[2])


def test_the_global_generator_is_not_drawn_from():
    group = Group(dropping([0.5, 0.3]))
    before = torch.get_rng_state()
    group(torch.rand(6, 5, generator=torch.Generator()))
    assert torch.equal(torch.get_rng_state(), before)


def test_the_networks_themselves_are_not_called_and_not_changed():
    networks = dropping([0.5, 0.3])
    before = [{**vars(module)}.keys() for network in networks for module in network.modules()]
    group = Group(networks)
    group.skeleton.train(False)
    group(torch.rand(6, 5))
    assert [vars(module).keys() for network in networks for module in network.modules()] == before
    assert all(module.training for network in networks for module in network.modules())


def test_tied_weights_are_one_in_every_place():
    networks = [Tied(), Tied()]
    group, inputs = Group(networks), torch.rand(4, 6)
    with torch.no_grad():
        group.stack.values[0].mul_(2)
    group.alone = copy.deepcopy(networks)
    torch.testing.assert_close(group(inputs), group.each_alone(inputs))


class Replacing(nn.Module):
    """It puts another tensor in the place of a buffer."""

    def __init__(self, first):
        super().__init__()
        self.out = nn.Linear(3, 2)
        self.register_buffer("mean", first)

    def forward(self, inputs):
        self.mean = inputs.mean(0).detach()
        return self.out(inputs)


@pytest.mark.parametrize("first", [torch.zeros(3), None], ids=["there before", "not there before"])
def test_a_forward_that_replaces_a_buffer_is_refused_by_name(first):
    group = Group([Replacing(first), Replacing(first)])
    with pytest.raises(ValueError, match="mean"):
        group(torch.rand(4, 3))


def test_a_buffer_that_is_changed_in_place_is_changed_for_each_network():
    networks = [nn.BatchNorm1d(3), nn.BatchNorm1d(3)]
    group = Group(networks)
    inputs = torch.rand(2, 8, 3) * torch.tensor([1.0, 100.0]).view(2, 1, 1)
    group(inputs, shared=False)
    for network, alone, its in zip(networks, group.alone, inputs, strict=True):
        alone(its)
        torch.testing.assert_close(network.running_mean, alone.running_mean)
        torch.testing.assert_close(network.running_var, alone.running_var)
        assert int(network.num_batches_tracked) == 1


def test_looped_convolutions_are_bit_equal_to_those_of_each_network():
    networks = [nn.Conv2d(3, 4, 3, stride=2, padding=1, dilation=2, groups=1) for _ in range(3)]
    group, inputs = Group(networks, LOOPED), torch.rand(2, 3, 9, 9)
    assert torch.equal(group(inputs), group.each_alone(inputs))
