"""The RunManager: times and accumulates for a group of runs, and makes their epoch rows. It is the only one that does."""

import itertools
import os
import time
import warnings
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn, cast

from runmanager.parameters import ROW_COLUMNS, identity, params_of
from runmanager.tracking import exits
from runmanager.tracking.batches import BatchSizes, batch_length
from runmanager.tracking.errors import (
    CallOrderError,
    CheckpointError,
    EmptyEpochError,
    MetricError,
    RunInUseError,
    RunStopped,
    StorageError,
)
from runmanager.tracking.faults import is_out_of_memory, one_line, traceback_text
from runmanager.tracking.files import replace_text
from runmanager.tracking.meters import Accuracy, Mean
from runmanager.tracking.overhead import Overhead
from runmanager.tracking.resuming import MakeState, resume, save_together
from runmanager.tracking.rows import (
    DONE,
    FAILED,
    INTERRUPTED,
    OUT_OF_MEMORY,
    EpochRow,
    Metrics,
    RunEnd,
    check_metric_names,
    metrics_to_json,
    plain_number,
)
from runmanager.tracking.run_dir import RunDir, SweepDir, project_root, run_record
from runmanager.tracking.tracked import Tracked
from runmanager.tracking.writers import Writer, Writers

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Module


class Entry(NamedTuple):
    """A run that is to be tracked in a group."""

    run: Any  # a named tuple of hyperparameters
    number: int  # in its sweep
    seed: int | None = None
    known_attempts: int | None = None


class _Epoch:
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


class RunManager:
    """Tracks runs, one after another: `begin_run`, then epochs, then `end_run`.

    What a call recorded is on disk when it returns. Rows go to the run's journal first, then to the results tables,
    TensorBoard and the screen; what goes wrong there is a warning and never fails the run.
    """

    def __init__(
        self,
        name: str | None = None,
        *,
        root: str | Path | None = None,
        tensorboard: bool = True,
        histograms_every: int = 1,
        checkpoint_every: int = 1,
        quiet: bool = False,
        tables: bool = True,
        writers: Sequence[Writer] = (),
        stop_when: Callable[[EpochRow], RunStopped | None] | None = None,
    ) -> None:
        """Makes nothing on disk; the first `begin_run` does.

        Args:
            name: what the runs are kept under: `runs/<name>` and `results/<name>.csv`. Without one, the date and time.
            root: the project's folder; by default this one, or the nearest above it that has runs/ and sweeps/.
            tensorboard: whether to write TensorBoard logs.
            histograms_every: epochs from one set of histograms to the next; 0 for none.
            checkpoint_every: epochs from one saved state to the next, where `end_epoch` is given states; 0 for none.
            quiet: show nothing.
            tables: whether to keep the tables in results/ current.
            writers: where else rows go.
            stop_when: asked after each epoch; what it returns is raised by `end_epoch`, and the run ends with its status.

        Raises:
            SweepNameError: the name cannot be a folder's.
        """
        where = project_root() if root is None else Path(root).resolve()
        self._sweep_dir = SweepDir(where, name or _free_name(where))
        chosen: list[Writer] = []  # each is imported where it is used, since a worker starts in a tenth of a second
        if tables:
            from runmanager.tracking.results import ResultsWriter

            chosen.append(ResultsWriter(self._sweep_dir))
        if tensorboard:
            from runmanager.tracking.tensorboard import TensorBoardWriter

            chosen.append(TensorBoardWriter(histograms_every))
        if not quiet:
            from runmanager.tracking.display import make_display

            chosen.append(make_display())
        self._writers = Writers([*chosen, *writers])
        self._checkpoint_every, self._stop_when = checkpoint_every, stop_when
        self._group: list[Tracked] = []
        self._overhead = Overhead()
        self.unrecorded: dict[int, str] = {}
        """The numbers of the runs whose end could not be recorded, and why."""
        self._rows: list[tuple[dict[str, Any], list[EpochRow]]] = []
        self._begun: dict[str, int] = {}  # how often each configuration was begun here
        self._known: dict[str, RunDir] | None = None  # by the first 12 digits of the run's identity
        self._next_number = 1
        self._modes: Mapping[str, str] = {}  # which way the sweep's objective improves
        self._epoch: _Epoch | None = None
        self._sizes = BatchSizes(None)
        self._num_epochs = self._num_steps = 0  # of the run
        self._is_group = False  # whose members end each for itself
        self._is_driven = False  # by a `with m.tracking(run)`
        self._is_launched = False  # whose sys.exit() ends a run, and not the program

    @property
    def name(self) -> str:
        """What the runs are kept under."""
        return self._sweep_dir.name

    def begin_run(self, run: Any, network: "Module | None" = None, loader: Any = None) -> "RunManager":
        """Begins a run.

        Args:
            run: a named tuple of hyperparameters, as `RunBuilder.get_runs` makes them.
            network: whose graph, parameters and gradients TensorBoard shows.
            loader: whose images TensorBoard shows, and whose batch sizes weigh the loss.

        Raises:
            CallOrderError: the run before was begun and not ended; it is marked failed, so that the next call can begin.
            ParameterError: a parameter cannot be recorded.
            StorageError: the run's folder cannot be made.
        """
        self._refuse_where_driven("begin_run()")
        self._close_abandoned()
        params = params_of(run)
        replicate = self._begun.get(identity(params), 0) + 1
        self._begin_group()
        self._begin_member(params, replicate=replicate)
        self._begun[identity(params)] = replicate
        if network is not None or loader is not None:
            self.watch(network, loader)
        return self

    @contextmanager
    def tracking(
        self, run: Any, *, number: int | None = None, seed: int | None = None, known_attempts: int | None = None
    ) -> Iterator["RunManager"]:
        """Tracks a run that is trained inside the `with`: ended when it is left, failed when that is by an exception.

        Args:
            run: a named tuple of hyperparameters.
            number: the run's number in its sweep; by default the next free one.
            seed: what the run's random numbers come from, to be recorded.
            known_attempts: how many attempts at the run the caller knows of.

        Raises:
            RunInUseError: another process trains the run, or has made an attempt that the caller does not know of.
        """
        self._close_abandoned()
        self._begin_group()
        self._begin_member(params_of(run), number=number, seed=seed, known_attempts=known_attempts)
        self._is_driven, self._is_launched = True, known_attempts is not None
        with self._to_the_end():
            yield self

    @contextmanager
    def tracking_group(self, entries: Sequence[Entry]) -> Iterator[dict[int, Exception]]:
        """Tracks runs that are trained in lockstep inside the `with`, as `tracking` does one.

        What is tracked then has a first dimension of K, and `leave` ends one member. The others do not notice.

        Args:
            entries: the runs.

        Yields:
            the numbers of those that could not be begun, and why; those that could are `numbers`.
        """
        self._close_abandoned()
        refused: dict[int, Exception] = {}
        self._begin_group()
        for run, number, seed, known_attempts in entries:
            try:
                self._begin_member(params_of(run), number=number, seed=seed, known_attempts=known_attempts)
            except (RunInUseError, StorageError) as error:
                refused[number] = error
        if not self._group:
            exits.unwatch(self)
            yield refused
            return
        self._is_driven = self._is_launched = self._is_group = True
        with self._to_the_end():
            yield refused

    @contextmanager
    def _to_the_end(self) -> Iterator[None]:
        """Ends what is tracked when it is left, by whatever way."""
        try:
            yield
            self._finish()
        except BaseException as error:
            self.abandon(error)
            raise
        finally:
            self._is_driven = False

    @property
    def numbers(self) -> list[int]:
        """The numbers of the runs that are tracked now: the group's members, without those that have left."""
        return [tracked.member.number for tracked in self._group]

    def leave(self, number: int, error: BaseException | None = None) -> None:
        """Ends one member of the group: completed, or failed by `error`.

        Raises:
            CallOrderError: no member has that number.
        """
        tracked = next((one for one in self._group if one.member.number == number), None)
        if tracked is None:
            raise CallOrderError(f"leave({number}): the group has {self.numbers}; pass one of these")
        try:
            ended = self._ended_by(error) if error is not None else (*tracked.finish(), None)
        except StorageError as failure:
            ended = self._ended_by(failure)
        position = self._group.index(tracked)
        if len(self._group) == 1:
            self._epoch = None
        if self._epoch is not None:
            self._epoch.drop(position)
        del self._group[position]
        self._end_one(tracked, *ended)
        self._overhead.num_members = max(1, len(self._group))

    def _begin_group(self) -> None:
        self._group, self._is_group = [], False
        self._overhead.begin(1)
        self._sizes = BatchSizes(None)
        self._num_epochs = self._num_steps = 0
        exits.watch(self)

    def _begin_member(
        self,
        params: dict[str, Any],
        *,
        number: int | None = None,
        seed: int | None = None,
        replicate: int = 1,
        known_attempts: int | None = None,
    ) -> None:
        began = time.perf_counter()
        run_id = identity(params, replicate)
        run_dir = self._run_dir(params, number, run_id)
        who = run_record(run_dir.number, run_id, params, seed, replicate)
        tracked = Tracked.begin(
            run_dir,
            params,
            who,
            known_attempts=known_attempts,
            checkpoint_every=self._checkpoint_every,
            modes=self._modes,
            writers=self._writers,
        )
        tracked.write_for_people(who)
        self._rows.append((params, tracked.member.rows))
        self._group.append(tracked)
        self._writers.begin(tracked.member)
        num_others = len(self._group) - 1
        tracked.began = time.perf_counter()
        self._overhead.num_members = num_others + 1
        self._overhead.seconds = (self._overhead.seconds * num_others + tracked.began - began) / (num_others + 1)

    def _run_dir(self, params: dict[str, Any], number: int | None, run_id: str) -> RunDir:
        """The folder that the run has, or a new one."""
        known = self._known if self._known is not None else self._open_sweep()
        run_dir = known.get(run_id[:12])
        if run_dir is None:
            run_dir = self._sweep_dir.run_dir(number or self._next_number, params, run_id)
            known[run_id[:12]] = run_dir
            self._next_number = max(self._next_number, run_dir.number + 1)
        run_dir.make()
        return run_dir

    def _open_sweep(self) -> dict[str, RunDir]:
        """Makes the sweep's folder and finds the runs that it has."""
        self._sweep_dir.make()
        plan = self._sweep_dir.read_plan()
        if not plan:
            from runmanager.tracking.plan import describe

            self._sweep_dir.write_plan(describe(self._sweep_dir))
        if plan.get("objective"):
            self._modes = {plan["objective"]: plan["mode"]}
        self._known = self._sweep_dir.runs_by_id()
        self._next_number = 1 + max((run.number for run in self._known.values()), default=0)
        return self._known

    def load_checkpoint(self) -> dict[str, Any] | None:
        """The state that the run saved last, or None where there is none.

        To be called before the first epoch. The run then goes on where the state was taken: its rows up to there count, and
        the random number generators are put back. `num_epochs` says where that is. A loop that is run once more so leaves its
        completed runs as they are; a launch, which trains a completed run only when asked to, starts it from nothing.

        Raises:
            CallOrderError: no run is open, or an epoch has begun.
            CheckpointError: there are saved states, but none can be read.
        """
        self._need_run("load_checkpoint()")
        loaded: list[dict[str, Any]] = []
        self.load_checkpoints(lambda index, state: loaded.append(state))
        return loaded[0] if loaded else None

    def load_checkpoints(self, take: Callable[[int, dict[str, Any]], None]) -> None:
        """Takes up what the members of the group saved last, as `load_checkpoint` does for one run.

        Args:
            take: gets each member's place and state, while the random number generators are that member's.

        Raises:
            CallOrderError: an epoch has begun.
            CheckpointError: there are saved states, but none can be read, or those of the members are of different epochs.
        """
        if self._epoch is not None or self._num_epochs:
            raise CallOrderError(
                "load_checkpoint(): an epoch has begun already; call it before the first begin_epoch()"
            )
        if any(tracked.has_recorded() for tracked in self._group):
            raise CallOrderError("load_checkpoint(): something was logged already; call it right after the run begins")
        with self._overhead:
            epochs = {self._take_up(index, tracked, take) for index, tracked in enumerate(self._group)}
        if len(epochs) > 1:
            raise CheckpointError(f"the members' saved states are of epochs {sorted(epochs)}; train them one by one")
        self._num_epochs = epochs.pop()

    def _take_up(self, index: int, tracked: Tracked, take: Callable[[int, dict[str, Any]], None]) -> int:
        """The epoch that a member's last state is of."""
        resumed = resume(tracked.attempt, tracked.member, self._modes, completed=not self._is_launched)
        if resumed is None:
            return 0
        self._num_steps = resumed.num_steps
        tracked.began = time.perf_counter() - resumed.run_seconds
        tracked.keeper.take_up(resumed.records, tracked.member.rows)
        self._writers.resume(tracked.member)
        take(index, resumed.state)
        return resumed.epoch

    @property
    def num_epochs(self) -> int:
        """How many epochs of the open run are done, those before its last saved state included."""
        return self._num_epochs

    def watch(self, network: "Module | Sequence[Module] | None", loader: Any = None) -> None:
        """Says which network and loader the run has; `begin_run` does so when it is given them. A group has a list of networks.

        Raises:
            CallOrderError: no run is open.
        """
        self._need_run("watch()")
        with self._overhead:
            self._sizes = BatchSizes(loader)
            networks = network if isinstance(network, list) else [network] * len(self._group)
            for tracked, its_network in zip(self._group, networks, strict=True):
                tracked.member.network, tracked.member.loader = its_network, loader
                self._writers.watch(tracked.member)
        if self._epoch is None and self._num_epochs == 0:
            for tracked in self._group:  # the run's clock leaves out what TensorBoard has just cost
                tracked.began = time.perf_counter()

    def begin_epoch(self) -> None:
        """Begins an epoch and its clock.

        Raises:
            CallOrderError: no run is open, or the epoch before was not ended.
        """
        self._need_run("begin_epoch()")
        if self._epoch is not None:
            raise CallOrderError(f"begin_epoch(): epoch {self._epoch.number} is still open; end_epoch() is missing")
        self._epoch = _Epoch(self._num_epochs + 1, len(self._group))

    def track_loss(self, loss: "Tensor | float", batch: Any = None) -> None:
        """Adds a batch's mean loss, weighted by the samples in the batch. Does not wait for the device.

        Args:
            loss: the mean over the batch, shape []; of a group [K].
            batch: what the loader gave, or its images. Without it the loader's settings tell how many samples there are.

        Raises:
            CallOrderError: no epoch is open.
            UnknownBatchSizeError: the loader does not tell; pass the batch.
        """
        epoch = self._epoch or self._refuse_outside_epoch("track_loss()")
        with self._overhead:
            num_samples = self._sizes.size_of(epoch.num_batches) if batch is None else batch_length(batch)
            epoch.loss.add(loss, num_samples)
            epoch.num_batches += 1

    def track_num_correct(self, preds: "Tensor", labels: "Tensor") -> None:
        """Adds a batch's right predictions: `preds` [N, C] are scores, `labels` [N] classes. Does not wait for the device.

        Of a group both have a first dimension of K.

        Raises:
            CallOrderError: no epoch is open.
            MetricError: the shapes do not fit.
        """
        epoch = self._epoch or self._refuse_outside_epoch("track_num_correct()")
        with self._overhead:
            epoch.accuracy.add(preds, labels)

    def log(self, /, **metrics: Any) -> None:
        """Records metrics: of the epoch under way, or of the run when none is. On disk when the call returns.

        Of a group a list of K values gives each member its own.

        Raises:
            CallOrderError: no run is open.
            MetricError: a value is no number, or a name is a column's or a parameter's.
        """
        self._need_run("log()")
        with self._overhead:
            self._log(metrics)

    def _log(self, metrics: dict[str, Any]) -> None:
        epoch = self._epoch
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
                self._writers.log(tracked.member, numbers)

    def log_step(self, /, **scalars: Any) -> None:
        """Records scalars of one step; steps are counted from 1 over the whole run. On disk when the call returns.

        Raises:
            CallOrderError: no run is open.
            MetricError: a value is no number, or a name is a column's or a parameter's.
        """
        self._need_run("log_step()")
        with self._overhead:
            self._log_step(scalars)

    def _log_step(self, scalars: dict[str, Any]) -> None:
        self._num_steps += 1
        epoch = self._epoch.number if self._epoch else None
        if self._epoch:
            self._epoch.has_steps = True
        for tracked, numbers in self._checked("log_step", scalars):
            fields = {"epoch": epoch, "step": self._num_steps, "scalars": metrics_to_json(numbers)}
            tracked.attempt.journal.append(("step", fields))
            self._writers.step(tracked.member, self._num_steps, numbers)

    def _checked(self, call: str, values: Mapping[str, Any]) -> list[tuple[Tracked, Metrics]]:
        """The values as plain numbers, for each member."""
        checked = []
        for index, tracked in enumerate(self._group):
            check_metric_names(call, values, tracked.member.params)
            own = values
            if self._is_group:
                own = {name: self._of_member(call, name, value, index) for name, value in values.items()}
            numbers = {
                name: value if type(value) is float else plain_number(call, name, value) for name, value in own.items()
            }
            checked.append((tracked, numbers))
        return checked

    def _of_member(self, call: str, name: str, value: Any, index: int) -> Any:
        """What a value is for one member: of a group's list its own."""
        if not isinstance(value, list):
            return value
        if len(value) != len(self._group):
            raise MetricError(
                f"{call}({name}=...) got {len(value)} values, but the group has {len(self._group)} members; give each its own"
            )
        return value[index]

    def end_epoch(self, checkpoint: "MakeState | list[MakeState]" = None) -> None:
        """Ends the epoch: makes its row, which is on disk when the call returns.

        Args:
            checkpoint: what the run needs to go on from here, or a function that returns it: tensors, numbers, strings, lists
                and dicts. It is saved with the random number generators; the last one and that of the best epoch are kept.
                Of a group a list of these.

        Raises:
            CallOrderError: no epoch is open.
            EmptyEpochError: nothing was tracked in it.
            StorageError: the row or the state cannot be written. In a group that ends the one member.
            RunStopped: the run has to stop here; its row and its state are saved. In a group a member that has to stop leaves.
        """
        epoch = self._epoch or self._refuse_outside_epoch("end_epoch()")
        losses, accuracies = epoch.loss.compute(), epoch.accuracy.compute()
        now = time.perf_counter()  # read after the copies above, which waited for the device
        with self._overhead:
            self._check_epoch(epoch, losses, accuracies)
            self._epoch, self._num_epochs = None, epoch.number
            rows = [
                self._row(epoch, index, losses, accuracies, now - tracked.began, now - epoch.began)
                for index, tracked in enumerate(self._group)
            ]
            is_each = self._is_group and isinstance(checkpoint, list)
            states = cast(list[MakeState], checkpoint if is_each else [checkpoint] * len(rows))
            self._take_all(rows, states)

    def _check_epoch(self, epoch: _Epoch, losses: list[float] | None, accuracies: list[float] | None) -> None:
        if losses is None and accuracies is None and not any(epoch.metrics) and not epoch.has_steps:
            raise EmptyEpochError("no batch was tracked; call track_loss(loss) between begin_epoch() and end_epoch()")
        for name, tracked_values in (("loss", losses), ("accuracy", accuracies)):
            if tracked_values and any(name in metrics for metrics in epoch.metrics):
                raise MetricError(f"log({name}=...): this epoch's {name} was tracked as well; keep one of the two")

    def _row(
        self,
        epoch: _Epoch,
        index: int,
        losses: list[float] | None,
        accuracies: list[float] | None,
        run_seconds: float,
        epoch_seconds: float,
    ) -> EpochRow:
        number, metrics = self._group[index].member.number, epoch.metrics[index]
        loss = losses[index] if losses else metrics.pop("loss", None)
        accuracy = accuracies[index] if accuracies else metrics.pop("accuracy", None)
        group_size = len(self._group)
        return EpochRow(number, epoch.number, loss, accuracy, epoch_seconds, run_seconds, metrics, group_size)

    def _take_all(self, rows: list[EpochRow], states: "Sequence[MakeState]") -> None:
        stops = [self._stop_when(row) if self._stop_when else None for row in rows]
        if self._is_group:
            self._take_each(rows, states, stops)
            return
        (tracked,), (row,), (state,), (stop,) = self._group, rows, states, stops
        tracked.take(row, tracked.keeper.save(row, state, is_last=stop is not None))
        if stop is not None:
            raise stop

    def _take_each(
        self, rows: list[EpochRow], states: "Sequence[MakeState]", stops: Sequence[RunStopped | None]
    ) -> None:
        """Hands each member its row. What one of a group cannot do, or that it has to stop, is no other's affair."""
        group = list(self._group)
        asked = [
            (tracked.keeper, row, state, stop is not None)
            for tracked, row, state, stop in zip(group, rows, states, stops, strict=True)
        ]
        for tracked, row, saved, stop in zip(
            group, rows, save_together(asked, self._sweep_dir.path), stops, strict=True
        ):
            try:
                if isinstance(saved, Exception):
                    raise saved
                tracked.take(row, saved)
                if stop is not None:
                    raise stop
            except (Exception, RunStopped) as error:  # noqa: BLE001 (whatever it is, it ends this member)
                self.leave(row.run, error)

    def end_run(self) -> None:
        """Ends the run: completed, or diverged where its last loss is not finite. That is on disk when the call returns.

        Raises:
            CallOrderError: no run is open, or an epoch still is.
            StorageError: the end cannot be written.
        """
        self._need_run("end_run()")
        self._refuse_where_driven("end_run()")
        self._finish()

    def _finish(self) -> None:
        if self._epoch is not None:
            raise CallOrderError(f"end_run(): epoch {self._epoch.number} is still open; end_epoch() is missing")
        if not self._is_group:
            with self._overhead:
                status, error = self._group[0].finish()
            self._end(status, error)
        for number in self.numbers:
            with self._overhead:
                self.leave(number)
        exits.unwatch(self)

    def _refuse_where_driven(self, call: str) -> None:
        if self._is_driven:
            raise CallOrderError(
                f"{call}: this run is begun and ended for you; leave begin_run() and end_run() out here"
            )

    def abandon(self, error: BaseException | None) -> None:
        """Ends the run badly, if one is open: failed by `error`, or interrupted by Ctrl-C or by the end of the program."""
        if not self._group:
            return
        if error is None:
            self._end(INTERRUPTED, "the program ended before end_run()")
        else:
            self._end(*self._ended_by(error))

    def _ended_by(self, error: BaseException) -> tuple[str, str, str | None]:
        """The status, the reason in one line and the traceback of a run that an exception ends."""
        if isinstance(error, RunStopped):
            return error.status, str(error), None
        if isinstance(error, KeyboardInterrupt) or (isinstance(error, SystemExit) and not self._is_launched):
            return INTERRUPTED, type(error).__name__, None
        status = OUT_OF_MEMORY if is_out_of_memory(error) else FAILED
        return status, one_line(error), traceback_text(error)

    def _end(self, status: str, error: str | None = None, trace: str | None = None) -> None:
        """Ends all that is tracked alike."""
        group, self._group, self._epoch = self._group, [], None
        exits.unwatch(self)
        failures = [self._end_one(tracked, status, error, trace) for tracked in group]
        for failure in filter(None, failures):
            if status in DONE:
                raise failure

    def _end_one(self, tracked: Tracked, status: str, error: str | None, trace: str | None) -> StorageError | None:
        seconds = time.perf_counter() - tracked.began
        failure = tracked.end(RunEnd(status, seconds, error, trace, self._overhead.so_far()))
        if failure is not None:
            self.unrecorded[tracked.member.number] = str(failure)
        return failure

    def _close_abandoned(self) -> None:
        """Closes a run that its loop left open, before the next one begins.

        Whether its loop was left by an exception that somebody caught, or merely forgot `end_run()`, cannot be told apart. So
        the run is marked failed, that is said, and the next one begins: nobody's later runs are lost.

        Raises:
            CallOrderError: nothing was done in the open run, so that `begin_run()` was just called twice.
        """
        if not self._group:
            return
        number, epoch = self._group[0].member.number, self._epoch
        if epoch is None and self._num_epochs == 0:
            self._end(FAILED, "begin_run() was called again before anything was done")
            raise CallOrderError(
                f"begin_run(): run {number} is still open and has no epoch; end_run() is missing. It is marked failed; "
                "call begin_run() again to go on"
            )
        where = f"in epoch {epoch.number}" if epoch else f"after epoch {self._num_epochs}"
        self._end(FAILED, f"the loop left the run {where}; end_run() is missing")
        warnings.warn(
            f"run {number} was left {where}, by an exception or because end_run() is missing; it is marked failed, its rows "
            "are kept, and the next run begins",
            RuntimeWarning,
            stacklevel=3,
        )

    def _need_run(self, call: str) -> None:
        if not self._group:
            raise CallOrderError(f"{call}: no run is open; begin_run(run, network, loader) is missing")

    def _refuse_outside_epoch(self, call: str) -> NoReturn:
        self._need_run(call)
        raise CallOrderError(f"{call}: no epoch is open; begin_epoch() is missing")

    @property
    def run_data(self) -> list["OrderedDict[str, Any]"]:
        """The rows so far, one dict per run and epoch, by column: results first, then metrics, then parameters."""
        data = []
        for params, rows in self._rows:
            for row in rows:
                numbers = (
                    row.run,
                    row.epoch,
                    row.loss,
                    row.accuracy,
                    row.epoch_seconds,
                    row.run_seconds,
                    row.group_size,
                )
                data.append(OrderedDict(zip(ROW_COLUMNS, numbers, strict=True)) | row.metrics | params)
        return data

    def save(self, file_name: str | os.PathLike[str]) -> None:
        """Writes the rows of this manager to `<file_name>.csv` and `<file_name>.json`, here and whole.

        The tables in results/ are current without it.

        Raises:
            OSError: a file cannot be written; an older one is kept.
        """
        from runmanager.tracking.tables import epoch_csv, epoch_json

        path = Path(file_name)
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_text(path.with_name(f"{path.name}.csv"), epoch_csv(self._rows))
        replace_text(path.with_name(f"{path.name}.json"), epoch_json(self._rows))

    def forget(self) -> None:
        """Drops the rows of ended runs from memory; their files keep them, and `run_data` and `save` no longer have them."""
        self._rows = self._rows[-1:] if self._group else []

    def close(self) -> None:
        """Lets go of files and of the screen; an open run is marked interrupted."""
        self.abandon(None)
        self._writers.close()


_given_names: set[str] = set()  # a manager makes its folder only when its first run begins


def _free_name(root: Path) -> str:
    """The date and time, with a number behind it where that is taken."""
    stamp = datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
    names = (stamp if number == 1 else f"{stamp}_{number}" for number in itertools.count(1))
    free = next(name for name in names if not (root / "runs" / name).exists() and name not in _given_names)
    _given_names.add(free)
    return free
