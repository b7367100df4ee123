"""Training a group of runs in lockstep: many networks, one step. Each run goes its own way in all but that."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Generator, Tensor

from runmanager.data.splits import Splits
from runmanager.tracking.checkpoint import generators, put_back
from runmanager.tracking.errors import CheckpointError, RunStopped
from runmanager.tracking.faults import is_out_of_memory, is_quit, one_line
from runmanager.tracking.manager import RunManager
from runmanager.tracking.rows import STOPPED
from runmanager.training.alike import NotFusable, group_key
from runmanager.training.checkpoints import TrainingState
from runmanager.training.epochs import RunningLoss, evaluate, track
from runmanager.training.fused import FusedStepper
from runmanager.training.loaders import NotResident, ResidentBatches
from runmanager.training.parts import Parts
from runmanager.training.recipe import Recipe
from runmanager.training.seeding import seeded
from runmanager.training.showing import show
from runmanager.training.skeleton import without_advice
from runmanager.training.stacked_averages import StackedAverages

if TYPE_CHECKING:
    from runmanager.training.trainer import Trainer


class GroupBroken(Exception):  # noqa: N818 (it is no fault)
    """The group cannot go on as it is; its runs can, in groups of at most `size`. The text says why."""

    def __init__(self, size: int, reason: str) -> None:
        super().__init__(f"{reason}; {'in groups of up to ' + str(size) if size > 1 else 'alone'} from here on")
        self.size = max(1, size)


@dataclass(eq=False)
class Member:
    """One run of the group, with what is its alone."""

    run: Any
    number: int
    parts: Parts
    order: Generator  # of its batches
    num_epochs: int
    shuffle: bool
    sampling: str | None
    states: dict[str, Any]  # of the global random number generators, as it would have them alone
    state: TrainingState | None = None

    @classmethod
    def build(
        cls,
        trainer: "Trainer",
        run: Any,
        splits: Splits,
        project: Path,
        *,
        number: int = 0,
        seed: int,
        with_start: bool = True,
    ) -> "Member":
        """A member at its beginning, built as it is alone."""
        with seeded(seed):
            parts = trainer.build(run, splits, project, with_start=with_start)
            states = generators()
        num_epochs, shuffle, sampling = (trainer.setting(name, run) for name in ("epochs", "shuffle", "sampling"))
        return cls(run, number, parts, Generator().manual_seed(seed), num_epochs, shuffle, sampling, states)

    def generator(self) -> Generator:
        """What its dropout draws from: a generator in the state in which the global one would be."""
        device = self.parts.device
        if device.type == "cuda":
            generator = Generator(device)
            generator.set_state(self.states["cuda"][device.index or 0])
        else:
            generator = Generator()
            generator.set_state(self.states["torch"])
        return generator

    def mixer(self, generator: Generator) -> Generator:
        """What its mixup draws from, which is on the CPU: what its dropout draws from, where that is."""
        if generator.device.type == "cpu":
            return generator
        own = Generator()
        own.set_state(self.states["torch"])
        return own

    def note(self, generator: Generator) -> None:
        """Its global generator of that device is where this one is now."""
        if generator.device.type == "cuda":
            self.states["cuda"][self.parts.device.index or 0] = generator.get_state()
        else:
            self.states["torch"] = generator.get_state()

    def capture(self) -> dict[str, Any]:
        """Its state, to be saved; the global generators are put to where they would be alone, and are saved with it."""
        assert self.state is not None
        put_back(self.states)
        return self.state.capture()


def build_stepper(members: Sequence[Member], arithmetic: str, *, shared: bool, sample: Tensor) -> FusedStepper:
    """The Stepper of these members; see there."""
    generators = [member.generator() for member in members]
    mixers = [member.mixer(generator) for member, generator in zip(members, generators, strict=True)]
    parts = [member.parts for member in members]
    return FusedStepper(parts, generators, arithmetic, shared=shared, mixers=mixers, sample=sample)


class Group:
    """Trains runs together, from their seeds or from where earlier attempts left them."""

    _stepper: FusedStepper  # there is one while `_is_stepping`

    def __init__(self, trainer: "Trainer", manager: RunManager, splits: Splits, project: Path, arithmetic: str) -> None:
        """Nothing is built yet.

        Args:
            trainer: whose runs they are.
            manager: has begun them.
            splits: the data of all of them.
            project: whose runs they may start from.
            arithmetic: one of `arithmetics.ARITHMETICS`.
        """
        self._trainer, self._manager, self._splits, self._arithmetic = trainer, manager, splits, arithmetic
        self._project = project
        self._members: list[Member] = []
        self._is_stepping = False

    def train(self, runs: Sequence[Any], numbers: Sequence[int], seeds: Sequence[int]) -> None:
        """Trains them all to their last epochs.

        Raises:
            GroupBroken: they cannot be trained together, or not so many of them.
        """
        with without_advice(), seeded(0):  # whatever the members draw, the generators outside are put back
            try:
                self._build(runs, numbers, seeds)
                if self._members:
                    self._train()
            except (NotFusable, NotResident, CheckpointError) as reason:
                raise GroupBroken(1, str(reason)) from reason
            except (Exception, SystemExit) as error:
                if is_quit(error):
                    raise
                raise self._broken_by(error, len(runs)) from error
            finally:
                if self._is_stepping:
                    self._stepper.close()

    def _broken_by(self, error: BaseException, num_runs: int) -> GroupBroken:
        size = len(self._members) if self._is_stepping else num_runs
        if is_out_of_memory(error):
            return GroupBroken(size // 2, f"out of memory with {size} runs in one step")
        return GroupBroken(1, f"the group's step failed ({one_line(error)})")

    def _build(self, runs: Sequence[Any], numbers: Sequence[int], seeds: Sequence[int]) -> None:
        for run, number, seed in zip(runs, numbers, seeds, strict=True):
            try:
                self._members.append(self._member(run, number, seed))
            except (Exception, SystemExit) as error:  # noqa: BLE001 (what a run's own functions raise ends that run)
                self._leave(number, error)
        keys = {group_key(member.parts, None) for member in self._members}
        if len(keys) > 1:
            raise NotFusable("their networks, losses or optimizers are built differently")

    def _member(self, run: Any, number: int, seed: int) -> Member:
        with_start = not self._manager.resumes(number)
        where = (self._trainer, run, self._splits, self._project)
        return Member.build(*where, number=number, seed=seed, with_start=with_start)

    def _train(self) -> None:
        self._batches = ResidentBatches(
            self._trainer.resident(self._splits, self._members[0].parts.device),
            [member.order for member in self._members],
            batch_size=self._trainer.setting("batch_size", self._members[0].run),
            shuffles=[member.shuffle for member in self._members],
            samplings=[member.sampling for member in self._members],
        )
        self._manager.watch([member.parts.network for member in self._members], self._batches.shown)
        self._take_up()
        self._shrink()
        for member in self._members if self._members and self._manager.num_epochs == 0 else ():
            for note in member.parts.notes:
                self._manager.note(note, number=member.number)
        if self._members:
            self._stack_up()
        while self._members:
            if not self._leave_where_done():
                self._epoch()

    def _stack_up(self) -> None:
        """Puts the members into one stack; of one that was there before, all memory is free by then that can be."""
        if self._is_stepping:
            self._stepper.close()
            self._is_stepping = False
            del self._stepper
        batches = self._batches
        self._stepper = build_stepper(
            self._members, self._arithmetic, shared=batches.are_shared, sample=batches.sample()
        )
        self._is_stepping = True

    def _take_up(self) -> None:
        """Puts each member where its last state was saved."""
        failed: dict[int, BaseException] = {}

        def take_up(index: int, saved: dict[str, Any]) -> None:
            member = self._members[index]
            member.states = generators()
            try:
                assert member.state is not None
                member.state.restore(saved)
            except (Exception, SystemExit) as error:  # noqa: BLE001 (it ends its own run)
                failed[member.number] = error

        for member in self._members:
            member.state = TrainingState(member.parts, member.order, self._splits)
        self._manager.load_checkpoints(take_up)
        for number, error in failed.items():
            self._leave(number, error)
        self._leave_where_over()

    def _leave_where_over(self) -> None:
        """An earlier attempt may have ended between a member's last epoch and the record of its end."""
        for member in self._members:
            reason = member.parts.recipe.stop_reason() if self._manager.num_epochs < member.num_epochs else None
            if reason and member.number in self._manager.numbers:
                self._manager.leave(member.number, RunStopped(STOPPED, reason))

    def _leave_where_done(self) -> bool:
        """Whether members have done all their epochs, and so have left."""
        done = [member for member in self._members if self._manager.num_epochs >= member.num_epochs]
        for member in done:
            self._manager.leave(member.number)
        self._shrink()
        return bool(done)

    def _shrink(self) -> None:
        """Goes on without the members that have left."""
        still = self._manager.numbers
        kept = [index for index, member in enumerate(self._members) if member.number in still]
        if 0 < len(kept) < len(self._members):
            if self._is_stepping:
                self._stepper.keep(kept)
            self._batches.keep(kept)
        self._members = [self._members[index] for index in kept]

    def _leave(self, number: int, error: BaseException) -> None:
        """Ends a member that has raised. The debugger's `quit` ends all, and where memory is short the group is too large."""
        if is_quit(error) or is_out_of_memory(error):
            raise error
        self._manager.leave(number, error)

    def _drop_failed(self) -> None:
        """Ends the members whose losses have raised."""
        for index, error in self._stepper.failures.items():
            self._manager.leave(self._members[index].number, error)
        self._shrink()

    def _epoch(self) -> None:
        self._thaw(self._manager.num_epochs + 1)
        self._manager.begin_epoch()
        self._stepper.begin_epoch()
        self._train_epoch()
        metrics: Sequence[dict[str, float]] = self._validate() if self._members else []
        if self._members and self._stepper.averages is not None:
            metrics = self._validate_averages(self._stepper.averages, metrics)
        if self._members:
            self._measure(metrics)
            self._end_epoch(self._end_recipes(metrics))

    def _thaw(self, epoch: int) -> None:
        """Begins an epoch with all that is trained in it; the stack holds that, so that it is made anew."""
        begun = [member.parts.recipe.begin_epoch(member.parts.network, epoch) for member in self._members]
        if any(begun):
            self._stack_up()

    def _train_epoch(self) -> None:
        running = RunningLoss.of(self._manager, self._members[0].parts.recipe)
        self._stepper.train(True)
        for inputs, targets in self._batches.train():
            outcome = self._stepper.step(inputs, targets)
            track(self._manager, outcome, self._stepper.size)
            if self._stepper.failures:
                self._drop_failed()
                if not self._members:
                    return
            elif running is not None:
                running.add(outcome, self._stepper.size)

    def _recipes(self) -> list[Recipe]:
        return [member.parts.recipe for member in self._members]

    def _validate(self) -> list[dict[str, float]]:
        """The metrics of each member; those whose losses raise leave."""
        batches = self._batches.validation()
        if batches is None:
            return [{} for _ in self._members]
        found = evaluate(self._stepper, batches, self._recipes(), self._stepper.failures)
        kept = self._without_failed()
        if self._members:
            self._manager.log(**{name: [values[index] for index in kept] for name, values in found.items()})
        return [{name: values[index] for name, values in found.items()} for index in kept]

    def _validate_averages(
        self, averages: StackedAverages, metrics: Sequence[dict[str, float]]
    ) -> Sequence[dict[str, float]]:
        """The metrics, and what those of the members reach that have averaged weights by now."""
        averages.end_epoch(self._manager.num_epochs + 1)
        inputs = (batch for batch, _ in self._batches.as_trained())
        self._stepper.refresh_averages(inputs, shared=self._batches.have_one_way)
        batches, have_begun = self._batches.validation(), averages.have_begun
        if batches is None or not any(have_begun):
            return metrics
        found = {f"average {name}": values for name, values in evaluate(self._stepper.averaged(), batches).items()}
        kept = self._without_failed()
        own = [{name: values[index] for name, values in found.items() if have_begun[index]} for index in kept]
        if self._members:
            self._manager.log(**{name: [one.get(name) for one in own] for name in found})
        return [{**metrics[index], **one} for index, one in zip(kept, own, strict=True)]

    def _without_failed(self) -> list[int]:
        """Ends the members whose losses have raised; returns the places of the others."""
        kept = [index for index in range(len(self._members)) if index not in self._stepper.failures]
        self._drop_failed()
        return kept

    def _measure(self, metrics: Sequence[Mapping[str, float]]) -> None:
        """Logs what is known of an epoch beside its validation, and shows it."""
        norms = self._stepper.grad_norms()
        if norms is not None:
            self._manager.log(**{"gradient norm": norms})
        rates = [member.parts.recipe.rates(member.parts.optimizer) for member in self._members]
        for name in dict.fromkeys(name for one in rates for name in one):
            self._manager.log(**{name: [one.get(name) for one in rates]})
        show(self._manager, self._stepper, self._batches, self._recipes(), self._splits)

    def _end_recipes(self, metrics: Sequence[Mapping[str, float]]) -> list[str | None]:
        """Why each member should stop, or None; one whose schedule raises leaves."""
        epoch = self._manager.num_epochs + 1
        tracked: list[dict[str, float]] = [{} for _ in self._members]
        if any(recipe.monitored() for recipe in self._recipes()):
            tracked = self._manager.so_far()
        reasons: dict[int, str | None] = {}
        for member, own, sums in zip(list(self._members), metrics, tracked, strict=True):
            try:
                reason = member.parts.recipe.end_epoch({**sums, **own}, epoch)
                reasons[member.number] = reason if epoch < member.num_epochs else None
            except (Exception, SystemExit) as error:  # noqa: BLE001 (a schedule of the user's own may raise anything)
                self._leave(member.number, error)
        self._shrink()
        return [reasons[member.number] for member in self._members]

    def _end_epoch(self, reasons: Sequence[str | None]) -> None:
        if not self._members:
            return
        self._stepper.write_back()
        for drawn_from in (self._stepper.generators, self._stepper.mixers):
            for member, generator in zip(self._members, drawn_from, strict=False):
                member.note(generator)
        self._manager.end_epoch(checkpoint=[member.capture for member in self._members], stop=list(reasons))
        self._shrink()
