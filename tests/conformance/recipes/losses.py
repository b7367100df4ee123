"""Losses by name, label smoothing, class weights, balanced sampling, mixup and cutmix, penalties, dropout, and clipping."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.utils.class_weight import compute_class_weight
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_, clip_grad_value_
from torch.utils.data import DataLoader, TensorDataset, WeightedRandomSampler
from torchvision.transforms import v2

from tests.conformance.recipes.cases import BATCH_SIZE, NUM_CLASSES, NUM_EPOCHS, Case, Plain

Loss = Callable[[Tensor, Tensor], Tensor]


class WithDropout(nn.Module):
    """A network whose dropout is a hyperparameter."""

    def __init__(self, dropout: float) -> None:
        super().__init__()
        self.hidden, self.dropout, self.out = nn.Linear(16, 12), nn.Dropout(dropout), nn.Linear(12, NUM_CLASSES)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.out(self.dropout(F.relu(self.hidden(inputs.flatten(1)))))


def rare(run: Any) -> TensorDataset:
    """Pictures of three classes, of which one has most samples."""
    generator = torch.Generator().manual_seed(2)
    targets = torch.tensor([0] * 42 + [1] * 12 + [2] * 6)
    return TensorDataset(torch.rand(60, 1, 4, 4, generator=generator) + targets.view(-1, 1, 1, 1) / 4, targets)


def finished(plain: Plain, step: Loss | None = None, loss: Loss = F.cross_entropy) -> Plain:
    """The plain loop, gone through."""
    for _ in range(NUM_EPOCHS):
        plain.rows.append({"loss": plain.train(step), **plain.validate(loss=loss)})
    return plain


def by_loss(loss_of: Callable[[Any, Plain], Loss], data: Any = None) -> Callable[[Any], Plain]:
    """A plain loop that differs in its loss alone, in training and in validation."""

    def loop(run: Any) -> Plain:
        plain = Plain.begin(run) if data is None else Plain.begin(run, data=data(run))
        loss = loss_of(run, plain)

        def step(inputs: Tensor, targets: Tensor) -> Tensor:
            plain.optimizer.zero_grad()
            value = loss(plain.network(inputs), targets)
            value.backward()
            plain.optimizer.step()
            return value

        return finished(plain, step, loss)

    return loop


def smoothed(run: Any, plain: Plain) -> Loss:
    return lambda preds, targets: F.cross_entropy(preds, targets, label_smoothing=run.label_smoothing)


def margin(run: Any, plain: Plain) -> Loss:
    return nn.MultiMarginLoss(p=run.p, margin=0.5)


def weighted(run: Any, plain: Plain) -> Loss:
    if run.class_weights is None:
        return F.cross_entropy
    weights = run.class_weights
    if weights == "balanced":
        targets = np.array([int(target) for _, target in plain.loader.dataset])
        weights = compute_class_weight("balanced", classes=np.arange(NUM_CLASSES), y=targets)
    return nn.CrossEntropyLoss(weight=torch.tensor(weights, dtype=torch.float32))


def sampled(run: Any) -> Plain:
    plain = Plain.begin(run, data=rare(run))
    if run.sampling is None:
        return finished(plain)
    train, order = plain.loader.dataset, plain.loader.generator
    targets = torch.tensor([int(target) for _, target in train])
    sampler = WeightedRandomSampler(1 / targets.bincount().double()[targets], len(targets), generator=order)
    plain.loader = DataLoader(train, batch_size=BATCH_SIZE, sampler=sampler, generator=order)
    return finished(plain)


def mixed(mix_of: Callable[[Any], Any]) -> Callable[[Any], Plain]:
    """A plain loop whose batches are mixed by torchvision."""

    def loop(run: Any) -> Plain:
        plain, mix = Plain.begin(run), mix_of(run)
        return finished(plain, lambda inputs, targets: plain.step(*mix(inputs, targets)))

    return loop


def mixup(run: Any) -> v2.Transform:
    return v2.MixUp(alpha=run.mixup, num_classes=NUM_CLASSES)


def cutmix(run: Any) -> v2.Transform:
    return v2.CutMix(alpha=run.cutmix, num_classes=NUM_CLASSES)


def either(run: Any) -> v2.Transform:
    return v2.RandomChoice([mixup(run), cutmix(run)])


def penalised(run: Any) -> Plain:
    plain = Plain.begin(run)

    def step(inputs: Tensor, targets: Tensor) -> Tensor:
        plain.optimizer.zero_grad()
        loss = F.cross_entropy(plain.network(inputs), targets)
        sizes = sum(param.abs().sum() for param in plain.network.parameters())
        squares = sum((param**2).sum() for param in plain.network.parameters())
        (loss + run.l1 * sizes + run.l2 * squares).backward()
        plain.optimizer.step()
        return loss

    return finished(plain, step)


def dropped(run: Any) -> Plain:
    return finished(Plain.begin(run, lambda: WithDropout(run.dropout)))


def clipped_by_norm(run: Any) -> Plain:
    plain = Plain.begin(run)
    norms: list[float] = []

    def step(inputs: Tensor, targets: Tensor) -> Tensor:
        plain.optimizer.zero_grad()
        loss = F.cross_entropy(plain.network(inputs), targets)
        loss.backward()
        norms.append(clip_grad_norm_(plain.network.parameters(), run.clip_norm).double().item())
        plain.optimizer.step()
        return loss

    for _ in range(NUM_EPOCHS):
        norms.clear()
        loss = plain.train(step)
        plain.rows.append({"loss": loss, **plain.validate(), "gradient norm": sum(norms) / len(norms)})
    return plain


def clipped_by_value(run: Any) -> Plain:
    plain = Plain.begin(run)

    def step(inputs: Tensor, targets: Tensor) -> Tensor:
        plain.optimizer.zero_grad()
        loss = F.cross_entropy(plain.network(inputs), targets)
        loss.backward()
        if run.clip_value is not None:
            clip_grad_value_(plain.network.parameters(), run.clip_value)
        plain.optimizer.step()
        return loss

    return finished(plain, step)


def all_at_once(run: Any) -> Plain:
    """Smoothed and weighted loss, both penalties, dropout, and both ways of clipping, all of a strength that may be 0."""
    plain = Plain.begin(run, lambda: WithDropout(0.5 * run.strength))
    loss = nn.CrossEntropyLoss(torch.tensor([1.0, 1 + run.strength, 0.5]), label_smoothing=0.2 * run.strength)

    def step(inputs: Tensor, targets: Tensor) -> Tensor:
        plain.optimizer.zero_grad()
        value = loss(plain.network(inputs), targets)
        sizes = sum(param.abs().sum() for param in plain.network.parameters())
        squares = sum((param**2).sum() for param in plain.network.parameters())
        (value + 0.001 * run.strength * sizes + 0.01 * run.strength * squares).backward()
        if run.strength:
            clip_grad_norm_(plain.network.parameters(), 0.5)
            clip_grad_value_(plain.network.parameters(), 0.05)
        plain.optimizer.step()
        return value

    return finished(plain, step, loss)


def given(**settings: Any) -> Callable[[Path], dict[str, Any]]:
    """What a Trainer is given, whatever the project."""
    return lambda project: settings


ALL_AT_ONCE = given(
    network=lambda run: WithDropout(0.5 * run.strength),
    loss=lambda run: nn.CrossEntropyLoss(label_smoothing=0.2 * run.strength),
    class_weights=lambda run: [1.0, 1 + run.strength, 0.5],
    l1=lambda run: 0.001 * run.strength,
    l2=lambda run: 0.01 * run.strength,
    clip_norm=lambda run: 0.5 if run.strength else None,
    clip_value=lambda run: 0.05 if run.strength else None,
)

CASES = {
    "label smoothing": Case(
        {"lr": [0.1], "label_smoothing": [0.0, 0.2]}, given(loss="cross_entropy"), by_loss(smoothed)
    ),
    "a loss by name with its arguments": Case(
        {"lr": [0.1], "p": [1, 2], "margin": [0.5]}, given(loss="multi_margin_loss"), by_loss(margin)
    ),
    "class weights": Case(
        {"lr": [0.1], "class_weights": ["balanced", [1.0, 2.0, 0.5]]}, given(data=rare), by_loss(weighted, rare)
    ),
    "class weights or none": Case(
        {"lr": [0.1], "class_weights": [None, "balanced"]}, given(data=rare), by_loss(weighted, rare)
    ),
    "balanced sampling or none": Case({"lr": [0.1], "sampling": [None, "balanced"]}, given(data=rare), sampled),
    "mixup": Case({"lr": [0.1], "mixup": [0.2, 1.0]}, given(), mixed(mixup)),
    "cutmix": Case({"lr": [0.1], "cutmix": [0.2, 1.0]}, given(), mixed(cutmix)),
    "mixup or cutmix at random": Case({"lr": [0.1], "mixup": [0.2, 0.4], "cutmix": [1.0]}, given(), mixed(either)),
    "l1 and l2": Case({"lr": [0.1], "l1": [0.001], "l2": [0.01, 0.0]}, given(), penalised),
    "dropout": Case({"lr": [0.1], "dropout": [0.0, 0.5]}, given(network=WithDropout), dropped),
    "clipping by norm": Case({"lr": [0.1], "clip_norm": [0.1, 10.0]}, given(), clipped_by_norm),
    "clipping by value or not": Case({"lr": [0.1], "clip_value": [0.05, None]}, given(), clipped_by_value),
    "all regularisers at once": Case({"lr": [0.1], "strength": [0.0, 1.0]}, ALL_AT_ONCE, all_at_once),
}
