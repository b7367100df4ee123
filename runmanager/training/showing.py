"""What of an epoch is shown beside its numbers: confusion matrices, samples with their predictions, and what has to be said."""

from collections.abc import Sequence

import torch

from runmanager.data.splits import Splits
from runmanager.tracking.manager import RunManager
from runmanager.tracking.untouched import frozen_rng
from runmanager.training.epochs import first_samples
from runmanager.training.loaders import Batches
from runmanager.training.recipe import Recipe
from runmanager.training.steppers import Stepper


def show(manager: RunManager, stepper: Stepper, batches: Batches, recipes: Sequence[Recipe], splits: Splits) -> None:
    """Logs the pictures that the recipes ask for, and notes what their metrics counted as 0, after validation.

    Args:
        manager: gets them.
        stepper: of the group's networks.
        batches: whose validation data is shown; training data where there is none.
        recipes: of the members, who agree in what is shown.
        splits: has the names of the classes.
    """
    _note(manager, recipes)
    counts = [None if one.metrics is None else one.metrics.confusion for one in recipes]
    found = [one for one in counts if one is not None]
    if found:
        manager.log_confusion(found if len(found) > 1 else found[0], splits.classes)
    if recipes[0].num_shown:
        _show_predictions(manager, stepper, batches, recipes[0].num_shown, splits)


def _note(manager: RunManager, recipes: Sequence[Recipe]) -> None:
    numbers = manager.numbers if len(recipes) > 1 else [None]
    for number, recipe in zip(numbers, recipes, strict=True):
        for text in recipe.metrics.notes if recipe.metrics is not None else ():
            manager.note(text, number=number)


def _show_predictions(manager: RunManager, stepper: Stepper, batches: Batches, number: int, splits: Splits) -> None:
    from runmanager.training.recipes.pictures import predictions_picture

    stepper.train(False)  # without validation it is as the last step left it
    with frozen_rng(splits.train), frozen_rng(splits.validation):  # what is looked at changes no number
        samples = list(first_samples(batches.validation() or batches.in_order(), number))
        outcomes = [stepper.evaluate(inputs, targets) for inputs, targets in samples]
    inputs = torch.cat([inputs for inputs, _ in samples])
    as_seen = getattr(batches.shown.dataset, "as_seen", None)
    inputs = inputs if as_seen is None else as_seen(inputs)
    targets = torch.cat([targets for _, targets in samples])
    preds = torch.cat([one.preds for one in outcomes], dim=0 if stepper.size == 1 else 1)
    each = [preds] if stepper.size == 1 else list(preds)
    pictures = [predictions_picture(inputs, one, targets, splits.classes) for one in each]
    manager.log_image("Predictions", pictures if len(pictures) > 1 else pictures[0])
