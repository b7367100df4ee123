"""Noticing that a data set draws random numbers."""

import random
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch


class Draws:
    """Sees whether random numbers are drawn while it is entered, and puts the global generators back at the end.

    Generators that the data set keeps for itself are noticed too, but are left where they stand: whoever watches them knows
    how to put them back.
    """

    def __init__(self, watched: Callable[[], Any]) -> None:
        """`watched` gives the states of the data set's own generators, as values that stay as they are."""
        self._watched = watched

    def __enter__(self) -> "Draws":
        self._globals, self._own = _global_states(), self._watched()
        return self

    def __exit__(self, *_: object) -> None:
        torch.set_rng_state(self._globals["torch"])
        np.random.set_state(self._globals["numpy"])
        random.setstate(self._globals["python"])
        if "CUDA" in self._globals:
            torch.cuda.set_rng_state_all(self._globals["CUDA"])

    def found(self) -> str | None:
        """Whose random numbers were drawn so far, in words; None if nobody's."""
        for name, state in _global_states().items():
            if name in self._globals and not same(self._globals[name], state):
                return f"random numbers of {name}"
        return None if same(self._own, self._watched()) else "random numbers of its own"


def _global_states() -> dict[str, Any]:
    states = {
        "torch": torch.get_rng_state(),
        "numpy": np.random.get_state(legacy=False),
        "python": random.getstate(),
    }
    if torch.cuda.is_initialized():
        states["CUDA"] = torch.cuda.get_rng_state_all()
    return states


def same(first: Any, second: Any) -> bool:
    """Whether two values are equal, however tensors and arrays are nested in them."""
    if type(first) is not type(second):
        return False
    if isinstance(first, torch.Tensor):
        return torch.equal(first, second)
    if isinstance(first, np.ndarray):
        return np.array_equal(first, second)
    if isinstance(first, Mapping):
        return first.keys() == second.keys() and all(same(first[key], second[key]) for key in first)
    if isinstance(first, (tuple, list)) and any(
        isinstance(one, (tuple, list, Mapping, torch.Tensor, np.ndarray)) for one in first
    ):
        return len(first) == len(second) and all(map(same, first, second))
    return bool(first == second)
