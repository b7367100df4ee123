"""The losses of K networks on their batches, at once where that is the same and one after another where it may not be."""

import copy
from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from runmanager.tracking.faults import is_out_of_memory, is_quit
from runmanager.training.alike import values_token
from runmanager.training.steppers import Loss, valued

_IGNORED = -100  # the target that torch's cross entropy leaves out


class StackedLoss(Protocol):
    """Of predictions [K, N, ...] and targets [K, N, ...] the means over the batches, [K].

    How it is worked out is settled with the group's first members, so that it does not change when some of them leave.
    """

    @property
    def failures(self) -> dict[int, BaseException]:
        """What single members' losses have raised, by their places."""
        ...

    def __call__(self, preds: Tensor, targets: Tensor) -> Tensor:
        """The losses, [K]."""
        ...

    def keep(self, indices: Sequence[int]) -> None:
        """Goes on with some of the members."""
        ...


class OneByOne:
    """Calls each network's own loss. One that raises harms no other: it counts as 0, and `failures` says what it raised."""

    def __init__(self, losses: Sequence[Loss]) -> None:
        self._losses = list(losses)
        self._left_out: set[int] = set()
        self.failures: dict[int, BaseException] = {}

    def keep(self, indices: Sequence[int]) -> None:
        """See `StackedLoss`."""
        self._losses, self.failures = [self._losses[index] for index in indices], {}

    def __call__(self, preds: Tensor, targets: Tensor) -> Tensor:
        """See `StackedLoss`."""
        each = zip(self._losses, preds.unbind(0), targets.unbind(0), strict=True)
        return torch.stack([self._one(index, *one) for index, one in enumerate(each)])

    def without(self, indices: Iterable[int]) -> "OneByOne":
        """The same, which does not call the losses at these places; they count as 0."""
        other = copy.copy(self)
        other._left_out = set(indices)
        return other

    def _one(self, index: int, loss: Loss, preds: Tensor, targets: Tensor) -> Tensor:
        if index in self._left_out:
            return preds.sum() * 0
        try:
            return valued(loss, preds, targets)
        except (Exception, SystemExit) as error:  # a loss may raise anything; it ends its own run
            if is_quit(error) or is_out_of_memory(error):
                raise
            self.failures[index] = error
            return preds.sum() * 0


class CrossEntropy:
    """Mean cross entropy over classes or shares of them, with a label smoothing for each network; other shapes go one by one."""

    def __init__(
        self,
        losses: Sequence[Loss],
        smoothings: Sequence[float],
        weights: Tensor | None = None,
        *,
        is_autocast: bool = False,
    ) -> None:
        """Takes the losses of K members.

        Args:
            losses: of each.
            smoothings: of each.
            weights: the class weights of each, [K, C]; None where none has any.
            is_autocast: whether it is called under autocast, which has cross entropy in float32, but not all that is called here.
        """
        self._is_autocast = is_autocast
        self._one_by_one = OneByOne(losses)
        self._weights = weights
        self._smoothings = torch.tensor(smoothings, dtype=torch.float64)  # [K]
        self._exact = list(smoothings)
        self._kept_and_spread: Tensor | None = None  # of shares of classes, [2, K, 1, 1]
        self._is_plain = not any(smoothings)

    @property
    def failures(self) -> dict[int, BaseException]:
        """See `StackedLoss`."""
        return self._one_by_one.failures

    def keep(self, indices: Sequence[int]) -> None:
        """See `StackedLoss`."""
        self._one_by_one.keep(indices)
        self._smoothings = self._smoothings[list(indices)]
        self._exact, self._kept_and_spread = [self._exact[index] for index in indices], None
        if self._weights is not None:
            self._weights = self._weights[list(indices)]

    def __call__(self, preds: Tensor, targets: Tensor) -> Tensor:
        """See `StackedLoss`."""
        if preds.ndim == 3 and preds.shape == targets.shape and targets.is_floating_point():
            return self._of_shares(self._widened(preds), targets)
        if preds.ndim != 3 or targets.ndim != 2 or targets.is_floating_point():
            return self._one_by_one(preds, targets)
        preds = self._widened(preds)
        size, num_samples, num_classes = preds.shape
        counted = targets.ne(_IGNORED)
        shares = self._shares(preds, targets, counted)
        total = shares.sum(1)
        each = F.cross_entropy(preds.reshape(-1, num_classes), targets.reshape(-1), reduction="none")
        each = each.view(size, num_samples)
        right = (each if self._weights is None else each * shares).sum(1) / total
        if self._is_plain:
            return right
        smoothings = self._smoothings = self._smoothings.to(preds)
        logs = preds.log_softmax(2) if self._weights is None else preds.log_softmax(2) * self._weights.unsqueeze(1)
        spread = -(logs.sum(2) * counted).sum(1) / torch.where(total == 0, 1, total)
        smoothed = right * (1 - smoothings) + spread * (smoothings / num_classes)
        return torch.where(smoothings == 0, right, smoothed)

    def _widened(self, preds: Tensor) -> Tensor:
        return preds.float() if self._is_autocast and preds.dtype in (torch.float16, torch.bfloat16) else preds

    def _of_shares(self, preds: Tensor, targets: Tensor) -> Tensor:
        """Of shares of the classes, [K, N, C]; class weights do not count in the divisor then."""
        _, num_samples, num_classes = preds.shape
        if self._kept_and_spread is None:  # rounded once, as torch rounds them
            exact = torch.tensor(self._exact, dtype=torch.float64).view(-1, 1, 1)
            self._kept_and_spread = torch.stack([1 - exact, exact / num_classes]).to(targets)
        kept, spread = self._kept_and_spread
        shares = targets * kept + spread
        if self._weights is not None:
            self._weights = self._weights.to(preds)
            shares = shares * self._weights.unsqueeze(1)
        losses: Tensor = -(preds.log_softmax(2) * shares).sum((1, 2)) / num_samples
        return losses

    def _shares(self, preds: Tensor, targets: Tensor, counted: Tensor) -> Tensor:
        """How much each sample counts, [K, N]."""
        if self._weights is None:
            return counted
        self._weights = self._weights.to(preds)
        return self._weights.gather(1, targets.clamp(min=0)) * counted


class InOneCall:
    """One of torch's own losses, the same for all networks."""

    def __init__(self, loss: Loss) -> None:
        self._loss = torch.vmap(loss)
        self.failures: dict[int, BaseException] = {}  # it never has any

    def keep(self, indices: Sequence[int]) -> None:
        """See `StackedLoss`."""

    def __call__(self, preds: Tensor, targets: Tensor) -> Tensor:
        """See `StackedLoss`."""
        losses: Tensor = self._loss(preds, targets)
        return losses


def stacked_loss(losses: Sequence[Loss], *, is_autocast: bool = False) -> StackedLoss:
    """The fastest way to all these losses that gives what each gives alone.

    Args:
        losses: of each member.
        is_autocast: whether they are called under autocast, which does not know what vmap makes of an operation.
    """
    smoothings = [_smoothing(loss) for loss in losses]
    weights = [getattr(loss, "weight", None) for loss in losses]
    given = [one for one in weights if one is not None]
    if None not in smoothings and len({one.shape for one in given}) <= 1:
        stacked = torch.stack([torch.ones_like(given[0]) if one is None else one for one in weights]) if given else None
        return CrossEntropy(losses, [float(one or 0) for one in smoothings], stacked, is_autocast=is_autocast)
    if not is_autocast and _is_torchs_own(losses[0]) and len({values_token(loss) for loss in losses}) == 1:
        return InOneCall(losses[0])
    return OneByOne(losses)


def _smoothing(loss: Any) -> float | None:
    """The label smoothing of a plain cross entropy; None where the loss is another one, or has other settings."""
    if loss is F.cross_entropy:
        return 0.0
    if type(loss) is partial and loss.func is F.cross_entropy and not loss.args:
        return loss.keywords.get("label_smoothing", 0.0) if loss.keywords.keys() <= {"label_smoothing"} else None
    if type(loss) is nn.CrossEntropyLoss and not _has_hooks(loss):
        usual = loss.ignore_index == -100 and loss.reduction == "mean"
        return loss.label_smoothing if usual else None
    return None


def _is_torchs_own(loss: Any) -> bool:
    if isinstance(loss, nn.Module):
        return type(loss).__module__ == "torch.nn.modules.loss" and not _has_hooks(loss) and loss.reduction == "mean"
    return getattr(loss, "__module__", None) == "torch.nn.functional"


def _has_hooks(module: nn.Module) -> bool:
    return bool(module._forward_hooks or module._forward_pre_hooks)
