"""Taking up a run where an earlier attempt left it, and keeping what that needs."""

import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runmanager.tracking.attempt import Attempt
from runmanager.tracking.checkpoint import Checkpoints, State, Written
from runmanager.tracking.counting import counted
from runmanager.tracking.errors import CheckpointError, StorageError
from runmanager.tracking.files import sync_all_files
from runmanager.tracking.journal import Record, storage_error
from runmanager.tracking.rows import DONE, EpochRow, Number, improves
from runmanager.tracking.run_dir import RunDir
from runmanager.tracking.writers import Member

MakeState = State | Callable[[], State] | None


@dataclass
class Resumed:
    """Where a run goes on."""

    state: dict[str, Any]
    epoch: int
    num_steps: int
    run_seconds: float
    records: list[Record]  # of the saved states that there are
    notes: list[str]  # what was said of the run


def resume(attempt: Attempt, member: Member, modes: Mapping[str, str], *, completed: bool) -> Resumed | None:
    """Puts a member back to the newest saved state that can be read, and records that; None where nothing was saved.

    Args:
        attempt: the new attempt.
        member: its run.
        modes: which way the objective improves, by its name.
        completed: whether the state of a run that has ended by itself is taken up too.

    Raises:
        CheckpointError: none of the saved states can be read.
        StorageError: it cannot be recorded.
    """
    records = attempt.journal.content.records
    saved = _saved_states(records, completed)
    if not saved:
        return None
    found, state = _load_newest(Checkpoints(attempt.run_dir.checkpoints), saved)
    kept = [record for record in _as_of(records, found["seq"]) if record["seq"] <= found["seq"]]
    attempt.journal.append(("resume", {"epoch": found["epoch"], "after": found["seq"]}))
    member.take_up(kept, modes)
    steps = [record["step"] for record in kept if record["kind"] == "step"]
    run_seconds = member.rows[-1].run_seconds if member.rows else 0.0
    checkpoints = [record for record in kept if record["kind"] == "checkpoint"]
    notes = [record["text"] for record in kept if record["kind"] == "note"]
    return Resumed(state, found["epoch"], max(steps, default=0), run_seconds, checkpoints, notes)


def has_state(attempt: Attempt, *, completed: bool) -> bool:
    """Whether `resume` would find a saved state."""
    return bool(_saved_states(attempt.journal.content.records, completed))


def _as_of(records: list[Record], seq: int) -> list[Record]:
    """What counted when the record with this number was written."""
    return counted(record for record in records if record["seq"] <= seq)


def _saved_states(records: list[Record], completed: bool) -> list[Record]:
    """The records of the saved states, newest first."""
    saved: list[Record] = []
    for record in records:
        if record["kind"] == "checkpoint":
            saved.append(record)
        elif record["kind"] == "end" and record["status"] in DONE and not completed:
            saved.clear()
    return saved[::-1]


def _load_newest(checkpoints: Checkpoints, saved: list[Record]) -> tuple[Record, dict[str, Any]]:
    faults = []
    for record in saved:
        try:
            state = checkpoints.load(record)
        except CheckpointError as error:
            faults.append(str(error))
            continue
        if faults:
            warnings.warn(f"{faults[0]}; the run goes on from epoch {record['epoch']}", RuntimeWarning, stacklevel=4)
        return record, state
    raise CheckpointError(f"the run cannot be resumed: {faults[0]}. Delete its folder to train it from the start")


def _made(state: MakeState) -> State:
    """The state itself.

    Raises:
        CheckpointError: it is no dict.
    """
    made = state() if callable(state) and not hasattr(state, "state_dict") else state
    if not isinstance(made, Mapping):
        raise CheckpointError(
            f"end_epoch(checkpoint=...) got a {type(made).__name__}; give a dict, like "
            "{'network': network.state_dict(), 'optimizer': optimizer.state_dict()}, or a function that returns one"
        )
    return made


Saved = Record | Exception | None
"""The record of a saved state, why it could not be saved, or None where it was not due."""


def save_together(asked: Sequence[tuple["Keeper", EpochRow, MakeState, bool]], folder: Path) -> list[Saved]:
    """Saves the states of many runs at once; they wait for the disk together, and not one by one.

    Args:
        asked: of each run its keeper, its row, its state, and whether that is its last.
        folder: of the sweep.
    """
    written = [_or_why(keeper.write, row, state, is_last=is_last) for keeper, row, state, is_last in asked]
    if not any(isinstance(one, Written) for one in written):
        return written
    failure = _synced(folder)
    saved: list[Saved] = [
        failure or _or_why(keeper.put_in_place, one, row) if isinstance(one, Written) else one
        for (keeper, row, _, _), one in zip(asked, written, strict=True)
    ]
    failure = failure or _synced(folder)
    return [failure if failure and isinstance(one, dict) else one for one in saved]


def _or_why(do: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
    try:
        return do(*arguments, **named)
    except Exception as error:  # noqa: BLE001 (it concerns one run)
        return error


def _synced(folder: Path) -> StorageError | None:
    try:
        if not sync_all_files(folder):
            os.sync()
    except OSError as error:
        return storage_error(folder, error)
    return None


class Keeper:
    """Saves a run's states when they are due, and drops those that no longer have to be kept.

    Kept are the last two, so that one is whole whatever becomes of the other, and that of the best epoch; of a run that has
    ended by itself, the last and the best.
    """

    def __init__(self, run_dir: RunDir, every: int, modes: Mapping[str, str]) -> None:
        self._checkpoints = Checkpoints(run_dir.checkpoints)
        self._every = every
        self._objective, self._mode = next(iter(modes.items()), ("", "min"))
        self._last: list[str] = []  # files, the newest last
        self._best: tuple[str, Number] | None = None  # a file, and the objective's value there
        self._is_verified = False  # whether a state of this run was found to load
        self._unsaved: tuple[EpochRow, MakeState] | None = None  # the last epoch's, where it was not due

    def take_up(self, records: list[Record], rows: list[EpochRow]) -> None:
        """The saved states of an earlier attempt, and the rows up to the last of them, are this one's."""
        by_epoch = {row.epoch: row for row in rows}
        for record in records:
            self._note(record["file"], by_epoch.get(record["epoch"]))

    def _note(self, file: str, row: EpochRow | None) -> None:
        """A file is the last one, and the best one if its epoch is; the epoch's row may be damaged."""
        self._last = [*self._last[-1:], file]
        value = row.values().get(self._objective) if row else None
        if value is not None and improves(value, self._best and self._best[1], self._mode):
            self._best = (file, value)

    def save(self, row: EpochRow, state: MakeState, *, is_last: bool) -> Record | None:
        """Saves the state at the end of a row's epoch where that is due; returns the record that makes it count.

        Raises:
            StorageError: it cannot be written.
        """
        if not self._is_due(row, state, is_last):
            return None
        record = self._checkpoints.save(row.epoch, _made(state), verify=not self._is_verified)
        self._has_saved(record, row)
        return record

    def _is_due(self, row: EpochRow, state: MakeState, is_last: bool) -> bool:
        self._unsaved = None
        if state is None or not self._every:
            return False
        if row.epoch % self._every and not is_last:
            self._unsaved = (row, state)
            return False
        return True

    def _has_saved(self, record: Record, row: EpochRow) -> None:
        self._is_verified = True
        self._note(record["file"], row)

    def write(self, row: EpochRow, state: MakeState, *, is_last: bool) -> Written | None:
        """The first half of `save`, after which nothing counts yet: the state is written, and need not be on the disk.

        Raises:
            StorageError: it cannot be written.
        """
        if not self._is_due(row, state, is_last):
            return None
        return self._checkpoints.write(row.epoch, _made(state), verify=not self._is_verified, sync=False)

    def put_in_place(self, written: Written, row: EpochRow) -> Record:
        """The other half; the state is on the disk, and the name that it gets here has to get there too.

        Raises:
            StorageError: it cannot be written.
        """
        self._checkpoints.put_in_place(written)
        self._has_saved(written.record, row)
        return written.record

    def save_last(self) -> Record | None:
        """Saves the state of the last epoch after all, where it was not due.

        Raises:
            StorageError: it cannot be written.
        """
        return self.save(*self._unsaved, is_last=True) if self._unsaved else None

    def thin(self, *, has_ended: bool = False) -> None:
        """Drops the states that do not have to be kept; to be called when the last one is in the journal.

        Raises:
            StorageError: a file cannot be deleted.
        """
        if self._last:
            self._checkpoints.keep({*self._last[-1 if has_ended else -2 :], *([self._best[0]] if self._best else [])})
