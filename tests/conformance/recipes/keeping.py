"""Keeping the best: early stopping, and averages of the weights."""

import copy

import torch
from torch.optim.swa_utils import update_bn

from tests.conformance.recipes.cases import NUM_EPOCHS, Case, Plain

MANY = 8
"""Epochs, so that a run can stop before."""


def patience(run) -> Plain:
    """It stops, after as many epochs without a lower val_loss."""
    plain = Plain.begin(run)
    best, waited = float("inf"), 0
    for _ in range(MANY):
        row = {"loss": plain.train(), **plain.validate()}
        plain.rows.append(row)
        best, waited = (row["val_loss"], 0) if row["val_loss"] < best else (best, waited + 1)
        if waited == run.patience:
            break
    return plain


def patience_of_accuracy(run) -> Plain:
    plain = Plain.begin(run)
    best, waited = -1.0, 0
    for _ in range(MANY):
        row = {"loss": plain.train(), **plain.validate()}
        plain.rows.append(row)
        best, waited = (row["val_accuracy"], 0) if row["val_accuracy"] > best else (best, waited + 1)
        if waited == run.patience:
            break
    return plain


def averaged(plain: Plain, average) -> dict[str, float]:
    return {f"average {name}": value for name, value in plain.validate(average).items()}


def ema(run) -> Plain:
    """Weights, and the running statistics of BatchNorm, by hand: decay * average + (1 - decay) * weights."""
    plain = Plain.begin(run)
    average = None

    def step(inputs, targets):
        nonlocal average
        loss = plain.step(inputs, targets)
        if average is None:
            average = copy.deepcopy(plain.network)
            return loss
        with torch.no_grad():
            for name, value in plain.network.state_dict().items():
                own = average.state_dict()[name]
                own.lerp_(value, 1 - run.ema_decay) if value.is_floating_point() else own.copy_(value)
        return loss

    for _ in range(NUM_EPOCHS):
        loss = plain.train(step)
        plain.rows.append({"loss": loss, **plain.validate(), **averaged(plain, average)})
    return plain


def swa(run) -> Plain:
    """The mean of the weights after the epochs from `swa_start` on; then BatchNorm sees all training data once."""
    plain = Plain.begin(run)
    average, count = None, 0
    for epoch in range(1, NUM_EPOCHS + 1):
        row = {"loss": plain.train(), **plain.validate()}
        if epoch >= run.swa_start:
            if average is None:
                average = copy.deepcopy(plain.network)
            with torch.no_grad():
                for own, value in zip(average.parameters(), plain.network.parameters(), strict=True):
                    own.lerp_(value, 1 / (count + 1))
            count += 1
            order = torch.Generator().manual_seed(0)
            whole = torch.utils.data.DataLoader(plain.loader.dataset, batch_size=8, shuffle=True, generator=order)
            with torch.random.fork_rng():
                update_bn(whole, average)
            row |= averaged(plain, average)
        plain.rows.append(row)
    return plain


CASES = {
    "patience": Case({"lr": [0.3], "patience": [1, 3]}, lambda project: {"epochs": MANY}, patience, leaves_early=True),
    "patience of an accuracy": Case(
        {"lr": [0.5], "patience": [1, 3], "monitor": ["val_accuracy"]},
        lambda project: {"epochs": MANY},
        patience_of_accuracy,
        leaves_early=True,
    ),
    "exponential average": Case({"lr": [0.1], "ema_decay": [0.9, 0.5]}, lambda project: {"average": "ema"}, ema),
    "stochastic average": Case({"lr": [0.1], "average": ["swa"], "swa_start": [1, 2]}, lambda project: {}, swa),
}
