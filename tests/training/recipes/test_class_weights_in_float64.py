"""Class weights are as exact as the network: a run with them is a plain torch loop's to the bits."""

from collections import namedtuple
from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.utils.class_weight import compute_class_weight
from torch import nn
from torch.utils.data import TensorDataset

from runmanager import RunManager, Trainer
from runmanager.training.recipes.losses import build_loss
from runmanager.training.stacked_losses import CrossEntropy, stacked_loss

Run = namedtuple("Run", ["lr"])
WEIGHTS = [0.3, 1.7, 1.1]  # no float32 is any of them
CLASSES = torch.tensor([0, 0, 0, 1, 2, 2, 0] * 3)
INPUTS = torch.rand(21, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
BALANCED = compute_class_weight("balanced", classes=np.arange(3), y=CLASSES.numpy())


class InBfloat16(nn.Linear):
    """Its parameters are in bfloat16, and its predictions in float32, as they are made for a loss."""

    def __init__(self):
        super().__init__(4, 3, dtype=torch.bfloat16)

    def forward(self, inputs):
        return super().forward(inputs.bfloat16()).float()


def trained(network, class_weights, folder):
    """The parameters after three epochs of three batches."""
    networks = []
    training = Trainer(
        network=lambda: networks.append(network()) or networks[-1],
        data=lambda: TensorDataset(INPUTS.to(next(network().parameters())), CLASSES),
        optimizer=partial(torch.optim.SGD, lr=0.1),
        loss="cross_entropy",
        class_weights=class_weights,
        epochs=3,
        batch_size=7,
        shuffle=False,
        validation=0,
        device="cpu",
    )
    assert training.faults([Run(0.1)], 1, folder) == []
    run, manager = Run(0.1), RunManager("test", root=folder, tensorboard=False, quiet=True)
    with manager.tracking(run, seed=1):
        training.train(run, manager, seed=1, split_seed=1, project=folder)
    manager.close()
    return list(networks[-1].parameters())


def by_hand(network, weight):
    torch.manual_seed(1)
    made = network()
    optimizer = torch.optim.SGD(made.parameters(), lr=0.1)
    for _ in range(3):
        for inputs, targets in zip(INPUTS.split(7), CLASSES.split(7), strict=True):
            optimizer.zero_grad()
            preds = made(inputs.to(next(made.parameters())))
            F.cross_entropy(preds, targets, weight=torch.tensor(weight, dtype=preds.dtype)).backward()
            optimizer.step()
    return list(made.parameters())


@pytest.mark.parametrize(("class_weights", "weight"), [(WEIGHTS, WEIGHTS), ("balanced", BALANCED)])
@pytest.mark.parametrize("network", [lambda: nn.Linear(4, 3).double(), lambda: nn.Linear(4, 3), InBfloat16])
def test_a_network_learns_with_weights_in_the_precision_of_its_predictions(network, class_weights, weight, tmp_path):
    ours, plain = trained(network, class_weights, tmp_path), by_hand(network, weight)
    assert [one.dtype for one in ours] == [one.dtype for one in plain]
    assert all(torch.equal(*both) for both in zip(ours, plain, strict=True))


def test_a_group_in_float64_has_the_weights_that_each_has_alone():
    losses = [
        build_loss("cross_entropy", Run(0.1), class_weights=one, dtype=torch.float64) for one in (WEIGHTS, [1, 2, 0.7])
    ]
    preds, targets = torch.stack([INPUTS[:, :3], INPUTS[:, 1:]]), torch.stack([CLASSES, CLASSES])
    group = stacked_loss(losses)
    assert isinstance(group, CrossEntropy)
    alone = torch.stack([loss(*one) for loss, one in zip(losses, zip(preds, targets, strict=True), strict=True)])
    torch.testing.assert_close(group(preds, targets), alone, rtol=1e-14, atol=0)
