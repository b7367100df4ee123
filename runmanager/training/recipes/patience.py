"""Early stopping: a run ends when its metric has not become better for some epochs."""

from collections.abc import Mapping
from typing import Any

from runmanager.training.recipes.monitor import Monitor
from runmanager.training.settings import TrainerError


class Patience:
    """Waits so many epochs for a better value than the best so far. An equal one is not better, and NaN never is."""

    def __init__(self, epochs: int, monitor: Monitor) -> None:
        """Nothing was seen yet.

        Raises:
            TrainerError: `epochs` is no number of epochs.
        """
        if not isinstance(epochs, int) or isinstance(epochs, bool) or epochs < 1:
            raise TrainerError(f"patience={epochs!r} is not a whole number of 1 or more epochs; None waits to the end")
        self.epochs, self.monitor = epochs, monitor
        self._best: float | None = None
        self._best_epoch = 0
        self._num_waited = 0

    def end_epoch(self, metrics: Mapping[str, float], epoch: int) -> str | None:
        """Why the run has to stop after this epoch, or None.

        Raises:
            TrainerError: the metric is not among those of the epoch.
        """
        value = self.monitor.value(metrics)
        if self.monitor.is_better(value, self._best):
            self._best, self._best_epoch, self._num_waited = value, epoch, 0
        else:
            self._num_waited += 1
        return self.reason()

    def reason(self) -> str | None:
        """Why the run has to stop as it is, or None; also asked when it is taken up, since it may have been killed just then."""
        return self._reason() if self._num_waited >= self.epochs else None

    def _reason(self) -> str:
        waited = f"for {self._num_waited} epoch{'s' * (self._num_waited > 1)}"
        if self._best is None:
            return f"{self.monitor.name} has not been a finite number {waited}"
        side = "below" if self.monitor.mode == "min" else "above"
        return f"{self.monitor.name} has not been {side} {self._best:.6g} (epoch {self._best_epoch}) {waited}"

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs of it."""
        return {
            "best": self._best,
            "best_epoch": self._best_epoch,
            "num_waited": self._num_waited,
            "monitor": list(self.monitor),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Puts back what `state_dict` returned. How long it waits is as it is set now.

        Raises:
            TrainerError: it waited for another metric.
        """
        if state["monitor"] != list(self.monitor):
            raise TrainerError(f"it waited for {state['monitor']} before, and waits for {list(self.monitor)} now")
        self._best, self._best_epoch, self._num_waited = state["best"], state["best_epoch"], state["num_waited"]
