"""The rows of the runs that a RunManager has begun: as a table in memory, and written where the user wants them."""

from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from runmanager.parameters import ROW_COLUMNS
from runmanager.tracking.files import replace_text
from runmanager.tracking.rows import EpochRow


class KeptRows:
    """The parameters of each run and those of its rows that count, in the order in which the runs began."""

    def __init__(self) -> None:
        self._runs: list[tuple[dict[str, Any], list[EpochRow]]] = []

    def add(self, params: dict[str, Any], rows: list[EpochRow]) -> None:
        """Another run; the list of its rows grows while it is trained."""
        self._runs.append((params, rows))

    def by_column(self) -> list["OrderedDict[str, Any]"]:
        """One dict per run and epoch: results first, then metrics, then parameters."""
        return [_by_column(row, params) for params, rows in self._runs for row in rows]

    def save(self, path: Path) -> None:
        """Writes `<path>.csv` and `<path>.json`, and the folders above them.

        Raises:
            OSError: a file cannot be written; an older one is kept.
        """
        from runmanager.tracking.tables import epoch_csv, epoch_json

        path.parent.mkdir(parents=True, exist_ok=True)
        replace_text(path.with_name(f"{path.name}.csv"), epoch_csv(self._runs))
        replace_text(path.with_name(f"{path.name}.json"), epoch_json(self._runs))

    def forget(self, *, but: Sequence[list[EpochRow]]) -> None:
        """Drops the rows of all runs but these, which are still trained."""
        self._runs = [(params, rows) for params, rows in self._runs if any(rows is one for one in but)]


def _by_column(row: EpochRow, params: dict[str, Any]) -> "OrderedDict[str, Any]":
    numbers = (row.run, row.epoch, row.loss, row.accuracy, row.epoch_seconds, row.run_seconds, row.group_size)
    return OrderedDict(zip(ROW_COLUMNS, numbers, strict=True)) | row.metrics | params
