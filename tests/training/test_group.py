"""A group is trained in one step, and each of its runs leaves what it leaves alone: rows, saved states, and how it ended."""

import random

import numpy as np
import pytest
import torch
from torch import nn

from runmanager.tracking.errors import RunStopped
from tests.training.group_sweeps import (
    RUNS,
    TINY,
    Sweep,
    after,
    assert_close,
    mlp,
    runs_of,
    tiny,
    trainer,
    with_epochs,
)


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """What the runs reach alone."""
    return Sweep(tmp_path_factory.mktemp("alone"), trainer(), RUNS).alone()


def test_runs_that_differ_in_all_they_may_reach_what_they_reach_alone(alone, tmp_path):
    group = Sweep(tmp_path, trainer(), RUNS).together()
    assert_close(group.numbers(), alone.numbers())
    assert group.statuses() == dict.fromkeys(range(1, 5), "completed")
    assert list(group.sizes().values()) == [[4] * 4] * 4
    losses = [rows[-1][0] for rows in group.numbers().values()]
    assert len(set(losses)) == 4


def test_runs_go_on_alone_from_what_a_group_has_saved(alone, tmp_path):
    Sweep(tmp_path, trainer(), RUNS, stop_when=after(2)).together()
    later = Sweep(tmp_path, trainer(), RUNS).alone()
    assert_close(later.numbers(), alone.numbers())
    assert later.statuses() == dict.fromkeys(range(1, 5), "completed")
    assert list(later.sizes().values()) == [[4, 4, 1, 1]] * 4


def test_a_group_goes_on_from_what_its_runs_have_saved_alone(alone, tmp_path):
    Sweep(tmp_path, trainer(), RUNS, stop_when=after(2)).alone()
    later = Sweep(tmp_path, trainer(), RUNS).together()
    assert_close(later.numbers(), alone.numbers())
    assert later.statuses() == dict.fromkeys(range(1, 5), "completed")
    assert list(later.sizes().values()) == [[1, 1, 4, 4]] * 4


def test_a_group_that_goes_on_as_a_group_reaches_the_same_bits(tmp_path):
    at_once = Sweep(tmp_path / "a", trainer(), RUNS).together()
    Sweep(tmp_path / "b", trainer(), RUNS, stop_when=after(2)).together()
    assert Sweep(tmp_path / "b", trainer(), RUNS).together().numbers() == at_once.numbers()


@pytest.mark.parametrize("kind", ["SGD", "AdamW", "RMSprop", "Adagrad"])
def test_every_optimizer_goes_on_from_either_side(kind, tmp_path):
    def optimizer(run, network):
        momentum = {"momentum": 0.9} if kind in ("SGD", "RMSprop") else {}
        return getattr(torch.optim, kind)(network.parameters(), lr=run.lr / 10, **momentum)

    training, runs = tiny(optimizer=optimizer, epochs=3), runs_of()
    expected = Sweep(tmp_path / "alone", training, runs).alone().numbers()
    for first, second in (("alone", "together"), ("together", "alone")):
        folder = tmp_path / first / "first"
        getattr(Sweep(folder, training, runs, stop_when=after(1)), first)()
        later = getattr(Sweep(folder, training, runs), second)()
        assert_close(later.numbers(), expected)


def test_a_saved_state_is_as_large_as_that_of_a_run_alone(alone, tmp_path):
    group = Sweep(tmp_path, trainer(), RUNS).together().bytes_of_states()
    assert group == pytest.approx(alone.bytes_of_states(), rel=0.15)


def test_smaller_groups_of_the_same_runs_reach_the_same(alone, tmp_path):
    sweep = Sweep(tmp_path, trainer(), RUNS).together(1, 3).together(2, 4)
    assert_close(sweep.numbers(), alone.numbers())
    assert list(sweep.sizes().values()) == [[2] * 4] * 4


def test_tensorboard_changes_no_bit(tmp_path):
    without = Sweep(tmp_path / "a", trainer(), RUNS).together()
    logged = Sweep(tmp_path / "b", trainer(), RUNS, tensorboard=True).together()
    assert logged.numbers() == without.numbers()


def test_training_leaves_the_generators_outside_alone(tmp_path):
    before = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()
    Sweep(tmp_path, trainer(), RUNS).together()
    assert torch.equal(torch.get_rng_state(), before[0])
    assert (np.random.get_state()[1].tolist(), random.getstate()) == before[1:]


# those who leave


def test_who_has_done_all_its_epochs_leaves_completed(tmp_path):
    runs = with_epochs(1, 3, 2, 3)
    group = Sweep(tmp_path / "group", tiny(epochs=None), runs).together()
    assert_close(group.numbers(), Sweep(tmp_path / "alone", tiny(epochs=None), runs).alone().numbers())
    assert group.statuses() == dict.fromkeys(range(1, 5), "completed")
    assert group.sizes() == {1: [4], 2: [4, 3, 2], 3: [4, 3], 4: [4, 3, 2]}


def test_the_group_shrinks_to_one_and_goes_on(tmp_path):
    runs = with_epochs(1, 3)
    group = Sweep(tmp_path / "group", tiny(epochs=None), runs).together()
    assert group.sizes() == {1: [2], 2: [2, 1, 1]}
    expected = Sweep(tmp_path / "alone", tiny(epochs=None), runs).alone().numbers()
    assert_close(group.numbers(), expected)


class Sick(nn.CrossEntropyLoss):
    """In the second epoch it does something else to its run."""

    def __init__(self, happens):
        super().__init__()
        self.happens, self.num_steps = happens, 0

    def forward(self, preds, targets):
        self.num_steps += torch.is_grad_enabled()
        if self.num_steps == 5 and self.happens is not None:
            return self.happens(preds, targets)
        return super().forward(preds, targets)


def to_nan(preds, targets):
    return preds.sum() * float("nan")


def raising(error):
    def happens(preds, targets):
        raise error

    return happens


HAPPENINGS = {
    "diverged": to_nan,
    "failed": raising(ValueError("no loss today")),
}


def with_loss(happens):
    """The second run of them has it."""
    return tiny(loss=lambda run: Sick(happens if run.lr == TINY["lr"][1] else None))


@pytest.mark.parametrize("status", HAPPENINGS)
@pytest.mark.parametrize("shuffle", [True, False])
def test_what_happens_to_one_run_changes_no_bit_of_another(status, shuffle, tmp_path):
    runs = runs_of(shuffle=[shuffle])
    healthy = Sweep(tmp_path / "healthy", with_loss(None), runs).together().numbers()
    sick = Sweep(tmp_path / "sick", with_loss(HAPPENINGS[status]), runs).together()
    assert sick.statuses() == {1: "completed", 2: status, 3: "completed", 4: "completed"}
    found = sick.numbers()
    assert [found[number] for number in (1, 3, 4)] == [healthy[number] for number in (1, 3, 4)]
    assert found[2][:1] == healthy[2][:1]  # what it had reached before stays


def test_a_run_that_fails_has_its_own_error(tmp_path):
    run = Sweep(tmp_path, with_loss(HAPPENINGS["failed"]), runs_of()).together().history()[2]
    assert run.error == "ValueError: no loss today"
    assert "in happens" in run.traceback


def test_a_rate_that_is_much_too_large_harms_its_own_run_only(tmp_path):
    def with_rate(rate):
        return tiny(
            optimizer=lambda run, network: torch.optim.SGD(
                network.parameters(), lr=rate if run.lr == TINY["lr"][1] else run.lr, momentum=0.9
            ),
            network=lambda: nn.Sequential(nn.Flatten(), nn.Linear(36, 8), nn.ReLU(), nn.Linear(8, 3)),
        )

    healthy = Sweep(tmp_path / "healthy", with_rate(0.05), runs_of()).together().numbers()
    sick = Sweep(tmp_path / "sick", with_rate(1e30), runs_of()).together()
    assert sick.statuses() == {1: "completed", 2: "diverged", 3: "completed", 4: "completed"}
    assert [sick.numbers()[number] for number in (1, 3, 4)] == [healthy[number] for number in (1, 3, 4)]


def test_a_run_that_is_stopped_leaves_and_no_bit_of_another_changes(tmp_path):
    def stop(row):
        return RunStopped("stopped", "not promising") if (row.run, row.epoch) == (3, 1) else None

    untouched = Sweep(tmp_path / "a", tiny(), runs_of()).together()
    stopped = Sweep(tmp_path / "b", tiny(), runs_of(), stop_when=stop).together()
    assert stopped.statuses() == {1: "completed", 2: "completed", 3: "stopped", 4: "completed"}
    assert stopped.sizes() == {1: [4, 3, 3], 2: [4, 3, 3], 3: [4], 4: [4, 3, 3]}
    others = [(sweep.numbers()[1], sweep.numbers()[2], sweep.numbers()[4]) for sweep in (stopped, untouched)]
    assert others[0] == others[1]


def test_when_all_runs_fail_in_one_step_each_has_its_own_end(tmp_path):
    training = tiny(loss=lambda run: Sick(raising(ValueError(f"not with {run.lr}"))))
    runs = Sweep(tmp_path, training, runs_of()).together().history()
    assert [run.error for run in runs.values()] == [f"ValueError: not with {lr}" for lr in TINY["lr"]]
    assert all(len(run.rows) == 1 for run in runs.values())


def test_a_run_that_cannot_be_built_fails_alone(tmp_path):
    def network(run):
        if run.lr == TINY["lr"][0]:
            raise ValueError("no network today")
        return mlp()

    group = Sweep(tmp_path / "group", tiny(network=network), runs_of()).together()
    assert group.statuses() == {1: "failed", 2: "completed", 3: "completed", 4: "completed"}
    expected = Sweep(tmp_path / "alone", tiny(), runs_of()).alone(2, 3, 4)
    assert_close({n: rows for n, rows in group.numbers().items() if n > 1}, expected.numbers())


def test_a_schedule_that_raises_ends_its_own_run(tmp_path):
    def scheduler(run, optimizer):
        def factor(epoch):
            if epoch == 2 and run.lr == TINY["lr"][3]:
                raise ValueError("no schedule today")
            return 1.0

        return torch.optim.lr_scheduler.LambdaLR(optimizer, factor)

    group = Sweep(tmp_path, tiny(scheduler=scheduler), runs_of()).together()
    assert group.statuses() == {1: "completed", 2: "completed", 3: "completed", 4: "failed"}
    assert group.history()[4].error == "ValueError: no schedule today"
