"""The Trainer's settings: what each may be, and what it is when nobody says."""

from typing import Any

import torch

SETTINGS = ("epochs", "batch_size", "shuffle", "validation", "num_workers", "clip_norm", "device")
"""What a Trainer reads from the run by itself when the grid has a parameter of that name."""

USUAL = {
    "lr": "0.01",
    "momentum": "0.9",
    "weight_decay": "0.0001",
    "batch_size": "100",
    "dropout": "0.5",
    "epochs": "3",
}
"""Values to begin with, for messages that say what to add."""

_DEFAULTS = {"shuffle": True, "validation": 0.1, "num_workers": 0, "clip_norm": None, "device": None}
_LEAST = {"epochs": 1, "batch_size": 1, "num_workers": 0}


class TrainerError(ValueError):
    """A part of the Trainer cannot be used; the message names it and says what to write."""


def default_of(name: str) -> Any:
    """What a setting is when it is neither given nor in the grid.

    Raises:
        TrainerError: it has to be given.
    """
    if name not in _DEFAULTS:
        raise TrainerError(f"{name} is neither given to the Trainer nor in the grid; add {name}={USUAL[name]}")
    return _DEFAULTS[name]


def setting_fault(name: str, value: Any) -> str | None:
    """What is wrong with a setting's value, or None."""
    least = _LEAST.get(name)
    if least is not None and (not isinstance(value, int) or isinstance(value, bool) or value < least):
        return f"{name}={value!r} is not a whole number of {least} or more"
    if name == "shuffle" and not isinstance(value, bool):
        return f"shuffle={value!r} is neither True nor False"
    if name == "clip_norm" and value is not None and not (_is_number(value) and value > 0):
        return f"clip_norm={value!r} is no norm of a gradient; give a number above 0, or None for any"
    if name == "validation" and not (_is_number(value) and 0 <= value < 1):
        return f"validation={value!r} is no share of the training data; give a number from 0 up to, not including, 1"
    return None


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def choose_device(device: Any) -> torch.device:
    """The device that was asked for, or the best there is.

    Raises:
        TrainerError: there is no such device here.
    """
    if device is None:
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
        return torch.device(name)
    try:
        chosen = torch.device(device)
    except (RuntimeError, TypeError):
        raise TrainerError(f"device={device!r} is unknown; choose 'cuda', 'mps' or 'cpu', or leave it out") from None
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not there.get(chosen.type, True):
        raise TrainerError(f"device={device!r} was asked for, but there is none here; choose 'cpu', or leave it out")
    return chosen


def has_classes(preds: torch.Tensor, targets: torch.Tensor) -> bool:
    """Whether targets are class numbers and predictions are their scores, so that there is an accuracy."""
    return not targets.is_floating_point() and preds.ndim == targets.ndim + 1
