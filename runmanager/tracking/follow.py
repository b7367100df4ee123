"""Telling writers what another process records of a run, by reading the run's journal."""

import time
from typing import Any

from runmanager.tracking.counting import Counting
from runmanager.tracking.journal import Record
from runmanager.tracking.owner import is_on_this_machine
from runmanager.tracking.rows import EpochRow, RunEnd, metrics_from_json
from runmanager.tracking.run_dir import RunDir
from runmanager.tracking.writers import Member, Writers


class Follower:
    """Follows one attempt at a run, from its begin record to its end record."""

    def __init__(
        self,
        run_dir: RunDir,
        params: dict[str, Any],
        pid: int,
        known_attempts: int,
        writers: Writers,
        modes: dict[str, str],
    ) -> None:
        """Nothing is read yet.

        Args:
            run_dir: the run.
            params: its parameters.
            pid: the process of this machine whose attempt is followed.
            known_attempts: how many attempts there were before.
            writers: who is told.
            modes: which way the objective improves, by its name.
        """
        self.run_dir, self.pid = run_dir, pid
        self._num_earlier = known_attempts
        self._params, self._writers, self._modes = params, writers, modes
        self._journal = run_dir.journal_follower()
        self._counting = Counting(steps=False)
        self.member: Member | None = None  # once the attempt has begun
        self.end: RunEnd | None = None
        self.began = self.last_epoch = time.monotonic()
        """When the attempt began, and when an epoch was last seen to end, by the monotonic clock."""

    def read(self) -> None:
        """Tells the writers what is new.

        Raises:
            StorageError: the journal cannot be read.
        """
        for record in _without_overruled(self._journal.read()):
            self._counting.add(record)
            if record["kind"] == "begin":
                self._num_earlier -= 1
                if self._num_earlier < 0 and is_on_this_machine(record["owner"], self.pid):
                    self._begin(record)
            elif self.member is not None and self.end is None:
                self._take(self.member, record)

    def _begin(self, record: Record) -> None:
        self.began = self.last_epoch = time.monotonic()
        self.member = Member(self.run_dir.number, self._params, self.run_dir, record["attempt"])
        self._writers.begin(self.member)

    def _take(self, member: Member, record: Record) -> None:
        kind = record["kind"]
        if kind == "epoch":
            self._epoch(member, EpochRow.from_record(member.number, record))
        elif kind == "log" and record["epoch"] is None:
            metrics = metrics_from_json(record["metrics"])
            member.metrics.update(metrics)
            member.last.update(metrics)
            self._writers.log(member, metrics)
        elif kind == "resume":
            self._resume(member)
        elif kind == "end":
            self.end = RunEnd.from_record(record)
            self._writers.end(member, self.end)

    def _epoch(self, member: Member, row: EpochRow) -> None:
        self.last_epoch = time.monotonic()
        member.add(row, self._modes)
        self._writers.epoch(member, row)

    def _resume(self, member: Member) -> None:
        member.take_up(self._counting.records, self._modes)
        self._writers.resume(member)


def _without_overruled(records: list[Record]) -> list[Record]:
    """The records, of two ends of one attempt the second alone."""
    kinds = [record["kind"] for record in records]
    return [
        record
        for place, record in enumerate(records)
        if record["kind"] != "end" or kinds[place + 1 : place + 2] != ["end"]
    ]
