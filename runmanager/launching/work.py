"""The runs of a launch that are still to be trained, and those that other launches train meanwhile."""

import time
from collections import deque
from collections.abc import Collection

from runmanager.launching.schedule import Schedule, ScheduledRun
from runmanager.tracking.history import read_run
from runmanager.tracking.rows import RUNNING

_LOOK_SECONDS = 1.0  # how often other launches' runs are looked at


class Work:
    """What is left to do. Runs that another launch trains are waited for, and taken over when their process has died."""

    def __init__(self, plan: Schedule, retried: Collection[str]) -> None:
        self._retried = retried
        self.due = deque(plan.due)
        self.elsewhere = plan.elsewhere if plan.limit is None else []
        self._looked = time.monotonic()

    def taken(self, one: ScheduledRun) -> None:
        """Another launch has it, or had it since we looked."""
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

    def _sort(self, one: ScheduledRun) -> None:
        seen = self._seen(one)
        if seen.status == RUNNING:
            self.elsewhere.append(seen)
        elif seen.is_due and (seen.status not in self._retried or seen.attempts == one.attempts):
            self.due.append(seen)  # a failure that another launch has just retried is not tried once more

    def _seen(self, one: ScheduledRun) -> ScheduledRun:
        return one.seen(read_run(one.run_dir, {}), self._retried)
