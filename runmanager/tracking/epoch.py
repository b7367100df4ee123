"""An epoch under way: what was tracked in it, of each member of the group, until that becomes their rows."""

import time
from collections.abc import Sequence

from runmanager.tracking.errors import EmptyEpochError, MetricError
from runmanager.tracking.meters import Accuracy, Mean
from runmanager.tracking.rows import EpochRow, Metrics


class Epoch:
    """An epoch under way: its sums, one value per member, and its clock."""

    def __init__(self, number: int, size: int) -> None:
        self.number = number  # counted from 1
        self.loss, self.accuracy = Mean(size), Accuracy(size)
        self.metrics: list[Metrics] = [{} for _ in range(size)]
        self.num_batches = 0
        self.has_steps = False
        self.began = time.perf_counter()

    def drop(self, index: int) -> None:
        """A member leaves in the middle of the epoch."""
        self.loss.drop(index)
        self.accuracy.drop(index)
        del self.metrics[index]

    def sums(self) -> "Sums":
        """What the batches come to. Waits for the device."""
        return Sums(self, self.loss.compute(), self.accuracy.compute())


class Sums:
    """What an epoch's batches come to, and when: read after the copies to the host, which waited for the device."""

    def __init__(self, epoch: Epoch, losses: list[float] | None, accuracies: list[float] | None) -> None:
        self.epoch, self.losses, self.accuracies = epoch, losses, accuracies
        self.now = time.perf_counter()

    def check(self) -> None:
        """Refuses an epoch of which nothing, or something twice, is known.

        Raises:
            EmptyEpochError: nothing was tracked in it.
            MetricError: loss or accuracy was both tracked and logged.
        """
        epoch = self.epoch
        if self.losses is None and self.accuracies is None and not any(epoch.metrics) and not epoch.has_steps:
            raise EmptyEpochError("no batch was tracked; call track_loss(loss) between begin_epoch() and end_epoch()")
        for name, tracked_values in (("loss", self.losses), ("accuracy", self.accuracies)):
            if tracked_values and any(name in metrics for metrics in epoch.metrics):
                raise MetricError(f"log({name}=...): this epoch's {name} was tracked as well; keep one of the two")

    def rows(self, numbers: Sequence[int], began: Sequence[float]) -> list[EpochRow]:
        """The rows of the members, by their runs' numbers and when each began."""
        return [
            self._row(index, number, self.now - its_begin)
            for index, (number, its_begin) in enumerate(zip(numbers, began, strict=True))
        ]

    def _row(self, index: int, number: int, run_seconds: float) -> EpochRow:
        epoch, metrics = self.epoch, self.epoch.metrics[index]
        loss = self.losses[index] if self.losses else metrics.pop("loss", None)
        accuracy = self.accuracies[index] if self.accuracies else metrics.pop("accuracy", None)
        epoch_seconds, group_size = self.now - epoch.began, len(epoch.metrics)
        return EpochRow(number, epoch.number, loss, accuracy, epoch_seconds, run_seconds, metrics, group_size)
