"""Members of a group that differ in all their hyperparameters."""

import pytest
import torch
from torch import nn
from torch.optim import SGD, Adagrad, Adam, AdamW, RMSprop

from runmanager.training.arithmetics import ARITHMETICS, LOOPED
from tests.training.fused_networks import CONVOLVING, NETWORKS
from tests.training.fused_twins import Member, Twins, classes, fused_stepper

torch.set_num_threads(1)
LRS = [0.02, 0.005, 0.01, 0.002]
SHARES = {RMSprop: 0.1}  # of the rate: its first steps are long
DECAYS = [0.0, 0.1, 0.02, 0.3]
CLIPS = [None, 0.05, 1.0, 100.0]
SMOOTHINGS = [0.0, 0.1, 0.2, 0.05]
SETTINGS = {
    SGD: [{"momentum": m, "nesterov": True} for m in (0.9, 0.5, 0.1, 0.7)],
    Adam: [{"betas": b} for b in ((0.9, 0.999), (0.8, 0.99), (0.5, 0.9), (0.95, 0.98))],
    AdamW: [{"betas": b, "eps": e} for b, e in (((0.9, 0.99), 1e-8), ((0.5, 0.9), 1e-6), ((0.8, 0.9), 1e-7)) * 2],
    RMSprop: [{"alpha": a, "momentum": m} for a, m in ((0.99, 0.0), (0.9, 0.9), (0.5, 0.1), (0.8, 0.5))],
    Adagrad: [{"lr_decay": d, "initial_accumulator_value": v} for d, v in ((0, 0), (0.1, 0.1), (0.01, 1), (0.5, 0.3))],
}
each_network = pytest.mark.parametrize("name", NETWORKS)
each_convolving = pytest.mark.parametrize("name", CONVOLVING)
each_optimizer = pytest.mark.parametrize("kind", SETTINGS, ids=lambda kind: kind.__name__)
each_arithmetic = pytest.mark.parametrize("arithmetic", ARITHMETICS)
quiet = pytest.mark.filterwarnings("ignore:There is a performance drop")
whether_shared = pytest.mark.parametrize("shared", [True, False], ids=["shared batches", "own batches"])


def optimizer_of(kind):
    return lambda index, network: kind(
        network.parameters(),
        lr=LRS[index % 4] * SHARES.get(kind, 1),
        weight_decay=DECAYS[index % 4],
        **SETTINGS[kind][index % 4],
    )


def clip_norm_of(index):
    return CLIPS[index % 4]


def smoothed(index):
    return nn.CrossEntropyLoss(label_smoothing=SMOOTHINGS[index % 4])


def all_different(name, kind=Adam, **settings):
    """Members that differ in all hyperparameters."""
    network, inputs = NETWORKS[name]
    usual = {"optimizer": optimizer_of(kind), "loss": smoothed, "clip_norm": clip_norm_of, "arithmetic": LOOPED}
    return Twins(network, inputs, **{**usual, **settings})


def assert_as_alone(twins, times=10):
    apart = twins.apart(times)
    first, all_steps = (1e-6, 1e-5) if twins.dtype == torch.float32 else (1e-14, 1e-12)
    assert apart[0] <= first
    assert max(apart) <= all_steps


def grouped(network, *, size=4, arithmetic=LOOPED, shared=False, loss=smoothed, dtype=torch.float32):
    members = [
        Member.build(index, lambda i: network(i).to(dtype), optimizer_of(AdamW), loss, clip_norm_of)
        for index in range(size)
    ]
    return members, fused_stepper(members, arithmetic, shared=shared)


def drawn(inputs, times, *, size=4, shared=False, dtype=torch.float32):
    """Batches for a group, or one for all its members."""
    draws = torch.Generator().manual_seed(6)
    batches = []
    for _ in range(times):
        each = []
        for _ in range(1 if shared else size):
            made = inputs(draws)
            made = made.to(dtype) if made.is_floating_point() else made
            each.append((made, classes(draws, made)))
        batches.append(each[0] if shared else tuple(map(torch.stack, zip(*each, strict=True))))
    return batches
