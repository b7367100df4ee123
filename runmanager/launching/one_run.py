"""One run of a sweep file, to be looked into: which it is, its data, and its parts as they are at its beginning."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runmanager.launching.description import describe
from runmanager.launching.load_sweep import find_sweep_file, load_sweep, project_of
from runmanager.launching.schedule import schedule
from runmanager.launching.sweep import Sweep, SweepError
from runmanager.parameters import params_text
from runmanager.space.grid import Run
from runmanager.tracking.run_dir import SweepDir
from runmanager.tracking.untouched import frozen_rng
from runmanager.training.seeding import run_seed, seeded

if TYPE_CHECKING:
    from torch import Tensor

    from runmanager.training.parts import Parts
    from runmanager.training.trainer import Trainer


@dataclass(frozen=True)
class OneRun:
    """A run of a sweep that has a Trainer."""

    sweep: Sweep
    trainer: "Trainer"
    project: Path
    run: Run
    number: int

    @property
    def seed(self) -> int:
        """What its random numbers come from."""
        return run_seed(self.sweep.seed, self.run._asdict())

    @property
    def title(self) -> str:
        """`quickstart: run 1 (lr=0.01, batch_size=100)`."""
        return f"{self.sweep.name}: run {self.number} ({params_text(self.run._asdict())})"

    def splits(self) -> Any:
        """Its data."""
        return self.trainer.splits(self.run, self.sweep.seed, self.project)


def need_trainer(sweep: Sweep) -> "Trainer":
    """The Trainer of a sweep.

    Raises:
        SweepError: it has none.
    """
    if sweep.trainer is None:
        raise SweepError(
            sweep.name, ["its runs are trained by a function of your own; only a Trainer's network can be looked into"]
        )
    return sweep.trainer


def choose_run(sweep: str | Path, only: str | None) -> OneRun:
    """The first run of a sweep file, or the first that is meant by `only`.

    Args:
        sweep: the path or the name of a sweep file.
        only: a number, or a value like `lr=0.01`.

    Raises:
        SweepError: the sweep cannot be used, has no Trainer, or has no such run.
    """
    file = find_sweep_file(sweep)
    loaded, project = load_sweep(file), project_of(file)
    trainer = need_trainer(loaded)
    runs = schedule(describe(loaded), SweepDir(project, str(loaded.name)), [only] if only else []).runs
    return OneRun(loaded, trainer, project, runs[0].run, runs[0].number)


@contextmanager
def built(one: OneRun, *, with_start: bool = True) -> "Iterator[tuple[Parts, Any]]":
    """The parts of a run, as they are when its training begins, and its data; random numbers are as before in the end.

    Args:
        one: the run.
        with_start: whether `start_from` is read; not where a saved state takes its place.
    """
    splits = one.splits()
    with frozen_rng(splits), seeded(one.seed):
        yield one.trainer.build(one.run, splits, one.project, with_start=with_start, compiles=False), splits


def two_samples(splits: Any) -> "Tensor":
    """The inputs [2, ...] of the first two samples that the run is trained on.

    Raises:
        TrainerError: its samples are no pairs of tensors.
    """
    from torch import Tensor
    from torch.utils.data import DataLoader

    from runmanager.training.settings import TrainerError

    with frozen_rng(splits):
        batch: Any = next(iter(DataLoader(splits.train, batch_size=2)))
    if not isinstance(batch, (list, tuple)) or len(batch) != 2 or not isinstance(batch[0], Tensor):
        raise TrainerError("the data gives no (inputs, targets) pairs of tensors; let __getitem__ return such a pair")
    return batch[0]
