"""The `runmanager` command."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from runmanager import __version__

if TYPE_CHECKING:
    from runmanager.tracking.history import SweepHistory

app = typer.Typer(
    name="runmanager",
    help="Hyperparameter sweeps and experiment tracking for PyTorch.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def main() -> None:
    """Runs the command. What its user can mend is one message and exit status 2; Ctrl-C is 130."""
    try:
        app()
    except KeyboardInterrupt:
        print("interrupted; the same command goes on with what is missing", file=sys.stderr)
        sys.exit(130)
    except (ValueError, OSError) as error:
        if isinstance(error, ValueError) and not type(error).__module__.startswith("runmanager."):
            raise  # a fault of ours; an OSError is the disk's, and says which file
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        sys.exit(2)


def _version(asked: bool) -> None:
    if asked:
        print(f"runmanager {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


@app.command()
def launch(
    sweep: Annotated[str, typer.Argument(help="A sweep file, like sweeps/quickstart.py, or its name.")],
    workers: Annotated[
        str, typer.Option(help="Processes that train: a number, auto for one per core or GPU, 0 for this process.")
    ] = "auto",
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Start over; what is there is kept under another name.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the runs and what would be done, and do nothing.")
    ] = False,
    only: Annotated[
        list[str] | None, typer.Option(help="Runs by number (3, 3-5) or value (lr=0.01); repeatable.")
    ] = None,
    limit: Annotated[int | None, typer.Option(help="Train at most so many runs.")] = None,
    epochs: Annotated[int | None, typer.Option(help="Train each run for so many epochs.")] = None,
    set_: Annotated[list[str] | None, typer.Option("--set", help="Other values: name=v1,v2; repeatable.")] = None,
    retry_failed: Annotated[
        bool,
        typer.Option("--retry-failed", help="Train again what failed, ran out of memory, was killed or timed out."),
    ] = False,
    retry_status: Annotated[
        list[str] | None, typer.Option(help="Train the runs with this status again, like timed-out; repeatable.")
    ] = None,
    retries: Annotated[int, typer.Option(help="Try a run that fails so many times more, at once.")] = 0,
    run_timeout: Annotated[str | None, typer.Option(help="What a run may take: 90 (seconds), 15m, 2h, 1d.")] = None,
    epoch_timeout: Annotated[str | None, typer.Option(help="What an epoch may take.")] = None,
    sweep_timeout: Annotated[
        str | None, typer.Option(help="What this launch may take; then it stops as by Ctrl-C.")
    ] = None,
    grace: Annotated[str, typer.Option(help="What a stop leaves the epochs under way.")] = "25s",
    on_error: Annotated[str, typer.Option(help="continue, stop, stop-after=N or stop-after=N-same.")] = "continue",
    stop_diverged: Annotated[
        bool, typer.Option("--stop-diverged", help="End a run at once when its loss is not finite.")
    ] = False,
    checkpoint_every: Annotated[int, typer.Option(help="Epochs between saved states; 0 for none.")] = 1,
    keep: Annotated[
        str, typer.Option(help="How many runs, the best, keep their saved states once completed; or all.")
    ] = "10",
    accept_changes: Annotated[
        bool, typer.Option("--accept-changes", help="Go on although code, data, settings or torch have changed.")
    ] = False,
    save_diff: Annotated[
        bool, typer.Option("--save-diff", help="Keep what git has not committed, without secrets, as code.diff.")
    ] = False,
    tensorboard: Annotated[bool, typer.Option("--tensorboard/--no-tensorboard", help="Write TensorBoard logs.")] = True,
    histograms_every: Annotated[int, typer.Option(help="Epochs between histograms in TensorBoard; 0 for none.")] = 1,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Show nothing while training.")] = False,
) -> None:
    """Train what is missing of a sweep, or go on with it."""
    from runmanager.launching.launch import launch as launch_sweep
    from runmanager.launching.signals import SweepStopped

    stopped_by = 0
    try:
        history = launch_sweep(
            sweep,
            workers=workers,
            fresh=fresh,
            dry_run=dry_run,
            only=only or (),
            limit=limit,
            epochs=epochs,
            params=set_ or (),
            retry_failed=retry_failed,
            retry_status=retry_status or (),
            retries=retries,
            run_timeout=run_timeout,
            epoch_timeout=epoch_timeout,
            sweep_timeout=sweep_timeout,
            grace=grace,
            on_error=on_error,
            stop_diverged=stop_diverged,
            checkpoint_every=checkpoint_every,
            keep=keep,
            accept_changes=accept_changes,
            save_diff=save_diff,
            tensorboard=tensorboard,
            histograms_every=histograms_every,
            quiet=quiet,
        )
    except SweepStopped as stopped:
        history, stopped_by = stopped.history, stopped.number
    if not dry_run:
        _show_end(history, quiet=quiet)
    raise typer.Exit(128 + stopped_by if stopped_by else _exit_status(history))


def _show_end(history: "SweepHistory", *, quiet: bool) -> None:
    from runmanager.reporting.failures import print_errors
    from runmanager.reporting.tables import print_results

    if quiet:
        print_errors(history, [run for run in history.runs if run.number in set(history.trained)])
        return
    print_results(history)
    name = history.name
    print(f"\nmore: runmanager results {name} · runmanager board {name} · results/{name}.csv")


def _exit_status(history: "SweepHistory") -> int:
    """1 when a run of this launch failed, 124 when it ran out of time."""
    from runmanager.tracking.rows import FAILURES

    trained = set(history.trained)
    if history.unrecorded or any(run.number in trained and run.status in FAILURES for run in history.runs):
        return 1
    return 124 if history.stopped and "--sweep-timeout" in history.stopped else 0


@app.command()
def results(
    sweep: Annotated[str, typer.Argument(help="The sweep's name.")],
    sort: Annotated[str | None, typer.Option(help="A metric: best first. By default the sweep's objective.")] = None,
    top: Annotated[int | None, typer.Option(help="So many runs.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON, with everything.")] = False,
) -> None:
    """Show what the runs of a sweep have reached."""
    from runmanager.tracking.history import read_sweep
    from runmanager.tracking.run_dir import find_sweep

    history = read_sweep(find_sweep(sweep))
    from runmanager.reporting.tables import print_results, results_json

    if as_json:
        print(results_json(history, sort, top))
    else:
        print_results(history, sort, top)


@app.command()
def status(sweep: Annotated[str | None, typer.Argument(help="One sweep; by default all.")] = None) -> None:
    """Show which runs are completed, under way, interrupted or failed, and why."""
    from runmanager.reporting.status import print_status
    from runmanager.tracking.errors import SweepNameError
    from runmanager.tracking.history import read_sweep
    from runmanager.tracking.run_dir import find_sweep, project_root, sweep_names

    names = [sweep] if sweep else sweep_names(project_root())
    histories = []
    for name in names:
        try:
            histories.append(read_sweep(find_sweep(name)))
        except SweepNameError as error:  # one bad link hides no sweep
            print(error, file=sys.stderr)
    if histories:
        print_status(histories)
    else:
        print("no sweep yet; launch one with: runmanager launch sweeps/quickstart.py")


@app.command()
def doctor(
    repair: Annotated[
        bool,
        typer.Option("--repair", help="Mend what a crash has left, and make the tables again from the run folders."),
    ] = False,
    fault_selftest: Annotated[
        bool, typer.Option("--fault-selftest", help="Kill a toy sweep on the project's disk, and look what is left.")
    ] = False,
) -> None:
    """Check this machine and the project: libraries, devices, disk, locks, journals, tables."""
    from runmanager.reporting.doctor import run_doctor
    from runmanager.tracking.run_dir import project_root

    raise typer.Exit(run_doctor(project_root(), repair=repair, fault_selftest=fault_selftest))


@app.command()
def board(
    sweep: Annotated[str | None, typer.Argument(help="One sweep; by default all.")] = None,
    port: Annotated[int | None, typer.Option(help="The port; by default 6006, or the next that is free.")] = None,
) -> None:
    """Start TensorBoard on the runs, for this machine alone."""
    from runmanager.reporting.board import run_board
    from runmanager.tracking.run_dir import find_sweep, project_root

    root = project_root()
    log_dir = find_sweep(sweep, root).path if sweep else root / "runs"
    raise typer.Exit(run_board(log_dir, sweep or root.name, port))


@app.command()
def init(folder: Annotated[Path, typer.Argument(help="Where; it is made if need be.")]) -> None:
    """Lay out a new project that runs."""
    from runmanager.launching.template import lay_out

    for path in lay_out(folder):
        print(path)
    print(f"\nnext: cd {folder} && runmanager launch sweeps/quickstart.py")
