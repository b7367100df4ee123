"""A Trainer's state goes through a file and back, and says what does not fit."""

import io
from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import Dataset, TensorDataset

from runmanager.data.splits import Splits
from runmanager.training.checkpoints import TrainingState
from runmanager.training.parts import Parts
from runmanager.training.recipe import Recipe
from runmanager.training.recipes.scheduling import Schedule
from runmanager.training.settings import TrainerError

INPUTS, TARGETS = torch.rand(8, 4), torch.tensor([0, 1] * 4)


def linear():
    return nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Linear(3, 2))


def built(network=linear, optimizer=torch.optim.Adam, loss=F.cross_entropy, schedule=None, data=None):
    """What a run that was just built has: its parts, and its state."""
    made = network()
    optimizer = optimizer(made.parameters(), lr=0.1)
    recipe = Recipe(
        schedule=Schedule(schedule(optimizer), every="epoch", length=9, monitor="val_loss") if schedule else None
    )
    parts = Parts(made, optimizer, loss, recipe)
    splits = Splits(data or TensorDataset(INPUTS, TARGETS))
    return parts, TrainingState(parts, torch.Generator().manual_seed(1), splits)


def in_groups(*places, **named):
    """An optimizer with the parameters at these places in a group each."""

    def make(parameters, lr):
        found = list(parameters)
        groups = [{"params": [found[place] for place in group], **named} for group in places]
        return torch.optim.Adam(groups, lr=lr)

    return make


def step(parts):
    parts.optimizer.zero_grad()
    loss = parts.loss(parts.network(INPUTS), TARGETS)
    loss.backward()
    parts.optimizer.step()
    return loss.item()


def saved(state):
    """What a file gives back."""
    file = io.BytesIO()
    torch.save(state.capture(), file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def after_steps(**parts):
    made, state = built(**parts)
    for _ in range(3):
        step(made)
    return made, saved(state)


def exponential(optimizer):
    return torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)


def test_what_comes_back_goes_on_as_what_was_saved():
    parts, content = after_steps()
    other, state = built()
    state.restore(content)
    for _ in range(3):
        assert step(other) == step(parts)


def test_the_tensors_are_the_live_ones():
    parts, state = built()
    weight = state.capture()["network"]["0.weight"]
    step(parts)
    assert torch.equal(weight, parts.network[0].weight)


def test_a_network_whose_shapes_are_known_at_the_first_batch_comes_back():
    def lazy():
        return nn.Sequential(nn.LazyLinear(3), nn.LazyBatchNorm1d(), nn.LazyLinear(2))

    parts, content = after_steps(network=lazy)
    other, state = built(network=lazy)
    state.restore(content)
    for _ in range(3):
        assert step(other) == step(parts)


class Filling(nn.Module):
    """Its buffers get their values, and their shapes, from the first batch."""

    def __init__(self):
        super().__init__()
        self.register_buffer("first", None)
        self.register_buffer("grown", torch.zeros(1))
        self.register_buffer("hidden", None, persistent=False)
        self.layer = nn.Linear(4, 2)

    def forward(self, inputs):
        if self.first is None:
            self.first = inputs[0].clone()
            self.hidden = inputs[1].clone()
            self.grown = inputs[2].clone()
        return self.layer(inputs - self.first + self.hidden * self.grown)


def test_buffers_that_are_filled_in_training_come_back():
    parts, content = after_steps(network=Filling)
    parts.network.first += 1  # so that it cannot be found anew from the first batch
    content["network"]["first"] += 1
    other, state = built(network=Filling)
    state.restore(content)
    for _ in range(3):
        assert step(other) == step(parts)


class Counting(nn.Linear):
    """Keeps a number as a plain attribute."""

    def __init__(self):
        super().__init__(4, 2)
        self.num_calls = 0

    def forward(self, inputs):
        self.num_calls += 1
        return super().forward(inputs) * self.num_calls


def test_numbers_that_a_module_counts_come_back_and_those_that_stay_are_not_saved():
    parts, content = after_steps(network=Counting)
    assert content["numbers"] == {"network.num_calls": 3}
    other, state = built(network=Counting)
    state.restore(content)
    assert step(other) == step(parts)
    assert "numbers" not in after_steps()[1]


class Whitening(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, preds, targets):
        self.seen += 1
        return F.cross_entropy(preds, targets) / self.seen


def test_a_loss_with_buffers_comes_back():
    parts, content = after_steps(loss=Whitening())
    other, state = built(loss=Whitening())
    state.restore(content)
    assert step(other) == step(parts)


class Noisy(Dataset):
    def __init__(self, late):
        self.rng = None if late else np.random.Generator(np.random.MT19937(1))

    def __len__(self):
        return 8

    def __getitem__(self, index):
        torch.rand(())
        if self.rng is None:
            self.rng = np.random.Generator(np.random.MT19937(1))
        return self.rng.random(), 0


@pytest.mark.parametrize("late", [False, True])
def test_a_generator_of_the_data_comes_back_even_one_that_is_made_when_it_is_first_read(late):
    data = Noisy(late)
    _, state = built(data=data)
    for index in range(5):
        data[index]
    content, expected = saved(state), data[5]
    other = Noisy(late)
    _, state = built(data=other)
    torch.manual_seed(1)
    before = torch.get_rng_state()
    state.restore(content)
    assert torch.equal(torch.get_rng_state(), before)
    assert other[5] == expected


@pytest.mark.parametrize(
    ("before", "now", "said"),
    [
        ({}, {"network": lambda: nn.Linear(4, 2)}, "network does not fit the run: .*Missing key"),
        (
            {},
            {"network": lambda: nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Linear(5, 2))},
            "network does not fit the run: .*size mismatch for 0.weight",
        ),
        ({"optimizer": torch.optim.SGD}, {}, "the optimizer has no dampening, momentum, nesterov now"),
        ({"schedule": exponential}, {}, "the checkpoint has a scheduler, and the run has none now"),
        ({}, {"schedule": exponential}, "the checkpoint has no scheduler, and the run has one now"),
        (
            {"optimizer": in_groups([0], [1, 2, 3, 4, 5])},
            {},
            r"group 0 of the optimizer was 0\.weight, and is 0\.weight, 0\.bias, 1\.weight, 1\.bias and 2 more now",
        ),
        (
            {},
            {"optimizer": in_groups([0, 1, 2, 3, 4, 5], [])},
            r"group 1 of the optimizer was none, and is no parameters now",
        ),
        (
            {"optimizer": in_groups([0, 1], [2, 3, 4, 5])},
            {"optimizer": in_groups([0, 2], [1, 3, 4, 5])},  # of the same shapes
            r"group 0 of the optimizer was 0\.weight, 0\.bias, and is 0\.weight, 1\.weight now",
        ),
        (
            {"optimizer": in_groups([0, 1, 2, 3, 4, 5], name="body")},
            {"optimizer": in_groups([0, 1, 2, 3, 4, 5], name="head")},
            r"was 'body' \(0\.weight, .* and is 'head' \(0\.weight",
        ),
        ({"loss": Whitening()}, {}, "the checkpoint has a loss, and the run has none now"),
        ({"data": Noisy(False)}, {}, "the checkpoint has the generator train.rng, and the run has none there now"),
    ],
)
def test_parts_that_are_others_now_are_named_with_the_way_out(before, now, said):
    _, content = after_steps(**before)
    with pytest.raises(TrainerError, match=said) as caught:
        built(**now)[1].restore(content)
    assert "put that back as it was, or delete the run's folder to train the run anew" in str(caught.value)


def test_a_number_of_a_module_that_is_gone_is_named():
    _, content = after_steps(network=Counting)
    content["numbers"] = {"network.inner.num_calls": 3}
    with pytest.raises(TrainerError, match=r"network.inner.num_calls does not fit the run"):
        built(network=Counting)[1].restore(content)


class Precise(torch.optim.SGD):
    """Keeps float64 for float32 weights, which torch's load_state_dict rounds."""

    def step(self, closure=None):
        for group in self.param_groups:
            for param in group["params"]:
                self.state[param].setdefault("sum", torch.zeros_like(param, dtype=torch.float64)).add_(param.grad / 3)
        return super().step(closure)


def test_what_does_not_come_back_to_the_last_bit_is_named():
    _, content = after_steps(optimizer=Precise)
    with pytest.raises(TrainerError, match=r"optimizer.state.0.sum does not come back as it was saved"):
        built(optimizer=Precise)[1].restore(content)


class Own(torch.optim.lr_scheduler.LRScheduler):
    """A schedule as people write them, with a rule that is a function."""

    def __init__(self, optimizer, rule=lambda epoch: 0.5**epoch):
        self.rule = rule
        super().__init__(optimizer)

    def get_lr(self):
        return [rate * self.rule(self.last_epoch) for rate in self.base_lrs]


def test_a_schedule_of_ones_own_comes_back():
    parts, state = built(schedule=Own)
    step(parts)
    parts.recipe.schedule.end_epoch({}, 1)
    content = saved(state)
    other, state = built(schedule=Own)
    state.restore(content)
    for made in (parts, other):
        step(made)
        made.recipe.schedule.end_epoch({}, 1)
    assert other.recipe.schedule.scheduler.get_last_lr() == parts.recipe.schedule.scheduler.get_last_lr() == [0.1 / 4]


def test_what_cannot_be_saved_is_refused_by_its_place():
    _, state = built(schedule=lambda optimizer: Own(optimizer, partial(pow, 0.5)))
    with pytest.raises(TrainerError, match=r"scheduler\.rule is functools.partial\(.*which a checkpoint cannot hold"):
        state.capture()
