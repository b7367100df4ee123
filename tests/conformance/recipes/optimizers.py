"""Optimizers by name, class, partial and function, and groups of parameters."""

from functools import partial
from typing import Any

import torch
from torch import nn

from tests.conformance.recipes.cases import NUM_CLASSES, NUM_EPOCHS, Case, Plain

STACKED = ["SGD", "Adam", "AdamW", "RMSprop", "Adagrad"]
OTHERS = ["Adadelta", "Adafactor", "Adamax", "ASGD", "NAdam", "RAdam", "Rprop"]
HEAD, BODY = ["5.weight", "5.bias"], ["0.weight", "0.bias", "1.weight", "1.bias"]


def trained(plain: Plain, names: dict[str, int] | None = None) -> Plain:
    """Goes through the epochs; `names` are the columns of the rates, and the group that each is of."""
    for _ in range(NUM_EPOCHS):
        row = {"loss": plain.train(), **plain.validate()}
        rates = {column: plain.optimizer.param_groups[index]["lr"] for column, index in (names or {}).items()}
        plain.rows.append({**row, **rates})
    return plain


def calm() -> nn.Module:
    """The usual network without the bias before BatchNorm, whose gradient is rounding, of which Adam makes a whole step."""
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, bias=False),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Flatten(),
        nn.Dropout(0.2),
        nn.Linear(16, NUM_CLASSES),
    )


def by_name(run: Any) -> Plain:
    def make(run: Any, network: nn.Module) -> torch.optim.Optimizer:
        return getattr(torch.optim, run.optimizer)(network.parameters(), lr=run.lr)

    return trained(Plain.begin(run, calm, make))


def with_hyperparameters(run: Any) -> Plain:
    def make(run: Any, network: nn.Module) -> torch.optim.Optimizer:
        return torch.optim.SGD(
            network.parameters(), lr=run.lr, momentum=run.momentum, weight_decay=run.weight_decay, nesterov=True
        )

    return trained(Plain.begin(run, optimizer=make))


def matrices() -> nn.Module:
    """A network without biases, as Muon wants it."""
    layers = nn.Linear(16, 8, bias=False), nn.ReLU(), nn.Linear(8, 3, bias=False)
    return nn.Sequential(nn.Flatten(), *layers)


def muon(run: Any) -> Plain:
    return trained(Plain.begin(run, matrices, lambda run, network: torch.optim.Muon(network.parameters(), lr=run.lr)))


def parameters(network: nn.Module, *names: str) -> list[nn.Parameter]:
    return [network.get_parameter(name) for name in names]


def in_groups(run: Any) -> Plain:
    """The body at a smaller rate, the biases of the head without momentum."""

    def make(run: Any, network: nn.Module) -> torch.optim.Optimizer:
        groups = [
            {"params": parameters(network, *BODY), "lr": run.lr * run.body_scale},
            {"params": parameters(network, "5.weight")},
            {"params": parameters(network, "5.bias"), "momentum": 0.0},
        ]
        return torch.optim.SGD(groups, lr=run.lr, momentum=0.9)

    columns = {"learning rate/[01].*": 0, "learning rate/rest": 1, "learning rate/5.bias": 2}
    return trained(Plain.begin(run, optimizer=make), columns)


def without_decay(run: Any) -> Plain:
    """Decayed are the weights of conv and linear layers alone."""

    def make(run: Any, network: nn.Module) -> torch.optim.Optimizer:
        groups = [
            {"params": parameters(network, "0.weight", "5.weight")},
            {"params": parameters(network, "1.weight", "1.bias", "5.bias"), "weight_decay": 0.0},
        ]
        return torch.optim.AdamW(groups, lr=run.lr, weight_decay=run.weight_decay)

    columns = {"learning rate/rest": 0, "learning rate/no_decay": 1}
    return trained(Plain.begin(run, calm, make), columns)


def discriminative(run: Any) -> Plain:
    """The deeper a layer, the smaller its rate; biases and norms do not decay."""

    def make(run: Any, network: nn.Module) -> torch.optim.Optimizer:
        first, second = run.lr * run.falloff**2, run.lr * run.falloff
        groups = [
            {"params": parameters(network, "0.weight"), "lr": first},
            {"params": parameters(network, "1.weight", "1.bias"), "lr": second, "weight_decay": 0.0},
            {"params": parameters(network, "5.weight")},
            {"params": parameters(network, "5.bias"), "weight_decay": 0.0},
        ]
        return torch.optim.AdamW(groups, lr=run.lr, weight_decay=0.1)

    names = ["0.*", "1.*+no_decay", "rest", "no_decay"]
    columns = {f"learning rate/{name}": index for index, name in enumerate(names)}
    return trained(Plain.begin(run, calm, make), columns)


def made_by_hand(run: Any, network: nn.Module) -> torch.optim.Optimizer:
    """Groups of one's own; the second has no name."""
    groups = [
        {"params": parameters(network, *HEAD), "name": "head"},
        {"params": parameters(network, *BODY), "lr": run.lr / 10},
    ]
    return torch.optim.SGD(groups, lr=run.lr, momentum=0.9)


def by_function(run: Any) -> Plain:
    columns = {"learning rate/head": 0, "learning rate/1": 1}
    return trained(Plain.begin(run, optimizer=made_by_hand), columns)


CASES = {
    "optimizers by name": Case(
        {"optimizer": STACKED, "lr": [0.01, 0.03]}, lambda project: {"optimizer": None, "network": calm}, by_name
    ),
    "optimizers by name, of others": Case(
        {"optimizer": OTHERS, "lr": [0.01]},
        lambda project: {"optimizer": None, "network": calm},
        by_name,
        alone="has no batched form; SGD, Adam, AdamW, RMSprop, Adagrad have one",
    ),
    "optimizer Muon": Case(
        {"lr": [0.01, 0.03]},
        lambda project: {"optimizer": "muon", "network": matrices},
        muon,
        alone="Muon has no batched form",
    ),
    "optimizer's hyperparameters": Case(
        {"lr": [0.1], "momentum": [0.5, 0.9], "weight_decay": [0.01], "nesterov": [True]},
        lambda project: {"optimizer": torch.optim.SGD},
        with_hyperparameters,
    ),
    "optimizer by partial": Case(
        {"lr": [0.1], "momentum": [0.9], "weight_decay": [0.0, 0.01]},
        lambda project: {"optimizer": partial(torch.optim.SGD, nesterov=True)},
        with_hyperparameters,
    ),
    "optimizer by function": Case({"lr": [0.01, 0.1]}, lambda project: {"optimizer": made_by_hand}, by_function),
    "parameter groups": Case(
        {"lr": [0.1], "momentum": [0.9], "body_scale": [0.1, 0.5]},
        lambda project: {
            "optimizer": "sgd",
            "param_groups": lambda run: {"[01].*": {"lr_scale": run.body_scale}, "5.bias": {"momentum": 0.0}},
        },
        in_groups,
    ),
    "no decay": Case(
        {"lr": [0.01], "weight_decay": [0.1, 0.5], "no_decay": [True]},
        lambda project: {"optimizer": "AdamW", "network": calm},
        without_decay,
    ),
    "discriminative rates": Case(
        {"lr": [0.01], "falloff": [0.1, 0.5]},
        lambda project: {
            "optimizer": partial(torch.optim.AdamW, weight_decay=0.1),
            "network": calm,
            "param_groups": lambda run: {"0.*": {"lr_scale": run.falloff**2}, "1.*": {"lr_scale": run.falloff}},
            "no_decay": True,
        },
        discriminative,
    ),
}
