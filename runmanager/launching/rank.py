"""The other processes of a run that has several: workers that are started for the run and are gone after it."""

import os
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runmanager.launching.allocator import keep_memory
from runmanager.launching.description import Changes, load_changed
from runmanager.launching.load_sweep import project_of
from runmanager.launching.pool import CallFailed, WorkerDied, WorkerPool
from runmanager.launching.slots import Slot
from runmanager.launching.sweep import Sweep, SweepError
from runmanager.launching.train_options import TrainOptions
from runmanager.parameters import identity
from runmanager.space.grid import Run

if TYPE_CHECKING:
    from runmanager.training.distributed_team import Fault, Meeting, StartRanks

_NUM_LINES = 5  # of what a dead one has printed


class Ranks:
    """Starts ranks 1, 2, ... of a sweep's runs, each a worker that loads the sweep file by itself."""

    def __init__(self, file: Path | None, changes: Changes, options: TrainOptions) -> None:
        """Starts nothing yet.

        Args:
            file: the sweep's; None where it was made elsewhere, in a notebook say.
            changes: what this launch changes of it.
            options: what runs are trained with.
        """
        self._file, self._changes, self._options = file, changes, options

    def of(self, run: Run, seed: int) -> "StartRanks":
        """What starts the ranks of a run with this seed. See `StartRanks`."""
        return lambda meeting: self._started(run, seed, meeting)

    @contextmanager
    def _started(self, run: Run, seed: int, meeting: "Meeting") -> "Iterator[Fault]":
        if self._file is None or not self._file.is_file():
            raise SweepError(None, [f"devices={meeting.size}: {NO_FILE}"])
        pool = WorkerPool(_slots(meeting), Path.cwd())
        told = (str(self._file), self._changes.to_json(), self._options._asdict(), identity(run._asdict()), seed)
        try:
            calls = {
                rank: pool.submit("runmanager.launching.rank:follow_run", *told, meeting._asdict(), rank)
                for rank in range(1, meeting.size)
            }
            yield lambda seconds: fault_of(calls, meeting.size, seconds)
        finally:
            pool.terminate()


NO_FILE = "the other processes of the run read the sweep from its file, and it has none; write it in sweeps/"
"""Why a sweep that was made in a notebook has no runs on several devices."""


def _slots(meeting: "Meeting") -> list[Slot]:
    """A GPU for each rank from 1 on, the first being rank 0's; the same threads for all."""
    slots = []
    for rank in range(1, meeting.size):
        environment = {"OMP_NUM_THREADS": str(meeting.threads)} if meeting.device == "cpu" else _gpu(rank)
        workers = int(os.environ.get("RUNMANAGER_WORKERS") or 1)
        slots.append(Slot(rank, {**environment, "RUNMANAGER_WORKERS": str(workers * meeting.size)}))
    return slots


def _gpu(rank: int) -> dict[str, str]:
    """The rank's own GPU alone, of those that this process sees."""
    names = os.environ.get("CUDA_VISIBLE_DEVICES")
    return {"CUDA_VISIBLE_DEVICES": names.split(",")[rank].strip() if names else str(rank)}


def fault_of(calls: dict[int, "Future[Any]"], size: int, seconds: float) -> str | None:
    """Why a rank has ended whose call is one of these, waited for so many seconds. See `Fault`."""
    wait(calls.values(), timeout=seconds, return_when=FIRST_COMPLETED)
    for rank, call in calls.items():
        if call.done():
            return f"rank {rank} of {size} {_how_it_ended(call.exception())}"
    return None


def _how_it_ended(error: BaseException | None) -> str:
    if error is None:
        return "was done before rank 0"
    if isinstance(error, WorkerDied):
        last = " / ".join(error.output.strip().splitlines()[-_NUM_LINES:])
        return f"is lost: {error}{f'; it had printed: {last}' if last else ''}"
    return f"failed: {error}\n{error.traceback}" if isinstance(error, CallFailed) else f"could not be started: {error}"


def follow_run(
    file: str,
    changes: dict[str, Any],
    options: dict[str, Any],
    run_id: str,
    seed: int,
    meeting: dict[str, Any],
    rank: int,
) -> None:
    """Trains a run beside rank 0, in a worker.

    Args:
        file: the sweep file.
        changes: what this launch changes of it.
        options: what runs are trained with.
        run_id: the identity of the run.
        seed: what its random numbers come from.
        meeting: where its ranks meet.
        rank: which of them this is.
    """
    from runmanager.training.distributed import Meeting, follow

    if TrainOptions(**options).keep_memory:
        keep_memory()
    sweep = load_changed(Path(file), Changes.from_json(changes))
    run = _run_of(sweep, run_id)
    assert sweep.trainer is not None
    project = project_of(Path(file))
    follow(sweep.trainer, run, Meeting(**meeting), rank, seed=seed, split_seed=sweep.seed, project=project)


def _run_of(sweep: Sweep, run_id: str) -> Run:
    for run in sweep.runs():
        if identity(run._asdict()) == run_id:
            return run
    raise SweepError(sweep.name, ["the sweep file gives another grid in each process; let it draw from a fixed seed"])
