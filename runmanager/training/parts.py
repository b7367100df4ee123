"""What one run is trained with."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch.nn import Module
from torch.optim import Optimizer

from runmanager.training.recipe import Recipe
from runmanager.training.steppers import Loss


@dataclass
class Parts:
    """What one run is trained with."""

    network: Module
    optimizer: Optimizer
    loss: Loss
    recipe: Recipe = field(default_factory=Recipe)
    notes: list[str] = field(default_factory=list)  # what was done when it was built, for people

    @property
    def device(self) -> torch.device:
        """Where the network is."""
        return next((param.device for param in self.network.parameters()), torch.device("cpu"))


def is_function_of_run(data: Any) -> bool:
    """Whether data was given as a function; a Dataset may be callable and is none."""
    return isinstance(data, partial) or inspect.isfunction(data) or inspect.ismethod(data)


def is_setting_of_run(value: Any) -> bool:
    """Whether a setting was given as a function of the run; a metric, or an initialiser of torch's, may be called and is none."""
    if isinstance(value, Module) or getattr(value, "__module__", None) == "torch.nn.init":
        return False
    return callable(value) and num_required(value) < 2


def of_run(make: Callable[..., Any], run: Any) -> Any:
    """Calls `make` with the run, or with nothing where it takes nothing."""
    return make(run) if num_required(make) >= 1 else make()


def num_required(function: Callable[..., Any]) -> int:
    """How many arguments a call must give by position; 2 for what has no signature, as C functions."""
    try:
        params = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return 2
    by_position = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return sum(param.kind in by_position and param.default is inspect.Parameter.empty for param in params)
