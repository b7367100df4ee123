"""Which of the saved states of a sweep is meant: the best run's or another's, its best or its last."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from runmanager.launching.sweep import SweepError
from runmanager.parameters import params_text
from runmanager.tracking.checkpoint import Checkpoints
from runmanager.tracking.history import RunHistory, SweepHistory, read_sweep
from runmanager.tracking.journal import Record
from runmanager.tracking.rows import Number, improves
from runmanager.tracking.run_dir import RunDir, SweepDir
from runmanager.tracking.untouched import frozen_rng


@dataclass(frozen=True)
class Saved:
    """A saved state of a run."""

    sweep_dir: SweepDir
    history: SweepHistory
    run: RunHistory
    record: Record
    which: str  # best or last

    @property
    def run_dir(self) -> RunDir:
        """The run's folder."""
        return RunDir(self.sweep_dir.path / self.run.folder, self.run.number)

    @property
    def epoch(self) -> int:
        """After which it was taken."""
        return int(self.record["epoch"])

    @property
    def metrics(self) -> Mapping[str, Number]:
        """What was measured in that epoch."""
        return next((row.values() for row in self.run.rows if row.epoch == self.epoch), {})

    @property
    def title(self) -> str:
        """`quickstart: run 3 (lr=0.01), epoch 2, val_accuracy 0.85`."""
        name, objective = self.history.name, self.history.objective
        value = self.metrics.get(objective) if objective else None
        score = f", {objective} {value:.4g}" if value is not None else ""
        return f"{name}: run {self.run.number} ({params_text(self.run.params)}), {self.which} epoch {self.epoch}{score}"

    def state(self) -> dict[str, Any]:
        """What was saved, once its checksum is right; random numbers are left as they were.

        Raises:
            SweepError: it was dropped since.
            CheckpointError: it cannot be read.
        """
        if not (self.run_dir.checkpoints / self.record["file"]).exists():
            raise SweepError(
                self.history.name,
                [
                    f"the state of run {self.run.number} after epoch {self.epoch} is no longer there: --keep 10, the default, "
                    "leaves those of the 10 best runs; launch with --keep all to keep every run's"
                ],
            )
        with frozen_rng():
            return Checkpoints(self.run_dir.checkpoints).load(self.record)


def find_saved(sweep_dir: SweepDir, number: int | None, which: str | None) -> Saved:
    """A saved state of a sweep.

    Args:
        sweep_dir: the sweep's folder.
        number: which run; by default the best by the objective, or the only one.
        which: `best` or `last`; by default the best where the sweep has an objective.

    Raises:
        SweepError: there is no such run, or it has no such state.
    """
    history = read_sweep(sweep_dir)
    run = _chosen(history, number)
    which = which or ("best" if history.objective else "last")
    return Saved(sweep_dir, history, run, _record(history, run, which), which)


def _chosen(history: SweepHistory, number: int | None) -> RunHistory:
    by_number = {run.number: run for run in history.runs}
    if number is not None and number not in by_number:
        there = ", ".join(map(str, sorted(by_number))) or "none"
        raise SweepError(history.name, [f"run {number}: there is no such run; those that were tried are {there}"])
    if number is not None:
        return by_number[number]
    best = history.best or (history.runs[0] if len(history.runs) == 1 else None)
    if best is None:
        why = "no run has a finite value of its objective" if history.objective else "it has no objective"
        raise SweepError(history.name, [f"{why}, so none of its {len(history.runs)} runs is best; name one by number"])
    return best


def _record(history: SweepHistory, run: RunHistory, which: str) -> Record:
    """The journal's record of the best of the saved states, or of the last."""
    if not run.checkpoints:
        raise SweepError(
            history.name,
            [
                f"run {run.number} has saved no state; launch with --checkpoint-every 1, and by hand with end_epoch(checkpoint=...)"
            ],
        )
    if which == "last":
        return run.checkpoints[-1]
    if not history.objective:
        raise SweepError(history.name, ["it has no objective, so no epoch is best; use --epoch last"])
    values = {row.epoch: row.values().get(history.objective) for row in run.rows}
    best: tuple[Record, Number] | None = None
    for record in run.checkpoints:
        value = values.get(record["epoch"])
        mode = history.mode_of(history.objective)
        if value is not None and improves(value, best[1] if best else None, mode):
            best = record, value
    if best is None:
        raise SweepError(
            history.name,
            [f"run {run.number} has no finite {history.objective} in an epoch that was saved; use --epoch last"],
        )
    return best[0]
