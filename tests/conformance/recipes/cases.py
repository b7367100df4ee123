"""What every case of a recipe is made of: a Trainer in one line, the same as a plain PyTorch loop, and small data."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from runmanager import Sweep, Trainer
from runmanager.data.splits import Splits, stratified_split
from runmanager.training.seeding import run_seed

NUM_EPOCHS, BATCH_SIZE, NUM_CLASSES, SWEEP_SEED = 3, 8, 3, 0


def pictures(number: int = 36) -> tuple[Tensor, Tensor]:
    """Inputs [N, 1, 4, 4] and classes [N]."""
    generator = torch.Generator().manual_seed(1)
    inputs = torch.rand(number, 1, 4, 4, generator=generator)
    return inputs, (inputs.sum((1, 2, 3)) * 2).long() % NUM_CLASSES


def network() -> nn.Module:
    """A small convolutional network with BatchNorm and dropout."""
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Dropout(0.2), nn.Linear(16, NUM_CLASSES)
    )


def sgd(run: Any, network: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(network.parameters(), lr=run.lr, momentum=0.9)


@dataclass
class Plain:
    """A plain PyTorch loop, whose parts a case replaces: what it is at each place is what a user would write there."""

    run: Any
    network: nn.Module
    optimizer: Any
    loader: DataLoader
    validation: TensorDataset
    rows: list[dict[str, float]] = field(default_factory=list)

    @classmethod
    def begin(
        cls,
        run: Any,
        make_network: Callable[[], nn.Module] = network,
        optimizer: Any = sgd,
        data: TensorDataset | None = None,
    ) -> "Plain":
        """Data, network and optimizer, made after the run's seed; a Trainer draws in the same order."""
        seed = run_seed(SWEEP_SEED, run._asdict())
        train, validation = stratified_split(data or TensorDataset(*pictures()), 0.2, SWEEP_SEED)
        torch.manual_seed(seed)
        made = make_network()
        order = torch.Generator().manual_seed(seed)
        loader = DataLoader(train, batch_size=BATCH_SIZE, shuffle=True, generator=order)
        return cls(run, made, optimizer(run, made), loader, validation)

    def step(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """The usual step; returns the loss."""
        self.optimizer.zero_grad()
        loss = F.cross_entropy(self.network(inputs), targets)
        loss.backward()
        self.optimizer.step()
        return loss

    def train(self, step: Callable[[Tensor, Tensor], Tensor] | None = None) -> float:
        """An epoch; returns the mean loss over its samples."""
        self.network.train()
        total, num_samples = 0.0, 0
        for inputs, targets in self.loader:
            total += (step or self.step)(inputs, targets).double().item() * len(targets)
            num_samples += len(targets)
        return total / num_samples

    def validate(
        self, network: nn.Module | None = None, loss: Callable[..., Tensor] = F.cross_entropy
    ) -> dict[str, float]:
        """val_loss and val_accuracy."""
        network = network or self.network
        network.eval()
        total, num_correct, num_samples = 0.0, 0, 0
        with torch.no_grad():
            for inputs, targets in DataLoader(self.validation, batch_size=BATCH_SIZE, generator=torch.Generator()):
                preds = network(inputs)
                total += loss(preds, targets).double().item() * len(targets)
                num_correct += int(preds.argmax(1).eq(targets).sum())
                num_samples += len(targets)
        return {"val_loss": total / num_samples, "val_accuracy": num_correct / num_samples}


@dataclass(frozen=True)
class Case:
    """A recipe as a sweep says it."""

    params: Mapping[str, list[Any]]
    trainer: Callable[[Path], dict[str, Any]]
    """What the Trainer is given beside the usual; it gets the project, and is called anew in each process."""
    plain: Callable[[Any], Plain] | None = None
    """The plain loop of a run, gone through; its rows have what the sweep's rows are compared in. None where there is none."""
    alone: str | None = None
    """What is said where it has no batched form; None where it has."""
    tolerance: float = 1e-5
    """How far a fused run's numbers may be from those alone."""
    objective: str | None = None
    leaves_early: bool = False
    """Whether a run ends before the others, which then go on without it."""
    is_slow: bool = False
    prepare: Callable[[Path], None] = lambda project: None
    """Puts into the project what the sweep needs."""


def sweep_of(case: Case, project: Path) -> Sweep:
    """The sweep of a case."""
    usual = {
        "network": network,
        "data": Splits(TensorDataset(*pictures())),
        "optimizer": sgd,
        "loss": F.cross_entropy,
        "epochs": NUM_EPOCHS,
        "batch_size": BATCH_SIZE,
        "validation": 0.2,
        "device": "cpu",
    }
    trainer = Trainer(**{**usual, **case.trainer(project)})
    sweep = Sweep(case.params, trainer=trainer, objective=case.objective, name="recipe", seed=SWEEP_SEED)
    sweep.file = project / "sweeps" / "recipe.py"
    return sweep
