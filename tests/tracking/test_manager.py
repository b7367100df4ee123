"""The RunManager, as a hand-written loop uses it."""

import json
import subprocess
import sys
from collections import OrderedDict, namedtuple
from pathlib import Path

import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader, TensorDataset

from runmanager import RunBuilder, RunManager, load_results
from runmanager.parameters import ParameterError
from runmanager.tracking.errors import (
    CallOrderError,
    EmptyEpochError,
    MetricError,
    RunInUseError,
    RunStopped,
    StorageError,
    UnknownBatchSizeError,
)
from runmanager.tracking.history import read_sweep
from runmanager.tracking.run_dir import find_sweep
from runmanager.tracking.writers import Writer

RUN, OTHER = RunBuilder.get_runs({"lr": [0.1, 0.2]})


@pytest.fixture
def m(tmp_path: Path) -> RunManager:
    return RunManager("mine", root=tmp_path, tensorboard=False, quiet=True)


def history(m: RunManager, tmp_path: Path):
    return read_sweep(find_sweep(m.name, tmp_path))


def one_epoch(m: RunManager, **metrics: float) -> None:
    m.begin_epoch()
    m.log(**(metrics or {"score": 1.0}))
    m.end_epoch()


def test_the_classroom_loop_leaves_tables_and_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    data = TensorDataset(torch.rand(50, 1, 8, 8), torch.randint(0, 3, (50,)))
    m = RunManager(quiet=True)
    for run in RunBuilder.get_runs(OrderedDict(lr=[0.01, 0.001], batch_size=[20, 50], shuffle=[True, False])):
        network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 3))
        loader = DataLoader(data, batch_size=run.batch_size, shuffle=run.shuffle)
        optimizer = torch.optim.Adam(network.parameters(), lr=run.lr)
        m.begin_run(run, network, loader)
        for _ in range(3):
            m.begin_epoch()
            for images, labels in loader:
                preds = network(images)
                loss = F.cross_entropy(preds, labels)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                m.track_loss(loss)
                m.track_num_correct(preds, labels)
            m.end_epoch()
        m.end_run()
    m.save("results")

    table = pd.read_csv("results.csv")
    first = ["run", "epoch", "loss", "accuracy", "epoch duration", "run duration", "group size"]
    assert list(table.columns) == [*first, "lr", "batch_size", "shuffle"]
    assert len(table) == 24
    assert table["shuffle"].dtype == bool
    assert json.loads(Path("results.json").read_text())[23]["run"] == 8
    assert [row["epoch"] for row in m.run_data] == [1, 2, 3] * 8
    assert (tmp_path / "results" / f"{m.name}.csv").read_text() == Path("results.csv").read_text()
    assert len(list((tmp_path / "runs" / m.name).glob("*/events.out.tfevents.*"))) == 16  # 8 runs and their 8 ends


def test_the_loss_is_the_mean_over_the_samples_and_not_over_the_batches(m: RunManager) -> None:
    values = torch.tensor([1.0, 1.0, 1.0, 1.0, 7.0])
    loader = DataLoader(values, batch_size=4)
    m.begin_run(RUN, None, loader)
    m.begin_epoch()
    for batch in loader:
        m.track_loss(batch.mean())
    m.end_epoch()
    assert m.run_data[0]["loss"] == pytest.approx(2.2, rel=1e-12)  # the classroom's own formula gives 6.4


def test_a_batch_given_with_the_loss_tells_its_size(m: RunManager) -> None:
    m.begin_run(RUN)
    m.begin_epoch()
    m.track_loss(torch.tensor(1.0), (torch.zeros(3, 2), torch.zeros(3)))
    m.track_loss(torch.tensor(5.0), torch.zeros(1, 2))
    m.end_epoch()
    assert m.run_data[0]["loss"] == 2.0


def test_a_loss_whose_weight_cannot_be_known_asks_for_the_batch(m: RunManager) -> None:
    m.begin_run(RUN)
    m.begin_epoch()
    with pytest.raises(UnknownBatchSizeError, match=r"track_loss\(loss, batch\)"):
        m.track_loss(torch.tensor(1.0))


WAITS = ("item", "tolist", "cpu", "numpy", "to", "__bool__", "__float__", "__int__", "__index__")
"""What makes the host wait for a device: whatever looks at a tensor's value, or moves it."""


def test_nothing_waits_for_the_device_before_the_epoch_ends(m: RunManager, monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[str] = []

    def counting(name: str):
        original = getattr(torch.Tensor, name)
        return lambda tensor, *args, **kwargs: waits.append(name) or original(tensor, *args, **kwargs)

    preds, labels, loss = torch.rand(10, 3), torch.randint(0, 3, (10,)), torch.rand(())
    m.begin_run(RUN)
    for name in WAITS:
        monkeypatch.setattr(torch.Tensor, name, counting(name))
    m.begin_epoch()
    for _ in range(5):
        m.track_loss(loss, preds)
        m.track_num_correct(preds, labels)
    assert waits == []
    m.end_epoch()
    assert waits == ["tolist", "tolist"]  # one for the loss, one for the accuracy


@pytest.mark.parametrize(
    ("calls", "missing"),
    [
        (["begin_epoch"], "begin_run"),
        (["end_epoch"], "begin_run"),
        (["end_run"], "begin_run"),
        (["log"], "begin_run"),
        (["log_step"], "begin_run"),
        (["track_loss"], "begin_run"),
        (["begin_run", "end_epoch"], "begin_epoch"),
        (["begin_run", "track_loss"], "begin_epoch"),
        (["begin_run", "track_num_correct"], "begin_epoch"),
        (["begin_run", "begin_epoch", "begin_epoch"], "end_epoch"),
        (["begin_run", "begin_epoch", "log", "end_run"], "end_epoch"),
        (["begin_run", "begin_run"], "end_run"),
    ],
)
def test_a_call_out_of_order_names_the_call_that_is_missing(m: RunManager, calls: list[str], missing: str) -> None:
    one, scores = torch.tensor(1.0), torch.rand(2, 3)
    arguments = {"begin_run": (RUN,), "track_loss": (one, scores), "track_num_correct": (scores, torch.tensor([0, 1]))}
    keywords = {"log": {"score": 1.0}, "log_step": {"score": 1.0}}
    for call in calls[:-1]:
        getattr(m, call)(*arguments.get(call, ()), **keywords.get(call, {}))
    with pytest.raises(CallOrderError, match=rf"{missing}\(.*is missing"):
        getattr(m, calls[-1])(*arguments.get(calls[-1], ()), **keywords.get(calls[-1], {}))


def test_an_epoch_without_anything_is_an_error_that_says_what_to_call(m: RunManager) -> None:
    m.begin_run(RUN)
    m.begin_epoch()
    with pytest.raises(EmptyEpochError, match=r"track_loss\(loss\)"):
        m.end_epoch()


@pytest.mark.parametrize("where", ["in an epoch", "between epochs"])
def test_a_loop_that_catches_its_exception_leaves_that_run_failed_and_the_next_unharmed(
    m: RunManager, tmp_path: Path, where: str
) -> None:
    with pytest.warns(RuntimeWarning, match=r"run 1 was left .*marked failed"):
        for run in (RUN, OTHER):
            try:
                m.begin_run(run)
                one_epoch(m, score=1.0)
                if where == "in an epoch":
                    m.begin_epoch()
                if run is RUN:
                    raise ValueError("a bad batch")
                if where == "in an epoch":
                    m.log(score=2.0)
                    m.end_epoch()
                m.end_run()
            except ValueError:
                continue
    first, second = history(m, tmp_path).runs
    assert (first.status, second.status) == ("failed", "completed")
    assert "end_run() is missing" in first.error
    assert len(first.rows) == 1 and second.rows[0].metrics == {"score": 1.0}


def test_begin_run_twice_is_an_error_and_the_third_call_begins(m: RunManager, tmp_path: Path) -> None:
    m.begin_run(RUN)
    with pytest.raises(CallOrderError, match=r"end_run\(\) is missing"):
        m.begin_run(OTHER)
    m.begin_run(OTHER)
    one_epoch(m)
    m.end_run()
    assert [run.status for run in history(m, tmp_path).runs] == ["failed", "completed"]


def test_a_run_that_is_in_use_keeps_its_tensorboard_files_and_its_number(tmp_path: Path) -> None:
    m = RunManager("mine", root=tmp_path, quiet=True)
    m.begin_run(RUN)
    (folder,) = (tmp_path / "runs" / "mine").glob("*/")
    before = sorted(file.name for file in folder.iterdir())
    other = RunManager("mine", root=tmp_path, quiet=True)
    with pytest.raises(RunInUseError):
        other.begin_run(RUN)
    assert sorted(file.name for file in folder.iterdir()) == before
    one_epoch(m)
    m.end_run()
    other.begin_run(RUN)
    one_epoch(other)
    other.end_run()
    assert len(history(m, tmp_path).runs) == 1


def test_a_run_whose_run_json_is_lost_is_known_by_its_journal(m: RunManager, tmp_path: Path) -> None:
    m.begin_run(RUN)
    one_epoch(m)
    m.end_run()
    (file,) = (tmp_path / "runs" / "mine").glob("*/run.json")
    file.write_text("")
    (run,) = history(m, tmp_path).runs
    assert run.params == {"lr": 0.1} and run.status == "completed"


def test_losses_of_numpy_are_numbers_too(m: RunManager, tmp_path: Path) -> None:
    numpy = pytest.importorskip("numpy")
    m.begin_run(RUN)
    m.begin_epoch()
    m.track_loss(numpy.float64(0.5), [1, 2])
    m.track_loss(numpy.float32(0.25), [1, 2])
    m.end_epoch()
    m.end_run()
    assert load_results(tmp_path / "runs" / "mine")["loss"].tolist() == [0.375]


def test_tracking_keeps_the_traceback_of_what_was_raised(m: RunManager, tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), m.tracking(RUN):
        one_epoch(m)
        1 / 0
    with m.tracking(OTHER):
        one_epoch(m)
    first, second = history(m, tmp_path).runs
    assert (first.status, second.status) == ("failed", "completed")
    assert first.error == "ZeroDivisionError: division by zero"
    assert first.traceback is not None and "1 / 0" in first.traceback
    assert len(first.rows) == 1


SCRIPT = """
import sys
from runmanager import RunBuilder, RunManager
m = RunManager("mine", tensorboard=False, quiet=True)
m.begin_run(RunBuilder.get_runs(dict(lr=[0.1]))[0])
m.begin_epoch()
m.log(score=1.0)
m.end_epoch()
{end}
"""


@pytest.mark.parametrize(
    ("end", "status", "error"),
    [
        ("raise RuntimeError('out of paper')", "failed", "RuntimeError: out of paper"),
        ("sys.exit(3)", "interrupted", "the program ended before end_run()"),
        ("", "interrupted", "the program ended before end_run()"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGINT)", "interrupted", "KeyboardInterrupt"),
        ("import os; os._exit(0)", "interrupted", None),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "interrupted", None),
    ],
    ids=["raises", "exits", "forgets", "ctrl-c", "vanishes", "killed"],
)
def test_a_script_that_dies_between_begin_and_end_leaves_the_true_status(
    tmp_path: Path, end: str, status: str, error: str | None
) -> None:
    (tmp_path / "runs").mkdir()
    subprocess.run([sys.executable, "-c", SCRIPT.format(end=end)], cwd=tmp_path, capture_output=True, check=False)
    (run,) = read_sweep(find_sweep("mine", tmp_path)).runs
    assert (run.status, run.error) == (status, error)
    assert run.rows[0].metrics == {"score": 1.0}
    if status == "failed":
        assert run.traceback is not None and "RuntimeError" in run.traceback


def test_metrics_outside_an_epoch_are_the_runs_own(m: RunManager, tmp_path: Path) -> None:
    m.begin_run(RUN)
    m.log(num_parameters=7)
    one_epoch(m, score=1.0)
    m.log(test_score=0.25)
    m.end_run()
    (run,) = history(m, tmp_path).runs
    assert run.metrics == {"num_parameters": 7, "test_score": 0.25}
    assert run.rows[0].metrics == {"score": 1.0}


def test_a_metric_may_be_any_scalar_of_numpy_or_torch(m: RunManager) -> None:
    numpy = pytest.importorskip("numpy")
    m.begin_run(RUN)
    one_epoch(m, a=torch.tensor(1.5), b=numpy.float32(0.5), c=numpy.int64(3), d=True, e=torch.tensor([2]))
    assert {name: m.run_data[0][name] for name in "abcde"} == {"a": 1.5, "b": 0.5, "c": 3, "d": 1, "e": 2}


@pytest.mark.parametrize(
    ("metrics", "message"),
    [
        ({"note": "good"}, "a metric is a number, not a str"),
        ({"per_class": torch.zeros(3)}, r"shape \(3,\)"),
        ({"z": 1j}, "not a complex"),
        ({"nothing": None}, "not a NoneType"),
        ({"epoch": 1.0}, "'epoch' is a column of the results"),
        ({"run": 1.0}, "'run' is a column"),
        ({"lr": 1.0}, "'lr' is a parameter of this run.*lr_now"),
    ],
)
def test_a_metric_that_cannot_be_recorded_is_refused_by_name(m: RunManager, metrics: dict, message: str) -> None:
    m.begin_run(RUN)
    m.begin_epoch()
    with pytest.raises(MetricError, match=message):
        m.log(**metrics)
    with pytest.raises(MetricError, match=message):
        m.log_step(**metrics)


def test_a_loop_without_tensors_may_log_its_loss_but_not_track_it_as_well(m: RunManager, tmp_path: Path) -> None:
    m.begin_run(RUN)
    one_epoch(m, loss=0.5, accuracy=0.25)
    assert (m.run_data[0]["loss"], m.run_data[0]["accuracy"]) == (0.5, 0.25)
    m.begin_epoch()
    m.track_loss(1.0, [1, 2])
    with pytest.raises(MetricError, match=r"log\(loss=.*track_loss\(\) keeps"):
        m.log(loss=0.5)
    m.end_epoch()
    assert m.run_data[1]["loss"] == 1.0


def test_two_managers_never_write_the_same_run(m: RunManager, tmp_path: Path) -> None:
    m.begin_run(RUN)
    other = RunManager("mine", root=tmp_path, tensorboard=False, quiet=True)
    with pytest.raises(RunInUseError, match="let that one end first"):
        other.begin_run(RUN)
    one_epoch(m)
    m.end_run()
    other.begin_run(RUN)
    other.abandon(None)


def test_steps_are_kept_and_read_back(m: RunManager, tmp_path: Path) -> None:
    m.begin_run(RUN)
    m.begin_epoch()
    m.log_step(grad_norm=1.0)
    m.log_step(grad_norm=float("nan"), lr_now=0.1)
    m.log(score=1.0)
    m.end_epoch()
    m.end_run()
    steps = load_results(tmp_path / "runs" / "mine", steps=True)
    assert list(steps.columns) == ["run", "epoch", "step", "grad_norm", "lr_now", "lr"]
    assert steps["step"].tolist() == [1, 2]
    assert steps["lr_now"].tolist()[1] == 0.1


def test_the_same_parameters_twice_are_two_runs(m: RunManager, tmp_path: Path) -> None:
    for score in (1.0, 2.0):
        m.begin_run(RUN)
        one_epoch(m, score=score)
        m.end_run()
    assert [(run.number, run.rows[0].metrics["score"]) for run in history(m, tmp_path).runs] == [(1, 1.0), (2, 2.0)]


def test_training_a_run_again_under_the_same_name_replaces_its_rows_and_keeps_the_old(tmp_path: Path) -> None:
    for score in (1.0, 2.0):
        m = RunManager("mine", root=tmp_path, tensorboard=False, quiet=True)
        m.begin_run(RUN)
        one_epoch(m, score=score)
        m.end_run()
    table = load_results(tmp_path / "runs" / "mine")
    assert table["score"].tolist() == [2.0]
    (run_dir,) = find_sweep("mine", tmp_path).runs()
    assert sum(record["kind"] == "epoch" for record in run_dir.read_journal().records) == 2


def test_a_named_tuple_of_ones_own_is_a_run_unless_it_bears_a_columns_name(m: RunManager) -> None:
    m.begin_run(namedtuple("Mine", "lr depth")(0.1, 3))
    one_epoch(m)
    m.end_run()
    assert m.run_data[0]["depth"] == 3
    with pytest.raises(ParameterError, match="'epoch' is a column"):
        m.begin_run(namedtuple("Bad", "epoch")(1))
    with pytest.raises(ParameterError, match="is not a run"):
        m.begin_run({"lr": 0.1})


def test_durations_run_forward_and_the_run_contains_its_epochs(m: RunManager) -> None:
    m.begin_run(RUN)
    for _ in range(3):
        one_epoch(m)
    m.end_run()
    epochs = [row["epoch duration"] for row in m.run_data]
    totals = [row["run duration"] for row in m.run_data]
    assert all(seconds > 0 for seconds in epochs)
    assert totals == sorted(totals) and totals[-1] >= sum(epochs)


class Broken(Writer):
    def epoch(self, member, row):
        raise OSError("the disk of the pictures is full")


def test_a_writer_that_fails_is_one_warning_and_no_row_is_lost(tmp_path: Path) -> None:
    m = RunManager("mine", root=tmp_path, tensorboard=False, quiet=True, writers=[Broken()])
    m.begin_run(RUN)
    with pytest.warns(RuntimeWarning, match="Broken failed.*pictures is full") as warned:
        for _ in range(3):
            one_epoch(m)
    m.end_run()
    assert len(warned) == 1
    assert len(load_results(tmp_path / "runs" / "mine")) == 3


def test_a_folder_that_cannot_be_made_says_so_before_anything_is_trained(tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("a file stands where the folder should")
    m = RunManager("mine", root=tmp_path, tensorboard=False, quiet=True)
    with pytest.raises(StorageError, match="runs"):
        m.begin_run(RUN)


@pytest.mark.parametrize("name", ["../out", "a/b", ".hidden", "x" * 65, "naïve"])
def test_a_name_that_is_no_folders_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match="sweep name"):
        RunManager(name, root=tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("loss", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("how", ["tracked", "logged"])
def test_a_run_whose_last_loss_is_not_finite_diverged(m: RunManager, tmp_path: Path, loss: float, how: str) -> None:
    m.begin_run(RUN)
    one_epoch(m, loss=0.5)
    m.begin_epoch()
    if how == "tracked":
        m.track_loss(torch.tensor(loss), [0])
    else:
        m.log(loss=loss)
    m.end_epoch()
    m.end_run()
    (run,) = history(m, tmp_path).runs
    assert run.status == "diverged"
    assert "epoch 2" in run.error and str(loss) in run.error
    assert load_results(tmp_path / "runs" / "mine", runs=True)["status"].tolist() == ["diverged"]


def test_a_loss_that_came_back_to_a_number_did_not_diverge(m: RunManager, tmp_path: Path) -> None:
    with m.tracking(RUN):
        one_epoch(m, loss=float("nan"))
        one_epoch(m, loss=0.5)
    with m.tracking(OTHER):
        one_epoch(m, score=float("nan"))
    assert [run.status for run in history(m, tmp_path).runs] == ["completed", "completed"]


def test_memory_that_ran_out_is_told_from_other_failures(m: RunManager, tmp_path: Path) -> None:
    for run, error in ((RUN, MemoryError()), (OTHER, torch.cuda.OutOfMemoryError("CUDA out of memory."))):
        with pytest.raises(type(error)), m.tracking(run):
            raise error
    assert [run.status for run in history(m, tmp_path).runs] == ["out of memory", "out of memory"]
    assert history(m, tmp_path).runs[1].error == "OutOfMemoryError: CUDA out of memory."


@pytest.mark.parametrize("status", ["diverged", "interrupted", "timed out"])
def test_a_run_that_is_told_to_stop_leaves_its_loop_with_its_row_and_state_saved(tmp_path: Path, status: str) -> None:
    asked = []

    def stop_when(row):
        asked.append(row.epoch)
        return RunStopped(status, "enough") if row.epoch == 2 else None

    m = RunManager("mine", root=tmp_path, tensorboard=False, quiet=True, stop_when=stop_when, checkpoint_every=5)
    with pytest.raises(RunStopped, match="enough"), m.tracking(RUN):
        while True:
            try:
                m.begin_epoch()
                m.log(score=1.0)
                m.end_epoch(checkpoint={"epoch": m.num_epochs + 1})
            except Exception:  # noqa: BLE001 (a loop that catches its own errors does not go on)
                pytest.fail("a stop is no error")
    with m.tracking(OTHER):
        one_epoch(m)
    m.close()
    first, second = history(m, tmp_path).runs
    assert (first.status, first.error, len(first.rows)) == (status, "enough", 2)
    assert [record["epoch"] for record in first.checkpoints] == [2]
    assert (second.status, asked) == ("completed", [1, 2, 1])


def test_a_stop_that_reaches_the_top_of_a_script_is_its_runs_status(tmp_path: Path) -> None:
    script = SCRIPT.format(end="").replace(
        "quiet=True)", "quiet=True, stop_when=lambda row: RunStopped('timed out', 'an hour is over'))"
    )
    script = "from runmanager.tracking.errors import RunStopped\n" + script
    (tmp_path / "runs").mkdir()
    subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, check=False)
    (run,) = read_sweep(find_sweep("mine", tmp_path)).runs
    assert (run.status, run.error, len(run.rows)) == ("timed out", "an hour is over", 1)


def test_a_manager_without_tables_writes_none_and_its_journals_all(tmp_path: Path) -> None:
    m = RunManager("mine", root=tmp_path, tensorboard=False, quiet=True, tables=False)
    with m.tracking(RUN):
        one_epoch(m)
    m.close()
    assert list((tmp_path / "results").iterdir()) == []
    assert load_results(tmp_path / "runs" / "mine")["score"].tolist() == [1.0]


def test_num_epochs_counts_what_is_done(m: RunManager) -> None:
    m.begin_run(RUN)
    counts = [m.num_epochs]
    for _ in range(2):
        m.begin_epoch()
        counts.append(m.num_epochs)
        m.log(score=1.0)
        m.end_epoch()
        counts.append(m.num_epochs)
    assert counts == [0, 0, 1, 1, 2]


def test_a_row_and_its_state_are_one_write(m: RunManager, monkeypatch: pytest.MonkeyPatch) -> None:
    from runmanager.tracking.files import SyncedFile

    written = []
    append = SyncedFile.append
    monkeypatch.setattr(SyncedFile, "append", lambda file, data: written.append(data) or append(file, data))
    m.begin_run(RUN)
    m.begin_epoch()
    m.log(score=1.0)
    written.clear()
    m.end_epoch(checkpoint={"x": 1})
    (data,) = written
    assert [json.loads(line)["kind"] for line in data.splitlines()] == ["epoch", "checkpoint"]


def test_the_number_and_seed_of_a_run_are_recorded(m: RunManager, tmp_path: Path) -> None:
    with m.tracking(RUN, number=7, seed=123):
        one_epoch(m)
    with m.tracking(OTHER):
        one_epoch(m)
    seven, eight = find_sweep("mine", tmp_path).runs()
    assert (seven.number, seven.read_run()["seed"], seven.read_run()["replicate"]) == (7, 123, 1)
    assert eight.number == 8
    begun = seven.read_journal().records[0]  # which says the same
    assert (begun["run"]["seed"], begun["run"]["number"], begun["attempt"]) == (123, 7, 1)


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(3)])
def test_a_run_that_is_left_by_ctrl_c_or_exit_is_interrupted(m: RunManager, tmp_path: Path, error) -> None:
    with pytest.raises(type(error)), m.tracking(RUN):
        one_epoch(m)
        raise error
    assert history(m, tmp_path).runs[0].status == "interrupted"
