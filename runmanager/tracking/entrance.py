"""The door by which a run comes to be tracked: it gets its folder and identity, and its begin is recorded."""

import time
from collections.abc import Sequence
from typing import Any, NamedTuple

from runmanager.parameters import identity, params_of
from runmanager.tracking.errors import RunInUseError, StorageError
from runmanager.tracking.group import Group
from runmanager.tracking.kept_rows import KeptRows
from runmanager.tracking.open_sweep import OpenSweep
from runmanager.tracking.run_dir import run_record
from runmanager.tracking.tracked import Tracked
from runmanager.tracking.writers import Writers


class Entry(NamedTuple):
    """A run that is to be tracked in a group."""

    run: Any  # a named tuple of hyperparameters
    number: int  # in its sweep
    seed: int | None = None
    known_attempts: int | None = None


class Entrance:
    """Begins the runs of one sweep. Makes nothing on disk before the first."""

    def __init__(self, sweep: OpenSweep, writers: Writers, rows: KeptRows, checkpoint_every: int) -> None:
        self._sweep, self._writers, self._rows, self._checkpoint_every = sweep, writers, rows, checkpoint_every

    def begin(
        self,
        group: Group,
        params: dict[str, Any],
        *,
        number: int | None = None,
        seed: int | None = None,
        replicate: int = 1,
        known_attempts: int | None = None,
    ) -> None:
        """Begins a run, which is the group's next member.

        Args:
            group: that it is trained in.
            params: its parameters.
            number: in its sweep; by default the next free one.
            seed: what its random numbers come from.
            replicate: which run of these parameters it is, counted from 1.
            known_attempts: how many attempts at it the caller knows of; None for any number.

        Raises:
            RunInUseError: another process has it, or has made an attempt that the caller does not know of.
            StorageError: its folder or its journal cannot be written.
        """
        began = time.perf_counter()
        run_id = identity(params, replicate)
        run_dir = self._sweep.run_dir(params, number, run_id)
        who = run_record(run_dir.number, run_id, params, seed, replicate)
        tracked = Tracked.begin(
            run_dir,
            params,
            who,
            known_attempts=known_attempts,
            checkpoint_every=self._checkpoint_every,
            modes=self._sweep.modes,
            writers=self._writers,
        )
        tracked.write_for_people(who)
        self._rows.add(params, tracked.member.rows)
        group.add(tracked, began)

    def begin_each(self, group: Group, entries: Sequence[Entry]) -> dict[int, Exception]:
        """Begins the runs as the group's members; returns the numbers of those that could not be begun, and why."""
        refused: dict[int, Exception] = {}
        for run, number, seed, known_attempts in entries:
            try:
                self.begin(group, params_of(run), number=number, seed=seed, known_attempts=known_attempts)
            except (RunInUseError, StorageError) as error:
                refused[number] = error
        return refused
