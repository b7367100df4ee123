"""Which of a run's records count, when it took several attempts."""

from bisect import bisect_right
from collections.abc import Iterable
from typing import NamedTuple

from runmanager.tracking.journal import Record

_SAYS_SOMETHING = ("epoch", "log", "step", "checkpoint", "note")


class _Link(NamedTuple):
    """A record that counts, and what counted before it."""

    record: Record
    before: "_Link | None"


class Counting:
    """Takes a journal's records one after another and keeps those that count.

    An attempt that takes up a saved state counts on from what counted when that was saved. One that starts from nothing puts
    all before it out of count with the first thing that it records; until then nothing has taken its place.
    """

    def __init__(self, *, steps: bool = True) -> None:
        """Nothing counts yet.

        Args:
            steps: whether to keep the scalars of steps, of which a long run may have millions.
        """
        self._keeps_steps = steps
        self._newest: _Link | None = None
        self._links: list[_Link] = []
        self._seqs: list[int] = []  # of the links, in their order
        self._replaces = False  # whether the next thing that is recorded takes the place of all before it

    def add(self, record: Record) -> None:
        """The journal's next record."""
        kind = record["kind"]
        if kind == "begin":
            self._replaces = True
        elif kind == "resume":
            place = bisect_right(self._seqs, record["after"])
            self._newest = self._links[place - 1] if place else None
            self._replaces = False
        elif kind in _SAYS_SOMETHING:
            if self._replaces:
                self._newest, self._replaces = None, False
            if kind != "step" or self._keeps_steps:
                self._newest = _Link(record, self._newest)
                self._links.append(self._newest)
                self._seqs.append(record["seq"])

    @property
    def records(self) -> list[Record]:
        """What counts so far, without begins and ends."""
        found, link = [], self._newest
        while link is not None:
            found.append(link.record)
            link = link.before
        return found[::-1]


def counted(records: Iterable[Record]) -> list[Record]:
    """The records of a journal that count."""
    counting = Counting()
    for record in records:
        counting.add(record)
    return counting.records
