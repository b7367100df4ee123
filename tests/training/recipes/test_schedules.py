"""A schedule that is said in one line gives the rates of torch's own, and goes on after a stop as if there had been none."""

import io
import math
import warnings
from collections import namedtuple
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.optim import lr_scheduler as theirs

from runmanager import Sweep, Trainer, launch
from runmanager.data.splits import Splits
from runmanager.launching.sweep import SweepError
from runmanager.training.checkpoints import TrainingState
from runmanager.training.parts import Parts
from runmanager.training.recipe import Recipe
from runmanager.training.recipes.optimizers import build_optimizer
from runmanager.training.recipes.schedules import build_schedule
from runmanager.training.settings import TrainerError

EPOCHS, STEPS = 6, 4
INPUTS = torch.rand(8, 4, generator=torch.Generator().manual_seed(0))
TARGETS = torch.tensor([0, 1] * 4)
LOSSES = [1.0, 0.8, 0.9, 0.9, 0.95, 0.7]  # what a plateau sees
GROUPS = {"0.*": {"lr_scale": 0.1}}


def run_of(**params):
    return namedtuple("Run", params)(**params)


def network_of(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))


def optimizer_of(network, name="SGD"):
    return build_optimizer(name, run_of(lr=0.1, momentum=0.9), network, param_groups=GROUPS)


def build(scheduler, run, optimizer, **settings):
    usual = {"every": None, "warmup": 0, "num_epochs": EPOCHS, "num_steps": STEPS, "monitor": "val_loss", "mode": "min"}
    return build_schedule(scheduler, run, optimizer, **{**usual, **settings})


def step(network, optimizer):
    optimizer.zero_grad()
    F.cross_entropy(network(INPUTS), TARGETS).backward()
    optimizer.step()


def numbers_of(optimizer):
    """What a schedule changes: the rate of each group, and its momentum."""
    return [(group["lr"], group.get("momentum", group.get("betas"))) for group in optimizer.param_groups]


def trained(network, optimizer, schedule, epochs):
    """The numbers of every step."""
    found = []
    for epoch in epochs:
        for _ in range(STEPS):
            found.append(numbers_of(optimizer))
            step(network, optimizer)
            schedule.after_step()
        schedule.end_epoch({"loss": 9.0, "val_loss": LOSSES[epoch]}, epoch + 1)
    return found


def by_hand(make, every):
    """The same with torch's own schedule, in the plain loop that everybody writes."""
    network = network_of()
    optimizer = optimizer_of(network)
    scheduler = make(optimizer)
    found = []
    for epoch in range(EPOCHS):
        for _ in range(STEPS):
            found.append(numbers_of(optimizer))
            step(network, optimizer)
            if every == "step":
                scheduler.step()
        if isinstance(scheduler, theirs.ReduceLROnPlateau):
            scheduler.step(LOSSES[epoch])
        elif every == "epoch":
            scheduler.step()
    return network, found


class Own(theirs.LRScheduler):
    """A schedule as people write them: with a rule that is a function, from the rate of before."""

    def __init__(self, optimizer, decay=0.5, rule=lambda decay, epoch: decay if epoch % 2 else 1.0):
        self.decay, self.rule = decay, rule
        super().__init__(optimizer)

    def get_lr(self):
        factor = self.rule(self.decay, self.last_epoch) if self.last_epoch > 0 else 1.0
        return [group["lr"] * factor for group in self.optimizer.param_groups]


def sequence(optimizer):
    parts = [theirs.LambdaLR(optimizer, lambda epoch: 0.5**epoch), theirs.StepLR(optimizer, 2, gamma=0.3)]
    return theirs.SequentialLR(optimizer, parts, milestones=[2])


def chain(optimizer):
    return theirs.ChainedScheduler([Own(optimizer), theirs.ExponentialLR(optimizer, 0.9)])


ALL = EPOCHS * STEPS
RATES = [0.1 * 0.1, 0.1]  # of the groups
CASES = {
    "step": ("step", {"step_size": 2}, {}, lambda o: theirs.StepLR(o, 2)),
    "step by class name": ("steplr", {"step_size": 2, "gamma": 0.5}, {}, lambda o: theirs.StepLR(o, 2, 0.5)),
    "step by class": (theirs.StepLR, {"step_size": 2, "gamma": 0.5}, {}, lambda o: theirs.StepLR(o, 2, 0.5)),
    "step by partial": (
        partial(theirs.StepLR, step_size=3),
        {"step_size": 2, "gamma": 0.5},
        {},
        lambda o: theirs.StepLR(o, 3, 0.5),
    ),
    "multi step": (
        "multi_step",
        {"milestones": [2, 4], "gamma": 0.5},
        {},
        lambda o: theirs.MultiStepLR(o, [2, 4], 0.5),
    ),
    "one milestone": ("multi_step", {"milestones": 3}, {}, lambda o: theirs.MultiStepLR(o, [3])),
    "exponential": ("exponential", {"gamma": 0.7}, {}, lambda o: theirs.ExponentialLR(o, 0.7)),
    "cosine": ("cosine", {}, {}, lambda o: theirs.CosineAnnealingLR(o, EPOCHS)),
    "cosine by steps": (
        "cosine",
        {"eta_min": 0.001},
        {"every": "step"},
        lambda o: theirs.CosineAnnealingLR(o, ALL, 0.001),
    ),
    "cosine of the run's": ("cosine", {"T_max": 3}, {}, lambda o: theirs.CosineAnnealingLR(o, 3)),
    "warm restarts": (
        "warm_restarts",
        {"T_0": 1, "T_mult": 2},
        {},
        lambda o: theirs.CosineAnnealingWarmRestarts(o, 1, 2),
    ),
    "plateau": (
        "plateau",
        {"plateau_patience": 1, "factor": 0.5, "patience": 7, "eps": 9.0},
        {},
        lambda o: theirs.ReduceLROnPlateau(o, patience=1, factor=0.5),
    ),
    "plateau upwards": (
        "plateau",
        {"plateau_patience": 1},
        {"mode": "max"},
        lambda o: theirs.ReduceLROnPlateau(o, "max", patience=1),
    ),
    "one cycle": ("one_cycle", {}, {}, lambda o: theirs.OneCycleLR(o, RATES, ALL)),
    "one cycle of the run's": (
        "one_cycle",
        {"max_lr": 0.5, "pct_start": 0.5, "epochs": EPOCHS},
        {},
        lambda o: theirs.OneCycleLR(o, 0.5, ALL, pct_start=0.5),
    ),
    "one cycle of fixed length": (
        partial(theirs.OneCycleLR, epochs=2 * EPOCHS, steps_per_epoch=STEPS),
        {"max_lr": 0.5},
        {},
        lambda o: theirs.OneCycleLR(o, 0.5, 2 * ALL),
    ),
    "one cycle by epochs": ("one_cycle", {}, {"every": "epoch"}, lambda o: theirs.OneCycleLR(o, RATES, EPOCHS)),
    "linear": ("linear", {}, {}, lambda o: theirs.LinearLR(o, 1.0, 0.0, EPOCHS)),
    "linear of torch": ("LinearLR", {}, {}, lambda o: theirs.LinearLR(o, total_iters=EPOCHS)),
    "linear of the run's": ("linear", {"end_factor": 0.5}, {}, lambda o: theirs.LinearLR(o, 1.0, 0.5, EPOCHS)),
    "polynomial": ("polynomial", {"power": 2.0}, {"every": "step"}, lambda o: theirs.PolynomialLR(o, ALL, 2.0)),
    "constant": ("constant", {}, {}, lambda o: theirs.ConstantLR(o, 1.0)),
    "constant of the run's": ("constant", {"factor": 0.5}, {}, lambda o: theirs.ConstantLR(o, 0.5, EPOCHS)),
    "cyclic": (
        "cyclic",
        {"base_lr": 0.01, "max_lr": 0.2, "step_size_up": 3, "gamma": 0.9, "mode": "exp_range"},
        {},
        lambda o: theirs.CyclicLR(o, 0.01, 0.2, 3, mode="exp_range", gamma=0.9),
    ),
    "lambda": (
        partial(theirs.LambdaLR, lr_lambda=lambda epoch: 1 / (1 + epoch)),
        {},
        {},
        lambda o: theirs.LambdaLR(o, lambda epoch: 1 / (1 + epoch)),
    ),
    "multiplicative": (
        partial(theirs.MultiplicativeLR, lr_lambda=lambda epoch: 0.9),
        {},
        {"every": "step"},
        lambda o: theirs.MultiplicativeLR(o, lambda epoch: 0.9),
    ),
    "a function": (
        lambda run, o: theirs.ExponentialLR(o, run.gamma),
        {"gamma": 0.5},
        {"every": "step"},
        lambda o: theirs.ExponentialLR(o, 0.5),
    ),
    "a plateau of a function": (
        lambda run, o: theirs.ReduceLROnPlateau(o, patience=0),
        {},
        {},
        lambda o: theirs.ReduceLROnPlateau(o, patience=0),
    ),
    "one of one's own": (Own, {"decay": 0.25}, {}, lambda o: Own(o, 0.25)),
    "several in a row": (lambda run, o: sequence(o), {}, {"every": "step"}, sequence),
    "several at once": (lambda run, o: chain(o), {}, {}, chain),
    "cosine behind a warm-up": (
        "cosine",
        {},
        {"warmup": 2},
        lambda o: theirs.SequentialLR(
            o, [theirs.LinearLR(o, 1 / 3, total_iters=2), theirs.CosineAnnealingLR(o, EPOCHS - 2)], [2]
        ),
    ),
    "restarts behind a warm-up of steps": (
        "warm_restarts",
        {"T_0": 3, "T_mult": 2},
        {"warmup": 5, "every": "step"},
        lambda o: theirs.SequentialLR(
            o, [theirs.LinearLR(o, 1 / 6, total_iters=5), theirs.CosineAnnealingWarmRestarts(o, 3, 2)], [5]
        ),
    ),
    "lambda behind a warm-up": (
        partial(theirs.LambdaLR, lr_lambda=lambda epoch: 0.5**epoch),
        {},
        {"warmup": 1},
        lambda o: theirs.SequentialLR(
            o, [theirs.LinearLR(o, 1 / 2, total_iters=1), theirs.LambdaLR(o, lambda epoch: 0.5**epoch)], [1]
        ),
    ),
    "a plateau behind a warm-up": ("plateau", {"plateau_patience": 0}, {"warmup": 1}, None),
    "several behind a warm-up": (lambda run, o: chain(o), {}, {"warmup": 2}, None),
    "a warm-up alone": (
        None,
        {},
        {"warmup": 3, "every": "step"},
        lambda o: theirs.SequentialLR(
            o, [theirs.LinearLR(o, 1 / 4, total_iters=3), theirs.ConstantLR(o, 1.0, total_iters=0)], [3]
        ),
    ),
}


def ours(case, seed=0):
    """Network, optimizer and schedule of a case, as they are at its begin."""
    scheduler, params, settings, _ = CASES[case]
    network = network_of(seed)
    optimizer = optimizer_of(network)
    return network, optimizer, build(scheduler, run_of(**params), optimizer, **settings)


@pytest.mark.parametrize("case", [case for case, parts in CASES.items() if parts[3]])
def test_the_rates_of_every_step_are_those_of_torchs_own(case):
    network, optimizer, schedule = ours(case)
    found = trained(network, optimizer, schedule, range(EPOCHS))
    plain, expected = by_hand(CASES[case][3], schedule.every)
    assert found == expected
    assert all(torch.equal(*pair) for pair in zip(network.parameters(), plain.parameters(), strict=True))
    if case != "constant":
        assert any(one != found[0] for one in found) or "factor" in CASES[case][1]


@pytest.mark.parametrize("stop", [1, 3])
@pytest.mark.parametrize("case", CASES)
def test_a_run_that_was_stopped_goes_on_bit_equal(case, stop):
    network, optimizer, schedule = ours(case)
    whole = trained(network, optimizer, schedule, range(EPOCHS))
    first = ours(case)
    before = trained(*first, range(stop))
    file = io.BytesIO()
    torch.save(state_of(*first).capture(), file)
    file.seek(0)
    second = ours(case, seed=1)
    state_of(*second).restore(torch.load(file, weights_only=True))
    assert before + trained(*second, range(stop, EPOCHS)) == whole
    assert all(torch.equal(*pair) for pair in zip(second[0].parameters(), network.parameters(), strict=True))


def state_of(network, optimizer, schedule):
    """The run's checkpoint, as the Trainer has it."""
    data = Splits(torch.utils.data.TensorDataset(INPUTS, TARGETS))
    return TrainingState(Parts(network, optimizer, F.cross_entropy, Recipe(schedule=schedule)), torch.Generator(), data)


def test_loading_a_state_leaves_what_was_loaded_as_it_was():
    def in_a_row(run, optimizer):
        parts = [theirs.ExponentialLR(optimizer, 0.9), theirs.CyclicLR(optimizer, 0.1, 1.0)]
        return theirs.SequentialLR(optimizer, parts, milestones=[2])

    saved = build(in_a_row, run_of(), optimizer_of(network_of())).state_dict()
    keys = set(saved["_schedulers"][1])
    other = build(in_a_row, run_of(), optimizer_of(network_of()))
    other.load_state_dict(saved)
    other.end_epoch({}, 1)
    assert set(saved["_schedulers"][1]) == keys
    assert saved["last_epoch"] == 0


@pytest.mark.parametrize(
    ("before", "now", "said"),
    [
        (
            {"scheduler": "cosine"},
            {"scheduler": "linear"},
            "it was CosineAnnealingLR by epochs before, and is LinearLR",
        ),
        ({}, {"every": "step"}, "by epochs before, and is CosineAnnealingLR by steps now"),
        ({}, {"warmup": 2}, "it had no warm-up before, and has a warm-up now"),
        ({"warmup": 2}, {}, "it had a warm-up before, and has no warm-up now"),
        (
            {"scheduler": "one_cycle"},
            {"scheduler": "one_cycle", "num_epochs": EPOCHS + 1},
            f"its one cycle began with {ALL} steps, and the training has {ALL + STEPS} now",
        ),
    ],
)
def test_the_state_of_another_schedule_is_refused(before, now, said):
    def made(scheduler="cosine", **settings):
        return build(scheduler, run_of(), optimizer_of(network_of()), **settings)

    with pytest.raises(TrainerError, match=said):
        made(**now).load_state_dict(made(**before).state_dict())


def test_a_state_holds_no_function_however_deep_it_lies():
    _, _, schedule = ours("several at once")
    assert "rule" not in schedule.state_dict()["_schedulers"][0]
    network = network_of()
    optimizer = optimizer_of(network)
    warm = build(Own, run_of(), optimizer, warmup=2)
    assert not {"rule", "lr_lambdas"} & warm.state_dict().keys()
    state_of(network, optimizer, warm).capture()


def test_a_plateau_counts_the_epochs_behind_its_warm_up():
    network = network_of()
    optimizer = optimizer_of(network)
    schedule = build("plateau", run_of(plateau_patience=0, factor=0.5), optimizer, warmup=2)
    rates = [one[1][0] for one in trained(network, optimizer, schedule, range(EPOCHS))[::STEPS]]
    assert rates == pytest.approx([0.1 / 3, 0.2 / 3, 0.1, 0.1, 0.05, 0.025])


def test_several_schedules_in_a_row_may_have_a_warm_up():
    def rates_of(warmup, num_epochs):
        network = network_of()
        optimizer = optimizer_of(network)
        schedule = build(lambda run, optimizer: sequence(optimizer), run_of(), optimizer, warmup=warmup)
        return [one[1][0] for one in trained(network, optimizer, schedule, range(num_epochs))[::STEPS]]

    assert rates_of(2, 6)[2:] == rates_of(0, 4)


@pytest.mark.parametrize("scheduler", [Own, partial(theirs.MultiplicativeLR, lr_lambda=lambda epoch: 0.5)])
def test_behind_a_warm_up_a_schedule_begins_at_the_whole_rate(scheduler):
    """Also one that goes on from the rate it finds, where torch's SequentialLR by itself would begin lower."""
    network = network_of()
    optimizer = optimizer_of(network)
    schedule = build(scheduler, run_of(), optimizer, warmup=3)
    rates = [one[1][0] for one in trained(network, optimizer, schedule, range(EPOCHS))[::STEPS]]
    assert rates == pytest.approx([0.1 / 4, 0.1 * 2 / 4, 0.1 * 3 / 4, 0.1, 0.05, rates[5]])
    assert rates[3:5] == [0.1, 0.05]


def test_a_warm_up_rises_towards_the_optimizers_rate_whatever_the_schedule_begins_with():
    network = network_of()
    optimizer = optimizer_of(network)
    schedule = build("constant", run_of(factor=0.5, total_iters=2), optimizer, warmup=1)
    rates = [one[1][0] for one in trained(network, optimizer, schedule, range(EPOCHS))[::STEPS]]
    assert rates == pytest.approx([0.05, 0.05, 0.05, 0.1, 0.1, 0.1])


def test_a_warm_up_alone_ends_at_exactly_the_rates_of_the_groups():
    network = network_of()
    optimizer = optimizer_of(network)
    schedule = build(None, run_of(), optimizer, warmup=7, every="step")
    found = trained(network, optimizer, schedule, range(EPOCHS))
    assert [[rate for rate, _ in one] for one in found[7:]] == [[0.1 * 0.1, 0.1]] * (ALL - 7)
    for index, one in enumerate(found[:7]):
        assert [rate for rate, _ in one] == pytest.approx([0.01 * (index + 1) / 8, 0.1 * (index + 1) / 8])


def test_the_groups_keep_their_share_through_a_cosine():
    network = network_of()
    optimizer = optimizer_of(network)
    schedule = build("cosine", run_of(), optimizer, warmup=1)
    for (body, _), (head, _) in trained(network, optimizer, schedule, range(EPOCHS)):
        assert body == pytest.approx(head / 10)


def test_a_cosine_falls_to_zero_over_what_the_warm_up_leaves():
    network = network_of()
    optimizer = optimizer_of(network)
    schedule = build("cosine", run_of(), optimizer, warmup=4, every="step")
    rates = [head for _, (head, _) in trained(network, optimizer, schedule, range(EPOCHS))]
    expected = [0.05 * (1 + math.cos(math.pi * index / (ALL - 4))) for index in range(ALL - 4)]
    assert rates[4:] == pytest.approx(expected)


def test_nothing_is_built_where_nothing_is_asked_for():
    optimizer = optimizer_of(network_of())
    assert build(None, run_of(), optimizer) is None
    assert build(None, run_of(), optimizer, warmup=None) is None
    assert "initial_lr" not in optimizer.param_groups[0]


@pytest.mark.parametrize(
    ("scheduler", "every", "expected"),
    [
        ("one_cycle", None, "step"),
        (partial(theirs.CyclicLR, base_lr=0.1, max_lr=1), None, "step"),
        (lambda run, optimizer: theirs.OneCycleLR(optimizer, 0.1, ALL), None, "step"),
        ("one_cycle", "epoch", "epoch"),
        ("cosine", None, "epoch"),
        ("cosine", "step", "step"),
    ],
)
def test_a_cycle_goes_by_steps_unless_told_otherwise(scheduler, every, expected):
    assert build(scheduler, run_of(), optimizer_of(network_of()), every=every).every == expected


def test_a_plateau_says_which_metric_it_needs():
    optimizer = optimizer_of(network_of())
    schedule = build("plateau", run_of(), optimizer, monitor="val_f1", mode="max")
    assert schedule.needs == "val_f1"
    assert build("cosine", run_of(), optimizer_of(network_of())).needs is None
    schedule.end_epoch({"val_f1": 0.5}, 1)
    with pytest.raises(TrainerError, match="looks at val_f1, and epoch 2 has loss, accuracy; monitor one of these"):
        schedule.end_epoch({"loss": 1.0, "accuracy": 0.5}, 2)


def test_a_first_step_that_a_scaler_leaves_out_is_no_reason_to_warn():
    schedule = build("cosine", run_of(), optimizer_of(network_of()), every="step")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        schedule.after_step()


class NoSchedule:
    """Of no use here."""


REFUSED = [
    ({"scheduler": "cosin"}, "scheduler='cosin' is unknown; choose step, multi_step, "),
    ({"scheduler": "cosin"}, "did you mean 'cosine'?"),
    ({"scheduler": "none"}, "scheduler='none' is unknown"),
    ({"scheduler": "LRScheduler"}, "scheduler='LRScheduler' is unknown"),
    (
        {"scheduler": NoSchedule},
        "scheduler=NoSchedule has to be a name like 'cosine', a class of torch.optim.lr_scheduler",
    ),
    ({"scheduler": 3}, "write scheduler=lambda run, optimizer: torch.optim.lr_scheduler.StepLR("),
    ({"scheduler": lambda run, optimizer: None}, "returned a NoneType, not one of torch.optim.lr_scheduler"),
    (
        {"scheduler": lambda run, optimizer: theirs.StepLR(optimizer_of(network_of()), 1)},
        "a schedule of another optimizer",
    ),
    (
        {"scheduler": "step"},
        "StepLR needs step_size, and the grid has lr; add step_size=[10], or write scheduler=partial(",
    ),
    ({"scheduler": theirs.ExponentialLR}, "partial(torch.optim.lr_scheduler.ExponentialLR, gamma=0.9)"),
    ({"scheduler": "multi_step"}, "add milestones=[[10, 20]], or"),
    ({"scheduler": "warm_restarts"}, "needs T_0"),
    ({"scheduler": "cyclic"}, "needs base_lr, max_lr"),
    (
        {"scheduler": "LambdaLR"},
        "write scheduler=lambda run, optimizer: torch.optim.lr_scheduler.LambdaLR(optimizer, lr_lambda=...",
    ),
    ({"scheduler": "SequentialLR"}, "SequentialLR(optimizer, schedulers=..., milestones=...)"),
    ({"scheduler": partial(theirs.StepLR, step_size=0)}, "StepLR: step_size=0 is not a whole number of 1 or more"),
    ({"scheduler": partial(theirs.CosineAnnealingLR, T_max=2.5)}, "T_max=2.5 is not a whole number"),
    (
        {"scheduler": partial(theirs.ReduceLROnPlateau, factor=2.0)},
        "ReduceLROnPlateau with factor=2.0, mode='min': Factor",
    ),
    (
        {"scheduler": "one_cycle", "optimizer": "Adagrad"},
        "OneCycleLR with total_steps=24, max_lr=[0.010000000000000002, 0.1]: opt",
    ),
    ({"scheduler": "cosine", "every": "batch"}, "schedule_every='batch' is unknown; choose epoch, step"),
    ({"scheduler": "cosine", "warmup": 6}, "warmup=6 epochs leave nothing of a training of 6 epochs; give at most 5"),
    ({"scheduler": None, "warmup": 24, "every": "step"}, "warmup=24 steps leave nothing of a training of 24 steps"),
    ({"scheduler": "cosine", "warmup": 1.5}, "warmup=1.5 is no number of epochs"),
    ({"scheduler": "cosine", "warmup": -1}, "warmup=-1 is no number of epochs"),
    ({"scheduler": "cosine", "warmup": True}, "warmup=True is no number of epochs"),
    ({"scheduler": "one_cycle", "warmup": 2}, "does not go with OneCycleLR, which begins with a warm-up of its own"),
    (
        {"scheduler": partial(theirs.CyclicLR, base_lr=0.1, max_lr=1), "warmup": 2},
        "does not go with CyclicLR, which raises",
    ),
    ({"scheduler": "plateau", "every": "step"}, 'schedule_every="step" does not go with a plateau of val_loss'),
    (
        {"scheduler": lambda run, optimizer: theirs.ReduceLROnPlateau(optimizer), "mode": "max"},
        "the plateau schedule has mode='min', but val_loss improves towards its max; give mode='max'",
    ),
    (
        {"scheduler": lambda run, optimizer: theirs.OneCycleLR(optimizer, 0.1, EPOCHS)},
        'after 6 steps, and the training has 24; leave total_steps out, or give total_steps=24, or schedule_every="epoch"',
    ),
]


@pytest.mark.parametrize(("settings", "said"), REFUSED)
def test_what_does_not_go_is_refused_with_what_to_write(settings, said):
    settings = {"optimizer": "SGD", **settings}
    optimizer = optimizer_of(network_of(), settings.pop("optimizer"))
    with pytest.raises(TrainerError) as caught:
        build(settings.pop("scheduler"), run_of(lr=0.1), optimizer, **settings)
    assert said in str(caught.value)


def sweep_of(folder, params, **parts):
    """A sweep of the usual small trainer with these parts."""
    data = torch.utils.data.TensorDataset(INPUTS, TARGETS)
    usual = {"network": lambda run: network_of(), "data": (data, data), "loss": "cross_entropy", "optimizer": "SGD"}
    trainer = Trainer(**{**usual, "epochs": EPOCHS, "batch_size": 4, "device": "cpu", **parts})
    sweep = Sweep({"lr": [0.1], **params}, trainer=trainer, name="scheduled")
    sweep.file = folder / "sweeps" / "scheduled.py"
    return sweep


FAULTS = [
    ({"scheduler": ["cosin"]}, {}, "scheduler='cosin' is unknown; choose step, .*did you mean 'cosine'"),
    (
        {"scheduler": ["plateau"], "monitor": ["val_f1"]},
        {},
        "schedule goes by val_f1, which is not measured; .*add it to metrics",
    ),
    ({"scheduler": ["plateau"], "monitor": ["val_los"]}, {}, "monitor='val_los': did you mean 'val_loss'?"),
    (
        {"scheduler": ["plateau"], "monitor": ["val_loss"]},
        {"data": (INPUTS, TARGETS), "validation": 0},
        "the schedule goes by val_loss, .* monitor one of loss, accuracy, or hold out data: validation=0.1",
    ),
    ({"scheduler": ["cosine"], "plateau_patience": [2]}, {}, "plateau_patience is in the grid, but nothing uses it"),
    ({"scheduler": ["exponential"], "gamma": ["0.5"]}, {}, "gamma='0.5' is a string, and ExponentialLR takes a number"),
    ({}, {"scheduler": partial(theirs.StepLR, step_sise=1)}, "StepLR has no argument 'step_sise'; .*'step_size'"),
    (
        {},
        {"scheduler": lambda optimizer: theirs.StepLR(optimizer, 1)},
        "takes it for the optimizer .*; write scheduler=lambda run, optimizer: ",
    ),
    ({"scheduler": ["step", "cosine"]}, {}, r"StepLR needs step_size, .*add step_size=\[10\]"),
    ({"warmup": [EPOCHS]}, {}, "warmup=6 epochs leave nothing of a training of 6 epochs"),
    ({"schedule_every": ["batch"]}, {"scheduler": "cosine"}, "schedule_every='batch' is not one of 'epoch', 'step'"),
]


@pytest.mark.parametrize(("params", "parts", "said"), FAULTS)
def test_a_sweep_says_before_it_starts_what_is_wrong_with_its_schedule(params, parts, said, tmp_path):
    with pytest.raises(SweepError, match=said):
        sweep_of(tmp_path, params, **parts).check(tmp_path)


def test_a_plateau_without_validation_data_goes_by_the_loss(tmp_path):
    sweep_of(tmp_path, {"scheduler": ["plateau"]}, data=(INPUTS, TARGETS), validation=0).check(tmp_path)


def test_steps_that_are_tried_behind_the_training_leave_the_rates_alone():
    """As a launch does when it measures how fast a group is."""
    network = network_of()
    optimizer = optimizer_of(network)
    schedule = build("one_cycle", run_of(), optimizer)
    trained(network, optimizer, schedule, range(EPOCHS))
    last = numbers_of(optimizer)
    trained(network, optimizer, schedule, range(2))
    assert numbers_of(optimizer) == last


def test_each_member_of_a_group_has_the_rates_of_its_own_metric(tmp_path, monkeypatch):
    """One learns, and the other is thrown about by its rate."""
    monkeypatch.chdir(tmp_path)
    sweep = sweep_of(
        tmp_path, {"lr": [0.05, 300.0], "plateau_patience": [0], "factor": [0.5]}, scheduler="plateau", optimizer="SGD"
    )
    first, second = launch(sweep, fuse=2, quiet=True, tensorboard=False).runs
    assert {row.group_size for run in (first, second) for row in run.rows} == {2}
    for run in (first, second):
        scheduler = theirs.ReduceLROnPlateau(
            torch.optim.SGD(network_of().parameters(), run.params["lr"]), factor=0.5, patience=0
        )
        for row in run.rows:
            assert row.metrics["learning rate"] == scheduler.get_last_lr()[0]
            scheduler.step(row.metrics["val_loss"])
    assert {row.metrics["learning rate"] for row in first.rows} == {0.05}
    assert len({row.metrics["learning rate"] for row in second.rows}) > 1


def test_only_what_a_schedule_takes_is_read_from_the_run():
    """What is not read is found by the sweep's check."""
    reads = []

    class Watched(namedtuple("Run", ["gamma", "step_size", "patience", "eps", "mode", "batch_size"])):
        def __getattribute__(self, name):
            reads.append(name)
            return super().__getattribute__(name)

    run = Watched(0.5, 2, 3, 1e-8, "x", 4)
    build("step", run, optimizer_of(network_of()))
    assert {*reads} - {"_fields"} == {"gamma", "step_size"}
    reads.clear()
    build("plateau", run, optimizer_of(network_of()))
    assert {*reads} == {"_fields"}
