"""Averages of weights, against torch's AveragedModel used by hand and against the formulas."""

import copy
from collections import namedtuple
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn, get_swa_multi_avg_fn, update_bn
from torch.utils.data import Dataset

from runmanager import RunManager, Trainer
from runmanager.training.recipes.averages import Average
from runmanager.training.settings import TrainerError

Run = namedtuple("Run", ["number_of_the_try"])


class Small(nn.Module):
    """With BatchNorm, and with buffers that no average may touch."""

    def __init__(self):
        super().__init__()
        self.first, self.norm, self.drop, self.last = nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Dropout(), nn.Linear(6, 3)
        self.register_buffer("mask", torch.tensor([0.0, -torch.inf]))
        self.register_buffer("index", torch.arange(50))
        self.register_buffer("num_batches", torch.tensor(0))

    def forward(self, inputs):
        self.num_batches += self.training
        return self.last(self.drop(F.relu(self.norm(self.first(inputs)))))


def network():
    torch.manual_seed(0)
    return Small()


def batches(count=5):
    draws = torch.Generator().manual_seed(1)
    for _ in range(count):
        yield torch.randn(8, 4, generator=draws), torch.randint(3, (8,), generator=draws)


def epoch_of(network, optimizer, after_step=lambda: None, count=5):
    network.train()
    for inputs, targets in batches(count):
        optimizer.zero_grad()
        F.cross_entropy(network(inputs), targets).backward()
        optimizer.step()
        after_step()


def adam(network):
    return torch.optim.Adam([param for param in network.parameters() if param.requires_grad], lr=0.05)


def same(one, other):
    mine, theirs = one.state_dict(), other.state_dict()
    return mine.keys() == theirs.keys() and all(torch.equal(mine[name], theirs[name]) for name in mine)


@pytest.mark.parametrize("decay", [0.0, 0.3, 0.9, 0.999, 1.0])
def test_ema_is_torchs_own_by_hand_to_the_bit_with_the_statistics_averaged_too(decay):
    trained = network()
    average = Average("ema", trained, decay=decay)
    by_hand = AveragedModel(trained, multi_avg_fn=get_ema_multi_avg_fn(decay), use_buffers=True)

    def both():
        average.after_step()
        by_hand.update_parameters(trained)

    epoch_of(trained, adam(trained), both)
    mine, theirs = average.network.state_dict(), by_hand.module.state_dict()
    averaged = {*dict(trained.named_parameters()), "norm.running_mean", "norm.running_var"}
    assert all(torch.equal(mine[name], theirs[name]) for name in averaged)
    if decay > 0:
        assert not torch.equal(mine["first.weight"], trained.first.weight)


def test_ema_is_the_formula_begun_at_the_first_steps_weights():
    trained, decay = network().double(), 0.9
    average, seen = Average("ema", trained, decay=decay), []

    def after_step():
        average.after_step()
        seen.append((trained.first.weight.detach().clone(), trained.norm.running_var.clone()))

    for inputs, targets in batches():
        F.cross_entropy(trained(inputs.double()), targets).backward()
        with torch.no_grad():
            for param in trained.parameters():
                param -= 0.1 * param.grad
                param.grad = None
        after_step()
    for column, mine in enumerate((average.network.first.weight, average.network.norm.running_var)):
        expected = seen[0][column]
        for step in seen[1:]:
            expected = decay * expected + (1 - decay) * step[column]
        assert torch.allclose(mine, expected, rtol=1e-12, atol=0)


def test_masks_tables_and_counts_stay_those_of_the_network():
    trained = network()
    average = Average("ema", trained, decay=0.99)
    epoch_of(trained, adam(trained), average.after_step)
    for name in ("mask", "index", "num_batches", "norm.num_batches_tracked"):
        assert torch.equal(average.network.state_dict()[name], trained.state_dict()[name])
    assert trained.num_batches == 5


@pytest.mark.parametrize("start", [1, 3])
def test_swa_is_torchs_own_by_hand_and_the_mean_of_the_weights_at_the_ends_of_epochs(start):
    trained = network()
    optimizer, average = adam(trained), Average("swa", trained, start=start)
    by_hand, seen = AveragedModel(trained, multi_avg_fn=get_swa_multi_avg_fn()), []
    for epoch in range(1, 6):
        epoch_of(trained, optimizer, average.after_step)
        average.end_epoch(epoch)
        if epoch < start:
            assert average.network is None
        else:
            by_hand.update_parameters(trained)
            seen.append(trained.last.weight.detach().clone())
    assert same(average.network, by_hand.module)
    assert torch.allclose(average.network.last.weight, torch.stack(seen).mean(0), atol=1e-6)
    assert len(seen) == 6 - start


def test_the_network_that_is_trained_is_left_alone():
    plain, trained = network(), network()
    averages = [Average("ema", trained, decay=0.9), Average("swa", trained)]
    optimizers = adam(plain), adam(trained)
    torch.manual_seed(5)
    for _ in range(2):
        epoch_of(plain, optimizers[0])
    torch.manual_seed(5)
    for epoch in (1, 2):
        epoch_of(trained, optimizers[1], lambda: [one.after_step() for one in averages])
        for one in averages:
            one.end_epoch(epoch)
            one.refresh(inputs for inputs, _ in batches())
    assert same(plain, trained)


def test_an_average_has_no_gradient():
    trained = network()
    average = Average("ema", trained)
    epoch_of(trained, adam(trained), average.after_step)
    assert not any(param.requires_grad for param in average.network.parameters())
    assert all(param.grad is None for param in average.network.parameters())
    assert all(param.requires_grad for param in trained.parameters())


def test_refreshing_is_torchs_update_bn_and_touches_neither_modes_nor_random_numbers():
    trained = network()
    average = Average("swa", trained)
    average.refresh(iter(()))  # nothing to refresh yet
    epoch_of(trained, adam(trained))
    average.end_epoch(1)
    by_hand = copy.deepcopy(average.network)
    stale = average.network.norm.running_mean.clone()
    average.network.eval()
    average.network.drop.train()
    modes, state = [one.training for one in average.network.modules()], torch.get_rng_state()
    average.refresh(inputs for inputs, _ in batches())
    assert [one.training for one in average.network.modules()] == modes
    assert torch.equal(torch.get_rng_state(), state)
    update_bn((inputs for inputs, _ in batches()), by_hand)
    assert torch.equal(average.network.norm.running_mean, by_hand.norm.running_mean)
    assert torch.equal(average.network.norm.running_var, by_hand.norm.running_var)
    assert not torch.equal(average.network.norm.running_mean, stale)
    means = torch.cat([average.network.first(inputs) for inputs, _ in batches()]).mean(0)
    assert torch.allclose(average.network.norm.running_mean, means, atol=1e-5)


def test_an_exponential_average_has_its_statistics_and_refreshing_reads_no_batch():
    trained = network()
    average = Average("ema", trained)
    epoch_of(trained, adam(trained), average.after_step)
    before = average.network.norm.running_mean.clone()
    left = iter([inputs for inputs, _ in batches()])
    average.refresh(left)
    assert len(list(left)) == len(list(batches()))
    assert torch.equal(average.network.norm.running_mean, before)


def test_without_batch_norm_refreshing_reads_no_batch():
    average = Average("swa", nn.Linear(2, 2))
    average.end_epoch(1)
    left = iter([torch.rand(3, 2)])
    average.refresh(left)
    assert len(list(left)) == 1


@pytest.mark.parametrize("kind", ["ema", "swa"])
@pytest.mark.parametrize("cut", [0, 1, 2, 3])
def test_an_average_goes_on_from_its_state_to_the_bit(kind, cut, tmp_path):
    def go_on(trained, optimizer, average, epochs):
        for epoch in epochs:
            torch.manual_seed(epoch)
            epoch_of(trained, optimizer, average.after_step)
            average.end_epoch(epoch)
            average.refresh(inputs for inputs, _ in batches())

    def build():
        trained = network()
        return trained, adam(trained), Average(kind, trained, decay=0.9, start=2)

    whole = build()
    go_on(*whole, range(1, cut + 1))
    torch.save([one.state_dict() for one in whole], tmp_path / "saved")
    go_on(*whole, range(cut + 1, 5))

    resumed = build()
    for one, state in zip(resumed, torch.load(tmp_path / "saved", weights_only=True), strict=True):
        one.load_state_dict(state)
    assert (resumed[2].network is None) == (cut < (2 if kind == "swa" else 1))
    go_on(*resumed, range(cut + 1, 5))
    assert same(resumed[2].network, whole[2].network)
    assert not same(resumed[2].network, resumed[0])


def test_an_average_that_has_begun_goes_on_where_it_is_to_begin_later_now():
    trained = nn.Linear(2, 2)
    average, seen = Average("swa", trained, start=2), []
    for epoch in (1, 2, 3):
        if epoch == 3:
            saved, average = average.state_dict(), Average("swa", trained, start=4)
            average.load_state_dict(saved)
        nn.init.constant_(trained.weight, epoch)
        average.end_epoch(epoch)
        seen.append(average.num_averaged)
    assert seen == [0, 1, 2]
    assert torch.equal(average.network.weight, torch.full((2, 2), 2.5))


def test_the_state_of_another_kind_of_average_is_refused():
    trained = nn.Linear(2, 2)
    average = Average("ema", trained)
    average.after_step()
    with pytest.raises(TrainerError, match="it was 'ema' before, and is 'swa' now"):
        Average("swa", trained).load_state_dict(average.state_dict())


@pytest.mark.parametrize("kind", ["ema", "swa"])
def test_frozen_tied_and_lazy_weights_are_averaged_as_what_they_are(kind):
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.into, self.out = nn.LazyLinear(4), nn.Linear(4, 4), nn.Linear(4, 4)
            self.out.weight = self.into.weight
            self.into.bias.requires_grad_(False)

        def forward(self, inputs):
            return self.out(F.relu(self.into(self.body(inputs))))

    trained = Tied()
    average = Average(kind, trained, decay=0.5)
    seen = []
    for epoch in (1, 2, 3):
        for _, targets in batches(1):
            F.cross_entropy(trained(torch.rand(8, 5)), targets).backward()
        with torch.no_grad():
            for param in trained.parameters():
                if param.requires_grad:
                    param -= 0.1 * param.grad
                    param.grad = None
        average.after_step()
        average.end_epoch(epoch)
        seen.append(trained.into.weight.detach().clone())
    a, b, c = seen
    expected = 0.25 * a + 0.25 * b + 0.5 * c if kind == "ema" else (a + b + c) / 3
    assert average.network.out.weight is average.network.into.weight
    assert torch.allclose(average.network.into.weight, expected, atol=1e-6)
    assert torch.equal(average.network.into.bias, trained.into.bias)
    assert average.network.body.weight.shape == (4, 5)


def test_what_cannot_be_is_refused_with_what_can():
    for (kind, decay, start), message in [
        (("emma", 0.9, 1), "average='emma' is unknown; choose ema, swa; did you mean 'ema'"),
        (("ema", 1.5, 1), "ema_decay=1.5 is no share; give a number from 0 to 1"),
        (("ema", True, 1), "ema_decay=True is no share"),
        (("swa", 0.9, 0), "swa_start=0 is no epoch"),
        (("swa", 0.9, 1.5), "swa_start=1.5 is no epoch"),
    ]:
        with pytest.raises(TrainerError, match=message):
            Average(kind, nn.Linear(2, 2), decay=decay, start=start)


def test_a_network_that_cannot_be_copied_is_refused_when_it_is_built():
    unlike = nn.Linear(2, 2)
    unlike.kept = unlike(torch.rand(1, 2))  # part of a graph
    with pytest.raises(TrainerError, match="average='ema' needs a copy of Linear, and it cannot be copied"):
        Average("ema", unlike)


class Noisy(Dataset):
    """Samples that draw from torch, and from a generator of their own."""

    def __init__(self):
        self.inputs = torch.rand(30, 4, generator=torch.Generator().manual_seed(3))
        self.own = torch.Generator().manual_seed(5)

    def __len__(self):
        return len(self.inputs)

    def __getitem__(self, index):
        return self.inputs[index] + torch.randn(4, generator=self.own) + torch.randn(4), index % 3


@pytest.mark.parametrize("settings", [{"average": "ema"}, {"average": "swa", "swa_start": 1}])
def test_a_run_reaches_the_same_with_an_average_beside_it_where_samples_draw(settings, tmp_path):
    def rows(folder, **settings):
        optimizer = partial(torch.optim.SGD, lr=0.1)
        common = {"data": lambda run: Noisy(), "epochs": 3, "batch_size": 8, "validation": 0.3, "device": "cpu"}
        training = Trainer(network=Small, optimizer=optimizer, loss=F.cross_entropy, **common, **settings)
        manager, run = RunManager("test", root=tmp_path / folder, tensorboard=False, quiet=True), Run(0)
        with manager.tracking(run, seed=1):
            training.train(run, manager, seed=1, split_seed=1, project=tmp_path)
        manager.close()
        names = [name for name in manager.run_data[0] if name.startswith("average ")]
        assert bool(names) == bool(settings)
        return [(row["loss"], row["val_loss"]) for row in manager.run_data]

    assert rows("with", **settings) == rows("without")


@pytest.mark.parametrize(
    ("objective", "swa_start", "said"),
    [
        ("average val_f1", 1, "objective='average val_f1' is not measured"),
        ("average val_loss", 4, "swa_start=4, but the run has 3 epochs, so that nothing would be averaged"),
    ],
)
def test_an_objective_that_no_average_will_ever_have_is_refused(objective, swa_start, said, tmp_path):
    common = {"data": (torch.rand(30, 4), torch.arange(30) % 3), "epochs": 3, "batch_size": 8, "device": "cpu"}
    recipe = {"average": "swa", "swa_start": swa_start, "metrics": ["f1"]}
    training = Trainer(
        network=Small, optimizer=partial(torch.optim.SGD, lr=0.1), loss=F.cross_entropy, **common, **recipe
    )
    (fault,) = training.faults([Run(0)], 0, tmp_path, objective)
    assert said in fault
