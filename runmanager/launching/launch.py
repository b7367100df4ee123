"""`launch`: trains what is missing of a sweep, in this process or in worker processes."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runmanager.launching.description import Changes
from runmanager.launching.exclusive import alone_without_locks
from runmanager.launching.fusion import AUTO, Fusion, fuse_fault, parse_fuse
from runmanager.launching.options import (
    GRACE_SECONDS,
    Limits,
    OnError,
    check_count,
    parse_keep,
    parse_on_error,
    parse_seconds,
    parse_statuses,
)
from runmanager.launching.outcomes import KeepBest, Outcomes
from runmanager.launching.record import changes_since, refuse_changes, write_record
from runmanager.launching.schedule import Schedule, schedule
from runmanager.launching.signals import SweepStopped
from runmanager.launching.slots import WorkersError, parse_workers
from runmanager.launching.sweep import Sweep, SweepError
from runmanager.launching.train_options import TrainOptions
from runmanager.launching.ways import Way, way_to_train
from runmanager.launching.work import Work
from runmanager.launching.worker import in_worker
from runmanager.nearest import nearest
from runmanager.tracking.files import sync_now
from runmanager.tracking.history import SweepHistory, read_run, read_sweep
from runmanager.tracking.progress import say
from runmanager.tracking.results import ResultsWriter, rebuild
from runmanager.tracking.rows import DIVERGED, DONE, RUNNING
from runmanager.tracking.run_dir import SweepDir
from runmanager.tracking.writers import Writer

Seconds = float | str | None
_MOST_OVERHEAD, _LEAST_OVERHEAD_SECONDS = 0.02, 1.0  # of tracking, before it is worth a word


@dataclass(frozen=True)
class _Options:
    """What a launch was told, checked."""

    workers: int | None
    retried: frozenset[str]
    num_retries: int
    limits: Limits
    on_error: OnError
    num_kept: int | None
    train: TrainOptions


def launch(
    sweep: Sweep | str | Path,
    *,
    workers: int | str = 0,
    fresh: bool = False,
    dry_run: bool = False,
    only: str | int | Sequence[str | int] = (),
    limit: int | None = None,
    epochs: int | None = None,
    params: Mapping[str, Sequence[Any]] | Sequence[str] = (),
    retry_failed: bool = False,
    retry_status: str | Sequence[str] = (),
    retries: int = 0,
    run_timeout: Seconds = None,
    epoch_timeout: Seconds = None,
    sweep_timeout: Seconds = None,
    grace: Seconds = GRACE_SECONDS,
    on_error: str = "continue",
    stop_diverged: bool = False,
    checkpoint_every: int = 1,
    keep: int | str = 10,
    accept_changes: bool = False,
    save_diff: bool = False,
    tensorboard: bool = True,
    histograms_every: int = 1,
    keep_memory: bool = True,
    fuse: str | int = AUTO,
    quiet: bool = False,
) -> SweepHistory:
    """Trains the runs of a sweep that are not complete, and returns what the sweep has reached.

    Launching again goes on: complete runs are skipped, interrupted ones continue from their last saved state, a grid that has
    grown trains the new runs alone. A run that fails is shown and does not stop the others. Several launches of one sweep at
    once share its runs.

    Args:
        sweep: a Sweep, or the path or the name of a sweep file.
        workers: how many processes train; 'auto' for one per core or per GPU, 0 for this process. With workers the sweep
            has to stand in a file of its own.
        fresh: start over; what is there is kept under another name.
        dry_run: print the runs and what would be done with each, and do nothing.
        only: number (3), range (`"3-5"`) or value (`"lr=0.01"`) of the runs to look at, or several of these.
        limit: train at most so many runs.
        epochs: another number of epochs than the trainer has.
        params: other values for some of the grid's parameters, a dict of lists or texts like `"lr=0.1,0.2"`.
        retry_failed: train the runs again that failed, ran out of memory, were killed or timed out.
        retry_status: train the runs with these statuses again.
        retries: how often a run that fails is tried again at once.
        run_timeout: seconds, or text like "90s", "15m", "2h", that a run may take; needs workers, as the next two do.
        epoch_timeout: the same for an epoch.
        sweep_timeout: the same for this launch; then it stops as by Ctrl-C.
        grace: what the epochs under way are left when the launch is to stop.
        on_error: 'continue'; 'stop' after a failure; 'stop-after=3' or 'stop-after=3-same' after so many, or so many alike.
        stop_diverged: end a run at once when its loss is not finite.
        checkpoint_every: epochs from one saved state to the next; 0 for none.
        keep: how many runs, the best by the objective, keep their saved states when they have completed; or 'all'.
        accept_changes: go on although code, data, settings or torch are not what the runs that are there were trained with.
        save_diff: keep what git has not committed, without what looks like a secret, as runs/<sweep>/code.diff.
        tensorboard: whether to write TensorBoard logs.
        histograms_every: epochs from one set of histograms to the next; 0 for none.
        keep_memory: whether workers keep the memory that they free, for their next step, instead of fetching it anew from the
            system. On a CPU big batches train up to twice as fast; a worker needs somewhat more memory at its most, and holds on
            to up to 1 GiB that it does not need between runs. Only in workers, and with glibc.
        fuse: whether runs of one architecture are trained in one step: 'auto' where a few steps of both show that it is faster,
            'off', or how many at most, whether that is faster or not.
        quiet: show nothing.

    Raises:
        SweepError: the sweep cannot start; it lists all that is wrong, and nothing was written.
        StorageError: the sweep's folder cannot be written.
        SweepStopped: Ctrl-C, SIGTERM or SIGHUP. It is a KeyboardInterrupt; what was under way is saved.
    """
    faults: list[str] = []
    options = _Options(
        _workers(workers, faults),
        parse_statuses(retry_failed, retry_status, faults),
        check_count("--retries", retries, 0, faults),
        Limits(
            parse_seconds("--run-timeout", run_timeout, faults),
            parse_seconds("--epoch-timeout", epoch_timeout, faults),
            parse_seconds("--sweep-timeout", sweep_timeout, faults),
            parse_seconds("--grace", grace, faults) or GRACE_SECONDS,
        ),
        parse_on_error(on_error, faults),
        parse_keep(keep, faults),
        TrainOptions(
            tensorboard,
            check_count("--histograms-every", histograms_every, 0, faults),
            check_count("--checkpoint-every", checkpoint_every, 0, faults),
            stop_diverged,
            keep_memory,
            _fuse(fuse, faults),
        ),
    )
    _check_together(options, faults)
    if in_worker():
        faults.append("its file launches it while it is read; put launch(...) under if __name__ == '__main__':")
    if faults:
        raise SweepError(str(sweep.name if isinstance(sweep, Sweep) else sweep), faults)
    changes = Changes(params, (), epochs) if isinstance(params, Mapping) else Changes({}, params, epochs)
    asked = [str(one) for one in ([only] if isinstance(only, (str, int)) else only)]
    with way_to_train(sweep, changes, options.workers, options.train) as way:
        one = _Launch(way, options, asked, limit, fresh=fresh, quiet=quiet)
        if dry_run:
            return one.show()
        one.make_room()
        with alone_without_locks(one.sweep_dir) as note:
            one.prepare(note, accept_changes=accept_changes, save_diff=save_diff)
            return one.train()


def _workers(workers: int | str, faults: list[str]) -> int | None:
    try:
        return parse_workers(workers)
    except WorkersError as error:
        faults.append(str(error))
        return 0


def _fuse(fuse: str | int, faults: list[str]) -> str | int:
    fault = fuse_fault(fuse)
    if fault:
        faults.append(fault)
        return AUTO
    return parse_fuse(fuse)


def _check_together(options: _Options, faults: list[str]) -> None:
    limits = {"--run-timeout": options.limits.run, "--epoch-timeout": options.limits.epoch}
    limits["--sweep-timeout"] = options.limits.sweep
    given = [name for name, limit in limits.items() if limit is not None]
    if options.workers == 0 and given:
        faults.append(f"{', '.join(given)}: limits are kept from outside the run; add --workers 1 or more")


class _Launch:
    """One launch of a sweep, from what is there to what it has reached."""

    def __init__(
        self, way: Way, options: _Options, only: list[str], limit: int | None, *, fresh: bool, quiet: bool
    ) -> None:
        """Looks at what is there, and checks the sweep where something is due.

        Raises:
            SweepError: it lists all that is wrong.
        """
        self._way, self._options, self._only, self._limit = way, options, only, limit
        self._is_fresh, self._is_quiet = fresh, quiet
        self._sweep = way.description
        self.sweep_dir = SweepDir(self._sweep.project, self._sweep.name)
        self._numbering = self.sweep_dir.numbering()
        self._plan = self._schedule()
        ahead = [*self._plan.due, *self._plan.elsewhere]  # others' runs may have to be taken over
        known = self.sweep_dir.read_plan().get("fusion") if self.sweep_dir.is_there() and not fresh else {}
        known = known if isinstance(known, dict) else {}
        surroundings = way.check([one.index for one in ahead], known, fresh=fresh) if ahead else {}
        self._fusion = Fusion.from_json(surroundings.pop("fusion")) if "fusion" in surroundings else Fusion()
        self._known_fusion = known
        self._surroundings = surroundings

    def _schedule(self) -> Schedule:
        return schedule(
            self._sweep,
            self.sweep_dir,
            self._only,
            self._limit,
            retried=self._options.retried,
            fresh=self._is_fresh,
        )

    def show(self) -> SweepHistory:
        """Prints the runs and what would be done with each."""
        for one in self._plan.runs:
            print(f"{one.number:4}  {one.action:24}  {one.run!r}")
        print(self._plan.summary())
        for note in self._fusion.notes:
            print(note)
        for change in changes_since(self._sweep, self.sweep_dir, self._plan, self._surroundings):
            print(f"changed: {change}")
        return read_sweep(self.sweep_dir)

    def make_room(self) -> None:
        """Makes the sweep's folder, what was there set aside where that was asked for.

        Raises:
            SweepError: --fresh would take a run from its owner.
            StorageError: the folder cannot be made.
        """
        if self._is_fresh and self.sweep_dir.is_there():
            self._say(f"what was there is kept as {self._set_aside()}")
        self.sweep_dir.make()

    def prepare(self, note: str | None, *, accept_changes: bool, save_diff: bool) -> None:
        """Writes down what will be done, and says it.

        Raises:
            SweepError: what is there was made with other code, data or settings.
            StorageError: the folder cannot be written.
        """
        said = [note] if note else []
        with self.sweep_dir.locked():
            for path in self.sweep_dir.left_over():
                with suppress(OSError):  # the next launch tries again
                    path.unlink()
            if not self._is_fresh and self.sweep_dir.numbering() != self._numbering:
                self._plan = self._schedule()  # another launch may have given numbers meanwhile
            changes = changes_since(self._sweep, self.sweep_dir, self._plan, self._surroundings)
            trains = self._plan.due or self._plan.elsewhere
            if trains and not accept_changes:
                refuse_changes(self._sweep, changes)
            note = "accepted" if trains else "note: since these runs were trained (--fresh trains them anew)"
            said += [f"{note}: {change}" for change in changes]
            about = {**self._surroundings, "git": self._way.git.result(), "threads": self._way.threads}
            about["fusion"] = {**self._known_fusion, **self._fusion.choices()}
            write_record(self._sweep, self.sweep_dir, self._plan, about, changes)
        if save_diff:
            from runmanager.launching.git import redacted_diff

            self.sweep_dir.write_diff(redacted_diff(self._sweep.project))
        source = self._surroundings.get("data", {}).get("source")
        said.append(f"{self._sweep.name}: {self._plan.summary()}" + (f"; data: {source}" if source else ""))
        self._say("\n".join([*said, *self._fusion.notes]))

    def _set_aside(self) -> str:
        """Gives what is there another name.

        Raises:
            SweepError: a run of it is being trained.
        """
        running = [run.number for run in read_sweep(self.sweep_dir).runs if run.status == RUNNING]
        if running:
            fault = f"--fresh: run {running[0]} is being trained by another process; stop that first"
            raise SweepError(self._sweep.name, [fault])
        return self.sweep_dir.set_aside()

    def train(self) -> SweepHistory:
        """Trains what is due; returns what the sweep has reached.

        Raises:
            SweepStopped: a signal asked for it.
        """
        options = self._options
        outcomes = Outcomes(options.on_error, options.num_retries)
        work = Work(self._plan, options.retried, self._say, self._fusion)
        writers: list[Writer] = [
            ResultsWriter(self.sweep_dir),
            self._keep_best(),
            *([] if self._is_quiet else [self._display()]),
        ]
        stop, reads = self._way.train(work, writers, outcomes, options.limits)
        if not outcomes.trained or options.workers != 0 or work.has_grouped:
            rebuild(
                self.sweep_dir
            )  # workers' and groups' epochs came as they came; the tables end in the order of runs and epochs
        sync_now()
        history = read_sweep(self.sweep_dir)
        history.trained, history.unrecorded = sorted(outcomes.trained), outcomes.unrecorded
        if stop.is_asked:
            history.stopped = stop.reason
            self._say(f"stopped ({stop.reason}); the same command goes on with what is left")
        if outcomes.num_completed and not outcomes.num_resumed:
            self._say_unread(reads)
        self._say_objective(outcomes)
        self._say_overhead(outcomes)
        if stop.number is not None:
            raise SweepStopped(stop.number, history)
        return history

    def _display(self) -> Writer:
        from runmanager.tracking.display import make_display
        from runmanager.tracking.progress import Progress

        num_due = len(self._plan.due)
        return make_display(Progress(num_due, self._sweep.num_epochs, self._sweep.objective, self._sweep.mode))

    def _keep_best(self) -> KeepBest:
        """Knows the runs that have saved states already."""
        keep = KeepBest(self._options.num_kept, self._sweep.objective, self._sweep.mode)
        for run_dir in self.sweep_dir.runs():
            if run_dir.checkpoints.is_dir():
                history = read_run(run_dir, {self._sweep.objective or "": self._sweep.mode or ""})
                if history is not None and history.status in DONE:
                    value = history.score(self._sweep.objective or "")
                    keep.add(run_dir, value if history.status != DIVERGED else None)
        return keep

    def _say(self, text: str) -> None:
        if not self._is_quiet and text:
            say(text)

    def _say_unread(self, reads: set[str]) -> None:
        """A hand-written function tells only by running what it reads."""
        unread = [name for name in self._sweep.params if name not in reads | {"seed"}]
        if unread and not self._sweep.has_trainer:
            self._say(f"note: {', '.join(unread)} is in the grid, but train() never read run.{unread[0]}")

    def _say_overhead(self, outcomes: Outcomes) -> None:
        """Where tracking costs more than it should, what would cost less."""
        share = outcomes.overhead_seconds / max(outcomes.training_seconds, 1e-9)
        if share > _MOST_OVERHEAD and outcomes.overhead_seconds > _LEAST_OVERHEAD_SECONDS:
            self._say(
                f"note: tracking took {share:.1%} of the runs' time ({outcomes.overhead_seconds:.1f} s); "
                "--histograms-every 5, --checkpoint-every 5 or --no-tensorboard take less"
            )

    def _say_objective(self, outcomes: Outcomes) -> None:
        """A function tells only by running what it logs."""
        objective = self._sweep.objective
        if objective and outcomes.num_completed and objective not in outcomes.metrics:
            logged = ", ".join(outcomes.metrics) + nearest(objective, outcomes.metrics)
            self._say(f"note: the objective {objective!r} was never logged, so no run is best; logged: {logged}")
