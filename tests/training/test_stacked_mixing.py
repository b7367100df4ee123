"""Members of a group mix their batches as each does alone, to the last bit, and go on so after a break."""

import pytest
import torch
from torch import Generator

from runmanager import RunBuilder
from runmanager.training.choice import Trial
from runmanager.training.recipes.mixing import Mixing
from runmanager.training.stacked_mixing import StackedMixing
from runmanager.training.verify import verify
from tests.training.group_sweeps import Sweep, after, assert_close, trainer

DRAWS = Generator().manual_seed(0)
INPUTS, TARGETS = torch.rand(3, 10, 1, 6, 6, generator=DRAWS), torch.randint(4, (3, 10), generator=DRAWS)
OWN = [{"mixup": 0.2}, {"mixup": 0.4, "cutmix": 1.0}, {"cutmix": 1.0}]


def mixing_of(index):
    return Mixing(4, **OWN[index])


def together():
    return StackedMixing([mixing_of(index) for index in range(3)], [Generator().manual_seed(seed) for seed in range(3)])


def alone(index, batches):
    """A member's mixed batches, drawn from the global generator."""
    torch.manual_seed(index)
    mixing = mixing_of(index)
    return [mixing(*batch) for batch in batches]


def test_each_members_batches_are_mixed_as_alone_to_the_last_bit():
    stacked, steps = together(), 4
    found = [stacked(INPUTS, TARGETS, shared=False) for _ in range(steps)]
    for index in range(3):
        expected = alone(index, [(INPUTS[index], TARGETS[index])] * steps)
        for (inputs, shares), (own_inputs, own_shares) in zip(found, expected, strict=True):
            assert torch.equal(inputs[index], own_inputs) and torch.equal(shares[index], own_shares)
        assert torch.equal(stacked.generators[index].get_state(), torch.get_rng_state())


def test_a_batch_that_all_share_is_mixed_for_each():
    inputs, shares = together()(INPUTS[0], TARGETS[0], shared=True)
    for index in range(3):
        own_inputs, own_shares = alone(index, [(INPUTS[0], TARGETS[0])])[0]
        assert torch.equal(inputs[index], own_inputs) and torch.equal(shares[index], own_shares)
    assert not torch.equal(inputs[0], inputs[1])


def test_the_global_generator_is_left_alone():
    before = torch.get_rng_state()
    together()(INPUTS, TARGETS, shared=False)
    assert torch.equal(before, torch.get_rng_state())


def test_those_that_stay_go_on_with_their_own_draws():
    stacked = together()
    stacked(INPUTS, TARGETS, shared=False)
    stacked.keep([2])
    inputs, _ = stacked(INPUTS[2:], TARGETS[2:], shared=False)
    assert torch.equal(inputs[0], alone(2, [(INPUTS[2], TARGETS[2])] * 2)[1][0])


RUNS = [
    *RunBuilder.get_runs({"lr": [0.01], "rate": [0.5], "decay": [0.0], "mixup": [0.2], "shuffle": [True]}),
    *RunBuilder.get_runs({"lr": [0.003], "rate": [0.0], "decay": [0.1], "mixup": [1.0], "shuffle": [False]}),
]
UNSHUFFLED = [run._replace(shuffle=False) for run in RUNS]


@pytest.mark.parametrize("runs", [RUNS, UNSHUFFLED], ids=["own batches", "shared batches"])
def test_mixed_runs_with_dropout_reach_in_a_group_what_they_reach_alone(runs, tmp_path):
    expected = Sweep(tmp_path / "alone", trainer(), runs).alone()
    group = Sweep(tmp_path / "group", trainer(), runs).together()
    assert_close(group.numbers(), expected.numbers())
    assert list(group.sizes().values()) == [[2] * 4] * 2


def test_mixed_runs_go_on_alone_from_what_a_group_has_saved(tmp_path):
    expected = Sweep(tmp_path / "alone", trainer(), RUNS).alone()
    Sweep(tmp_path / "group", trainer(), RUNS, stop_when=after(2)).together()
    later = Sweep(tmp_path / "group", trainer(), RUNS).alone()
    assert_close(later.numbers(), expected.numbers())
    assert list(later.sizes().values()) == [[2, 2, 1, 1]] * 2


def test_mixed_runs_go_on_as_a_group_to_the_same_bits(tmp_path):
    at_once = Sweep(tmp_path / "a", trainer(), RUNS).together()
    Sweep(tmp_path / "b", trainer(), RUNS, stop_when=after(2)).together()
    assert Sweep(tmp_path / "b", trainer(), RUNS).together().numbers() == at_once.numbers()


def test_a_mixed_group_is_apart_from_its_members_by_rounding_alone(tmp_path):
    assert all(one.is_within for one in verify(Trial(trainer(), RUNS, 3, tmp_path), 2, 10))
