"""How a recipe is said in one line: by a name, and by hyperparameters that bear the names of its arguments."""

import inspect
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any, TypeVar

from runmanager.training.settings import TrainerError, nearest

T = TypeVar("T")


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
    return {name: _plain(getattr(run, name)) for name in names if name in run._fields}


def _plain(value: Any) -> Any:
    """A number of numpy's as one of Python's."""
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
    return getattr(value, "__qualname__", None) or f"a {type(value).__name__}"


def listed(arguments: Mapping[str, Any]) -> str:
    """Arguments as a call has them."""
    return ", ".join(f"{name}={value!r:.60}" for name, value in arguments.items()) or "its defaults"
