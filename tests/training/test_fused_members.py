"""Members of a group do not notice each other: whoever diverges, fails or leaves changes no bit of another."""

import copy

import pytest
import torch
from torch import nn

from runmanager.training.arithmetics import LOOPED, VMAP
from tests.training.fused_cases import (
    all_different,
    assert_as_alone,
    drawn,
    each_network,
    grouped,
    quiet,
    whether_shared,
)
from tests.training.fused_networks import CONVOLVING, NETWORKS, mlp
from tests.training.fused_twins import largest, rows


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
