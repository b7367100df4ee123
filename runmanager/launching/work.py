"""The runs of a launch that are still to be trained, and those that other launches train meanwhile."""

import time
from collections import deque
from collections.abc import Callable, Collection

from runmanager.launching.schedule import Schedule, ScheduledRun
from runmanager.tracking.errors import RunInUseError
from runmanager.tracking.history import read_run
from runmanager.tracking.owner import owner_text, this_process
from runmanager.tracking.rows import RUNNING

_LOOK_SECONDS = 1.0  # how often other launches' runs are looked at
_WAIT_SECONDS = 0.1


class Work:
    """What is left to do. Runs that another launch trains are waited for, and taken over when their process has died."""

    def __init__(self, plan: Schedule, retried: Collection[str], say: Callable[[str], None]) -> None:
        """Takes over a plan.

        Args:
            plan: the runs.
            retried: statuses whose runs are due again, beside interrupted.
            say: what tells the user that there is only waiting left.

        Raises:
            RunInUseError: this very process has a run of the plan open, and would wait for itself.
        """
        self._retried, self._say = retried, say
        self.due = deque(plan.due)
        self.elsewhere = plan.elsewhere if plan.limit is None else []
        self._looked = time.monotonic()
        self._has_said = False
        for one in self.elsewhere:
            _refuse_own(one)

    def taken(self, one: ScheduledRun) -> None:
        """Another launch has it, or had it since we looked. Where that does not show yet, it will at the next look."""
        seen = self._seen(one)
        if seen.is_due:
            self.elsewhere.append(seen)
        else:
            self._sort(one)

    def again(self, one: ScheduledRun) -> None:
        """It is to be tried again, next."""
        self.due.appendleft(self._seen(one))

    def look(self) -> None:
        """Looks at the runs of other launches, now and then."""
        if self.elsewhere and time.monotonic() - self._looked > _LOOK_SECONDS:
            self._looked = time.monotonic()
            others, self.elsewhere = self.elsewhere, []
            for one in others:
                self._sort(one)

    def wait(self) -> None:
        """Waits a moment for other launches, when there is nothing else to do."""
        if self.due or not self.elsewhere:
            return
        if not self._has_said:
            self._has_said = True
            runs = ", ".join(f"run {one.number} ({_who(one)})" for one in self.elsewhere[:8])
            self._say(f"waiting for what other launches train: {runs}")
        time.sleep(_WAIT_SECONDS)

    def _sort(self, one: ScheduledRun) -> None:
        seen = self._seen(one)
        if seen.status == RUNNING:
            _refuse_own(seen)
            self.elsewhere.append(seen)
        elif seen.is_due and not self._has_just_failed_elsewhere(one, seen):
            self.due.append(seen)

    def _has_just_failed_elsewhere(self, before: ScheduledRun, seen: ScheduledRun) -> bool:
        """Whether another launch has made the try that was asked for."""
        return seen.status in self._retried and (seen.attempts != before.attempts or before.status == RUNNING)

    def _seen(self, one: ScheduledRun) -> ScheduledRun:
        return one.seen(read_run(one.run_dir, {}), self._retried)


def _who(one: ScheduledRun) -> str:
    return owner_text(one.owner) if one.owner else "whoever has just claimed it"


def _refuse_own(one: ScheduledRun) -> None:
    if one.owner == this_process():
        raise RunInUseError(
            None, f"this very process has run {one.number} open; end it with end_run() first", str(one.run_dir.path)
        )
