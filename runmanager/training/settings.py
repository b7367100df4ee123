"""The Trainer's settings: what each may be, and what it is when nobody says."""

import difflib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from runmanager.nearest import ALIKE, nearest
from runmanager.parameters import encode


class TrainerError(ValueError):
    """A part of the Trainer cannot be used; the message names it and says what to write."""


@dataclass(frozen=True)
class Setting:
    """What a setting may be. What is built from its value looks at it once more."""

    default: Any = None
    fits: Callable[[Any], bool] = lambda value: True
    asked: str = ""  # what a value has to be
    has_default: bool = True
    choices: tuple[str, ...] = ()  # where it is a name


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _whole(least: int, default: Any = None, *, has_default: bool = True) -> Setting:
    def fits(value: Any) -> bool:
        return isinstance(value, int) and not isinstance(value, bool) and value >= least

    return Setting(default, fits, f"a whole number of {least} or more", has_default)


def _flag(default: bool) -> Setting:
    return Setting(default, lambda value: isinstance(value, bool), "True or False")


def _above_zero(what: str) -> Setting:
    return Setting(
        None, lambda value: _is_number(value) and value > 0, f"{what}; give a number above 0, or None for none"
    )


def _zero_or_more(what: str) -> Setting:
    return Setting(
        None, lambda value: _is_number(value) and value >= 0, f"{what}; give a number of 0 or more; 0 is off"
    )


def _one_of(*choices: str, default: Any = None) -> Setting:
    asked = f"one of {', '.join(map(repr, choices))}"
    return Setting(default, lambda value: value in choices, asked, choices=choices)


_SHARE = Setting(
    0.1,
    lambda value: _is_number(value) and 0 <= value < 1,
    "a share of the training data; give a number from 0 up to, not including, 1",
)
_DECAY = Setting(0.999, lambda value: _is_number(value) and 0 <= value < 1, "a number from 0 up to, not including, 1")

_RULES: dict[str, Setting] = {
    "epochs": _whole(1, has_default=False),
    "batch_size": _whole(1, has_default=False),
    "shuffle": _flag(True),
    "validation": _SHARE,
    "num_workers": _whole(0, 0),
    "device": Setting(),
    "normalize": Setting(
        None,
        lambda value: not isinstance(value, str) or value == "measured",
        "'measured' or (means, stds)",
        choices=("measured",),
    ),
    "sampling": _one_of("balanced"),
    "init": Setting(),
    "head": Setting(),
    "start_from": Setting(),
    "start_strict": _flag(True),
    "freeze": Setting(),
    "unfreeze": Setting(),
    "param_groups": Setting(),
    "no_decay": _flag(False),
    "schedule_every": _one_of("epoch", "step"),
    "warmup": _whole(0, 0),
    "class_weights": Setting(),
    "mixup": _zero_or_more("the alpha of a beta distribution"),
    "cutmix": _zero_or_more("the alpha of a beta distribution"),
    "l1": _zero_or_more("the weight of a penalty"),
    "l2": _zero_or_more("the weight of a penalty"),
    "clip_norm": _above_zero("the norm of a gradient"),
    "clip_value": _above_zero("the size of a gradient's number"),
    "metrics": Setting(),
    "log_every": _whole(1),
    "show_predictions": _whole(0, 0),
    "monitor": Setting(),
    "patience": _whole(1),
    "average": _one_of("ema", "swa"),
    "ema_decay": _DECAY,
    "swa_start": _whole(1),
    "amp": _one_of("fp16", "bf16"),
    "channels_last": _flag(False),
    "compile": Setting(False),
    "accumulate": _whole(1, 1),
    "cudnn_benchmark": _flag(False),
    "deterministic": _flag(False),
    "devices": _whole(1, 1),
    "parallel": _one_of("ddp", "dp", default="ddp"),
    "sync_batchnorm": _flag(False),
    "profile": _whole(1),
}
SWEPT_PARTS = ("network", "data", "optimizer", "scheduler")
"""What a Trainer is made of and a grid may have, too; `loss` is a column of the results."""
SETTINGS = tuple(_RULES)
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


def default_of(name: str, others: Iterable[str] = ()) -> Any:
    """What a setting is when it is neither given nor in the grid, which has `others`.

    Raises:
        TrainerError: it has to be given.
    """
    if not _RULES[name].has_default:
        raise TrainerError(nowhere(name, others))
    return _RULES[name].default


def nowhere(name: str, others: Iterable[str]) -> str:
    """The message for what has to be said, and is neither given nor in the grid, which has `others`."""
    near = difflib.get_close_matches(name, list(others), n=1, cutoff=ALIKE)
    hint = f"; the grid has {near[0]!r}: call that {name!r} if it is meant" if near else ""
    return f"{name} is neither given to the Trainer nor in the grid; add {name}={USUAL.get(name, '...')}{hint}"


def setting_fault(name: str, value: Any) -> str | None:
    """What is wrong with a setting's value, or None. None is as if it were not given."""
    rule = _RULES[name]
    if (value is None and rule.has_default) or rule.fits(value):
        return None
    return f"{name}={value!r} is not {rule.asked}{nearest(value, rule.choices)}"


def is_plain(value: Any) -> bool:
    """Whether it can be written down as it is: names and numbers, and lists and dicts of them. None is not given."""
    if isinstance(value, Mapping):
        return all(map(is_plain, value.values()))
    if isinstance(value, (list, tuple)):
        return all(map(is_plain, value))
    return isinstance(value, (bool, int, float, str))


def as_plain(value: Any) -> Any:
    """What is plain as strict JSON, whose keys are strings."""
    if isinstance(value, Mapping):
        return {str(key): as_plain(one) for key, one in value.items()}
    return [as_plain(one) for one in value] if isinstance(value, (list, tuple)) else encode(value)


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
    except (RuntimeError, TypeError, ValueError):
        raise TrainerError(f"device={device!r} is unknown; choose 'cuda', 'mps' or 'cpu', or leave it out") from None
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not there.get(chosen.type, True):
        raise TrainerError(f"device={device!r} was asked for, but there is none here; choose 'cpu', or leave it out")
    return chosen


def has_classes(preds: torch.Tensor, targets: torch.Tensor) -> bool:
    """Whether targets are class numbers and predictions are their scores, so that there is an accuracy."""
    return not targets.is_floating_point() and preds.ndim == targets.ndim + 1


def other_number(num_classes: int, num_outputs: int) -> str:
    """What to do where the network tells apart another number of classes than the training data has."""
    return (
        f"the training data has {num_classes} classes, and the network {num_outputs} outputs: give it {num_classes}, or name all "
        f"{num_outputs} classes, as by data=Splits(train, classes=(...))"
    )
