"""The `runmanager` command."""

import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from runmanager import __version__

if TYPE_CHECKING:
    from runmanager.tracking.history import SweepHistory


def main() -> None:
    """Runs the command. What its user can mend is one message and exit status 2; Ctrl-C is 130."""
    try:
        status = app.main(prog_name="runmanager", standalone_mode=False)
    except (KeyboardInterrupt, click.Abort):
        print("interrupted; the same command goes on with what is missing", file=sys.stderr)
        status = 130
    except click.ClickException as error:
        error.show()
        status = error.exit_code
    except BrokenPipeError:  # whoever read the output has seen enough
        status = 1
    except (ValueError, OSError) as error:
        if isinstance(error, ValueError) and not type(error).__module__.startswith("runmanager."):
            raise  # a fault of ours; an OSError is the disk's, and says which file
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        status = 2
    _flush()
    sys.exit(status)


def _flush() -> None:
    """Where nobody reads the output any more, what is left of it goes nowhere, and does not change the exit status."""
    for stream, descriptor in ((sys.stdout, 1), (sys.stderr, 2)):
        try:
            stream.flush()
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), descriptor)


class _InOrder(click.Group):
    """Lists its commands in the order in which they are used."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)


@click.group(cls=_InOrder, context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.version_option(__version__, message="%(prog)s %(version)s")
def app() -> None:
    """Hyperparameter sweeps and experiment tracking for PyTorch."""


_WORKERS = click.option(
    "--workers",
    default="auto",
    metavar="N",
    help="Processes that train: a number, auto for one per core or GPU, 0 for this process.",
)
_ONLY = click.option(
    "--only", multiple=True, metavar="RUNS", help="Runs by number (3, 3-5) or value (lr=0.01); repeatable."
)
_LIMIT = click.option("--limit", type=int, metavar="N", help="Train at most so many runs.")
_EPOCHS = click.option("--epochs", type=int, metavar="N", help="Train each run for so many epochs.")
_SET = click.option(
    "--set", "params", multiple=True, metavar="NAME=V1,V2", help="Other values for a parameter; repeatable."
)
_FUSE = click.option(
    "--fuse", default="auto", metavar="HOW", help="Train like runs in one step: auto (where faster), off, or how many."
)


@app.command()
@click.argument("sweep")
@_WORKERS
@click.option("--fresh", is_flag=True, help="Start over; what is there is kept under another name.")
@click.option("--dry-run", is_flag=True, help="Print the runs and what would be done, and do nothing.")
@_ONLY
@_LIMIT
@_EPOCHS
@_SET
@click.option(
    "--retry-failed", is_flag=True, help="Train again what failed, ran out of memory, was killed or timed out."
)
@click.option(
    "--retry-status",
    multiple=True,
    metavar="STATUS",
    help="Train the runs with this status again, like timed-out; repeatable.",
)
@click.option("--retries", type=int, default=0, metavar="N", help="Try a run that fails so many times more, at once.")
@click.option("--run-timeout", metavar="TIME", help="What a run may take: 90 (seconds), 15m, 2h, 1d.")
@click.option("--epoch-timeout", metavar="TIME", help="What an epoch may take.")
@click.option("--sweep-timeout", metavar="TIME", help="What this launch may take; then it stops as by Ctrl-C.")
@click.option("--grace", default="25s", metavar="TIME", help="What a stop leaves the epochs under way.")
@click.option(
    "--on-error", default="continue", metavar="HOW", help="continue, stop, stop-after=N or stop-after=N-same."
)
@click.option("--stop-diverged", is_flag=True, help="End a run at once when its loss is not finite.")
@click.option("--checkpoint-every", type=int, default=1, metavar="N", help="Epochs between saved states; 0 for none.")
@click.option(
    "--keep", default="10", metavar="N", help="How many runs, the best, keep their saved states once completed; or all."
)
@click.option("--accept-changes", is_flag=True, help="Go on although code, data, settings or torch have changed.")
@click.option("--save-diff", is_flag=True, help="Keep what git has not committed, without secrets, as code.diff.")
@click.option("--tensorboard/--no-tensorboard", default=True, help="Write TensorBoard logs.")
@click.option(
    "--histograms-every", type=int, default=1, metavar="N", help="Epochs between histograms in TensorBoard; 0 for none."
)
@click.option("--keep-memory/--no-keep-memory", default=True, help="Workers keep freed memory for their next step.")
@_FUSE
@click.option("--quiet", "-q", is_flag=True, help="Show nothing while training.")
def launch(sweep: str, dry_run: bool, quiet: bool, **options: Any) -> int:
    """Train what is missing of a sweep, or go on with it.

    SWEEP is a sweep file, like sweeps/quickstart.py, or its name.
    """
    from runmanager.launching.launch import launch as launch_sweep
    from runmanager.launching.signals import SweepStopped

    stopped_by = 0
    try:
        history = launch_sweep(sweep, dry_run=dry_run, quiet=quiet, **options)
    except SweepStopped as stopped:
        history, stopped_by = stopped.history, stopped.number
    if dry_run:
        return 0
    with suppress(OSError, SystemExit):  # nobody reads it any more, for which rich leaves the program
        _show_end(history, quiet=quiet)
    return 128 + stopped_by if stopped_by else _exit_status(history)


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
    """1 when a run of this launch did not end by itself, 124 when it was the launch's time that was over."""
    from runmanager.tracking.rows import DONE, FAILURES

    trained = set(history.trained)
    ends = {run.status for run in history.runs if run.number in trained}
    if history.unrecorded or ends & set(FAILURES):
        return 1
    if history.stopped and "--sweep-timeout" in history.stopped:
        return 124
    return 1 if ends - set(DONE) else 0


@app.command()
@click.argument("sweep")
@_WORKERS
@_ONLY
@_LIMIT
@_EPOCHS
@_SET
@_FUSE
def plan(sweep: str, **options: Any) -> int:
    """Tell what a launch would take: which runs fuse, time, memory, disk, and the errors that would come.

    Nothing is trained or written: runs are built, and some rehearsed with a few samples. The exit status is 1 where one fails.
    """
    from runmanager.launching.plan_sweep import plan as plan_sweep

    return plan_sweep(sweep, **options)


@app.command()
@click.argument("sweep")
@click.option("--sort", metavar="METRIC", help="Best first by this metric; by default by the sweep's objective.")
@click.option("--top", type=int, metavar="N", help="So many runs.")
@click.option("--json", "as_json", is_flag=True, help="As JSON, with everything.")
def results(sweep: str, sort: str | None, top: int | None, as_json: bool) -> None:
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
@click.argument("sweep", required=False)
def status(sweep: str | None) -> None:
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
@click.option(
    "--repair", is_flag=True, help="Mend what a crash has left, and make the tables again from the run folders."
)
@click.option("--fault-selftest", is_flag=True, help="Kill a toy sweep on the project's disk, and look what is left.")
def doctor(repair: bool, fault_selftest: bool) -> int:
    """Check this machine and the project: libraries, devices, disk, locks, journals, tables."""
    from runmanager.reporting.doctor import run_doctor
    from runmanager.tracking.run_dir import project_root

    return run_doctor(project_root(), repair=repair, fault_selftest=fault_selftest)


@app.command()
@click.argument("sweep", required=False)
@click.option("--port", type=int, metavar="N", help="The port; by default 6006, or the next that is free.")
def board(sweep: str | None, port: int | None) -> int:
    """Start TensorBoard on the runs, of one sweep or of all, for this machine alone."""
    from runmanager.reporting.board import run_board
    from runmanager.tracking.run_dir import find_sweep, project_root

    root = project_root()
    log_dir = find_sweep(sweep, root).path if sweep else root / "runs"
    return run_board(log_dir, sweep or root.name, port)


_ONE = click.option("--only", metavar="RUN", help="A run by number (3) or value (lr=0.01); by default the first.")
_EPOCH = click.option(
    "--epoch",
    type=click.Choice(["best", "last"]),
    help="Which saved state; by default the best, if there is an objective.",
)


@app.command()
@click.argument("sweep")
@_ONE
def summary(sweep: str, only: str | None) -> None:
    """Show the layers of a run's network: what comes out of each, and its parameters."""
    from runmanager.launching.inspect_sweep import summary as show_summary

    show_summary(sweep, only=only)


@app.command("lr-range")
@click.argument("sweep")
@_ONE
@click.option("--from", "low", type=float, default=1e-7, metavar="RATE", help="The first learning rate.")
@click.option("--to", "high", type=float, default=1.0, metavar="RATE", help="The last one.")
@click.option("--steps", type=int, default=100, metavar="N", help="How many steps are taken.")
def lr_range(sweep: str, only: str | None, low: float, high: float, steps: int) -> None:
    """Find a learning rate: train a run with one that rises at each step, and see where its loss falls fastest."""
    from runmanager.launching.inspect_sweep import lr_range as test_range

    test_range(sweep, only=only, low=low, high=high, steps=steps)


@app.command("export-model")
@click.argument("sweep")
@click.argument("run", type=int, required=False)
@_EPOCH
@click.option("-o", "--output", metavar="FILE", help="FILE.pt and FILE.pt2; by default in results/.")
def export_model(sweep: str, run: int | None, epoch: str | None, output: str | None) -> int:
    """Write a trained network as a state dict (.pt) and as a program of torch.export (.pt2): the best, or that of RUN."""
    from runmanager.launching.export_sweep import export_model as export

    return export(sweep, run, epoch=epoch, output=output)


@app.command()
@click.argument("sweep")
@click.argument("run", type=int, required=False)
@click.option(
    "--layer", metavar="NAME", help="A layer's name, as `runmanager summary` shows it; without it they are listed."
)
@click.option("--split", type=click.Choice(["validation", "train"]), default="validation", help="Of which samples.")
@_EPOCH
@click.option("-o", "--output", metavar="FILE", help="The .npz file; by default in results/.")
def features(sweep: str, run: int | None, **options: Any) -> None:
    """Write what a layer of a trained network makes of each sample (.npz)."""
    from runmanager.launching.export_sweep import features as write

    write(sweep, run, **options)


@app.command("idx-export")
@click.argument("images", type=click.Path(path_type=Path))
@click.argument("labels", type=click.Path(path_type=Path))
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--classes", metavar="A,B,...", help="Names of the classes, by label; by default the labels themselves.")
def idx_export(images: Path, labels: Path, folder: Path, classes: str | None) -> None:
    """Write the pictures of MNIST-style idx files into FOLDER, one folder for each class."""
    from runmanager.data.idx import export_images

    names = None if classes is None else classes.split(",")
    number = export_images(images, labels, folder, names)
    print(f"{folder}: {number:,} picture{'s' if number != 1 else ''}")


@app.command("idx-pack")
@click.argument("folder", type=click.Path(path_type=Path))
@click.argument("images", type=click.Path(path_type=Path))
@click.argument("labels", type=click.Path(path_type=Path))
def idx_pack(folder: Path, images: Path, labels: Path) -> None:
    """Pack the pictures of FOLDER, one folder for each class, into MNIST-style idx files."""
    from runmanager.data.idx import pack_images

    classes = pack_images(folder, images, labels)
    print(f"{images}, {labels}: {len(classes)} class{'es' if len(classes) != 1 else ''}: {', '.join(classes)}")


@app.command("verify-fusion")
@click.argument("sweep")
@click.option("--steps", type=int, default=10, metavar="N", help="How many steps are compared.")
@click.option("--runs", type=int, default=8, metavar="K", help="How many runs are trained together.")
def verify_fusion(sweep: str, steps: int, runs: int) -> int:
    """Train like runs together and alone for some steps, and print the largest differences."""
    from runmanager.launching.verify_fusion import verify_fusion as verify

    return 0 if verify(sweep, num_steps=steps, size=runs) else 1


@app.command()
@click.option("--quick", is_flag=True, help="Small data and few rounds, to see that everything works.")
@click.option("--rounds", type=int, metavar="N", help="How often each side is measured; by default 5, quick 2.")
@click.option("--only", multiple=True, metavar="ROW", help="A row by name, like grid or digits-128; repeatable.")
@click.option("--json", "as_json", is_flag=True, help="As JSON, one object a line.")
def bench(quick: bool, rounds: int | None, only: tuple[str, ...], as_json: bool) -> int:
    """Measure on this machine what launching, fusing and tracking bring, against a plain loop."""
    from runmanager.launching.bench import bench as run_bench

    return run_bench(quick=quick, rounds=rounds, only=only, as_json=as_json)


@app.command()
@click.argument("folder", type=click.Path(path_type=Path))
def init(folder: Path) -> None:
    """Lay out a new project that runs, in FOLDER."""
    from runmanager.launching.template import lay_out

    for path in lay_out(folder):
        print(path)
    print(f"\nnext: cd {folder} && runmanager launch sweeps/quickstart.py")
