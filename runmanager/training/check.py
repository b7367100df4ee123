"""What would go wrong in a run, found by building it before anything is trained."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from runmanager.data.splits import DataError, Splits
from runmanager.training.checkpoints import TrainingState
from runmanager.training.parts import (
    Parts,
    build_loss,
    build_network,
    build_optimizer,
    build_scheduler,
    is_function_of_run,
)
from runmanager.training.seeding import seeded
from runmanager.training.settings import SETTINGS, USUAL, TrainerError, choose_device, has_classes

if TYPE_CHECKING:
    from runmanager.training.trainer import Trainer


def faults_of(
    trainer: "Trainer", runs: Sequence[Any], objective: str | None, split_seed: int, project: Path, checkpoints: bool
) -> list[str]:
    """The faults of all these runs, each once. The first run also puts two samples through its network and its loss."""
    found: dict[str, None] = {}
    for index, run in enumerate(runs):
        with seeded(0):
            parts = _parts(trainer, run, found)
            splits = _splits(trainer, run, found, index == 0, objective, split_seed, project)
            if index == 0 and not found and parts and splits:
                _note(found, "first batch", partial(_try_batch, parts, splits, objective))
                if checkpoints:
                    _note(found, "checkpoint", TrainingState(parts, torch.Generator(), splits).capture)
    return list(found)


def _parts(trainer: "Trainer", run: Any, found: dict[str, None]) -> Parts | None:
    """Builds one part after the other, so that all their faults are found; None where there is one."""
    settings = {name: _note(found, name, partial(trainer.setting, name, run)) for name in SETTINGS}
    device = _note(found, "device", partial(choose_device, settings["device"])) or torch.device("cpu")
    network = _note(found, "network", partial(build_network, trainer.network, run))
    loss = _note(found, "loss", partial(build_loss, trainer.loss, run, device))
    if network is None:
        return None
    optimizer = _note(found, "optimizer", partial(build_optimizer, trainer.optimizer, run, network.to(device)))
    if optimizer is None:
        return None
    scheduler = _note(found, "scheduler", partial(build_scheduler, trainer.scheduler, run, optimizer))
    return Parts(network, optimizer, loss, scheduler)


def _splits(
    trainer: "Trainer",
    run: Any,
    found: dict[str, None],
    is_first: bool,
    objective: str | None,
    split_seed: int,
    project: Path,
) -> Splits | None:
    """The data of the first run, and of others where it may be another one."""
    if not (is_first or is_function_of_run(trainer.data) or "validation" in run._fields):
        return None
    splits: Splits | None = _note(found, "data", partial(trainer.splits, run, split_seed, project))
    if splits is not None and objective and splits.validation is None:
        found[f"objective={objective!r} needs validation data; give the Trainer validation=0.1"] = None
    return splits


def exercise(trainer: "Trainer", run: Any, split_seed: int, project: Path) -> None:
    """Puts two samples through the run's network and loss in both modes; what goes wrong is not told here."""
    ignored: dict[str, None] = {}
    with seeded(0):
        parts = _note(ignored, "parts", partial(trainer.build, run))
        splits = _note(ignored, "data", partial(trainer.splits, run, split_seed, project))
        for training in (False, True) if parts and splits else ():
            _note(ignored, "batch", partial(_forward, parts, splits, training))


def _forward(parts: Parts, splits: Splits, training: bool) -> tuple[str, Tensor, Tensor, Tensor]:
    """The shapes, predictions, targets and loss of two samples."""
    batch = next(iter(DataLoader(splits.train, batch_size=2)))
    if not isinstance(batch, (list, tuple)) or len(batch) != 2 or not all(isinstance(one, Tensor) for one in batch):
        raise TrainerError("the data gives no (inputs, targets) pairs of tensors; let __getitem__ return such a pair")
    inputs, targets = batch[0].to(parts.device), batch[1].to(parts.device)
    shapes = f"inputs {list(inputs.shape)}, targets {list(targets.shape)}"
    parts.network.train(training)
    with torch.no_grad():
        try:
            preds = parts.network(inputs)
            return shapes, preds, targets, parts.loss(preds, targets)
        except (RuntimeError, TypeError, ValueError, IndexError) as error:
            raise TrainerError(f"{shapes} do not go through: {type(error).__name__}: {error}") from error


def _try_batch(parts: Parts, splits: Splits, objective: str | None) -> None:
    shapes, preds, targets, loss = _forward(parts, splits, training=False)
    if loss.ndim != 0:
        raise TrainerError(f"the loss has shape {list(loss.shape)}; return its mean over the batch, shape []")
    if objective == "val_accuracy" and not has_classes(preds, targets):
        raise TrainerError(
            f"{shapes}: there is no val_accuracy, since targets are no classes; use objective='val_loss'"
        )


def _note(found: dict[str, None], part: str, make: Callable[[], Any]) -> Any:
    """What `make` returns; where it raises, None, and the fault is noted."""
    try:
        return make()
    except AttributeError as error:
        if error.name and hasattr(error.obj, "_fields"):
            names = ", ".join(error.obj._fields) or "no parameters"
            example = USUAL.get(error.name, "...")
            found[f"the {part} reads run.{error.name}, but the grid has {names}; add {error.name}=[{example}]"] = None
        else:
            found[f"{part}: AttributeError: {error}"] = None
    except (TrainerError, DataError, FileNotFoundError) as error:
        found[f"{part}: {error}" if part == "first batch" else str(error)] = None
    except Exception as error:  # noqa: BLE001 (the user's own functions may raise anything, and all of it is a fault)
        found[f"{part}: {type(error).__name__}: {error}"] = None
    return None
