"""Rehearsing runs of a sweep in a folder of their own, to see what each would raise and what it would take."""

import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runmanager.launching.plan_sweep import REHEARSAL
from runmanager.launching.sweep import Sweep
from runmanager.launching.train_options import TrainOptions
from runmanager.tracking.manager import RunManager
from runmanager.tracking.plan import describe
from runmanager.tracking.results import rebuild
from runmanager.tracking.rows import EpochRow
from runmanager.tracking.run_dir import RunDir, SweepDir
from runmanager.tracking.writers import Member, Writer
from runmanager.training.loaders import NotResident
from runmanager.training.rehearsal import NUM_EPOCHS, Measures, measure, rehearse, whole
from runmanager.training.seeding import run_seed

_DEAR_SECONDS = (
    10.0  # a rehearsal that takes longer is not done again: what it costs to be the first is little beside that
)


@dataclass(frozen=True)
class Costs:
    """What a run by itself takes. Plain data: it travels to the driver."""

    num_steps: int  # of an epoch
    step_seconds: float
    first_seconds: float  # that the first step of an epoch takes beyond that
    validation_seconds: float  # of an epoch, as the next one is
    tracking_seconds: float
    run_seconds: float  # of a run, beyond its epochs
    cold_seconds: float  # that the first run of a process takes beyond that
    run_bytes: int  # of its folder, beyond its epochs and its saved states
    epoch_bytes: int  # of its folder, for each epoch
    table_bytes: int  # in results/, for each epoch
    saved_bytes: int  # of a saved state
    state_bytes: int  # in memory: parameters, gradients and what the optimizer keeps
    activation_bytes: int  # that a step takes beside it
    resident_bytes: int  # of its data


@dataclass(frozen=True)
class Left:
    """What a rehearsal has left: its clocks, and what it wrote."""

    seconds: float  # of all of it
    rows: list[EpochRow]
    sizes: list[int]  # of its folder without saved states, after each epoch and at the end
    saved_bytes: int
    table_bytes: int


class _Trace(Writer):
    """Notes how large a run's folder is after each epoch, and the rows."""

    def begin(self, member: Member) -> None:
        """See `Writer`."""
        self.run_dir, self.rows = member.run_dir, list[EpochRow]()
        self.sizes: list[int] = []

    def epoch(self, member: Member, row: EpochRow) -> None:
        """See `Writer`."""
        self.rows.append(row)
        self.sizes.append(_without_states(member.run_dir))


class Rehearsals:
    """Rehearses runs, one after another, with one manager, as a worker has."""

    def __init__(self, sweep: Sweep, project: Path, folder: Path, options: TrainOptions) -> None:
        """Makes the folder of a sweep that nobody will look at.

        Args:
            sweep: the sweep, which has a trainer.
            project: where a known data set is looked for.
            folder: where rehearsals leave what they leave, until each has ended.
            options: what runs would be trained with.
        """
        assert sweep.trainer is not None
        self._sweep, self._trainer, self._project = sweep, sweep.trainer, project
        self._sweep_dir = SweepDir(folder, REHEARSAL)
        self._sweep_dir.make()
        self._sweep_dir.write_plan(describe(self._sweep_dir, objective=sweep.objective, mode=sweep.mode))
        self._trace = _Trace()
        self._manager = RunManager(
            self._sweep_dir.name,
            root=folder,
            tensorboard=options.tensorboard,
            histograms_every=options.histograms_every,
            checkpoint_every=options.checkpoint_every,
            quiet=True,
            tables=False,
            writers=[self._trace],
        )

    def close(self) -> None:
        """Lets go of the folder."""
        self._manager.close()

    def costs(self, run: Any, number: int, cold: Left) -> Costs:
        """What a run takes that has gone through its first rehearsal."""
        left = cold if cold.seconds > _DEAR_SECONDS else self.rehearse(run, number)
        splits = self._splits(run)
        with self._folder_for_now():
            found = measure(self._trainer, run, splits, self._manager, number, self._seed(run), self._project)
        return _costs(left, cold.seconds - left.seconds, found, self._resident_bytes(run, splits))

    def rehearse(self, run: Any, number: int) -> Left:
        """Lets the run go through all that training does; raises what training it would raise."""
        began = time.perf_counter()
        with self._folder_for_now():
            rehearse(self._trainer, run, self._splits(run), self._manager, number, self._seed(run), self._project)
            seconds = time.perf_counter() - began
            rebuild(self._sweep_dir)
            run_dir = self._trace.run_dir
            sizes = [*self._trace.sizes, _without_states(run_dir)]
            states = _sizes_in(run_dir.checkpoints)
            return Left(seconds, self._trace.rows, sizes, max(states, default=0), self._table_bytes())

    @contextmanager
    def _folder_for_now(self) -> Iterator[None]:
        """Removes the run's folder at the end, so that the next rehearsal of the run is a first one, too."""
        try:
            yield
        finally:
            self._manager.forget()
            for run_dir in self._sweep_dir.runs():
                shutil.rmtree(run_dir.path, ignore_errors=True)

    def _table_bytes(self) -> int:
        return sum(_sizes_in(self._sweep_dir.epochs_csv.parent))

    def _splits(self, run: Any) -> Any:
        return self._trainer.splits(run, self._sweep.seed, self._project)

    def _seed(self, run: Any) -> int:
        return run_seed(self._sweep.seed, run._asdict())

    def _resident_bytes(self, run: Any, splits: Any) -> int:
        try:
            data = self._trainer.resident(splits, self._trainer.device(run))
        except NotResident:
            return 0
        is_cut = data.validation is None or whole(splits.train) is whole(splits.validation)
        return data.train.num_bytes + (0 if is_cut or data.validation is None else data.validation.num_bytes)


def _costs(left: Left, cold_seconds: float, found: Measures, resident_bytes: int) -> Costs:
    first, last = left.rows[0], left.rows[-1]
    tracking = max(0.0, last.run_seconds - first.run_seconds - last.epoch_seconds)
    in_epochs = sum(row.epoch_seconds for row in left.rows) + NUM_EPOCHS * tracking
    epoch_bytes = left.sizes[1] - left.sizes[0]
    return Costs(
        found.num_steps,
        found.step_seconds,
        found.first_seconds,
        found.validation_seconds,
        tracking,
        max(0.0, left.seconds - in_epochs),
        max(0.0, cold_seconds),
        left.sizes[-1] - NUM_EPOCHS * epoch_bytes,
        epoch_bytes,
        left.table_bytes // NUM_EPOCHS,
        left.saved_bytes,
        found.state_bytes,
        found.activation_bytes,
        resident_bytes,
    )


def _without_states(run_dir: RunDir) -> int:
    return sum(_sizes_in(run_dir.path)) - sum(_sizes_in(run_dir.checkpoints))


def _sizes_in(folder: Path) -> list[int]:
    """The bytes of each file in a folder and below."""
    return [os.lstat(Path(place) / name).st_size for place, _, names in os.walk(folder) for name in names]
