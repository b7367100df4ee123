"""The learning-rate range test (Smith 2015, arXiv:1506.01186): the rate rises step by step, and the losses tell where it suits."""

import math
import statistics
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from torch import Tensor
from torch.optim import Optimizer

from runmanager.training.loaders import Batch
from runmanager.training.settings import TrainerError
from runmanager.training.steppers import Stepper

MIN_STEPS = 10
_TIMES_BEST = 4.0  # a smoothed loss beyond so many times the best one ends the test
_NUM_LINES = 20
_BAR = 40


@dataclass(frozen=True)
class RatePoint:
    """One step."""

    step: int  # counted from 1
    rate: float
    loss: float
    smoothed: float  # the mean of the losses around it


@dataclass(frozen=True)
class RateRange:
    """What the losses were while the rate rose."""

    points: list[RatePoint]
    suggestion: float | None  # the rate at which the smoothed loss falls fastest; None where it does not fall
    stopped: str  # why the test ended

    def lines(self) -> list[str]:
        """Some of the steps with their smoothed loss, also as a bar; why it ended; what to try."""
        return [
            f"{'rate':>9}  {'loss':>9}  smoothed",
            *map(self._line, self._shown()),
            self.stopped,
            self._advice(),
        ]

    def _shown(self) -> list[RatePoint]:
        every = math.ceil(len(self.points) / _NUM_LINES)
        return [point for point in self.points if point.step % every == 1 % every or point.rate == self.suggestion]

    def _line(self, point: RatePoint) -> str:
        low, high = self._scale()
        share = (point.smoothed - low) / (high - low) if math.isfinite(point.smoothed) else 1.0
        bar = "#" * (1 + round(min(share, 1.0) * (_BAR - 1)))
        mark = "  <- falls fastest" if point.rate == self.suggestion else ""
        return f"{point.rate:9.2e}  {point.loss:9.4g}  {point.smoothed:9.4g}  {bar}{mark}"

    def _scale(self) -> tuple[float, float]:
        """From the best smoothed loss to somewhat more than the first, so that a loss which explodes hides no other."""
        finite = [one.smoothed for one in self.points if math.isfinite(one.smoothed)] or [0.0]
        low, first = min(finite), finite[0]
        high = low + 1.5 * (first - low) if self.suggestion is not None else max(finite)
        return low, high if high > low else low + 1.0

    def _advice(self) -> str:
        if self.suggestion is None:
            return "the loss falls by no more than its noise; try other rates, or more steps"
        low, middle, high = (f"{self.suggestion * factor:.1e}" for factor in (0.1, 1, 10**0.5))
        return f"suggestion: lr={middle}, where the loss falls fastest; a grid around it: lr=[{low}, {middle}, {high}]"

    def csv(self) -> str:
        """One row per step."""
        rows = [f"{one.step},{one.rate!r},{one.loss!r},{one.smoothed!r}" for one in self.points]
        return "\n".join(["step,rate,loss,smoothed loss", *rows]) + "\n"


def rate_range(
    stepper: Stepper,
    batches: Iterable[Batch],
    optimizer: Optimizer,
    *,
    low: float = 1e-7,
    high: float = 1.0,
    steps: int = 100,
) -> RateRange:
    """Takes steps with a learning rate that rises from `low` to `high` by the same factor each time.

    It ends early when a loss is not finite, or when the smoothed loss is above 4 times its best. Groups of parameters with
    rates of their own keep them in proportion; the largest is the rate.

    Args:
        stepper: of one run at its beginning; it is trained, and of no further use.
        batches: as many as there are steps, or more.
        optimizer: the one that the stepper steps.
        low: the first rate.
        high: the last.
        steps: how many.

    Raises:
        TrainerError: the rates or the number of steps make no sense, or the optimizer has no learning rate.
    """
    fault = rates_fault(low, high, steps)
    if fault:
        raise TrainerError(fault)
    shares, width = _shares(optimizer), max(1, steps // 20)
    rates: list[float] = []
    losses: list[float] = []
    stopped = f"ended with the last of {steps} steps"
    stepper.train(True)
    for rate, (inputs, targets) in zip(_rising(low, high, steps), batches, strict=False):
        _set_rate(optimizer, rate, shares)
        rates.append(rate)
        losses.append(stepper.step(inputs, targets).loss.item())
        reason = _why_stop(losses, width)
        if reason:
            stopped = f"stopped after {len(losses)} of {steps} steps: {reason}"
            break
    smoothed = [_around(losses, index, width) for index in range(len(losses))]
    points = [RatePoint(index + 1, *one) for index, one in enumerate(zip(rates, losses, smoothed, strict=True))]
    return RateRange(points, _suggestion(points), stopped)


def rates_fault(low: float, high: float, steps: int) -> str | None:
    """What is wrong with the rates of a test, or None."""
    if not 0 < low < high < math.inf:
        return f"the rates go from {low:g} to {high:g}; give two numbers above 0, the smaller one first"
    if steps < MIN_STEPS:
        return f"{steps} steps are too few to see anything; give {MIN_STEPS} or more"
    return None


def _rising(low: float, high: float, steps: int) -> Iterator[float]:
    for index in range(steps):
        yield low * (high / low) ** (index / (steps - 1))


def _shares(optimizer: Optimizer) -> list[float]:
    """What each group's rate is of the largest one."""
    if any("lr" not in group for group in optimizer.param_groups):
        raise TrainerError(f"{type(optimizer).__name__} has no learning rate that could be tried")
    given = [float(group.get("initial_lr", group["lr"])) for group in optimizer.param_groups]
    largest = max(given)
    return [rate / largest if largest else 1.0 for rate in given]


def _set_rate(optimizer: Optimizer, rate: float, shares: list[float]) -> None:
    for group, share in zip(optimizer.param_groups, shares, strict=True):
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(rate * share)
        else:
            group["lr"] = rate * share


def _why_stop(losses: list[float], width: int) -> str | None:
    """Why the last loss ends the test; None where it does not."""
    if not math.isfinite(losses[-1]):
        return f"the loss is {losses[-1]}"
    if len(losses) <= 2 * width:
        return None
    best = min(_around(losses, index, width) for index in range(width, len(losses) - width))
    now = statistics.fmean(losses[-width - 1 :])
    if now - best > (_TIMES_BEST - 1) * abs(best):  # which a loss below 0 may do as well
        return f"the smoothed loss, {now:.4g}, is above {_TIMES_BEST:g} times the best, {best:.4g}"
    return None


def _around(losses: list[float], index: int, width: int) -> float:
    """The mean of the losses from `width` before to `width` after, as far as there are any: it lags behind in neither direction."""
    return statistics.fmean(losses[max(0, index - width) : index + width + 1])


def _suggestion(points: list[RatePoint]) -> float | None:
    """The rate of the steepest descent of the smoothed loss, over the logarithm of the rate, before the loss is at its best."""
    smoothed = [one.smoothed for one in points if math.isfinite(one.smoothed)]
    if len(smoothed) < 3:
        return None
    best = min(range(len(smoothed)), key=smoothed.__getitem__)
    noise = statistics.pstdev(one.loss - one.smoothed for one in points[: best + 1])
    if smoothed[0] - smoothed[best] <= 2 * noise:
        return None
    slopes = {index: smoothed[index + 1] - smoothed[index - 1] for index in range(1, min(best + 1, len(smoothed) - 1))}
    steepest = min(slopes, key=slopes.__getitem__, default=None)
    return points[steepest].rate if steepest is not None and slopes[steepest] < 0 else None
