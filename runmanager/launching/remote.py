"""What the driver has its workers do. Arguments and results are plain, as they cross a process border."""

from contextlib import suppress
from pathlib import Path
from typing import Any

from runmanager.launching.allocator import give_back_memory, keep_memory
from runmanager.launching.code import code_of
from runmanager.launching.code_changes import code_changes
from runmanager.launching.description import Changes, describe, load_changed
from runmanager.launching.load_sweep import project_of
from runmanager.launching.sweep import SweepError
from runmanager.launching.sweep_training import SweepTraining, surroundings_of
from runmanager.launching.train_options import TrainOptions
from runmanager.launching.worker import stop_asked
from runmanager.parameters import ParameterError, identity
from runmanager.space.grid import Run
from runmanager.tracking.errors import RunInUseError
from runmanager.tracking.files import sync_now
from runmanager.tracking.log_file import LogWriter

Json = dict[str, Any]


def load_sweep(file: str, changes: Json) -> None:
    """Reads the sweep file ahead of the first run; what is wrong with it, the worker that describes it says."""
    with suppress(Exception):
        _load(file, changes)


def describe_sweep(file: str, changes: Json) -> Json:
    """The description of a sweep file's sweep, or what is wrong with it."""
    try:
        return describe(_load(file, changes).sweep).to_json()
    except SweepError as error:
        return {"faults": error.faults}
    except ParameterError as error:
        return {"faults": [str(error)]}


def check_sweep(
    file: str, changes: Json, options: Json, indices: list[int], num_workers: int, known: Json, fresh: bool = False
) -> Json:
    """What the sweep's results rest on beside its code, and which runs go together; or what is wrong with the sweep."""
    told = _told(options)
    try:
        sweep = _load(file, changes).sweep
        return surroundings_of(sweep, project_of(Path(file)), indices, num_workers, known, told, fresh=fresh)
    except SweepError as error:
        return {"faults": error.faults}


def forecast_sweep(
    file: str, changes: Json, options: Json, numbers: list[tuple[int, int]], num_workers: int, known: Json, folder: str
) -> Json:
    """What training runs would take, and what would go wrong; or what is wrong with the sweep. See `Forecast`."""
    from runmanager.launching.forecast import Forecast

    told = _told(options)
    sweep = _load(file, changes).sweep
    forecast = Forecast(sweep, project_of(Path(file)), Path(folder), dict(numbers), told)
    try:
        return forecast.look(num_workers, known)
    except SweepError as error:
        return {"faults": error.faults}


def pace_together(file: str, changes: Json, options: Json, index: int, folder: str, num_workers: int) -> Json:
    """The seconds of a step of a run, while so many workers take steps at once."""
    from runmanager.launching import forecast

    _told(options)
    sweep = _load(file, changes).sweep
    return {"seconds": forecast.pace_together(sweep, project_of(Path(file)), index, Path(folder), num_workers)}


def train_runs(
    file: str,
    changes: Json,
    options: Json,
    code: dict[str, str],
    group: list[tuple[int, str, int, int]],
    arithmetic: str,
) -> Json:
    """Trains a group of runs. Their journals say how they ended; what is returned is what no journal can say.

    Args:
        file: the sweep file.
        changes: what this launch changes of it.
        options: what runs are trained with.
        code: the code that this launch began with, since a worker may read the files later.
        group: of each run its place in the grid, the first 12 digits of its identity (a grid that is drawn anew has another
            run at that place), its number, and how many attempts at it the driver knows of.
        arithmetic: how they are trained together.
    """
    told = _told(options)
    loaded = _load(file, changes)
    changed = code_changes(code, loaded.code)
    if changed:
        return _all_lost(group, f"since this launch began, {', '.join(changed)}; launch again to be asked about it")
    if any(index >= len(loaded.runs) or loaded.id_of(index) != run_id for index, run_id, _, _ in group):
        return _all_lost(
            group, "the sweep file gives another grid each time that it is read; let it draw from a fixed seed"
        )
    try:
        return _train(loaded.training(told), [loaded.runs[index] for index, *_ in group], group, arithmetic)
    finally:
        give_back_memory()


def _all_lost(group: list[tuple[int, str, int, int]], why: str) -> Json:
    return {"lost": [[number, why] for _, _, number, _ in group]}


def _train(training: SweepTraining, runs: list[Run], group: list[tuple[int, str, int, int]], arithmetic: str) -> Json:
    numbers, attempts = [one[2] for one in group], [one[3] for one in group]
    taken: list[int] = []
    lost: list[tuple[int, str]] = []
    size = None
    try:
        if arithmetic:
            refused, unrecorded, size = training.train_group(runs, numbers, attempts, arithmetic)
            taken = [number for number, error in refused.items() if isinstance(error, RunInUseError)]
            lost = [(number, str(error)) for number, error in refused.items() if number not in taken]
            lost += unrecorded.items()
        else:
            training.train(runs[0], numbers[0], attempts[0])
        sync_now()  # nobody is left to tell when it fails after this process has ended
    except RunInUseError:
        taken = numbers
    except OSError as error:
        lost = [(number, str(error)) for number in numbers]
    return {"reads": sorted(training.reads), "taken": taken, "lost": lost, "size": size}


class _Sweep:
    """The sweep that this worker has loaded: a worker has one, and trains its runs one after another."""

    def __init__(self, file: str, changes: Json) -> None:
        self.file, self.changes = file, Changes.from_json(changes)
        self.sweep = load_changed(Path(file), self.changes)
        self.runs = self.sweep.runs()
        self.code = code_of(Path(file), project_of(Path(file)))
        self._training: SweepTraining | None = None

    def id_of(self, index: int) -> str:
        """The first 12 digits of a run's identity."""
        return identity(self.runs[index]._asdict())[:12]

    def training(self, options: TrainOptions) -> SweepTraining:
        if self._training is None:
            self._training = SweepTraining(
                self.sweep,
                project_of(Path(self.file)),
                options,
                writers=[LogWriter()],
                stop_reason=lambda: "stopped as asked" if stop_asked() else None,
                changes=self.changes,
            )
        return self._training


def _told(options: Json) -> TrainOptions:
    """What the driver tells with a call; what of it concerns the whole process is done, before the sweep's data is read."""
    told = TrainOptions(**options)
    if told.keep_memory:
        keep_memory()  # where it cannot be had, training is slower and no number differs
    return told


_loaded: list[_Sweep] = []


def _load(file: str, changes: Json) -> _Sweep:
    if not _loaded:
        _loaded.append(_Sweep(file, changes))
    return _loaded[0]
