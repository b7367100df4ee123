"""The RunManager: times and accumulates for a group of runs, and makes their epoch rows. It is the only one that does."""

import os
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runmanager.parameters import identity, params_of
from runmanager.tracking import call_order, exits
from runmanager.tracking.batches import batch_length
from runmanager.tracking.entrance import Entrance
from runmanager.tracking.entrance import Entry as Entry
from runmanager.tracking.epoch import Epoch
from runmanager.tracking.errors import RunStopped
from runmanager.tracking.group import Group
from runmanager.tracking.kept_rows import KeptRows
from runmanager.tracking.open_sweep import OpenSweep, free_name
from runmanager.tracking.resuming import MakeState
from runmanager.tracking.rows import INTERRUPTED, EpochRow
from runmanager.tracking.run_dir import SweepDir, project_root
from runmanager.tracking.usual_writers import usual_writers
from runmanager.tracking.writers import Writer, Writers

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Module


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
        usual = usual_writers(
            self._sweep.dir, tables=tables, tensorboard=tensorboard, histograms_every=histograms_every, quiet=quiet
        )
        self._writers, self._rows = Writers([*usual, *writers]), KeptRows()
        self._entrance = Entrance(self._sweep, self._writers, self._rows, checkpoint_every)
        self._stop_when = stop_when
        self.unrecorded: dict[int, str] = {}
        """The numbers of the runs whose end could not be recorded, and why."""
        self._group = Group(self._writers, self.unrecorded)
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
        call_order.refuse_where_driven(self._is_driven, "begin_run()")
        call_order.close_abandoned(self, self._group)
        params = params_of(run)
        replicate = self._begun.get(identity(params), 0) + 1
        self._begin_group()
        self._entrance.begin(self._group, params, replicate=replicate)
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
        call_order.close_abandoned(self, self._group)
        self._begin_group(is_launched=known_attempts is not None)
        self._entrance.begin(self._group, params_of(run), number=number, seed=seed, known_attempts=known_attempts)
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

        Raises:
            ParameterError: a parameter cannot be recorded; the runs that were begun before are marked failed.
        """
        call_order.close_abandoned(self, self._group)
        self._begin_group(ends_each=True, is_launched=True)
        with self._to_the_end():
            yield self._entrance.begin_each(self._group, entries)

    @contextmanager
    def _to_the_end(self) -> Iterator[None]:
        """Ends what is tracked when it is left, by whatever way."""
        self._is_driven = True
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

    def load_checkpoint(self) -> dict[str, Any] | None:
        """The state that the run saved last, or None where there is none.

        To be called before the first epoch. The run then goes on where the state was taken: its rows up to there count, and
        the random number generators are put back. `num_epochs` says where that is. A loop that is run once more so leaves its
        completed runs as they are; a launch, which trains a completed run only when asked to, starts it from nothing.

        Raises:
            CallOrderError: no run is open, or an epoch has begun.
            CheckpointError: there are saved states, but none can be read.
        """
        call_order.need_run(self._group, "load_checkpoint()")
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
        call_order.need_run(self._group, "load_checkpoint()")
        self._group.load_checkpoints(take)

    def resumes(self, number: int | None = None) -> bool:
        """Whether `load_checkpoint` will find a saved state: of the open run, or of the group's member with that number.

        Raises:
            CallOrderError: no run is open.
        """
        call_order.need_run(self._group, "resumes()")
        return self._group.resumes(number)

    def profile_file(self) -> Path:
        """Where a profile of the open run's steps belongs: `profile.json` in its folder.

        Raises:
            CallOrderError: no run is open.
        """
        call_order.need_run(self._group, "profile_file()")
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
        call_order.need_run(self._group, "watch()")
        self._group.watch(network, loader)

    def begin_epoch(self) -> None:
        """Begins an epoch and its clock.

        Raises:
            CallOrderError: no run is open, or the epoch before was not ended.
        """
        call_order.need_run(self._group, "begin_epoch()")
        call_order.refuse_in_epoch(self._group, "begin_epoch()")
        self._group.epoch = Epoch(self._group.num_epochs + 1, len(self._group))

    def track_loss(self, loss: "Tensor | float", batch: Any = None) -> None:
        """Adds a batch's mean loss, weighted by the samples in the batch. Does not wait for the device.

        Args:
            loss: the mean over the batch, shape []; of a group [K].
            batch: what the loader gave, or its images. Without it the loader's settings tell how many samples there are.

        Raises:
            CallOrderError: no epoch is open.
            UnknownBatchSizeError: the loader does not tell; pass the batch.
        """
        epoch = self._group.epoch or call_order.refuse_outside_epoch(self._group, "track_loss()")
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
        epoch = self._group.epoch or call_order.refuse_outside_epoch(self._group, "track_num_correct()")
        with self._group.overhead:
            epoch.accuracy.add(preds, labels)

    def log(self, /, **metrics: Any) -> None:
        """Records metrics: of the epoch under way, or of the run when none is. On disk when the call returns.

        Of a group a list of K values gives each member its own; None for one that has none.

        Raises:
            CallOrderError: no run is open.
            MetricError: a value is no number, or a name is a column's or a parameter's.
        """
        call_order.need_run(self._group, "log()")
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
        call_order.need_run(self._group, "log_step()")
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
        call_order.need_run(self._group, "log_image()")
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
        call_order.need_run(self._group, "log_confusion()")
        with self._group.overhead:
            self._group.log_confusion(counts, classes, name)

    def note(self, text: str, *, number: int | None = None) -> None:
        """Records a line about the run, as what was done when it was built; of a group about the one with that number.

        What was said of a run already is not recorded once more.

        Raises:
            CallOrderError: no run is open.
        """
        call_order.need_run(self._group, "note()")
        self._group.note(text, number)

    def so_far(self) -> list[dict[str, float]]:
        """Loss and accuracy of the epoch under way, as far as it was tracked, of each member. Waits for the device.

        Raises:
            CallOrderError: no epoch is open.
        """
        epoch = self._group.epoch or call_order.refuse_outside_epoch(self._group, "so_far()")
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
        epoch = self._group.epoch or call_order.refuse_outside_epoch(self._group, "end_epoch()")
        self._group.end_epoch(epoch, checkpoint, stop, self._stop_when, self._sweep.dir.path)

    def end_run(self) -> None:
        """Ends the run: completed, or diverged where its last loss is not finite. That is on disk when the call returns.

        Raises:
            CallOrderError: no run is open, or an epoch still is.
            StorageError: the end cannot be written.
        """
        call_order.need_run(self._group, "end_run()")
        call_order.refuse_where_driven(self._is_driven, "end_run()")
        self._finish()

    def _finish(self) -> None:
        group = self._group
        call_order.refuse_in_epoch(group, "end_run()")
        if not group.ends_each:
            self._end(*group.finish_one())
        group.finish_each()
        exits.unwatch(self)

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

    @property
    def run_data(self) -> list["OrderedDict[str, Any]"]:
        """The rows so far, one dict per run and epoch, by column: results first, then metrics, then parameters."""
        return self._rows.by_column()

    def save(self, file_name: str | os.PathLike[str]) -> None:
        """Writes the rows of this manager to `<file_name>.csv` and `<file_name>.json`, here and whole.

        The tables in results/ are current without it.

        Raises:
            OSError: a file cannot be written; an older one is kept.
        """
        self._rows.save(Path(file_name))

    def forget(self) -> None:
        """Drops the rows of ended runs from memory; their files keep them, and `run_data` and `save` no longer have them."""
        self._rows.forget(but=[tracked.member.rows for tracked in self._group.members])

    def close(self) -> None:
        """Lets go of files and of the screen; an open run is marked interrupted."""
        self.abandon(None)
        self._writers.close()
