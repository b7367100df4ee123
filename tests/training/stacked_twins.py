"""The same members twice: in a stack of optimizers, and each alone."""

import io

import pytest
import torch
from torch import nn
from torch.optim import SGD, Adagrad, Adam, AdamW, RMSprop

from runmanager.training.stacked_optimizers import stacked, trained_parameters

SHAPES = [torch.Size(shape) for shape in ((5, 7), (5,), (9, 5), (9,))]  # 94 numbers: a block of 64, and a rest
SIZES = [shape.numel() for shape in SHAPES]
RATES = {"lr": [0.1, 0.01, 0.03, 0.0]}
DECAYS = {"weight_decay": [0, 0.1, 0.2, 0.3]}
BETAS = {"betas": [(0.9, 0.999), (0.8, 0.99), (0.5, 0.5), (0.0, 0.9)], "eps": [1e-8, 1e-6, 1e-3, 1e-7]}
MOMENTA = {"momentum": [0.9, 0.5, 0.1, 0.3]}
MIXED = {"momentum": [0, 0.9, 0, 0.5]}
ALPHAS = {"alpha": [0.99, 0.9, 0.5, 0.999], "eps": [1e-8, 1e-6, 1e-3, 1e-7]}
CASES = {
    "sgd": (SGD, RATES, {}),
    "sgd, one rate": (SGD, {}, {"lr": 0.1, "momentum": 0.9}),
    "sgd, decay": (SGD, RATES | DECAYS, {}),
    "sgd, mixed momentum": (SGD, RATES | DECAYS | MIXED | {"dampening": [0.5, 0.1, 0, 0.9]}, {}),
    "sgd, dampening, maximize": (SGD, RATES | MOMENTA | {"dampening": [0, 0.1, 0.5, 0.9]}, {"maximize": True}),
    "sgd, nesterov": (SGD, RATES | MOMENTA, {"nesterov": True}),
    "sgd, nesterov, decay, maximize": (SGD, RATES | DECAYS | MOMENTA, {"nesterov": True, "maximize": True}),
    "adam": (Adam, RATES, {}),
    "adam, one rate": (Adam, {}, {"lr": 0.1}),
    "adam, decay, amsgrad": (Adam, RATES | DECAYS, {"amsgrad": True}),
    "adam, betas": (Adam, RATES | BETAS, {}),
    "adam, betas, decay, amsgrad, maximize": (Adam, RATES | BETAS | DECAYS, {"amsgrad": True, "maximize": True}),
    "adam, decoupled": (Adam, RATES | DECAYS, {"decoupled_weight_decay": True}),
    "adam, maximize": (Adam, RATES, {"maximize": True}),
    "adam, fused": (Adam, RATES | DECAYS, {"fused": True}),
    "adamw": (AdamW, RATES | DECAYS, {}),
    "adamw, betas, amsgrad": (AdamW, RATES | DECAYS | BETAS, {"amsgrad": True}),
    "adamw, amsgrad, maximize": (AdamW, RATES | DECAYS, {"amsgrad": True, "maximize": True}),
    "rmsprop": (RMSprop, RATES | ALPHAS, {}),
    "rmsprop, mixed momentum, decay": (RMSprop, RATES | ALPHAS | MIXED | DECAYS, {}),
    "rmsprop, centered": (RMSprop, RATES | ALPHAS, {"centered": True}),
    "rmsprop, centered, momentum, maximize": (RMSprop, RATES | ALPHAS | MOMENTA, {"centered": True, "maximize": True}),
    "adagrad": (Adagrad, RATES, {}),
    "adagrad, all": (
        Adagrad,
        RATES | DECAYS | {"lr_decay": [0, 0.1, 0.01, 0.5], "initial_accumulator_value": [0, 0.1, 1, 2]},
        {"maximize": True},
    ),
}
each_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES)
each_dtype = pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])


def settings_of(case, rows=range(4)):
    kind, lists, flags = case
    return kind, [{name: numbers[row] for name, numbers in lists.items()} | flags for row in rows]


def optimizer_of(kind, row, settings, groups=1):
    """An optimizer over parameters that are views of a row [P]."""
    parameters = [nn.Parameter(piece.view(shape)) for piece, shape in zip(row.split(SIZES), SHAPES, strict=True)]
    if groups == 1:
        return kind(parameters, **settings)
    second = {"params": parameters[2:], "lr": settings["lr"] * 0.3, "eps": 1e-5, "weight_decay": 0.01}
    return kind([{"params": parameters[:2]}, second], **settings)


class Twins:
    """The same K members twice: in a stack, and each alone."""

    def __init__(self, case, dtype=torch.float64, rows=range(4), groups=1, before=0, seed=0):
        self.kind, settings = settings_of(case, rows)
        self.draws = torch.Generator().manual_seed(seed)
        self.values = torch.randn(4, sum(SIZES), dtype=dtype, generator=self.draws)[list(rows)]
        self.grads = torch.zeros_like(self.values)
        self.alone = [
            optimizer_of(self.kind, row.clone(), one, groups) for row, one in zip(self.values, settings, strict=True)
        ]
        self.members = [
            optimizer_of(self.kind, row, one, groups) for row, one in zip(self.values, settings, strict=True)
        ]
        for _ in range(before):
            self.step_alone(self.draw())
        if before:
            self.resume()
        self.stack = stacked(self.members, self.values, self.grads)

    def resume(self):
        for row, (one, member) in enumerate(zip(self.alone, self.members, strict=True)):
            self.values[row] = row_of(one)
            member.load_state_dict(saved_and_loaded(one.state_dict()))

    def draw(self):
        return torch.randn(self.values.shape, dtype=self.values.dtype, generator=self.draws)

    def step_alone(self, grads):
        for one, row in zip(self.alone, grads, strict=True):
            step_alone(one, row)

    def step(self, times=1):
        for _ in range(times):
            grads = self.draw()
            self.step_alone(grads)
            self.grads.copy_(grads)
            self.stack.step()

    def apart(self):
        """The largest difference from the members alone, relative to a number or to 1 where that is more."""
        alone = torch.stack([row_of(one) for one in self.alone])
        return ((self.values - alone).abs() / alone.abs().clamp(min=1)).max().item()


def step_alone(optimizer, row):
    parameters = trained_parameters(optimizer)
    for one, piece in zip(parameters, row.split([one.numel() for one in parameters]), strict=True):
        one.grad = piece.view(one.shape).clone()
    optimizer.step()


def row_of(optimizer):
    return torch.cat([one.detach().reshape(-1) for one in trained_parameters(optimizer)])


def saved_and_loaded(state):
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def assert_same_state(one, other, tolerance=1e-13):
    one, other = one.state_dict(), other.state_dict()
    assert one["param_groups"] == other["param_groups"]
    assert one["state"].keys() == other["state"].keys()
    for index, state in one["state"].items():
        assert list(state) == list(other["state"][index])
        for name, tensor in state.items():
            torch.testing.assert_close(tensor, other["state"][index][name], rtol=tolerance, atol=tolerance)
