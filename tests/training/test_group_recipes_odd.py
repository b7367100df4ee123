"""Odd cases of averages and thawed parameters in a group: each run leaves what it does alone."""

import gc
import weakref

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from runmanager.training.group import GroupBroken
from tests.training.group_sweeps import RUNS, Sweep, after, assert_close, mlp, runs_of, tiny, trainer, with_epochs

LR = 0.05  # of the run that is other than the rest
LATE = {"average": "swa", "swa_start": lambda run: 3 if run.lr == LR else 2, "epochs": 3}


class Counting(nn.Module):
    """A loss that gets flatter with each call, and may raise at one of them outside of training."""

    def __init__(self, last=None):
        super().__init__()
        self.calls, self.validations, self.last = 0, 0, last

    def forward(self, preds, targets):
        self.calls += 1
        self.validations += not torch.is_grad_enabled()
        if self.validations == self.last:
            raise ValueError("enough")
        return F.cross_entropy(preds / (1 + self.calls / 10), targets)


class Halved(nn.Module):
    """A body in half precision below a head in single precision."""

    def __init__(self):
        super().__init__()
        self.body, self.head = nn.Linear(36, 8).bfloat16(), nn.Linear(8, 3)

    def forward(self, inputs):
        inner = torch.tanh(self.body(inputs.flatten(1).to(self.body.weight.dtype)))
        return self.head(inner.to(self.head.weight.dtype))


class Kept(nn.Module):
    """A normalisation that keeps what it brings along, as in fine-tuning."""

    def __init__(self):
        super().__init__()
        self.norm, self.head = nn.BatchNorm2d(1), nn.Linear(36, 3)
        self.norm.running_mean.fill_(0.7)
        self.norm.running_var.fill_(3.0)

    def train(self, mode=True):
        super().train(mode)
        self.norm.eval()
        return self

    def forward(self, inputs):
        return self.head(self.norm(inputs).flatten(1))


class Told(nn.Module):
    """A layer that counts batches, and one that reads the count of the other from the same buffer."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(36, 8), nn.Linear(8, 3)
        count = torch.zeros(())
        self.first.register_buffer("count", count)
        self.second.register_buffer("seen", count)

    def forward(self, inputs):
        if self.training:
            self.first.count.add_(1)
        return self.second(torch.tanh(self.first(inputs.flatten(1))) / (1 + self.second.seen / 10))


def without_statistics():
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4, track_running_stats=False), nn.Flatten(), nn.Linear(64, 3)
    )


def both(folder, training, runs):
    group, alone = (Sweep(folder / name, training, runs) for name in ("group", "alone"))
    return group.together(), alone.alone()


def saved(sweep):
    folders = sorted(sweep.folder.glob("runs/*/*/checkpoints"))
    return [torch.load(max(folder.glob("epoch-*.pt")), weights_only=True)["state"] for folder in folders]


@pytest.mark.parametrize("still", [0.1, LR])
def test_runs_with_and_without_momentum_thaw_together(still, tmp_path):
    def optimizer(run, network):
        return torch.optim.SGD(network.parameters(), lr=run.lr, momentum=0.0 if run.lr == still else 0.9)

    training = tiny(optimizer=optimizer, freeze="1.*", unfreeze={2: "1.weight", 3: "1.bias"})
    group, alone = both(tmp_path, training, runs_of())
    assert_close(group.numbers(), alone.numbers())


def test_a_normalisation_without_statistics_has_none_to_refresh(tmp_path):
    group, alone = both(tmp_path, tiny(network=without_statistics, average="swa", swa_start=1), runs_of())
    assert_close(group.numbers(), alone.numbers())


def test_the_loss_of_a_run_without_an_average_is_not_asked_for_one(tmp_path):
    group, alone = both(tmp_path, tiny(loss=lambda run: Counting(), **LATE), runs_of())
    assert_close(group.numbers(), alone.numbers())
    calls = [[state["numbers"]["loss.calls"] for state in saved(sweep)] for sweep in (group, alone)]
    assert calls[0] == calls[1]


def test_a_run_without_an_average_is_not_ended_by_one(tmp_path):
    # it validates once in each of its first two epochs, so that the third time is in its third epoch
    training = tiny(loss=lambda run: Counting(3 if run.lr == LR else None), **LATE)
    group = Sweep(tmp_path, training, runs_of()).together()
    assert group.statuses() == {1: "completed", 2: "failed", 3: "completed", 4: "completed"}
    assert group.sizes()[2] == [4, 4]


def test_thawed_parameters_keep_their_precision(tmp_path):
    training = tiny(network=lambda run: Halved(), freeze="body.*", unfreeze={2: "body.*"})
    sweep = Sweep(tmp_path, training, runs_of())
    with pytest.raises(GroupBroken, match="several dtypes"):
        sweep.together()


@pytest.mark.parametrize("way", ["alone", "together"])
def test_the_average_keeps_the_statistics_of_a_normalisation_that_is_not_trained(way, tmp_path):
    training = tiny(network=lambda run: Kept(), average="swa", swa_start=1)
    sweep = getattr(Sweep(tmp_path, training, runs_of()), way)()
    for state in saved(sweep):
        assert state["average"]["averaged"]["module.norm.running_mean"].tolist() == pytest.approx([0.7])


@pytest.mark.parametrize("recipe", [{}, {"average": "ema"}], ids=["plain", "averaged"])
def test_what_runs_that_left_were_trained_with_is_let_go(recipe, tmp_path):
    weights, there = [], {}

    def network(run):
        made = mlp()
        weights.append(weakref.ref(made[1].weight))
        return made

    def look(row):
        if row.epoch == 4 or row.run == 1:
            gc.collect()
        there[row.epoch] = [weight() is not None for weight in weights]

    training = tiny(network=network, epochs=None, **recipe)
    Sweep(tmp_path, training, with_epochs(1, 2, 4, 4), stop_when=look).together()
    assert there[1] == [True] * 4  # views of one tensor that holds the weights of all
    assert there[4] == [False, False, True, True]


@pytest.mark.parametrize("recipe", [{"average": "swa", "swa_start": 2, "accumulate": 3, "shuffle": True}])
def test_a_group_of_one_is_what_it_is_alone(recipe, tmp_path):
    group, alone = both(tmp_path, trainer(**recipe), RUNS[:1])
    assert_close(group.numbers(), alone.numbers())


def test_a_buffer_under_two_names_stays_one(tmp_path):
    group, alone = both(tmp_path, tiny(network=lambda run: Told()), runs_of())
    assert_close(group.numbers(), alone.numbers())
    for state in saved(group):
        assert state["network"]["first.count"] == state["network"]["second.seen"] == 9


def test_a_run_whose_state_does_not_fit_any_more_ends_alone(tmp_path):
    def adam(run, network):
        return torch.optim.Adam(network.parameters(), lr=run.lr)

    waits = {"patience": lambda run: 5 if run.lr == LR else None}
    Sweep(tmp_path, tiny(optimizer=adam, **waits), runs_of(), stop_when=after(2)).together()
    later = Sweep(tmp_path, tiny(optimizer=adam), runs_of()).together()
    assert later.statuses() == {1: "completed", 2: "failed", 3: "completed", 4: "completed"}
    assert later.sizes() == {1: [4, 4, 3], 2: [4, 4], 3: [4, 4, 3], 4: [4, 4, 3]}


class TimeFirst(nn.Module):
    """Predictions [T, N, C], as recurrent layers give them."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(6, 3)

    def forward(self, inputs):
        return self.layer(inputs.squeeze(1).transpose(0, 1))


def test_pieces_whose_predictions_do_not_begin_with_samples_are_trained(tmp_path):
    def loss(preds, targets):
        return F.cross_entropy(preds.mean(0), targets)

    parts = {"network": TimeFirst, "loss": lambda run: loss}
    group, alone = both(tmp_path, tiny(**parts, accumulate=3), runs_of())
    assert_close(group.losses(), alone.losses())
    assert_close(alone.losses(), Sweep(tmp_path / "whole", tiny(**parts), runs_of()).alone().losses())
