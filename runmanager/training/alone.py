"""Training one run by itself."""

from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager, nullcontext
from typing import TYPE_CHECKING

from torch import Generator, Tensor

from runmanager.data.splits import Splits
from runmanager.tracking.errors import RunStopped
from runmanager.tracking.manager import RunManager
from runmanager.tracking.rows import STOPPED
from runmanager.tracking.untouched import frozen_rng
from runmanager.training.checkpoints import TrainingState
from runmanager.training.epochs import RunningLoss, evaluate, train_epoch
from runmanager.training.loaders import Batch, Batches
from runmanager.training.parts import Parts
from runmanager.training.showing import show
from runmanager.training.steppers import SingleStepper

if TYPE_CHECKING:
    from runmanager.training.recipes.profiling import Profile


class Alone:
    """One run with all that it is trained with, at its beginning."""

    def __init__(self, parts: Parts, order: Generator, splits: Splits, batches: Batches) -> None:
        """Takes what was just built.

        Args:
            parts: network, optimizer, loss and recipe.
            order: draws the order of the batches.
            splits: the data.
            batches: made of the data.
        """
        self.parts, self.batches = parts, batches
        self.shown = batches.shown
        """Whose samples TensorBoard shows."""
        self.stepper = SingleStepper(parts)
        self._order, self._splits = order, splits
        self._profile: Profile | None = None

    def train(self, manager: RunManager, num_epochs: int) -> None:
        """Trains it to so many epochs, from the beginning or from where an earlier attempt left it.

        Raises:
            TrainerError: the run is built from other parts than those whose state was saved.
            RunStopped: it is over before that.
        """
        manager.watch(self.parts.network, self.shown)
        state = TrainingState(self.parts, self._order, self._splits)
        saved = manager.load_checkpoint()
        if saved is not None:
            state.restore(saved)
            self._stop_where_over(manager.num_epochs, num_epochs)
        for note in self.parts.notes if saved is None else ():
            manager.note(note)
        with self._profiled(manager) if saved is None else nullcontext():
            for epoch in range(manager.num_epochs + 1, num_epochs + 1):
                self._epoch(manager, state, epoch, is_last=epoch == num_epochs)

    @contextmanager
    def _profiled(self, manager: RunManager) -> Iterator[None]:
        """Profiles the first steps that are taken inside the `with`, where the recipe says so."""
        steps = self.parts.recipe.profile_steps
        file = None if steps is None else manager.profile_file()
        if steps is None or file is None:  # of a run's processes only the first has a folder
            yield
            return
        from runmanager.training.recipes.profiling import Profile

        with closing(Profile(steps, file)) as self._profile:
            yield

    def _train_batches(self) -> Iterable[Batch]:
        batches = self.batches.train()
        return batches if self._profile is None else self._profile.watched(batches)

    def _stop_where_over(self, epoch: int, num_epochs: int) -> None:
        """An earlier attempt may have ended between the last epoch and the record of the run's end."""
        if epoch < num_epochs and (reason := self.parts.recipe.stop_reason()):
            raise RunStopped(STOPPED, reason)

    def _epoch(self, manager: RunManager, state: TrainingState, epoch: int, *, is_last: bool) -> None:
        recipe = self.parts.recipe
        recipe.begin_epoch(self.parts.network, epoch)
        manager.begin_epoch()
        train_epoch(self.stepper, self._train_batches(), manager, RunningLoss.of(manager, recipe))
        metrics = {**self._validate(), **self._averaged(epoch)}
        measured = {**metrics, **self._norm(), **recipe.rates(self.parts.optimizer), **recipe.skipped_steps()}
        if measured:
            manager.log(**measured)
        show(manager, self.stepper, self.batches, [recipe], self._splits)
        tracked = manager.so_far()[0] if recipe.monitored() else {}
        reason = recipe.end_epoch({**tracked, **metrics}, epoch)
        manager.end_epoch(checkpoint=state.capture, stop=None if is_last else reason)

    def _validate(self) -> dict[str, float]:
        batches = self.batches.validation()
        if batches is None:
            return {}
        found = evaluate(self.stepper, batches, [self.parts.recipe])
        return {name: values[0] for name, values in found.items()}

    def _averaged(self, epoch: int) -> dict[str, float]:
        """What the average of the weights reaches in validation."""
        average = self.parts.recipe.average
        if average is None:
            return {}
        average.end_epoch(epoch)
        self.stepper.train(False)  # steps are over: of several devices each measures by itself
        # samples may draw, and the run is to go on as it does without an average
        with frozen_rng(self._splits.train), frozen_rng(self._splits.validation):
            average.refresh(self._inputs())  # also without validation: what is saved can be used as it is
            batches = self.batches.validation()
            if average.network is None or batches is None:
                return {}
            found = evaluate(self.stepper.with_network(average.network), batches)
        return {f"average {name}": values[0] for name, values in found.items()}

    def _inputs(self) -> Iterator[Tensor]:
        """Those of the training data as an epoch mixes them: where a batch is of one class, BatchNorm sees not how they differ."""
        for inputs, _ in self.batches.as_trained():
            yield inputs

    def _norm(self) -> dict[str, float]:
        norms = self.stepper.grad_norms()
        return {} if norms is None else {"gradient norm": norms[0]}
