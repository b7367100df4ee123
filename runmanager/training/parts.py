"""A run's network, optimizer, schedule and loss, built from what the Trainer was given."""

import copy
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch.nn import Module
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from runmanager.training.settings import TrainerError
from runmanager.training.steppers import Loss


@dataclass
class Parts:
    """What one run is trained with."""

    network: Module
    optimizer: Optimizer
    loss: Loss
    scheduler: LRScheduler | None = None

    @property
    def device(self) -> torch.device:
        """Where the network is."""
        return next((param.device for param in self.network.parameters()), torch.device("cpu"))


def build_network(network: Any, run: Any) -> Module:
    """The network of a run.

    Raises:
        TrainerError: what was given makes no Module.
    """
    if isinstance(network, Module):
        return copy.deepcopy(network)
    made = of_run(network, run) if callable(network) else network
    if not isinstance(made, Module):
        raise TrainerError(
            f"network={_name(network)} gives {_name(made)}; give a Module class or a function that returns a Module"
        )
    return made


def build_optimizer(optimizer: Any, run: Any, network: Module) -> Optimizer:
    """The optimizer of a run's network.

    Raises:
        TrainerError: it is no function of the run and its network, or returns something else.
    """
    if isinstance(optimizer, type) or not callable(optimizer):
        raise TrainerError(
            f"optimizer={_name(optimizer)} has to be a function of the run and its network; "
            "write optimizer=lambda run, network: torch.optim.Adam(network.parameters(), lr=run.lr)"
        )
    made = optimizer(run, network)
    if not isinstance(made, Optimizer):
        raise TrainerError(f"the optimizer function returned {_name(made)}, not a torch.optim.Optimizer")
    return made


def build_scheduler(scheduler: Any, run: Any, optimizer: Optimizer) -> LRScheduler | None:
    """The schedule of a run's optimizer, which is stepped after each epoch; None where none was given.

    Raises:
        TrainerError: it is no function of the run and its optimizer, or returns something that the Trainer cannot step.
    """
    if scheduler is None:
        return None
    if isinstance(scheduler, type) or not callable(scheduler):
        raise TrainerError(
            f"scheduler={_name(scheduler)} has to be a function of the run and its optimizer; "
            "write scheduler=lambda run, optimizer: torch.optim.lr_scheduler.StepLR(optimizer, step_size=10)"
        )
    made = scheduler(run, optimizer)
    if not isinstance(made, LRScheduler):
        raise TrainerError(
            f"the scheduler function returned {_name(made)}, not one of torch.optim.lr_scheduler; "
            "a run without a schedule returns ConstantLR(optimizer, factor=1)"
        )
    if isinstance(made, ReduceLROnPlateau):
        raise TrainerError(
            "the scheduler function returned a ReduceLROnPlateau, which wants a metric at each step and gets none here; "
            "choose one that goes by epochs, like StepLR or CosineAnnealingLR"
        )
    if getattr(made, "optimizer", optimizer) is not optimizer:
        raise TrainerError(
            "the scheduler function returned a schedule of another optimizer; pass it the one it is given"
        )
    return made


def build_loss(loss: Any, run: Any, device: torch.device | None = None) -> Loss:
    """The loss of a run: what was given, or what that returns for the run; a Module is on the run's device.

    Raises:
        TrainerError: it cannot be called.
    """
    if not callable(loss):
        raise TrainerError(f"loss={_name(loss)} is no function of predictions and targets; write loss=F.cross_entropy")
    if isinstance(loss, Module):
        made = copy.deepcopy(loss)  # its buffers may change while a run is trained
    elif not isinstance(loss, type) and _num_required(loss) != 1:
        made = loss
    else:
        made = of_run(loss, run)
    if not callable(made):
        raise TrainerError(f"the loss function of the run returned {_name(made)}, which cannot be called")
    return made.to(device) if isinstance(made, Module) else made


def is_function_of_run(data: Any) -> bool:
    """Whether data was given as a function; a Dataset may be callable and is none."""
    return isinstance(data, partial) or inspect.isfunction(data) or inspect.ismethod(data)


def of_run(make: Callable[..., Any], run: Any) -> Any:
    """Calls `make` with the run, or with nothing where it takes nothing."""
    return make(run) if _num_required(make) >= 1 else make()


def _num_required(function: Callable[..., Any]) -> int:
    """How many arguments a call must give by position; 2 for what has no signature, as C functions."""
    try:
        params = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return 2
    by_position = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return sum(param.kind in by_position and param.default is inspect.Parameter.empty for param in params)


def _name(value: Any) -> str:
    return getattr(value, "__qualname__", None) or f"a {type(value).__name__}"
