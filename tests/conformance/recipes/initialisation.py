"""First weights by name, by kind of layer and by pattern."""

from functools import partial
from typing import Any

import torch
from torch import nn

from tests.conformance.recipes.cases import NUM_EPOCHS, Case, Plain, network

FILLS = {
    "kaiming_normal": nn.init.kaiming_normal_,
    "xavier_uniform": nn.init.xavier_uniform_,
    "orthogonal": nn.init.orthogonal_,
    0.05: partial(nn.init.constant_, val=0.05),
}


def trained(plain: Plain) -> Plain:
    for _ in range(NUM_EPOCHS):
        plain.rows.append({"loss": plain.train(), **plain.validate()})
    return plain


def by_name(run: Any) -> Plain:
    def make() -> nn.Module:
        made = network()
        for layer in (made[0], made[5]):
            FILLS[run.init](layer.weight)
        return made

    return trained(Plain.begin(run, make))


def by_kind(run: Any) -> Plain:
    """In the order of the parameters, however the dict is written."""

    def make() -> nn.Module:
        made = network()
        nn.init.kaiming_uniform_(made[0].weight, nonlinearity="relu")
        nn.init.zeros_(made[0].bias)
        nn.init.constant_(made[1].weight, 0.5)
        nn.init.zeros_(made[1].bias)
        nn.init.normal_(made[5].weight, std=run.std)
        nn.init.constant_(made[5].bias, -1.0)
        return made

    return trained(Plain.begin(run, make))


CASES = {
    "init by name": Case({"lr": [0.1], "init": [*FILLS]}, lambda project: {}, by_name),
    "init by kind and pattern": Case(
        {"lr": [0.1], "std": [0.01, 0.1]},
        lambda project: {
            "init": {
                "5.bias": -1.0,
                "bias": "zeros",
                "norm": 0.5,
                "linear": "normal",
                "conv": partial(torch.nn.init.kaiming_uniform_, nonlinearity="relu"),
            }
        },
        by_kind,
    ),
}
