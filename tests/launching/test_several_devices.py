"""Sweeps whose runs are trained on several devices, launched: here two processes of the CPU each, which talk by gloo."""

import json
import os
import signal
from pathlib import Path

import pandas as pd
import pytest
import torch

from runmanager import RunManager, Sweep, Trainer, launch
from runmanager.launching.description import describe
from runmanager.launching.load_sweep import load_sweep
from runmanager.launching.sweep import SweepError
from runmanager.training.settings import TrainerError

pytestmark = pytest.mark.usefixtures("no_process_is_left", "one_thread")
ONE_AND_TWO = "devices=[1, 2], lr=[0.1], batch_size=[20]"
TWO = "devices=[2], lr=[0.1], batch_size=[20]"
BEFORE = """
import time
from pathlib import Path

def network():
    torch.manual_seed(0)  # the same first weights in both runs, whose seeds differ
    return nn.Sequential(nn.Linear(4, 8, bias=False), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, 2))

def slow(preds, labels):
    if not Path("mended").exists():
        time.sleep(0.1)
    return F.cross_entropy(preds, labels)
"""
SAME = {"before": BEFORE, "network": "network", "shuffle": "False", "sync_batchnorm": "True", "epochs": "3"}
SLOW = {**SAME, "params": TWO, "loss": "slow", "epochs": "12"}
IN_BOTH_WAYS = pytest.mark.parametrize("workers", [0, pytest.param(1, marks=pytest.mark.long)])
LOST = "rank 1 of 2 is lost: the worker process was killed by SIGKILL"


def table(project, name="tiny"):
    """The rows, without what time decides."""
    return pd.read_csv(project.root / "results" / f"{name}.csv").drop(columns=["epoch duration", "run duration"])


def rows_of(project, run):
    """The rows of a run, without what differs between runs."""
    whole = table(project)
    return whole[whole["run"] == run].drop(columns=["run", "devices"]).reset_index(drop=True)


def assert_alike(project, tolerance=1e-5):
    """The run on one process, which is the first, and that on two."""
    one, two = rows_of(project, 1), rows_of(project, 2)
    assert len(one) > 0
    pd.testing.assert_frame_equal(one, two, rtol=tolerance, atol=0)


def state_of(project, run):
    """What a run has saved last."""
    last = sorted((project.folders()[run - 1] / "checkpoints").glob("epoch-*.pt"))[-1]
    return torch.load(last, weights_only=True)["state"]


def events_of(trace):
    return json.loads(trace.read_text())["traceEvents"]


def command_of(pid):
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:  # gone meanwhile
        return b""


def rank_of(project):
    """The process that trains beside the one which has the run."""
    workers = [pid for pid in project.alive() if b"launching.worker" in command_of(pid)]
    parents = {pid: int(Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[1]) for pid in workers}
    return next(pid for pid in workers if parents[pid] in workers or len(workers) == 1)


def started(project, workers):
    start = project.started if workers else project.forked  # which spares an import of torch
    return start("launch", "tiny", "--no-tensorboard", "--workers", str(workers))


def wait_for_epoch(project, epoch=2):
    def is_there():
        return any(f'"epoch":{epoch}' in one.read_text() for one in project.root.glob("runs/tiny/*/journal.jsonl"))

    project.wait_for(is_there, 120)  # workers are started twice, and a rank after them


def nothing_is_left(project):
    project.wait_for(lambda: not project.alive())


def stop(project, workers, num_signals=1):
    """Launches, and presses Ctrl-C in an epoch; nothing is left but a run that is interrupted."""
    with started(project, workers) as process:
        wait_for_epoch(project)
        for _ in range(num_signals):
            process.send_signal(signal.SIGINT)
        said = project.said(process, 30)
    assert said.status == 130, said.out + said.err
    assert "Traceback" not in said.out + said.err
    nothing_is_left(project)
    assert project.statuses() == {1: "interrupted"}


def test_a_run_on_two_processes_has_the_rows_of_one_on_one(project, forked_workers):
    project.sweep(params=ONE_AND_TWO, **SAME)
    project.launch()
    assert_alike(project)
    assert project.statuses() == {1: "completed", 2: "completed"}


@pytest.mark.long
def test_a_run_that_was_stopped_in_a_worker_goes_on_to_the_rows_of_one_that_was_not(project):
    project.sweep(**SLOW)
    stop(project, "auto")
    (project.root / "mended").touch()
    project.launch()
    gone_on = table(project)
    assert gone_on["epoch"].tolist() == list(range(1, 13))
    project.launch(fresh=True)
    pd.testing.assert_frame_equal(gone_on, table(project), check_exact=True)


@pytest.mark.long
def test_in_a_worker_the_rows_are_those_here(project):
    project.sweep(params=ONE_AND_TWO, **SAME)
    project.launch()
    here = table(project)
    assert project.process("launch", "tiny", "--workers", "1", "--fresh").status == 0
    assert_alike(project)
    pd.testing.assert_frame_equal(here, table(project), check_exact=True)
    nothing_is_left(project)


@pytest.mark.slow
def test_ctrl_c_here_ends_the_epoch_and_the_same_command_goes_on(project, request):
    project.sweep(**SLOW)
    stop(project, 0)
    (project.root / "mended").touch()
    request.getfixturevalue("forked_workers")
    project.launch()
    assert project.statuses() == {1: "completed"}
    assert table(project)["epoch"].tolist() == list(range(1, 13))


@pytest.mark.long
@IN_BOTH_WAYS
def test_a_second_ctrl_c_stops_all_at_once(workers, project):
    project.sweep(**{**SLOW, "epochs": "200"})
    stop(project, workers, num_signals=2)


@pytest.mark.slow
@IN_BOTH_WAYS
def test_a_process_that_is_killed_fails_the_run_which_then_goes_on(workers, project, request):
    project.sweep(**SLOW)
    with started(project, workers) as process:
        wait_for_epoch(project)
        os.kill(rank_of(project), signal.SIGKILL)
        said = project.said(process, 60)
    assert said.status == 1, said.out + said.err
    assert LOST in said.out
    (run,) = project.history().runs
    assert (run.status, run.error) == ("failed", f"TrainerError: {LOST} in the middle of a call")
    nothing_is_left(project)
    (project.root / "mended").touch()
    request.getfixturevalue("forked_workers")
    project.launch(workers=workers, retry_failed=True)
    assert project.statuses() == {1: "completed"}
    assert table(project)["epoch"].tolist() == list(range(1, 13))


@pytest.mark.slow
@IN_BOTH_WAYS
def test_a_launch_that_is_killed_leaves_no_process(workers, project):
    project.sweep(**{**SLOW, "epochs": "200"})
    with started(project, workers) as process:
        wait_for_epoch(project)
        process.kill()
        process.wait(10)
        nothing_is_left(project)
    assert project.statuses() == {1: "interrupted"}


def test_weights_that_thaw_and_their_average_are_those_of_one_process(project, forked_workers):
    """Without validation: the averaged network's statistics are measured right after the steps."""
    recipes = {"average": "'swa'", "swa_start": "2", "freeze": "'0.*'", "unfreeze": "{2: '0.*'}", "profile": "2"}
    project.sweep(params=ONE_AND_TWO, sweep="", **SAME, **recipes, validation="0")
    project.launch()
    assert_alike(project)
    one, two = state_of(project, 1), state_of(project, 2)
    torch.testing.assert_close(two["network"], one["network"], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(two["average"]["averaged"], one["average"]["averaged"], rtol=1e-5, atol=1e-6)
    torch.manual_seed(0)
    assert not torch.equal(two["network"]["0.weight"], torch.nn.Linear(4, 8, bias=False).weight), "it has thawed"
    for folder in project.folders():
        assert {event.get("name") for event in events_of(folder / "profile.json")} >= {"step"}


def test_what_is_measured_and_shown_is_as_in_one_process(project, forked_workers):
    recipes = {
        "metrics": "['f1', 'confusion']",
        "show_predictions": "4",
        "average": "'ema'",
        "ema_decay": "0.9",
        "log_every": "1",
        "patience": "2",
        "deterministic": "True",
        "data": "(inputs.reshape(-1, 1, 2, 2), targets)",
        "network": "lambda: nn.Sequential(nn.Flatten(), network())",
    }
    project.sweep(params=ONE_AND_TWO, **{**SAME, **recipes})
    project.launch(tensorboard=True)
    assert_alike(project)
    confusions = [sorted((folder / "confusion").iterdir()) for folder in project.folders()]
    assert len(confusions[0]) == 3
    assert [path.read_text() for path in confusions[0]] == [path.read_text() for path in confusions[1]]


@pytest.mark.long
def test_a_compiled_network_comes_to_the_same_on_two_processes(project):
    project.sweep(params=ONE_AND_TWO, **SAME, compile="True")
    project.launch()
    assert project.statuses() == {1: "completed", 2: "completed"}
    assert_alike(project)


def test_data_parallel_on_the_cpu_is_one_device_and_says_so(project):
    project.sweep(params=ONE_AND_TWO, parallel="'dp'", **{**SAME, "sync_batchnorm": "False"})
    project.launch()
    pd.testing.assert_frame_equal(rows_of(project, 1), rows_of(project, 2), check_exact=True)
    assert "parallel='dp': cpu is one device" in (project.folders()[1] / "journal.jsonl").read_text()


def test_a_sweep_without_a_file_is_refused_before_a_folder_is_made(project):
    data = (torch.rand(20, 4), torch.arange(20) % 2)
    trainer = Trainer(
        torch.nn.Linear(4, 2), data, "SGD", "cross_entropy", epochs=1, batch_size=5, device="cpu", devices=2
    )
    sweep = Sweep({"lr": [0.1]}, trainer=trainer, name="made_in_a_notebook")
    sweep.file = None
    with pytest.raises(SweepError, match=r"devices=2: the other processes .* it has none; write it in sweeps/"):
        launch(sweep, quiet=True)
    assert not (project.root / "runs").exists()


@pytest.mark.parametrize(
    ("parts", "fault"),
    [
        ({"devices": "0"}, "devices=0 is not a whole number of 1 or more"),
        ({"devices": "2", "parallel": "'dddp'"}, "parallel='dddp' is not one of 'ddp', 'dp'; did you mean 'ddp'?"),
        ({"devices": "2", "parallel": "'dp'", "sync_batchnorm": "True"}, "sync_batchnorm=True is of parallel='ddp'"),
        ({"devices": "2", "parallel": "'dp'", "compile": "True"}, "compile and parallel='dp' cannot both be"),
        ({"devices": "99", "device": "'cuda'"}, "devices=99, but this process sees "),
    ],
)
def test_devices_that_cannot_be_had_are_refused_before_a_folder_is_made(parts, fault, project):
    project.sweep(**parts)
    with pytest.raises(SweepError) as caught:
        project.launch()
    assert fault in str(caught.value)
    assert not (project.root / "runs").exists()


def test_a_run_that_nobody_has_launched_is_refused_and_says_what_to_do(project):
    sweep = load_sweep(project.sweep(params=TWO))
    run = sweep.runs()[0]
    manager = RunManager("by_hand", root=project.root, tensorboard=False, quiet=True)
    with (
        pytest.raises(TrainerError, match=r"devices=2: .* call launch\(sweep\), or leave devices= out"),
        manager.tracking(run),
    ):
        sweep.trainer.train(run, manager, seed=0, split_seed=0, project=project.root)
    manager.close()


@pytest.mark.parametrize(
    ("params", "devices", "most"),
    [
        ("lr=[0.1]", None, 1),
        ("lr=[0.1], devices=[1, 4, 2]", None, 4),
        ("lr=[0.1]", "3", 3),
        ("lr=[0.1], k=[1, 2]", "lambda run: 2 * run.k", 4),
        ("lr=[0.1]", "lambda run: run.missing", 1),
    ],
)
def test_the_most_devices_of_a_run_are_known_before_workers_are_chosen(params, devices, most, project):
    description = describe(load_sweep(project.sweep(params=params, devices=devices)))
    assert description.devices_per_run == most
    assert type(description).from_json(description.to_json()).devices_per_run == most


def test_runs_on_several_devices_are_trained_one_by_one_and_a_line_says_so(command, project):
    project.sweep(params="devices=[2], lr=[0.1, 0.2], batch_size=[20]")
    said = command("launch", "tiny", "--dry-run")
    assert "2 runs are trained one by one: it is trained on several devices (devices)" in said.out


def test_a_plan_rehearses_in_one_process(command, project):
    project.sweep(params=TWO)
    said = command("plan", "tiny", "--workers", "0")
    assert said.status == 0, said.out + said.err
    assert "errors: none was found" in said.out
    assert "all was measured in one process, also what takes several when it is trained (devices)" in said.out
