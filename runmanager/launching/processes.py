"""Training in worker processes, for all the cores and GPUs of this machine."""

import os
import sys
from concurrent.futures import Future, wait
from pathlib import Path
from typing import Any

from runmanager.launching.description import Changes, Description
from runmanager.launching.driver import Driver
from runmanager.launching.early import EarlyWorker, take_early
from runmanager.launching.git import GitQuery
from runmanager.launching.load_sweep import project_of
from runmanager.launching.options import Limits
from runmanager.launching.outcomes import Outcomes
from runmanager.launching.pool import CallFailed, WorkerDied, WorkerPool
from runmanager.launching.signals import StopRequest
from runmanager.launching.slots import Slot, make_slots
from runmanager.launching.sweep import SweepError
from runmanager.launching.train_options import TrainOptions
from runmanager.launching.work import Work
from runmanager.tracking.plan import versions
from runmanager.tracking.writers import Writer, Writers

_SLOW_SECONDS, _MAX_EARLY = 0.3, 8


class Processes:
    """The way that trains in workers. This process imports neither torch nor the sweep file; a worker does."""

    def __init__(self, file: Path, changes: Changes, workers: int | None, options: TrainOptions) -> None:
        """Starts the first worker, which describes the sweep.

        Raises:
            SweepError: the sweep file cannot be used.
        """
        self.git = GitQuery(project_of(file))  # while the worker starts, there is time
        self._use(make_slots(workers, sys.maxsize), take_early())
        self._name = file.stem
        self._call = (str(file), changes.to_json(), options._asdict())
        try:
            answer = self._submit("describe_sweep", *self._call[:2])
            versions()
            self._start_others_if_slow(answer)
            self.description = Description.from_json(self._result(answer))
            self._use_if_others(make_slots(workers, sys.maxsize, devices=self.description.devices_per_run))
        except BaseException:
            self.close(at_once=True)
            raise

    def _use(self, slots: list[Slot], early: EarlyWorker | None = None) -> None:
        self._slots, self._num_slots = slots, 1  # that the pool has
        self.threads = slots[0].environment.get("OMP_NUM_THREADS") or os.environ.get("OMP_NUM_THREADS", "")
        self._pool = WorkerPool(slots[:1], Path.cwd(), early)
        self._loading: list[Future[Any]] = []  # workers that read the sweep ahead of their first run

    def _use_if_others(self, slots: list[Slot]) -> None:
        """Begins anew with workers that have room for runs on several devices, which only the sweep could tell."""
        if slots != self._slots:
            self._pool.terminate()
            self._use(slots)

    def _start_others_if_slow(self, answer: "Future[dict[str, Any]]") -> None:
        """Where reading the sweep takes long, as it does with torch, several workers read it at once.

        How many runs are due is not known yet, so on a large machine not all workers are started for it.
        """
        if wait([answer], _SLOW_SECONDS).done:
            return
        others = self._slots[1:_MAX_EARLY]
        self._pool.add_slots(others)
        self._num_slots += len(others)
        self._loading = [self._submit("load_sweep", *self._call[:2]) for _ in others]

    def _submit(self, function: str, *args: Any) -> "Future[dict[str, Any]]":
        return self._pool.submit(f"runmanager.launching.remote:{function}", *args)

    def _result(self, future: "Future[dict[str, Any]]") -> dict[str, Any]:
        """What a worker has answered, while no run is under way.

        Raises:
            SweepError: what is wrong with the sweep, or how its worker ended.
        """
        try:
            answer = future.result()
        except WorkerDied as died:
            raise SweepError(
                self._name, [f"reading the sweep ended its process: {died}\n{died.output}".strip()]
            ) from None
        except CallFailed as error:
            raise SweepError(self._name, [f"the sweep cannot be read: {error}\n{error.traceback}"]) from None
        if "faults" in answer:
            raise SweepError(self._name, answer["faults"])
        return answer

    def check(self, indices: list[int], known: dict[str, Any], *, fresh: bool = False) -> dict[str, Any]:
        """See `Way`."""
        if not self.description.has_trainer:
            return {}
        num_workers = min(len(self._slots), len(indices))
        return self._result(self._submit("check_sweep", *self._call, indices, num_workers, known, fresh))

    @property
    def num_workers(self) -> int:
        """How many there may be."""
        return len(self._slots)

    def forecast(self, numbers: dict[int, int], known: dict[str, Any], folder: Path) -> dict[str, Any]:
        """What training runs would take, and what would go wrong; a worker says so that is like those that would train.

        Args:
            numbers: of the runs, by their places in the grid.
            known: what earlier launches have found out about training runs together.
            folder: where it may write; nothing of it is kept.

        Raises:
            SweepError: it lists all that is wrong.
            WorkerDied: a run ended its process.
        """
        num_workers = min(len(self._slots), len(numbers))
        asked = list(numbers.items())
        wait(self._loading)  # they would be in the way of what is measured
        answer = self._submit("forecast_sweep", *self._call, asked, num_workers, known, str(folder))
        wait([answer])
        if isinstance(died := answer.exception(), WorkerDied):
            raise died
        return self._result(answer)

    def pace_together(self, index: int, folder: Path, num_workers: int) -> float:
        """The seconds of a step of a run while so many workers take steps; 0 where that cannot be found out.

        Args:
            index: the run's place in the grid.
            folder: where they may tell each other that they are ready.
            num_workers: how many.
        """
        self._pool.add_slots(self._slots[self._num_slots : num_workers])
        self._num_slots = max(self._num_slots, num_workers)
        asked = (*self._call, index, str(folder), num_workers)
        answers = [self._submit("pace_together", *asked) for _ in range(num_workers)]
        try:
            return float(sum(answer.result()["seconds"] for answer in answers) / num_workers)
        except (WorkerDied, CallFailed, OSError, RuntimeError):
            return 0.0

    def train(
        self, work: Work, writers: list[Writer], outcomes: Outcomes, limits: Limits
    ) -> tuple[StopRequest, set[str]]:
        """See `Way`."""
        if len(self._slots) > 1:
            work.spread_over(min(len(self._slots), len(work.due)))
        slots = self._slots[: max(1, len(work.due) + len(work.elsewhere))]
        self._pool.add_slots(slots[self._num_slots :])
        told = Writers([*writers, outcomes])
        modes = {self.description.objective or "": self.description.mode or ""}
        with StopRequest() as stop:
            call = (*self._call, self.description.code)
            driver = Driver(self._pool, len(slots), call, modes, told, outcomes, limits, stop)
            driver.train(work)
        told.close()
        return stop, driver.reads

    def close(self, *, at_once: bool) -> None:
        """Ends the workers, and git where nobody has asked it."""
        self.git.close()
        if at_once or not all(future.done() for future in self._loading):
            self._pool.terminate()
        else:
            self._pool.shutdown()
