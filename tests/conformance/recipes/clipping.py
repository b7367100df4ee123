"""Clipping by norm and by value."""

import torch
from torch.nn.utils import clip_grad_norm_, clip_grad_value_

from tests.conformance.recipes.cases import NUM_EPOCHS, Case, Plain


def by_norm(run) -> Plain:
    plain = Plain.begin(run)
    norms: list[float] = []

    def step(inputs, targets):
        plain.optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(plain.network(inputs), targets)
        loss.backward()
        norms.append(clip_grad_norm_(plain.network.parameters(), run.clip_norm).double().item())
        plain.optimizer.step()
        return loss

    for _ in range(NUM_EPOCHS):
        norms.clear()
        loss = plain.train(step)
        plain.rows.append({"loss": loss, **plain.validate(), "gradient norm": sum(norms) / len(norms)})
    return plain


def by_value(run) -> Plain:
    plain = Plain.begin(run)

    def step(inputs, targets):
        plain.optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(plain.network(inputs), targets)
        loss.backward()
        clip_grad_value_(plain.network.parameters(), run.clip_value)
        plain.optimizer.step()
        return loss

    for _ in range(NUM_EPOCHS):
        plain.rows.append({"loss": plain.train(step), **plain.validate()})
    return plain


CASES = {
    "clipping by norm": Case({"lr": [0.1], "clip_norm": [0.1, 10.0]}, lambda project: {}, by_norm),
    "clipping by value": Case({"lr": [0.1], "clip_value": [0.01, 0.1]}, lambda project: {}, by_value),
}
