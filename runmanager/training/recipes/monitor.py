"""The metric by which epochs are compared, and which of its directions is the better one."""

import difflib
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from runmanager.nearest import ALIKE
from runmanager.tracking.rows import ways_told
from runmanager.training.recipes.naming import unknown
from runmanager.training.settings import TrainerError

_MODES = ("min", "max")


class Monitor(NamedTuple):
    """A metric's name, and "min" or "max": which of two values is the better one. NaN never is."""

    name: str
    mode: str

    def value(self, metrics: Mapping[str, float]) -> float:
        """The metric of an epoch.

        Raises:
            TrainerError: the epoch has no such metric; the message lists those it has.
        """
        if self.name in metrics:
            return float(metrics[self.name])
        hint = "; without a validation split there is no val_ metric" if self.name.startswith("val_") else ""
        raise TrainerError(unknown("monitor", self.name, metrics) + hint)

    @property
    def worst(self) -> float:
        """What every number is better than."""
        return math.inf if self.mode == "min" else -math.inf

    def is_better(self, new: float, best: float | None) -> bool:
        """Whether a value is better than the best before it, which may be None or NaN."""
        before = self.worst if best is None or math.isnan(best) else best
        return new < before if self.mode == "min" else new > before


def parse(value: Any, measured: Callable[[], Iterable[str]] = tuple) -> Monitor:
    """A monitor from what was given: a metric's name, or a pair of its name and "min" or "max".

    Args:
        value: what was given.
        measured: gives the names of metrics that there may be, one of which was perhaps meant.

    Raises:
        TrainerError: it is neither, or the name alone does not tell which direction is better.
    """
    if isinstance(value, str):
        return Monitor(value, _mode_of(value, measured))
    is_pair = isinstance(value, (tuple, list)) and len(value) == 2 and all(isinstance(one, str) for one in value)
    if not is_pair:
        raise TrainerError(f"monitor={value!r} is no metric; give a name as 'val_loss', or ('val_accuracy', 'max')")
    if value[1] not in _MODES:
        raise TrainerError(unknown("monitor's mode", value[1], _MODES))
    return Monitor(*value)


def _mode_of(name: str, measured: Callable[[], Iterable[str]]) -> str:
    ways = ways_told(name.split("/")[0]) or ways_told(name)  # behind the slash may be a class
    if len(ways) != 1:
        there = list(measured())
        near = [] if name in there else difflib.get_close_matches(name, there, n=1, cutoff=ALIKE)
        meant = f": did you mean {near[0]!r}? If not, the name" if near else ""
        raise TrainerError(
            f"monitor={name!r}{meant} does not tell whether less or more is better; say ({name!r}, 'max') or ({name!r}, 'min')"
        )
    return ways.pop()
