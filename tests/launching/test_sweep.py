"""A sweep says all that is wrong with it at once, before a folder is made."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from runmanager import RunBuilder, Sweep, Trainer
from runmanager.launching.sweep import SweepError, covering

INPUTS = torch.rand(40, 4)
TARGETS = torch.tensor([0, 1] * 20)


def trainer(**parts):
    usual = {
        "network": lambda: nn.Linear(4, 2),
        "data": (INPUTS, TARGETS),
        "optimizer": lambda run, network: torch.optim.SGD(network.parameters(), lr=run.lr),
        "loss": F.cross_entropy,
        "epochs": 1,
        "batch_size": 10,
        "device": "cpu",
    }
    return Trainer(**{**usual, **parts})


def faults_of(**parts):
    with pytest.raises(SweepError) as caught:
        Sweep(**{"params": {"lr": [0.1]}, "trainer": trainer(), **parts})
    return caught.value.faults


def check_faults(tmp_path, *, params=None, objective=None, **parts):
    sweep = Sweep(params or {"lr": [0.1, 0.2]}, trainer=trainer(**parts), objective=objective, name="checked")
    with pytest.raises(SweepError) as caught:
        sweep.check(tmp_path)
    assert list(tmp_path.iterdir()) == []
    return caught.value.faults


def test_a_sweep_is_called_as_its_file_is():
    assert Sweep({"lr": [0.1]}, trainer=trainer()).name == "test_sweep"
    assert Sweep({"lr": [0.1]}, trainer=trainer(), name="mine").name == "mine"


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        ({"params": {"lr": 0.1}}, "lr=0.1 is not a list; write lr=[0.1]"),
        ({"params": {"lr": []}}, "lr=[] lists no value"),
        ({"params": 3}, "params is a int, not a dict of lists"),
        ({"trainer": None}, "neither trainer= nor train= is given"),
        ({"train": print}, "both trainer= and train= are given"),
        ({"trainer": None, "train": "train"}, "train='train' cannot be called; give a function train(run, m)"),
        ({"trainer": nn.Linear}, "is no Trainer; write trainer=Trainer(network=..., data=..., ...)"),
        ({"trainer": trainer(shuffle=True), "params": {"lr": [0.1], "shuffle": [True]}}, "shuffle is in the grid and"),
        ({"objective": "accuracy"}, "choose val_loss or val_accuracy"),
        ({"objective": "val_acc"}, "objective='val_acc' is no validation metric; choose val_loss or val_accuracy"),
        ({"objective": "val_acc"}, "one of the Trainer's metrics; did you mean 'val_accuracy'?"),
        ({"objective": "test_accuracy"}, "reads the test split, which a sweep leaves alone"),
        ({"objective": 3}, "objective=3 is not the name of a metric"),
        ({"objective": "val_loss", "mode": "least"}, "mode='least' is unknown; choose 'min' or 'max'"),
        ({"mode": "min"}, "mode='min' needs an objective; add objective='val_accuracy'"),
        ({"seed": 0.5}, "seed=0.5 is not a whole number"),
        ({"name": "../x"}, "the sweep name '../x' cannot be a folder's; use at most 64 letters"),
        ({"name": ""}, "the sweep name '' cannot be a folder's"),
        ({"name": "a" * 65}, "at most 64"),
    ],
)
def test_what_a_sweep_cannot_be_made_of_is_named(parts, said):
    faults = faults_of(**parts)
    assert len(faults) == 1
    assert said in faults[0]


def test_a_sweep_that_is_made_outside_a_file_needs_a_name():
    code = "Sweep({'lr': [0.1]}, train=print)"
    with pytest.raises(SweepError, match="add name='my_sweep'"):
        eval(code, {"Sweep": Sweep})
    assert eval(code.replace("train=", "name='mine', train="), {"Sweep": Sweep}).name == "mine"


def test_all_faults_of_a_sweep_are_listed_together():
    faults = faults_of(params={"lr": 0.1, "loss": [1]}, objective="test_loss", mode="least", name="a/b", seed="x")
    assert len(faults) == 6
    with pytest.raises(SweepError) as caught:
        Sweep({"lr": 0.1}, name="checked")
    assert str(caught.value).splitlines()[0] == "sweep 'checked' cannot start:"
    assert [line[:4] for line in str(caught.value).splitlines()[1:]] == ["  - "] * 2


@pytest.mark.parametrize(("objective", "mode"), [("val_loss", "min"), ("val_accuracy", "max")])
def test_the_mode_is_told_from_the_objective(objective, mode):
    assert Sweep({"lr": [0.1]}, trainer=trainer(), objective=objective).mode == mode


def test_a_function_may_have_any_objective():
    assert Sweep({"lr": [0.1]}, train=print, objective="reward", mode="max").objective == "reward"


def test_a_parameter_that_the_grid_lacks_is_named_with_what_to_add(tmp_path):
    faults = check_faults(
        tmp_path, optimizer=lambda run, network: torch.optim.SGD([], lr=run.lr, momentum=run.momentum)
    )
    assert faults == [
        "the network, optimizer or loss reads run.momentum, but the grid has lr; add momentum=[0.9]"
    ] or faults == ["the optimizer reads run.momentum, but the grid has lr; add momentum=[0.9]"]


def test_a_parameter_that_nothing_reads_is_a_fault(tmp_path):
    (fault,) = check_faults(tmp_path, params={"lr": [0.1], "momentum": [0.9, 0.5]})
    assert fault.startswith("momentum is in the grid, but nothing uses it; read run.momentum")


def test_every_parameter_that_nothing_reads_is_named(tmp_path):
    faults = check_faults(tmp_path, params={"lr": [0.1], "momentum": [0.9], "decay": [0.1]})
    assert [fault.split()[0] for fault in faults] == ["momentum", "decay"]


def test_a_parameter_that_only_some_runs_read_is_no_fault(tmp_path):
    def optimizer(run, network):
        kind = torch.optim.SGD if run.kind == "sgd" else torch.optim.Adam
        extra = {"momentum": run.momentum} if run.kind == "sgd" and run.lr == 0.2 else {}
        return kind(network.parameters(), lr=run.lr, **extra)

    params = {"kind": ["adam", "sgd"], "lr": [0.1, 0.2], "momentum": [0.9]}
    Sweep(params, trainer=trainer(optimizer=optimizer), name="checked").check(tmp_path)


@pytest.mark.parametrize("name", ["epochs", "batch_size", "shuffle", "validation", "device"])
def test_what_the_trainer_reads_by_itself_is_read(name, tmp_path):
    values = {"epochs": [1], "batch_size": [5], "shuffle": [False], "validation": [0.2], "device": ["cpu"]}[name]
    Sweep({"lr": [0.1], name: values}, trainer=trainer(**{name: None}), name="checked").check(tmp_path)


def test_a_seed_in_the_grid_is_read_by_being_there(tmp_path):
    Sweep({"lr": [0.1], "seed": [1, 2]}, trainer=trainer(), name="checked").check(tmp_path)


def test_several_faults_of_the_trainer_are_listed_together(tmp_path):
    faults = "\n".join(
        check_faults(tmp_path, data="fashion", epochs=0, optimizer=lambda run, network: run.weight_decay)
    )
    for part in ("data='fashion'", "epochs=0", "add weight_decay=[0.0001]"):
        assert part in faults


def test_an_objective_that_no_validation_data_can_give_is_a_fault(tmp_path):
    (fault,) = check_faults(tmp_path, objective="val_loss", validation=0)
    assert fault == "objective='val_loss' needs validation data; give the Trainer validation=0.1"


def test_an_accuracy_that_targets_without_classes_cannot_give_is_a_fault(tmp_path):
    parts = {"data": (INPUTS, torch.rand(40, 1)), "network": lambda: nn.Linear(4, 1), "loss": F.mse_loss}
    (fault,) = check_faults(tmp_path, objective="val_accuracy", **parts)
    assert "val_accuracy" in fault
    assert "val_loss" in fault


def test_one_run_of_many_without_validation_data_is_a_fault_too(tmp_path):
    params = {"lr": [0.1], "validation": [0.2, 0]}
    (fault,) = check_faults(tmp_path, params=params, validation=None, objective="val_loss")
    assert "validation" in fault


def test_other_values_and_epochs_make_another_sweep_and_leave_this_one():
    sweep = Sweep({"lr": [0.1], "width": [4]}, trainer=trainer(), name="mine")
    other = sweep.changed({"lr": [0.5, 0.6]}, 7)
    assert [tuple(run) for run in other.runs()] == [(0.5, 4), (0.6, 4)]
    assert (other.trainer.given("epochs"), sweep.trainer.given("epochs")) == (7, 1)
    assert [tuple(run) for run in sweep.runs()] == [(0.1, 4)]


@pytest.mark.parametrize(
    ("parts", "params", "epochs", "said"),
    [
        ({}, {"momentum": [0.9]}, None, "--set momentum: the grid has lr"),
        ({}, {"lr": []}, None, "lr=[] lists no value"),
        ({"trainer": None, "train": print}, {}, 3, "the train function's own"),
        ({"params": {"lr": [1], "epochs": [1]}, "trainer": trainer(epochs=None)}, {}, 3, "--set epochs=..."),
    ],
)
def test_what_cannot_be_changed_is_named(parts, params, epochs, said):
    sweep = Sweep(**{"params": {"lr": [0.1]}, "trainer": trainer(), "name": "mine", **parts})
    with pytest.raises(SweepError, match="mine") as caught:
        sweep.changed(params, epochs)
    assert said in str(caught.value)


def test_the_first_runs_show_every_value():
    runs = RunBuilder.get_runs({"a": [1, 2, 3], "b": [4, 5], "c": [True, 1]})
    first, rest = covering(runs)
    assert sorted([*first, *rest], key=runs.index) == runs
    assert len(first) < len(rest)
    shown = [{repr(run[place]) for run in first} for place in range(3)]
    assert shown == [{"1", "2", "3"}, {"4", "5"}, {"True", "1"}]
