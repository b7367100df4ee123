"""A Sweep: the grid, what to do with each run, and what it is after."""

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runmanager.nearest import nearest
from runmanager.parameters import identity
from runmanager.space.grid import Run, RunBuilder, grid_faults
from runmanager.tracking.history import read_run
from runmanager.tracking.rows import DONE, better_is
from runmanager.tracking.run_dir import SweepDir, sweep_name_fault
from runmanager.training.reads import recorded

if TYPE_CHECKING:
    from runmanager.tracking.manager import RunManager
    from runmanager.training.trainer import Trainer

_MAX_EXERCISED = 1_000  # runs that are tried before it is said that nothing reads a parameter
_TRAINER_METRICS = ("val_loss", "val_accuracy")


class SweepError(ValueError):
    """A sweep that cannot start, or not be used otherwise; the message lists every fault that was found."""

    def __init__(self, name: str | None, faults: Sequence[str], cannot: str = "start") -> None:
        lines = "".join("\n  - " + fault.replace("\n", "\n    ") for fault in faults)
        super().__init__(f"sweep {name or 'without a name'!r} cannot {cannot}:{lines}")
        self.name, self.faults = name, list(faults)


@contextmanager
def cannot(do: str) -> Iterator[None]:
    """A sweep that is not to be started: whatever is wrong with it, the message says that it cannot do this."""
    try:
        yield
    except SweepError as error:
        raise SweepError(error.name, error.faults, do) from error


class Sweep:
    """What to try, how each run is trained, and which metric decides.

    It checks itself when made; `launch` checks it again against the trainer, before a folder is made.
    """

    def __init__(
        self,
        params: Mapping[str, Sequence[Any]],
        *,
        trainer: "Trainer | None" = None,
        train: "Callable[[Any, RunManager], Mapping[str, Any] | None] | None" = None,
        objective: str | None = None,
        mode: str | None = None,
        name: str | None = None,
        seed: int = 0,
    ) -> None:
        """Checks all it is given.

        Args:
            params: the grid, a dict that lists the values of each parameter.
            trainer: how a run is trained; or
            train: a function of the run and of a RunManager that has begun it. A dict that it returns is logged as the
                run's result.
            objective: the metric that decides which run is best; a validation metric.
            mode: 'min' or 'max'; by default told from the objective's name.
            name: what the sweep is kept under; by default the name of the file that it is made in.
            seed: what the seed of every run is derived from.

        Raises:
            SweepError: it lists all that is wrong.
        """
        file = sys._getframe(1).f_globals.get("__file__")
        self.file = Path(file).resolve() if file else None
        self.name = name if name is not None else (self.file.stem if self.file else None)
        self.params, self.trainer, self.train = params, trainer, train
        self.objective, self.seed = objective, seed
        self.mode = mode or (better_is(objective) if isinstance(objective, str) else None)
        faults = self._own_faults()
        if faults:
            raise SweepError(self.name, faults)

    def _own_faults(self) -> list[str]:
        faults = [*grid_faults(self.params), *_objective_faults(self.objective, self.mode, self.trainer, self.params)]
        if self.name is None:
            faults.append("a sweep that is made outside a file has no name; add name='my_sweep'")
        elif fault := sweep_name_fault(self.name):
            faults.append(fault)
        if (self.trainer is None) == (self.train is None):
            what = (
                "both trainer= and train= are given"
                if self.trainer is not None
                else "neither trainer= nor train= is given"
            )
            faults.append(f"{what}; give one: a Trainer, or a function train(run, m)")
        if self.train is not None and not callable(self.train):
            faults.append(f"train={self.train!r:.80} cannot be called; give a function train(run, m)")
        if self.trainer is not None and not hasattr(self.trainer, "settings_twice"):
            faults.append(
                f"trainer={self.trainer!r:.80} is no Trainer; write trainer=Trainer(network=..., data=..., ...)"
            )
        elif self.trainer is not None and isinstance(self.params, Mapping):
            twice = self.trainer.settings_twice(self.params)
            faults += [f"{name} is in the grid and given to the Trainer too; leave it out of one" for name in twice]
        if isinstance(self.seed, bool) or not isinstance(self.seed, int) or not 0 <= self.seed < 2**63:
            faults.append(f"seed={self.seed!r:.80} is not a whole number from 0 up to 2**63")
        return faults

    def runs(self) -> list[Run]:
        """The points of the grid."""
        return RunBuilder.get_runs(self.params)

    def changed(self, params: Mapping[str, Sequence[Any]], epochs: int | None) -> "Sweep":
        """The same sweep with other values for some parameters, or with another number of epochs.

        Raises:
            SweepError: a parameter is not in the grid, or the sweep has no trainer whose epochs could be set.
        """
        faults = [f"--set {name}: the grid has {', '.join(self.params)}" for name in params if name not in self.params]
        if epochs is not None and (self.trainer is None or "epochs" in self.params):
            owner = "in the grid; use --set epochs=..." if self.trainer is not None else "the train function's own"
            faults.append(f"--epochs {epochs}: the number of epochs is {owner}")
        faults += grid_faults(params)
        if faults:
            raise SweepError(self.name, faults)
        trainer = self.trainer.with_epochs(epochs) if self.trainer is not None and epochs is not None else self.trainer
        other = object.__new__(Sweep)
        other.__dict__.update(self.__dict__, params={**self.params, **params}, trainer=trainer)
        return other

    def check(self, project: Path, *, checkpoints: bool = True, fresh: bool = False) -> None:
        """Builds runs as far as it takes to see that nothing is missing and every parameter is read.

        Args:
            project: where known data sets are looked for.
            checkpoints: whether the runs' states will be saved, so that they have to be such as can be.
            fresh: whether runs begin anew though they have a state to go on from.

        Raises:
            SweepError: it lists all that is wrong.
        """
        if self.trainer is None:
            return  # what a function reads is only known once it has run
        faults = _trainer_faults(self, self.trainer, project, checkpoints, fresh=fresh)
        if faults:
            raise SweepError(self.name, faults)


def _trainer_faults(sweep: Sweep, trainer: "Trainer", project: Path, checkpoints: bool, *, fresh: bool) -> list[str]:
    """What building the runs tells. A parameter that no run reads is a fault; a `seed` is read by the tool itself."""
    reads: set[str] = {"seed"}
    runs, seed = sweep.runs(), sweep.seed
    names = runs[0]._fields
    first, rest = covering(runs)
    may_go_on = not fresh and trainer.starts_from_runs(runs[0])
    faults = trainer.faults(
        [recorded(run, reads) for run in first],
        seed,
        project,
        sweep.objective,
        checkpoints=checkpoints,
        started=[_is_started(sweep, run, project) for run in first] if may_go_on else (),
    )
    for run in [*first, *rest][:_MAX_EXERCISED]:  # a parameter may be read in some combinations or in training alone
        if faults or reads.issuperset(names):
            break
        trainer.exercise(recorded(run, reads), seed, project)
    return (
        faults
        or _file_faults(sweep, trainer, first)
        or [
            f"{name} is in the grid, but nothing uses it; read run.{name} in the trainer's functions, or leave it out"
            f"{trainer.meant(name, runs[0], seed, project)}"
            for name in names
            if name not in reads
        ]
    )


def _file_faults(sweep: Sweep, trainer: "Trainer", runs: Sequence[Run]) -> list[str]:
    """The other processes of a run on several devices find the sweep by its file."""
    most = max(trainer.num_ranks(run) for run in runs)
    if most == 1 or (sweep.file is not None and sweep.file.is_file()):
        return []
    from runmanager.launching.rank import NO_FILE

    return [f"devices={most}: {NO_FILE}"]


def _is_started(sweep: Sweep, run: Run, project: Path) -> bool:
    """Whether the run is done or has a state to go on from, so that what it started from may be gone."""
    run_dir = SweepDir(project, str(sweep.name)).runs_by_id().get(identity(run._asdict())[:12])
    history = None if run_dir is None else read_run(run_dir, {})
    return history is not None and (bool(history.checkpoints) or history.status in DONE)


def _objective_faults(objective: Any, mode: Any, trainer: "Trainer | None", params: Mapping[str, Any]) -> list[str]:
    faults = []
    if mode not in (None, "min", "max"):
        faults.append(f"mode={mode!r:.80} is unknown; choose 'min' or 'max'")
    if objective is None:
        return (
            faults if mode is None else [*faults, f"mode={mode!r:.80} needs an objective; add objective='val_accuracy'"]
        )
    if not isinstance(objective, str):
        return [*faults, f"objective={objective!r:.80} is not the name of a metric; write objective='val_accuracy'"]
    if objective.startswith("test"):
        faults.append(
            f"objective={objective!r} reads the test split, which a sweep leaves alone; use a validation metric"
        )
    elif trainer is not None and not _may_be_measured(objective, trainer, params):
        faults.append(
            f"objective={objective!r} is no validation metric; choose val_loss or val_accuracy, or val_ and the name of one of "
            f"the Trainer's metrics{nearest(objective, _TRAINER_METRICS)}"
        )
    return faults


def _may_be_measured(objective: str, trainer: "Trainer", params: Mapping[str, Any]) -> bool:
    """Whether a Trainer may measure it in validation; what its metrics are called shows when they are built."""
    if objective in _TRAINER_METRICS:
        return True
    has_more = any(name in params or trainer.given(name) is not None for name in ("metrics", "average"))
    return has_more and objective.startswith(("val_", "average val_"))


def covering(runs: list[Run]) -> tuple[list[Run], list[Run]]:
    """A few runs that show each value of each parameter, and the others; both in the runs' order."""
    seen: set[tuple[int, str]] = set()
    first: list[Run] = []
    rest: list[Run] = []
    for run in runs:
        values = {(place, repr(value)) for place, value in enumerate(run)}
        (rest if values <= seen else first).append(run)
        seen |= values
    return first, rest
