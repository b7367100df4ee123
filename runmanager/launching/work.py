"""The runs of a launch that are still to be trained, and those that other launches train meanwhile."""

import math
import time
from collections import Counter, deque
from collections.abc import Callable, Collection

from runmanager.launching.fusion import Fusion, Kind
from runmanager.launching.schedule import Schedule, ScheduledRun
from runmanager.tracking.errors import RunInUseError
from runmanager.tracking.history import read_run
from runmanager.tracking.owner import owner_text, this_process
from runmanager.tracking.rows import FAILURES, RUNNING

_LOOK_SECONDS = 1.0  # how often other launches' runs are looked at
_WAIT_SECONDS = 0.1


class Work:
    """What is left to do. Runs that another launch trains are waited for, and taken over when their process has died."""

    def __init__(
        self, plan: Schedule, retried: Collection[str], say: Callable[[str], None], fusion: Fusion | None = None
    ) -> None:
        """Takes over a plan.

        Args:
            plan: the runs.
            retried: statuses whose runs are due again, beside interrupted.
            say: what tells the user that there is only waiting left.
            fusion: which runs may be trained together.

        Raises:
            RunInUseError: this very process has a run of the plan open, and would wait for itself.
        """
        self._retried, self._say = retried, say
        self._fusion = fusion or Fusion()
        self._most: dict[int, int] = {}  # how many may be in a group with a run, by its number, after one did not hold
        self.due = deque(plan.due)
        self.elsewhere = plan.elsewhere if plan.limit is None else []
        self.has_grouped = False
        """Whether runs were trained together."""
        self._looked = time.monotonic()
        self._has_said = False
        self._sizes = self._even_sizes()
        for one in self.elsewhere:
            _refuse_own(one)

    def spread_over(self, num_workers: int) -> None:
        """Leaves no worker without a group, and puts what takes long first, so that none is left with it at the end.

        What takes nobody knows how long comes before all. Groups whose size was asked for stay as they are.
        """
        self._sizes = self._even_sizes(num_workers)
        self.due = deque(sorted(self.due, key=self._seconds, reverse=True))

    def _seconds(self, one: ScheduledRun) -> float:
        """What the run's whole group takes, as far as that was measured."""
        kind = self._fusion.kind(one.index)
        if kind is None or not kind.epoch_seconds:
            return float("inf")
        epochs = getattr(one.run, "epochs", 1)
        return kind.epoch_seconds * kind.size * (epochs if isinstance(epochs, int) else 1)

    def take(self) -> tuple[list[ScheduledRun], str]:
        """The runs that are trained next, together where that was found to be faster, and by which arithmetic."""
        first = self.due.popleft()
        kind = self._fusion.kind(first.index)
        most = self._most_with(first, kind)
        if kind is None or most == 1:
            return [first], ""
        group: list[ScheduledRun] = [first]
        passed: list[ScheduledRun] = []
        while self.due and len(group) < most:
            one = self.due.popleft()
            (group if self._is_alike(one, first, kind, most) else passed).append(one)
        self.due.extendleft(reversed(passed))
        self.has_grouped |= len(group) > 1
        return group, kind.arithmetic

    def _most_with(self, one: ScheduledRun, kind: Kind | None) -> int:
        if kind is None or one.status in FAILURES:  # whatever took its process down may take a group's with it
            return 1
        return self._most.get(one.number) or self._sizes[kind.key]

    def _even_sizes(self, num_workers: int = 1) -> dict[str, int]:
        """How many runs of each kind a group has, by the kind's key, so that its groups are of about one size."""
        counts = Counter(kind.key for one in self.due if (kind := self._fusion.kind(one.index)))
        kinds = {kind.key: kind for kind in self._fusion.kinds}
        num_groups = sum(math.ceil(counts[key] / kind.size) for key, kind in kinds.items())
        least = num_workers if num_groups < num_workers else 1  # of each kind's groups
        return {key: _even_size(counts[key], kind, least) for key, kind in kinds.items()}

    def _is_alike(self, one: ScheduledRun, first: ScheduledRun, kind: Kind, most: int) -> bool:
        """Whether two runs may be in one group, which goes on at one epoch."""
        is_same = self._fusion.kind(one.index) is kind and one.resumes_after == first.resumes_after
        return is_same and self._most_with(one, kind) == most

    def again_in_groups_of(self, size: int, group: Collection[ScheduledRun]) -> None:
        """Runs of a group that could not go on are to be tried again, next, in groups of at most that size."""
        for one in reversed(list(group)):  # each goes in front of those before it
            self._most[one.number] = size
            self.again(one)

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


def _even_size(num_runs: int, kind: Kind, least: int) -> int:
    at_least = min(least, num_runs) if kind.is_measured else 1
    num_groups = max(at_least, math.ceil(num_runs / kind.size))
    return math.ceil(num_runs / num_groups) if num_groups else kind.size


def _who(one: ScheduledRun) -> str:
    return owner_text(one.owner) if one.owner else "whoever has just claimed it"


def _refuse_own(one: ScheduledRun) -> None:
    if one.owner == this_process():
        raise RunInUseError(
            None, f"this very process has run {one.number} open; end it with end_run() first", str(one.run_dir.path)
        )
