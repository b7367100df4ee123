"""Training one run by itself."""

from torch import Generator

from runmanager.data.splits import Splits
from runmanager.tracking.manager import RunManager
from runmanager.training.checkpoints import TrainingState
from runmanager.training.epochs import evaluate, train_epoch
from runmanager.training.loaders import Batches
from runmanager.training.parts import Parts
from runmanager.training.steppers import SingleStepper


class Alone:
    """One run with all that it is trained with, at its beginning."""

    def __init__(
        self, parts: Parts, order: Generator, splits: Splits, batches: Batches, clip_norm: float | None
    ) -> None:
        """Takes what was just built.

        Args:
            parts: network, optimizer, loss and schedule.
            order: draws the order of the batches.
            splits: the data.
            batches: made of the data.
            clip_norm: the most that the norm of its gradient may be.
        """
        self.parts, self.batches = parts, batches
        self.shown = batches.shown
        """Whose samples TensorBoard shows."""
        self.stepper = SingleStepper(parts.network, parts.optimizer, parts.loss, clip_norm)
        self._order, self._splits = order, splits

    def train(self, manager: RunManager, num_epochs: int) -> None:
        """Trains it to so many epochs, from the beginning or from where an earlier attempt left it.

        Raises:
            TrainerError: the run is built from other parts than those whose state was saved.
        """
        manager.watch(self.parts.network, self.shown)
        state = TrainingState(self.parts, self._order, self._splits)
        saved = manager.load_checkpoint()
        if saved is not None:
            state.restore(saved)
        for _ in range(manager.num_epochs, num_epochs):
            self._epoch(manager, state)

    def _epoch(self, manager: RunManager, state: TrainingState) -> None:
        manager.begin_epoch()
        train_epoch(self.stepper, self.batches.train(), manager)
        if (validation := self.batches.validation()) is not None:
            manager.log(**{name: values[0] for name, values in evaluate(self.stepper, validation).items()})
        if self.parts.scheduler is not None:
            self.parts.scheduler.step()
        manager.end_epoch(checkpoint=state.capture)
