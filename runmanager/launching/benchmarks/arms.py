"""The sides of a comparison: a launch, and the classroom's loop on the same sweep. Each has a process and a project of its own."""

import csv
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from runmanager.launching.benchmarks.processes import ArmError, output_of, run
from runmanager.launching.benchmarks.projects import NAME, SweepFile, Workplace
from runmanager.tracking.history import RunHistory, read_sweep
from runmanager.tracking.rows import COMPLETED
from runmanager.tracking.run_dir import SweepDir

Losses = list[list[float]]
"""By run and epoch."""


@dataclass(frozen=True)
class Done:
    """What one side took, in seconds, and what it reached."""

    whole: float  # the command, from its start to its end
    training: float  # from the begin of the first run to the end of the last
    run: float  # the longest run; of a sweep of one run that is the run
    losses: Losses
    val_losses: Losses
    lead: float = 0.0  # from the command's start to the begin of the first run; imports, checks, choosing how to train
    group_size: int = 1  # of the largest group


def launched(
    place: Workplace,
    sweep: SweepFile,
    *,
    workers: int | str = 1,
    fuse: int | str | None = None,
    bare: bool = False,
    one_core: bool = False,
) -> Done:
    """`runmanager launch` of a sweep.

    Args:
        place: where the project is made.
        sweep: what is trained.
        workers: processes that train.
        fuse: 'auto', 'off', or how many runs are trained in one step; None for what a launch does when nobody says.
        bare: without TensorBoard and saved states, for what the steps take.
        one_core: with one core and one thread alone.

    Raises:
        ArmError: it failed, or a run of it did.
    """
    with place.project(sweep) as project:
        started = time.time()
        whole = run(launch_words(workers, fuse, bare=bare), project, one_core=one_core)
        sweep_dir = SweepDir(project, NAME)
        runs = read_sweep(sweep_dir).runs
        _check(runs, project)
        began = min(one.began or 0.0 for one in runs)
        ended = max(run_dir.journal_time() for run_dir in sweep_dir.runs()) / 1e9
        return Done(
            whole,
            ended - began,
            max(one.run_seconds or 0.0 for one in runs),
            [[row.loss or 0.0 for row in one.rows] for one in runs],
            [[float(row.metrics.get("val_loss", 0.0)) for row in one.rows] for one in runs],
            began - started,
            max(row.group_size for one in runs for row in one.rows),
        )


def launch_words(workers: int | str, fuse: int | str | None, *, bare: bool) -> list[str]:
    """The command that launches."""
    words = ["launch", f"sweeps/{NAME}.py", "--quiet", "--workers", str(workers)]
    if fuse is not None:
        words += ["--fuse", str(fuse)]
    if bare:
        words += ["--no-tensorboard", "--checkpoint-every", "0"]
    return [sys.executable, "-m", "runmanager", *words]


def _check(runs: Sequence[RunHistory], project: Path) -> None:
    """A run that did not complete makes the launch worth nothing here."""
    bad = [one for one in runs if one.status != COMPLETED or not one.rows]
    if bad or not runs:
        text = f"run {bad[0].number} is {bad[0].status}: {bad[0].error}" if bad else "there are no runs"
        raise ArmError(f"{text}\n{output_of(project)}")


def looped(
    place: Workplace, sweep: SweepFile, *, bare: bool = False, one_core: bool = False, one_thread: bool = False
) -> Done:
    """The classroom's loop on the same sweep, in one process.

    Raises:
        ArmError: it failed.
    """
    words = [sys.executable, "-m", "runmanager.launching.classroom", f"sweeps/{NAME}.py", *(["--bare"] if bare else [])]
    with place.project(sweep) as project:
        whole = run(words, project, one_core=one_core, one_thread=one_thread)
        with (project / "results" / "classroom.csv").open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
    ends: dict[str, float] = {}
    losses: dict[str, list[float]] = {}
    val_losses: dict[str, list[float]] = {}
    for row in rows:
        ends[row["run"]] = float(row["run duration"])
        losses.setdefault(row["run"], []).append(float(row["loss"]))
        val_losses.setdefault(row["run"], []).append(float(row["val_loss"]))
    return Done(whole, sum(ends.values()), max(ends.values()), [*losses.values()], [*val_losses.values()])


def largest_difference(ours: Losses, others: Losses) -> float:
    """Of two sets of losses."""
    pairs = [
        (mine, other) for run_pair in zip(ours, others, strict=True) for mine, other in zip(*run_pair, strict=True)
    ]
    return max(abs(mine - other) for mine, other in pairs)
