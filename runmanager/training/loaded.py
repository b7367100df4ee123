"""Data that outlives a run: loaded once for all runs that need the same, and the same for each of them."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from runmanager.data.measuring import normalised
from runmanager.data.normalization import Normalization, wanted
from runmanager.data.splits import Splits
from runmanager.parameters import canonical
from runmanager.tracking.generators import Rewind, own_generators
from runmanager.training.reads import recorded, values_of
from runmanager.training.seeding import seeded

_MAX_LOADED = 2  # data sets that are kept in memory


class _Loaded:
    """What was loaded for a run, and which of its parameters decided that."""

    def __init__(self, load: Callable[[Any], Splits], run: Any, place: Path, seed: int) -> None:
        self.reads: set[str] = set()
        watched = recorded(run, self.reads)
        num_references = sys.getrefcount(watched)
        with seeded(seed):  # a function of the run may draw
            self.splits = load(watched)
        is_kept = sys.getrefcount(watched) > num_references  # so it may be read later, even in another process
        self._deciding = sorted(run._fields if is_kept else self.reads)
        self._values = self._deciding_values(run)
        self.rewind = Rewind(self._generators())
        self._cuts: dict[float, Splits] = {}
        self._normalised: dict[tuple[float, Normalization | str], Splits] = {}
        self._place, self._seed = place, seed

    def _deciding_values(self, run: Any) -> str:
        values = values_of(run)
        return canonical({name: values[name] for name in self._deciding})

    def _generators(self) -> dict[str, Any]:
        return own_generators({"train": self.splits.train, "validation": self.splits.validation})

    def fits(self, run: Any, place: Path, seed: int) -> bool:
        """Whether the same would be loaded for this run."""
        if (self._place, self._seed) != (place, seed) or not set(self._deciding) <= set(run._fields):
            return False
        return self._values == self._deciding_values(run)

    def is_as_it_was(self) -> bool:
        """Whether it can be put back: no generator was made since, as some data sets do when they are first read."""
        return self.rewind.generators.keys() == self._generators().keys()

    def with_validation(self, fraction: float) -> Splits:
        """With its validation split. To find the classes may need every sample, and so may draw."""
        if fraction not in self._cuts:
            with seeded(self._seed):
                self._cuts[fraction] = self.splits.with_validation(fraction, self._seed)
            self.rewind()
        return self._cuts[fraction]

    def normalised(self, fraction: float, how: Any) -> Splits:
        """With its validation split, and with inputs normalised. To measure them may need every sample, and so may draw."""
        cut, what = self.with_validation(fraction), wanted(how)
        if what is None:
            return cut
        if (fraction, what) not in self._normalised:
            try:
                with seeded(self._seed):
                    self._normalised[fraction, what] = normalised(cut, what)
            finally:
                self.rewind()
        return self._normalised[fraction, what]


class LoadedData:
    """The data sets that were loaded last.

    A data set's own generators would go on from run to run. They are put back to where they were before each one, so that a
    run has the same data alone and after others.
    """

    def __init__(self) -> None:
        self._loaded: list[_Loaded] = []  # the last is the one that was used last
        self._rewind_last: Callable[[], None] = lambda: None

    def splits(
        self,
        load: Callable[[Any], Splits],
        run: Any,
        place: Path,
        *,
        validation: float,
        seed: int,
        normalize: Any = None,
    ) -> Splits:
        """The data of a run, as if nothing had been read from it yet.

        Args:
            load: makes the data of a run; it is called again only for a run in which it would read other values.
            run: the run.
            place: the project that `load` looks in.
            validation: the share that is cut off for validation.
            seed: decides the cut, and what `load` draws.
            normalize: how the inputs are normalised, as `data.measuring.normalised` takes it. Runs that differ in this have
                different splits of the same data, which is on the device once.

        Raises:
            DataError: the data cannot be cut or normalised so.
        """
        self._rewind_last()
        loaded = self._find(run, place, seed) or _Loaded(load, run, place, seed)
        self._loaded.append(loaded)
        self._rewind_last = loaded.rewind
        return loaded.normalised(validation, normalize)

    def rewind(self) -> None:
        """Puts the data that was used last back to where it was."""
        self._rewind_last()

    @contextmanager
    def left_as_it_was(self) -> Iterator[None]:
        """At the end the data is put back, for whoever else has it."""
        try:
            yield
        finally:
            self._rewind_last()

    def _find(self, run: Any, place: Path, seed: int) -> _Loaded | None:
        """What was loaded already, taken out of the list; otherwise the list is left with room for another."""
        self._loaded = [one for one in self._loaded if one.is_as_it_was()]
        for index, loaded in enumerate(self._loaded):
            if loaded.fits(run, place, seed):
                for name in loaded.reads:
                    getattr(run, name)  # who records what this run reads is told
                return self._loaded.pop(index)
        del self._loaded[: len(self._loaded) - _MAX_LOADED + 1]
        return None
