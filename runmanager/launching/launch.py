"""`launch`: trains what is missing of a sweep, in this process."""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from runmanager.launching.load_sweep import find_sweep_file, load_sweep, project_of
from runmanager.launching.recording import recorded
from runmanager.launching.schedule import Schedule, ScheduledRun, schedule
from runmanager.launching.sweep import Sweep, SweepError
from runmanager.parameters import encode
from runmanager.space.grid import Run
from runmanager.tracking.display import make_display
from runmanager.tracking.history import SweepHistory, is_complete, read_sweep
from runmanager.tracking.manager import RunManager
from runmanager.tracking.plan import describe
from runmanager.tracking.progress import Progress
from runmanager.tracking.results import rebuild
from runmanager.tracking.rows import RUNNING
from runmanager.tracking.run_dir import SweepDir, project_root
from runmanager.training.seeding import run_seed, seeded


def launch(
    sweep: Sweep | str | Path,
    *,
    fresh: bool = False,
    dry_run: bool = False,
    only: Sequence[str] = (),
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
        only: numbers (`"3"`, `"3-5"`) or values (`"lr=0.01"`) of the runs to look at.
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
    if fresh:
        _refuse_running(sweep, sweep_dir)
    plan = schedule(sweep, sweep_dir, only, limit, fresh=fresh)
    if plan.due:
        sweep.check(project)
    if not fresh:
        _check_settings(sweep, sweep_dir, plan)
    if dry_run:
        _print_schedule(plan)
        return read_sweep(sweep_dir)
    if fresh and sweep_dir.path.is_dir():
        old = sweep_dir.set_aside()
        if not quiet:
            print(f"what was there is kept as {old}")
    return _train_all(sweep, sweep_dir, plan, quiet, tensorboard, histograms_every)


def _refuse_running(sweep: Sweep, sweep_dir: SweepDir) -> None:
    running = [run.number for run in read_sweep(sweep_dir).runs if run.status == RUNNING]
    if running:
        raise SweepError(
            sweep.name, [f"--fresh: run {running[0]} is being trained by another process; stop that first"]
        )


def _settings(sweep: Sweep) -> dict[str, Any]:
    """What beside the parameters decides what a run reaches."""
    settings: dict[str, Any] = {"seed": sweep.seed}
    if sweep.trainer is not None and isinstance(epochs := sweep.trainer.given("epochs"), int):
        settings["epochs"] = epochs
    return settings


def _check_settings(sweep: Sweep, sweep_dir: SweepDir, plan: Schedule) -> None:
    """Refuses to put runs beside complete ones that were trained in another way.

    Raises:
        SweepError: it names the setting, and both ways out.
    """
    num_complete = sum(is_complete(run.history) for run in plan.runs)
    before = sweep_dir.read_plan().get("settings", {})
    faults = [
        f"{name}={value!r}, but {num_complete} completed runs of runs/{sweep_dir.name} were trained with {name}={before[name]!r}; "
        f"go on with that, or add --fresh to start over beside them"
        for name, value in _settings(sweep).items()
        if num_complete and name in before and before[name] != value
    ]
    if faults:
        raise SweepError(sweep.name, faults)


def _train_all(
    sweep: Sweep, sweep_dir: SweepDir, plan: Schedule, quiet: bool, tensorboard: bool, histograms_every: int
) -> SweepHistory:
    sweep_dir.make()
    about = _describe(sweep, sweep_dir, plan)
    sweep_dir.write_plan(about)
    if not quiet:
        print(f"{sweep_dir.name}: {plan.summary()}" + (f"; data: {about['data']}" if about["data"] else ""), flush=True)
    if plan.due:
        manager = RunManager(
            sweep_dir.name,
            root=sweep_dir.root,
            tensorboard=tensorboard,
            histograms_every=histograms_every,
            quiet=True,
            writers=[] if quiet else [make_display(_progress(sweep, plan))],
        )
        reads: set[str] = set()
        try:
            for one in plan.due:
                _train_one(sweep, one, manager, sweep_dir.root, reads)
        finally:
            manager.close()
        _say_unread(sweep, reads, quiet)
    return rebuild(sweep_dir)


def _progress(sweep: Sweep, plan: Schedule) -> Progress:
    epochs = sweep.trainer.given("epochs") if sweep.trainer is not None else None
    return Progress(len(plan.due), epochs if isinstance(epochs, int) else None, sweep.objective, sweep.mode)


def _train_one(sweep: Sweep, one: ScheduledRun, manager: RunManager, project: Path, reads: set[str]) -> None:
    """One run; what it raises is recorded by its manager, and ends it alone."""
    seed = run_seed(sweep.seed, one.run._asdict())
    try:
        with manager.tracking(one.run, number=one.number, seed=seed):
            if sweep.trainer is not None:
                sweep.trainer.train(one.run, manager, seed=seed, split_seed=sweep.seed, project=project)
            else:
                _call_train(sweep, recorded(one.run, reads), manager, seed)
    except Exception:  # noqa: BLE001 (the run is marked failed with its traceback; the next one is none the worse)
        return


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


def _describe(sweep: Sweep, sweep_dir: SweepDir, plan: Schedule) -> dict[str, Any]:
    before = sweep_dir.read_plan()
    about = describe(
        sweep_dir,
        objective=sweep.objective,
        mode=sweep.mode,
        grid={name: [encode(value) for value in values] for name, values in sweep.params.items()},
        settings=_settings(sweep),
        data=_data_source(sweep, sweep_dir.root) if plan.due else before.get("data"),
        code=_code(sweep),
        numbers=plan.numbers,
    )
    return {**about, "created": before.get("created", about["created"])}


def _data_source(sweep: Sweep, project: Path) -> str | None:
    """Where the trainer's data was found, for people."""
    if sweep.trainer is None:
        return None
    return sweep.trainer.splits(sweep.runs()[0], sweep.seed, project).source


def _code(sweep: Sweep) -> dict[str, str]:
    """The sweep file, and a digest of what it said."""
    if sweep.file is None or not sweep.file.is_file():
        return {}
    return {"file": sweep.file.name, "sha256": hashlib.sha256(sweep.file.read_bytes()).hexdigest()}


def _say_unread(sweep: Sweep, reads: set[str], quiet: bool) -> None:
    """A hand-written function tells only by running what it reads."""
    unread = [name for name in sweep.params if name not in reads | {"seed"}] if sweep.train is not None else []
    if unread and not quiet:
        print(f"note: {', '.join(unread)} is in the grid, but train() never read run.{unread[0]}")


def _print_schedule(plan: Schedule) -> None:
    for one in plan.runs:
        print(f"{one.number:4}  {one.action:24}  {one.run!r}")
    print(plan.summary())
