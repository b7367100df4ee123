"""Which of a run's records count, when it took several attempts."""

from collections.abc import Iterable

from runmanager.tracking.journal import Record

_SAYS_SOMETHING = ("epoch", "log", "step", "checkpoint")


class Counting:
    """Takes a journal's records one after another and keeps those that count.

    An attempt that takes up a saved state counts on from what counted when that was saved. One that starts from nothing puts
    all before it out of count with the first thing that it records; until then nothing has taken its place.
    """

    def __init__(self) -> None:
        self.records: list[Record] = []
        """What counts so far, without begins and ends."""
        self._all: list[Record] = []
        self._replaces = False  # whether the next thing that is recorded takes the place of all before it

    def add(self, record: Record) -> None:
        """The journal's next record."""
        kind = record["kind"]
        self._all.append(record)
        if kind == "begin":
            self._replaces = True
        elif kind == "resume":
            self.records = counted(one for one in self._all[:-1] if one["seq"] <= record["after"])
            self._replaces = False
        elif kind in _SAYS_SOMETHING:
            if self._replaces:
                self.records, self._replaces = [], False
            self.records.append(record)


def counted(records: Iterable[Record]) -> list[Record]:
    """The records of a journal that count."""
    counting = Counting()
    for record in records:
        counting.add(record)
    return counting.records
