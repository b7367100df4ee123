"""Averages of a network's weights over training, kept beside it: exponential (EMA) and stochastic (SWA)."""

import copy
from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor
from torch.nn import Module
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn, get_swa_multi_avg_fn, update_bn

from runmanager.tracking.untouched import frozen_rng
from runmanager.training.recipes.naming import unknown
from runmanager.training.settings import TrainerError

_KINDS = ("ema", "swa")
_STATISTICS = ("running_mean", "running_var")


class Average:
    """The average of a network's weights, on torch's AveragedModel. The network itself is left alone.

    "ema" (Polyak averaging): decay * average + (1 - decay) * weights after every step; the first step's weights begin it.
    The running statistics of BatchNorm are averaged in the same way. "swa" (Izmailov et al. 2018): the plain mean of the
    weights at the end of each epoch from `start` on, whose statistics of BatchNorm `refresh` measures. All other buffers are
    those of the network: averaged masks, tables and counts would be none. A frozen weight is its own average.
    """

    def __init__(self, kind: str, network: Module, *, decay: float = 0.999, start: int = 1) -> None:
        """Nothing is averaged yet.

        Args:
            kind: "ema" or "swa".
            network: the one that is trained, not wrapped for several devices.
            decay: of "ema", from 0 to 1; 1 - decay is the weight of the newest.
            start: of "swa", the first epoch at whose end weights are averaged; epochs are counted from 1.

        Raises:
            TrainerError: one of these cannot be, or the network cannot be copied.
        """
        fault = average_fault(kind, decay, start)
        if fault:
            raise TrainerError(fault)
        self.kind, self.decay, self._source, self._start = kind, decay, network, start
        self._mix = get_ema_multi_avg_fn(decay) if kind == "ema" else get_swa_multi_avg_fn()
        self._averaged: AveragedModel | None = None
        _try_copy(network, kind)

    @property
    def network(self) -> Module | None:
        """The network with averaged weights, to be evaluated and kept; None before the first was averaged."""
        return None if self._averaged is None else self._averaged.module

    @property
    def num_averaged(self) -> int:
        """How many weights are in the average."""
        return 0 if self._averaged is None else int(self._averaged.n_averaged)

    @property
    def first_epoch(self) -> int:
        """At whose end there is an average."""
        return self._start if self.kind == "swa" else 1

    def after_step(self) -> None:
        """To be called after every step of the optimizer."""
        if self.kind == "ema":
            self._update()

    def is_due(self, epoch: int) -> bool:
        """Whether the weights at the end of an epoch, counted from 1, are averaged then.

        An average that has begun goes on, also where the run is taken up with a later `start`: an epoch left out, behind others
        that are in it, would make it the mean of neither.
        """
        return self.kind == "swa" and (epoch >= self._start or self._averaged is not None)

    def end_epoch(self, epoch: int) -> None:
        """To be called at the end of every epoch, counted from 1, before validation."""
        if self.is_due(epoch):
            self._update()

    def begin(self) -> AveragedModel:
        """What holds the average; made when the first is due, because lazy layers and some buffers are made by the first batch."""
        if self._averaged is None:
            self._averaged = AveragedModel(self._source, multi_avg_fn=self._mix).requires_grad_(False)
        return self._averaged

    def _update(self) -> None:
        averaged = self.begin()
        kept = []
        if self.kind == "ema" and averaged.n_averaged > 0:
            kept = [one.clone() for one in _statistics(averaged)]
        averaged.update_parameters(self._source)  # the buffers become those of the network
        if kept:
            now = _statistics(averaged)
            self._mix(kept, now, averaged.n_averaged)
            for one, mixed in zip(now, kept, strict=True):
                one.copy_(mixed)

    def refresh(self, batches: Iterable[Tensor]) -> None:
        """Measures the statistics of the averaged network's BatchNorm layers on training inputs, one pass over them.

        Modes of modules and random numbers are as before. Nothing is read where there is no such layer, no average yet, or
        one that averages the statistics as well.

        Args:
            batches: inputs on the network's device, [N, ...] each; in an order that no run's random numbers are drawn for.
        """
        if self._averaged is None or self.kind == "ema":
            return
        network = self._averaged.module
        modes = {module: module.training for module in network.modules()}
        network.train()
        still = [
            one
            for one in network.modules()
            if isinstance(one, _BatchNorm) and one.track_running_stats and not one.training
        ]
        for one in still:  # it normalises by what it has, and update_bn would forget that
            one.track_running_stats = False
        with frozen_rng():
            update_bn(batches, network)
        for one in still:
            one.track_running_stats = True
        for module, mode in modes.items():
            module.training = mode

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs of it; nothing before the first was averaged. The tensors are the live ones."""
        return {} if self._averaged is None else {"averaged": self._averaged.state_dict(), "kind": self.kind}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Puts back what `state_dict` returned; the network itself has to be back by then.

        Raises:
            TrainerError: it is the state of another kind of average.
        """
        self._averaged = None
        before = state.get("kind", self.kind)
        if before != self.kind:
            raise TrainerError(f"it was {before!r} before, and is {self.kind!r} now")
        if state:
            self.begin().load_state_dict(state["averaged"])


def average_fault(kind: Any, decay: Any, start: Any) -> str | None:
    """What is wrong with the settings of an average, or None."""
    if kind not in _KINDS:
        return unknown("average", kind, _KINDS)
    if isinstance(decay, bool) or not isinstance(decay, (int, float)) or not 0 <= decay <= 1:
        return f"ema_decay={decay!r} is no share; give a number from 0 to 1, usually 0.99 to 0.9999"
    if isinstance(start, bool) or not isinstance(start, int) or start < 1:
        return f"swa_start={start!r} is no epoch; they are counted from 1, and three quarters of them are usual"
    return None


def _try_copy(network: Module, kind: str) -> None:
    try:
        copy.deepcopy(network)
    except Exception as error:
        text = " ".join(f"{type(error).__name__}: {error}".split())
        raise TrainerError(
            f"average={kind!r} needs a copy of {type(network).__name__}, and it cannot be copied ({text:.200}); "
            "keep only parameters, buffers and plain values in it, or leave average out"
        ) from error


def _statistics(network: Module) -> list[Tensor]:
    """The running means and variances of its normalisations."""
    return [one for name, one in network.named_buffers() if is_statistic(name, one)]


def is_statistic(name: str, buffer: Tensor) -> bool:
    """Whether it is a running mean or variance of a normalisation."""
    return name.rpartition(".")[2] in _STATISTICS and buffer.is_floating_point()
