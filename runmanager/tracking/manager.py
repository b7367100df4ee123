"""The RunManager: times and accumulates for a group of runs, and makes their epoch rows. It is the only one that does."""

import os
import time
import warnings
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

from runmanager.parameters import ROW_COLUMNS, identity, params_of
from runmanager.tracking import exits
from runmanager.tracking.batches import batch_length
from runmanager.tracking.epoch import Epoch
from runmanager.tracking.errors import CallOrderError, RunInUseError, RunStopped, StorageError
from runmanager.tracking.files import replace_text
from runmanager.tracking.group import Group
from runmanager.tracking.open_sweep import OpenSweep, free_name
from runmanager.tracking.resuming import MakeState
from runmanager.tracking.rows import FAILED, INTERRUPTED, EpochRow
from runmanager.tracking.run_dir import SweepDir, project_root, run_record
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
        self._sweep = OpenSweep(SweepDir(where, name or free_name(where)))
        chosen: list[Writer] = []  # each is imported where it is used, since a worker starts in a tenth of a second
        if tables:
            from runmanager.tracking.results import ResultsWriter

            chosen.append(ResultsWriter(self._sweep.dir))
        if tensorboard:
            from runmanager.tracking.tensorboard import TensorBoardWriter

            chosen.append(TensorBoardWriter(histograms_every))
        if not quiet:
            from runmanager.tracking.display import make_display

            chosen.append(make_display())
        self._writers = Writers([*chosen, *writers])
        self._checkpoint_every, self._stop_when = checkpoint_every, stop_when
        self.unrecorded: dict[int, str] = {}
        """The numbers of the runs whose end could not be recorded, and why."""
        self._group = Group(self._writers, self.unrecorded)
        self._rows: list[tuple[dict[str, Any], list[EpochRow]]] = []
        self._begun: dict[str, int] = {}  # how often each configuration was begun here
        self._is_driven = False  # by a `with m.tracking(run)`

    @property
    def name(self) -> str:
        """What the runs are kept under."""
        return self._sweep.dir.name

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
        self._begin_group(is_launched=known_attempts is not None)
        self._begin_member(params_of(run), number=number, seed=seed, known_attempts=known_attempts)
        self._is_driven = True
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
        self._begin_group(ends_each=True, is_launched=True)
        for run, number, seed, known_attempts in entries:
            try:
                self._begin_member(params_of(run), number=number, seed=seed, known_attempts=known_attempts)
            except (RunInUseError, StorageError) as error:
                refused[number] = error
        if not self._group:
            exits.unwatch(self)
            yield refused
            return
        self._is_driven = True
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
        return self._group.numbers

    def leave(self, number: int, error: BaseException | None = None) -> None:
        """Ends one member of the group: completed, or failed by `error`.

        Raises:
            CallOrderError: no member has that number.
        """
        self._group.leave(number, error)

    def _begin_group(self, *, ends_each: bool = False, is_launched: bool = False) -> None:
        self._group = Group(self._writers, self.unrecorded, ends_each=ends_each, is_launched=is_launched)
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
        run_dir = self._sweep.run_dir(params, number, run_id)
        who = run_record(run_dir.number, run_id, params, seed, replicate)
        tracked = Tracked.begin(
            run_dir,
            params,
            who,
            known_attempts=known_attempts,
            checkpoint_every=self._checkpoint_every,
            modes=self._sweep.modes,
            writers=self._writers,
        )
        tracked.write_for_people(who)
        self._rows.append((params, tracked.member.rows))
        self._group.add(tracked, began)

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
        self._need_run("load_checkpoint()")
        self._group.load_checkpoints(take)

    def resumes(self, number: int | None = None) -> bool:
        """Whether `load_checkpoint` will find a saved state: of the open run, or of the group's member with that number.

        Raises:
            CallOrderError: no run is open.
        """
        self._need_run("resumes()")
        return self._group.resumes(number)

    def profile_file(self) -> Path:
        """Where a profile of the open run's steps belongs: `profile.json` in its folder.

        Raises:
            CallOrderError: no run is open.
        """
        self._need_run("profile_file()")
        return self._group.members[0].member.run_dir.profile

    @property
    def num_epochs(self) -> int:
        """How many epochs of the open run are done, those before its last saved state included."""
        return self._group.num_epochs

    def watch(self, network: "Module | Sequence[Module] | None", loader: Any = None) -> None:
        """Says which network and loader the run has; `begin_run` does so when it is given them. A group has a list of networks.

        Raises:
            CallOrderError: no run is open.
        """
        self._need_run("watch()")
        self._group.watch(network, loader)

    def begin_epoch(self) -> None:
        """Begins an epoch and its clock.

        Raises:
            CallOrderError: no run is open, or the epoch before was not ended.
        """
        self._need_run("begin_epoch()")
        group = self._group
        if group.epoch is not None:
            raise CallOrderError(f"begin_epoch(): epoch {group.epoch.number} is still open; end_epoch() is missing")
        group.epoch = Epoch(group.num_epochs + 1, len(group))

    def track_loss(self, loss: "Tensor | float", batch: Any = None) -> None:
        """Adds a batch's mean loss, weighted by the samples in the batch. Does not wait for the device.

        Args:
            loss: the mean over the batch, shape []; of a group [K].
            batch: what the loader gave, or its images. Without it the loader's settings tell how many samples there are.

        Raises:
            CallOrderError: no epoch is open.
            UnknownBatchSizeError: the loader does not tell; pass the batch.
        """
        epoch = self._group.epoch or self._refuse_outside_epoch("track_loss()")
        with self._group.overhead:
            num_samples = self._group.sizes.size_of(epoch.num_batches) if batch is None else batch_length(batch)
            epoch.loss.add(loss, num_samples)
            epoch.num_batches += 1

    def track_num_correct(self, preds: "Tensor", labels: "Tensor") -> None:
        """Adds a batch's right predictions: `preds` [N, C] are scores, `labels` [N] classes. Does not wait for the device.

        Of a group both have a first dimension of K.

        Raises:
            CallOrderError: no epoch is open.
            MetricError: the shapes do not fit.
        """
        epoch = self._group.epoch or self._refuse_outside_epoch("track_num_correct()")
        with self._group.overhead:
            epoch.accuracy.add(preds, labels)

    def log(self, /, **metrics: Any) -> None:
        """Records metrics: of the epoch under way, or of the run when none is. On disk when the call returns.

        Of a group a list of K values gives each member its own; None for one that has none.

        Raises:
            CallOrderError: no run is open.
            MetricError: a value is no number, or a name is a column's or a parameter's.
        """
        self._need_run("log()")
        with self._group.overhead:
            self._group.log(metrics)

    def log_step(self, step: int | None = None, /, **scalars: Any) -> None:
        """Records scalars of one step; steps are counted from 1 over the whole run. On disk when the call returns.

        Args:
            step: its number, by default that of the last step and 1.
            scalars: numbers; of a group a list of K values gives each member its own.

        Raises:
            CallOrderError: no run is open.
            MetricError: a value is no number, or a name is a column's or a parameter's.
        """
        self._need_run("log_step()")
        with self._group.overhead:
            self._group.log_step(step, scalars)

    def log_image(self, name: str, image: Any) -> None:
        """Shows a picture in TensorBoard, at the epoch under way or the last one. It is kept nowhere else.

        Args:
            name: what it stands under there.
            image: bytes, or floats from 0 to 1, of shape [H, W], [1, H, W], [3, H, W] or [H, W, 3]: a tensor, an array or a PIL
                image. Of a group a list of K gives each member its own.

        Raises:
            CallOrderError: no run is open.
            MetricError: it is no such picture, or the name is a metric's.
        """
        self._need_run("log_image()")
        with self._group.overhead:
            self._group.log_image(name, image)

    def log_confusion(self, counts: Any, classes: Sequence[str] | None = None, name: str = "confusion") -> None:
        """Keeps a confusion matrix, of the epoch under way or the last one, and shows it in TensorBoard.

        The numbers stand in the run's folder, in a JSON file for each epoch: `confusion/epoch-0003.json`.

        Args:
            counts: [C, C], how often which class (row) was taken for which (column). Of a group a list of K gives each member
                its own.
            classes: their names; by default their numbers.
            name: what it stands under in TensorBoard; another one than "confusion" begins the names of its files.

        Raises:
            CallOrderError: no run is open.
            MetricError: they are no counts, there are not as many names, or the name is a metric's or cannot be a file's.
        """
        self._need_run("log_confusion()")
        with self._group.overhead:
            self._group.log_confusion(counts, classes, name)

    def note(self, text: str, *, number: int | None = None) -> None:
        """Records a line about the run, as what was done when it was built; of a group about the one with that number.

        What was said of a run already is not recorded once more.

        Raises:
            CallOrderError: no run is open.
        """
        self._need_run("note()")
        self._group.note(text, number)

    def so_far(self) -> list[dict[str, float]]:
        """Loss and accuracy of the epoch under way, as far as it was tracked, of each member. Waits for the device.

        Raises:
            CallOrderError: no epoch is open.
        """
        epoch = self._group.epoch or self._refuse_outside_epoch("so_far()")
        with self._group.overhead:
            found = {"loss": epoch.loss.compute(), "accuracy": epoch.accuracy.compute()}
        size = len(self._group)
        return [{name: values[index] for name, values in found.items() if values} for index in range(size)]

    def end_epoch(
        self, checkpoint: "MakeState | list[MakeState]" = None, *, stop: "str | list[str | None] | None" = None
    ) -> None:
        """Ends the epoch: makes its row, which is on disk when the call returns.

        Args:
            checkpoint: what the run needs to go on from here, or a function that returns it: tensors, numbers, strings, lists
                and dicts. It is saved with the random number generators; the last one and that of the best epoch are kept.
                Of a group a list of these.
            stop: why the run stops with this epoch, if it does: it ends as stopped. Of a group a list of these.

        Raises:
            CallOrderError: no epoch is open.
            EmptyEpochError: nothing was tracked in it.
            StorageError: the row or the state cannot be written. In a group that ends the one member.
            RunStopped: the run has to stop here; its row and its state are saved. In a group a member that has to stop leaves.
        """
        epoch = self._group.epoch or self._refuse_outside_epoch("end_epoch()")
        self._group.end_epoch(epoch, checkpoint, stop, self._stop_when, self._sweep.dir.path)

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
        group = self._group
        if group.epoch is not None:
            raise CallOrderError(f"end_run(): epoch {group.epoch.number} is still open; end_epoch() is missing")
        if not group.ends_each:
            self._end(*group.finish_one())
        group.finish_each()
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
            self._end(*self._group.ended_by(error))

    def _end(self, status: str, error: str | None = None, trace: str | None = None) -> None:
        """Ends all that is tracked alike."""
        exits.unwatch(self)
        self._group.end(status, error, trace)

    def _close_abandoned(self) -> None:
        """Closes a run that its loop left open, before the next one begins.

        Whether its loop was left by an exception that somebody caught, or merely forgot `end_run()`, cannot be told apart. So
        the run is marked failed, that is said, and the next one begins: nobody's later runs are lost.

        Raises:
            CallOrderError: nothing was done in the open run, so that `begin_run()` was just called twice.
        """
        if not self._group:
            return
        number, epoch = self._group.numbers[0], self._group.epoch
        if epoch is None and self._group.num_epochs == 0:
            self._end(FAILED, "begin_run() was called again before anything was done")
            raise CallOrderError(
                f"begin_run(): run {number} is still open and has no epoch; end_run() is missing. It is marked failed; "
                "call begin_run() again to go on"
            )
        where = f"in epoch {epoch.number}" if epoch else f"after epoch {self._group.num_epochs}"
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
