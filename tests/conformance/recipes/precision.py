"""Precision and speed: half precision with and without a scaler, channels last, batches in pieces, compiled networks."""

import math

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import clip_grad_norm_

from tests.conformance.recipes.cases import NUM_CLASSES, NUM_EPOCHS, Case, Plain, network

BF16 = 0.09
"""A group rounds to bfloat16 in other places than alone, so that one of the 12 predictions of an epoch may be another."""


def evaluated(plain: Plain, dtype: torch.dtype) -> dict[str, float]:
    with torch.autocast("cpu", dtype):
        return plain.validate()


def bf16(run) -> Plain:
    plain = Plain.begin(run)

    def step(inputs, targets):
        plain.optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            loss = F.cross_entropy(plain.network(inputs), targets)
        loss.backward()
        plain.optimizer.step()
        return loss

    for _ in range(NUM_EPOCHS):
        plain.rows.append({"loss": plain.train(step), **evaluated(plain, torch.bfloat16)})
    return plain


def fp16(run) -> Plain:
    """A step that is skipped leaves the scale halved."""
    plain, scaler = Plain.begin(run), torch.amp.GradScaler("cpu")
    norms: list[float] = []
    num_skipped = 0

    def step(inputs, targets):
        nonlocal num_skipped
        plain.optimizer.zero_grad()
        with torch.autocast("cpu", torch.float16):
            loss = F.cross_entropy(plain.network(inputs), targets)
        scaler.scale(loss).backward()
        scaler.unscale_(plain.optimizer)
        norms.append(clip_grad_norm_(plain.network.parameters(), run.clip_norm).double().item())
        scaler.step(plain.optimizer)
        before = scaler.get_scale()
        scaler.update()
        num_skipped += scaler.get_scale() < before
        return loss

    for _ in range(NUM_EPOCHS):
        norms.clear()
        num_skipped = 0
        loss = plain.train(step)
        taken = [norm for norm in norms if math.isfinite(norm)]
        own = {"skipped steps": num_skipped, "gradient norm": sum(taken) / len(taken)}
        plain.rows.append({"loss": loss, **evaluated(plain, torch.float16), **own})
    return plain


def channels_last(run) -> Plain:
    plain = Plain.begin(run)
    layout = torch.channels_last if run.channels_last else torch.contiguous_format
    plain.network.to(memory_format=layout)
    forward = plain.network.forward
    plain.network.forward = lambda inputs: forward(inputs.to(memory_format=layout))
    for _ in range(NUM_EPOCHS):
        plain.rows.append({"loss": plain.train(), **plain.validate()})
    return plain


def accumulate(run) -> Plain:
    plain = Plain.begin(run)

    def step(inputs, targets):
        plain.optimizer.zero_grad()
        whole = torch.zeros(())
        pieces = zip(inputs.tensor_split(run.accumulate), targets.tensor_split(run.accumulate), strict=True)
        for some_inputs, some_targets in pieces:
            share = len(some_targets) / len(targets)
            loss = F.cross_entropy(plain.network(some_inputs), some_targets) * share
            loss.backward()
            whole += loss.detach()
        plain.optimizer.step()
        return whole

    for _ in range(NUM_EPOCHS):
        plain.rows.append({"loss": plain.train(step), **plain.validate()})
    return plain


def usual(run) -> Plain:
    plain = Plain.begin(run)
    for _ in range(NUM_EPOCHS):
        plain.rows.append({"loss": plain.train(), **plain.validate()})
    return plain


def dense() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, NUM_CLASSES))


def compiled(run) -> Plain:
    torch.compiler.reset()
    plain = Plain.begin(run, dense)
    if run.compile:
        plain.network.compile(dynamic=False)
    for _ in range(NUM_EPOCHS):
        plain.rows.append({"loss": plain.train(), **plain.validate()})
    return plain


CASES = {
    "bf16": Case({"lr": [0.1, 0.01]}, lambda project: {"amp": "bf16"}, bf16, tolerance=BF16),
    "fp16 with a scaler, clipped": Case(
        {"lr": [0.1], "amp": ["fp16"], "clip_norm": [0.1, 10.0]},
        lambda project: {},
        fp16,
        alone="it trains in float16 (amp)",
    ),
    "channels last": Case(
        {"lr": [0.1], "channels_last": [True, False]},
        lambda project: {"network": network},
        channels_last,
        alone="its network is channels_last",
    ),
    "a batch in pieces": Case({"lr": [0.1, 0.01], "accumulate": [3]}, lambda project: {}, accumulate),
    "cuDNN's benchmark": Case({"lr": [0.1, 0.01]}, lambda project: {"cudnn_benchmark": True}, usual),
    "compiled": Case(
        {"lr": [0.1], "compile": [True, "default"]},
        lambda project: {"network": dense},
        compiled,
        alone="its network is compiled",
        is_slow=True,
    ),
}
