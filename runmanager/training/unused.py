"""What a sweep says and nothing uses: settings that need another one, and names that are almost right."""

import difflib
import inspect
from collections.abc import Iterable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch.nn import Module
from torch.nn.modules.loss import _Loss
from torch.optim import Optimizer, lr_scheduler

from runmanager.nearest import ALIKE, nearest
from runmanager.training.parts import Parts
from runmanager.training.reads import values_of
from runmanager.training.recipes.naming import kind_of, short_name
from runmanager.training.settings import SETTINGS, SWEPT_PARTS, USUAL

if TYPE_CHECKING:
    from runmanager.training.trainer import Trainer

_NEEDS = {
    "ema_decay": (("average",), "average='ema'", "that"),
    "swa_start": (("average",), "average='swa'", "that"),
    "schedule_every": (("scheduler", "warmup"), "a scheduler or a warm-up", "scheduler='cosine'"),
    "monitor": (("patience", "scheduler"), "patience or a plateau", "patience=5"),
    "parallel": (("devices",), "several devices", "devices=2"),
    "sync_batchnorm": (("devices",), "several devices", "devices=2"),
    "unfreeze": (("freeze",), "something frozen", "freeze='...'"),
}
"""Of a setting that does nothing by itself: the settings that decide, what it does nothing without, and what to add."""
_OTHER_NAMES = {
    "learning_rate": "lr",
    "bs": "batch_size",
    "wd": "weight_decay",
    "model": "network",
    "dataset": "data",
    "criterion": "loss",
}
"""What others call it, where the letters do not tell."""


def used_by(parts: Parts) -> set[str]:
    """Those of the settings that do nothing without another which a run has a use for."""
    recipe = parts.recipe
    kind = None if recipe.average is None else recipe.average.kind
    uses = {
        "ema_decay": kind == "ema",
        "swa_start": kind == "swa",
        "schedule_every": recipe.schedule is not None,
        "monitor": bool(recipe.monitored()),
        "parallel": recipe.is_spread,
        "sync_batchnorm": recipe.is_spread,
        "unfreeze": not all(param.requires_grad for param in parts.network.parameters()),
    }
    return {name for name, is_used in uses.items() if is_used}


def idle_settings(trainer: "Trainer", runs: Sequence[Any], used: set[str]) -> list[str]:
    """The faults of settings that are said, and that none of the runs has a use for.

    Args:
        trainer: what it was given counts, and what the runs have.
        runs: each value of each parameter is in one of them.
        used: those that a run has a use for.
    """
    return [
        f"{name} does nothing without {what}; add {more}, or leave {name} out"
        for name, (deciding, what, more) in _NEEDS.items()
        if name not in used
        and _is_said(trainer, name, runs)
        and not any(_is_open(trainer, one, runs) for one in deciding)
    ]


def _is_said(trainer: "Trainer", name: str, runs: Sequence[Any]) -> bool:
    values = [trainer.given(name), *(values_of(run).get(name) for run in runs)]
    return any(value is not None and value is not False for value in values)


def _is_open(trainer: "Trainer", name: str, runs: Sequence[Any]) -> bool:
    """Whether other runs, or another machine, may decide otherwise: by a function of the run, or by their number of devices."""
    given = trainer.scheduler if name == "scheduler" else trainer.given(name)
    return inspect.isfunction(given) or (name == "devices" and _is_said(trainer, name, runs))


def meant(trainer: "Trainer", name: str, run: Any, parts: Parts | None) -> str:
    """The end of the message for a hyperparameter that nothing reads: the setting, or the argument, that was perhaps meant.

    Args:
        trainer: what it was given counts.
        name: of the hyperparameter.
        run: one of the runs.
        parts: its parts, whose arguments may be meant, too; None where they are not known.
    """
    if said := _said_elsewhere(trainer, name, parts):
        return f"; {said}"
    made = [] if parts is None else [arguments for one in _made(trainer, parts) for arguments in _arguments(one)]
    names = [one for one in (*SETTINGS, *SWEPT_PARTS, *made) if one not in run._fields]
    other = _OTHER_NAMES.get(name)
    return nearest(other if other in names else name, names)


def _said_elsewhere(trainer: "Trainer", name: str, parts: Parts | None) -> str | None:
    """Why nothing reads a hyperparameter that bears the name of an argument."""
    for part in ("network", "loss", "optimizer", "scheduler"):
        given = getattr(trainer, part)
        if isinstance(given, partial) and name in given.keywords:
            fixed = f"partial({short_name(given)}, {name}={given.keywords[name]!r:.60})"
            return f"{part}={fixed} fixes it: leave it out there to have the grid's"
    schedule = None if parts is None else parts.recipe.schedule
    if schedule is not None and isinstance(schedule.scheduler, lr_scheduler.ReduceLROnPlateau):
        if name == "mode":
            return "a plateau's mode is that of its metric, as in monitor=('val_loss', 'min')"
        if name == "eps":
            return "a plateau's eps is called plateau_eps"
    return None


def other_argument(name: str, arguments: Iterable[str], others: Iterable[Any]) -> str:
    """The end of the message for an argument that a Trainer does not have: the one that was meant, or where it belongs.

    Args:
        name: of the argument.
        arguments: those that a Trainer has.
        others: what the sweep file knows; its networks may have the argument.
    """
    has, meant = list(arguments), _OTHER_NAMES.get(name, name)
    if meant in has:
        return f"; did you mean {meant!r}?"
    makers = {
        "optimizer": _kinds(vars(torch.optim).values(), Optimizer),
        "scheduler": _kinds(vars(lr_scheduler).values(), lr_scheduler.LRScheduler),
        "loss": _kinds(vars(torch.nn).values(), _Loss),
        "network": _kinds(others, Module),
    }
    for part, kinds in makers.items():
        if any(meant in _arguments(kind) for kind in kinds):
            return (
                f": {meant} is a hyperparameter, of the {part}; put {meant}=[...] into the grid, or fix it by "
                f"functools.partial: {part}=partial(..., {meant}=...)"
            )
    near = "" if name in USUAL else nearest(name, has)
    if difflib.get_close_matches(name, has, n=1, cutoff=ALIKE):
        return near
    return (
        f"{near or ';'} what the network, the loss or the optimizer takes is a hyperparameter: put {name}=[...] into the grid, or "
        "fix it by functools.partial"
    )


def _kinds(among: Iterable[Any], base: type) -> list[type]:
    return [one for one in among if isinstance(one, type) and issubclass(one, base)]


def _made(trainer: "Trainer", parts: Parts) -> list[Any]:
    """What takes hyperparameters by the names of its arguments; a function of the run and more reads what it wants by itself."""
    schedule = None if parts.recipe.schedule is None else parts.recipe.schedule.scheduler
    found = [kind_of(parts.loss) if inspect.isfunction(kind_of(parts.loss)) else type(parts.loss), type(parts.network)]
    by_class = {"optimizer": parts.optimizer, "scheduler": schedule}
    found += [type(one) for name, one in by_class.items() if not inspect.isfunction(getattr(trainer, name))]
    return [*found, trainer.network] if inspect.isfunction(trainer.network) else found


def _arguments(make: Any) -> list[str]:
    """Those that have a default; the others are given."""
    try:
        params = inspect.signature(make).parameters.values()
    except (TypeError, ValueError):  # it is of C and has none
        return []
    return [one.name for one in params if one.default is not one.empty]
