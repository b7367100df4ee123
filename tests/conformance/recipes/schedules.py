"""Schedules of the learning rate: by epochs and by steps, on a plateau, behind a warm-up, and other ones side by side."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch.optim import lr_scheduler

from tests.conformance.recipes.cases import NUM_EPOCHS, Case, Plain
from tests.conformance.recipes.optimizers import BODY, HEAD, parameters

NUM_STEPS = 4  # of an epoch
ALL_STEPS = NUM_EPOCHS * NUM_STEPS
GAMMA, STEP_SIZE, MILESTONES, T_0 = 0.5, 1, [1, 2], 2

BY_NAME: dict[str, Callable[[Any], Any]] = {
    "step": lambda optimizer: lr_scheduler.StepLR(optimizer, STEP_SIZE, GAMMA),
    "multi_step": lambda optimizer: lr_scheduler.MultiStepLR(optimizer, MILESTONES, GAMMA),
    "exponential": lambda optimizer: lr_scheduler.ExponentialLR(optimizer, GAMMA),
    "cosine": lambda optimizer: lr_scheduler.CosineAnnealingLR(optimizer, NUM_EPOCHS),
    "warm_restarts": lambda optimizer: lr_scheduler.CosineAnnealingWarmRestarts(optimizer, T_0),
    "linear": lambda optimizer: lr_scheduler.LinearLR(optimizer, 1.0, 0.0, NUM_EPOCHS),
    "polynomial": lambda optimizer: lr_scheduler.PolynomialLR(optimizer, NUM_EPOCHS),
    "constant": lambda optimizer: lr_scheduler.ConstantLR(optimizer, 1.0),
}


def trained(
    plain: Plain,
    scheduler: Any,
    every: str = "epoch",
    monitor: str | None = None,
    columns: tuple[str, ...] = ("learning rate",),
) -> Plain:
    """Goes through the epochs as everybody writes it; the rates are those before an epoch's schedule goes on."""

    def step(inputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        loss = plain.step(inputs, targets)
        if every == "step":
            scheduler.step()
        return loss

    for _ in range(NUM_EPOCHS):
        row = {"loss": plain.train(step), **plain.validate()}
        rates = {column: group["lr"] for column, group in zip(columns, plain.optimizer.param_groups, strict=True)}
        plain.rows.append({**row, **rates})
        if monitor is not None:
            scheduler.step(row[monitor])
        elif every == "epoch":
            scheduler.step()
    return plain


def by_name(run: Any) -> Plain:
    plain = Plain.begin(run)
    return trained(plain, BY_NAME[run.scheduler](plain.optimizer))


def by_steps(run: Any) -> Plain:
    """A warm-up of some steps, then one of two schedules over the steps that are left."""
    plain = Plain.begin(run)
    left = ALL_STEPS - run.warmup
    rising = lr_scheduler.LinearLR(plain.optimizer, 1 / (run.warmup + 1), total_iters=run.warmup)
    behind = {
        "cosine": lambda: lr_scheduler.CosineAnnealingLR(plain.optimizer, left),
        "linear": lambda: lr_scheduler.LinearLR(plain.optimizer, 1.0, 0.0, left),
    }[run.scheduler]()
    return trained(plain, lr_scheduler.SequentialLR(plain.optimizer, [rising, behind], [run.warmup]), "step")


def by_lengths(run: Any) -> Plain:
    """Warm-ups of different lengths and nothing behind them."""
    plain = Plain.begin(run)
    factor = [min(1.0, (epoch + 1) / (run.warmup + 1)) for epoch in range(NUM_EPOCHS + 1)]
    rates = [run.lr * one for one in factor]

    class Rising:
        epoch = 0

        def __init__(self) -> None:
            self.set()

        def set(self) -> None:
            plain.optimizer.param_groups[0]["lr"] = rates[self.epoch]

        def step(self) -> None:
            self.epoch += 1
            self.set()

    return trained(plain, Rising())


def one_cycle(run: Any) -> Plain:
    """Its momentum goes up and down as well."""
    plain = Plain.begin(run)
    scheduler = lr_scheduler.OneCycleLR(plain.optimizer, run.lr, ALL_STEPS, pct_start=run.pct_start)
    return trained(plain, scheduler, "step")


def cyclic(run: Any) -> Plain:
    plain = Plain.begin(run)
    scheduler = lr_scheduler.CyclicLR(plain.optimizer, run.base_lr, run.max_lr, step_size_up=4)
    return trained(plain, scheduler, "step")


def plateau(run: Any) -> Plain:
    """By any of four metrics, of which the accuracy in training is counted here."""
    plain = Plain.begin(run)
    mode = "max" if "accuracy" in run.monitor else "min"
    scheduler = lr_scheduler.ReduceLROnPlateau(plain.optimizer, mode, factor=0.5, patience=0)
    right: list[torch.Tensor] = []

    def step(inputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        plain.optimizer.zero_grad()
        preds = plain.network(inputs)
        loss = torch.nn.functional.cross_entropy(preds, targets)
        loss.backward()
        plain.optimizer.step()
        right.append(preds.argmax(1) == targets)
        return loss

    for _ in range(NUM_EPOCHS):
        right.clear()
        row = {"loss": plain.train(step), **plain.validate()}
        accuracy = torch.cat(right).sum().item() / len(torch.cat(right))
        plain.rows.append({**row, "accuracy": accuracy, "learning rate": plain.optimizer.param_groups[0]["lr"]})
        scheduler.step(plain.rows[-1][run.monitor])
    return plain


def grouped(run: Any, network: torch.nn.Module) -> torch.optim.Optimizer:
    body, head = parameters(network, *BODY), parameters(network, *HEAD)
    return torch.optim.SGD([{"params": body, "lr": run.lr * 0.1}, {"params": head}], lr=run.lr, momentum=0.9)


def of_groups(run: Any) -> Plain:
    plain = Plain.begin(run, optimizer=grouped)
    scheduler = lr_scheduler.OneCycleLR(plain.optimizer, [run.lr * 0.1, run.lr], ALL_STEPS)
    return trained(plain, scheduler, "step", columns=("learning rate/[01].*", "learning rate/rest"))


def plateau_of_groups(run: Any) -> Plain:
    plain = Plain.begin(run, optimizer=grouped)
    scheduler = lr_scheduler.ReduceLROnPlateau(plain.optimizer, patience=0, factor=run.factor, threshold=0.5)
    return trained(plain, scheduler, monitor="val_loss", columns=("learning rate/[01].*", "learning rate/rest"))


def in_a_row(run: Any, optimizer: torch.optim.Optimizer) -> lr_scheduler.LRScheduler:
    """One of one's own making: a fall that is given by a function, and restarts behind it."""
    falling = lr_scheduler.LambdaLR(optimizer, lambda step: run.fall**step)
    restarts = lr_scheduler.CosineAnnealingWarmRestarts(optimizer, 3, 2)
    return lr_scheduler.SequentialLR(optimizer, [falling, restarts], [5])


def of_a_function(run: Any) -> Plain:
    plain = Plain.begin(run)
    return trained(plain, in_a_row(run, plain.optimizer), "step")


def by_hand_or_none(run: Any) -> Plain:
    plain = Plain.begin(run)
    if run.scheduler is None:
        for _ in range(NUM_EPOCHS):
            plain.rows.append({"loss": plain.train(), **plain.validate()})
        return plain
    return trained(plain, BY_NAME[run.scheduler](plain.optimizer))


CASES = {
    "schedules by name": Case(
        {
            "lr": [0.1],
            "scheduler": [*BY_NAME],
            "step_size": [STEP_SIZE],
            "gamma": [GAMMA],
            "milestones": [MILESTONES],
            "T_0": [T_0],
        },
        lambda project: {},
        by_name,
    ),
    "schedules by steps, and a warm-up": Case(
        {"lr": [0.1], "scheduler": ["cosine", "linear"], "schedule_every": ["step"], "warmup": [4]},
        lambda project: {},
        by_steps,
    ),
    "warm-up alone": Case({"lr": [0.12], "warmup": [1, 2]}, lambda project: {}, by_lengths),
    "one-cycle": Case({"lr": [0.1], "pct_start": [0.3, 0.5]}, lambda project: {"scheduler": "one_cycle"}, one_cycle),
    "cyclic": Case(
        {"lr": [0.1], "base_lr": [0.01], "max_lr": [0.1, 0.3]},
        lambda project: {"scheduler": partial(lr_scheduler.CyclicLR, step_size_up=4)},
        cyclic,
    ),
    "plateau": Case(
        {
            "lr": [0.1],
            "monitor": ["val_loss", "val_accuracy", "loss", "accuracy"],
            "plateau_patience": [0],
            "factor": [0.5],
        },
        lambda project: {"scheduler": "plateau"},
        plateau,
    ),
    "one-cycle of several groups": Case(
        {"lr": [0.1, 0.2]},
        lambda project: {
            "optimizer": partial(torch.optim.SGD, momentum=0.9),
            "param_groups": {"[01].*": {"lr_scale": 0.1}},
            "scheduler": "one_cycle",
        },
        of_groups,
    ),
    "plateau of several groups": Case(
        {"lr": [0.1], "factor": [0.1, 0.5]},
        lambda project: {
            "optimizer": partial(torch.optim.SGD, momentum=0.9),
            "param_groups": {"[01].*": {"lr_scale": 0.1}},
            "scheduler": partial(lr_scheduler.ReduceLROnPlateau, patience=0, threshold=0.5),
        },
        plateau_of_groups,
    ),
    "schedule by function": Case(
        {"lr": [0.1], "fall": [0.8, 0.9]},
        lambda project: {"scheduler": in_a_row, "schedule_every": "step"},
        of_a_function,
    ),
    "schedule or none": Case(
        {"lr": [0.1], "scheduler": [None, "cosine"]},
        lambda project: {},
        by_hand_or_none,
    ),
}
