"""The confusion matrices of a run: a JSON file for each epoch, replaced whole."""

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runmanager.tracking.files import replace_text
from runmanager.tracking.journal import storage_error
from runmanager.tracking.temporaries import left_over

USUAL_NAME = "confusion"
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.\-]{0,63}")
_FILE = re.compile(r"(?:(.+)-)?epoch-([0-9]{4,9})\.json")


def confusion_name_fault(name: object) -> str | None:
    """What is wrong with a matrix's name, with which its files' names begin, or None."""
    if isinstance(name, str) and _NAME.fullmatch(name):
        return None
    return f"the name {name!r:.100} cannot be a file's; use at most 64 letters, digits, '_', '-' and '.'"


@dataclass(frozen=True)
class ConfusionFiles:
    """The folder of a run's confusion matrices; made when the first is written."""

    folder: Path

    def write(self, name: str, record: Mapping[str, Any]) -> None:
        """Keeps the matrix of an epoch, and drops those of later ones, which an earlier attempt has left.

        Raises:
            StorageError: it cannot be written.
        """
        file = self._file(name, record["epoch"])
        try:
            self.folder.mkdir(exist_ok=True)
            self.drop(record["epoch"], name)
            replace_text(file, json.dumps(record, allow_nan=False) + "\n")
        except OSError as error:
            raise storage_error(file, error) from error

    def read(self, epoch: int, name: str = USUAL_NAME) -> dict[str, Any] | None:
        """What `write` wrote: epoch, classes, and counts [C, C]; None where there is none that can be read."""
        try:
            record = json.loads(self._file(name, epoch).read_bytes())
        except (OSError, ValueError):
            return None
        return record if isinstance(record, dict) else None

    def epochs(self, name: str = USUAL_NAME) -> list[int]:
        """The epochs that there is a matrix of."""
        return sorted(epoch for its_name, epoch in self._all() if its_name == name)

    def drop(self, after: int, name: str | None = None) -> None:
        """Drops the matrices of all epochs after one, of this name or of any, and what was left half written.

        Raises:
            OSError: a file cannot be removed.
        """
        late = [self._file(*one) for one in self._all() if one[1] > after and name in (None, one[0])]
        for path in (*late, *left_over(self.folder)):
            path.unlink(missing_ok=True)

    def _file(self, name: str, epoch: int) -> Path:
        return self.folder / f"{'' if name == USUAL_NAME else f'{name}-'}epoch-{epoch:04d}.json"

    def _all(self) -> list[tuple[str, int]]:
        """The names and epochs of the matrices that there are."""
        try:
            names = os.listdir(self.folder)
        except OSError:
            return []
        matches = [_FILE.fullmatch(name) for name in names if name[:1] != "."]
        return [(match[1] or USUAL_NAME, int(match[2])) for match in matches if match]
