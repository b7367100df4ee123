"""A profile of the first steps: no number of a run changes by it."""

from typing import Any

from tests.conformance.recipes.cases import NUM_EPOCHS, Case, Plain


def unwatched(run: Any) -> Plain:
    plain = Plain.begin(run)
    for _ in range(NUM_EPOCHS):
        plain.rows.append({"loss": plain.train(), **plain.validate()})
    return plain


CASES = {
    "profile": Case({"lr": [0.1], "profile": [2, 9]}, lambda project: {}, unwatched, alone="its steps are profiled"),
}
