"""A member of a group steps as it does alone, whatever differs between the members."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.optim import SGD, Adam, AdamW
from torch.optim.lr_scheduler import ExponentialLR, StepLR

from runmanager.training.arithmetics import LOOPED, VMAP
from tests.training.fused_cases import (
    DECAYS,
    LRS,
    all_different,
    assert_as_alone,
    clip_norm_of,
    drawn,
    each_arithmetic,
    each_convolving,
    each_network,
    each_optimizer,
    grouped,
    optimizer_of,
    quiet,
    smoothed,
    whether_shared,
)
from tests.training.fused_networks import IMAGES, NETWORKS, mlp, with_batch_norm
from tests.training.fused_twins import NUM_CLASSES, Member, Twins, fused_stepper, largest, rows


@each_network
@each_optimizer
@quiet
def test_ten_steps_are_those_of_each_member_alone(name, kind):
    for dtype in (torch.float32, torch.float64):
        assert_as_alone(all_different(name, kind, dtype=dtype, size=3))


@each_network
@quiet
def test_ten_steps_on_shared_batches_are_those_of_each_member_alone(name):
    for dtype in (torch.float32, torch.float64):
        assert_as_alone(all_different(name, dtype=dtype, shared=True))


@each_convolving
@whether_shared
def test_grouped_convolutions_give_the_same(name, shared):
    for dtype in (torch.float32, torch.float64):
        assert_as_alone(all_different(name, dtype=dtype, arithmetic=VMAP, shared=shared))


@each_network
@whether_shared
@quiet
def test_what_the_networks_hold_after_ten_steps_is_what_they_hold_alone(name, shared):
    twins = all_different(name, SGD, shared=shared)
    twins.apart(10)
    together, alone = twins.states()
    for one, other in zip(together, alone, strict=True):
        assert one.keys() == other.keys()
        for key, values in one.items():
            torch.testing.assert_close(values, other[key], rtol=1e-9, atol=1e-11)
    for member, one in zip(twins.members, twins.alone, strict=True):
        for buffer, other in zip(member.network.buffers(), one.member.network.buffers(), strict=True):
            torch.testing.assert_close(buffer, other, rtol=1e-9, atol=1e-11)


@each_network
@quiet
def test_evaluation_is_that_of_each_member_alone(name):
    twins = all_different(name, SGD)
    twins.apart(3)
    before = copy.deepcopy(twins.states()[0])
    together, alone = twins.evaluation()
    assert largest(together, alone) < 1e-12
    for one, other in zip(before, twins.states()[0], strict=True):
        assert all(torch.equal(one[key], other[key]) for key in one)


def test_running_statistics_of_batch_norm_are_those_of_each_member_alone():
    twins = all_different("batch norm", SGD)
    twins.apart(4)
    for member, one in zip(twins.members, twins.alone, strict=True):
        layers = [(m, o) for m, o in zip(member.network, one.member.network, strict=True) if hasattr(m, "running_var")]
        assert len(layers) == 3
        for layer, its in layers:
            assert int(layer.num_batches_tracked) == int(its.num_batches_tracked) == 4
            torch.testing.assert_close(layer.running_mean, its.running_mean, rtol=0, atol=1e-13)
            torch.testing.assert_close(layer.running_var, its.running_var, rtol=0, atol=1e-13)


def test_schedules_reach_the_steps_of_each_member_for_itself():
    twins = all_different("mlp", SGD)
    schedules = []
    for members in (list(twins.members), [one.member for one in twins.alone]):
        for index, member in enumerate(members):
            kinds = [lambda o: StepLR(o, 1, gamma=0.3), lambda o: ExponentialLR(o, 2.0)]
            schedules.append(kinds[index % 2](member.optimizer))
    for _ in range(4):
        assert_as_alone(twins, times=3)
        for schedule in schedules:
            schedule.step()
        twins.stepper.begin_epoch()
    rates = [member.optimizer.param_groups[0]["lr"] for member in twins.members]
    assert rates == [one.member.optimizer.param_groups[0]["lr"] for one in twins.alone]
    assert rates[0] < LRS[0] and rates[1] > LRS[1]


def test_each_gradient_is_clipped_by_its_own_norm_and_limit():
    def steep(index):  # one member's gradient is a million times as large as the others'
        network = nn.Linear(4, NUM_CLASSES)
        return nn.Sequential(network, Times(1e6 if index == 2 else 1.0))

    limits = [1e-4, None, 1e-2, 1e-4]
    twins = Twins(steep, rows(4), clip_norm=limits.__getitem__, optimizer=lambda i, n: SGD(n.parameters(), lr=1.0))
    before = [[param.clone() for param in member.network.parameters()] for member in twins.members]
    twins.step()
    moved = []
    for params, member in zip(before, twins.members, strict=True):
        pairs = zip(params, member.network.parameters(), strict=True)
        moved.append(torch.cat([(old - new).flatten() for old, new in pairs]).norm().item())
    assert moved[0] == pytest.approx(1e-4, rel=1e-2)
    assert moved[1] > 1e-2
    assert moved[2] == pytest.approx(1e-2, rel=1e-2)
    assert moved[3] == pytest.approx(1e-4, rel=1e-2)
    assert_same_parameters(twins)


class Times(nn.Module):
    """Scales its inputs by a buffer of its own."""

    def __init__(self, factor):
        super().__init__()
        self.register_buffer("factor", torch.tensor(factor))

    def forward(self, inputs):
        return inputs * self.factor


def test_a_member_without_a_limit_is_not_touched_by_a_norm_that_overflows():
    def huge(index):
        return nn.Sequential(nn.Linear(4, NUM_CLASSES), Times(1e25 if index else 1.0))

    def mean(index):
        return lambda preds, targets: preds.mean()

    tiny = Twins(
        huge,
        rows(4),
        size=2,
        loss=mean,
        clip_norm=[1.0, None].__getitem__,
        dtype=torch.float32,
        optimizer=lambda index, network: SGD(network.parameters(), lr=1e-25),
    )
    tiny.step()
    assert_same_parameters(tiny, tolerance=1e-6)


def assert_same_parameters(twins, tolerance=1e-12):
    for one, other in zip(*twins.states(), strict=True):
        for key, values in one.items():
            torch.testing.assert_close(values, other[key], rtol=tolerance, atol=tolerance)


class Strided(nn.Module):
    """Its weights get gradients in other orders of memory than their own."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.weight = nn.Parameter(torch.randn(16, NUM_CLASSES) / 4)
        self.turned = nn.Parameter((torch.randn(9, 4) / 4).t())  # not contiguous

    def forward(self, inputs):
        channels_last = inputs.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)
        images = self.conv(channels_last)
        features = images.flatten(2) @ self.turned.t()
        return features.permute(0, 2, 1).flatten(1) @ self.weight


@each_arithmetic
@whether_shared
def test_gradients_and_weights_in_another_order_of_memory_are_right(arithmetic, shared):
    twins = Twins(
        lambda index: Strided(), rows(3, 5, 5), optimizer=optimizer_of(Adam), arithmetic=arithmetic, shared=shared
    )
    assert_as_alone(twins)
    assert_same_parameters(twins, 1e-9)


def test_a_network_in_channels_last_is_right():
    def network(index):
        return NETWORKS["classroom cnn"][0](index).to(memory_format=torch.channels_last)

    assert_as_alone(Twins(network, NETWORKS["classroom cnn"][1], optimizer=optimizer_of(AdamW), arithmetic=LOOPED))


def test_a_frozen_part_stays_and_the_rest_is_trained_as_alone():
    def network(index):
        made = mlp(index)
        made[1].requires_grad_(False)
        return made

    def optimizer(index, network):
        return Adam(network[3].parameters(), lr=LRS[index])

    twins = Twins(network, rows(1, 4, 4), optimizer=optimizer)
    frozen = [member.network[1].weight.clone() for member in twins.members]
    assert_as_alone(twins)
    for member, weight in zip(twins.members, frozen, strict=True):
        assert torch.equal(member.network[1].weight, weight)
        assert not member.network[1].weight.requires_grad


def test_param_groups_of_their_own_rates_are_right():
    def optimizer(index, network):
        groups = [{"params": network[3].parameters(), "lr": LRS[index] / 3}, {"params": network[1].parameters()}]
        return AdamW(groups, lr=LRS[index], weight_decay=DECAYS[index])

    assert_as_alone(Twins(mlp, rows(1, 4, 4), optimizer=optimizer))


def test_the_optimizers_hold_what_each_has_alone_when_it_is_written_back():
    twins = all_different("mlp", Adam)
    twins.apart(5)
    twins.stepper.write_back()
    for member, one in zip(twins.members, twins.alone, strict=True):
        state, its = member.optimizer.state_dict()["state"], one.member.optimizer.state_dict()["state"]
        assert state.keys() == its.keys()
        for index, values in state.items():
            assert values["step"] == 5
            torch.testing.assert_close(values["exp_avg"], its[index]["exp_avg"], rtol=1e-9, atol=1e-12)


# one member


def test_for_one_member_the_shapes_have_no_k():
    members = [Member.build(0, mlp, optimizer_of(SGD), smoothed, clip_norm_of)]
    stepper = fused_stepper(members, shared=True)
    batch = drawn(rows(1, 4, 4), 1, shared=True)[0]
    loss, preds, targets = stepper.step(*batch)
    assert loss.shape == ()
    assert preds.shape == (8, NUM_CLASSES)
    assert torch.equal(targets, batch[1])


def test_what_a_step_returns_keeps_no_graph_alive():
    _, stepper = grouped(mlp, shared=True)
    loss, preds, targets = stepper.step(*drawn(rows(1, 4, 4), 1, shared=True)[0])
    assert (loss.shape, preds.shape, targets.shape) == ((4,), (4, 8, NUM_CLASSES), (4, 8))
    assert not loss.requires_grad and not preds.requires_grad


def test_targets_that_are_no_classes_are_right():
    def inputs(draws):
        return torch.rand(8, 4, generator=draws)

    def targets(draws, inputs):
        return inputs.sum(1, keepdim=True)

    for loss in (F.mse_loss, nn.L1Loss(), nn.SmoothL1Loss(beta=0.3), nn.HuberLoss()):
        twins = Twins(
            lambda index: nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 1)),
            inputs,
            targets=targets,
            loss=lambda index, loss=loss: copy.deepcopy(loss),
        )
        assert_as_alone(twins)


def test_batch_norm_is_a_group_affair_of_no_one():
    """The statistics are each member's own, though one network's batches are far from the others'."""
    twins = Twins(with_batch_norm, IMAGES, size=2, arithmetic=LOOPED)
    batch = twins.batch()
    far = (batch[0] * torch.tensor([1.0, 1000.0]).view(2, 1, 1, 1, 1), batch[1])
    outcome = twins.stepper.step(*far)
    alone = [one.step(*its) for one, its in zip(twins.alone, twins.each(far), strict=True)]
    assert largest(outcome.loss, torch.stack([one.loss for one in alone])) < 1e-12
