"""What makes no loss or regulariser is refused before epoch 1, with its value and what to write instead."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import IterableDataset

from runmanager import RunBuilder, Sweep, Trainer
from runmanager.launching.sweep import SweepError

INPUTS, CLASSES = torch.rand(60, 1, 6, 6, generator=torch.Generator().manual_seed(0)), torch.arange(60) % 3
NUMBERS = torch.rand(60, 3, generator=torch.Generator().manual_seed(1))


class WithDropout(nn.Module):
    def __init__(self, dropout):
        super().__init__()
        self.dropout, self.out = nn.Dropout(dropout), nn.Linear(36, 3)

    def forward(self, inputs):
        return self.out(self.dropout(inputs.flatten(1)))


def trainer(**parts):
    usual = {
        "network": lambda: nn.Sequential(nn.Flatten(), nn.Linear(36, 3)),
        "data": (INPUTS, CLASSES),
        "optimizer": "SGD",
        "loss": "cross_entropy",
        "epochs": 1,
        "batch_size": 10,
        "device": "cpu",
    }
    return Trainer(**{**usual, **parts})


OF_NUMBERS = {"data": (INPUTS, NUMBERS), "loss": "mse_loss"}


class Stream(IterableDataset):
    def __iter__(self):
        return zip(INPUTS, CLASSES, strict=True)


@pytest.mark.parametrize(
    ("params", "parts", "said"),
    [
        ({}, {"loss": "cross_entropi"}, "loss='cross_entropi' is unknown; choose nll_loss, "),
        ({}, {"loss": "cross_entropi"}, "did you mean 'cross_entropy'?"),
        ({"label_smoothing": 1.5}, {}, "label_smoothing=1.5 is no share; give a number from 0 to 1"),
        (
            {"class_weights": "balance"},
            {},
            "class_weights='balance' is unknown; choose 'balanced' or a number for each class",
        ),
        ({"class_weights": "balance"}, {}, "did you mean 'balanced'?"),
        ({"class_weights": [1.0, 2.0]}, {}, "class_weights has 2 numbers, but there are 3 classes; give one each"),
        ({"class_weights": "balanced"}, {"loss": "mse_loss"}, "mse_loss has none; choose CrossEntropyLoss, NLLLoss"),
        (
            {"class_weights": "balanced"},
            {"data": (INPUTS, NUMBERS)},
            "class_weights='balanced': the targets have to be classes, whole numbers from 0 up, one for each sample; these are "
            "[54, 3] of float32",
        ),
        ({"sampling": "balance"}, {}, "sampling='balance' is not one of 'balanced'; did you mean 'balanced'?"),
        (
            {"sampling": "balanced"},
            OF_NUMBERS,
            "sampling='balanced': the targets have to be classes, whole numbers from 0 up, one for each sample; these are [54, 3] "
            "of float32",
        ),
        ({"mixup": -1}, {}, "mixup=-1 is not the alpha of a beta distribution; give a number of 0 or more; 0 is off"),
        ({"mixup": 0.2}, OF_NUMBERS, "mixup and cutmix: the targets of the data are no classes; leave it out"),
        (
            {"mixup": 0.2},
            {"data": Stream(), "validation": 0, "shuffle": False},
            "mixup and cutmix: a stream does not tell how many classes it has; name them, data=Splits(stream, classes=(...))",
        ),
        ({"mixup": 0.2}, {"loss": "nll_loss"}, "the loss does not take them (RuntimeError"),
        (
            {"cutmix": 0.2},
            {"data": (INPUTS.flatten(1), CLASSES)},
            "cutmix=0.2: cutmix cuts pictures [N, C, H, W]; the batch has inputs [2, 36] of float32",
        ),
        ({"l1": -1}, {}, "l1=-1 is not the weight of a penalty; give a number of 0 or more; 0 is off"),
        ({"l2": float("inf")}, {}, "l2=inf is no factor of a penalty; give a number of 0 or more"),
        ({"clip_norm": 0}, {}, "clip_norm=0 is not the norm of a gradient; give a number above 0, or None for none"),
        ({"clip_value": "a"}, {}, "clip_value='a' is not the size of a gradient's number; give a number above 0"),
        ({"dropout": 1.5}, {"network": WithDropout}, "dropout probability has to be between 0 and 1, but got 1.5"),
        ({}, {"network": WithDropout}, "WithDropout needs dropout, which the grid has not; add dropout=[...] to it"),
    ],
)
def test_it_is_refused_before_epoch_1_and_the_message_says_what_to_write(params, parts, said, tmp_path):
    runs = RunBuilder.get_runs({"lr": [0.1], **{name: [value] for name, value in params.items()}})
    faults = trainer(**parts).faults(runs, 0, tmp_path)
    assert len(faults) == 1
    assert said in faults[0]


@pytest.mark.parametrize(
    ("name", "parts"),
    [("dropout", {}), ("label_smoothing", OF_NUMBERS), ("margin", {}), ("l1", {"l1": 0.1}), ("mixup", {"mixup": 0.2})],
)
def test_a_hyperparameter_that_reaches_nothing_is_refused(name, parts, tmp_path):
    with pytest.raises(SweepError, match=rf"{name} is in the grid"):
        Sweep({"lr": [0.1], name: [0.1]}, trainer=trainer(**parts), name="x").check(tmp_path)


@pytest.mark.parametrize(
    "params",
    [{"l1": None}, {"l1": 0}, {"mixup": 0}, {"clip_norm": None}, {"clip_norm": float("inf")}, {"sampling": None}],
)
def test_off_is_no_fault(params, tmp_path):
    runs = RunBuilder.get_runs({"lr": [0.1], **{name: [value] for name, value in params.items()}})
    assert trainer(loss=F.cross_entropy).faults(runs, 0, tmp_path) == []
