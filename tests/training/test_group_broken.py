"""A group that cannot go on says of which size its runs can, and loses nothing that they have saved."""

import pytest
import torch
from torch import nn
from torch.utils.data import Dataset

from runmanager.training.group import GroupBroken
from tests.training.group_sweeps import IMAGES, LABELS, Sweep, after, assert_close, mlp, runs_of, tiny, with_epochs


class Failing(nn.Module):
    """Its forward raises, after so many calls of any of them."""

    calls = 0

    def __init__(self, error, after):
        super().__init__()
        Failing.calls, self.layer, self.error, self.after = 0, mlp(), error, after

    def forward(self, inputs):
        Failing.calls += 1
        if Failing.calls > self.after:
            raise self.error
        return self.layer(inputs)


def broken(sweep, *numbers):
    with pytest.raises(GroupBroken) as raised:
        sweep.together(*numbers)
    return raised.value


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA out of memory"), MemoryError()], ids=["device", "host"])
def test_where_memory_does_not_suffice_half_as_many_go_on(error, tmp_path):
    reason = broken(Sweep(tmp_path, tiny(network=lambda: Failing(error, after=2)), runs_of()))
    assert reason.size == 2
    assert str(reason) == "out of memory with 4 runs in one step; in groups of up to 2 from here on"


def test_a_loss_that_memory_does_not_suffice_for_may_be_the_groups_fault(tmp_path):
    def loss(preds, targets):
        raise torch.OutOfMemoryError("CUDA out of memory")

    assert broken(Sweep(tmp_path, tiny(loss=loss), runs_of())).size == 2


def test_what_memory_suffices_for_depends_on_who_is_still_in_the_group(tmp_path):
    runs = with_epochs(1, 1, 3, 3)
    error = torch.OutOfMemoryError("CUDA out of memory")
    sweep = Sweep(tmp_path, tiny(network=lambda: Failing(error, after=6), epochs=None), runs)
    assert broken(sweep).size == 1
    assert [sweep.statuses()[number] for number in (1, 2)] == ["completed", "completed"]


def test_another_fault_of_the_step_sends_each_run_its_own_way(tmp_path):
    reason = broken(Sweep(tmp_path, tiny(network=lambda: Failing(ValueError("not so"), after=2)), runs_of()))
    assert reason.size == 1
    assert str(reason) == "the group's step failed (ValueError: not so); alone from here on"


def test_runs_whose_networks_differ_go_alone(tmp_path):
    def network(run):
        return nn.Sequential(nn.Flatten(), nn.Linear(36, 8), nn.LeakyReLU(run.lr), nn.Linear(8, 3))

    reason = broken(Sweep(tmp_path, tiny(network=network), runs_of()))
    assert (reason.size, "built differently" in str(reason)) == (1, True)


def test_runs_whose_data_differ_go_alone(tmp_path):
    def data(run):
        return IMAGES + run.lr, LABELS

    reason = broken(Sweep(tmp_path, tiny(data=data), runs_of()))
    assert (reason.size, "different data" in str(reason)) == (1, True)


class Drawing(Dataset):
    def __len__(self):
        return 20

    def __getitem__(self, index):
        return torch.rand(1, 6, 6), index % 3


def test_runs_whose_data_draw_go_alone(tmp_path):
    assert broken(Sweep(tmp_path, tiny(data=Drawing()), runs_of())).size == 1


def test_runs_that_stand_at_different_epochs_go_alone(tmp_path):
    Sweep(tmp_path, tiny(), runs_of(), stop_when=after(1)).alone(1, 2)
    reason = broken(Sweep(tmp_path, tiny(), runs_of()))
    assert (reason.size, "train them one by one" in str(reason)) == (1, True)


def test_what_a_broken_group_has_saved_is_not_lost(tmp_path):
    error = torch.OutOfMemoryError("CUDA out of memory")
    broken(Sweep(tmp_path / "group", tiny(network=lambda: Failing(error, after=6)), runs_of()))
    later = Sweep(tmp_path / "group", tiny(network=lambda: Failing(error, after=1000)), runs_of()).together(1, 2)
    assert later.sizes()[1] == [4, 2, 2]
    unbroken = tiny(network=lambda: Failing(error, after=1000))
    expected = Sweep(tmp_path / "alone", unbroken, runs_of()).alone(1, 2).numbers()
    found = later.numbers()
    assert_close({number: found[number] for number in (1, 2)}, expected)
