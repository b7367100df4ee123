"""`launch`: trains what is missing of a sweep, in this process."""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from runmanager.launching.load_sweep import find_sweep_file, load_sweep, project_of
from runmanager.launching.record import check_settings, code_has_changed, write_record
from runmanager.launching.recording import recorded
from runmanager.launching.schedule import Schedule, ScheduledRun, schedule
from runmanager.launching.sweep import Sweep, SweepError
from runmanager.space.grid import Run
from runmanager.tracking.display import make_display
from runmanager.tracking.errors import StorageError
from runmanager.tracking.history import SweepHistory, read_sweep
from runmanager.tracking.manager import RunManager
from runmanager.tracking.progress import Progress
from runmanager.tracking.results import rebuild
from runmanager.tracking.rows import COMPLETED, RUNNING
from runmanager.tracking.run_dir import SweepDir, project_root
from runmanager.training.seeding import run_seed, seeded


def launch(
    sweep: Sweep | str | Path,
    *,
    fresh: bool = False,
    dry_run: bool = False,
    only: str | int | Sequence[str | int] = (),
    limit: int | None = None,
    epochs: int | None = None,
    params: Mapping[str, Sequence[Any]] | None = None,
    tensorboard: bool = True,
    histograms_every: int = 1,
    quiet: bool = False,
) -> SweepHistory:
    """Trains the runs of a sweep that are not complete, one after another, and returns what the sweep has reached.

    Launching again trains what is missing, interrupted or failed; a grid that has grown trains the new runs alone. A run
    that fails is shown and does not stop the others.

    Args:
        sweep: a Sweep, or the path or the name of a sweep file.
        fresh: start over; what is there is kept under another name.
        dry_run: print the runs and what would be done with each, and do nothing.
        only: number (3), range (`"3-5"`) or value (`"lr=0.01"`) of the runs to look at, or several of these.
        limit: train at most so many runs.
        epochs: another number of epochs than the trainer has.
        params: other values for some of the grid's parameters.
        tensorboard: whether to write TensorBoard logs.
        histograms_every: epochs from one set of histograms to the next; 0 for none.
        quiet: show nothing.

    Raises:
        SweepError: the sweep cannot start; it lists all that is wrong, and nothing was written.
        StorageError: the sweep's folder cannot be written.
        KeyboardInterrupt: Ctrl-C; the run under way is marked interrupted.
    """
    if not isinstance(sweep, Sweep):
        sweep = load_sweep(find_sweep_file(sweep))
    sweep = sweep.changed(params or {}, epochs)
    project = project_of(sweep.file) if sweep.file else project_root()
    sweep_dir = SweepDir(project, str(sweep.name))
    there = read_sweep(sweep_dir)
    if fresh:
        _refuse_running(sweep, there)
    else:
        check_settings(sweep, sweep_dir, there)
    asked = [only] if isinstance(only, (str, int)) else only
    plan = schedule(sweep, sweep_dir, [str(one) for one in asked], limit, fresh=fresh)
    if plan.due:
        sweep.check(project)
    if dry_run:
        _print_schedule(plan)
        return there
    _prepare(sweep, sweep_dir, plan, fresh, quiet)
    manager = RunManager(
        sweep_dir.name,
        root=project,
        tensorboard=tensorboard,
        histograms_every=histograms_every,
        quiet=True,
        writers=[] if quiet else [make_display(_progress(sweep, plan))],
    )
    unrecorded = _train_due(sweep, plan, manager, project, quiet)
    history = rebuild(sweep_dir)
    history.trained, history.unrecorded = [one.number for one in plan.due], unrecorded
    _say_objective(history, quiet)
    return history


def _refuse_running(sweep: Sweep, there: SweepHistory) -> None:
    running = [run.number for run in there.runs if run.status == RUNNING]
    if running:
        fault = f"--fresh: run {running[0]} is being trained by another process; stop that first"
        raise SweepError(sweep.name, [fault])


def _prepare(sweep: Sweep, sweep_dir: SweepDir, plan: Schedule, fresh: bool, quiet: bool) -> None:
    """Makes the sweep's folder, what was there set aside where that was asked for, and says what will be done."""
    data = _data_source(sweep, plan, sweep_dir.root)
    said = []
    if fresh and sweep_dir.is_there():
        said.append(f"what was there is kept as {sweep_dir.set_aside()}")
    elif code_has_changed(sweep, sweep_dir) and sweep.file:
        said.append(f"note: {sweep.file.name} has changed since the last launch; --fresh would start over")
    sweep_dir.make()
    write_record(sweep, sweep_dir, plan, data)
    said.append(f"{sweep_dir.name}: {plan.summary()}" + (f"; data: {data}" if data else ""))
    if not quiet:
        print("\n".join(said), flush=True)


def _data_source(sweep: Sweep, plan: Schedule, project: Path) -> str | None:
    """Where the trainer's data was found, for people."""
    if sweep.trainer is None or not plan.due:
        return None
    return sweep.trainer.splits(plan.due[0].run, sweep.seed, project).source


def _train_due(sweep: Sweep, plan: Schedule, manager: RunManager, project: Path, quiet: bool) -> list[str]:
    """Trains what is due; returns what could not even be recorded as failed."""
    reads: set[str] = set()
    unrecorded: list[str] = []
    try:
        for one in plan.due:
            try:
                _train_one(sweep, one, manager, project, reads)
            except StorageError as error:
                unrecorded.append(f"run {one.number} cannot be recorded: {error}")
                print(unrecorded[-1], file=sys.stderr)
    finally:
        manager.close()
    _say_unread(sweep, reads, quiet or not plan.due)
    return unrecorded


def _progress(sweep: Sweep, plan: Schedule) -> Progress:
    epochs = sweep.trainer.given("epochs") if sweep.trainer is not None else None
    return Progress(len(plan.due), epochs if isinstance(epochs, int) else None, sweep.objective, sweep.mode)


def _train_one(sweep: Sweep, one: ScheduledRun, manager: RunManager, project: Path, reads: set[str]) -> None:
    """One run; what it raises is recorded by its manager, and ends it alone.

    Raises:
        StorageError: its folder or its journal cannot be written.
    """
    seed = run_seed(sweep.seed, one.run._asdict())
    begun = False
    try:
        with manager.tracking(one.run, number=one.number, seed=seed):
            begun = True
            if sweep.trainer is not None:
                sweep.trainer.train(one.run, manager, seed=seed, split_seed=sweep.seed, project=project)
            else:
                _call_train(sweep, recorded(one.run, reads), manager, seed)
    except StorageError:
        raise
    except Exception:
        if not begun:
            raise  # nothing has recorded it


def _call_train(sweep: Sweep, run: Run, manager: RunManager, seed: int) -> None:
    assert sweep.train is not None
    with seeded(seed):
        result = sweep.train(run, manager)
    if result is None:
        return
    if not isinstance(result, Mapping):
        raise TypeError(
            f"train returned a {type(result).__name__}; return a dict of metrics, like {{'val_loss': 0.3}}, or nothing"
        )
    manager.log(**result)


def _say_unread(sweep: Sweep, reads: set[str], quiet: bool) -> None:
    """A hand-written function tells only by running what it reads."""
    unread = [name for name in sweep.params if name not in reads | {"seed"}] if sweep.train is not None else []
    if unread and not quiet:
        print(f"note: {', '.join(unread)} is in the grid, but train() never read run.{unread[0]}")


def _say_objective(history: SweepHistory, quiet: bool) -> None:
    """A function tells only by running what it logs."""
    if history.objective and history.count(COMPLETED) and history.objective not in history.metric_names() and not quiet:
        logged = ", ".join(history.metric_names())
        print(f"note: the objective {history.objective!r} was never logged, so no run is best; logged: {logged}")


def _print_schedule(plan: Schedule) -> None:
    for one in plan.runs:
        print(f"{one.number:4}  {one.action:24}  {one.run!r}")
    print(plan.summary())
