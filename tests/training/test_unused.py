"""What a sweep says and nothing uses: settings that do nothing without another, and names that are almost right."""

from functools import partial
from pathlib import Path

import pytest
import torch
from torch import nn

from runmanager import RunBuilder, Trainer
from runmanager.launching.sweep import Sweep, SweepError

INPUTS = torch.rand(30, 4, generator=torch.Generator().manual_seed(0))
TARGETS = torch.arange(30) % 3


def net(hidden=8):
    return nn.Sequential(nn.Linear(4, hidden), nn.ReLU(), nn.Linear(hidden, 3))


def trainer(**parts):
    usual = {"network": net, "data": (INPUTS, TARGETS), "optimizer": "SGD", "loss": "cross_entropy", "device": "cpu"}
    return Trainer(**{**usual, "epochs": 2, "batch_size": 10, "validation": 0.2, **parts})


def check(params, folder, **parts):
    sweep = Sweep({"lr": [0.1, 0.2], **params}, trainer=trainer(**parts), name="checked")
    sweep.file = Path(__file__)
    sweep.check(folder)


@pytest.mark.parametrize(
    ("params", "parts", "fault"),
    [
        ({"ema_decay": [0.9]}, {}, "ema_decay does nothing without average='ema'; add that, or leave ema_decay out"),
        ({"ema_decay": [0.9], "average": ["swa", None]}, {}, "ema_decay does nothing without average='ema'"),
        ({}, {"average": "ema", "swa_start": 2}, "swa_start does nothing without average='swa'"),
        (
            {"schedule_every": ["step"]},
            {},
            "schedule_every does nothing without a scheduler or a warm-up; add scheduler=",
        ),
        ({}, {"monitor": "val_los"}, "monitor does nothing without patience or a plateau; add patience=5, or leave"),
        ({}, {"monitor": "val_loss", "scheduler": "cosine"}, "monitor does nothing without patience or a plateau"),
        (
            {},
            {"parallel": "ddp"},
            "parallel does nothing without several devices; add devices=2, or leave parallel out",
        ),
        ({"sync_batchnorm": [False, True]}, {}, "sync_batchnorm does nothing without several devices"),
        ({}, {"unfreeze": {2: "0.*"}}, "unfreeze does nothing without something frozen; add freeze='...'"),
    ],
)
def test_a_setting_that_no_run_has_a_use_for_is_a_fault_with_what_to_add(params, parts, fault, tmp_path):
    with pytest.raises(SweepError) as caught:
        check(params, tmp_path, **parts)
    (found,) = caught.value.faults
    assert found.startswith(fault)


@pytest.mark.parametrize(
    ("params", "parts"),
    [
        ({"ema_decay": [0.9, 0.99], "average": [None, "ema"]}, {}),
        ({"average": [None, "ema", "swa"]}, {"ema_decay": 0.9, "swa_start": 2}),
        ({"schedule_every": ["step"]}, {"warmup": 1}),
        ({"monitor": ["val_accuracy"], "scheduler": [None, "plateau"]}, {}),
        ({"monitor": ["val_accuracy"], "patience": [None, 3]}, {}),
        ({"freeze": [None, "0.*"]}, {"unfreeze": {2: "0.*"}}),
        ({"devices": [1]}, {"parallel": "ddp"}),
        ({"sync_batchnorm": [False]}, {"monitor": None}),
        ({"ema_decay": [0.9, 0.5]}, {"average": lambda run: "ema" if (run.lr, run.ema_decay) == (0.2, 0.5) else None}),
    ],
)
def test_a_setting_that_some_runs_use_or_that_another_machine_decides_is_none(params, parts, tmp_path):
    check(params, tmp_path, **parts)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("optimiser", "; did you mean 'optimizer'?"),
        ("momentun", "; did you mean 'momentum'?"),
        ("label_smothing", "; did you mean 'label_smoothing'?"),
        ("learning_rate", "; did you mean 'lr'?"),
        ("monitr", "; did you mean 'monitor'?"),
        ("gama", "; did you mean 'gamma'?"),
        ("hiden", "; did you mean 'hidden'?"),
        ("temperature", ""),
    ],
)
def test_of_a_name_that_nothing_reads_the_setting_or_the_argument_that_was_meant_is_told(name, said, tmp_path):
    training = trainer(scheduler=partial(torch.optim.lr_scheduler.StepLR, step_size=1))
    (run,) = RunBuilder.get_runs({"rate": [0.1], name: [1]})
    assert training.meant(name, run, 0, tmp_path) == said


@pytest.mark.parametrize(
    ("params", "parts", "said"),
    [
        (
            {},
            {"optimizer": partial(torch.optim.SGD, lr=0.9)},
            "lr is in the grid, but nothing uses it.*; optimizer=partial\\(SGD, lr=0.9\\) fixes it: leave it out there",
        ),
        (
            {"mode": ["min"]},
            {"scheduler": "plateau"},
            "mode is in the grid, but .*; a plateau's mode is that of its metric, as in monitor=\\('val_loss', 'min'\\)",
        ),
        (
            {"eps": [1e-8]},
            {"scheduler": "plateau"},
            "eps is in the grid, but .*; a plateau's eps is called plateau_eps",
        ),
    ],
)
def test_of_a_name_that_is_said_elsewhere_the_message_says_where(params, parts, said, tmp_path):
    with pytest.raises(SweepError, match=said):
        check(params, tmp_path, **parts)


@pytest.mark.parametrize(
    ("name", "written", "value"), [("optimizer", "optimiser", "SGD"), ("batch_size", "batchsize", 10)]
)
def test_what_has_to_be_said_and_is_misspelled_in_the_grid_is_told_by_that_name(name, written, value, tmp_path):
    with pytest.raises(SweepError, match=f"; the grid has '{written}': call that '{name}' if it is meant"):
        check({written: [value]}, tmp_path, **{name: None})


def test_the_loss_is_swept_under_another_name_and_the_message_says_how(tmp_path):
    with pytest.raises(SweepError, match=r"have criterion=\[...\] in the grid and loss=lambda run: run\.criterion"):
        check({"loss": ["cross_entropy"]}, tmp_path)
    params = {"criterion": ["cross_entropy", "multi_margin_loss"], "margin": [0.5], "label_smoothing": [0.1]}
    check(params, tmp_path, loss=lambda run: run.criterion)
