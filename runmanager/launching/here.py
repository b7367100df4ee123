"""Training in this process, one run after another: for debuggers, notebooks and functions that take no time."""

from typing import Any

from runmanager.launching.description import Changes, describe
from runmanager.launching.git import GitQuery
from runmanager.launching.options import Limits
from runmanager.launching.outcomes import Outcomes
from runmanager.launching.schedule import ScheduledRun
from runmanager.launching.signals import StopRequest
from runmanager.launching.sweep import Sweep
from runmanager.launching.sweep_training import SweepTraining, surroundings_of
from runmanager.launching.train_options import TrainOptions
from runmanager.launching.work import Work
from runmanager.tracking.errors import RunInUseError, StorageError
from runmanager.tracking.writers import Writer


class Here:
    """The way that trains in this process."""

    threads = ""

    def __init__(self, sweep: Sweep, options: TrainOptions, changes: Changes) -> None:
        """Takes a sweep that `changes` were made to already."""
        self._sweep, self._options, self._changes = sweep, options, changes
        self.description = describe(sweep)
        self.git = GitQuery(self.description.project)

    def check(self, indices: list[int], known: dict[str, Any], *, fresh: bool = False) -> dict[str, Any]:
        """See `Way`."""
        project = self.description.project
        return surroundings_of(self._sweep, project, indices, 1, known, self._options, fresh=fresh)

    def train(
        self, work: Work, writers: list[Writer], outcomes: Outcomes, limits: Limits
    ) -> tuple[StopRequest, set[str]]:
        """See `Way`."""
        stop = StopRequest(interrupt_after=limits.grace)
        reason = lambda: f"stopped ({stop.reason})" if stop.is_asked else None  # noqa: E731
        training = SweepTraining(
            self._sweep,
            self.description.project,
            self._options,
            writers=[*writers, outcomes],
            stop_reason=reason,
            changes=self._changes,
        )
        try:
            with stop:
                while not stop.is_asked and (work.due or work.elsewhere):
                    self._train_next(training, work, outcomes)
                    if outcomes.fault:
                        stop.ask(outcomes.fault)
        except KeyboardInterrupt:
            stop.ask("KeyboardInterrupt")  # where no handler could be set
        finally:
            training.manager.close()
        return stop, training.reads

    def _train_next(self, training: SweepTraining, work: Work, outcomes: Outcomes) -> None:
        work.look()
        if not work.due:
            work.wait()
            return
        group, arithmetic = work.take()
        if arithmetic:
            self._train_group(training, group, arithmetic, work, outcomes)
        else:
            self._train_alone(training, group[0], work, outcomes)
        for one in group:
            end = outcomes.take(one.number)
            if end is not None and outcomes.tries_again(one.number, end):
                work.again(one)

    def _train_alone(self, training: SweepTraining, one: ScheduledRun, work: Work, outcomes: Outcomes) -> None:
        try:
            training.train(one.run, one.number, one.attempts)
        except RunInUseError:
            work.taken(one)
        except StorageError as error:
            outcomes.lose(one.number, str(error))

    def _train_group(
        self, training: SweepTraining, group: list[ScheduledRun], arithmetic: str, work: Work, outcomes: Outcomes
    ) -> None:
        numbers, attempts = [one.number for one in group], [one.attempts for one in group]
        refused, unrecorded, size = training.train_group([one.run for one in group], numbers, attempts, arithmetic)
        for one in group:
            error = refused.get(one.number)
            if isinstance(error, RunInUseError):
                work.taken(one)
            elif error is not None or one.number in unrecorded:
                outcomes.lose(one.number, str(error or unrecorded[one.number]))
        if size is not None:
            work.again_in_groups_of(size, [one for one in group if outcomes.was_interrupted(one.number)])
