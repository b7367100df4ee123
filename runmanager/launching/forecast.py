"""What a sweep will take, and what will go wrong in it: its runs are built, and some of them rehearsed. Nothing is trained."""

import hashlib
import os
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch.nn.parameter import is_lazy

from runmanager.launching.find_fusion import Finder
from runmanager.launching.fusion import known_kinds
from runmanager.launching.rehearsals import Costs, Rehearsals
from runmanager.launching.sweep import Sweep, covering
from runmanager.launching.train_options import TrainOptions
from runmanager.parameters import canonical
from runmanager.tracking.faults import one_line
from runmanager.training.alike import token
from runmanager.training.loaders import NotResident
from runmanager.training.reads import recorded, values_of
from runmanager.training.rehearsal import UnknownSizeError, pace, size_of
from runmanager.training.seeding import run_seed, seeded

_BUILD_SECONDS, _REHEARSAL_SECONDS = 20.0, 60.0  # after which no other run is begun
_MOST_SCHEDULE_STEPS = 10_000
_WAIT_SECONDS = 60.0  # for the other workers

Json = dict[str, Any]


@dataclass
class _Shape:
    """Runs that are alike in all that costs something: what one of them takes, each of them does."""

    indices: list[int]
    error: str | None = None  # that ends the first of them, and so the others
    costs: Costs | None = None  # None where there was no time, or where data does not tell how much it is

    def to_json(self) -> Json:
        """As strict JSON."""
        return {**vars(self), "costs": asdict(self.costs) if self.costs else None}


class Forecast:
    """Looks ahead at the runs of a sweep. It writes into a folder of its own alone."""

    def __init__(
        self, sweep: Sweep, project: Path, folder: Path, numbers: Mapping[int, int], options: TrainOptions
    ) -> None:
        """Does nothing yet.

        Args:
            sweep: the sweep, which has a trainer.
            project: its project's folder.
            folder: where rehearsals leave what they leave.
            numbers: of the runs that are to be trained, by their places in the grid.
            options: what runs would be trained with.
        """
        assert sweep.trainer is not None
        self._sweep, self._trainer, self._project, self._folder = sweep, sweep.trainer, project, folder
        self._options, self._numbers, self._runs = options, numbers, sweep.runs()
        self._data_reads: set[str] = set()  # the parameters that decide a run's data
        self._data_seen: set[str] = set()
        self._errors: dict[int, str] = {}
        self._epochs: dict[int, int] = {}
        self._seconds: dict[str, float] = {}  # that the parts of a launch's start take
        self._num_rehearsed = 0
        self._peak_bytes = 0

    def look(self, num_workers: int, known: Json) -> Json:
        """All that can be told, as strict JSON.

        Args:
            num_workers: how many processes would train.
            known: what earlier launches have found out about training runs together.

        Raises:
            SweepError: the sweep cannot start at all; it lists all that is wrong.
        """
        began = time.perf_counter()
        self._sweep.check(self._project, checkpoints=self._options.checkpoint_every > 0)
        self._seconds["check"] = time.perf_counter() - began
        data = self._read_data()
        built = self._build_all()
        shapes = self._shapes_of(built)
        self._rehearse_all(shapes)
        peak_bytes = self._peak_bytes  # before groups are tried, which may be larger than those that are trained
        began = time.perf_counter()
        finder = self._finder(num_workers, known)
        fusion = finder.find(sorted(self._numbers))
        self._seconds["fusion"] = time.perf_counter() - began
        self._place_rest(shapes, built, finder)
        return {
            "data": data,
            "fusion": fusion.to_json(),
            "recorded": [kind.key for kind in fusion.kinds if kind == known_kinds(known).get(kind.key)],
            "shapes": [shape.to_json() for shape in shapes],
            "errors": sorted(self._errors.items()),
            "num_built": len(built) + sum(1 for index in self._errors if index not in built),
            "num_rehearsed": self._num_rehearsed,
            "epochs": sorted(self._epochs.items()),
            "seconds": self._seconds,
            "peak_bytes": peak_bytes,
        }

    def _finder(self, num_workers: int, known: Json) -> Finder:
        return Finder(
            self._trainer,
            self._runs,
            self._sweep.seed,
            self._project,
            self._options.fuse,
            num_workers,
            known_kinds(known),
        )

    def _read_data(self) -> Json:
        """What the data of the first run is; and how long a worker takes to have it at hand."""
        first = self._runs[min(self._numbers)]
        began = time.perf_counter()
        splits = self._trainer.splits(first, self._sweep.seed, self._project)
        device = self._trainer.device(first)
        streamed = None
        try:
            self._trainer.resident(splits, device)
        except NotResident as reason:
            streamed = str(reason)
        self._seconds["data"] = time.perf_counter() - began
        sizes = [None if one is None else size_of(one) for one in (splits.train, splits.validation)]
        return {"source": splits.source, "sizes": sizes, "streamed": streamed, "device": device.type}

    def _build_all(self) -> dict[int, str]:
        """Builds every run, as far as there is time; returns what tells the shape of each that could be built."""
        until = time.monotonic() + _BUILD_SECONDS
        built: dict[int, str] = {}
        for index in self._covering_first(sorted(self._numbers)):
            try:
                built[index] = self._build(index)
            except Exception as error:  # noqa: BLE001 (training the run would raise it)
                self._errors[index] = one_line(error)
            if time.monotonic() > until:
                break
        return built

    def _covering_first(self, indices: Sequence[int]) -> list[int]:
        """Those runs first that together show each value of each parameter."""
        places = {id(self._runs[index]): index for index in indices}
        first, rest = covering([self._runs[index] for index in indices])
        return [places[id(run)] for run in [*first, *rest]]

    def _build(self, index: int) -> str:
        """What tells the shape of a run, by building it. Its schedule is gone through, too."""
        run = self._runs[index]
        self._epochs[index] = self._trainer.setting("epochs", run)
        data = self._data_of(run)
        splits = self._trainer.splits(run, self._sweep.seed, self._project)
        with seeded(run_seed(self._sweep.seed, run._asdict())):
            parts = self._trainer.build(run, splits, self._project, compiles=False)
        settings = [self._trainer.setting(name, run) for name in ("batch_size", "validation", "num_workers")]
        tensors = [*parts.network.named_parameters(), *parts.network.named_buffers()]
        shapes = [(name, str(one.dtype), None if is_lazy(one) else tuple(one.shape)) for name, one in tensors]
        kinds = [type(one).__qualname__ for one in (parts.optimizer, parts.loss)]
        text = "\n".join(
            map(str, (token(parts.network), shapes, kinds, parts.recipe.structure(), settings, parts.device, data))
        )
        schedule = parts.recipe.schedule
        if schedule is not None:
            for epoch in range(1, 1 + min(self._epochs[index], _MOST_SCHEDULE_STEPS)):
                schedule.end_epoch({str(schedule.needs): 1.0}, epoch)
        return hashlib.sha256(text.encode("utf-8", "backslashreplace")).hexdigest()

    def _data_of(self, run: Any) -> str:
        """What tells the data of a run from others'. It is loaded where no run before had the same."""
        if not self._data_seen or self._data_text(run) not in self._data_seen:
            self._trainer.splits(recorded(run, self._data_reads), self._sweep.seed, self._project)
            self._data_seen.add(self._data_text(run))
        return self._data_text(run)

    def _data_text(self, run: Any) -> str:
        values = values_of(run)
        return canonical({name: values[name] for name in sorted(self._data_reads)})

    def _shapes_of(self, built: Mapping[int, str]) -> list[_Shape]:
        found: dict[str, list[int]] = {}
        for index, text in sorted(built.items()):
            if index not in self._errors:
                found.setdefault(text, []).append(index)
        return [_Shape(indices) for indices in found.values()]

    def _rehearse_all(self, shapes: Sequence[_Shape]) -> None:
        """A run of each shape, and runs that together show each value of each parameter, as far as there is time."""
        until = time.monotonic() + _REHEARSAL_SECONDS
        self._note_peak()
        of_index = {index: shape for shape in shapes for index in shape.indices}
        firsts = [shape.indices[0] for shape in shapes]
        with closing(Rehearsals(self._sweep, self._project, self._folder, self._options)) as rehearsals:
            for index in dict.fromkeys([*firsts, *self._to_cover(of_index)]):
                shape = of_index[index]
                if shape.error is None:
                    self._rehearse(index, shape, rehearsals)
                if time.monotonic() > until:
                    break

    def _to_cover(self, of_index: Mapping[int, _Shape]) -> list[int]:
        places = {id(self._runs[index]): index for index in sorted(of_index)}
        first, _ = covering([self._runs[index] for index in places.values()]) if places else ([], [])
        return [places[id(run)] for run in first]

    def _rehearse(self, index: int, shape: _Shape, rehearsals: Rehearsals) -> None:
        run, number = self._runs[index], self._numbers[index]
        self._num_rehearsed += 1
        try:
            left = rehearsals.rehearse(run, number)
            self._note_peak()
            if index == shape.indices[0]:
                shape.costs = rehearsals.costs(run, number, left)
                self._note_peak()
        except UnknownSizeError:
            return
        except (Exception, SystemExit) as error:  # noqa: BLE001 (whatever it is, it would end the run)
            self._errors[index] = one_line(error)
            shape.error = self._errors[index] if index == shape.indices[0] else None

    def _note_peak(self) -> None:
        """To be called after each run that is tracked: it begins its peak anew."""
        self._peak_bytes = max(self._peak_bytes, _peak_bytes())

    def _place_rest(self, shapes: Sequence[_Shape], built: Mapping[int, str], finder: Finder) -> None:
        """Runs that there was no time to build are like those of their kind."""
        rest = [index for index in self._numbers if index not in built and index not in self._errors]
        if not rest or not shapes:
            return
        of_index = {index: shape for shape in shapes for index in shape.indices}
        for indices in finder.sort(sorted(self._numbers))[0].values():
            shape = next((of_index[index] for index in indices if index in of_index), shapes[0])
            shape.indices += [index for index in indices if index in rest]


def pace_together(sweep: Sweep, project: Path, index: int, folder: Path, num_workers: int) -> float:
    """The seconds of a step of a run while so many workers, each of which has called this, take steps at once."""
    assert sweep.trainer is not None
    run = sweep.runs()[index]

    def wait() -> None:
        (folder / f"ready-{os.getpid()}").touch()
        until = time.monotonic() + _WAIT_SECONDS
        while len(list(folder.glob("ready-*"))) < num_workers and time.monotonic() < until:
            time.sleep(0.005)

    splits = sweep.trainer.splits(run, sweep.seed, project)
    return pace(sweep.trainer, run, splits, run_seed(sweep.seed, run._asdict()), project, wait)


def _peak_bytes() -> int:
    """The most memory that this process has held since a run was begun last; 0 where the system does not say."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))
    except (OSError, StopIteration):
        return 0
