"""Which runs of a launch may be trained together, and what that was found to gain. Plain data: it travels to the driver."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from runmanager.training.arithmetics import ALONE, ARITHMETICS

AUTO, OFF = "auto", "off"


@dataclass(frozen=True)
class Kind:
    """Runs that can be trained in one step, and how they are."""

    key: str  # a digest of all that they agree in; empty where a run is of no kind
    size: int  # of a group
    arithmetic: str
    reason: str
    epoch_seconds: float  # of one run; 0 where it was not measured
    is_measured: bool = False
    most: int = 1  # that there could have been in a group when it was measured

    @property
    def is_sound(self) -> bool:
        """Whether its values are such as a measurement gives."""
        counts = all(type(one) is int and one >= 1 for one in (self.size, self.most))
        texts = all(type(one) is str for one in (self.key, self.arithmetic, self.reason))
        is_time = type(self.epoch_seconds) in (int, float) and 0 <= self.epoch_seconds < math.inf
        is_way = self.arithmetic == ALONE if self.size == 1 else self.arithmetic in ARITHMETICS
        return counts and texts and is_way and is_time and self.is_measured is True


@dataclass(frozen=True)
class Fusion:
    """The kinds of runs, and what kind each is of."""

    kinds: list[Kind] = field(default_factory=list)
    kind_of: Mapping[int, int] = field(default_factory=dict)  # by the run's place in the grid; the place in `kinds`
    notes: list[str] = field(default_factory=list)  # for people

    def kind(self, index: int) -> Kind | None:
        """What kind of run stands at this place in the grid; None where that is not known."""
        place = self.kind_of.get(index)
        return None if place is None else self.kinds[place]

    def to_json(self) -> dict[str, Any]:
        """As strict JSON."""
        pairs = [[index, place] for index, place in self.kind_of.items()]
        return {"kinds": [asdict(kind) for kind in self.kinds], "kind_of": pairs, "notes": self.notes}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "Fusion":
        """What `to_json` made."""
        return cls([Kind(**kind) for kind in data["kinds"]], dict(data["kind_of"]), list(data["notes"]))

    def choices(self) -> dict[str, dict[str, Any]]:
        """What was measured, by the kinds' keys: later launches of the sweep go by it, and their runs get the same bits."""
        return {
            kind.key: {name: value for name, value in asdict(kind).items() if name != "key"}
            for kind in self.kinds
            if kind.is_measured
        }


def known_kinds(choices: Any) -> dict[str, Kind]:
    """The kinds behind `choices`, as a record has them; one that cannot be read is measured anew."""
    known = {}
    for key, choice in choices.items() if isinstance(choices, dict) else ():
        try:
            kind = Kind(key, **choice)
        except TypeError:
            continue
        if kind.is_sound:
            known[key] = kind
    return known


def fuse_fault(fuse: Any) -> str | None:
    """What is wrong with what was asked for, or None."""
    if fuse in (AUTO, OFF) or (isinstance(fuse, int) and not isinstance(fuse, bool) and fuse >= 1):
        return None
    if isinstance(fuse, str) and fuse.isascii() and fuse.isdigit() and int(fuse) >= 1:
        return None
    return f"fuse={fuse!r:.80} is unknown; give auto, off, or how many runs are trained in one step, as in 8"


def parse_fuse(fuse: Any) -> str | int:
    """`auto`, `off` or a number; one run in a step is off."""
    if fuse in (AUTO, OFF):
        return str(fuse)
    return OFF if int(fuse) == 1 else int(fuse)
