"""Grids: the Cartesian product of lists of values."""

from collections import namedtuple
from collections.abc import Mapping, Sequence
from functools import lru_cache
from itertools import product
from typing import Any

from runmanager.parameters import ParameterError, canonical, check_value, name_fault


class Run(tuple[Any, ...]):
    """One point of the grid: a named tuple of hyperparameters, read as `run.lr`.

    Each set of names has a class of its own, made when needed; runs pickle all the same, because they carry their names.
    """

    __slots__ = ()
    _fields: tuple[str, ...] = ()

    def __reduce__(self) -> tuple[Any, ...]:
        return make_run, (self._fields, tuple(self))

    def __getattr__(self, name: str) -> Any:  # only reached when there is no such parameter
        raise AttributeError(
            f"run.{name}: the run has {', '.join(self._fields) or 'no parameters'}", name=name, obj=self
        )


@lru_cache(maxsize=256)
def run_type(names: tuple[str, ...]) -> type[Run]:
    """The class of the runs that have these parameters, in this order."""
    return type("Run", (namedtuple("Run", names), Run), {"__slots__": (), "__reduce__": Run.__reduce__})


def make_run(names: tuple[str, ...], values: tuple[Any, ...]) -> Run:
    """A run from its names and values."""
    return run_type(names)(*values)


class RunBuilder:
    """Expands a grid into runs."""

    @staticmethod
    def get_runs(params: Mapping[str, Sequence[Any]]) -> list[Run]:
        """Every combination of the listed values, the last name varying fastest, as `itertools.product` has it.

        Args:
            params: a dict that lists the values of each parameter, like `OrderedDict(lr=[.01, .001])`.

        Raises:
            ParameterError: a name or a list cannot be used; every fault is named.
        """
        faults = grid_faults(params)
        if faults:
            raise ParameterError("\n  - ".join(["the grid cannot be used:", *faults]) if len(faults) > 1 else faults[0])
        names = tuple(params)
        return [make_run(names, values) for values in product(*params.values())]


def grid_faults(params: object) -> list[str]:
    """Everything that is wrong with a grid, a sentence each."""
    if not isinstance(params, Mapping):
        return [f"params is a {type(params).__name__}, not a dict of lists; write OrderedDict(lr=[.01, .001])"]
    faults: list[str] = []
    for name, values in params.items():
        name_problem = name_fault(name)
        problem = name_problem or _values_fault(name, values)
        if problem:
            faults.append(problem)
    return faults


def _values_fault(name: str, values: object) -> str | None:
    if not isinstance(values, (str, bytes, Mapping, Sequence)) and hasattr(values, "__iter__"):
        return f"{name} is a {type(values).__name__}, not a list; write {name}=list(...)"
    if isinstance(values, (str, bytes)) or not isinstance(values, Sequence):
        return f"{name}={values!r:.200} is not a list; write {name}=[{values!r:.200}]"
    if not values:
        return f"{name}=[] lists no value, so there would be no run; give it one or leave {name} out"
    seen: set[str] = set()
    for value in values:
        try:
            check_value(name, value)
        except ParameterError as error:
            return str(error)
        key = canonical({name: value})
        if key in seen:
            return f"{name} lists {value!r:.200} twice; a run is its parameters, so list each value once"
        seen.add(key)
    return None
