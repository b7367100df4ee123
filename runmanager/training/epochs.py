"""An epoch of a run or of a group: what is tracked of each batch, and the validation behind it."""

import math
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING

from runmanager.tracking.faults import is_out_of_memory, is_quit
from runmanager.tracking.manager import RunManager
from runmanager.tracking.meters import Accuracy, Mean
from runmanager.training.loaders import Batch
from runmanager.training.recipe import Recipe
from runmanager.training.settings import has_classes
from runmanager.training.steppers import Outcome, Stepper

if TYPE_CHECKING:
    from runmanager.training.recipes.metrics import Metrics

Values = dict[str, list[float]]
"""Metrics of K members: each has its own number."""


def track(manager: RunManager, outcome: Outcome, size: int) -> None:
    """Adds what came of a batch, of a group of `size`."""
    loss, preds, targets = outcome
    manager.track_loss(loss, targets if size == 1 else targets[0])  # predictions may begin with another dimension
    if has_classes(preds, targets):
        manager.track_num_correct(preds, targets)


def train_epoch(
    stepper: Stepper, batches: Iterable[Batch], manager: RunManager, running: "RunningLoss | None" = None
) -> None:
    """One pass over the training data."""
    stepper.train(True)
    for inputs, targets in batches:
        outcome = stepper.step(inputs, targets)
        track(manager, outcome, stepper.size)
        if running is not None:
            running.add(outcome, stepper.size)


class RunningLoss:
    """Logs the mean of the losses since it was logged last as `running_loss`, and waits for the device then."""

    def __init__(self, manager: RunManager, recipe: Recipe) -> None:
        """Begins an epoch; the recipe says after how many steps the loss is logged."""
        self._manager, self._every = manager, recipe.log_every
        self._step = manager.num_epochs * recipe.num_steps
        self._mean, self._num_steps = Mean(1), 0

    @classmethod
    def of(cls, manager: RunManager, recipe: Recipe) -> "RunningLoss | None":
        """None where the recipe asks for none."""
        return cls(manager, recipe) if recipe.log_every else None

    def add(self, outcome: Outcome, size: int) -> None:
        """The outcome of a step of a group of `size`. When a member has left, the others' mean begins anew."""
        if self._mean.size != size:
            self._mean, self._num_steps = Mean(size), 0
        self._mean.add(outcome.loss, 1)
        self._num_steps += 1
        self._step += 1
        if self._num_steps == self._every:
            losses = self._mean.compute() or []
            self._manager.log_step(self._step, running_loss=losses if size > 1 else losses[0])
            self._mean, self._num_steps = Mean(size), 0


def evaluate(
    stepper: Stepper,
    batches: Iterable[Batch],
    recipes: Sequence[Recipe] = (),
    failures: dict[int, BaseException] | None = None,
) -> Values:
    """`val_loss`, `val_accuracy` where targets are classes, and the recipes' metrics.

    Args:
        stepper: of the networks; it is in eval mode after that.
        batches: what they are validated on.
        recipes: of the members.
        failures: gets what a member's metrics raise, by its place. Without it that is raised.
    """
    loss, accuracy = Mean(stepper.size), Accuracy(stepper.size)
    metrics = [recipe.metrics for recipe in recipes if recipe.metrics is not None]
    for one in metrics:
        one.reset()
    stepper.train(False)
    for inputs, batch_targets in batches:
        batch_loss, preds, targets = stepper.evaluate(inputs, batch_targets)
        loss.add(batch_loss, len(batch_targets))
        if has_classes(preds, targets):
            accuracy.add(preds, targets)
        for index, one in enumerate(metrics):
            one.add(*((preds, targets) if stepper.size == 1 else (preds[index], targets[index])))
    results = {"val_loss": loss.compute(), "val_accuracy": accuracy.compute()}
    computed = [_computed(one, index, failures) for index, one in enumerate(metrics)]
    for name in dict.fromkeys(name for one in computed for name in one):
        results[f"val_{name}"] = [one.get(name, math.nan) for one in computed]
    return {name: values for name, values in results.items() if values}


def _computed(metrics: "Metrics", index: int, failures: dict[int, BaseException] | None) -> dict[str, float]:
    """The metrics of the member with that place."""
    try:
        return metrics.compute()
    except Exception as error:
        if failures is None or is_quit(error) or is_out_of_memory(error):
            raise
        failures[index] = error
        return {}


def first_samples(batches: Iterable[Batch], number: int) -> Iterator[Batch]:
    """So many samples, as the batches that they are in."""
    for inputs, targets in islice(batches, number):
        yield inputs[:number], targets[:number]
        number -= len(targets)
        if number <= 0:
            return
