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
from runmanager.training.choice import ALONE, Trial, choose
from runmanager.training.loaders import NotResident
from runmanager.training.skeleton import LOOPED, VMAP
from tests.training.fused_networks import ClassroomCNN, Embedded, Lstm

torch.set_num_threads(1)
INPUTS = torch.rand(60, 4, generator=torch.Generator().manual_seed(0))
TARGETS = (INPUTS.sum(1) * 1.4).long() % 3
BATCH_SIZE = 16  # the last batch has 12


class Usual(nn.Module):
    """Two layers; what is between them is another matter."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(4, 6), nn.Linear(6, 3)

    def forward(self, inputs):
        return self.last(self.between(torch.tanh(self.first(inputs))))

    def between(self, values):
        return values


class Counting(Usual):
    calls = 0

    def between(self, values):
        self.calls += 1
        return values


class CountingInEvaluation(Usual):
    calls = 0

    def between(self, values):
        self.calls += not self.training
        return values


class Keeping(Usual):
    def between(self, values):
        self.seen = values
        return values


class Collecting(Usual):
    def __init__(self):
        super().__init__()
        self.seen = []

    def between(self, values):
        self.seen.append(values.detach())
        return values


class LookingAtAValue(Usual):
    def between(self, values):
        return values * self.first.weight.sum().item()


class Deciding(Usual):
    def between(self, values):
        return values if values.sum() > 0 else -values


class DecidingInEvaluation(Usual):
    def between(self, values):
        return values if self.training or values.sum() > 0 else -values


class CumulativeNorm(Usual):
    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(6, momentum=None)

    def between(self, values):
        return self.norm(values)


class Dropping(Usual):
    def between(self, values):
        return F.dropout(values, 0.5, self.training)


class Noisy(Usual):
    def between(self, values):
        return values + torch.rand(6)


class NoisyLike(Usual):
    def between(self, values):
        return values + torch.randn_like(values)


class NoisyFromPython(Usual):
    def between(self, values):
        return values * random.random()


class NoisyFromNumpy(Usual):
    def between(self, values):
        return values * float(np.random.rand())


class ReplacingABuffer(Usual):
    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.zeros(6))

    def between(self, values):
        self.mean = self.mean * 0.9 + values.mean(0).detach() * 0.1
        return values - self.mean


class MakingABuffer(Usual):
    def __init__(self):
        super().__init__()
        self.register_buffer("mean", None)

    def between(self, values):
        now = values.mean(0).detach()
        self.mean = now if self.mean is None else self.mean * 0.9 + now * 0.1
        return values - self.mean


class Hooked(Usual):
    def __init__(self):
        super().__init__()
        self.first.register_forward_hook(lambda module, inputs, output: output * 2)


class Lazy(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.LazyLinear(3)

    def forward(self, inputs):
        return self.layer(inputs)


class WithAnUnusedLayer(Usual):
    def __init__(self):
        super().__init__()
        self.unused = nn.Linear(6, 6)


class UsingALayerForWholeBatches(Usual):
    def __init__(self):
        super().__init__()
        self.more = nn.Linear(6, 6)

    def between(self, values):
        return self.more(values) if len(values) == BATCH_SIZE else values


class OfTwoTypes(Usual):
    def __init__(self):
        super().__init__()
        self.last.double()

    def between(self, values):
        return values.double()


class OverTokens(Embedded):
    def forward(self, inputs):
        return super().forward((inputs * 11).long())


class Doubling(torch.autograd.Function):
    """It has no rule for vmap."""

    @staticmethod
    def forward(ctx, values):
        return values * 2

    @staticmethod
    def backward(ctx, grads):
        return grads * 2


class OwnFunction(Usual):
    def between(self, values):
        return Doubling.apply(values)


class ToNumpy(Usual):
    def between(self, values):
        return values + float(values.detach().numpy().mean())


class Pair(Usual):
    def forward(self, inputs):
        return super().forward(inputs), inputs


class ChangingItsInputs(Usual):
    def forward(self, inputs):
        return super().forward(inputs.add_(self.first.bias.detach().mean()))


REFUSED = {
    "its forward changes an attribute": [Counting, CountingInEvaluation, Keeping, Collecting],
    "looks at values": [LookingAtAValue, Deciding, DecidingInEvaluation, CumulativeNorm],
    "random numbers outside of dropout layers": [Dropping, Noisy, NoisyLike, NoisyFromPython, NoisyFromNumpy],
    "mean": [ReplacingABuffer, MakingABuffer],
    "hook on first": [Hooked],
    "shape with the first batch": [Lazy],
    "gets no gradient": [WithAnUnusedLayer, UsingALayerForWholeBatches],
    "several dtypes": [OfTwoTypes],
    "LSTM": [Lstm],
    "sparse": [lambda: OverTokens(sparse=True)],
    "padding_idx": [lambda: OverTokens(padding_idx=0)],
    "cannot be stacked": [OwnFunction, ToNumpy, Pair, ChangingItsInputs],
}


class Frozen(Usual):
    def __init__(self):
        super().__init__()
        self.first.requires_grad_(False)


class ChangingABuffer(Usual):
    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.zeros(6))

    def between(self, values):
        with torch.no_grad():
            self.mean.mul_(0.9).add_(values.mean(0), alpha=0.1)
        return values - self.mean


class Detaching(Usual):
    def between(self, values):
        return values + values.detach()


class WithTensorOutside(Usual):
    def __init__(self):
        super().__init__()
        self.shift = torch.arange(6.0)

    def between(self, values):
        return values + self.shift


TAKEN = [Usual, Frozen, ChangingABuffer, Detaching, WithTensorOutside, OverTokens]


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
