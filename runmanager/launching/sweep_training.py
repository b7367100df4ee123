"""Training the runs of a sweep in the process that has loaded it: the one that launches, or a worker."""

import gc
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from runmanager.launching.description import Changes
from runmanager.launching.fusion import known_kinds
from runmanager.launching.sweep import Sweep
from runmanager.launching.train_options import TrainOptions
from runmanager.space.grid import Run
from runmanager.tracking.errors import RunStopped, StorageError
from runmanager.tracking.faults import is_quit
from runmanager.tracking.manager import Entry, RunManager
from runmanager.tracking.rows import DIVERGED, INTERRUPTED, EpochRow
from runmanager.tracking.writers import Writer
from runmanager.training.reads import recorded
from runmanager.training.seeding import run_seed, seeded

if TYPE_CHECKING:
    from runmanager.training.distributed_team import StartRanks
    from runmanager.training.trainer import Trainer


def surroundings_of(
    sweep: Sweep,
    project: Path,
    indices: Sequence[int],
    num_workers: int,
    known: dict[str, Any],
    options: TrainOptions,
    *,
    fresh: bool = False,
) -> dict[str, Any]:
    """Checks a sweep against its trainer; returns what its results rest on beside the code, and which runs go together.

    Args:
        sweep: the sweep.
        project: its project's folder.
        indices: the places in the grid of the runs that are to be trained; the data of the first is looked at.
        num_workers: how many processes will train.
        known: what earlier launches have found out about training runs together.
        options: what runs are trained with.
        fresh: whether runs begin anew though they have a state to go on from.

    Raises:
        SweepError: it lists all that is wrong.
    """
    from runmanager.launching.code import data_fingerprint

    sweep.check(project, checkpoints=options.checkpoint_every > 0, fresh=fresh)
    if sweep.trainer is None:
        return {}
    from runmanager.launching.find_fusion import Finder

    runs = sweep.runs()
    splits = sweep.trainer.splits(runs[indices[0]], sweep.seed, project)
    finder = Finder(sweep.trainer, runs, sweep.seed, project, options.fuse, num_workers, known_kinds(known))
    fusion = finder.find(indices)
    reason = sweep.trainer.not_resident(runs[indices[0]], splits)
    if reason:
        fusion.notes.insert(0, f"the data is read by a DataLoader: {reason}")
    fusion.notes[:0] = _not_seen(sweep.trainer, [runs[index] for index in indices])
    return {"data": data_fingerprint(splits), "fusion": fusion.to_json()}


def _not_seen(trainer: "Trainer", runs: Sequence[Run]) -> list[str]:
    """What the strict mode cannot see to, where a run is to be deterministic."""
    strict = next((run for run in runs if trainer.setting("deterministic", run)), None)
    if strict is None:
        return []
    from runmanager.training.recipes.determinism import not_seen

    return not_seen(trainer.device(strict))


class _Split(RunStopped):
    """A group could not go on; its runs are interrupted, and go on in smaller groups."""

    def __init__(self, reason: str, size: int) -> None:
        super().__init__(INTERRUPTED, reason)
        self.size = size


class GroupEnd(NamedTuple):
    """What no journal can say of a group."""

    refused: dict[int, Exception]  # the runs that could not be begun, by their numbers
    unrecorded: dict[int, str]  # those whose end could not be recorded
    size: int | None  # of the groups in which its runs are to go on; None where they have ended


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
        changes: Changes | None = None,
    ) -> None:
        """Nothing is trained yet.

        Args:
            sweep: the sweep.
            project: its project's folder.
            options: what each run is trained with.
            writers: where else rows go.
            stop_reason: why the run under way has to end with this epoch; None when it has not.
            changes: what was changed of the sweep in its file, for other processes that read that.
        """
        self._changes = changes or Changes()
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
            if is_quit(error):
                raise KeyboardInterrupt from error
        finally:
            self.manager.forget()
            _give_back_memory()

    def train_group(
        self, runs: Sequence[Run], numbers: Sequence[int], known_attempts: Sequence[int], arithmetic: str
    ) -> "GroupEnd":
        """Runs that are trained together; what a run raises ends it alone, and what the group raises ends none for good."""
        assert self._sweep.trainer is not None
        seeds = [run_seed(self._sweep.seed, run._asdict()) for run in runs]
        entries = [Entry(*one) for one in zip(runs, numbers, seeds, known_attempts, strict=True)]
        self.manager.unrecorded.clear()
        size, refused = None, {}
        try:
            with self.manager.tracking_group(entries) as refused:
                begun = [entry for entry in entries if entry.number not in refused]
                if begun:
                    self._train_begun(begun, arithmetic)
        except _Split as split:
            size = split.size
        except Exception as error:
            if is_quit(error):
                raise KeyboardInterrupt from error
            raise
        finally:
            self.manager.forget()
            _give_back_memory()
        return GroupEnd(dict(refused), dict(self.manager.unrecorded), size)

    def _train_begun(self, entries: Sequence[Entry], arithmetic: str) -> None:
        from runmanager.training.group import GroupBroken

        assert self._sweep.trainer is not None
        try:
            self._sweep.trainer.train_group(
                [entry.run for entry in entries],
                self.manager,
                numbers=[entry.number for entry in entries],
                seeds=[entry.seed or 0 for entry in entries],
                arithmetic=arithmetic,
                split_seed=self._sweep.seed,
                project=self._project,
            )
        except GroupBroken as error:
            raise _Split(str(error), error.size) from error

    def _train(self, run: Run, seed: int) -> None:
        if self._sweep.trainer is not None:
            self._sweep.trainer.train(
                run,
                self.manager,
                seed=seed,
                split_seed=self._sweep.seed,
                project=self._project,
                start_ranks=self._start_ranks(self._sweep.trainer, run, seed),
            )
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

    def _start_ranks(self, trainer: "Trainer", run: Run, seed: int) -> "StartRanks | None":
        """What starts the other processes of a run that has several."""
        if trainer.num_ranks(run) == 1:
            return None
        from runmanager.launching.rank import Ranks

        return Ranks(self._sweep.file, self._changes, self._options).of(run, seed)

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
        gc.collect()  # a group's parts refer to each other
        torch.cuda.empty_cache()
