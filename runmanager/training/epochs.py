"""An epoch of a run or of a group: what is tracked of each batch, and the validation behind it."""

from collections.abc import Iterable

from runmanager.tracking.manager import RunManager
from runmanager.tracking.meters import Accuracy, Mean
from runmanager.training.loaders import Batch
from runmanager.training.settings import has_classes
from runmanager.training.steppers import Outcome, Stepper


def track(manager: RunManager, outcome: Outcome, size: int) -> None:
    """Adds what came of a batch, of a group of `size`."""
    loss, preds, targets = outcome
    manager.track_loss(loss, preds if size == 1 else preds[0])
    if has_classes(preds, targets):
        manager.track_num_correct(preds, targets)


def train_epoch(stepper: Stepper, batches: Iterable[Batch], manager: RunManager) -> None:
    """One pass over the training data."""
    stepper.train(True)
    for inputs, targets in batches:
        track(manager, stepper.step(inputs, targets), stepper.size)


def evaluate(stepper: Stepper, batches: Iterable[Batch]) -> dict[str, list[float]]:
    """`val_loss`, and `val_accuracy` where targets are classes, of each member; waits for the device once."""
    loss, accuracy = Mean(stepper.size), Accuracy(stepper.size)
    stepper.train(False)
    for inputs, batch_targets in batches:
        batch_loss, preds, targets = stepper.evaluate(inputs, batch_targets)
        loss.add(batch_loss, len(batch_targets))
        if has_classes(preds, targets):
            accuracy.add(preds, targets)
    results = {"val_loss": loss.compute(), "val_accuracy": accuracy.compute()}
    return {name: values for name, values in results.items() if values}
