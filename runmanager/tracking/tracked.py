"""A member of the group that a RunManager tracks, from its begin record to its end record."""

import math
import time
import warnings
from collections.abc import Mapping
from contextlib import closing, suppress
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from runmanager.tracking.attempt import Attempt, begin_attempt
from runmanager.tracking.confusion_files import ConfusionFiles
from runmanager.tracking.errors import StorageError
from runmanager.tracking.faults import one_line
from runmanager.tracking.journal import Record
from runmanager.tracking.owner import this_process
from runmanager.tracking.resuming import Keeper
from runmanager.tracking.rows import COMPLETED, DIVERGED, FAILED, STOPPED, EpochRow, RunEnd
from runmanager.tracking.run_dir import RunDir
from runmanager.tracking.writers import Member, Writers

if TYPE_CHECKING:
    from runmanager.tracking.confusion import Confusion


@dataclass
class Tracked:
    """A run under way: what its writers see of it, and what only its manager touches."""

    member: Member
    attempt: Attempt
    keeper: Keeper
    modes: Mapping[str, str]  # which way the sweep's objective improves
    writers: Writers
    begin_seq: int  # of the journal's record
    began: float = field(default_factory=time.perf_counter)
    attempt_began: float = field(default_factory=time.perf_counter)  # the run's own clock may begin later
    pictures: set[str] = field(default_factory=set)  # the names of those that were shown
    notes: set[str] = field(default_factory=set)  # what was said of it

    @classmethod
    def begin(
        cls,
        run_dir: RunDir,
        params: dict[str, Any],
        who: dict[str, Any],
        *,
        known_attempts: int | None,
        checkpoint_every: int,
        modes: Mapping[str, str],
        writers: Writers,
    ) -> "Tracked":
        """Takes the run for this process and records that it begins.

        Args:
            run_dir: its folder, which is there.
            params: its parameters.
            who: number, identity, parameters and seed, as run.json has them.
            known_attempts: how many attempts at it the caller knows of; None for any number.
            checkpoint_every: epochs from one saved state to the next.
            modes: which way the sweep's objective improves.
            writers: who is told.

        Raises:
            RunInUseError: another process has it.
            StorageError: its journal cannot be written.
        """
        attempt = begin_attempt(run_dir)  # first, because only the run's one writer may touch what is there
        try:
            attempt.refuse_unless_known(known_attempts)
            fields = {"attempt": attempt.number, "time": time.time(), "owner": this_process(), "run": who}
            attempt.journal.append(("begin", fields))
        except BaseException:
            attempt.close()
            raise
        member = Member(run_dir.number, params, run_dir, attempt.number)
        keeper = Keeper(run_dir, checkpoint_every, modes)
        return cls(member, attempt, keeper, modes, writers, attempt.journal.seq)

    def has_recorded(self) -> bool:
        """Whether this attempt has recorded or shown anything beside its begin."""
        return self.attempt.journal.seq > self.begin_seq or bool(self.pictures)

    def write_for_people(self, who: dict[str, Any]) -> None:
        """Writes run.json; the journal says the same, so a run does not fail for want of it."""
        try:
            self.member.run_dir.write_run(who)
        except StorageError as error:
            warnings.warn(f"run.json cannot be written: {error}", RuntimeWarning, stacklevel=5)

    def take(self, row: EpochRow, saved: Record | None) -> None:
        """Hands a row to all who keep it; the journal first, in one write with the state that was saved with it."""
        self.attempt.journal.append(("epoch", row.record()), *([("checkpoint", saved)] if saved else []))
        self.keeper.thin()
        self.member.add(row, self.modes)
        self.writers.epoch(self.member, row)

    def note(self, text: str) -> None:
        """Records a line about the run, once."""
        if text not in self.notes:
            self.attempt.journal.append(("note", {"text": text}))
            self.notes.add(text)

    def keep_confusion(self, confusion: "Confusion") -> None:
        """Keeps a confusion matrix in the run's folder; a run does not fail for want of it."""
        try:
            ConfusionFiles(self.member.run_dir.confusions).write(confusion.name, confusion.record())
        except StorageError as error:
            warnings.warn(f"the confusion matrix cannot be kept: {error}", RuntimeWarning, stacklevel=5)

    def drop_confusions(self, after: int) -> None:
        """Drops the confusion matrices of the epochs after the one that the run goes on from."""
        try:
            ConfusionFiles(self.member.run_dir.confusions).drop(after)
        except OSError as error:
            warnings.warn(f"the confusion matrices after epoch {after} cannot be dropped: {error}", stacklevel=5)

    def finish(self) -> tuple[str, str | None]:
        """Saves the last state where it was not due; returns how a run ends that has done all its epochs, and why."""
        if saved := self.keeper.save_last():
            self.attempt.journal.append(("checkpoint", saved))
        self.keeper.thin(has_ended=True)
        rows = self.member.rows
        loss = rows[-1].loss if rows else None
        if loss is None or math.isfinite(loss):
            return COMPLETED, None
        return DIVERGED, f"the loss of epoch {rows[-1].epoch} is {loss}"

    def end(self, end: RunEnd) -> StorageError | None:
        """The one door by which a run leaves; returns what kept its end from being recorded."""
        failure = None
        if end.status in (STOPPED, DIVERGED):
            with suppress(StorageError):  # a file too many is no reason to fail
                self.keeper.thin(has_ended=True)
        try:
            with closing(self.attempt) as attempt:
                attempt.journal.append(("end", end.record()))
        except StorageError as error:
            failure = error
            end = replace(end, status=FAILED, error=one_line(error), traceback=None)
        self.writers.end(self.member, end)
        return failure
