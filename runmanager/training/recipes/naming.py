"""How a recipe is said in one line: by a name, and by hyperparameters that bear the names of its arguments."""

import inspect
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any, TypeVar

from runmanager.nearest import nearest
from runmanager.training.settings import TrainerError

T = TypeVar("T")

_WANTED = {
    "bool": "True or False, without quotes,",
    "int": "a number, without quotes,",
    "float": "a number, without quotes,",
}
"""What an argument takes, by what is written for its type."""


def chosen(setting: str, name: str, choices: Mapping[str, T]) -> T:
    """What a name stands for; upper and lower case are the same.

    Raises:
        TrainerError: it stands for nothing; the message has the nearest name and all others.
    """
    by_lower = {choice.lower(): value for choice, value in choices.items()}
    if name.lower() in by_lower:
        return by_lower[name.lower()]
    raise TrainerError(unknown(setting, name, choices))


def unknown(setting: str, name: Any, choices: Iterable[str]) -> str:
    """The message for a name that stands for nothing."""
    names = list(choices)
    return f"{setting}={name!r} is unknown; choose {', '.join(names)}{nearest(name, names)}"


def filled(function: Callable[..., Any], run: Any, *, leave_out: Iterable[str] = ()) -> dict[str, Any]:
    """The named arguments of a function, or of a class, that the run has a hyperparameter for.

    A partial's own arguments go before the run's. What the run has is read only where the function takes it.

    Args:
        function: whose arguments they are.
        run: a named tuple of hyperparameters.
        leave_out: arguments that somebody else gives.
    """
    given = {*leave_out, *(function.keywords if isinstance(function, partial) else ())}
    try:
        params = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):  # it is of C and has none
        return {}
    by_name = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    names = [param.name for param in params if param.kind in by_name and param.name not in given]
    return {name: plain(getattr(run, name)) for name in names if name in run._fields}


def plain(value: Any) -> Any:
    """A number of numpy's, or of torch's, as one of Python's."""
    return value.item() if getattr(value, "shape", None) == () else value


def as_list(value: Any) -> list[Any]:
    """One value or several of them."""
    return list(value) if isinstance(value, (tuple, list)) else [value]


def kind_of(make: Any) -> Any:
    """What a partial is of; anything else as it is."""
    return make.func if isinstance(make, partial) else make


def is_class(make: Any, base: type | tuple[type, ...]) -> bool:
    """Whether it is a class that comes from `base`, or a partial of one."""
    kind = kind_of(make)
    return isinstance(kind, type) and issubclass(kind, base)


def lacking(make: Callable[..., Any], given: Iterable[str]) -> list[str]:
    """The arguments, behind the first, that a class or a partial must have and that nobody gives."""
    _, *params = inspect.signature(make).parameters.values()
    variadic = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    needed = [one.name for one in params if one.default is inspect.Parameter.empty and one.kind not in variadic]
    return [name for name in needed if name not in {*given}]


def short_name(value: Any) -> str:
    """What a class, a function or a partial of one is called; of anything else, what it is."""
    value = kind_of(value)
    kind = type(value).__name__
    return getattr(value, "__qualname__", None) or f"{'an' if kind[0] in 'aeiouAEIOU' else 'a'} {kind}"


def refuse_unknown(setting: str, make: Any) -> None:
    """Looks whether a class or a function has all that a partial of it fixes.

    Raises:
        TrainerError: it has no such argument; the message has the nearest.
    """
    params = _params(make.func) if isinstance(make, partial) else {}
    if not params or any(one.kind is one.VAR_KEYWORD for one in params.values()):
        return
    for name in make.keywords:
        if name not in params:
            raise TrainerError(
                f"{setting}={short_name(make)} has no argument {name!r}; it has {', '.join(params)}{nearest(name, params)}"
            )


def refuse_text(make: Any, arguments: Mapping[str, Any]) -> None:
    """Looks whether there is a string for an argument of a class or a function that is a number, or a flag; or None for a number.

    Raises:
        TrainerError: there is; torch would calculate with it in the first step, or take "False" for true.
    """
    params = _params(kind_of(make))
    is_torchs = str(getattr(kind_of(make), "__module__", "")).startswith("torch.")  # others may take None for off
    for name, value in arguments.items():
        kind = _kind(params[name]) if name in params else None
        if isinstance(value, str) and kind in _WANTED:
            raise TrainerError(f"{name}={value!r} is a string, and {short_name(make)} takes {_WANTED[kind]} for {name}")
        if value is None and kind in ("int", "float") and is_torchs:
            raise TrainerError(
                f"{name}=None, and {short_name(make)} takes a number for {name}; give one, or leave it out"
            )


def _kind(param: inspect.Parameter) -> str:
    """What an argument is by its default, or else by what is written for its type."""
    if isinstance(param.default, (int, float)):
        return type(param.default).__name__
    return getattr(param.annotation, "__name__", str(param.annotation))


def _params(make: Any) -> Mapping[str, inspect.Parameter]:
    try:
        return inspect.signature(make).parameters
    except (TypeError, ValueError):  # it is of C and has none
        return {}


def listed(arguments: Mapping[str, Any]) -> str:
    """Arguments as a call has them."""
    return ", ".join(f"{name}={value!r:.60}" for name, value in arguments.items()) or "its defaults"
