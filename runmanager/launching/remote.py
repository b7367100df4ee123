"""What the driver has its workers do. Arguments and results are plain, as they cross a process border."""

from contextlib import suppress
from pathlib import Path
from typing import Any

from runmanager.launching.code import code_of
from runmanager.launching.code_changes import code_changes
from runmanager.launching.description import Changes, describe, load_changed
from runmanager.launching.load_sweep import project_of
from runmanager.launching.sweep import SweepError
from runmanager.launching.sweep_training import SweepTraining, surroundings_of
from runmanager.launching.train_options import TrainOptions
from runmanager.launching.worker import stop_asked
from runmanager.parameters import ParameterError, identity
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


def check_sweep(file: str, changes: Json, options: Json, index: int) -> Json:
    """What the sweep's results rest on beside its code, or what is wrong with the sweep."""
    try:
        return surroundings_of(_load(file, changes).sweep, project_of(Path(file)), index, TrainOptions(**options))
    except SweepError as error:
        return {"faults": error.faults}


def train_run(
    file: str,
    changes: Json,
    options: Json,
    code: dict[str, str],
    index: int,
    run_id: str,
    number: int,
    known_attempts: int,
) -> Json:
    """Trains one run. Its journal says how it ended; what is returned is what no journal can say.

    Args:
        file: the sweep file.
        changes: what this launch changes of it.
        options: what runs are trained with.
        code: the code that this launch began with, since a worker may read the files later.
        index: the run's place in the grid.
        run_id: the first 12 digits of its identity, since a grid that is drawn anew has another run at that place.
        number: the run's number.
        known_attempts: how many attempts at it the driver knows of.
    """
    loaded = _load(file, changes)
    training = loaded.training(options)
    changed = code_changes(code, loaded.code)
    if changed:
        return {"lost": f"since this launch began, {', '.join(changed)}; launch again to be asked about it"}
    if index >= len(loaded.runs) or identity(loaded.runs[index]._asdict())[:12] != run_id:
        return {"lost": "the sweep file gives another grid each time that it is read; let it draw from a fixed seed"}
    try:
        training.train(loaded.runs[index], number, known_attempts)
        sync_now()  # nobody is left to tell when it fails after this process has ended
    except RunInUseError as error:
        return {"taken": str(error)}
    except OSError as error:
        return {"lost": str(error)}
    return {"reads": sorted(training.reads)}


class _Sweep:
    """The sweep that this worker has loaded: a worker has one, and trains its runs one after another."""

    def __init__(self, file: str, changes: Json) -> None:
        self.file = file
        self.sweep = load_changed(Path(file), Changes.from_json(changes))
        self.runs = self.sweep.runs()
        self.code = code_of(Path(file), project_of(Path(file)))
        self._training: SweepTraining | None = None

    def training(self, options: Json) -> SweepTraining:
        if self._training is None:
            self._training = SweepTraining(
                self.sweep,
                project_of(Path(self.file)),
                TrainOptions(**options),
                writers=[LogWriter()],
                stop_reason=lambda: "stopped as asked" if stop_asked() else None,
            )
        return self._training


_loaded: list[_Sweep] = []


def _load(file: str, changes: Json) -> _Sweep:
    if not _loaded:
        _loaded.append(_Sweep(file, changes))
    return _loaded[0]
