"""What a forecast means for the whole of a sweep: its time, its disk, its memory. Plain arithmetic on plain data."""

import heapq
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from runmanager.launching.description import Description
from runmanager.launching.fusion import OFF, Fusion, Kind
from runmanager.launching.schedule import Schedule, ScheduledRun
from runmanager.launching.work import Work

_STATES_KEPT = 1.5  # of a run with an objective: the last and the best, which are one where the last is the best
_PLAN_BYTES, _PLAN_RUN_BYTES = 2_000, 25  # of sweep.json

RECORDED = " (as an earlier launch has found)"
"""Behind the reason for a choice that is not made anew."""

Json = dict[str, Any]


@dataclass(frozen=True)
class Part:
    """Runs that are trained alike and take the same."""

    runs: list[ScheduledRun]
    kind: Kind | None
    reason: str  # why they are trained as they are
    costs: Mapping[str, Any] | None  # see `Costs`; None where nothing was measured

    @property
    def size(self) -> int:
        """Of a group, at most."""
        return min(self.kind.size, len(self.runs)) if self.kind else 1

    @property
    def step_seconds(self) -> float:
        """Of one run: of a group its part."""
        return self.train_seconds / self.costs["num_steps"] if self.costs else 0.0

    @property
    def train_seconds(self) -> float:
        """Of an epoch of one run, without validation and tracking."""
        if self.costs is None:
            return 0.0
        if self.kind is not None and self.kind.size > 1 and self.kind.epoch_seconds:
            return self.kind.epoch_seconds
        return float(self.costs["first_seconds"] + self.costs["step_seconds"] * self.costs["num_steps"])

    @property
    def epoch_seconds(self) -> float:
        """Of an epoch of one run, all in all."""
        if self.costs is None:
            return 0.0
        return float(self.train_seconds + self.costs["validation_seconds"] + self.costs["tracking_seconds"])

    def seconds(self, num_epochs: int) -> float:
        """Of one run with so many epochs to go."""
        return num_epochs * self.epoch_seconds + (self.costs["run_seconds"] if self.costs else 0.0)

    @property
    def step_bytes(self) -> int:
        """The memory that all runs of a step take, beside their data."""
        return self.size * (self.costs["state_bytes"] + self.costs["activation_bytes"]) if self.costs else 0


@dataclass(frozen=True)
class Failure:
    """A run that would fail."""

    run: ScheduledRun
    error: str
    alike: list[int]  # the numbers of runs that would fail with it


class Outlook:
    """What training the runs that are due will take."""

    def __init__(
        self, sweep: Description, plan: Schedule, answer: Json, num_workers: int, num_kept: int, fuse: str | int
    ) -> None:
        """Works it out.

        Args:
            sweep: the sweep.
            plan: its runs.
            answer: what `Forecast.look` has found.
            num_workers: how many processes train.
            num_kept: how many runs keep their saved states, where there is an objective.
            fuse: how runs are to be trained together.
        """
        self.answer, self.num_workers = answer, max(1, min(num_workers, len(plan.due)))
        self._sweep, self._plan, self._num_kept, self._fuse = sweep, plan, num_kept, fuse
        self._fusion = Fusion.from_json(answer["fusion"])
        self._epochs: dict[int, int] = dict(answer["epochs"])
        self._due = {one.index: one for one in plan.due}
        self.slowdown = 1.0
        """How many times as long steps take while all workers take them."""
        self.failures = self._find_failures()
        self.parts = self._find_parts()
        self._part_of = {one.index: part for part in self.parts for one in part.runs}
        self.num_unknown = sum(part.costs is None for part in self.parts for _ in part.runs)

    def _find_failures(self) -> list[Failure]:
        others = {shape["indices"][0]: shape["indices"][1:] for shape in self.answer["shapes"] if shape["error"]}
        return [
            Failure(self._due[index], text, [self._due[one].number for one in others.get(index, [])])
            for index, text in self.answer["errors"]
        ]

    def _find_parts(self) -> list[Part]:
        failed = {failure.run.index for failure in self.failures}
        parts: list[Part] = []
        for shape in self.answer["shapes"]:
            kinds: dict[int | None, list[int]] = {}
            for index in sorted(shape["indices"]):
                if index not in failed and not shape["error"]:
                    kinds.setdefault(self._fusion.kind_of.get(index), []).append(index)
            for place, indices in kinds.items():
                kind = None if place is None else self._fusion.kinds[place]
                parts.append(Part([self._due[index] for index in indices], kind, self._reason(kind), shape["costs"]))
        return sorted(parts, key=lambda part: part.runs[0].number)

    def _reason(self, kind: Kind | None) -> str:
        if kind is None:
            return "--fuse off" if self._fuse == OFF else "it is the only one that is to be trained"
        return f"{kind.reason}{RECORDED if kind.key in self.answer['recorded'] else ''}"

    def epochs_left(self, one: ScheduledRun) -> int:
        """How many epochs a run has to go."""
        usual = next(iter(self._epochs.values()), 1)
        return max(0, self._epochs.get(one.index, usual) - (one.resumes_after or 0))

    @property
    def start_seconds(self) -> float:
        """From the command until the first run begins."""
        return float(sum(self.answer["seconds"].values()))

    def training_seconds(self) -> float:
        """From then on until the last run has ended: the longest first, each by the worker that is free first."""
        ready = float(max((part.costs["cold_seconds"] for part in self.parts if part.costs), default=0.0))
        reading = float(self.answer["seconds"].get("data", 0.0))
        free = [ready + (reading if number else 0.0) for number in range(self.num_workers)]
        for seconds in self._jobs():
            heapq.heappush(free, heapq.heappop(free) + seconds)
        return max(free)

    def _jobs(self) -> list[float]:
        """What each group takes, in the order in which a launch hands them out."""
        runs = [one for part in self.parts for one in part.runs]
        runs.sort(key=lambda one: one.number)
        work = Work(replace(self._plan, runs=runs, limit=None), (), lambda text: None, self._fusion)
        if self.num_workers > 1:
            work.spread_over(self.num_workers)
        jobs = []
        while work.due:
            group, _ = work.take()
            jobs.append(sum(self._part_of[one.index].seconds(self.epochs_left(one)) for one in group) * self.slowdown)
        return jobs

    def disk_bytes(self) -> tuple[int, int]:
        """What the runs will leave: their logs, journals and tables; and their saved states."""
        logs, states = _PLAN_BYTES, list[float]()
        for part in self.parts:
            for one in part.runs:
                if part.costs is not None:
                    epochs = self.epochs_left(one)
                    each = part.costs["epoch_bytes"] + part.costs["table_bytes"]
                    logs += _PLAN_RUN_BYTES + part.costs["run_bytes"] + epochs * each
                    states.append(part.costs["saved_bytes"] * self._states_kept(epochs))
        kept = sorted(states, reverse=True)[: self._num_kept if self._sweep.objective else None]
        return logs, round(sum(kept))

    def _states_kept(self, num_epochs: int) -> float:
        return _STATES_KEPT if self._sweep.objective and num_epochs > 1 else 1.0

    def longest(self) -> Part | None:
        """The runs that take the most time."""

        def seconds(part: Part) -> float:
            return sum(part.seconds(self.epochs_left(one)) for one in part.runs)

        return max((part for part in self.parts if part.costs), key=seconds, default=None)

    def largest(self) -> Part | None:
        """The runs whose steps take the most memory."""
        return max((part for part in self.parts if part.costs), key=lambda part: part.step_bytes, default=None)

    def worker_bytes(self) -> int:
        """The most memory that a worker will hold; 0 where the system does not say."""
        peak = int(self.answer["peak_bytes"])
        largest = self.largest()
        is_here = self.answer["data"]["device"] == "cpu"
        if not peak or largest is None or not is_here:
            return peak
        return peak + largest.step_bytes * (largest.size - 1) // largest.size

    def device_bytes(self) -> int:
        """The most memory that a worker will need on its GPU; 0 where it has none."""
        largest = self.largest()
        if self.answer["data"]["device"] == "cpu" or largest is None or largest.costs is None:
            return 0
        return int(largest.step_bytes + largest.costs["resident_bytes"])


def ranges_text(numbers: Sequence[int], most: int = 4) -> str:
    """`1-4, 7`; of many ranges the first and the last."""
    ranges: list[list[int]] = []
    for number in sorted(numbers):
        if ranges and number == ranges[-1][-1] + 1:
            ranges[-1] = [ranges[-1][0], number]
        else:
            ranges.append([number])
    texts = ["-".join(map(str, one)) for one in ranges]
    return ", ".join(texts if len(texts) <= most else [*texts[: most - 1], "…", texts[-1]])
