"""A run's loss: by name, class or function, with the run's hyperparameters as its arguments, and with class weights."""

import copy
import inspect
from collections.abc import Callable
from functools import cache, partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn import Module

from runmanager.nearest import nearest
from runmanager.training.recipes.naming import (
    as_list,
    chosen,
    filled,
    kind_of,
    refuse_text,
    refuse_unknown,
    short_name,
)
from runmanager.training.settings import TrainerError
from runmanager.training.steppers import Loss

_NOT_FROM_THE_GRID = ("weight", "reduction", "size_average", "reduce")
"""Of torch's losses: class weights are `class_weights`, and what is recorded is always a mean over the batch."""

_FOR_CLASSES = (nn.CrossEntropyLoss, nn.NLLLoss, nn.MultiMarginLoss, nn.MultiLabelSoftMarginLoss)
"""Of torch's losses those whose `weight` is one number for each class; that of others is for the elements of a batch."""

_OVER_CLASSES = (nn.CrossEntropyLoss, nn.NLLLoss)
"""Of torch's losses those that pass over one class, `ignore_index`, and refuse any that has no output."""

_OF_CLASSES = (*_OVER_CLASSES, nn.MultiMarginLoss)
"""Of torch's losses those whose targets are classes."""

_BY_POSITION = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


def build_loss(
    loss: Any,
    run: Any,
    device: torch.device | None = None,
    *,
    class_weights: Any = None,
    targets: Callable[[], Tensor] | None = None,
    num_classes: int | None = None,
    dtype: torch.dtype | None = None,
) -> Loss:
    """The loss of a run; a Module is on the run's device.

    What `loss` leaves open is filled with the run's hyperparameters of those names: `label_smoothing`, `delta`, `margin`; to
    torch's losses, None is their default. A function of torch's that has been given arguments becomes torch's class of it,
    which computes the same bits.

    Args:
        loss: a name of torch's ("cross_entropy", "CrossEntropyLoss"), a class, a Module, a function of predictions and targets,
            a partial of these, or a function of the run that returns one. A function of the run fills its own arguments,
            except where it returns a name.
        run: a named tuple of hyperparameters.
        device: where the loss works.
        class_weights: "balanced" (see `balanced_weights`) or a number for each class. They are the loss's `weight`, so they
            count for training and for val_loss alike, and both are weighted means. A class of weight 0 counts nowhere; a batch
            that has no other class has no mean, which is NaN.
        targets: gives the class of each training sample, [N]; it is called only where class weights need it.
        num_classes: how many classes there are, where that is known.
        dtype: of the class weights, which has to be that of the predictions (see `weights_dtype`); by default torch's own.

    Raises:
        TrainerError: it makes no loss, or the class weights do not go with it.
    """
    given = _by_name(loss)
    if not callable(given):
        raise TrainerError(
            f"loss={short_name(given)} is no function of predictions and targets; write loss=F.cross_entropy"
        )
    refuse_unknown("loss", given)
    from_run = _is_of_run(given)
    if from_run:
        returned = given(run)
        given, from_run = _by_name(returned), not isinstance(returned, str)
    if not callable(given):
        raise TrainerError(f"the loss function of the run returned {short_name(given)}, which cannot be called")
    if class_weights is not None:
        given = _weighted(given, weights_of(class_weights, targets, num_classes, dtype).to(device or "cpu"))
    made = _bound(given, {}) if from_run else _made(given, run, device)
    return made.to(device) if isinstance(made, Module) else made


def _by_name(loss: Any) -> Any:
    return chosen("loss", loss, _choices()) if isinstance(loss, str) else loss


def weights_dtype(network: Module) -> torch.dtype:
    """What class weights are in beside a network's predictions: torch takes no float32 beside float64.

    It is what all parameters are in, where that is float32 or float64. Of others the predictions may be in something else, as
    those of bfloat16 often are in float32, so it is torch's default there.
    """
    kinds = {param.dtype for param in network.parameters() if param.dtype.is_floating_point}
    kind = kinds.pop() if len(kinds) == 1 else None
    return kind if kind in (torch.float32, torch.float64) else torch.get_default_dtype()


def balanced_weights(targets: Tensor, num_classes: int | None = None, dtype: torch.dtype | None = None) -> Tensor:
    """A weight for each class, [C], so that all classes count alike: n / (k * count of the class).

    n are the samples and k the classes that have any, as in scikit-learn's compute_class_weight("balanced"). A class without
    samples has weight 0.

    Args:
        targets: the class of each sample, int64 [N].
        num_classes: C; one more than the largest class where it is not given.
        dtype: of the weights; by default torch's own.

    Raises:
        TrainerError: there are no targets, or one is no class.
    """
    if targets.numel() == 0:
        raise TrainerError(
            "class_weights='balanced' cannot be worked out without samples; give a number for each class"
        )
    least, largest = int(targets.min()), int(targets.max())
    if least < 0 or (num_classes is not None and largest >= num_classes):
        what = f"one of the {num_classes} classes 0 to {num_classes - 1}" if num_classes else "a class"
        raise TrainerError(f"class_weights='balanced': the target {least if least < 0 else largest} is not {what}")
    counts = torch.bincount(targets.reshape(-1), minlength=num_classes or 0).to(torch.float64)
    weights = counts.sum() / (counts.count_nonzero() * counts)  # a number / a tensor would round twice
    return torch.where(counts > 0, weights, 0.0).to(dtype or torch.get_default_dtype())


def weights_of(
    class_weights: Any,
    targets: Callable[[], Tensor] | None,
    num_classes: int | None,
    dtype: torch.dtype | None = None,
) -> Tensor:
    """The class weights that a setting stands for, [C].

    Raises:
        TrainerError: it stands for none.
    """
    if isinstance(class_weights, str):
        if class_weights.lower() != "balanced":
            raise TrainerError(
                f"class_weights={class_weights!r} is unknown; choose 'balanced' or a number for each class"
                f"{nearest(class_weights, ['balanced'])}"
            )
        if targets is None:
            raise TrainerError("class_weights='balanced' needs the training targets; give a number for each class")
        return balanced_weights(targets(), num_classes, dtype)
    weights = _numbers(class_weights, dtype or torch.get_default_dtype())
    _refuse_length(weights, targets, num_classes)
    return weights


def ignored_class(loss: Any) -> int | None:
    """The class that cross entropy or negative log likelihood passes over; None for other losses."""
    if isinstance(loss, _OVER_CLASSES):
        return loss.ignore_index
    if kind_of(loss) not in (F.cross_entropy, F.nll_loss):
        return None
    return int(getattr(loss, "keywords", {}).get("ignore_index", -100))


def takes_classes(loss: Any) -> bool:
    """Whether targets may be classes; of a loss that is not torch's, nothing else is known."""
    kind = type(loss) if isinstance(loss, Module) else kind_of(loss)
    return not _is_torchs(kind) or _class_of(kind) in _OF_CLASSES


def _numbers(class_weights: Any, dtype: torch.dtype) -> Tensor:
    try:
        weights = torch.as_tensor(class_weights, dtype=dtype, device="cpu")
    except (TypeError, ValueError, RuntimeError):
        weights = torch.empty(0)
    if weights.ndim != 1 or not weights.isfinite().all() or (weights < 0).any() or not weights.any():
        raise TrainerError(
            f"class_weights={class_weights!r} is neither 'balanced' nor a list with a number of 0 or more for each class"
        )
    return weights


def _refuse_length(weights: Tensor, targets: Callable[[], Tensor] | None, num_classes: int | None) -> None:
    """Without the number of classes, the targets tell how many weights there must be at least."""
    if num_classes is not None and len(weights) != num_classes:
        raise TrainerError(
            f"class_weights has {len(weights)} numbers, but there are {num_classes} classes; give one each"
        )
    if num_classes is None and targets is not None and len(weights) <= (largest := int(targets().max())):
        raise TrainerError(
            f"class_weights has {len(weights)} numbers, but the targets go up to {largest}; give {largest + 1}"
        )


def _weighted(loss: Any, weight: Tensor) -> Any:
    """The loss with class weights, before it takes the run's hyperparameters."""
    if not _takes_weights(loss):
        names = ", ".join(kind.__name__ for kind in _FOR_CLASSES)
        raise TrainerError(
            f"class_weights goes with losses that have a weight for each class, and {short_name(loss)} has none; "
            f"choose {names}, or a loss of your own with an argument weight"
        )
    has_own = loss.weight if isinstance(loss, Module) else getattr(loss, "keywords", {}).get("weight")
    if has_own is not None:
        raise TrainerError(f"loss={short_name(loss)} has a weight of its own; leave that out, or class_weights")
    if not isinstance(loss, Module):
        return partial(loss, weight=weight)
    loss = copy.deepcopy(loss)
    loss.weight = weight
    return loss


def _takes_weights(loss: Any) -> bool:
    if isinstance(loss, Module):
        return isinstance(loss, _FOR_CLASSES) if _is_torchs(type(loss)) else hasattr(loss, "weight")
    function = kind_of(loss)
    if _is_torchs(function):
        return _class_of(function) in _FOR_CLASSES
    return "weight" in _names(function)


def _made(loss: Any, run: Any, device: torch.device | None) -> Any:
    """The loss with the run's hyperparameters."""
    if isinstance(loss, Module):
        return copy.deepcopy(loss)  # its buffers may change while a run is trained
    is_class = isinstance(kind_of(loss), type)
    by_caller = [] if is_class else [param.name for param in _params(loss) if param.kind in _BY_POSITION][:2]
    by_others = _NOT_FROM_THE_GRID if _is_torchs(kind_of(loss)) else ()
    keywords = filled(loss, run, leave_out=(*by_caller, *by_others))
    if _is_torchs(kind_of(loss)):
        usual = {param.name: param.default for param in _params(loss)}
        keywords = {name: usual[name] if value is None else value for name, value in keywords.items()}
        keywords = _checked(keywords, device)
        refuse_text(loss, keywords)
    missing = [name for name in _required(loss) if name not in keywords and name not in by_caller]
    if is_class and len(missing) == 1:
        return loss(**{missing[0]: run}, **keywords)
    if missing:
        hint = ", ".join(f"{name}=[...]" for name in missing)
        raise TrainerError(f"loss={short_name(loss)} wants {', '.join(missing)}, not in the grid; add {hint}")
    return _bound(loss, keywords)


def _bound(loss: Any, keywords: dict[str, Any]) -> Any:
    """A loss of predictions and targets: an object of the class, or the function with its arguments."""
    if isinstance(kind_of(loss), type):
        return _called(loss, keywords)
    given = {**getattr(loss, "keywords", {}), **keywords}
    kind = _class_of(kind_of(loss))
    if kind is not None and given and not getattr(loss, "args", ()) and given.keys() <= set(_names(kind)):
        return _called(kind, given)
    return partial(loss, **keywords) if keywords else loss


def _called(kind: Any, keywords: dict[str, Any]) -> Any:
    """An object of a class, or of a partial of one."""
    try:
        return kind(**keywords)
    except (TypeError, ValueError, AssertionError) as error:
        if not _is_torchs(kind_of(kind)):
            raise
        values = ", ".join(f"{name}={value!r}" for name, value in keywords.items())
        raise TrainerError(f"loss={short_name(kind)} cannot be made with {values}: {error}") from error


def _checked(keywords: dict[str, Any], device: torch.device | None) -> dict[str, Any]:
    """Hyperparameters as torch's losses want them; what those refuse only at the first batch is refused here."""
    smoothing = keywords.get("label_smoothing", 0.0)
    if isinstance(smoothing, bool) or not isinstance(smoothing, (int, float)) or not 0 <= smoothing <= 1:
        raise TrainerError(f"label_smoothing={smoothing!r} is no share; give a number from 0 to 1")
    if keywords.get("pos_weight") is None:
        return keywords
    return {**keywords, "pos_weight": _positives(keywords["pos_weight"], device)}


def _positives(value: Any, device: torch.device | None) -> Tensor:
    try:
        return torch.tensor(as_list(value), dtype=torch.get_default_dtype(), device=device)
    except (TypeError, ValueError, RuntimeError):
        raise TrainerError(
            f"pos_weight={value!r} is neither a number nor a list of them, one for each output"
        ) from None


@cache
def _classes() -> dict[str, type[Module]]:
    """torch's loss classes that need nothing to be made and are called with predictions and targets alone."""
    kinds = [
        kind for kind in vars(nn).values() if isinstance(kind, type) and issubclass(kind, Module) and _is_torchs(kind)
    ]
    usable = [kind for kind in kinds if "reduction" in _names(kind) and not _required(kind)]
    return {kind.__name__: kind for kind in usable if len(_required(kind.forward)) == 3}


@cache
def _functions() -> dict[str, Callable[..., Tensor]]:
    """torch's loss functions of predictions and targets alone."""
    public = {name: value for name, value in vars(F).items() if not name.startswith("_") and inspect.isfunction(value)}
    return {name: one for name, one in public.items() if "reduction" in _names(one) and len(_required(one)) == 2}


def _choices() -> dict[str, Any]:
    short = {"bce": F.binary_cross_entropy, "bce_with_logits": F.binary_cross_entropy_with_logits}
    return {**_functions(), **short, **_classes()}


def _class_of(function: Any) -> type[Module] | None:
    """torch's class that does what a function of torch's does; None where there is none."""
    if isinstance(function, type):
        return function if function in _classes().values() else None
    if function not in _functions().values():
        return None
    short = function.__name__.replace("binary_cross_entropy", "bce").replace("_", "").removesuffix("loss") + "loss"
    return {name.lower(): kind for name, kind in _classes().items()}.get(short)


def _is_torchs(value: Any) -> bool:
    return getattr(value, "__module__", None) in ("torch.nn.modules.loss", "torch.nn.functional")


def _is_of_run(loss: Any) -> bool:
    """Whether it is a function of one argument, the run."""
    if isinstance(loss, Module) or isinstance(kind_of(loss), type):
        return False
    params = _params(loss)
    needed = [one for one in params if one.kind in _BY_POSITION and one.default is inspect.Parameter.empty]
    return len(needed) == 1


def _params(function: Any) -> list[inspect.Parameter]:
    try:
        return list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError):  # it is of C and has none
        return []


def _names(function: Any) -> list[str]:
    return [param.name for param in _params(function)]


def _required(function: Any) -> list[str]:
    """The arguments that a call must give."""
    kinds = (*_BY_POSITION, inspect.Parameter.KEYWORD_ONLY)
    return [one.name for one in _params(function) if one.kind in kinds and one.default is inspect.Parameter.empty]
