"""The strict mode."""

import torch

from tests.conformance.recipes.cases import NUM_EPOCHS, Case, Plain


def strict(run) -> Plain:
    torch.use_deterministic_algorithms(run.deterministic)
    try:
        plain = Plain.begin(run)
        for _ in range(NUM_EPOCHS):
            plain.rows.append({"loss": plain.train(), **plain.validate()})
    finally:
        torch.use_deterministic_algorithms(False)
    return plain


CASES = {
    "deterministic": Case(
        {"lr": [0.1, 0.01], "deterministic": [True]},
        lambda project: {},
        strict,
        alone="it is to give the same bits each time (deterministic)",
    ),
}
