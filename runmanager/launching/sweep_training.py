"""Training the runs of a sweep in the process that has loaded it: the one that launches, or a worker."""

import math
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from runmanager.launching.sweep import Sweep
from runmanager.launching.train_options import TrainOptions
from runmanager.space.grid import Run
from runmanager.tracking.errors import RunStopped, StorageError
from runmanager.tracking.manager import RunManager
from runmanager.tracking.rows import DIVERGED, INTERRUPTED, EpochRow
from runmanager.tracking.writers import Writer
from runmanager.training.reads import recorded
from runmanager.training.seeding import run_seed, seeded


def surroundings_of(sweep: Sweep, project: Path, index: int, options: TrainOptions) -> dict[str, Any]:
    """Checks a sweep against its trainer; returns what its results rest on beside the code, for the record: its data.

    Args:
        sweep: the sweep.
        project: its project's folder.
        index: the place in the grid of the first run that is to be trained, whose data is looked at.
        options: what runs are trained with.

    Raises:
        SweepError: it lists all that is wrong.
    """
    from runmanager.launching.code import data_fingerprint

    sweep.check(project, checkpoints=options.checkpoint_every > 0)
    if sweep.trainer is None:
        return {}
    splits = sweep.trainer.splits(sweep.runs()[index], sweep.seed, project)
    return {"data": data_fingerprint(splits)}


class SweepTraining:
    """Trains runs of a sweep, one after another."""

    def __init__(
        self,
        sweep: Sweep,
        project: Path,
        options: TrainOptions,
        *,
        writers: Sequence[Writer],
        stop_reason: Callable[[], str | None],
    ) -> None:
        """Nothing is trained yet.

        Args:
            sweep: the sweep.
            project: its project's folder.
            options: what each run is trained with.
            writers: where else rows go.
            stop_reason: why the run under way has to end with this epoch; None when it has not.
        """
        self._sweep, self._project, self._options, self._stop_reason = sweep, project, options, stop_reason
        self.reads: set[str] = set()
        """The parameters that a hand-written function has read."""
        self.manager = RunManager(
            str(sweep.name),
            root=project,
            tensorboard=options.tensorboard,
            histograms_every=options.histograms_every,
            checkpoint_every=options.checkpoint_every,
            quiet=True,
            tables=False,
            writers=writers,
            stop_when=self._stop_when,
        )

    def train(self, run: Run, number: int, known_attempts: int) -> None:
        """One run; what it raises is recorded by its manager, and ends it alone.

        Raises:
            RunInUseError: another launch trains it, or has tried it meanwhile.
            StorageError: its folder or its journal cannot be written.
        """
        seed = run_seed(self._sweep.seed, run._asdict())
        begun = False
        try:
            with self.manager.tracking(run, number=number, seed=seed, known_attempts=known_attempts):
                begun = True
                self._train(run, seed)
        except (StorageError, KeyboardInterrupt):
            raise
        except BaseException as error:  # it ends one run, whatever it is meant to end
            if not begun:
                raise  # nothing has recorded it
            if type(error).__name__ == "BdbQuit":  # the debugger's `quit` means the program
                raise KeyboardInterrupt from error
        finally:
            self.manager.forget()
            _give_back_memory()

    def _train(self, run: Run, seed: int) -> None:
        if self._sweep.trainer is not None:
            self._sweep.trainer.train(run, self.manager, seed=seed, split_seed=self._sweep.seed, project=self._project)
            return
        assert self._sweep.train is not None
        with seeded(seed):
            result = self._sweep.train(self._watched(run), self.manager)
        if isinstance(result, Mapping):
            self.manager.log(**result)
        elif result is not None:
            raise TypeError(
                f"train returned a {type(result).__name__}; return a dict of metrics, like {{'val_loss': 0.3}}, or nothing"
            )

    def _watched(self, run: Run) -> Run:
        """The run, seen being read until all its parameters have been."""
        return run if self.reads.issuperset(run._fields) else cast(Run, recorded(run, self.reads))

    def _stop_when(self, row: EpochRow) -> RunStopped | None:
        reason = self._stop_reason()
        if reason:
            return RunStopped(INTERRUPTED, f"{reason}, after epoch {row.epoch}")
        if self._options.stop_diverged and row.loss is not None and not math.isfinite(row.loss):
            return RunStopped(DIVERGED, f"the loss of epoch {row.epoch} is {row.loss} (--stop-diverged)")
        return None


def _give_back_memory() -> None:
    """Leaves the device to the next run, where it was used."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        torch.cuda.empty_cache()
