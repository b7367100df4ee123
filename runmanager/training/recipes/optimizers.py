"""Optimizers by name, class or function, and the groups that they hold the parameters in."""

import inspect
import math
import re
from collections.abc import Callable, Iterable, Mapping
from fnmatch import fnmatchcase
from functools import partial
from typing import Any

import torch
from torch.nn import Embedding, EmbeddingBag, Module, Parameter
from torch.optim import Optimizer, SparseAdam

from runmanager.nearest import nearest
from runmanager.training.recipes.naming import (
    filled,
    is_class,
    kind_of,
    lacking,
    listed,
    plain,
    refuse_text,
    refuse_unknown,
    short_name,
    unknown,
)
from runmanager.training.settings import USUAL, TrainerError

_NORM_LAYER = re.compile(r"Norm(\dd)?$")  # BatchNorm2d, LayerNorm, RMSNorm, ...
_NO_DECAY, _REST = "no_decay", "rest"
_RATE = ("lr", "lr_scale")
_MAX_NAMES = 8  # of a network's parameters in a message
_EXAMPLE = 'param_groups={"body.*": {"lr_scale": 0.1}}'
_BY_HAND = "optimizer=lambda run, network: torch.optim.Adam(network.parameters(), lr=run.lr)"

Options = dict[str, Any]


def build_optimizer(
    optimizer: Any, run: Any, network: Module, *, param_groups: Any = None, no_decay: bool = False
) -> Optimizer:
    """The optimizer of a run's network. Frozen parameters are in it too, so that they may be unfrozen later.

    Args:
        optimizer: the name of a class of torch.optim, an Optimizer class, a partial of one, or a function of the run and its
            network. A class gets the run's hyperparameters that bear the names of its arguments.
        run: a named tuple of hyperparameters.
        network: the run's network, on its device.
        param_groups: options by a pattern of parameter names, as in `{"body.*": {"lr_scale": 0.1}}`: arguments of the class, or
            `lr_scale`, which is multiplied with the run's rate. Of all patterns that match a parameter the later go before.
        no_decay: whether biases and the parameters of norm layers have a weight_decay of 0, whatever the patterns say.

    Raises:
        TrainerError: there is no such optimizer, it cannot be made with these arguments, or it has nothing to train.
    """
    make = _class_of_name(optimizer) if isinstance(optimizer, str) else optimizer
    patterns = _patterns(param_groups)
    if no_decay not in (True, False, None):
        raise TrainerError(f"no_decay={no_decay!r} is neither True nor False")
    if is_class(make, Optimizer):
        refuse_unknown("optimizer", make)
        _refuse_closure(kind_of(make))
        made = _of_class(make, run, network, patterns, bool(no_decay))
    else:
        made = _of_function(make, run, network, "param_groups" if patterns else "no_decay" if no_decay else None)
    _check_gradients(made, network)
    return made


def learning_rates(optimizer: Optimizer) -> dict[str, float]:
    """The rate of each group as metrics: `learning rate` of a single one, `learning rate/<name>` of several.

    A group without a name, or with one that another has too, goes by its number, counted from 0.
    """
    groups = optimizer.param_groups
    if len(groups) == 1:
        return {"learning rate": float(groups[0]["lr"])}
    names = [group.get("name") for group in groups]
    own = [name if isinstance(name, str) and names.count(name) == 1 else index for index, name in enumerate(names)]
    return {f"learning rate/{name}": float(group["lr"]) for name, group in zip(own, groups, strict=True)}


def _class_of_name(name: str) -> type[Optimizer]:
    kinds: list[type[Optimizer]] = [one for one in vars(torch.optim).values() if is_class(one, Optimizer)]
    classes = {one.__name__.lower(): one for one in kinds if one is not Optimizer}
    if name.lower() not in classes:
        usable = [one.__name__ for one in classes.values() if not _wants_closure(one)]
        raise TrainerError(unknown("optimizer", name, usable))
    return classes[name.lower()]


def _wants_closure(kind: type[Optimizer]) -> bool:
    """Whether it computes the loss several times in a step."""
    closure = inspect.signature(kind.step).parameters.get("closure")
    return closure is not None and closure.default is inspect.Parameter.empty


def _refuse_closure(kind: type[Optimizer]) -> None:
    if _wants_closure(kind):
        raise TrainerError(
            f"optimizer={kind.__name__} computes the loss several times in a step, by a closure, and the Trainer's step has "
            "none; choose another, or train by a function of your own: Sweep(train=...)"
        )


def _of_function(make: Any, run: Any, network: Module, grouped_by: str | None) -> Optimizer:
    if isinstance(make, type) or not callable(make):
        raise TrainerError(
            f"optimizer={short_name(make)} has to be a name like 'SGD', an Optimizer class, or a function of the run and its "
            f"network; write {_BY_HAND}"
        )
    if grouped_by:
        raise TrainerError(
            f"{grouped_by} is given, but optimizer={short_name(make)} is a function, which makes its own groups; make them there, "
            "or give a name, a class or a partial: optimizer=partial(torch.optim.SGD, momentum=0.9)"
        )
    made = make(run, network)
    if not isinstance(made, Optimizer):
        raise TrainerError(f"the optimizer function returned {short_name(made)}, not a torch.optim.Optimizer")
    _refuse_closure(type(made))
    return made


def _of_class(
    make: Callable[..., Optimizer], run: Any, network: Module, patterns: dict[str, Options], no_decay: bool
) -> Optimizer:
    params = [*network.parameters()]
    if not params:
        raise TrainerError(f"the network, {short_name(type(network))}, has no parameters: there is nothing to train")
    arguments = filled(make, run, leave_out=[next(iter(inspect.signature(make).parameters))])
    if missing := lacking(make, arguments):
        raise TrainerError(
            f"optimizer={kind_of(make).__name__} needs {', '.join(missing)}, and the grid has {', '.join(run._fields)}; "
            f"add {', '.join(name + '=[' + USUAL.get(name, '...') + ']' for name in missing)}"
        )
    plain = _made(make, params, arguments)
    if not patterns and not no_decay:
        return plain
    _check_options(make, plain.defaults, patterns, no_decay)
    groups = _groups(network, plain.defaults, patterns, no_decay)
    for group in groups:  # torch checks the arguments of a class, and not those of a group
        own = {name: value for name, value in group.items() if name not in ("params", "name")}
        _made(make, group["params"], {**arguments, **own})
    return _made(make, groups, arguments)


def _made(make: Callable[..., Optimizer], params: list[Any], arguments: Options) -> Optimizer:
    everything = {**(make.keywords if isinstance(make, partial) else {}), **arguments}
    refuse_text(make, everything)
    try:
        return make(params, **arguments)
    except (TypeError, ValueError, RuntimeError, KeyError) as error:
        raise TrainerError(f"optimizer={kind_of(make).__name__} with {listed(everything)}: {error}") from error


def _check_gradients(made: Optimizer, network: Module) -> None:
    """Whether there is anything to train, and gradients of the kind that the optimizer takes."""
    params = [param for group in made.param_groups for param in group["params"]]
    if not any(param.requires_grad for param in params):
        raise TrainerError(
            "all that the optimizer has is frozen: a frozen network has nothing to train; let freeze leave something out, as the "
            "head, or give a head of its own"
        )
    if isinstance(made, SparseAdam):
        embeddings = [one for one in network.modules() if isinstance(one, (Embedding, EmbeddingBag)) and one.sparse]
        sparse = {id(one.weight) for one in embeddings}
        for name, param in network.named_parameters():
            if id(param) not in sparse and param.requires_grad and any(param is one for one in params):
                raise TrainerError(
                    f"optimizer=SparseAdam trains sparse gradients alone, and that of {name} is dense; choose Adam, or freeze "
                    "all but embeddings with sparse=True"
                )


def _patterns(param_groups: Any) -> dict[str, Options]:
    """Options by pattern, each a dict of its own."""
    if param_groups is None:
        return {}
    if not isinstance(param_groups, Mapping):
        raise TrainerError(f"param_groups={param_groups!r:.60} is no dict of options by pattern; write {_EXAMPLE}")
    for pattern, options in param_groups.items():
        if not isinstance(pattern, str) or not isinstance(options, Mapping):
            raise TrainerError(
                f"param_groups has {pattern!r}: {options!r:.60}, which is no pattern with a dict of options; write {_EXAMPLE}"
            )
    return {
        pattern: {name: plain(value) for name, value in options.items()} for pattern, options in param_groups.items()
    }


def _check_options(make: Any, defaults: Options, patterns: dict[str, Options], no_decay: bool) -> None:
    """Whether the class has these options, for each group by itself."""
    params = inspect.signature(make).parameters
    takes_any = any(one.kind is inspect.Parameter.VAR_KEYWORD for one in params.values())
    own = [name for name in defaults if takes_any or name in params]
    choices = [*_RATE, *(name for name in own if name != "lr")] if "lr" in own else own
    for pattern, options in patterns.items():
        for name in options:
            if name not in choices:
                raise TrainerError(unknown(f"param_groups {pattern!r}: option", name, choices))
            if isinstance(options[name], float) and not math.isfinite(options[name]):
                raise TrainerError(f"param_groups: {pattern!r} has {name}={options[name]!r}; give a finite number")
        if all(name in options for name in _RATE):
            raise TrainerError(f"param_groups: {pattern!r} has both lr and lr_scale; give the rate by one of them")
        scale = options.get("lr_scale", 1)
        if isinstance(scale, bool) or not isinstance(scale, (int, float)) or not scale >= 0:
            raise TrainerError(f"param_groups: {pattern!r} has lr_scale={scale!r}, which is no number of 0 or more")
    if no_decay and "weight_decay" not in own:
        raise TrainerError(f"no_decay is given, but {kind_of(make).__name__} has no weight_decay; leave no_decay out")


def _groups(network: Module, defaults: Options, patterns: dict[str, Options], no_decay: bool) -> list[Options]:
    """Groups as torch takes them: parameters of which the same is said are in one, in the order of the network."""
    parameters = _named(network)
    _check_patterns(patterns, [name for _, names in parameters for name in names])
    undecayed = _undecayed(network) if no_decay else set()
    groups: dict[str, Options] = {}
    labels: dict[str, set[str]] = {}
    for param, names in parameters:
        matching = [one for one in patterns if any(fnmatchcase(name, one) for name in names)]
        options = _overlaid(patterns[one] for one in matching)
        if id(param) in undecayed:
            matching, options = [*matching, _NO_DECAY], {**options, "weight_decay": 0.0}
        key = repr(sorted(options.items()))
        groups.setdefault(key, {"params": [], **_with_rate(options, defaults)})["params"].append(param)
        labels.setdefault(key, set()).update(matching)
    if len(groups) > 1:
        for key, group in groups.items():
            group["name"] = "+".join(one for one in (*patterns, _NO_DECAY) if one in labels[key]) or _REST
    return [*groups.values()]


def _named(network: Module) -> list[tuple[Parameter, list[str]]]:
    """Each parameter once, with all the names that it has; a tied one has several."""
    found: dict[int, tuple[Parameter, list[str]]] = {}
    for name, param in network.named_parameters(remove_duplicate=False):
        found.setdefault(id(param), (param, []))[1].append(name)
    return [*found.values()]


def _check_patterns(patterns: Iterable[str], names: list[str]) -> None:
    for pattern in patterns:
        if any(fnmatchcase(name, pattern) for name in names):
            continue
        parents = [".".join(name.split(".")[:depth]) for name in names for depth in range(1, name.count(".") + 1)]
        hint = nearest(pattern, [*names, *(f"{parent}.*" for parent in dict.fromkeys(parents))])
        more = f" and {len(names) - _MAX_NAMES} more" if len(names) > _MAX_NAMES else ""
        raise TrainerError(
            f"param_groups: {pattern!r} matches no parameter; the network has {', '.join(names[:_MAX_NAMES])}{more}{hint}"
        )


def _overlaid(stated: Iterable[Options]) -> Options:
    """What several patterns say of a parameter: the later goes before, and a rate is a rate, however it is said."""
    options: Options = {}
    for one in stated:
        kept = {name: value for name, value in options.items() if name not in _RATE or not {*_RATE} & {*one}}
        options = {**kept, **one}
    return options


def _with_rate(options: Options, defaults: Options) -> Options:
    if "lr_scale" not in options:
        return options
    rest = {name: value for name, value in options.items() if name != "lr_scale"}
    return {"lr": defaults["lr"] * options["lr_scale"], **rest}


def _undecayed(network: Module) -> set[int]:
    """The ids of biases, and of what norm layers have of their own, as in LayerNorm and in what comes from it."""
    norms = [one for one in network.modules() if any(_NORM_LAYER.search(kind.__name__) for kind in type(one).__mro__)]
    of_norms = {id(param) for norm in norms for param in norm.parameters(recurse=False)}
    names = network.named_parameters(remove_duplicate=False)
    biases: set[int] = {id(param) for name, param in names if "bias" in name.rpartition(".")[2]}
    return of_norms | biases
