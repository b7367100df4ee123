"""How often which class was taken for which: what `log_confusion` is given, checked."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runmanager.tracking.errors import MetricError


@dataclass(frozen=True)
class Confusion:
    """A confusion matrix of an epoch."""

    name: str
    epoch: int  # 0 where none was done yet
    classes: list[str]
    counts: list[list[int]]  # [C, C]: a row for each true class, a column for each predicted one

    def record(self) -> dict[str, Any]:
        """The matrix as strict JSON."""
        return {"epoch": self.epoch, "classes": self.classes, "counts": self.counts}


def confusion_of(name: str, epoch: int, counts: Any, classes: Sequence[str] | None) -> Confusion:
    """Counts [C, C] of an epoch, and the names of their classes; without names, the classes' numbers.

    Raises:
        MetricError: the counts are none, or there are not as many names.
    """
    whole = _whole(name, counts)
    names = [str(one) for one in (range(len(whole)) if classes is None else classes)]
    if len(names) != len(whole):
        raise MetricError(
            f"log_confusion(): {name!r} has shape {list(whole.shape)}, but there are {len(names)} classes; give each one name"
        )
    return Confusion(name, epoch, names, whole.tolist())


def _whole(name: str, counts: Any) -> NDArray[np.int64]:
    """The counts as whole numbers [C, C]."""
    if hasattr(counts, "detach"):
        counts = counts.detach().cpu()
    try:
        values = np.asarray(counts)
    except ValueError:  # rows of different lengths
        raise MetricError(f"log_confusion(): the rows of {name!r} are not equally long; give counts [C, C]") from None
    if values.ndim != 2 or values.shape[0] != values.shape[1] or values.size == 0:
        raise MetricError(
            f"log_confusion(): {name!r} has shape {list(values.shape)}; give counts [C, C], a row for each true class and a "
            "column for each predicted one"
        )
    if values.dtype.kind not in "uif":
        raise MetricError(f"log_confusion(): {name!r} has values of type {values.dtype}; give whole numbers")
    is_count = np.isfinite(values) & (values >= 0) & (values < 2**53) & (values % 1 == 0)
    if not is_count.all():
        row, column = np.argwhere(~is_count)[0].tolist()
        raise MetricError(
            f"log_confusion(): {name!r} has {values[row, column]} in row {row}, column {column}; a count is a whole number "
            "from 0 on"
        )
    return values.astype(np.int64)
