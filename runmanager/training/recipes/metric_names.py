"""The metrics that have a name, and what the columns of classes are called."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from runmanager.training.recipes.naming import unknown
from runmanager.training.settings import TrainerError

CHOICES = (
    "accuracy",
    "top_5",
    "precision",
    "recall",
    "f1",
    "f0.5",
    "iou",
    "kappa",
    "confusion",
    "per_class",
    "per_class_precision",
    "per_class_recall",
    "per_class_f1",
    "per_class_iou",
    "mae",
    "mse",
    "rmse",
    "r2",
)
"""What may be asked for; top_<k> and f<beta> with any number, and precision, recall, f<beta> and iou with _micro or _weighted."""

REGRESSION = {"mae", "mse", "rmse", "r2"}
_PLAIN = {"accuracy": "micro", "kappa": "none", "confusion": "none", **dict.fromkeys(REGRESSION, "none")}
_AVERAGED = re.compile(r"(per_class_)?(precision|recall|iou|f(?=\d))(\d+(?:\.\d+)?)?(?:_(macro|micro|weighted))?")
_TOP = re.compile(r"top_([1-9]\d{0,5})")
_MAX_LENGTH = 40


@dataclass(frozen=True)
class Named:
    """A metric that was asked for by its name."""

    name: str
    base: str  # precision, f, top, ...
    number: float = 1  # of f<beta> and top_<k>
    average: str = "none"  # over the classes; none of a metric of each class, or of one that has no such average

    @property
    def is_of_each_class(self) -> bool:
        """Whether it has a value for each class."""
        return self.name.startswith("per_class")

    @property
    def column(self) -> str:
        """The name of its values: the metric's own, or the beginning of those of the classes."""
        return self.name.removeprefix("per_class_") if self.name != "per_class" else "accuracy"


def named(name: str) -> Named:
    """The metric that a name stands for.

    Raises:
        TrainerError: it stands for none; the message lists the names and has the nearest.
    """
    text = name.lower()
    found = _named(text)
    if found is None:
        raise TrainerError(
            f"{unknown('metrics', name, CHOICES)}; or give a torchmetrics object, or a function of (preds, labels)"
        )
    return found


def _named(text: str) -> Named | None:
    if text in _PLAIN:
        return Named(text, text, average=_PLAIN[text])
    if text == "per_class":
        return Named(text, "accuracy")
    if match := _TOP.fullmatch(text):
        return Named(text, "top", int(match[1]), "micro")
    match = _AVERAGED.fullmatch(text)
    if match is None or (match[2] == "f") != (match[3] is not None) or (match[1] and match[4]):
        return None
    beta = float(match[3] or 1)
    return Named(text, match[2], beta, "none" if match[1] else match[4] or "macro") if beta > 0 else None


def class_columns(classes: Sequence[str]) -> list[str]:
    """The classes' names as parts of a metric's name, each another one.

    A slash, which parts a metric from its class, becomes `_`, as do control characters; what is longer than 40 characters is
    cut; a name that is empty or there already gets the class's number.
    """
    columns: list[str] = []
    for number, name in enumerate(classes):
        column = re.sub(r"[/\\\x00-\x1f\x7f]", "_", " ".join(str(name).split()))[:_MAX_LENGTH] or str(number)
        columns.append(column if column not in columns else f"{column} ({number})")
    return columns
