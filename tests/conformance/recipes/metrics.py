"""Metrics of classes, of pixels and of values, beside scikit-learn's: given and in the grid, as names, objects and functions.

scikit-learn is imported where it is used, since the worker processes import this file and seldom need it.
"""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from runmanager.data.splits import Splits
from tests.conformance.recipes.cases import BATCH_SIZE, NUM_CLASSES, NUM_EPOCHS, Case, Plain, pictures

COLOURS = ("red", "green", "blue/green")
COLUMNS = ("red", "green", "blue_green")
"""What they are called in the tables: a slash parts a metric from a class."""
Measure = Callable[[Tensor, Tensor], dict[str, Any]]


def near(value: float, within: float = 1e-12) -> Any:
    """Equal to this number but for how the last digits are rounded."""
    from pytest import approx

    return approx(float(value), rel=0, abs=within)


def measured(plain: Plain, loss: Callable[..., Tensor], measure: Measure) -> Plain:
    """The plain loop, gone through; what is measured is measured of all validation samples at once."""

    def step(inputs: Tensor, targets: Tensor) -> Tensor:
        plain.optimizer.zero_grad()
        value = loss(plain.network(inputs), targets)
        value.backward()
        plain.optimizer.step()
        return value

    for _ in range(NUM_EPOCHS):
        train_loss = plain.train(step)
        preds, targets, val_loss = predicted(plain, loss)
        found = {f"val_{name}": value for name, value in measure(preds, targets).items()}
        plain.rows.append({"loss": train_loss, "val_loss": val_loss, **found})
    return plain


def predicted(plain: Plain, loss: Callable[..., Tensor]) -> tuple[Tensor, Tensor, float]:
    """Predictions and targets of the validation data, and its loss."""
    plain.network.eval()
    kept, total = [], 0.0
    with torch.no_grad():
        for inputs, targets in DataLoader(plain.validation, batch_size=BATCH_SIZE, generator=torch.Generator()):
            kept.append((plain.network(inputs), targets))
            total += loss(*kept[-1]).double().item() * len(targets)
    preds, targets = (torch.cat(each) for each in zip(*kept, strict=True))
    return preds, targets, total / len(targets)


def of_classes(scores: Tensor, true: Tensor) -> dict[str, Any]:
    """What divides once is the same to the last bit."""
    import sklearn.metrics as sk

    guess, options = scores.argmax(1), {"labels": range(NUM_CLASSES), "zero_division": 0}
    each = {
        "accuracy": sk.recall_score(true, guess, average=None, **options),
        "precision": sk.precision_score(true, guess, average=None, **options),
    }
    return {
        "accuracy": sk.accuracy_score(true, guess),
        "top_2": sk.top_k_accuracy_score(true, scores, k=2, labels=range(NUM_CLASSES)),
        "recall_micro": sk.recall_score(true, guess, average="micro", **options),
        "precision": near(sk.precision_score(true, guess, average="macro", **options)),
        "f1": near(sk.f1_score(true, guess, average="macro", **options)),
        "f0.5_weighted": near(sk.fbeta_score(true, guess, beta=0.5, average="weighted", **options)),
        "kappa": near(sk.cohen_kappa_score(true, guess)),
        "iou": near(sk.jaccard_score(true, guess, average="macro", zero_division=0)),
        **{f"{name}/{column}": each[name][index] for name in each for index, column in enumerate(COLUMNS)},
    }


OF_CLASSES = ["top_2", "recall_micro", "precision", "f1", "f0.5_weighted", "kappa", "iou"]
OF_CLASSES += ["per_class", "per_class_precision", "confusion"]


def with_names(project: Path) -> dict[str, Any]:
    return {"data": Splits(TensorDataset(*pictures()), classes=COLOURS), "metrics": OF_CLASSES, "show_predictions": 5}


def some_of_them(run: Any) -> Plain:
    """Those that the run asks for."""
    names = [name for name in run.metrics or () if name != "confusion"]

    def measure(scores: Tensor, true: Tensor) -> dict[str, Any]:
        found = of_classes(scores, true)
        return {name: found[name] for name in ["accuracy", *names]}

    return measured(Plain.begin(run), F.cross_entropy, measure)


def auc_of_red(preds: Tensor, labels: Tensor) -> float:
    """A function of the user's own: it cannot do with one class alone, as the check's two samples may have."""
    import sklearn.metrics as sk

    return float(sk.roc_auc_score(labels == 0, preds.softmax(1)[:, 0]))


def spread(preds: Tensor, labels: Tensor) -> dict[str, Any]:
    """Several numbers at once."""
    return {"highest": preds.max(), "lowest": preds.min().item()}


def with_users(project: Path) -> dict[str, Any]:
    from torchmetrics.classification import MulticlassAUROC

    return {"metrics": [MulticlassAUROC(NUM_CLASSES), auc_of_red, spread]}


def of_users(scores: Tensor, true: Tensor) -> dict[str, Any]:
    import sklearn.metrics as sk

    auroc = sk.roc_auc_score(true, scores.softmax(1), multi_class="ovr")
    return {
        "MulticlassAUROC": near(auroc, 1e-6),  # torchmetrics has it in float32
        "auc_of_red": sk.roc_auc_score(true == 0, scores.softmax(1)[:, 0]),
        "highest": scores.max().item(),
        "lowest": scores.min().item(),
    }


def masks() -> TensorDataset:
    """Pictures with a class for each pixel; the pixels of a corner have none, and class 3 is nowhere."""
    inputs, _ = pictures()
    targets = (inputs[:, 0] * 3).long()
    targets[:, 0, 0] = -100
    return TensorDataset(inputs, targets)


def pixelwise() -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 6, 3, padding=1), nn.ReLU(), nn.Conv2d(6, 4, 1))


def of_pixels(scores: Tensor, true: Tensor) -> dict[str, Any]:
    import sklearn.metrics as sk

    counted = true.flatten() != -100
    true, guess = true.flatten()[counted], scores.argmax(1).flatten()[counted]
    each = sk.jaccard_score(true, guess, labels=range(4), average=None, zero_division=0)
    return {
        "accuracy": sk.accuracy_score(true, guess),
        "iou": near(sk.jaccard_score(true, guess, average="macro", zero_division=0)),
        **{f"iou/{index}": value for index, value in enumerate(each)},
    }


def values() -> TensorDataset:
    """Pictures and two numbers that are to be told from each."""
    inputs, _ = pictures()
    return TensorDataset(inputs, torch.stack([inputs.mean((1, 2, 3)), inputs.amax((1, 2, 3))], 1) * 5)


def telling() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.Tanh(), nn.Linear(8, 2))


def of_values(preds: Tensor, true: Tensor) -> dict[str, Any]:
    import sklearn.metrics as sk

    true, preds = true.double(), preds.double()
    mse = sk.mean_squared_error(true, preds)
    return {
        "mae": near(sk.mean_absolute_error(true, preds)),
        "mse": near(mse),
        "rmse": near(math.sqrt(mse)),
        "r2": near(sk.r2_score(true, preds), 1e-10),
    }


def silhouettes() -> TensorDataset:
    """Pictures and masks of floats, as a loss of a sigmoid wants them: there is no class, and so no accuracy."""
    inputs, _ = pictures()
    return TensorDataset(inputs, (inputs > 0.5).float())


def dice(preds: Tensor, labels: Tensor) -> Tensor:
    guess = preds > 0
    return 2 * (guess * labels).sum() / (guess.sum() + labels.sum())


def of_silhouettes(preds: Tensor, true: Tensor) -> dict[str, Any]:
    import sklearn.metrics as sk

    return {"dice": near(sk.f1_score(true.flatten(), preds.flatten() > 0), 1e-6)}


CASES = {
    "metrics of named classes": Case(
        {"lr": [0.1, 0.01]},
        with_names,
        lambda run: measured(Plain.begin(run), F.cross_entropy, of_classes),
        objective="val_accuracy/blue_green",
    ),
    "metrics in the grid": Case(
        {"lr": [0.1, 0.01], "metrics": [["f1", "confusion"], None]}, lambda project: {}, some_of_them
    ),
    "torchmetrics objects and functions": Case(
        {"lr": [0.1, 0.01]},
        with_users,
        lambda run: measured(Plain.begin(run), F.cross_entropy, of_users),
        objective="val_auc_of_red",
    ),
    "segmentation": Case(
        {"lr": [0.1, 0.01]},
        lambda project: {
            "data": Splits(masks()),
            "network": pixelwise,
            "metrics": ["iou", "per_class_iou", "confusion"],
        },
        lambda run: measured(Plain.begin(run, pixelwise, data=masks()), F.cross_entropy, of_pixels),
        objective="val_iou",
    ),
    "segmentation without classes": Case(
        {"lr": [0.1, 0.01]},
        lambda project: {
            "data": Splits(silhouettes()),
            "network": lambda: nn.Conv2d(1, 1, 3, padding=1),
            "loss": F.binary_cross_entropy_with_logits,
            "metrics": dice,
        },
        lambda run: measured(
            Plain.begin(run, lambda: nn.Conv2d(1, 1, 3, padding=1), data=silhouettes()),
            F.binary_cross_entropy_with_logits,
            of_silhouettes,
        ),
        objective="val_dice",
    ),
    "regression": Case(
        {"lr": [0.05, 0.01]},
        lambda project: {
            "data": Splits(values()),
            "network": telling,
            "loss": F.mse_loss,
            "metrics": ["mae", "mse", "rmse", "r2"],
        },
        lambda run: measured(Plain.begin(run, telling, data=values()), F.mse_loss, of_values),
        objective="val_mae",
    ),
}
