"""What would go wrong in a run, found by building it before anything is trained."""

import copy
import warnings
import weakref
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import Module
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.data import TensorDataset

from runmanager.data.collating import advice, first_batch
from runmanager.data.splits import DataError, Splits
from runmanager.data.targets import target_fault
from runmanager.nearest import nearest
from runmanager.tracking.errors import MetricError
from runmanager.training.building import Building
from runmanager.training.checkpoints import TrainingState
from runmanager.training.parts import Parts
from runmanager.training.recipe import Recipe
from runmanager.training.seeding import seeded
from runmanager.training.settings import SETTINGS, USUAL, TrainerError, has_classes, other_number
from runmanager.training.steppers import SingleStepper
from runmanager.training.unused import idle_settings, used_by

if TYPE_CHECKING:
    from runmanager.training.trainer import Trainer


_NO_DATA = Splits(TensorDataset(torch.zeros(1), torch.zeros(1)))
_SAID = {"schedule": "scheduler", "precision": "amp", "clip": "clipping", "unfreezing": "unfreeze"}
"""What the parts of a recipe are called in a Trainer."""
_OF_NETWORK = ("schedule", "average", "unfreezing")
"""Those that are made of the network or its optimizer."""


def faults_of(
    trainer: "Trainer",
    runs: Sequence[Any],
    objective: str | None,
    split_seed: int,
    project: Path,
    checkpoints: bool,
    started: Sequence[bool] = (),
) -> list[str]:
    """The faults of all these runs, each once.

    The first run, and the first of each recipe, also puts two samples through its network and its loss. The targets of each
    data set are looked at once. The runs show each value of each parameter, so that a setting which none of them uses is a
    fault.
    """
    found: dict[str, None] = {}
    tried: set[str] = set()
    used: set[str] = set()
    seen: list[weakref.ref[Splits]] = []
    for run, is_started in zip(runs, started or [False] * len(runs), strict=True):
        with seeded(0), _workspace(trainer, run, found):
            splits = _splits(trainer, run, found, objective, split_seed, project)
            parts = _parts(trainer, run, splits, found, project, with_start=not is_started)
            if found or parts is None or splits is None:
                continue
            used |= used_by(parts)
            if not any(one() is splits for one in seen):
                seen.append(weakref.ref(splits))
                _note(found, "targets", partial(_check_targets, parts, splits))
            _note(found, "last batch", partial(_try_last, trainer, run, parts, splits))
            if found or str(parts.recipe.structure()) in tried:
                continue
            tried.add(str(parts.recipe.structure()))
            _note(found, "first batch", partial(_try_batch, parts, splits, objective))
            if found:
                continue
            if checkpoints:
                _note(found, "checkpoint", TrainingState(parts, torch.Generator(), splits).capture)
            if trainer.setting("deterministic", run):
                _note_undetermined(found, parts, splits)
            else:
                _note(found, "first batch", partial(_try_step, parts, splits))
    return list(found) or idle_settings(trainer, runs, used)


def _workspace(trainer: "Trainer", run: Any, found: dict[str, None]) -> AbstractContextManager[Any]:
    """What a GPU needs before its first operation where a run is to be deterministic."""
    if not _note(found, "deterministic", partial(trainer.setting, "deterministic", run)):
        return nullcontext()
    from runmanager.training.recipes.determinism import workspace

    return workspace()


def _note_undetermined(found: dict[str, None], parts: Parts, splits: Splits) -> None:
    """Notes what of a step has no deterministic algorithm."""
    from runmanager.training.recipes.determinism import faults

    for fault in _note(found, "first batch", lambda: faults(partial(_try_step, parts, splits))) or ():
        found[fault] = None


def _try_step(parts: Parts, splits: Splits) -> None:
    """One step on two samples, or on two in each piece, with all that the recipe adds; the parts are thrown away after it."""
    stepper = SingleStepper(parts)
    inputs, targets = _samples(parts, splits, 2 * parts.recipe.accumulate)
    stepper.train(True)
    try:
        with parts.network.register_forward_hook(_refuse_output):
            stepper.step(inputs, targets)
    except TrainerError:
        raise
    except (RuntimeError, TypeError, ValueError, IndexError) as error:
        shapes = f"inputs {list(inputs.shape)}, targets {list(targets.shape)}"
        raise TrainerError(f"{shapes} make no step: {type(error).__name__}: {error}") from error


def _refuse_output(network: Module, _: Any, preds: Any) -> None:
    """Raises TrainerError where predictions are something else than one tensor; some networks give that in train mode alone."""
    if not isinstance(preds, Tensor):
        mode = " in train mode" if network.training else ""
        raise TrainerError(
            f"the network returns a {type(preds).__name__}{mode}, and a Trainer's network returns one tensor; let it return the "
            "predictions alone, or train by a function of your own: Sweep(train=...)"
        )


def _try_last(trainer: "Trainer", run: Any, parts: Parts, splits: Splits) -> None:
    """Whether a batch, or a piece of one, is a single sample and the network has a BatchNorm that cannot be trained on it."""
    number, size = getattr(splits.train, "__len__", int)(), trainer.setting("batch_size", run)
    ends = [one for one in (min(number, size), number % size) if one]
    if not any(one // min(one, parts.recipe.accumulate) == 1 for one in ends) or not _has_batch_norm(parts.network):
        return
    inputs, _ = _two_samples(parts, splits)
    network = copy.deepcopy(parts.network).train(True)
    try:
        with torch.no_grad():
            network(inputs)
    except Exception:  # noqa: BLE001 (the first batch tells)
        return
    try:
        with torch.no_grad():
            network(inputs[:1])
    except ValueError as error:
        raise TrainerError(
            f"batch_size={size}{_in_pieces(parts.recipe)} leaves one of the {number} training samples by itself, and the network "
            f"does not train on one ({error}); choose another batch_size"
        ) from error


def _has_batch_norm(network: Module) -> bool:
    return any(isinstance(one, _BatchNorm) for one in network.modules())


def _in_pieces(recipe: Recipe) -> str:
    return f" with accumulate={recipe.accumulate}" if recipe.accumulate > 1 else ""


def _parts(
    trainer: "Trainer", run: Any, splits: Splits | None, found: dict[str, None], project: Path, *, with_start: bool
) -> Parts | None:
    """Builds one part after the other, so that all their faults are found; None where there is one."""
    for name in SETTINGS:
        _note(found, name, partial(trainer.setting, name, run))
    making = Building(trainer, run, splits or _NO_DATA, project, with_start=with_start, compiles=False)
    _note(found, "device", lambda: making.device)
    _note(found, "devices", partial(_check_devices, trainer, run))
    if splits is not None:
        _note(found, "sampling", making.check_sampling)
    network: Any = _network(making, found)
    loss = _note(found, "loss", partial(making.loss, network))
    optimizer: Any = None if network is None else _note(found, "optimizer", partial(making.optimizer, network))
    if splits is None:
        return None
    is_built = network is not None and optimizer is not None
    made = {
        name: _note(found, _SAID.get(name, name), make)
        for name, make in making.recipe_parts(network, optimizer).items()
        if is_built or name not in _OF_NETWORK
    }
    if not is_built and isinstance(_note(found, "scheduler", partial(trainer.part, "scheduler", run)), str):
        stand_in = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1)
        _note(found, "scheduler", making.recipe_parts(nn.Identity(), stand_in)["schedule"])
    return None if found or loss is None or not is_built else Parts(network, optimizer, loss, making.recipe_of(made))


def _network(making: Building, found: dict[str, None]) -> Module | None:
    """The network; None where it cannot be had. What is to be done to it is tried one by one."""
    network: Module | None = _note(found, "network", making.bare_network)
    if network is None:
        return None
    for name, change in making.changes().items():
        faults: dict[str, None] = {}
        _note(faults, name, partial(change, network))
        found.update(faults)
        if faults and name in ("head", "freeze"):
            return None  # what follows goes by them
    return _note(found, "network", partial(making.placed, network))  # type: ignore[no-any-return]


def _check_devices(trainer: "Trainer", run: Any) -> None:
    """Whether this machine has the devices of a run that wants several."""
    said = [trainer.setting(name, run) for name in ("devices", "parallel", "sync_batchnorm", "device", "compile")]
    if said[0] == 1:
        return
    from runmanager.training.distributed import devices_fault

    fault = devices_fault(*said)
    if fault:
        raise TrainerError(fault)


def _splits(
    trainer: "Trainer", run: Any, found: dict[str, None], objective: str | None, split_seed: int, project: Path
) -> Splits | None:
    """The data of a run; it is loaded once for all that have the same."""
    splits: Splits | None = _note(found, "data", partial(trainer.splits, run, split_seed, project))
    if splits is not None and objective and splits.validation is None:
        found[f"objective={objective!r} needs validation data; give the Trainer validation=0.1"] = None
    return splits


def exercise(trainer: "Trainer", run: Any, split_seed: int, project: Path) -> None:
    """Puts two samples through the run's network and loss in both modes; what goes wrong is not told here."""
    ignored: dict[str, None] = {}
    with seeded(0):
        splits = _note(ignored, "data", partial(trainer.splits, run, split_seed, project))
        parts = splits and _note(ignored, "parts", partial(trainer.build, run, splits, project, compiles=False))
        for training in (False, True) if parts else ():
            _note(ignored, "batch", partial(_go_through, parts, splits, training))


def _go_through(parts: Parts, splits: Splits, training: bool) -> None:
    _forward(parts, _two_samples(parts, splits), training)


def _forward(parts: Parts, samples: tuple[Tensor, Tensor], training: bool) -> tuple[str, Tensor, Tensor, Tensor]:
    """The shapes, predictions, targets and loss of some samples."""
    inputs, targets = samples
    shapes = f"inputs {list(inputs.shape)}, targets {list(targets.shape)}"
    parts.network.train(training)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.filterwarnings("error", "Using a target size")  # each prediction would be compared with each target
        preds = None
        try:
            preds = parts.network(inputs)
            _refuse_output(parts.network, inputs, preds)
            return shapes, preds, targets, parts.loss(preds, targets)
        except TrainerError:
            raise
        except (RuntimeError, TypeError, ValueError, IndexError, UserWarning) as error:
            hint = (
                _other_loss(parts, preds, targets)
                or _other_weights(parts, preds, error)
                or advice(inputs, targets, error)
            )
            raise TrainerError(f"{shapes} do not go through: {type(error).__name__}: {error}{hint}") from error


def _other_loss(parts: Parts, preds: Any, targets: Tensor) -> str:
    """The end of the message where a loss is for other targets."""
    from runmanager.training.recipes.losses import takes_classes

    if not isinstance(preds, Tensor) or not has_classes(preds, targets) or takes_classes(parts.loss):
        return ""
    return "; the targets are classes: choose loss='cross_entropy'"


def _other_weights(parts: Parts, preds: Any, error: Exception) -> str:
    """The end of the message where there are class weights for another number of classes than the network has outputs for."""
    weights = getattr(parts.loss, "weight", None)
    if "weight tensor should be defined" not in str(error) or not isinstance(weights, Tensor):
        return ""
    return f"; {other_number(len(weights), preds.shape[1])}"


def _two_samples(parts: Parts, splits: Splits) -> tuple[Tensor, Tensor]:
    return _samples(parts, splits, 2)


def _samples(parts: Parts, splits: Splits, number: int) -> tuple[Tensor, Tensor]:
    inputs, targets = first_batch(splits.train, number)
    return inputs.to(parts.device), targets.to(parts.device)


def _try_batch(parts: Parts, splits: Splits, objective: str | None) -> None:
    samples = _two_samples(parts, splits)
    shapes, preds, targets, loss = _forward(parts, samples, training=False)
    _try_validation(parts, splits, samples)
    if not isinstance(loss, Tensor):
        raise TrainerError(
            f"the loss is {loss!r:.80}, a {type(loss).__name__}; return a tensor, the mean over the batch"
        )
    if loss.ndim != 0:
        raise TrainerError(f"the loss has shape {list(loss.shape)}; return its mean over the batch, shape []")
    if objective == "val_accuracy" and not has_classes(preds, targets):
        raise TrainerError(
            f"{shapes}: there is no val_accuracy, since targets are no classes; use objective='val_loss'"
        )
    _check_measured(parts.recipe, preds, targets, objective, has_validation=splits.validation is not None)
    if parts.recipe.num_shown:
        _check_shown(samples[0], preds, targets)


def _try_validation(parts: Parts, splits: Splits, samples: tuple[Tensor, Tensor]) -> None:
    """Whether validation data that is of another type or shape than the training samples goes through as well."""
    if splits.validation is None:
        return
    others = [one.to(parts.device) for one in first_batch(splits.validation, 2)]
    if any((one.dtype, one.shape[1:]) != (own.dtype, own.shape[1:]) for one, own in zip(others, samples, strict=True)):
        try:
            _forward(parts, (others[0], others[1]), training=False)
        except TrainerError as error:
            raise TrainerError(f"validation data: {error}") from error


def _check_targets(parts: Parts, splits: Splits) -> None:
    """Whether the network has an output for each class, as far as the data has its targets at hand."""
    from runmanager.training.recipes.losses import ignored_class

    ignored = ignored_class(parts.loss)
    number = None if ignored is None else _num_outputs(parts, splits)
    fault = None if number is None or ignored is None else target_fault(splits, number, ignored)
    if fault is not None:
        raise DataError(fault)


def _num_outputs(parts: Parts, splits: Splits) -> int | None:
    """How many classes the network tells apart; None where targets are no classes, or where nothing goes through it."""
    parts.network.train(False)
    try:
        inputs, targets = _two_samples(parts, splits)
        with torch.no_grad():
            preds = parts.network(inputs)
    except Exception:  # noqa: BLE001 (the first batch tells)
        return None
    return preds.shape[1] if isinstance(preds, Tensor) and has_classes(preds, targets) else None


def _check_shown(inputs: Tensor, preds: Tensor, targets: Tensor) -> None:
    """Whether samples can be shown with their predictions."""
    from runmanager.training.recipes.pictures import predictions_picture

    try:
        predictions_picture(inputs, preds, targets)
    except MetricError as error:
        raise TrainerError(f"show_predictions: {error}") from error


def _check_measured(
    recipe: Recipe, preds: Tensor, targets: Tensor, objective: str | None, *, has_validation: bool
) -> None:
    """Whether the metrics can be measured, and the objective and what is monitored are among them."""
    names = ["val_loss", *(["val_accuracy"] if has_classes(preds, targets) else [])]
    averaged = [f"average {name}" for name in names] if recipe.average is not None else []
    if recipe.metrics is not None:
        recipe.metrics.add(preds, targets)
        names += [f"val_{name}" for name in recipe.metrics.value_names()]
        recipe.metrics.reset()
    if objective is not None and objective not in [*names, *averaged]:
        raise TrainerError(
            f"objective={objective!r} is not measured; choose {', '.join([*names, *averaged])}, or add it to metrics"
            f"{nearest(objective, names)}"
        )
    names, averaged = (names, averaged) if has_validation else ([], [])
    names += ["loss", *(["accuracy"] if has_classes(preds, targets) else [])]
    for what, name in recipe.monitored().items():
        if recipe.average is not None and name in averaged and recipe.average.first_epoch > 1:
            raise TrainerError(
                f"the {what} goes by {name} from epoch 1 on, but the average begins with epoch {recipe.average.first_epoch}; "
                "set swa_start=1, average='ema', or monitor another metric"
            )
        if name not in [*names, *averaged]:
            raise TrainerError(
                f"the {what} goes by {name}, which is not measured; monitor one of {', '.join(names)}, or "
                f"{'add it to metrics' if has_validation else 'hold out data: validation=0.1'}{nearest(name, names)}"
            )


def _note(found: dict[str, None], part: str, make: Callable[[], Any]) -> Any:
    """What `make` returns; where it raises, None, and the fault is noted."""
    try:
        return make()
    except AttributeError as error:
        part = getattr(error, "setting", part)
        if error.name and hasattr(error.obj, "_fields"):
            names = ", ".join(error.obj._fields) or "no parameters"
            example = USUAL.get(error.name, "...")
            found[f"the {part} reads run.{error.name}, but the grid has {names}; add {error.name}=[{example}]"] = None
        else:
            found[f"{part}: AttributeError: {error}"] = None
    except (TrainerError, DataError, FileNotFoundError) as error:
        found[f"{part}: {error}" if part == "first batch" else str(error)] = None
    except Exception as error:  # noqa: BLE001 (the user's own functions may raise anything, and all of it is a fault)
        found[f"{getattr(error, 'setting', part)}: {type(error).__name__}: {error}"] = None
    return None
