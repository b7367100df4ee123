"""The `runmanager` command."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from runmanager import __version__

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
    tensorboard: Annotated[bool, typer.Option("--tensorboard/--no-tensorboard", help="Write TensorBoard logs.")] = True,
    histograms_every: Annotated[int, typer.Option(help="Epochs between histograms in TensorBoard; 0 for none.")] = 1,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Show nothing while training.")] = False,
) -> None:
    """Train what is missing of a sweep."""
    from runmanager.launching.launch import launch as launch_sweep
    from runmanager.launching.load_sweep import find_sweep_file, load_sweep
    from runmanager.launching.schedule import parse_set
    from runmanager.reporting.tables import print_errors, print_results
    from runmanager.tracking.rows import FAILED

    loaded = load_sweep(find_sweep_file(sweep))
    history = launch_sweep(
        loaded,
        fresh=fresh,
        dry_run=dry_run,
        only=only or (),
        limit=limit,
        epochs=epochs,
        params=parse_set(set_ or (), loaded.params),
        tensorboard=tensorboard,
        histograms_every=histograms_every,
        quiet=quiet,
    )
    if dry_run:
        return
    if not quiet:
        print_results(history)
        print(
            f"\nmore: runmanager results {history.name} · runmanager board {history.name} · results/{history.name}.csv"
        )
    else:
        print_errors([run for run in history.runs if run.number in history.trained])
    failed = {run.number for run in history.runs if run.status == FAILED}
    if failed & set(history.trained) or history.unrecorded:
        raise typer.Exit(1)


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
    """Show which runs are completed, running, interrupted or failed."""
    from runmanager.reporting.tables import print_status
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
