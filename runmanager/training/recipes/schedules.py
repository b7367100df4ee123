"""Schedules of the learning rate by name, class or function, by epochs or by steps, with a warm-up before them.

The warm-up raises the rates linearly: over N epochs (or steps) they are 1/(N+1), 2/(N+1), ..., N/(N+1) of what they should be, and
the schedule begins behind it.
"""

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any

from torch.optim import Optimizer, lr_scheduler
from torch.optim.lr_scheduler import (
    ConstantLR,
    CyclicLR,
    LRScheduler,
    OneCycleLR,
    ReduceLROnPlateau,
)

from runmanager.training.recipes.naming import (
    as_list,
    chosen,
    filled,
    is_class,
    kind_of,
    lacking,
    listed,
    refuse_text,
    refuse_unknown,
    short_name,
    unknown,
)
from runmanager.training.recipes.scheduling import Schedule, WarmUp, rates_of
from runmanager.training.settings import TrainerError

Kind = type[LRScheduler]
Arguments = dict[str, Any]

SHORT = {
    "step": "StepLR",
    "multi_step": "MultiStepLR",
    "exponential": "ExponentialLR",
    "cosine": "CosineAnnealingLR",
    "warm_restarts": "CosineAnnealingWarmRestarts",
    "plateau": "ReduceLROnPlateau",
    "one_cycle": "OneCycleLR",
    "linear": "LinearLR",
    "polynomial": "PolynomialLR",
    "cyclic": "CyclicLR",
    "constant": "ConstantLR",
}
"""Short names for classes of torch.optim.lr_scheduler."""

OURS: dict[str, Arguments] = {"linear": {"start_factor": 1.0, "end_factor": 0.0}, "constant": {"factor": 1.0}}
"""Arguments of short names that are others than torch's where nobody says them: `linear` falls from the optimizer's rate to 0,
and `constant` leaves it as it is."""

EVERY = ("epoch", "step")
_BY_STEPS = (OneCycleLR, CyclicLR)
_TOTAL = {
    "CosineAnnealingLR": "T_max",
    "LinearLR": "total_iters",
    "PolynomialLR": "total_iters",
    "ConstantLR": "total_iters",
}
"""The argument that says how long the schedule is."""

_OWN_NAMES = {"patience": "plateau_patience", "eps": "plateau_eps"}
"""What the hyperparameter is called where the argument's name has another meaning: early stopping's patience, Adam's eps."""

_NOT_OF_THE_RUN: dict[Kind, tuple[str, ...]] = {
    ReduceLROnPlateau: ("mode", *_OWN_NAMES),
    OneCycleLR: ("epochs", "steps_per_epoch"),  # the training's, which decide total_steps
}
_COUNTS = ("step_size", "T_max", "T_0", "T_mult", "total_iters", "total_steps", "step_size_up", "step_size_down")
_EXAMPLES = {"step_size": 10, "gamma": 0.9, "milestones": [10, 20], "T_0": 10, "base_lr": 0.001, "max_lr": 0.1}
_NO_WARMUP: dict[Kind, str] = {
    OneCycleLR: "begins with a warm-up of its own, as long as pct_start says",
    CyclicLR: "raises the rate by itself, over step_size_up",
}


def build_schedule(
    scheduler: Any,
    run: Any,
    optimizer: Optimizer,
    *,
    every: str | None,
    warmup: int | None,
    num_epochs: int,
    num_steps: int,
    monitor: str,
    mode: str,
) -> Schedule | None:
    """The schedule of a run's optimizer; None where there is neither a scheduler nor a warm-up.

    Of the arguments that nobody gives, some come from the training: T_max and total_iters are what is left of it behind the
    warm-up, total_steps is all of it, max_lr of a OneCycleLR is the optimizer's rate of each group, a plateau's mode is that of
    the monitored metric.

    Args:
        scheduler: a short name (see `SHORT`), the name of a class of torch.optim.lr_scheduler, such a class, a partial of one, or a
            function of the run and its optimizer. A class gets the run's hyperparameters that bear the names of its
            arguments; a plateau's patience and eps are called `plateau_patience` and `plateau_eps` there.
        run: a named tuple of hyperparameters.
        optimizer: whose rates are changed.
        every: "epoch" or "step"; by default a OneCycleLR or CyclicLR goes by steps, any other by epochs.
        warmup: how many epochs or steps the rates rise in.
        num_epochs: of the training.
        num_steps: of an epoch.
        monitor: the metric that a plateau looks at.
        mode: "min" or "max", which way that metric improves.

    Raises:
        TrainerError: there is no such schedule, it lacks an argument, or does not go with the rest.
    """
    if every not in (None, *EVERY):
        raise TrainerError(unknown("schedule_every", every, EVERY))
    if scheduler is None and not warmup:
        return None
    rates = rates_of(optimizer)
    make, ours = _make_of(scheduler)
    made = None if make is None or is_class(make, LRScheduler) else _of_function(make, run, optimizer)
    kind = kind_of(make) if made is None else type(made)
    by = every or ("step" if is_class(kind, _BY_STEPS) else "epoch")
    length = num_epochs if by == "epoch" else num_epochs * num_steps
    _check_warmup(warmup, length, by, kind)
    left = length - (warmup or 0)
    if make is None:
        made = ConstantLR(optimizer, factor=1.0, total_iters=0)
    elif made is None:
        made = _of_class(make, ours, _of_training(kind, optimizer, left, mode), run, optimizer)
    _check_made(made, by, length, monitor, mode)
    optimizer._opt_called = True  # type: ignore[attr-defined]  # else it warns where a scaler leaves out the first step
    first = WarmUp(optimizer, warmup, rates) if warmup else None
    return Schedule(made, every=by, length=length, monitor=monitor, warmup=first)


def _make_of(scheduler: Any) -> tuple[Any, Arguments]:
    """What makes the schedule, and the arguments that come with its short name."""
    if not isinstance(scheduler, str):
        return scheduler, {}
    classes = {name: getattr(lr_scheduler, name) for name in lr_scheduler.__all__ if name != "LRScheduler"}
    kind = chosen("scheduler", scheduler, {**{short: classes[name] for short, name in SHORT.items()}, **classes})
    return kind, OURS.get(scheduler.lower(), {})


def _of_function(make: Any, run: Any, optimizer: Optimizer) -> LRScheduler:
    if isinstance(make, type) or not callable(make):
        raise TrainerError(
            f"scheduler={short_name(make)} has to be a name like 'cosine', a class of torch.optim.lr_scheduler, or a function "
            "of the run and its optimizer; "
            "write scheduler=lambda run, optimizer: torch.optim.lr_scheduler.StepLR(optimizer, step_size=10)"
        )
    made = make(run, optimizer)
    if not isinstance(made, LRScheduler):
        raise TrainerError(
            f"the scheduler function returned {short_name(made)}, not one of torch.optim.lr_scheduler; "
            "a run without a schedule returns ConstantLR(optimizer, factor=1)"
        )
    if getattr(made, "optimizer", optimizer) is not optimizer:
        raise TrainerError(
            "the scheduler function returned a schedule of another optimizer; pass it the one it is given"
        )
    return made


def _of_class(
    make: Callable[..., LRScheduler], ours: Arguments, known: Arguments, run: Any, optimizer: Optimizer
) -> LRScheduler:
    """Fixed arguments go before the run's, those before what the short name says, that before what is known of the training."""
    refuse_unknown("scheduler", make)
    fixed = dict(make.keywords) if isinstance(make, partial) else {}
    taken = inspect.signature(make).parameters
    said = {*fixed, *(("total_steps",) if "steps_per_epoch" in fixed else ())}  # which torch takes before epochs
    theirs = {name: value for name, value in {**known, **ours}.items() if name in taken and name not in said}
    arguments = {**theirs, **_of_run(make, run)}
    if isinstance(arguments.get("milestones"), int):
        arguments["milestones"] = as_list(arguments["milestones"])
    if missing := lacking(make, arguments):
        raise TrainerError(_what_is_missing(make, missing, run))
    everything = {**fixed, **arguments}
    _check_counts(kind_of(make), everything)
    refuse_text(make, everything)
    try:
        return make(optimizer, **arguments)
    except (TypeError, ValueError, RuntimeError, KeyError, ZeroDivisionError) as error:
        raise TrainerError(f"scheduler={kind_of(make).__name__} with {listed(everything)}: {error}") from error


def _of_run(make: Any, run: Any) -> Arguments:
    """The arguments that the run has hyperparameters for."""
    first = next(iter(inspect.signature(make).parameters))
    others = {name for kind, names in _NOT_OF_THE_RUN.items() if is_class(make, kind) for name in names}
    arguments = filled(make, run, leave_out=[first, "last_epoch", *others])
    fixed = make.keywords if isinstance(make, partial) else {}
    for name in others & _OWN_NAMES.keys() - fixed.keys():
        if _OWN_NAMES[name] in run._fields:
            arguments[name] = getattr(run, _OWN_NAMES[name])
    return arguments


def _of_training(kind: Kind, optimizer: Optimizer, left: int, mode: str) -> Arguments:
    """What the training says about arguments; `left` are its epochs or steps behind the warm-up."""
    if issubclass(kind, OneCycleLR):
        return {"total_steps": left, "max_lr": [group["lr"] for group in optimizer.param_groups]}
    if issubclass(kind, ReduceLROnPlateau):
        return {"mode": mode}
    return {argument: left for name, argument in _TOTAL.items() if issubclass(kind, getattr(lr_scheduler, name))}


def _what_is_missing(make: Any, missing: list[str], run: Any) -> str:
    name = kind_of(make).__name__
    start = (
        f"scheduler={name} needs {', '.join(missing)}, and the grid has {', '.join(run._fields) or 'no parameters'}; "
    )
    if any(one not in _EXAMPLES for one in missing):
        arguments = ", ".join(f"{one}=..." for one in missing)
        return f"{start}write scheduler=lambda run, optimizer: torch.optim.lr_scheduler.{name}(optimizer, {arguments})"
    adding = ", ".join(f"{one}=[{_EXAMPLES[one]}]" for one in missing)
    fixing = ", ".join(f"{one}={_EXAMPLES[one]}" for one in missing)
    return f"{start}add {adding}, or write scheduler=partial(torch.optim.lr_scheduler.{name}, {fixing})"


def _check_counts(kind: Kind, arguments: Arguments) -> None:
    """Torch itself divides by some of these later on."""
    for name in _COUNTS:
        value = arguments.get(name)
        if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
            raise TrainerError(f"scheduler={kind.__name__}: {name}={value!r} is not a whole number of 1 or more")


def _check_warmup(warmup: Any, length: int, by: str, kind: Any) -> None:
    if warmup is not None and (isinstance(warmup, bool) or not isinstance(warmup, int) or warmup < 0):
        raise TrainerError(f"warmup={warmup!r} is no number of {by}s; give a whole number of 0 or more")
    if not warmup:
        return
    if warmup >= length:
        raise TrainerError(
            f"warmup={warmup} {by}s leave nothing of a training of {length} {by}s; give at most {length - 1}"
            + ('; schedule_every="step" counts it in steps' if by == "epoch" else "")
        )
    for other, reason in _NO_WARMUP.items():
        if is_class(kind, other):
            raise TrainerError(f"warmup={warmup} does not go with {other.__name__}, which {reason}; leave warmup out")


def _check_made(made: LRScheduler, by: str, length: int, monitor: str, mode: str) -> None:
    if isinstance(made, ReduceLROnPlateau) and by == "step":
        raise TrainerError(
            f'schedule_every="step" does not go with a plateau of {monitor}, which there is at the end of an epoch; leave it out'
        )
    if isinstance(made, ReduceLROnPlateau) and made.mode != mode:
        raise TrainerError(
            f"the plateau schedule has mode={made.mode!r}, but {monitor} improves towards its {mode}; give mode={mode!r}"
        )
    if isinstance(made, OneCycleLR) and made.total_steps < length:
        raise TrainerError(
            f"the OneCycleLR ends after {made.total_steps} {by}s, and the training has {length}; leave total_steps out, or "
            f"give total_steps={length}" + (', or schedule_every="epoch"' if by == "step" else "")
        )
