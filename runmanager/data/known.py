"""Data sets that have a name: where they are looked for, and what is said when they are nowhere."""

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from runmanager.data.splits import Splits


class DataNotFoundError(FileNotFoundError):
    """A data set is nowhere; the message names every place looked in and what can be done."""


class DamagedError(ValueError):
    """The files of a data set are there and cannot be read; the text says which and why."""


@dataclass(frozen=True)
class KnownSet:
    """What there is to know of a data set."""

    title: str
    """What people call it."""
    read: Callable[[Path], Splits | None]
    """Reads it from a folder; None where the folder does not have it. Raises DamagedError."""
    download: Callable[[Path], Splits] | None
    """Gets it into a folder, and leaves nothing there if that fails; None where nobody offers it. Raises OSError, RuntimeError."""
    shared_folder: str
    """Its name under the system's share/datasets."""
    remedies: Callable[[Path], list[str]]
    """What can be done, beside connecting to the network; files go into this folder."""

    def find(self, root: Path | None, project: Path) -> Splits:
        """The set from `root`, the project's data/, the system's data set folders, or at last downloaded.

        Raises:
            DataNotFoundError: it is in none of them and cannot be downloaded, or what is there is damaged.
        """
        looked_in = [*([root] if root else []), project / "data", *system_folders(self.shared_folder)]
        for folder in looked_in:
            splits = self._from(folder)
            if splits is not None:
                return splits
        if self.download is None:
            raise self._nowhere(looked_in)
        try:
            return self.download(root or project / "data")
        except (OSError, RuntimeError) as error:
            reason = f"and cannot be downloaded ({' '.join(str(error).split())[:200]}). "
            raise self._nowhere(looked_in, reason) from error

    def _from(self, folder: Path) -> Splits | None:
        try:
            return self.read(folder)
        except DamagedError as error:
            raise DataNotFoundError(
                f"{self.title} in {folder} is damaged ({error}); delete its files there and get them again"
            ) from error

    def _nowhere(self, looked_in: list[Path], reason: str = "") -> DataNotFoundError:
        remedies = self.remedies(looked_in[0])
        if self.download is not None:
            remedies.insert(-1, "connect to the network and launch again, and it is downloaded")
        return DataNotFoundError(
            f"{self.title} is in none of these folders:\n{_listed(looked_in)}\n{reason}What can be done:\n{_listed(remedies)}"
        )


def _listed(things: Iterable[object]) -> str:
    return "\n".join(f"  - {thing}" for thing in things)


def system_folders(name: str) -> Iterator[Path]:
    """Where a system keeps a data set: Debian's package dataset-fashion-mnist puts it under share/datasets."""
    for share in (os.environ.get("XDG_DATA_DIRS") or "/usr/local/share:/usr/share").split(":"):
        if share:
            yield Path(share) / "datasets" / name


def first_missing(folder: Path) -> Path | None:
    """The outermost folder that has to be made for this one to be there; None if it is there."""
    missing = [one for one in (folder, *folder.parents) if not one.exists()]
    return missing[-1] if missing else None


def remove_empty(folder: Path, up_to: Path) -> None:
    """Takes away the folders that a download made and could not fill."""
    for empty in (folder, *folder.parents):
        if not empty.is_dir() or any(empty.iterdir()):
            return
        empty.rmdir()
        if empty == up_to:
            return
