"""The Trainer trains as a plain PyTorch loop would, bit for bit, and finds what is wrong before it trains."""

import os
import random
from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset
from torchmetrics.classification import MulticlassF1Score

from runmanager import RunBuilder, RunManager, Trainer
from runmanager.data.splits import stratified_split
from runmanager.training.seeding import run_seed
from runmanager.training.trainer import TrainerError

torch.set_num_threads(1)
INPUTS = torch.rand(61, 4, generator=torch.Generator().manual_seed(0))
TARGETS = (INPUTS.sum(1) > 2).long()
SWEEP_SEED = 3


def sgd(run, network):
    return torch.optim.SGD(network.parameters(), lr=run.lr, momentum=0.9)


def small_network():
    return nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.3), nn.Linear(8, 2))


class Several(nn.Linear):
    """Returns its predictions twice."""

    def __init__(self, only_in_training=False):
        super().__init__(4, 2)
        self.only_in_training = only_in_training

    def forward(self, inputs):
        preds = super().forward(inputs)
        return preds if self.only_in_training and not self.training else (preds, preds)


def trainer(**parts):
    usual = {
        "network": small_network,
        "data": (INPUTS, TARGETS),
        "optimizer": sgd,
        "loss": F.cross_entropy,
        "epochs": 3,
        "batch_size": 10,
        "validation": 0.2,
        "device": "cpu",
    }
    return Trainer(**{**usual, **parts})


def run_of(**params):
    return RunBuilder.get_runs({name: [value] for name, value in {"lr": 0.1, **params}.items()})[0]


def rows_of(training, run, folder, *, seed=None, tensorboard=False):
    """Trains a run in a project of its own and returns its rows without their times."""
    manager = RunManager("test", root=folder, tensorboard=tensorboard, quiet=True)
    seed = run_seed(SWEEP_SEED, run._asdict()) if seed is None else seed
    with manager.tracking(run, seed=seed):
        training.train(run, manager, seed=seed, split_seed=SWEEP_SEED, project=folder)
    manager.close()
    return [
        {name: value for name, value in row.items() if not name.endswith("duration") and name != "run"}
        for row in manager.run_data
    ]


def rows_by_hand(run, *, shuffle=True):
    """The same in plain PyTorch: network, loader and optimizer made after the seed, then the usual loop."""
    seed = run_seed(SWEEP_SEED, run._asdict())
    train, validation = stratified_split(TensorDataset(INPUTS, TARGETS), 0.2, SWEEP_SEED)
    torch.manual_seed(seed)
    network = small_network()
    optimizer = sgd(run, network)
    loader = DataLoader(train, batch_size=10, shuffle=shuffle, generator=torch.Generator().manual_seed(seed))
    rows = []
    for epoch in range(1, 4):
        sums = torch.zeros(2)
        network.train()
        for inputs, targets in loader:
            preds = network(inputs)
            loss = F.cross_entropy(preds, targets)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            sums += torch.stack([loss.detach() * len(inputs), (preds.argmax(1) == targets).sum()])
        row = {"epoch": epoch, "loss": sums[0] / len(train), "accuracy": sums[1] / len(train)}
        sums = torch.zeros(2)
        network.eval()
        with torch.no_grad():
            for inputs, targets in DataLoader(validation, batch_size=10, generator=torch.Generator()):
                preds = network(inputs)
                loss = F.cross_entropy(preds, targets)
                sums += torch.stack([loss * len(inputs), (preds.argmax(1) == targets).sum()])
        rows.append({**row, "val_loss": sums[0] / len(validation), "val_accuracy": sums[1] / len(validation)})
    return rows


@pytest.mark.parametrize("shuffle", [True, False])
def test_each_step_is_bit_equal_to_a_plain_torch_loop(shuffle, tmp_path):
    losses = []

    def recording_loss(preds, targets):
        loss = F.cross_entropy(preds, targets)
        losses.append(loss.item())
        return loss

    run = run_of()
    rows_of(trainer(loss=recording_loss, shuffle=shuffle, epochs=2), run, tmp_path)
    seed = run_seed(SWEEP_SEED, run._asdict())
    train, validation = stratified_split(TensorDataset(INPUTS, TARGETS), 0.2, SWEEP_SEED)
    torch.manual_seed(seed)
    network = small_network()
    optimizer = sgd(run, network)
    loader = DataLoader(train, batch_size=10, shuffle=shuffle, generator=torch.Generator().manual_seed(seed))
    expected = []
    for _ in range(2):
        network.train()
        for inputs, targets in loader:
            loss = F.cross_entropy(network(inputs), targets)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            expected.append(loss.item())
        network.eval()
        with torch.no_grad():
            expected += [
                F.cross_entropy(network(x), y).item()
                for x, y in DataLoader(validation, batch_size=10, generator=torch.Generator())
            ]
    assert losses == expected


@pytest.mark.parametrize("shuffle", [True, False])
def test_the_rows_are_those_of_a_plain_torch_loop(shuffle, tmp_path):
    rows, expected = rows_of(trainer(shuffle=shuffle), run_of(), tmp_path), rows_by_hand(run_of(), shuffle=shuffle)
    assert len(rows) == 3
    for row, hand in zip(rows, expected, strict=True):
        for name, value in hand.items():  # the sums are taken in another precision, so the means agree but for that
            assert row[name] == pytest.approx(float(value), rel=1e-6)


def test_tensorboard_changes_no_number(tmp_path):
    images = (torch.rand(40, 1, 4, 4), TARGETS[:40])
    training = trainer(
        data=images, network=lambda: nn.Sequential(nn.Flatten(), nn.Dropout(0.3), nn.Linear(16, 2)), batch_size=7
    )
    without = rows_of(training, run_of(), tmp_path / "a")
    assert rows_of(training, run_of(), tmp_path / "b", tensorboard=True) == without


def test_the_same_run_gives_the_same_rows_whatever_was_drawn_before(tmp_path):
    once = rows_of(trainer(), run_of(), tmp_path / "a")
    torch.rand(17), np.random.rand(3), random.random()
    rows_of(trainer(), run_of(lr=0.5), tmp_path / "b")
    assert rows_of(trainer(), run_of(), tmp_path / "c") == once


def test_another_seed_gives_other_rows(tmp_path):
    once, other = (rows_of(trainer(), run_of(), tmp_path / str(seed), seed=seed) for seed in (1, 2))
    assert once != other


def test_training_leaves_the_generators_outside_alone(tmp_path):
    before = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()
    rows_of(trainer(), run_of(), tmp_path)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert (np.random.get_state()[1].tolist(), random.getstate()) == before[1:]


def test_the_check_leaves_the_generators_outside_alone(tmp_path):
    training = trainer(data=lambda run: (torch.rand(20, 4), torch.tensor([0, 1] * 10)))
    before = torch.get_rng_state()
    assert training.faults([run_of()], 0, tmp_path) == []
    assert torch.equal(torch.get_rng_state(), before)


def test_training_is_in_train_mode_and_validation_in_eval_mode_without_gradients(tmp_path):
    seen = []

    class Recording(nn.Linear):
        def forward(self, inputs):
            seen.append((self.training, torch.is_grad_enabled()))
            return super().forward(inputs)

    rows_of(trainer(network=lambda: Recording(4, 2), batch_size=100, epochs=2), run_of(), tmp_path)
    assert seen == [(True, True), (False, False)] * 2


def test_validation_metrics_are_means_over_all_validation_samples(tmp_path):
    validation = (torch.randn(7, 4), torch.tensor([0, 1, 1, 0, 1, 1, 1]))
    kept = []

    def network():
        kept.append(nn.Linear(4, 2))
        return kept[-1]

    training = trainer(network=network, data=((INPUTS, TARGETS), validation), batch_size=3, epochs=1)
    (row,) = rows_of(training, run_of(), tmp_path)
    preds = kept[-1](validation[0])
    assert row["val_loss"] == pytest.approx(F.cross_entropy(preds, validation[1]).item(), rel=1e-6)
    assert row["val_accuracy"] == pytest.approx((preds.argmax(1) == validation[1]).float().mean().item())


def test_the_test_data_is_never_read(tmp_path):
    class Untouchable(Dataset):
        def __getitem__(self, index):
            raise AssertionError("the test data was read")

        def __len__(self):
            raise AssertionError("the test data was counted")

    train, validation = stratified_split(TensorDataset(INPUTS, TARGETS), 0.2, 0)
    training = trainer(data=(train, validation, Untouchable()))
    assert training.faults([run_of()], 0, tmp_path) == []
    assert len(rows_of(training, run_of(), tmp_path)) == 3


def test_settings_are_read_from_the_grid_where_the_trainer_has_none(tmp_path):
    training = trainer(epochs=None, batch_size=None, validation=None)
    rows = rows_of(training, run_of(epochs=2, batch_size=61, validation=0, shuffle=False), tmp_path)
    assert len(rows) == 2
    assert "val_loss" not in rows[0]


def test_settings_may_be_functions_of_the_run(tmp_path):
    training = trainer(epochs=lambda run: run.length, network=lambda run: nn.Linear(4, run.width))
    assert len(rows_of(training, run_of(length=1, width=5), tmp_path)) == 1


def test_a_network_that_was_built_before_is_copied_for_each_run(tmp_path):
    network = nn.Linear(4, 2)
    weight = network.weight.clone()
    once = rows_of(trainer(network=network), run_of(), tmp_path / "a")
    again = rows_of(trainer(network=network), run_of(), tmp_path / "b")
    assert once == again
    assert torch.equal(network.weight, weight)


@pytest.mark.parametrize("loss", [nn.CrossEntropyLoss(), nn.CrossEntropyLoss, lambda run: nn.CrossEntropyLoss()])
def test_a_loss_may_be_a_module_its_class_or_a_function_of_the_run(loss, tmp_path):
    assert rows_of(trainer(loss=loss), run_of(), tmp_path / "a") == rows_of(trainer(), run_of(), tmp_path / "b")


def test_a_loss_that_changes_begins_anew_with_each_run(tmp_path):
    class Rising(nn.CrossEntropyLoss):
        def __init__(self):
            super().__init__()
            self.register_buffer("num_calls", torch.zeros(()))

        def forward(self, preds, targets):
            self.num_calls += 1
            return super().forward(preds, targets) * self.num_calls

    training = trainer(loss=Rising())
    assert rows_of(training, run_of(), tmp_path / "a") == rows_of(training, run_of(), tmp_path / "b")


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_data_set_with_generators_of_its_own_is_the_same_for_each_run_of_a_trainer(num_workers, tmp_path):
    class Noisy(TensorDataset):
        def __init__(self):
            super().__init__(INPUTS, TARGETS)
            self.noise = [np.random.default_rng(1), torch.Generator().manual_seed(2)]

        def __getitem__(self, index):
            inputs, target = super().__getitem__(index)
            return inputs + self.noise[0].random() + torch.rand(4, generator=self.noise[1]), target

    def rows(data, folder, runs):
        training = trainer(data=data, batch_size=None, num_workers=num_workers, epochs=2)
        return {run: rows_of(training, run, tmp_path / folder / str(index)) for index, run in enumerate(runs)}

    first, second = run_of(batch_size=10), run_of(batch_size=20)
    alone = rows(Noisy(), "alone", [second])
    whole = Noisy()
    for name, data in {"value": whole, "function": lambda: Noisy(), "of the run": lambda run: whole}.items():
        after = rows(data, name, [first, second, first])
        assert after[second] == alone[second]


def test_a_data_function_is_called_once_for_all_runs_in_which_it_reads_the_same(tmp_path):
    calls = []

    def data(run):
        calls.append(run.size)
        return INPUTS[: run.size], TARGETS[: run.size]

    training = trainer(data=data, batch_size=None, epochs=1)
    runs = RunBuilder.get_runs({"lr": [0.1], "size": [40, 61], "batch_size": [10, 20]})
    assert training.faults(runs, SWEEP_SEED, tmp_path) == []
    for run in runs:
        rows_of(training, run, tmp_path)
    assert calls == [40, 61]


def test_a_schedule_steps_after_each_epoch(tmp_path):
    rates = []

    class Telling(torch.optim.SGD):
        def step(self, closure=None):
            rates.append(self.param_groups[0]["lr"])
            return super().step(closure)

    training = trainer(
        optimizer=lambda run, network: Telling(network.parameters(), lr=run.lr),
        scheduler=lambda run, optimizer: torch.optim.lr_scheduler.ExponentialLR(optimizer, run.gamma),
        batch_size=25,
    )
    rows_of(training, run_of(gamma=0.5), tmp_path)
    assert rates == [0.1, 0.1, 0.05, 0.05, 0.025, 0.025]


@pytest.mark.parametrize("num_workers", [1, 2])
def test_processes_that_load_change_no_number_of_data_that_draws_nothing(num_workers, tmp_path):
    once = rows_of(trainer(), run_of(), tmp_path / "a")
    assert rows_of(trainer(num_workers=num_workers), run_of(), tmp_path / "b") == once
    seed = run_seed(SWEEP_SEED, run_of()._asdict())
    in_the_grid = rows_of(trainer(), run_of(num_workers=num_workers), tmp_path / "c", seed=seed)
    assert in_the_grid == [{**row, "num_workers": num_workers} for row in once]


def test_the_check_starts_no_process(tmp_path):
    class Telling(Dataset):
        processes = set()  # noqa: RUF012

        def __len__(self):
            return 20

        def __getitem__(self, index):
            self.processes.add(os.getpid())
            return INPUTS[index], TARGETS[index]

    training = trainer(data=Telling(), num_workers=2)
    assert training.faults([run_of()], 0, tmp_path) == []
    training.exercise(run_of(), 0, tmp_path)
    assert Telling.processes == {os.getpid()}


def test_what_a_checkpoint_could_not_hold_is_found_before_training_unless_none_is_saved(tmp_path):
    class Odd(nn.Linear):
        def get_extra_state(self):
            return print

        def set_extra_state(self, state):
            pass

    training = trainer(network=lambda: Odd(4, 2))
    (fault,) = training.faults([run_of()], 0, tmp_path)
    assert "network._extra_state is <built-in function print>" in fault
    assert training.faults([run_of()], 0, tmp_path, checkpoints=False) == []


def test_targets_that_are_no_classes_have_a_loss_and_no_accuracy(tmp_path):
    training = trainer(data=(INPUTS, INPUTS.sum(1, keepdim=True)), network=lambda: nn.Linear(4, 1), loss=F.mse_loss)
    rows = rows_of(training, run_of(), tmp_path)
    assert rows[0]["accuracy"] is None
    assert "val_loss" in rows[0]
    assert "val_accuracy" not in rows[0]


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        ({"epochs": None}, "epochs is neither given to the Trainer nor in the grid; add epochs=3"),
        ({"batch_size": None}, "batch_size is neither given to the Trainer nor in the grid; add batch_size=100"),
        ({"epochs": 0}, "epochs=0 is not a whole number of 1 or more"),
        ({"batch_size": 2.5}, "batch_size=2.5 is not a whole number of 1 or more"),
        ({"shuffle": "yes"}, "shuffle='yes' is not True or False"),
        ({"validation": 1.5}, "validation=1.5"),
        ({"device": "gpu"}, "device='gpu' is unknown; choose 'cuda', 'mps' or 'cpu'"),
        ({"network": lambda: 3}, "gives an int; give a Module class"),
        ({"optimizer": 3}, "write optimizer=lambda run, network: torch.optim.Adam("),
        ({"optimizer": "adm"}, "did you mean 'Adam'?"),
        ({"optimizer": lambda run, network: None}, "not a torch.optim.Optimizer"),
        ({"optimizer": lambda run, network: run.momentum}, "the grid has lr; add momentum=[0.9]"),
        (
            {"scheduler": torch.optim.lr_scheduler.StepLR},
            "StepLR needs step_size, and the grid has lr; add step_size=[10]",
        ),
        ({"scheduler": "cosin"}, "did you mean 'cosine'?"),
        ({"scheduler": lambda run, optimizer: None}, "not one of torch.optim.lr_scheduler"),
        ({"scheduler": lambda run, optimizer: run.gamma}, "the scheduler reads run.gamma, but the grid has lr"),
        (
            {"scheduler": "plateau", "monitor": "val_f1"},
            "the schedule goes by val_f1, which is not measured; monitor one of val_loss, val_accuracy",
        ),
        (
            {"scheduler": lambda run, optimizer: torch.optim.lr_scheduler.StepLR(sgd(run, small_network()), 1)},
            "a schedule of another optimizer",
        ),
        ({"num_workers": -1}, "num_workers=-1 is not a whole number of 0 or more"),
        ({"num_workers": 1.0}, "num_workers=1.0 is not a whole number of 0 or more"),
        ({"loss": "cross_entropi"}, "did you mean 'cross_entropy'?"),
        ({"loss": partial(F.cross_entropy, reduction="none")}, "the loss has shape [2]; return its mean"),
        ({"data": "fashion_mnst"}, "did you mean 'fashion_mnist'?"),
        ({"data": lambda run: 1 / 0}, "data: ZeroDivisionError"),
        ({"data": (INPUTS, TARGETS[:3])}, "61 inputs but 3 targets"),
        ({"data": TensorDataset(INPUTS)}, "(inputs, targets)"),
        ({"network": lambda: nn.Linear(5, 2)}, "inputs [2, 4], targets [2] do not go through"),
        ({"loss": lambda preds, targets: 1.0}, "the loss is 1.0, a float; return a tensor"),
        ({"loss": lambda preds, targets: preds.argmax(1).ne(targets).float().mean()}, "does not require grad"),
        ({"network": lambda: Several()}, "the network returns a tuple, and a Trainer's network returns one tensor"),
        ({"network": lambda: Several(only_in_training=True)}, "the network returns a tuple in train mode, and a"),
        (
            {"data": ((INPUTS[1:], TARGETS[1:]), (INPUTS.double(), TARGETS))},
            "validation data: inputs [2, 4], targets [2] do not go through",
        ),
        (
            {"network": lambda: nn.Linear(4, 3), "class_weights": "balanced"},
            "the training data has 2 classes, and the network 3 outputs: give it 2, or name all 3",
        ),
        ({"loss": "bce"}, "; the targets are classes: choose loss='cross_entropy'"),
        ({"loss": "mse_loss"}, "; the targets are classes: choose loss='cross_entropy'"),
        ({"show_predictions": 4}, "show_predictions: the predictions cannot be shown: inputs have shape [2, 4]"),
        ({"normalize": "mean"}, "normalize='mean' is not 'measured' or (means, stds)"),
        ({"normalize": "mesured"}, "; did you mean 'measured'?"),
        ({"normalize": ((0.5, 0.5), (0.1, 0.1))}, "normalize has 2 means, but inputs [4] have 4 channels"),
        ({"normalize": (0.5, 0)}, "normalize has a std of 0"),
    ],
)
def test_a_fault_is_found_before_training_and_says_what_to_write(parts, said, tmp_path):
    faults = trainer(**parts).faults([run_of()], 0, tmp_path)
    assert len(faults) == 1
    assert said in faults[0]


def test_without_names_a_network_may_have_more_outputs_than_there_are_classes_in_the_data(tmp_path):
    training = trainer(network=lambda: nn.Linear(4, 3), metrics=["per_class"])
    assert training.faults([run_of()], 0, tmp_path) == []
    (row, *_) = rows_of(training, run_of(), tmp_path)
    assert [name for name in row if name.startswith("val_accuracy/")] == [
        f"val_accuracy/{number}" for number in range(3)
    ]


def test_faults_of_several_parts_are_found_together(tmp_path):
    training = trainer(data="nowhere", epochs=0, shuffle=3, optimizer=lambda run, network: run.momentum)
    faults = "\n".join(training.faults([run_of()], 0, tmp_path))
    for part in ("data='nowhere'", "epochs=0", "shuffle=3", "run.momentum"):
        assert part in faults


def test_a_faulty_network_hides_no_faulty_loss(tmp_path):
    faults = "\n".join(trainer(network=3, loss="mse").faults([run_of()], 0, tmp_path))
    assert "network=" in faults
    assert "loss=" in faults


def test_a_faulty_network_hides_no_faulty_metric(tmp_path):
    faults = "\n".join(trainer(freeze="nothing", metrics=["kapa"], mixup=-1).faults([run_of()], 0, tmp_path))
    assert "freeze: 'nothing'" in faults
    assert "metrics='kapa'" in faults
    assert "mixup=-1" in faults


@pytest.mark.parametrize(
    "names",
    [
        {"optimizer": "Adma", "scheduler": "cosin"},
        {"network": "resnt18", "scheduler": "cosin"},
        {"init": "kaming", "start_from": "x/1", "optimizer": "Adma", "scheduler": "cosin", "metrics": "presicion"},
    ],
)
def test_a_name_that_is_unknown_hides_no_other(names, tmp_path):
    faults = trainer(**names).faults([run_of()], 0, tmp_path)
    assert len(faults) == len(names)
    assert all(
        any(repr(name) in fault or name in fault for fault in faults) for name in names.values() if name != "x/1"
    )
    assert ("start_from" in names) == any("no sweep 'x'" in fault for fault in faults)


def test_a_new_head_that_cannot_be_made_is_the_only_fault_of_what_goes_by_it(tmp_path):
    torch.save(nn.Linear(4, 2).state_dict(), tmp_path / "weights.pt")
    (fault,) = trainer(head="five", start_from="weights.pt").faults([run_of()], 0, tmp_path)
    assert "head" in fault


@pytest.mark.parametrize("mixup", [lambda run: run.alfa, lambda run: 1 / 0])
def test_a_fault_of_a_setting_is_named_once_however_many_parts_ask_for_it(mixup, tmp_path):
    (fault,) = trainer(mixup=mixup).faults([run_of()], 0, tmp_path)
    assert "mixup" in fault


def test_a_monitor_that_is_near_what_is_measured_is_told_so(tmp_path):
    training = trainer(metrics=["precision", "kappa"], patience=2, monitor="val_presision")
    (fault,) = training.faults([run_of()], 0, tmp_path)
    assert fault.startswith("monitor='val_presision': did you mean 'val_precision'?")


def test_each_fault_is_named_once_however_many_runs_have_it(tmp_path):
    runs = RunBuilder.get_runs({"lr": [0.1, 0.2, 0.3]})
    assert len(trainer(optimizer=lambda run, network: run.momentum).faults(runs, 0, tmp_path)) == 1


def test_a_fault_of_one_value_alone_is_found(tmp_path):
    runs = RunBuilder.get_runs({"lr": [0.1], "batch_size": [10, 0]})
    (fault,) = trainer(batch_size=None).faults(runs, 0, tmp_path)
    assert "batch_size=0" in fault


def test_whole_numbers_of_numpy_are_whole_numbers(tmp_path):
    runs = RunBuilder.get_runs({"lr": [0.1], "batch_size": list(np.array([10, 20]))})
    assert trainer(batch_size=None).faults(runs, 0, tmp_path) == []


def share_of_hits(preds, labels):
    return (preds.argmax(1) == labels).float().mean()


OF_NO_RUN = {
    "metrics": [share_of_hits, [share_of_hits], MulticlassF1Score(2)],
    "init": [nn.init.zeros_, nn.init.xavier_uniform_],
    "class_weights": [np.array([1.0, 2.0]), torch.tensor([1.0, 2.0])],
    "clip_norm": [np.float64(0.5), torch.tensor(0.5)],
    "head": [lambda: 3, lambda run: 3],
}


@pytest.mark.parametrize(("name", "value"), [(name, one) for name, values in OF_NO_RUN.items() for one in values])
def test_what_can_be_called_or_has_many_numbers_is_taken_as_what_it_is(name, value, tmp_path):
    assert trainer(**{name: value}).faults([run_of()], 0, tmp_path) == []


@pytest.mark.parametrize(
    "name", ["warmup", "accumulate", "no_decay", "channels_last", "devices", "deterministic", "mixup"]
)
def test_none_in_a_grid_is_as_if_it_were_not_there(name, tmp_path):
    (run,) = RunBuilder.get_runs({"lr": [0.1], name: [None]})
    assert trainer().faults([run], 0, tmp_path) == []
    assert trainer().setting(name, run) == trainer().setting(name, run_of())


@pytest.mark.parametrize("name", ["epochs", "batch_size"])
def test_none_in_a_grid_is_refused_where_there_is_no_default(name, tmp_path):
    (run,) = RunBuilder.get_runs({"lr": [0.1], name: [None]})
    faults = trainer(**{name: None}).faults([run], 0, tmp_path)
    assert f"{name}=None is not a whole number of 1 or more" in faults


@pytest.mark.parametrize(
    ("name", "value"), [("compile", 0), ("compile", ""), ("metrics", 0), ("metrics", ""), ("metrics", False)]
)
def test_what_is_false_but_not_off_is_refused(name, value, tmp_path):
    assert any(f"{name}={value!r}" in fault for fault in trainer(**{name: value}).faults([run_of()], 0, tmp_path))


def test_a_device_without_end_is_refused_like_any_unknown_one():
    with pytest.raises(TrainerError, match="is unknown; choose 'cuda', 'mps' or 'cpu'"):
        trainer(device=10**30).device(run_of())


def test_a_device_that_is_not_here_is_refused():
    if torch.backends.mps.is_available():
        pytest.skip("this machine has it")
    with pytest.raises(TrainerError, match="there is none here; choose 'cpu'"):
        trainer(device="mps").device(run_of())


def test_predictions_that_are_shown_without_validation_data_change_nothing(tmp_path):
    """They are those of eval mode, which nothing else puts the network into."""
    pictures = INPUTS.reshape(61, 1, 2, 2)
    weights = []
    for number in (0, 3):
        training = trainer(
            network=lambda: nn.Sequential(nn.Flatten(), small_network()),
            data=(pictures, TARGETS),
            validation=0,
            show_predictions=number,
            batch_size=13,
        )
        rows_of(training, run_of(), tmp_path / str(number), seed=0)
        (path,) = (tmp_path / str(number)).glob("runs/test/*/checkpoints/epoch-*3.pt")
        weights.append(torch.load(path, weights_only=True)["state"]["network"])
    assert weights[0].keys() == weights[1].keys()
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_a_last_batch_of_one_sample_that_batch_norm_cannot_take_is_refused_before_epoch_1(tmp_path):
    """49 samples are left of 61 when 0.2 are held out."""
    runs = RunBuilder.get_runs({"lr": [0.1], "batch_size": [10, 12]})
    (fault,) = trainer(batch_size=None).faults(runs, 0, tmp_path)
    assert "batch_size=12 leaves one of the 49 training samples by itself" in fault
    without = trainer(batch_size=12, network=lambda: nn.Linear(4, 2))
    assert without.faults([run_of()], 0, tmp_path) == []


def test_predictions_that_would_be_compared_with_each_target_are_refused(tmp_path):
    """Predictions [N, 1] and targets [N] make differences [N, N]."""
    parts = {"network": lambda: nn.Linear(4, 1), "loss": F.mse_loss}
    (fault,) = trainer(**parts, data=(INPUTS, INPUTS.sum(1))).faults([run_of()], 0, tmp_path)
    assert "Using a target size (torch.Size([2])) that is different to the input size (torch.Size([2, 1]))" in fault
    assert trainer(**parts, data=(INPUTS, INPUTS.sum(1, keepdim=True))).faults([run_of()], 0, tmp_path) == []


@pytest.mark.parametrize(("accumulate", "is_refused"), [(2, False), (4, False), (6, True)])
def test_pieces_of_a_batch_are_refused_only_where_batch_norm_has_one_sample(accumulate, is_refused, tmp_path):
    """The last of the batches of 13 has 10 samples."""
    faults = trainer(batch_size=13, accumulate=accumulate).faults([run_of()], 0, tmp_path)
    assert bool(faults) == is_refused
    assert not faults or "batch_size=13 with accumulate=6 leaves one of the 49" in faults[0]


class Stream(IterableDataset):
    def __iter__(self):
        return zip(INPUTS, TARGETS, strict=True)


def test_a_stream_is_not_shuffled_and_what_needs_its_targets_is_refused(tmp_path):
    parts = {"data": (Stream(), TensorDataset(INPUTS, TARGETS)), "validation": 0}
    (fault,) = trainer(**parts).faults([run_of()], 0, tmp_path)
    assert fault.startswith("shuffle=True: the training data is a stream") and fault.endswith("write shuffle=False")
    (fault,) = trainer(**parts, shuffle=False, log_every=2).faults([run_of()], 0, tmp_path)
    assert fault.startswith("log_every=2 counts steps over the whole run, and the data is a stream")
    assert trainer(**parts, shuffle=False).faults([run_of()], 0, tmp_path) == []
    for balanced in ({"sampling": "balanced"}, {"class_weights": "balanced"}):
        faults = trainer(**parts, **balanced, shuffle=False).faults([run_of()], 0, tmp_path)
        assert any("a stream (Stream), whose targets are only known when they come" in fault for fault in faults)
