"""A run's recipe: what it does beside forward, loss, backward and step. All of it is off unless somebody asked for it."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any

from torch.nn import Module
from torch.optim import Optimizer

if TYPE_CHECKING:
    from runmanager.training.recipes.averages import Average
    from runmanager.training.recipes.clipping import Clip
    from runmanager.training.recipes.freezing import Unfreezing
    from runmanager.training.recipes.metrics import Metrics
    from runmanager.training.recipes.mixing import Mixing
    from runmanager.training.recipes.patience import Patience
    from runmanager.training.recipes.penalties import Penalty
    from runmanager.training.recipes.precision import Precision
    from runmanager.training.recipes.scheduling import Schedule

KEPT = {"scheduler": "schedule", "scaler": "precision", "patience": "patience", "average": "average"}
"""Those whose state a checkpoint holds: what it is called there, and here."""
_ALONE = {
    "skips_steps": "it trains in float16 (amp), where each run skips the steps that are too large for it",
    "is_spread": "it is trained on several devices (devices)",
    "is_compiled": "its network is compiled",
    "channels_last": "its network is channels_last",
    "profile_steps": "its steps are profiled",
    "is_deterministic": "it is to give the same bits each time (deterministic), and a group rounds in another way",
}
"""What has no batched form, and how that is said."""


_FREE = ("schedule", "penalty", "clip", "patience")
"""In which members of a group need not agree."""


@dataclass
class Recipe:
    """What one run does beside the plain step."""

    schedule: "Schedule | None" = None
    mixing: "Mixing | None" = None
    precision: "Precision | None" = None
    penalty: "Penalty | None" = None
    clip: "Clip | None" = None
    average: "Average | None" = None
    unfreezing: "Unfreezing | None" = None
    patience: "Patience | None" = None
    metrics: "Metrics | None" = None
    accumulate: int = 1  # pieces that a batch is gone through in
    channels_last: bool = False
    is_spread: bool = False  # over several devices
    is_compiled: bool = False
    is_deterministic: bool = False
    is_benchmarked: bool = False  # by cuDNN
    num_steps: int = field(default=0, compare=False)  # of an epoch
    log_every: int | None = None  # steps
    num_shown: int = 0  # predictions in the picture of an epoch
    profile_steps: int | None = None

    @property
    def skips_steps(self) -> bool:
        """Whether a step may not be taken, for gradients that are too large for the precision."""
        return self.precision is not None and self.precision.skips_steps

    @property
    def is_plain(self) -> bool:
        """Whether a step goes forward and backward as without a recipe."""
        others = (self.mixing, self.precision, self.penalty)
        return all(one is None for one in others) and self.accumulate == 1 and not self.channels_last

    def rates(self, optimizer: Optimizer) -> dict[str, float]:
        """The learning rate of each group of parameters, where there are several or a schedule changes it."""
        if self.schedule is None and len(optimizer.param_groups) == 1:
            return {}
        from runmanager.training.recipes.optimizers import learning_rates

        return learning_rates(optimizer)

    def skipped_steps(self) -> dict[str, float]:
        """How many steps of the epoch float16 could not take; nothing in another precision. Waits for the device."""
        return {} if self.precision is None else self.precision.skipped_steps()

    def keepers(self) -> dict[str, Any]:
        """Its parts that a checkpoint has to hold, by name."""
        parts = {name: getattr(self, attribute) for name, attribute in KEPT.items()}
        return {name: part for name, part in parts.items() if part is not None}

    def monitored(self) -> dict[str, str]:
        """The metrics that decide how it goes on, by who looks at them."""
        found = {
            "schedule": None if self.schedule is None else self.schedule.needs,
            "patience": None if self.patience is None else self.patience.monitor.name,
        }
        return {what: name for what, name in found.items() if name is not None}

    def refusal(self) -> str | None:
        """Why its run is trained alone, in plain words; None where it may be one of a group."""
        return next((reason for name, reason in _ALONE.items() if getattr(self, name)), None)

    def structure(self) -> list[Any]:
        """What members of a group have to agree in."""
        kinds = [one.name for one in fields(self) if getattr(self, one.name) != one.default]
        own = {
            "metrics": None if self.metrics is None else self.metrics.names,
            "average": None if self.average is None else self.average.kind,
            "unfreezing": None if self.unfreezing is None else self.unfreezing.due,
            "precision": None if self.precision is None else str(self.precision.dtype),
        }
        return [[one for one in kinds if one not in _FREE], own, self.accumulate, self.log_every, self.num_shown]

    def stop_reason(self) -> str | None:
        """Why its run is over although epochs are left; None where it is not."""
        return None if self.patience is None else self.patience.reason()

    def begin_epoch(self, network: Module, epoch: int) -> bool:
        """Before an epoch, counted from 1; whether other parameters are trained from here on."""
        return self.unfreezing is not None and bool(self.unfreezing.begin_epoch(network, epoch))

    def after_step(self) -> None:
        """After a step of the optimizer."""
        if self.schedule is not None:
            self.schedule.after_step()
        if self.average is not None:
            self.average.after_step()

    def end_epoch(self, metrics: Mapping[str, float], epoch: int) -> str | None:
        """After an epoch and its validation.

        Args:
            metrics: of the epoch.
            epoch: counted from 1.

        Returns:
            why the run should stop, or None.
        """
        if self.schedule is not None:
            self.schedule.end_epoch(metrics, epoch)
        return None if self.patience is None else self.patience.end_epoch(metrics, epoch)
