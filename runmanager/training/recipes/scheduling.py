"""A schedule while a run is trained: when it goes on, what it goes by, and the warm-up before it."""

import copy
from collections.abc import Mapping
from types import FunctionType
from typing import Any

from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LinearLR, LRScheduler, OneCycleLR, ReduceLROnPlateau

from runmanager.training.settings import TrainerError

_WARMUP, _DONE = (
    "_warmup",
    "_done",
)  # beside what is the scheduler's: the state of the warm-up, and how often it went on
_NEEDS = "_needs"
_HOW = "_how"  # the schedule's class, and when it goes on


class Schedule:
    """A scheduler of torch that is stepped at the right times: at the end of each epoch, or after each step.

    Its state is the scheduler's own, without the functions in it, which the next one has as well.
    """

    def __init__(
        self, scheduler: LRScheduler, *, every: str, length: int, monitor: str, warmup: "WarmUp | None" = None
    ) -> None:
        """Takes a scheduler that was just made.

        Args:
            scheduler: one of torch.optim.lr_scheduler, or what comes from it.
            every: "epoch" or "step".
            length: how many of them the training has; behind it, where only speed is tried, the rates stay as they are.
            monitor: the metric that a plateau looks at.
            warmup: what goes before it; the scheduler waits meanwhile.
        """
        self.scheduler, self.every, self.warmup = scheduler, every, warmup
        self._length, self._num_done = length, 0
        self.needs = monitor if isinstance(scheduler, ReduceLROnPlateau) else None

    def after_step(self) -> None:
        """Called after each step of the optimizer."""
        if self.every == "step":
            self._advance()

    def end_epoch(self, metrics: Mapping[str, float], epoch: int) -> None:
        """Called when an epoch has ended, with its metrics; the new rates are those of the next.

        Raises:
            TrainerError: the metric that it needs is not there.
        """
        if self.every != "epoch":
            return
        if self.needs is None:
            self._advance()
        elif self.needs in metrics:
            self._advance(metrics[self.needs])
        else:
            raise TrainerError(
                f"the plateau schedule looks at {self.needs}, and epoch {epoch} has {', '.join(metrics) or 'no metrics'}; monitor "
                "one of these, or hold out validation data"
            )

    def _advance(self, *metric: float) -> None:
        if self._num_done >= self._length:
            return
        self._num_done += 1
        if self.warmup is not None and not self.warmup.is_over:
            self.warmup.step()
        else:
            self.scheduler.step(*metric)  # type: ignore[arg-type]  # a plateau takes the metric here

    def state_dict(self) -> dict[str, Any]:
        """The scheduler's state, and that of the warm-up; what is in it are the live objects, as in torch."""
        warmup = {} if self.warmup is None else {_WARMUP: _state_of(self.warmup.rising)}
        done = {_DONE: self._num_done, _NEEDS: self.needs, _HOW: self._how()}
        return {**_state_of(self.scheduler), **warmup, **done}

    def _how(self) -> str:
        return f"{type(self.scheduler).__name__} by {self.every}s"

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Puts back what `state_dict` returned. The rates themselves are in the optimizer's state.

        Raises:
            TrainerError: it is the state of another schedule, or of one that ends before the training does now.
        """
        copied = copy.deepcopy(dict(state))
        if (how := copied.pop(_HOW, self._how())) != self._how():
            raise TrainerError(f"it was {how} before, and is {self._how()} now")
        if (before := copied.pop(_NEEDS)) != self.needs:
            raise TrainerError(f"it looked at {before} before, and looks at {self.needs} now")
        warmup, self._num_done = copied.pop(_WARMUP, None), copied.pop(_DONE)
        if (warmup is None) != (self.warmup is None):
            raise TrainerError(f"it had {_a_warmup(warmup)} before, and has {_a_warmup(self.warmup)} now")
        if self.warmup is not None:
            self.warmup.rising.load_state_dict(warmup)
        self.scheduler.load_state_dict(copied)
        if isinstance(self.scheduler, OneCycleLR) and self.scheduler.total_steps < self._length:
            raise TrainerError(
                f"its one cycle began with {self.scheduler.total_steps} {self.every}s, and the training has {self._length} now"
            )


def _a_warmup(warmup: Any) -> str:
    return "no warm-up" if warmup is None else "a warm-up"


class WarmUp:
    """Rates that rise linearly to those of a schedule, which takes them exactly as it would without a warm-up.

    SequentialLR of torch does this too, but begins too low with a schedule that goes on from the rate it finds.
    """

    def __init__(self, optimizer: Optimizer, length: int, rates: list[float]) -> None:
        """The schedule was just made.

        Args:
            optimizer: whose rates are the first of the schedule.
            length: how many epochs or steps it takes.
            rates: what the rates were before the schedule was made; the rise is towards these.
        """
        self._first, self._length = rates_of(optimizer), length
        _set_rates(optimizer, rates)
        self.rising = LinearLR(optimizer, start_factor=1 / (length + 1), total_iters=length)

    @property
    def is_over(self) -> bool:
        """Whether it is the schedule's turn."""
        return self.rising.last_epoch >= self._length

    def step(self) -> None:
        """One epoch or step of it is done."""
        self.rising.step()
        if self.is_over:
            _set_rates(self.rising.optimizer, self._first)


def rates_of(optimizer: Optimizer) -> list[float]:
    """The rate of each group."""
    return [float(group["lr"]) for group in optimizer.param_groups]


def _set_rates(optimizer: Optimizer, rates: list[float]) -> None:
    for group, rate in zip(optimizer.param_groups, rates, strict=True):
        if isinstance(group["lr"], Tensor):  # a captured graph may read it there
            group["lr"].fill_(rate)
        else:
            group["lr"] = rate


def _state_of(scheduler: LRScheduler) -> dict[str, Any]:
    """What a scheduler says of itself, and what those say that it is made of."""
    state = dict(scheduler.state_dict())
    if "_schedulers" in state and hasattr(scheduler, "_schedulers"):
        state["_schedulers"] = [_state_of(one) for one in scheduler._schedulers]
    if type(scheduler).load_state_dict is LRScheduler.load_state_dict:
        return {name: value for name, value in state.items() if not isinstance(value, FunctionType)}
    return state
