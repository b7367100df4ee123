"""Finding out which runs can be trained together and whether that is faster: by building them, and by a few steps."""

import hashlib
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from runmanager.launching.fusion import AUTO, OFF, Fusion, Kind
from runmanager.parameters import canonical
from runmanager.tracking.faults import one_line
from runmanager.training.alike import NotFusable, group_key
from runmanager.training.arithmetics import ALONE
from runmanager.training.choice import Trial, choose
from runmanager.training.loaders import NotResident
from runmanager.training.reads import recorded, values_of
from runmanager.training.seeding import seeded

if TYPE_CHECKING:
    from runmanager.training.trainer import Trainer

_BUILD_SECONDS = 2.0  # that building runs may take; the kinds of the others are told from their parameters


class Finder:
    """Sorts the runs of a sweep into kinds and chooses how each kind is trained."""

    def __init__(
        self,
        trainer: "Trainer",
        runs: Sequence[Any],
        split_seed: int,
        project: Path,
        fuse: str | int = AUTO,
        num_workers: int = 1,
        known: Mapping[str, Kind] = MappingProxyType({}),
    ) -> None:
        """Builds nothing yet.

        Args:
            trainer: the sweep's.
            runs: all of the grid.
            split_seed: decides the validation split.
            project: where a known data set is looked for.
            fuse: 'auto', 'off', or how many runs are trained in one step.
            num_workers: how many processes train.
            known: what earlier launches have measured, by the kind's key.
        """
        self._trainer, self._runs, self._split_seed, self._project = trainer, runs, split_seed, project
        self._fuse, self._num_workers, self._known = fuse, max(1, num_workers), known
        self._reasons: dict[str, str] = {}  # why runs of a kind are trained alone, by its key

    def find(self, indices: Sequence[int]) -> Fusion:
        """The kinds of the runs at these places of the grid."""
        if self._fuse == OFF or (len(indices) < 2 and self._num_workers < 2):
            return Fusion()
        with seeded(0):  # what is built and tried may draw
            return self._find(indices)

    def _find(self, indices: Sequence[int]) -> Fusion:
        kinds: list[Kind] = []
        kind_of: dict[int, int] = {}
        for key, its_runs in self.sort(indices)[0].items():
            kind_of |= dict.fromkeys(its_runs, len(kinds))
            kinds.append(self._kind(key, its_runs))
        return Fusion(kinds, kind_of, self._notes(kinds, kind_of))

    def sort(self, indices: Sequence[int]) -> tuple[dict[str, list[int]], dict[str, str]]:
        """The places of the runs of each kind, by the kind's key; and why those of some kinds are trained alone."""
        kinds: dict[str, list[int]] = {}
        for index, key in sorted(self._keys(indices).items()):
            kinds.setdefault(key, []).append(index)
        return kinds, self._reasons

    def _notes(self, kinds: Sequence[Kind], kind_of: Mapping[int, int]) -> list[str]:
        """What people are told: each way, how many runs go it, and why."""
        counts = [sum(place == number for place in kind_of.values()) for number in range(len(kinds))]
        said: dict[tuple[str, str], int] = {}
        for kind, count in zip(kinds, counts, strict=True):
            how = f"in groups of up to {kind.size}" if kind.size > 1 else "one by one"
            if count > 1 or not kind.key:
                said[how, kind.reason] = said.get((how, kind.reason), 0) + count
        return [
            f"{count} run{'s are' if count > 1 else ' is'} trained {how}: {reason}"
            for (how, reason), count in said.items()
        ]

    def _keys(self, indices: Sequence[int]) -> dict[int, str]:
        """The kind's key of each run. Where building them all takes too long, parameters tell that of the rest."""
        until = time.monotonic() + _BUILD_SECONDS
        keys: dict[int, str] = {}
        for index in indices:
            if time.monotonic() > until:
                break
            keys[index] = self._key(self._runs[index])
        rest = [index for index in indices if index not in keys]
        if rest:
            deciding = self._deciding(keys)
            by_values = {self._values(index, deciding): key for index, key in keys.items()}
            for index in rest:
                values = self._values(index, deciding)
                if values not in by_values:
                    by_values[values] = self._key(self._runs[index])
                keys[index] = by_values[values]
        return keys

    def _values(self, index: int, names: Sequence[str]) -> str:
        values = values_of(self._runs[index])
        return canonical({name: values[name] for name in names})

    def _deciding(self, keys: Mapping[int, str]) -> list[str]:
        """The parameters that decide the kind, as far as the runs tell that were built."""
        deciding = list(self._runs[0]._fields)
        for name in list(deciding):
            if len({self._values(index, [name]) for index in keys}) == 1:
                continue  # nothing tells what another value would do
            others = [one for one in deciding if one != name]
            seen: dict[str, str] = {}
            if all(seen.setdefault(self._values(index, others), key) == key for index, key in keys.items()):
                deciding = others
        return deciding

    def _key(self, run: Any) -> str:
        """A digest of what runs have to agree in to be trained together."""
        try:
            reads: set[str] = set()
            splits = self._trainer.splits(recorded(run, reads), self._split_seed, self._project)
            with seeded(0):
                parts = self._trainer.build(run, splits, self._project, with_start=False, compiles=False)
            values = values_of(run)
            data = canonical({name: values[name] for name in sorted(reads)})
            settings = [self._trainer.setting(name, run) for name in ("batch_size", "validation")]
            text = group_key(parts, [data, settings, str(parts.device)])
        except NotFusable as reason:
            text = f"alone: {reason}"
            self._reasons[_digest(text)] = str(reason)
        except Exception as error:  # noqa: BLE001 (the run itself will say so, when it is trained)
            text = f"alone: {one_line(error)}"
            self._reasons[_digest(text)] = f"it cannot be built ({one_line(error)[:200]})"
        return _digest(text)

    def _kind(self, key: str, indices: Sequence[int]) -> Kind:
        if key in self._reasons:
            return Kind("", 1, ALONE, self._reasons[key], 0.0)
        is_told = isinstance(self._fuse, int)
        most = min(len(indices), int(self._fuse)) if is_told else -(-len(indices) // self._num_workers)
        known = self._known.get(key)
        if known is not None and not is_told and (known.size < known.most or most <= known.most):
            return known
        runs = [self._runs[index] for index in indices[:most]]
        try:
            trial = Trial(self._trainer, runs, self._split_seed, self._project)
            with self._trainer.mode(runs[0]):
                choice = choose(trial, most, forced=is_told)
        except NotResident as reason:
            return Kind("", 1, ALONE, f"a group needs data that stays on the device ({reason})", 0.0)
        except Exception as error:  # noqa: BLE001 (it is only a try; the runs themselves will say what is wrong)
            return Kind("", 1, ALONE, f"no steps could be tried ({one_line(error)[:200]})", 0.0)
        is_measured = most > 1 and self._fuse == AUTO and choice.is_timed
        why = "there is a worker for each of them" if most < 2 <= len(indices) else choice.reason
        return Kind(key, choice.size, choice.arithmetic, why, choice.epoch_seconds, is_measured, most)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "backslashreplace")).hexdigest()[:16]
