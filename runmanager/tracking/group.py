"""The runs that a RunManager tracks at once: taken through their epochs together, and ended each by itself or all alike."""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from runmanager.tracking.batches import BatchSizes
from runmanager.tracking.confusion_files import confusion_name_fault
from runmanager.tracking.epoch import Epoch
from runmanager.tracking.errors import CallOrderError, CheckpointError, MetricError, RunStopped, StorageError
from runmanager.tracking.faults import is_out_of_memory, one_line, traceback_text
from runmanager.tracking.memory import MemoryPeak
from runmanager.tracking.overhead import Overhead
from runmanager.tracking.resuming import MakeState, has_state, resume, save_together
from runmanager.tracking.rows import (
    DIVERGED,
    DONE,
    FAILED,
    INTERRUPTED,
    OUT_OF_MEMORY,
    STOPPED,
    EpochRow,
    Metrics,
    RunEnd,
    check_metric_names,
    metrics_to_json,
    plain_number,
)
from runmanager.tracking.tracked import Tracked
from runmanager.tracking.writers import Writers

if TYPE_CHECKING:
    from torch.nn import Module

TAKEN_TAGS = ("Loss", "Accuracy", "images")
"""What TensorBoard shows of every run under these names is no picture of the user's."""

StopWhen = Callable[[EpochRow], RunStopped | None]


class Group:
    """Members trained in lockstep; a single run is a group of one. It is empty, and so false, once all have ended."""

    def __init__(
        self,
        writers: Writers,
        unrecorded: dict[int, str],
        *,
        ends_each: bool = False,
        is_launched: bool = False,
    ) -> None:
        """A group without members.

        Args:
            writers: who is told.
            unrecorded: gets the numbers of the runs whose end could not be recorded, and why.
            ends_each: what is tracked has a first dimension of K, and each member ends for itself.
            is_launched: `sys.exit()` ends a run, and not the program.
        """
        self.writers, self.unrecorded = writers, unrecorded
        self.ends_each, self.is_launched = ends_each, is_launched
        self.members: list[Tracked] = []
        self.overhead = Overhead()
        self._memory = MemoryPeak()
        self.epoch: Epoch | None = None  # under way
        self.num_epochs = self.num_steps = 0
        self.sizes = BatchSizes(None)

    def __len__(self) -> int:
        return len(self.members)

    @property
    def numbers(self) -> list[int]:
        """The numbers of the members' runs."""
        return [tracked.member.number for tracked in self.members]

    def add(self, tracked: Tracked, began: float) -> None:
        """Another member, whose begin has taken the time since `began`."""
        if not self.members:
            self._memory.begin()
        self.members.append(tracked)
        self.writers.begin(tracked.member)
        num_others = len(self.members) - 1
        tracked.began, tracked.attempt_began = time.perf_counter(), began
        self.overhead.num_members = num_others + 1
        self.overhead.seconds = (self.overhead.seconds * num_others + tracked.began - began) / (num_others + 1)

    def watch(self, network: "Module | Sequence[Module] | None", loader: Any) -> None:
        """Says which network and loader the members have; the run's clock leaves out what TensorBoard takes for it."""
        with self.overhead:
            self.sizes = BatchSizes(loader)
            networks = network if isinstance(network, list) else [network] * len(self.members)
            for tracked, its_network in zip(self.members, networks, strict=True):
                tracked.member.network, tracked.member.loader = its_network, loader
                self.writers.watch(tracked.member)
        if self.epoch is None and self.num_epochs == 0:
            for tracked in self.members:
                tracked.began = time.perf_counter()

    def resumes(self, number: int | None) -> bool:
        """Whether a member has a saved state to go on from: the one with that number, or the first."""
        tracked = next(one for one in self.members if number in (None, one.member.number))
        return has_state(tracked.attempt, completed=not self.is_launched)

    def load_checkpoints(self, take: Callable[[int, dict[str, Any]], None]) -> None:
        """Takes up what the members saved last; `take` gets each one's place and state.

        Raises:
            CallOrderError: something was recorded already.
            CheckpointError: there are saved states, but none can be read, or those of the members are of different epochs.
        """
        if self.epoch is not None or self.num_epochs:
            raise CallOrderError(
                "load_checkpoint(): an epoch has begun already; call it before the first begin_epoch()"
            )
        if any(tracked.has_recorded() for tracked in self.members):
            raise CallOrderError("load_checkpoint(): something was logged already; call it right after the run begins")
        with self.overhead:
            epochs = {self._take_up(index, tracked, take) for index, tracked in enumerate(self.members)}
        if len(epochs) > 1:
            raise CheckpointError(f"the members' saved states are of epochs {sorted(epochs)}; train them one by one")
        self.num_epochs = epochs.pop()

    def _take_up(self, index: int, tracked: Tracked, take: Callable[[int, dict[str, Any]], None]) -> int:
        """The epoch that a member's last state is of."""
        resumed = resume(tracked.attempt, tracked.member, tracked.modes, completed=not self.is_launched)
        if resumed is None:
            return 0
        self.num_steps = resumed.num_steps
        tracked.began = time.perf_counter() - resumed.run_seconds
        tracked.keeper.take_up(resumed.records, tracked.member.rows)
        tracked.notes.update(resumed.notes)
        tracked.drop_confusions(resumed.epoch)
        self.writers.resume(tracked.member)
        take(index, resumed.state)
        return resumed.epoch

    def log(self, metrics: Mapping[str, Any]) -> None:
        """Records metrics of the epoch under way, or of the run.

        Raises:
            MetricError: a value is no number, or a name is taken.
        """
        epoch = self.epoch
        if epoch and epoch.num_batches and "loss" in metrics:
            raise MetricError("log(loss=...): track_loss() keeps this epoch's loss; leave one of the two out")
        for index, (tracked, numbers) in enumerate(self._checked("log", metrics)):
            fields = {"epoch": epoch.number if epoch else None, "metrics": metrics_to_json(numbers)}
            tracked.attempt.journal.append(("log", fields))
            if epoch:
                epoch.metrics[index].update(numbers)
            else:
                tracked.member.metrics.update(numbers)
                tracked.member.last.update(numbers)
                self.writers.log(tracked.member, numbers)

    def log_step(self, step: int | None, scalars: Mapping[str, Any]) -> None:
        """Records scalars of one step, by default of the one behind the last.

        Raises:
            MetricError: a value is no number, or a name is taken.
        """
        self.num_steps = self.num_steps + 1 if step is None else step
        epoch = self.epoch.number if self.epoch else None
        if self.epoch:
            self.epoch.has_steps = True
        for tracked, numbers in self._checked("log_step", scalars):
            fields = {"epoch": epoch, "step": self.num_steps, "scalars": metrics_to_json(numbers)}
            tracked.attempt.journal.append(("step", fields))
            self.writers.step(tracked.member, self.num_steps, numbers)

    def _checked(self, call: str, values: Mapping[str, Any]) -> list[tuple[Tracked, Metrics]]:
        """The values as plain numbers, for each member."""
        checked = []
        for index, tracked in enumerate(self.members):
            check_metric_names(call, values, tracked.member.params)
            if tracked.pictures and (taken := tracked.pictures & values.keys()):
                raise MetricError(
                    f"{call}(): {min(taken)!r} is a picture of this run already; give one of them another name"
                )
            own = values
            if self.ends_each:
                each = {name: self._of_member(call, name, value, index) for name, value in values.items()}
                own = {name: value for name, value in each.items() if value is not None}
            numbers = {
                name: value if type(value) is float else plain_number(call, name, value) for name, value in own.items()
            }
            checked.append((tracked, numbers))
        return checked

    def log_image(self, name: str, image: Any) -> None:
        """Shows a picture at the current epoch.

        Raises:
            MetricError: it is none, or its name is taken.
        """
        from runmanager.tracking.pixels import pixels_of

        pictures = [pixels_of(name, one) for one in self._own("log_image", name, image)]
        for tracked, pixels in zip(self._named("log_image", name), pictures, strict=True):
            self.writers.image(tracked.member, name, self.current_epoch, pixels)

    def log_confusion(self, counts: Any, classes: Sequence[str] | None, name: str) -> None:
        """Keeps a confusion matrix of the current epoch, and shows it.

        Raises:
            MetricError: the counts are none, or the name cannot be used.
        """
        from runmanager.tracking.confusion import confusion_of

        fault = confusion_name_fault(name)
        if fault:
            raise MetricError(f"log_confusion(): {fault}")
        each = self._own("log_confusion", name, counts)
        matrices = [confusion_of(name, self.current_epoch, one, classes) for one in each]
        for tracked, matrix in zip(self._named("log_confusion", name), matrices, strict=True):
            tracked.keep_confusion(matrix)
            self.writers.confusion(tracked.member, matrix)

    @property
    def current_epoch(self) -> int:
        """The epoch under way, or the last one; 0 before the first."""
        return self.epoch.number if self.epoch else self.num_epochs

    def _own(self, call: str, name: str, value: Any) -> list[Any]:
        """What a value is for each member."""
        if not self.ends_each:
            return [value]
        return [self._of_member(call, name, value, index) for index in range(len(self.members))]

    def _named(self, call: str, name: str) -> list[Tracked]:
        """The members, which have a picture of that name from now on: TensorBoard shows one kind of thing under a name."""
        if not isinstance(name, str) or not name or name in TAKEN_TAGS:
            raise MetricError(f"{call}(): a picture cannot be called {name!r:.80}; give it another name")
        for index, tracked in enumerate(self.members):
            metrics = self.epoch.metrics[index] if self.epoch else {}
            if name in tracked.member.last or name in metrics:
                raise MetricError(f"{call}(): {name!r} is a metric of this run; call the picture '{name}_picture', say")
            tracked.pictures.add(name)
        return self.members

    def _of_member(self, call: str, name: str, value: Any, index: int) -> Any:
        """What a value is for one member: of a group's list its own."""
        if not isinstance(value, list):
            return value
        if len(value) != len(self.members):
            raise MetricError(
                f"{call}({name}=...) got {len(value)} values, but the group has {len(self.members)} members; give each its own"
            )
        return value[index]

    def note(self, text: str, number: int | None = None) -> None:
        """Records a line about the run, each text once: of a group about the one with that number, or all."""
        for tracked in self.members:
            if number in (None, tracked.member.number):
                tracked.note(text)

    def end_epoch(
        self,
        epoch: Epoch,
        checkpoint: "MakeState | list[MakeState]",
        stop: "str | list[str | None] | None",
        stop_when: StopWhen | None,
        folder: Path,
    ) -> None:
        """Makes the epoch's rows, and hands them to the members with the states that are saved in the sweep's folder.

        Args:
            epoch: that is over.
            checkpoint: the members' states.
            stop: why they stop with this epoch.
            stop_when: asked whether they have to.
            folder: the sweep's.

        Raises:
            EmptyEpochError: nothing was tracked in it.
            MetricError: something was tracked and logged.
            StorageError: the row or the state cannot be written. In a group that ends the one member.
            RunStopped: the run has to stop here. In a group a member that has to stop leaves.
        """
        sums = epoch.sums()
        with self.overhead:
            sums.check()
            self.epoch, self.num_epochs = None, epoch.number
            rows = sums.rows(self.numbers, [tracked.began for tracked in self.members])
            is_each = self.ends_each and isinstance(checkpoint, list)
            states = cast(list[MakeState], checkpoint if is_each else [checkpoint] * len(rows))
            reasons = stop if isinstance(stop, list) else [stop] * len(rows)
            stops = [_stop_of(row, why, stop_when) for row, why in zip(rows, reasons, strict=True)]
            if self.ends_each:
                self._take_each(rows, states, stops, folder)
            else:
                self._take_one(rows[0], states[0], stops[0])

    def _take_one(self, row: EpochRow, state: "MakeState", stop: RunStopped | None) -> None:
        (tracked,) = self.members
        tracked.take(row, tracked.keeper.save(row, state, is_last=stop is not None))
        if stop is not None:
            raise stop

    def _take_each(
        self, rows: list[EpochRow], states: "Sequence[MakeState]", stops: Sequence[RunStopped | None], folder: Path
    ) -> None:
        """Hands each member its row. What one of a group cannot do, or that it has to stop, is no other's affair."""
        members = list(self.members)
        asked = [
            (tracked.keeper, row, state, stop is not None)
            for tracked, row, state, stop in zip(members, rows, states, stops, strict=True)
        ]
        for tracked, row, saved, stop in zip(members, rows, save_together(asked, folder), stops, strict=True):
            try:
                if isinstance(saved, Exception):
                    raise saved
                tracked.take(row, saved)
                if stop is not None:
                    raise stop
            except (Exception, RunStopped) as error:  # noqa: BLE001 (whatever it is, it ends this member)
                self.leave(row.run, error)

    def finish_one(self) -> tuple[str, str | None]:
        """How the one run ends that has done all its epochs, and why."""
        with self.overhead:
            return self.members[0].finish()

    def finish_each(self) -> None:
        """Ends the members that have done all their epochs, each for itself."""
        for number in self.numbers:
            with self.overhead:
                self.leave(number)

    def leave(self, number: int, error: BaseException | None = None) -> None:
        """Ends one member: completed, or failed by `error`.

        Raises:
            CallOrderError: no member has that number.
        """
        tracked = next((one for one in self.members if one.member.number == number), None)
        if tracked is None:
            raise CallOrderError(f"leave({number}): the group has {self.numbers}; pass one of these")
        try:
            ended = self.ended_by(error) if error is not None else (*tracked.finish(), None)
        except StorageError as failure:
            ended = self.ended_by(failure)
        position = self.members.index(tracked)
        if len(self.members) == 1:
            self.epoch = None
        if self.epoch is not None:
            self.epoch.drop(position)
        del self.members[position]
        self._end_one(tracked, *ended)
        self.overhead.num_members = max(1, len(self.members))

    def ended_by(self, error: BaseException) -> tuple[str, str, str | None]:
        """The status, the reason in one line and the traceback of a run that an exception ends."""
        if isinstance(error, RunStopped):
            return error.status, str(error), None
        if isinstance(error, KeyboardInterrupt) or (isinstance(error, SystemExit) and not self.is_launched):
            return INTERRUPTED, type(error).__name__, None
        status = OUT_OF_MEMORY if is_out_of_memory(error) else FAILED
        return status, one_line(error), traceback_text(error)

    def end(self, status: str, error: str | None = None, trace: str | None = None) -> None:
        """Ends all members alike.

        Raises:
            StorageError: a run is done, but that cannot be written.
        """
        members, self.members, self.epoch = self.members, [], None
        failures = [self._end_one(tracked, status, error, trace) for tracked in members]
        for failure in filter(None, failures):
            if status in DONE:
                raise failure

    def _end_one(self, tracked: Tracked, status: str, error: str | None, trace: str | None) -> StorageError | None:
        now = time.perf_counter()
        measured = self.overhead.so_far(), self._memory.mib(), now - tracked.attempt_began
        failure = tracked.end(RunEnd(status, now - tracked.began, error, trace, *measured))
        if failure is not None:
            self.unrecorded[tracked.member.number] = str(failure)
        return failure


def _stop_of(row: EpochRow, reason: str | None, stop_when: StopWhen | None) -> RunStopped | None:
    """What ends a run with this row; what asks it to interrupt goes before its own reason."""
    asked = stop_when(row) if stop_when else None
    if asked is not None or reason is None:
        return asked
    if row.loss is not None and not math.isfinite(row.loss):
        return RunStopped(DIVERGED, f"the loss of epoch {row.epoch} is {row.loss}, and {reason}")
    return RunStopped(STOPPED, reason)
