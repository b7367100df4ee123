"""Inputs and targets of a type that a network or its loss does not take, told before anything is trained."""

import re
from collections import namedtuple

import pytest
import torch
from PIL import Image
from torch import nn

from runmanager import Trainer
from tests.data.kept import Made

Run = namedtuple("Run", "lr")
CLASSES = torch.arange(20) % 2


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (
            (torch.zeros(20, 3, 4, 4, dtype=torch.uint8), CLASSES),
            r"uint8 \[2, 3, 4, 4\]: turn them into floats, .*ToDtype",
        ),
        (Made(lambda i: (Image.new("RGB", (4, 4)), i % 2)), "sample 0 of a batch has inputs of type Image; .*ToTensor"),
        (Made(lambda i: (torch.zeros(3, 4, 4), "cat")), "targets of type str .*give each class a number"),
        ((torch.zeros(20, 3, 4, 4), CLASSES.float()), r"targets are float32 \[2\], and classes are int64"),
    ],
)
def test_what_a_network_does_not_take_is_told_with_the_way_out(data, said, tmp_path):
    trainer = Trainer(
        data=data,
        network=lambda: nn.Sequential(nn.Conv2d(3, 2, 3), nn.Flatten(), nn.Linear(8, 2)),
        optimizer="SGD",
        loss="cross_entropy",
        epochs=1,
        batch_size=4,
    )
    (fault,) = trainer.faults([Run(0.1)], 0, tmp_path)
    assert re.search(said, fault)


def test_tokens_stay_whole_numbers(tmp_path):
    trainer = Trainer(
        data=(torch.zeros(20, 5, dtype=torch.int64), CLASSES),
        network=lambda: nn.Sequential(nn.Embedding(9, 2), nn.Flatten(), nn.Linear(10, 2)),
        optimizer="SGD",
        loss="cross_entropy",
        epochs=1,
        batch_size=4,
    )
    assert trainer.faults([Run(0.1)], 0, tmp_path) == []
