"""Where a launch trains: in this process, or in worker processes. Both look the same to it.

Each way is imported when it is chosen: a driver starts without what only its workers need.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from runmanager.launching.description import Changes, Description, describe
from runmanager.launching.git import GitQuery
from runmanager.launching.load_sweep import find_sweep_file, load_sweep
from runmanager.launching.options import Limits
from runmanager.launching.outcomes import Outcomes
from runmanager.launching.signals import StopRequest
from runmanager.launching.sweep import Sweep, SweepError
from runmanager.launching.train_options import TrainOptions
from runmanager.launching.work import Work
from runmanager.tracking.writers import Writer


class Way(Protocol):
    """Where a launch trains."""

    description: Description
    git: GitQuery
    threads: str
    """How many threads a run has for its arithmetic, where that was laid down."""

    def check(self, indices: list[int], known: dict[str, Any], *, fresh: bool = False) -> dict[str, Any]:
        """Checks the sweep; returns what its results rest on, and as `fusion` which of its runs are trained together.

        Args:
            indices: the places in the grid of the runs that are to be trained.
            known: what earlier launches have found out about training runs together.
            fresh: whether runs begin anew though they have a state to go on from.

        Raises:
            SweepError: it lists all that is wrong.
        """

    def train(
        self, work: Work, writers: list[Writer], outcomes: Outcomes, limits: Limits
    ) -> tuple[StopRequest, set[str]]:
        """Trains all that is due; returns whether it was stopped before, and the parameters that a function has read."""


@contextmanager
def way_to_train(
    sweep: Sweep | str | Path, changes: Changes, workers: int | None, options: TrainOptions
) -> Iterator[Way]:
    """Where the sweep is trained, for the time of a launch. No process is left behind.

    Raises:
        SweepError: the sweep cannot be used, or not by workers.
    """
    if workers == 0:
        from runmanager.launching.here import Here

        loaded = sweep if isinstance(sweep, Sweep) else load_sweep(find_sweep_file(sweep))
        here = Here(changes.apply(loaded), options, changes)
        try:
            yield here
        finally:
            here.git.close()
        return
    from runmanager.launching.processes import Processes

    way = Processes(_file_of(sweep), changes, workers, options)
    try:
        if isinstance(sweep, Sweep):
            _refuse_another(way.description, changes.apply(sweep))
        yield way
    except BaseException:
        way.close(at_once=True)
        raise
    way.close(at_once=False)


def _refuse_another(found: Description, given: Sweep) -> None:
    """Workers train what the file says, so that has to be what was given."""
    mine = describe(given)
    if (found.name, found.grid_json(), found.settings) != (mine.name, mine.grid_json(), mine.settings):
        raise SweepError(
            given.name,
            [
                f"workers read the sweep from {given.file}, and the one there is another; launch it as it stands, or workers=0"
            ],
        )


def _file_of(sweep: Sweep | str | Path) -> Path:
    """The file by which workers find the sweep."""
    if not isinstance(sweep, Sweep):
        return find_sweep_file(sweep)
    if sweep.file is None or not sweep.file.is_file():
        raise SweepError(
            sweep.name, ["workers read the sweep from its file, and it has none; write it in sweeps/, or use workers=0"]
        )
    return sweep.file
