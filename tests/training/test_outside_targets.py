"""A class that the network has no output for is refused before epoch 1, or at the first batch that has it."""

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import Dataset, TensorDataset

from runmanager import RunBuilder, RunManager, Trainer
from runmanager.data.splits import DataError
from tests.training.group_sweeps import Sweep

INPUTS = torch.rand(40, 4, generator=torch.Generator().manual_seed(0))
BAD = torch.arange(40) % 3
BAD[17] = 5
SAID = (
    "sample 17 of the training data has class 5, but the network has 3 outputs, for classes 0 to 2; give it 6 outputs, or mend "
    "the target"
)


class Hidden(Dataset):
    """Data whose targets only its samples tell; they draw, so that a DataLoader reads them."""

    def __init__(self, targets):
        self.hidden = targets

    def __len__(self):
        return len(self.hidden)

    def __getitem__(self, index):
        torch.rand(1)
        return INPUTS[index], int(self.hidden[index])


def sgd(run, network):
    return torch.optim.SGD(network.parameters(), lr=run.lr)


def trainer(**parts):
    usual = {
        "network": lambda: nn.Linear(4, 3),
        "data": (TensorDataset(INPUTS, BAD), TensorDataset(INPUTS, BAD.clamp(max=2))),
        "optimizer": sgd,
        "loss": F.cross_entropy,
        "epochs": 1,
        "batch_size": 10,
        "shuffle": False,
        "device": "cpu",
    }
    return Trainer(**{**usual, **parts})


def faults_of(tmp_path, params=None, **parts):
    return trainer(**parts).faults(RunBuilder.get_runs({"lr": [0.1], **(params or {})}), 0, tmp_path)


@pytest.mark.parametrize(
    "loss",
    [
        F.cross_entropy,
        "cross_entropy",
        nn.CrossEntropyLoss(),
        nn.NLLLoss(),
        partial(F.nll_loss, ignore_index=-1),
        F.nll_loss,
    ],
)
def test_it_is_refused_before_epoch_1_with_sample_value_and_outputs(loss, tmp_path):
    assert faults_of(tmp_path, loss=loss) == [SAID]


def test_one_among_the_first_samples_is_told_in_the_same_words(tmp_path):
    bad = BAD.clone()
    bad[1] = 9
    assert faults_of(tmp_path, data=TensorDataset(INPUTS, bad), validation=0) == [
        "sample 1 of the training data has class 9, but the network has 3 outputs, for classes 0 to 2; give it 10 outputs, or "
        "mend the target"
    ]


def test_one_in_the_validation_data_is_found(tmp_path):
    data = (TensorDataset(INPUTS, BAD.clamp(max=2)), TensorDataset(INPUTS, BAD))
    assert faults_of(tmp_path, data=data) == [SAID.replace("training", "validation")]


def test_one_in_the_data_of_a_later_run_is_found(tmp_path):
    def data(run):
        return TensorDataset(INPUTS, BAD if run.noise else BAD.clamp(max=2))

    assert faults_of(tmp_path, {"noise": [0.0, 0.1]}, data=data, validation=0) == [SAID]


@pytest.mark.parametrize(
    "loss", [nn.CrossEntropyLoss(ignore_index=5), lambda preds, targets: F.cross_entropy(preds, targets % 3)]
)
def test_one_that_the_loss_passes_over_or_may_know_what_to_do_with_is_none(loss, tmp_path):
    assert faults_of(tmp_path, loss=loss) == []


def test_what_a_data_set_makes_of_its_targets_counts_and_not_its_list_of_them(tmp_path):
    class Listed(Dataset):
        def __init__(self):
            self.targets = (BAD.clamp(max=2) + 1).tolist()

        def __len__(self):
            return 40

        def __getitem__(self, index):
            return INPUTS[index], self.targets[index] - 1

    assert faults_of(tmp_path, data=Listed(), validation=0) == []


def trained(tmp_path, **parts):
    manager = RunManager("test", root=tmp_path, tensorboard=False, quiet=True)
    run = RunBuilder.get_runs({"lr": [0.1]})[0]
    with manager.tracking(run, seed=0):
        trainer(**parts).train(run, manager, seed=0, split_seed=0, project=tmp_path)


@pytest.mark.parametrize("recipe", [{}, {"l2": 0.1}, {"accumulate": 2}], ids=["plain", "with a penalty", "in pieces"])
def test_where_only_samples_tell_the_first_bad_batch_is_refused_with_its_shape_and_the_value(recipe, tmp_path):
    parts = {"data": Hidden(BAD), "validation": 0, **recipe}
    assert faults_of(tmp_path, **parts) == []
    with pytest.raises(DataError) as error:
        trained(tmp_path, **parts)
    place, size = (2, 5) if "accumulate" in recipe else (7, 10)
    assert str(error.value) == (
        f"sample {place} of a batch with predictions [{size}, 3] and targets [{size}] has class 5, but the network has 3 outputs, "
        "for classes 0 to 2; mend the target, or the number of outputs"
    )


def test_one_in_validation_that_only_samples_tell_is_refused_alike(tmp_path):
    with pytest.raises(DataError, match=r"sample 7 of a batch with predictions \[10, 3\] .* has class 5"):
        trained(tmp_path, data=(Hidden(BAD.clamp(max=2)), Hidden(BAD)))


def test_what_else_a_loss_raises_is_its_own(tmp_path):
    def loss(preds, targets):
        raise RuntimeError("mine")

    with pytest.raises(RuntimeError, match="mine"):
        trained(tmp_path, loss=loss)


def test_in_a_group_each_run_ends_with_the_same_words(tmp_path):
    """A group of runs whose loss is called for each of them."""
    training = trainer(loss=lambda run: nn.NLLLoss(weight=torch.tensor([1.0, run.weight, 1.0])))
    runs = RunBuilder.get_runs({"lr": [0.1], "weight": [1.0, 2.0]})
    group = Sweep(tmp_path, training, runs)
    group.together()
    assert group.statuses() == {1: "failed", 2: "failed"}
    for run in group.history().values():
        assert "sample 7 of a batch with predictions [10, 3] and targets [10] has class 5" in str(run)
