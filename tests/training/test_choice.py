"""How runs are trained is found out by steps that leave nothing behind, and what cannot go together goes alone, with its cause."""

import copy
import random
import warnings

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import Dataset

from runmanager import RunBuilder, Trainer
from runmanager.training.alike import NotFusable
from runmanager.training.arithmetics import ALONE, LOOPED, VMAP
from runmanager.training.choice import Trial, choose
from runmanager.training.loaders import NotResident
from tests.training.fused_networks import ClassroomCNN
from tests.training.odd_networks import BATCH_SIZE, REFUSED, TAKEN, Dropping, Noisy, NoisyFromPython, Usual

torch.set_num_threads(1)
INPUTS = torch.rand(60, 4, generator=torch.Generator().manual_seed(0))
TARGETS = (INPUTS.sum(1) * 1.4).long() % 3


def sgd(run, network):
    return torch.optim.SGD([one for one in network.parameters() if one.requires_grad], lr=run.lr, momentum=0.9)


def runs_of(number=4, **params):
    return RunBuilder.get_runs({"lr": [0.1 / (1 + place) for place in range(number)], **params})


def trial_of(folder, network=Usual, number=4, **parts):
    usual = {
        "network": network,
        "data": ((INPUTS, TARGETS), (INPUTS[:7], TARGETS[:7])),
        "optimizer": sgd,
        "loss": F.cross_entropy,
        "epochs": 2,
        "batch_size": BATCH_SIZE,
        "device": "cpu",
    }
    return Trial(Trainer(**{**usual, **parts}), runs_of(number), 0, folder)


def try_all(trial, size=4):
    for arithmetic in trial.arithmetics():
        trial.fused(size, arithmetic)


@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize(
    ("cause", "network"), [(cause, network) for cause, networks in REFUSED.items() for network in networks]
)
def test_a_network_that_cannot_be_stacked_is_refused_with_one_line_that_names_the_cause(
    cause, network, shuffle, tmp_path
):
    with pytest.raises(NotFusable, match=cause) as raised:
        try_all(trial_of(tmp_path, network, shuffle=shuffle))
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize("network", TAKEN)
def test_a_network_that_is_only_unusual_is_taken(network, shuffle, tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try_all(trial_of(tmp_path, network, shuffle=shuffle))


def test_members_that_do_not_agree_are_refused(tmp_path):
    def network(run):
        return nn.Sequential(nn.Linear(4, 6), nn.LeakyReLU(run.lr), nn.Linear(6, 3))

    with pytest.raises(NotFusable, match="built differently"):
        try_all(trial_of(tmp_path, network))


def test_a_loss_that_draws_is_refused(tmp_path):
    def loss(preds, targets):
        return F.cross_entropy(preds + torch.rand(()), targets)

    with pytest.raises(NotFusable, match="random numbers"):
        try_all(trial_of(tmp_path, loss=loss))


def test_a_member_that_does_other_things_in_a_group_is_refused(tmp_path):
    """What no other test sees: dropout that changes what the network reads by another name."""

    class InPlace(Usual):
        def __init__(self):
            super().__init__()
            self.drop = nn.Dropout(0.5, inplace=True)

        def forward(self, inputs):
            self.drop(inputs)
            return super().forward(inputs)

    with pytest.raises(NotFusable, match=r"in a group and .* alone"):
        try_all(trial_of(tmp_path, InPlace))


# the choice


def test_small_networks_are_trained_together(tmp_path):
    choices = [choose(trial_of(tmp_path, number=8), 8) for _ in range(3)]  # another process may be in the way of one
    choice = max(choices, key=lambda one: one.size)
    assert (choice.size, choice.arithmetic) == (8, VMAP)
    assert choice.step_seconds < choice.alone_seconds
    assert choice.num_steps == 4
    assert "times as fast as one by one" in choice.reason


def test_what_cannot_be_fused_is_chosen_alone_with_its_reason(tmp_path):
    for forced in (True, False):
        choice = choose(trial_of(tmp_path, Dropping), 4, forced=forced)
        assert (choice.size, choice.arithmetic) == (1, ALONE)
        assert "random numbers outside of dropout layers" in choice.reason
        assert choice.step_seconds > 0


def test_a_run_that_is_the_only_one_of_its_kind_is_trained_alone(tmp_path):
    choice = choose(trial_of(tmp_path, number=1), 1)
    assert (choice.size, choice.arithmetic, choice.reason) == (1, ALONE, "it is the only one of its kind")


def test_a_forced_size_is_the_size(tmp_path):
    choice = choose(trial_of(tmp_path, number=5), 5, forced=True)
    assert choice.size == 5


def test_on_a_cpu_convolutions_are_looped(tmp_path):
    images = (torch.rand(20, 1, 14, 14), torch.arange(20) % 3)
    trial = trial_of(tmp_path, ClassroomCNN, data=(images, images), batch_size=10)
    assert trial.arithmetics() == [LOOPED]
    assert choose(trial, 3, forced=True).arithmetic == LOOPED


@pytest.mark.parametrize("network", [Usual, Noisy, NoisyFromPython, Dropping])
def test_choosing_leaves_the_random_numbers_outside_as_they_were(network, tmp_path):
    before = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()
    choose(trial_of(tmp_path, network), 4, forced=True)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert (np.random.get_state()[1].tolist(), random.getstate()) == before[1:]


def test_choosing_does_not_touch_the_users_network(tmp_path):
    network = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Dropout(0.5), nn.Linear(6, 3)).eval()
    before = copy.deepcopy(network.state_dict())
    choose(trial_of(tmp_path, network), 4, forced=True)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert all(param.grad is None for param in network.parameters())
    assert not any(module.training for module in network.modules())


class Augmenting(Dataset):
    """Its samples are drawn from a generator of its own."""

    def __init__(self):
        self.draws = torch.Generator().manual_seed(3)

    def __len__(self):
        return len(INPUTS)

    def __getitem__(self, index):
        return INPUTS[index] + torch.rand(4, generator=self.draws), int(TARGETS[index])


def test_data_that_draws_is_not_tried_and_draws_as_if_nobody_had_looked(tmp_path):
    data = Augmenting()
    before = data.draws.get_state()
    with pytest.raises(NotResident):
        trial_of(tmp_path, data=(data, data))
    assert torch.equal(data.draws.get_state(), before)


def test_a_user_is_not_told_what_torch_has_not_implemented(tmp_path):
    class WithCell(Usual):
        def __init__(self):
            super().__init__()
            self.cell = nn.GRUCell(6, 6)

        def between(self, values):
            return self.cell(values)

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        choose(trial_of(tmp_path, WithCell), 4, forced=True)


def test_a_batch_in_pieces_is_tried_with_several_samples_in_each(tmp_path):
    """BatchNorm takes no piece of one."""
    network = lambda: nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 3))  # noqa: E731
    choice = choose(trial_of(tmp_path, network, accumulate=4), 4)
    assert choice.is_timed
    assert choice.alone_seconds > 0
