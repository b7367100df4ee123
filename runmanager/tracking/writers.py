"""The plug point for where rows go: TensorBoard, the results tables, the screen, or a class of the user's."""

import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from runmanager.tracking.journal import Record
from runmanager.tracking.rows import Best, EpochRow, Metrics, RunEnd, metrics_from_json, update_best
from runmanager.tracking.run_dir import RunDir

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from runmanager.tracking.confusion import Confusion


@dataclass
class Member:
    """One run of the group that is being tracked, as its writers see it."""

    number: int
    params: dict[str, Any]
    run_dir: RunDir
    attempt: int  # counted from 1
    network: Any = None  # what `watch` was given
    loader: Any = None
    epoch: int = 0  # of the last row
    rows: list[EpochRow] = field(default_factory=list)  # those that count
    metrics: Metrics = field(default_factory=dict)  # logged outside any epoch
    best: dict[str, Best] = field(default_factory=dict)
    last: Metrics = field(default_factory=dict)  # of every metric, whether of an epoch or of the run

    def add(self, row: EpochRow, modes: Mapping[str, str]) -> None:
        """Another row counts."""
        values = row.values()
        self.rows.append(row)
        self.epoch = row.epoch
        self.last.update(values)
        for name, value in values.items():
            update_best(self.best, name, value, row.epoch, modes)

    def take_up(self, records: Iterable[Record], modes: Mapping[str, str]) -> None:
        """What an earlier attempt recorded, and still counts, is this one's."""
        for record in records:
            if record["kind"] == "epoch":
                self.add(EpochRow.from_record(self.number, record), modes)
            elif record["kind"] == "log" and record["epoch"] is None:
                self.metrics.update(metrics_from_json(record["metrics"]))
        self.last.update(self.metrics)


class Writer:
    """Takes what a run leaves as it happens. What a writer does not care for, it leaves out: each method does nothing by default.

    A writer that raises never fails the run: it is warned about once, and left out until that run has ended.
    """

    def begin(self, member: Member) -> None:
        """A run begins."""

    def resume(self, member: Member) -> None:
        """The run goes on from a saved state: its rows, best and last are those of then."""

    def watch(self, member: Member) -> None:
        """The run's network and loader are known."""

    def step(self, member: Member, step: int, scalars: Metrics) -> None:
        """Scalars of one step."""

    def log(self, member: Member, metrics: Metrics) -> None:
        """Metrics of the run itself, outside any epoch."""

    def image(self, member: Member, name: str, epoch: int, pixels: "NDArray[Any]") -> None:
        """A picture of an epoch, as bytes [H, W, 3]."""

    def confusion(self, member: Member, confusion: "Confusion") -> None:
        """A confusion matrix of an epoch."""

    def epoch(self, member: Member, row: EpochRow) -> None:
        """An epoch has ended."""

    def end(self, member: Member, end: RunEnd) -> None:
        """The run has ended, well or not."""

    def close(self) -> None:
        """There will be no more runs."""


class Writers:
    """Several writers as one, each kept from harming the run or the others."""

    def __init__(self, writers: Sequence[Writer]) -> None:
        self._writers = list(writers)
        self._failed: set[int] = set()  # places of the writers that are left out of the run under way
        self._warned: set[int] = set()

    def begin(self, member: Member) -> None:
        """See `Writer`; so for all that follow."""
        self._tell(lambda writer: writer.begin(member))

    def resume(self, member: Member) -> None:  # noqa: D102
        self._tell(lambda writer: writer.resume(member))

    def watch(self, member: Member) -> None:  # noqa: D102
        self._tell(lambda writer: writer.watch(member))

    def step(self, member: Member, step: int, scalars: Metrics) -> None:  # noqa: D102
        self._tell(lambda writer: writer.step(member, step, scalars))

    def log(self, member: Member, metrics: Metrics) -> None:  # noqa: D102
        self._tell(lambda writer: writer.log(member, metrics))

    def image(self, member: Member, name: str, epoch: int, pixels: "NDArray[Any]") -> None:  # noqa: D102
        self._tell(lambda writer: writer.image(member, name, epoch, pixels))

    def confusion(self, member: Member, confusion: "Confusion") -> None:  # noqa: D102
        self._tell(lambda writer: writer.confusion(member, confusion))

    def epoch(self, member: Member, row: EpochRow) -> None:  # noqa: D102
        self._tell(lambda writer: writer.epoch(member, row))

    def end(self, member: Member, end: RunEnd) -> None:  # noqa: D102
        self._failed.clear()  # an end is told to all, so that each can let go of the run
        self._tell(lambda writer: writer.end(member, end))
        self._failed.clear()

    def close(self) -> None:  # noqa: D102
        self._tell(lambda writer: writer.close())

    def _tell(self, tell: Callable[[Writer], None]) -> None:
        for place, writer in enumerate(self._writers):
            if place in self._failed:
                continue
            try:
                tell(writer)
            except Exception as error:  # noqa: BLE001 (whatever a writer does, the run goes on)
                self._failed.add(place)
                self._warn(place, writer, error)

    def _warn(self, place: int, writer: Writer, error: Exception) -> None:
        if place in self._warned:
            return
        self._warned.add(place)
        warnings.warn(
            f"{type(writer).__name__} failed and is left out of the rest of this run; the journal keeps every row "
            f"({type(error).__name__}: {error})",
            RuntimeWarning,
            stacklevel=5,
        )
