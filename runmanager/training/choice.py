"""How a group is trained fastest, together or one by one, found out by taking a few steps of each."""

import math
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch.nn import Module

from runmanager.tracking.checkpoint import generators, put_back
from runmanager.tracking.faults import is_out_of_memory, one_line
from runmanager.training.alike import NotFusable, group_key, token
from runmanager.training.arithmetics import ALONE, ARITHMETICS, LOOPED, VMAP
from runmanager.training.fused import FusedStepper
from runmanager.training.group import Member, build_stepper
from runmanager.training.loaders import Batch, ResidentBatches, ResidentSplits
from runmanager.training.plain import differences
from runmanager.training.seeding import seeded
from runmanager.training.skeleton import is_convolution, is_dropout, without_advice
from runmanager.training.steppers import SingleStepper, Stepper

if TYPE_CHECKING:
    from runmanager.training.trainer import Trainer

_SIZES = (8, 32, 128)  # that are tried, as long as one is better than the one before
_BETTER = 1.1  # how much faster a group has to be; alone, a run's bits are always the same
_NUM_ROUNDS = 5
_LOOK_SECONDS, _MOST_STEPS = 0.03, 50  # of one look at the steps alone
_LEAST_SECONDS, _MOST_SECONDS, _MOST_SHARE = (
    0.5,
    10.0,
    0.02,
)  # that finding out may take for one kind of run, and of its work
_SMALL_BATCH, _WORTH_A_TRY = 2, 1.3  # how much faster a group has to be at best for one to be tried
_DEAR_SECONDS = 0.002  # a step above it is arithmetic for the most part, and a group seldom gains
_AS_ALONE = 5e-3  # how near a member's first losses have to be to what they are alone; autocast rounds to 1e-3


@dataclass(frozen=True)
class Choice:
    """How runs of one kind are trained."""

    size: int  # of a group; 1 for one by one
    arithmetic: str  # one of ARITHMETICS, or ALONE
    reason: str
    step_seconds: float  # of one run: the time of a group's step divided by its members
    num_steps: int  # of an epoch
    alone_seconds: float = 0.0  # of a step one by one, where it was measured
    is_timed: bool = True  # and not just refused

    @property
    def epoch_seconds(self) -> float:
        """What an epoch of one run takes, its validation left out."""
        return self.step_seconds * self.num_steps


class Trial:
    """Takes steps with runs of one kind, to see how fast they are. What it trains is thrown away."""

    def __init__(self, trainer: "Trainer", runs: Sequence[Any], split_seed: int, project: Path) -> None:
        """Reads the data.

        Args:
            trainer: whose runs they are.
            runs: as many as a group may have, all of one kind.
            split_seed: decides the validation split.
            project: where a known data set is looked for.

        Raises:
            NotResident: the data cannot be resident, so the runs cannot be fused.
        """
        self._trainer, self._runs, self._project = trainer, runs, project
        self._splits = trainer.splits(runs[0], split_seed, project)
        with seeded(0):
            parts = trainer.build(runs[0], self._splits, project, with_start=False)
        self._device = parts.device
        self._num_pieces = parts.recipe.accumulate
        self._has_convolutions = any(map(is_convolution, parts.network.modules()))
        self._has_dropout = any(map(is_dropout, parts.network.modules()))
        self._data: ResidentSplits = trainer.resident(self._splits, self._device)
        self._batch_size = trainer.setting("batch_size", runs[0])

    @property
    def num_steps(self) -> int:
        """Of an epoch."""
        return math.ceil(len(self._data.train) / int(self._batch_size))

    def work_seconds(self, step_seconds: float) -> float:
        """What all the runs take if a step takes so long."""
        num_epochs: int = sum(self._trainer.setting("epochs", run) for run in self._runs)
        return step_seconds * self.num_steps * num_epochs

    def arithmetics(self) -> list[str]:
        """Those that may differ for this network."""
        if not self._has_convolutions:
            return [VMAP]
        return [LOOPED] if self._device.type == "cpu" else list(ARITHMETICS)  # a grouped one was never faster there

    def members(self, size: int) -> list[Member]:
        """Newly built members."""
        return [self.member(index) for index in range(size)]

    def member(self, index: int) -> Member:
        """The member of one of the runs, newly built; its seed is its place."""
        run = self._runs[index]
        return Member.build(self._trainer, run, self._splits, self._project, seed=index, with_start=False)

    def batches(self, members: Sequence[Member], batch_size: int | None = None) -> ResidentBatches:
        """Their batches; of another size than theirs where one is given."""
        return ResidentBatches(
            self._data,
            [one.order for one in members],
            batch_size=batch_size or self._batch_size,
            shuffles=[one.shuffle for one in members],
            samplings=[one.sampling for one in members],
        )

    def alone(self, batch_size: int | None = None) -> "Pace":
        """One run by itself, with batches of another size than its own where one is given."""
        (member,) = self.members(1)
        stepper = SingleStepper(member.parts)
        return Pace(stepper, self.batches([member], batch_size))

    def most_gain(self, step_seconds: float) -> float:
        """How much faster a group could be at best.

        On a CPU it saves what a step costs whatever its batch, which one of two samples in each piece shows; arithmetic stays.
        """
        if self._device.type != "cpu":
            return math.inf
        small = self.alone(_SMALL_BATCH * self._num_pieces)
        small.next_losses()
        arithmetic = step_seconds - small.seconds(_NUM_ROUNDS)
        return step_seconds / arithmetic if arithmetic > 0 else math.inf

    def fused(self, size: int, arithmetic: str) -> "Pace":
        """A group of the first runs, which has taken two steps and was found to do what each does alone.

        Raises:
            NotFusable: it cannot be done so.
        """
        members = self.members(size)
        if len({group_key(member.parts, None) for member in members}) > 1:
            raise NotFusable("their networks, losses or optimizers are built differently")
        batches = self.batches(members)
        stepper = build_stepper(members, arithmetic, shared=batches.are_shared, sample=batches.sample())
        stepper.begin_epoch()
        module, before = stepper.module, (token(stepper.module), generators())
        pace = Pace(stepper, batches)
        try:
            with without_advice():
                losses = [pace.next_losses(), pace.next_losses()]
                self._try_ends(stepper, batches)
        except Exception as error:
            if is_out_of_memory(error):
                raise
            raise NotFusable(_why(error)) from error
        if _is_another(module, before[0]):
            raise NotFusable("its forward changes an attribute of a module, which each network has to have for itself")
        if any(differences(before[1], generators(), "")):
            raise NotFusable("its forward or its loss draws random numbers outside of dropout layers")
        self._compare(losses)
        return pace

    def _try_ends(self, stepper: FusedStepper, batches: ResidentBatches) -> None:
        """The last batch, which may be a short one that leaves parameters out, and a batch to validate on, also the averages."""
        stepper.step(*batches.last())
        if stepper.averages is not None:
            stepper.averages.end_epoch(sys.maxsize)
            inputs = (inputs for inputs, _ in islice(batches.as_trained(), 1))
            stepper.refresh_averages(inputs, shared=batches.have_one_way)
        for batch in islice(batches.validation() or (), 1):
            stepper.train(False)
            stepper.evaluate(*batch)
            if stepper.averages is not None:
                stepper.averaged().evaluate(*batch)
        stepper.train(True)

    def _compare(self, losses: list[list[float]]) -> None:
        """Whether the first and the last member have the losses of two steps that they have alone.

        On CUDA, dropout draws other masks in a group than alone, so that a network that has it is not looked at.
        """
        if self._device.type == "cuda" and self._has_dropout:
            return
        for index in {0, len(losses[0]) - 1}:
            member = self.member(index)
            with seeded(index):
                put_back(member.states)
                stepper = SingleStepper(member.parts)
                pace = Pace(stepper, self.batches([member]))
                for together in losses:
                    _compare(together[index], pace.next_losses()[0])


def _compare(together: float, alone: float) -> None:
    is_near = abs(alone - together) <= _AS_ALONE * max(1.0, abs(alone))
    if not is_near and math.isfinite(alone):
        raise NotFusable(f"a loss of its first steps is {together:.6g} in a group and {alone:.6g} alone")


def _is_another(module: Module, before: str) -> bool:
    """Whether anything of a network's modules has changed but parameters and buffers."""
    try:
        return token(module) != before
    except RuntimeError:  # an attribute is a tensor of vmap's, which cannot be looked at any more
        return True


def _why(error: Exception) -> str:
    text = str(error)
    if "data-dependent control flow" in text or ".item()" in text:
        return "its forward looks at values (.item(), or an if on a tensor), which differ between networks"
    if "random operation" in text:
        return "its forward draws random numbers outside of dropout layers"
    if "not have been used" in text:
        return "a parameter gets no gradient"
    return f"it cannot be stacked ({one_line(error)[:200]})"


class Pace:
    """Steps that are timed."""

    def __init__(self, stepper: Stepper, batches: ResidentBatches) -> None:
        self._stepper, self._batches = stepper, batches
        self._iterator = batches.train()
        stepper.train(True)

    def close(self) -> None:
        """Lets go of the memory of a group."""
        if isinstance(self._stepper, FusedStepper):
            self._stepper.close()

    def next_losses(self) -> list[float]:
        """The losses of another step."""
        losses: list[float] = self._stepper.step(*self._next()).loss.reshape(-1).tolist()
        return losses

    def _next(self) -> Batch:
        for batch in self._iterator:
            return batch
        self._iterator = self._batches.train()
        return next(self._iterator)

    def seconds(self, num_steps: int) -> float:
        """The time of a step of one run."""
        clock = self._clock()
        began = clock()
        for batch in islice(iter(self._next, None), num_steps):
            outcome = self._stepper.step(*batch)
        outcome.loss.sum().item()  # waits for the device
        return max(clock() - began, 1e-9) / num_steps / self._stepper.size

    def _clock(self) -> Callable[[], float]:
        """The time of this process where all is done in one thread of it, whatever else the machine does meanwhile."""
        is_one_thread = self._batches.device.type == "cpu" and torch.get_num_threads() == 1
        return time.process_time if is_one_thread else time.perf_counter


class _Watch:
    """The best times of a step, alone and in groups, taken in turn so that both see the same machine."""

    def __init__(self, trial: Trial, most_seconds: float) -> None:
        self._alone = trial.alone()
        self._alone.next_losses()
        self.alone_seconds = self._alone.seconds(1)
        self._num_steps = max(1, min(_MOST_STEPS, int(_LOOK_SECONDS / self.alone_seconds)))
        share = trial.work_seconds(self.alone_seconds) * _MOST_SHARE
        self._most_seconds = min(most_seconds, max(_LEAST_SECONDS, share))
        self._until = math.inf

    @property
    def is_over(self) -> bool:
        """Whether finding out more would cost more than it may."""
        return time.perf_counter() > self._until

    def time_alone(self) -> float:
        """Another look at the steps alone."""
        seconds = self._alone.seconds(self._num_steps)
        self.alone_seconds = min(self.alone_seconds, seconds)
        return seconds

    def time(self, pace: Pace, size: int) -> float:
        """The time of a group's step for each of its runs, by the median of looks at both right after each other."""
        if self._until == math.inf:  # the first group of a process has just loaded what they all need
            self._until = time.perf_counter() + self._most_seconds
        gains: list[float] = []
        while len(gains) < _NUM_ROUNDS and not (gains and self.is_over):
            seconds = pace.seconds(max(1, self._num_steps // size))
            gains.append(self.time_alone() / seconds)
        return self.alone_seconds / statistics.median(gains)


def choose(trial: Trial, most: int, *, forced: bool = False) -> Choice:
    """The fastest way to train runs of a kind, by a few steps of each.

    Args:
        trial: takes the steps.
        most: how many may be in a group.
        forced: whether they are fused where it can be done at all, and in groups of that many.
    """
    with without_advice(), seeded(0):  # the steps that are tried may draw
        return _choose(trial, most, forced)


def _choose(trial: Trial, most: int, forced: bool) -> Choice:
    watch = _Watch(trial, math.inf if forced else _MOST_SECONDS)
    if most < 2:
        watch.time_alone()
        return _alone(trial, watch, "it is the only one of its kind")
    if not forced and (gain := trial.most_gain(watch.alone_seconds)) < _WORTH_A_TRY:
        watch.time_alone()
        return _alone(
            trial, watch, f"a step is arithmetic for the most part, and a group at most {gain:.2f} times as fast"
        )
    found: list[Choice] = []
    try:
        for size in _halves(most) if forced else _ladder(most, watch.alone_seconds):
            try:
                times = {one: _timed(trial, watch, size, one) for one in trial.arithmetics()}
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                if found or size < 2:
                    break
                continue
            fastest = min(times, key=lambda one: times[one])
            found.append(Choice(size, fastest, "", times[fastest], trial.num_steps, watch.alone_seconds))
            if forced or watch.is_over or _is_past_its_best(found, watch.alone_seconds):
                break
    except NotFusable as reason:
        if not found:
            return replace(_alone(trial, watch, str(reason)), is_timed=False)
    if not found:
        return replace(_alone(trial, watch, "there is not enough memory for two of them"), is_timed=False)
    best = min(found, key=lambda one: one.step_seconds)
    gain = watch.alone_seconds / best.step_seconds
    said = f"a step of {best.size} runs ({best.arithmetic}) is {gain:.2f} times as fast as one by one"
    if not forced and gain < _BETTER:
        return _alone(trial, watch, f"{said}; a group has to be {_BETTER} times as fast")
    return replace(best, reason=f"{'asked for; ' * forced}{said}", alone_seconds=watch.alone_seconds)


def _timed(trial: Trial, watch: _Watch, size: int, arithmetic: str) -> float:
    """The time of a step of one run in a group."""
    pace = trial.fused(size, arithmetic)
    try:
        return watch.time(pace, size)
    finally:
        pace.close()


def _halves(most: int) -> list[int]:
    """What a group is tried with until its memory suffices."""
    return [most >> times for times in range(most.bit_length() - 1)]


def _alone(trial: Trial, watch: _Watch, reason: str) -> Choice:
    return Choice(1, ALONE, reason, watch.alone_seconds, trial.num_steps, watch.alone_seconds)


def _ladder(most: int, alone_seconds: float) -> list[int]:
    """The sizes that are tried: small ones first where a step is dear, and so is trying."""
    sizes = _SIZES if alone_seconds < _DEAR_SECONDS else (4, *_SIZES)
    return [*(size for size in sizes if size < most), min(most, sizes[-1])]


def _is_past_its_best(found: list[Choice], alone_seconds: float) -> bool:
    """Whether larger groups are not worth a try."""
    if len(found) > 1:
        return found[-1].step_seconds > 0.95 * found[-2].step_seconds
    return alone_seconds >= _DEAR_SECONDS and found[0].step_seconds * _BETTER > alone_seconds
