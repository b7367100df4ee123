"""The RunManager of a group: runs that are tracked in lockstep, each of which begins, leaves and fails for itself."""

import shutil
from pathlib import Path

import pytest
import torch

from runmanager import RunBuilder, RunManager
from runmanager.parameters import ParameterError
from runmanager.tracking.errors import (
    CallOrderError,
    CheckpointError,
    EmptyEpochError,
    MetricError,
    RunInUseError,
    RunStopped,
    StorageError,
)
from runmanager.tracking.history import read_sweep
from runmanager.tracking.manager import Entry
from runmanager.tracking.rows import INTERRUPTED
from runmanager.tracking.run_dir import find_sweep
from runmanager.tracking.writers import Writer

RUNS = RunBuilder.get_runs({"lr": [0.1, 0.2, 0.3]})
LOSSES = torch.tensor([1.0, 2.0, 3.0])
BATCH = torch.zeros(4, 2)


@pytest.fixture
def make(tmp_path: Path):
    """A manager of the same sweep, as often as it is called."""
    return lambda **options: RunManager("mine", root=tmp_path, tensorboard=False, quiet=True, tables=False, **options)


@pytest.fixture
def runs(tmp_path: Path):
    """What the runs are on disk, by number."""
    return lambda: {run.number: run for run in read_sweep(find_sweep("mine", tmp_path)).runs}


def entries(*numbers: int, attempts: int = 0) -> list[Entry]:
    return [Entry(RUNS[number - 1], number, 7, attempts) for number in numbers or (1, 2, 3)]


def statuses(runs):
    return {number: run.status for number, run in runs().items()}


def one_epoch(m: RunManager, losses: torch.Tensor = LOSSES, states=None) -> None:
    m.begin_epoch()
    m.track_loss(losses, BATCH)
    m.end_epoch(states)


def states_of(m: RunManager) -> list[dict[str, int]]:
    return [{"of run": number} for number in m.numbers]


def test_each_member_has_rows_of_its_own(make, runs):
    with make().tracking_group(entries()) as refused:
        pass
    assert (refused, statuses(runs)) == ({}, {1: "completed", 2: "completed", 3: "completed"})
    m = make()
    with m.tracking_group(entries(attempts=1)):
        assert m.numbers == [1, 2, 3]
        for epoch in (1, 2):
            m.begin_epoch()
            m.track_loss(LOSSES * epoch, BATCH)
            m.track_loss(LOSSES * epoch * 3, BATCH)
            m.log(val=[5, 6, 7], same=8)
            m.end_epoch()
    assert m.numbers == []
    for number, run in runs().items():
        assert [row.loss for row in run.rows] == [2 * number, 4 * number]
        assert [row.metrics for row in run.rows] == [{"val": 4 + number, "same": 8}] * 2
        assert [row.group_size for row in run.rows] == [3, 3]
    assert [row["group size"] for row in m.run_data] == [3] * 6


def test_accuracies_are_each_members_own(make, runs):
    preds = torch.tensor([[[0.9, 0.1], [0.9, 0.1]], [[0.1, 0.9], [0.9, 0.1]], [[0.1, 0.9], [0.1, 0.9]]])  # [3, 2, 2]
    m = make()
    with m.tracking_group(entries()):
        m.begin_epoch()
        m.track_num_correct(preds, torch.ones(3, 2, dtype=torch.long))
        m.end_epoch()
    assert [run.rows[0].accuracy for run in runs().values()] == [0.0, 0.5, 1.0]


def test_a_group_of_one_is_tracked_like_a_run(make, runs):
    m = make()
    with m.tracking_group(entries(2)):
        m.begin_epoch()
        m.track_loss(torch.tensor(4.0), BATCH)
        m.log(val=[5])
        m.end_epoch([{"state": 1}])
    (run,) = runs().values()
    assert (run.status, run.rows[0].loss, run.rows[0].metrics, run.rows[0].group_size) == (
        "completed",
        4.0,
        {"val": 5},
        1,
    )


def test_a_member_that_leaves_is_completed_and_the_others_go_on(make, runs):
    m = make()
    with m.tracking_group(entries()):
        one_epoch(m)
        m.leave(2)
        assert m.numbers == [1, 3]
        assert statuses(runs) == {1: "running", 2: "completed", 3: "running"}
        one_epoch(m, torch.tensor([10.0, 30.0]))
    assert [[row.loss for row in run.rows] for run in runs().values()] == [[1, 10], [2], [3, 30]]
    assert [[row.group_size for row in run.rows] for run in runs().values()] == [[3, 2], [3], [3, 2]]
    assert set(statuses(runs).values()) == {"completed"}


def test_a_member_that_fails_in_mid_epoch_leaves_its_neighbours_sums_alone(make, runs):
    m = make()
    with m.tracking_group(entries()):
        one_epoch(m)
        m.begin_epoch()
        m.track_loss(torch.tensor([1.0, float("nan"), 3.0]), BATCH)
        m.track_num_correct(torch.eye(2).expand(3, 2, 2), torch.tensor([[0, 1], [1, 0], [0, 0]]))
        m.log(val=[5, 6, 7])
        m.leave(2, ValueError("no more"))
        m.track_loss(torch.tensor([3.0, 5.0]), BATCH)
        m.end_epoch()
    assert statuses(runs) == {1: "completed", 2: "failed", 3: "completed"}
    first, second, third = runs().values()
    assert (second.error, len(second.rows)) == ("ValueError: no more", 1)
    assert [(run.rows[1].loss, run.rows[1].accuracy, run.rows[1].metrics) for run in (first, third)] == [
        (2.0, 1.0, {"val": 5}),
        (4.0, 0.5, {"val": 7}),
    ]


def test_all_members_may_leave_in_mid_epoch(make, runs):
    m = make()
    with m.tracking_group(entries()):
        m.begin_epoch()
        m.track_loss(LOSSES, BATCH)
        for number in (3, 1, 2):
            m.leave(number, RuntimeError(f"of {number}"))
    assert statuses(runs) == {1: "failed", 2: "failed", 3: "failed"}
    assert [run.error for run in runs().values()] == ["RuntimeError: of 1", "RuntimeError: of 2", "RuntimeError: of 3"]
    with m.tracking(RUNS[0], number=1):  # the manager goes on
        m.log(score=1)


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (ValueError("x"), "failed"),
        (torch.OutOfMemoryError("x"), "out of memory"),
        (SystemExit(1), "failed"),
        (RunStopped(INTERRUPTED, "x"), "interrupted"),
        (KeyboardInterrupt(), "interrupted"),
    ],
)
def test_what_ends_a_member_decides_its_status(error, status, make, runs):
    m = make()
    with m.tracking_group(entries()):
        m.leave(1, error)
    assert statuses(runs) == {1: status, 2: "completed", 3: "completed"}


def test_a_member_whose_last_loss_is_not_finite_has_diverged(make, runs):
    m = make()
    with m.tracking_group(entries()):
        one_epoch(m, torch.tensor([1.0, float("nan"), float("inf")]))
    assert statuses(runs) == {1: "completed", 2: "diverged", 3: "diverged"}


def test_what_the_whole_group_raises_ends_all_that_are_still_there(make, runs):
    m = make()
    with pytest.raises(ZeroDivisionError), m.tracking_group(entries()):
        one_epoch(m)
        m.leave(2)
        raise ZeroDivisionError("of all")
    assert statuses(runs) == {1: "failed", 2: "completed", 3: "failed"}
    assert m.numbers == []


def test_a_group_that_is_left_with_an_epoch_open_failed(make, runs):
    m = make()
    with pytest.raises(CallOrderError, match="epoch 1 is still open"), m.tracking_group(entries()):
        m.begin_epoch()
    assert statuses(runs) == {1: "failed", 2: "failed", 3: "failed"}


def test_only_a_member_can_leave(make):
    m = make()
    with m.tracking_group(entries(1, 3)):
        with pytest.raises(CallOrderError, match=r"leave\(2\): the group has \[1, 3\]; pass one of these"):
            m.leave(2)
        m.leave(3)
        with pytest.raises(CallOrderError, match=r"leave\(3\): the group has \[1\]"):
            m.leave(3)


@pytest.mark.parametrize("call", ["begin_run", "end_run"])
def test_members_are_begun_and_ended_by_the_group_alone(call, make):
    m = make()
    arguments = {"begin_run": (RUNS[0],), "end_run": ()}[call]
    with m.tracking_group(entries()):
        with pytest.raises(CallOrderError, match="begun and ended for you"):
            getattr(m, call)(*arguments)
        assert m.numbers == [1, 2, 3]


@pytest.mark.parametrize(
    ("call", "missing"),
    [
        (lambda m: m.end_epoch(), "begin_epoch"),
        (lambda m: m.track_loss(LOSSES, BATCH), "begin_epoch"),
        (lambda m: m.begin_epoch() or m.begin_epoch(), "end_epoch"),
        (lambda m: one_epoch(m) or m.load_checkpoints(print), "before the first begin_epoch"),
        (lambda m: m.log(x=1) or m.load_checkpoints(print), "right after the run begins"),
    ],
)
def test_calls_out_of_order_name_the_one_that_is_missing(call, missing, make):
    m = make()
    with pytest.raises(CallOrderError, match=missing), m.tracking_group(entries()):
        call(m)


def test_an_epoch_in_which_nothing_was_tracked_is_an_error(make):
    m = make()
    with pytest.raises(EmptyEpochError), m.tracking_group(entries()):
        m.begin_epoch()
        m.end_epoch()


@pytest.mark.parametrize("losses", [torch.tensor(1.0), torch.ones(2), torch.ones(4)])
def test_losses_have_to_be_one_for_each_member(losses, make):
    m = make()
    with pytest.raises(MetricError), m.tracking_group(entries()):
        m.begin_epoch()
        m.track_loss(losses, BATCH)


@pytest.mark.parametrize("values", [[1, 2], [1, 2, 3, 4], []])
def test_a_list_that_is_logged_has_a_value_for_each_member(values, make):
    m = make()
    with pytest.raises(MetricError, match="3"), m.tracking_group(entries()):
        m.log(val=values)


def test_steps_are_logged_for_each_member(make, runs):
    m = make()
    with m.tracking_group(entries()):
        m.begin_epoch()
        m.log_step(rate=[0.1, 0.2, 0.3])
        m.log_step(rate=0.5)
        m.end_epoch()
    assert len(runs()) == 3
    assert all(len(run.rows) == 1 for run in runs().values())


def test_a_run_that_another_process_has_is_refused_and_the_others_are_tracked(make, runs):
    m = make()
    with make().tracking(RUNS[1], number=2), m.tracking_group(entries()) as refused:
        assert list(refused) == [2]
        assert isinstance(refused[2], RunInUseError)
        assert m.numbers == [1, 3]
        one_epoch(m, torch.tensor([1.0, 3.0]))
    assert [row.group_size for row in runs()[1].rows] == [2]
    assert statuses(runs) == {1: "completed", 2: "completed", 3: "completed"}


def test_a_run_that_was_tried_meanwhile_is_refused(make, runs):
    with make().tracking_group(entries(2)):
        pass
    with make().tracking_group(entries()) as refused:
        assert "another launch has tried it meanwhile" in str(refused[2])
    assert statuses(runs) == {1: "completed", 2: "completed", 3: "completed"}
    assert runs()[2].attempts == 1


def test_a_group_of_which_all_are_refused_tracks_nothing_and_hinders_no_later_run(make):
    with make().tracking_group(entries()):
        pass
    m = make()
    with m.tracking_group(entries()) as refused:
        assert sorted(refused) == [1, 2, 3]
        assert m.numbers == []
    m.begin_run(RUNS[0])
    m.log(score=1)
    m.end_run()
    m.close()


def test_a_run_that_cannot_be_recorded_leaves_none_of_its_group_open(make, runs):
    m = make()
    with pytest.raises(ParameterError), m.tracking_group([*entries(1, 2), Entry({"lr": lambda: 1}, 3)]):
        pytest.fail("a group began that cannot")
    assert (m.numbers, statuses(runs)) == ([], {1: "failed", 2: "failed"})
    with make().tracking_group(entries(1, 2, attempts=1)) as refused:
        pass
    assert (refused, statuses(runs)) == ({}, {1: "completed", 2: "completed"})


def test_what_is_forgotten_are_the_rows_of_ended_runs_alone(make):
    m = make()
    with m.tracking(RUNS[0], number=1):
        m.begin_epoch()
        m.log(val=1)
        m.end_epoch()
    with m.tracking_group([*entries(2, 3), *entries(1, attempts=1)]):
        one_epoch(m)
        m.leave(3)
        m.forget()
        assert [row["run"] for row in m.run_data] == [2, 1]
        one_epoch(m, LOSSES[:2])
        assert [(row["run"], row["epoch"]) for row in m.run_data] == [(2, 1), (2, 2), (1, 1), (1, 2)]
    m.forget()
    assert m.run_data == []


def test_a_run_whose_folder_cannot_be_made_is_refused_alone(make, tmp_path, runs):
    with make().tracking_group(entries()):
        pass
    folder = next((tmp_path / "runs/mine").glob("0002-*"))
    shutil.rmtree(folder)
    folder.write_text("a file in its place")
    m = make()
    with m.tracking_group(entries(attempts=1)) as refused:
        assert isinstance(refused[2], StorageError)
        assert m.numbers == [1, 3]


def test_each_member_goes_on_from_its_own_state_and_random_numbers(make, runs):
    m = make()
    drawn = {}
    with pytest.raises(ZeroDivisionError), m.tracking_group(entries()):
        for epoch in range(2):
            m.begin_epoch()
            m.track_loss(LOSSES * (epoch + 1), BATCH)

            def state(number):
                def make_state():
                    torch.manual_seed(number)
                    drawn[number] = torch.rand(()).item()
                    torch.manual_seed(number)
                    return {"of": number}

                return make_state

            m.end_epoch([state(number) for number in m.numbers])
        raise ZeroDivisionError
    m = make()
    taken = {}
    with m.tracking_group(entries(attempts=1)):
        m.load_checkpoints(lambda index, state: taken.update({state["of"]: torch.rand(()).item()}))
        assert m.num_epochs == 2
        one_epoch(m)
    assert taken == drawn
    assert [[row.epoch for row in run.rows] for run in runs().values()] == [[1, 2, 3]] * 3
    assert [[row.loss for row in run.rows] for run in runs().values()] == [[1, 2, 1], [2, 4, 2], [3, 6, 3]]


def test_members_whose_states_are_of_different_epochs_cannot_go_on_together(make, runs):
    for numbers, num_epochs in (((1, 3), 1), ((2,), 2)):
        m = make()
        with pytest.raises(ZeroDivisionError), m.tracking_group(entries(*numbers)):
            for _ in range(num_epochs):
                one_epoch(m, torch.ones(len(numbers)) if len(numbers) > 1 else torch.tensor(1.0), states_of(m))
            raise ZeroDivisionError
    m = make()
    with (
        pytest.raises(CheckpointError, match=r"of epochs \[1, 2\]; train them one by one"),
        m.tracking_group(entries(attempts=1)),
    ):
        m.load_checkpoints(lambda index, state: None)
    assert [len(run.rows) for run in runs().values()] == [1, 2, 1]  # nothing is lost


def test_a_member_without_a_state_and_one_with_cannot_go_on_together(make):
    m = make()
    with pytest.raises(ZeroDivisionError), m.tracking_group(entries(1)):
        one_epoch(m, torch.tensor(1.0), states_of(m))
        raise ZeroDivisionError
    both = [Entry(RUNS[0], 1, 7, 1), Entry(RUNS[1], 2, 7, 0)]
    m = make()
    with pytest.raises(CheckpointError, match=r"of epochs \[0, 1\]"), m.tracking_group(both):
        m.load_checkpoints(lambda index, state: None)


def test_a_group_that_was_never_saved_begins_at_the_beginning(make):
    m = make()
    with m.tracking_group(entries()):
        m.load_checkpoints(lambda index, state: pytest.fail("there is no state"))
        assert m.num_epochs == 0


def test_a_state_that_one_member_cannot_give_ends_it_alone(make, runs):
    def broken():
        raise ValueError("no state")

    m = make()
    with m.tracking_group(entries()):
        one_epoch(m, LOSSES, [{"of": 1}, broken, {"of": 3}])
        assert m.numbers == [1, 3]
        one_epoch(m, torch.tensor([1.0, 3.0]), states_of(m))
    assert statuses(runs) == {1: "completed", 2: "failed", 3: "completed"}
    assert runs()[2].error == "ValueError: no state"
    assert [len(run.rows) for run in (runs()[1], runs()[3])] == [2, 2]


def test_a_member_whose_state_cannot_be_written_ends_alone(make, runs, tmp_path):
    m = make()
    with m.tracking_group(entries()):
        one_epoch(m, LOSSES, states_of(m))
        checkpoints = next((tmp_path / "runs/mine").glob("0002-*")) / "checkpoints"
        shutil.rmtree(checkpoints)
        checkpoints.write_text("a file in its place")
        one_epoch(m, LOSSES, states_of(m))
        assert m.numbers == [1, 3]
        one_epoch(m, torch.tensor([1.0, 3.0]), states_of(m))
    assert statuses(runs) == {1: "completed", 2: "failed", 3: "completed"}
    assert "checkpoints" in runs()[2].error
    assert [len(runs()[number].rows) for number in (1, 3)] == [3, 3]


def test_a_member_whose_folder_was_deleted_harms_no_other(make, runs, tmp_path):
    m = make()
    with m.tracking_group(entries()):
        one_epoch(m, LOSSES, states_of(m))
        shutil.rmtree(next((tmp_path / "runs/mine").glob("0002-*")))
        one_epoch(m, LOSSES[: len(m.numbers)], states_of(m))
        one_epoch(m, LOSSES[: len(m.numbers)], states_of(m))
    assert [runs()[number].status for number in (1, 3)] == ["completed", "completed"]
    assert [len(runs()[number].rows) for number in (1, 3)] == [3, 3]


def test_a_member_that_is_told_to_stop_leaves_with_its_row_and_its_state(make, runs):
    def stop_when(row):
        return RunStopped(INTERRUPTED, "as asked") if row.run == 2 and row.epoch == 2 else None

    m = make(stop_when=stop_when)
    with m.tracking_group(entries()):
        one_epoch(m, LOSSES, states_of(m))
        one_epoch(m, LOSSES, states_of(m))
        assert m.numbers == [1, 3]
        one_epoch(m, torch.tensor([1.0, 3.0]), states_of(m))
    assert statuses(runs) == {1: "completed", 2: "interrupted", 3: "completed"}
    assert [len(run.rows) for run in runs().values()] == [3, 2, 3]
    assert runs()[2].checkpoints[-1]["epoch"] == 2


def test_all_members_may_be_told_to_stop_at_once(make, runs):
    m = make(stop_when=lambda row: RunStopped(INTERRUPTED, "as asked"))
    with m.tracking_group(entries()):
        one_epoch(m, LOSSES, states_of(m))
        assert m.numbers == []
    assert statuses(runs) == {1: "interrupted", 2: "interrupted", 3: "interrupted"}
    assert [run.checkpoints[-1]["epoch"] for run in runs().values()] == [1, 1, 1]


def test_writers_hear_of_each_member(make):
    heard = []

    class Listener(Writer):
        def begin(self, member):
            heard.append(("begin", member.number))

        def watch(self, member):
            heard.append(("watch", member.number, type(member.network).__name__))

        def epoch(self, member, row):
            heard.append(("epoch", member.number, row.loss))

        def end(self, member, end):
            heard.append(("end", member.number, end.status))

    m = make(writers=[Listener()])
    with m.tracking_group(entries(1, 3)):
        m.watch([torch.nn.Linear(1, 1), torch.nn.ReLU()])
        one_epoch(m, torch.tensor([1.0, 3.0]))
        m.leave(3, ValueError("x"))
    assert heard == [
        ("begin", 1), ("begin", 3), ("watch", 1, "Linear"), ("watch", 3, "ReLU"), ("epoch", 1, 1.0), ("epoch", 3, 3.0),
        ("end", 3, "failed"), ("end", 1, "completed"),
    ]  # fmt: skip


def test_a_group_needs_a_network_for_each_member(make):
    m = make()
    with pytest.raises(ValueError), m.tracking_group(entries()):
        m.watch([torch.nn.Linear(1, 1)])
