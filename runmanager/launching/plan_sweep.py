"""`runmanager plan`: what training a sweep will take and what will go wrong in it, before anything is trained."""

import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from runmanager.launching.benchmarks.processes import Interrupted, interruptible
from runmanager.launching.description import Changes, Description, describe
from runmanager.launching.fusion import fuse_fault, parse_fuse
from runmanager.launching.load_sweep import find_sweep_file, load_sweep
from runmanager.launching.outlook import Outlook
from runmanager.launching.plan_text import plan_lines
from runmanager.launching.pool import WorkerDied
from runmanager.launching.processes import Processes
from runmanager.launching.schedule import Schedule, schedule
from runmanager.launching.slots import parse_workers
from runmanager.launching.sweep import SweepError
from runmanager.launching.train_options import TrainOptions
from runmanager.parameters import params_text
from runmanager.tracking.progress import say
from runmanager.tracking.run_dir import SweepDir

REHEARSAL = "rehearsal"
"""The name of the sweep that rehearsals leave, in a folder of their own."""

_NUM_KEPT = 10  # runs that keep their saved states, unless a launch is told otherwise

Json = dict[str, Any]


class _Ask(Protocol):
    def __call__(self, numbers: dict[int, int], known: Json, folder: Path) -> Json:
        """What training runs would take; see `Processes.forecast`."""


class _AskTogether(Protocol):
    def __call__(self, index: int, folder: Path, num_workers: int) -> float:
        """What a step takes while all workers take steps; see `Processes.pace_together`."""


class _Place(NamedTuple):
    """Where the runs would be trained."""

    sweep: Description
    num_workers: int
    fuse: str | int
    ask: _Ask
    ask_together: _AskTogether | None
    seconds: float  # until the sweep was read there


def plan(
    sweep: str | Path,
    *,
    workers: int | str = "auto",
    fuse: str | int = "auto",
    only: Sequence[str] = (),
    limit: int | None = None,
    epochs: int | None = None,
    params: Sequence[str] = (),
) -> int:
    """Prints what a launch with these options would take; returns 1 where a run of it would fail, else 0.

    Nothing is trained, and nothing is written into the project.

    Args:
        sweep: the path or the name of a sweep file.
        workers: how many processes would train; 'auto' for one per core or per GPU, 0 for this process.
        fuse: see `launch`; so for all that follow.
        only: which runs.
        limit: at most how many.
        epochs: another number of epochs.
        params: other values for parameters, like `lr=0.1,0.2`.

    Raises:
        SweepError: the sweep cannot start; it lists all that is wrong.
    """
    fault = fuse_fault(fuse)
    if fault:
        raise SweepError(str(sweep), [fault])
    options = TrainOptions(fuse=parse_fuse(fuse))
    try:
        with interruptible():
            return _plan(
                find_sweep_file(sweep), Changes({}, params, epochs), parse_workers(workers), options, only, limit
            )
    except Interrupted as stopped:
        say(f"stopped ({stopped}); nothing was trained", to_stderr=True)
        return 128 + stopped.number


def _plan(
    file: Path, changes: Changes, workers: int | None, options: TrainOptions, only: Sequence[str], limit: int | None
) -> int:
    with _place(file, changes, workers, options) as place:
        sweep_dir = SweepDir(place.sweep.project, place.sweep.name)
        runs = schedule(place.sweep, sweep_dir, only, limit)
        say(f"{place.sweep.name}: {runs.summary()}")
        if not runs.due:
            say("nothing to train")
            return 0
        if not place.sweep.has_trainer:
            return _list_runs(runs)
        return _look_ahead(place, runs, sweep_dir)


@contextmanager
def _place(file: Path, changes: Changes, workers: int | None, options: TrainOptions) -> Iterator[_Place]:
    began = time.perf_counter()
    if workers == 0:
        yield _here(file, changes, options, began)
        return
    way = Processes(file, changes, workers, options)
    try:
        yield _Place(
            way.description, way.num_workers, options.fuse, way.forecast, way.pace_together, time.perf_counter() - began
        )
    finally:
        way.close(at_once=True)


def _here(file: Path, changes: Changes, options: TrainOptions, began: float) -> _Place:
    sweep = changes.apply(load_sweep(file))
    description = describe(sweep)

    def ask(numbers: dict[int, int], known: Json, folder: Path) -> Json:
        from runmanager.launching.forecast import Forecast

        return Forecast(sweep, description.project, folder, numbers, options).look(1, known)

    return _Place(description, 1, options.fuse, ask, None, time.perf_counter() - began)


def _list_runs(runs: Schedule) -> int:
    for one in runs.due:
        say(f"{one.number:4}  {one.action:24}  {one.run!r}")
    say("they are trained by a function of your own: only running it tells what it takes, and what goes wrong")
    return 0


def _look_ahead(place: _Place, runs: Schedule, sweep_dir: SweepDir) -> int:
    known = sweep_dir.read_plan().get("fusion")
    numbers = {one.index: one.number for one in runs.due}
    with tempfile.TemporaryDirectory(prefix="runmanager-plan-") as folder:
        try:
            answer = place.ask(numbers, known if isinstance(known, dict) else {}, Path(folder))
        except WorkerDied as died:
            return _say_death(runs, Path(folder), died)
        answer["seconds"]["read"] = place.seconds
        outlook = Outlook(place.sweep, runs, answer, place.num_workers, _NUM_KEPT, place.fuse)
        _look_together(place, outlook, Path(folder))
        is_elsewhere = Path(folder).stat().st_dev != place.sweep.project.stat().st_dev
    for line in plan_lines(outlook, len(numbers), place.sweep.project):
        say(line)
    if place.sweep.devices_per_run > 1:
        say("note: all was measured in one process, also what takes several when it is trained (devices)")
    if is_elsewhere:
        say(f"note: tracking was measured in {tempfile.gettempdir()}, which is on another disk than the project")
    return 1 if outlook.failures else 0


def _say_death(runs: Schedule, folder: Path, died: WorkerDied) -> int:
    """The run that was being rehearsed has left its folder."""
    numbers = {run_dir.number for run_dir in SweepDir(folder, REHEARSAL).runs()}
    guilty = [f"run {one.number} ({params_text(one.run._asdict())})" for one in runs.due if one.number in numbers]
    say(
        f"errors: {', '.join(guilty) or 'looking at the runs'} would end its process: {died}; its last output:\n{died.output}"
    )
    return 1


def _look_together(place: _Place, outlook: Outlook, folder: Path) -> None:
    """Finds out how much slower steps are when every worker takes them: they share caches and memory, or a GPU."""
    longest = outlook.longest()
    if outlook.num_workers < 2 or place.ask_together is None or longest is None or longest.costs is None:
        return
    together = place.ask_together(longest.runs[0].index, folder, outlook.num_workers)
    outlook.slowdown = max(1.0, together / longest.costs["step_seconds"])
