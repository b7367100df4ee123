"""A member of a group steps as it does alone, whatever differs between the members, and none of them notices the others."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.optim import SGD, Adagrad, Adam, AdamW, RMSprop
from torch.optim.lr_scheduler import ExponentialLR, StepLR

from runmanager.training.skeleton import ARITHMETICS, LOOPED, VMAP
from tests.training.fused_networks import CONVOLVING, IMAGES, NETWORKS, mlp, with_batch_norm
from tests.training.fused_twins import NUM_CLASSES, Member, Twins, classes, fused_stepper, largest, rows

torch.set_num_threads(1)
LRS = [0.02, 0.005, 0.01, 0.002]
SHARES = {RMSprop: 0.1}  # of the rate: its first steps are long
DECAYS = [0.0, 0.1, 0.02, 0.3]
CLIPS = [None, 0.05, 1.0, 100.0]
SMOOTHINGS = [0.0, 0.1, 0.2, 0.05]
SETTINGS = {
    SGD: [{"momentum": m, "nesterov": True} for m in (0.9, 0.5, 0.1, 0.7)],
    Adam: [{"betas": b} for b in ((0.9, 0.999), (0.8, 0.99), (0.5, 0.9), (0.95, 0.98))],
    AdamW: [{"betas": b, "eps": e} for b, e in (((0.9, 0.99), 1e-8), ((0.5, 0.9), 1e-6), ((0.8, 0.9), 1e-7)) * 2],
    RMSprop: [{"alpha": a, "momentum": m} for a, m in ((0.99, 0.0), (0.9, 0.9), (0.5, 0.1), (0.8, 0.5))],
    Adagrad: [{"lr_decay": d, "initial_accumulator_value": v} for d, v in ((0, 0), (0.1, 0.1), (0.01, 1), (0.5, 0.3))],
}
each_network = pytest.mark.parametrize("name", NETWORKS)
each_convolving = pytest.mark.parametrize("name", CONVOLVING)
each_optimizer = pytest.mark.parametrize("kind", SETTINGS, ids=lambda kind: kind.__name__)
each_arithmetic = pytest.mark.parametrize("arithmetic", ARITHMETICS)
quiet = pytest.mark.filterwarnings("ignore:There is a performance drop")
whether_shared = pytest.mark.parametrize("shared", [True, False], ids=["shared batches", "own batches"])


def optimizer_of(kind):
    return lambda index, network: kind(
        network.parameters(),
        lr=LRS[index % 4] * SHARES.get(kind, 1),
        weight_decay=DECAYS[index % 4],
        **SETTINGS[kind][index % 4],
    )


def clip_norm_of(index):
    return CLIPS[index % 4]


def smoothed(index):
    return nn.CrossEntropyLoss(label_smoothing=SMOOTHINGS[index % 4])


def all_different(name, kind=Adam, **settings):
    """Members that differ in all hyperparameters."""
    network, inputs = NETWORKS[name]
    usual = {"optimizer": optimizer_of(kind), "loss": smoothed, "clip_norm": clip_norm_of, "arithmetic": LOOPED}
    return Twins(network, inputs, **{**usual, **settings})


def assert_as_alone(twins, times=10):
    apart = twins.apart(times)
    first, all_steps = (1e-6, 1e-5) if twins.dtype == torch.float32 else (1e-14, 1e-12)
    assert apart[0] <= first
    assert max(apart) <= all_steps


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


# members are independent


def grouped(network, *, size=4, arithmetic=LOOPED, shared=False, loss=smoothed, dtype=torch.float32):
    members = [
        Member.build(index, lambda i: network(i).to(dtype), optimizer_of(AdamW), loss, clip_norm_of)
        for index in range(size)
    ]
    return members, fused_stepper(members, arithmetic, shared=shared)


def drawn(inputs, times, *, size=4, shared=False, dtype=torch.float32):
    """Batches for a group, or one for all its members."""
    draws = torch.Generator().manual_seed(6)
    batches = []
    for _ in range(times):
        each = []
        for _ in range(1 if shared else size):
            made = inputs(draws)
            made = made.to(dtype) if made.is_floating_point() else made
            each.append((made, classes(draws, made)))
        batches.append(each[0] if shared else tuple(map(torch.stack, zip(*each, strict=True))))
    return batches


class Steps:
    """A group's steps, in which something may happen before one of them."""

    def __init__(self, network, inputs, happens=lambda steps, number: None, **settings):
        self.members, self.stepper = grouped(network, **settings)
        self.left, self.losses = list(range(len(self.members))), {}
        shared = settings.get("shared", False)
        batches = drawn(inputs, 6, shared=shared, dtype=settings.get("dtype", torch.float32))
        for number, batch in enumerate(batches):
            happens(self, number)
            own = batch if shared else tuple(part[self.left] for part in batch)
            losses = self.stepper.step(*own).loss.reshape(-1)
            for index, loss in zip(self.left, losses, strict=True):
                self.losses.setdefault(index, []).append(loss)
            self.drop([self.left[place] for place in self.stepper.failures])
        self.stepper.train(False)
        evaluated = self.stepper.evaluate(*drawn(inputs, 1, shared=True, dtype=batches[0][0].dtype)[0])
        self.evaluated = dict(zip(self.left, evaluated.loss.reshape(-1), strict=True))

    def drop(self, numbers):
        if numbers:
            self.stepper.keep([place for place, number in enumerate(self.left) if number not in numbers])
            self.left = [number for number in self.left if number not in numbers]

    def fill(self, number, value):
        with torch.no_grad():
            next(self.members[number].network.parameters()).fill_(value)


def assert_nothing_changed(steps, untouched, numbers):
    for number in numbers:
        assert torch.equal(torch.stack(steps.losses[number]), torch.stack(untouched.losses[number]))
        assert torch.equal(steps.evaluated[number], untouched.evaluated[number])
        state, other = (one.members[number].network.state_dict() for one in (steps, untouched))
        assert all(torch.equal(state[key], other[key]) for key in state)


EVERY_WAY = [(name, LOOPED) for name in NETWORKS] + [(name, VMAP) for name in CONVOLVING]
each_way = pytest.mark.parametrize(("name", "arithmetic"), EVERY_WAY)


@each_way
@pytest.mark.parametrize(("value", "shared"), [(float("nan"), False), (float("inf"), True)])
@quiet
def test_a_member_that_diverges_changes_no_bit_of_another(name, arithmetic, shared, value):
    def happens(steps, number):
        if number == 2:
            steps.fill(1, value)

    settings = {"arithmetic": arithmetic, "shared": shared}
    steps, untouched = Steps(*NETWORKS[name], happens, **settings), Steps(*NETWORKS[name], **settings)
    assert value == float("inf") or torch.stack(steps.losses[1][2:]).isnan().all()
    assert_nothing_changed(steps, untouched, [0, 2, 3])


@each_way
@pytest.mark.parametrize(("dtype", "shared"), [(torch.float32, False), (torch.float32, True), (torch.float64, True)])
@quiet
def test_members_that_leave_change_no_bit_of_the_others_down_to_one(name, arithmetic, shared, dtype):
    def happens(steps, number):
        steps.drop({2: [1], 3: [3], 4: [0]}.get(number, []))

    settings = {"arithmetic": arithmetic, "shared": shared, "dtype": dtype}
    steps, untouched = Steps(*NETWORKS[name], happens, **settings), Steps(*NETWORKS[name], **settings)
    assert steps.stepper.size == 1
    assert_nothing_changed(steps, untouched, [2])


@each_network
@quiet
def test_when_members_leave_the_others_go_on_as_alone(name):
    twins = all_different(name)
    assert_as_alone(twins, times=3)
    for kept in ([0, 2, 3], [1, 2], [1]):
        twins.stepper.keep(kept)
        twins.alone = [twins.alone[index] for index in kept]
        twins.members = [twins.members[index] for index in kept]
        assert_as_alone(twins, times=3)
    together, alone = twins.evaluation()
    assert largest(together, alone[0]) < 1e-12


def test_one_that_leaves_keeps_what_it_had():
    twins = all_different("batch norm")
    twins.apart(3)
    gone = twins.members[1]
    before = copy.deepcopy(gone.network.state_dict()), copy.deepcopy(gone.optimizer.state_dict())
    twins.stepper.keep([0, 2, 3])
    expected = twins.alone.pop(1).member.optimizer.state_dict()
    twins.members.pop(1)
    twins.apart(3)
    assert all(torch.equal(value, before[0][key]) for key, value in gone.network.state_dict().items())
    state = gone.optimizer.state_dict()["state"]
    assert state.keys() == expected["state"].keys()
    for index, values in expected["state"].items():
        torch.testing.assert_close(state[index]["exp_avg"], values["exp_avg"], rtol=1e-9, atol=1e-12)


class Raising(nn.CrossEntropyLoss):
    """It raises in its third batch, where it is told to."""

    def __init__(self, raises):
        super().__init__()
        self.num_left = 2 if raises else -1

    def forward(self, preds, targets):
        if self.num_left == 0:
            raise ValueError("no loss today")
        self.num_left -= 1
        return super().forward(preds, targets)


@pytest.mark.parametrize(("name", "arithmetic"), [("mlp", VMAP), ("dropout", VMAP), ("dropout", LOOPED)])
@whether_shared
def test_a_loss_that_raises_ends_its_own_member_alone(name, arithmetic, shared):
    settings = {"shared": shared, "arithmetic": arithmetic}
    steps = Steps(*NETWORKS[name], loss=lambda index: Raising(index == 1), **settings)
    untouched = Steps(*NETWORKS[name], loss=lambda index: Raising(False), **settings)
    assert steps.left == [0, 2, 3]
    assert len(steps.losses[1]) == 3  # the last of them stands for what it raised
    assert_nothing_changed(steps, untouched, [0, 2, 3])


def test_what_a_loss_raises_is_known_by_the_place_of_its_member():
    _, stepper = grouped(mlp, loss=lambda index: Raising(index in (1, 3)))
    for batch in drawn(rows(1, 4, 4), 3):
        stepper.step(*batch)
    assert {place: str(error) for place, error in stepper.failures.items()} == {1: "no loss today", 3: "no loss today"}
    stepper.keep([0, 2])
    assert stepper.failures == {}


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
