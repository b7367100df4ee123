"""Runs that stop by patience: they are done, whatever befell them, and the others of their group go on."""

import os
import signal

import pandas as pd
import pytest

from runmanager import RunManager
from runmanager.tracking.tracked import Tracked
from tests.launching.launch_options import WAYS, each_way
from tests.processes import in_child

PATIENT = {
    "params": "lr=[0.0, 0.1], batch_size=[10]",
    "optimizer": "lambda run, network: torch.optim.SGD(network.parameters(), lr=run.lr)",
    "epochs": "5, patience=2",
    "sweep": "objective='val_loss'",
}
"""With a rate of 0 nothing gets better after the first epoch: that run stops after the third."""
FIXED = """
class Fixed(nn.Linear):
    def reset_parameters(self):
        self.weight.data.fill_(0.5), self.bias.data.fill_(0)
"""


@each_way
def test_a_run_without_progress_is_stopped_and_only_that_one(way, project, forked_workers):
    project.sweep(**PATIENT)
    history = project.launch(**WAYS[way])
    assert project.statuses() == {1: "stopped", 2: "completed"}
    assert [len(run.rows) for run in history.runs] == [3, 5]
    assert history.runs[0].error.startswith("val_loss has not been below ")
    assert history.runs[0].error.endswith("(epoch 1) for 2 epochs")
    sizes = [[row.group_size for row in run.rows] for run in history.runs]
    assert sizes == ([[2] * 3, [2] * 3 + [1] * 2] if "fused" in way else [[1] * 3, [1] * 5])
    names = [file.name for file in sorted((project.folders()[0] / "checkpoints").iterdir())]
    assert names == ["epoch-0001.pt", "epoch-0003.pt"]  # the best and the last
    before = project.files()
    assert project.launch(**WAYS[way]).trained == []
    assert project.losses() == {run.number: [row.loss for row in run.rows] for run in history.runs}
    assert {name for name in before if "checkpoints" in name} == {n for n in project.files() if "checkpoints" in n}


@pytest.mark.parametrize("way", ["here", "fused"])
def test_a_run_that_has_waited_long_enough_in_its_last_epoch_is_completed(way, project):
    project.sweep(**{**PATIENT, "epochs": "3, patience=2"})
    history = project.launch(**WAYS[way])
    assert project.statuses() == {1: "completed", 2: "completed"}
    assert [run.error for run in history.runs] == [None, None]
    assert project.launch(**WAYS[way]).trained == []


def test_it_is_shown_as_stopped_everywhere(project, command):
    project.sweep(**PATIENT)
    said = command("launch", "tiny", "--no-tensorboard", "--fuse", "off")
    assert said.status == 0
    assert "run 1 stopped after " in said.out
    status = command("status", "tiny").out
    header, counts, line, *_ = [line.split() for line in status.splitlines()]
    assert header[:4] == ["sweep", "runs", "completed", "stopped"]
    assert counts[1:4] == ["2", "1", "1"]
    assert line[:4] == ["tiny", "run", "1", "stopped"]
    assert "epoch 3/5 · val_loss has not been below" in status
    table = pd.read_csv(project.root / "results" / "tiny.runs.csv")
    assert table["status"].tolist() == ["stopped", "completed"]
    assert table["epochs trained"].tolist() == [3, 5]
    assert "skip (stopped)" in command("launch", "tiny", "--dry-run").out


@pytest.mark.parametrize("way", ["here", "fused"])
def test_a_run_that_is_killed_between_its_last_row_and_its_end_stops_at_the_same_epoch(way, project):
    project.sweep(**PATIENT)
    launch_and_be_killed(project, way)
    assert project.statuses()[1] == "interrupted"
    assert len(project.losses()[1]) == 3
    project.launch(**WAYS[way])
    assert project.statuses() == {1: "stopped", 2: "completed"}
    assert {number: len(losses) for number, losses in project.losses().items()} == {1: 3, 2: 5}
    assert project.history().runs[0].error.endswith("(epoch 1) for 2 epochs")


def launch_and_be_killed(project, way):
    """Launches in a process that is killed when a run that has stopped is about to be recorded as ended."""

    def launch_until_then():
        end = Tracked.end

        def end_or_die(tracked, how):
            if how.status == "stopped":
                os.kill(os.getpid(), signal.SIGKILL)
            return end(tracked, how)

        Tracked.end = end_or_die
        project.launch(**WAYS[way])

    assert in_child(launch_until_then) == -signal.SIGKILL


@pytest.mark.parametrize("way", ["here", "fused"])
def test_a_launch_that_is_stopped_in_that_very_epoch_changes_nothing(way, project, monkeypatch):
    project.sweep(**PATIENT)
    whole = project.launch(**WAYS[way]).runs[0].rows
    project.sweep(name="other", **PATIENT)
    begin_epoch = RunManager.begin_epoch
    asked = []

    def ask_to_stop(manager):
        begin_epoch(manager)
        if manager.num_epochs == 2 and not asked:
            asked.append(1)
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(RunManager, "begin_epoch", ask_to_stop)
    with pytest.raises(BaseException, match="SIGTERM"):
        project.launch("other", **WAYS[way])
    assert project.statuses("other")[1] == "interrupted"
    assert project.launch("other", **WAYS[way]).runs[0].status == "stopped"
    own = project.history("other").runs[0].rows
    assert [row.metrics for row in own] == [row.metrics for row in whole]


def test_the_best_run_keeps_its_states_although_it_was_stopped(project):
    project.sweep(
        **{**PATIENT, "sweep": "objective='val_loss', mode='max'"}, network="lambda: Fixed(4, 2)", before=FIXED
    )
    for _ in range(2):  # the second launch takes the states up that are there
        project.launch(fuse="off", keep=1)
        best = project.history().best
        assert (best.number, best.status) == (1, "stopped")
        states = [len(list(folder.glob("checkpoints/*.pt"))) for folder in project.folders()]
        assert states[0] > 0 and states[1] == 0


def test_a_run_without_progress_whose_loss_is_nan_has_diverged(project):
    spoiled = "lambda preds, targets: F.cross_entropy(preds, targets) * float('nan')"
    project.sweep(**PATIENT, loss=spoiled)
    project.launch(fuse="off")
    assert project.statuses() == {1: "diverged", 2: "diverged"}
    assert project.history().runs[0].error == (
        "the loss of epoch 2 is nan, and val_loss has not been a finite number for 2 epochs"
    )


def test_patience_goes_by_the_monitor_and_refuses_one_that_is_not_measured(project, command):
    project.sweep(**{**PATIENT, "epochs": "5, patience=2, monitor=('val_acuracy', 'max')"})
    said = command("launch", "tiny", "--no-tensorboard")
    assert said.status == 2
    assert "the patience goes by val_acuracy, which is not measured; monitor one of val_loss, val_accuracy" in said.err
    assert "did you mean 'val_accuracy'?" in said.err
    assert not (project.root / "runs").exists()
    project.sweep(**{**PATIENT, "epochs": "5, patience=2, monitor='average val_loss', average='swa'"})
    said = command("launch", "tiny", "--no-tensorboard")
    assert said.status == 2
    assert "the patience goes by average val_loss from epoch 1 on, but the average begins with epoch 4" in said.err


@pytest.mark.parametrize("patience", ["0", "'five'", "1.5", "True"])
def test_what_is_no_patience_is_refused_before_any_run(patience, project, command):
    project.sweep(**{**PATIENT, "epochs": f"5, patience={patience}"})
    said = command("launch", "tiny", "--no-tensorboard")
    assert said.status == 2
    assert f"patience={patience} is not a whole number of 1 or more" in said.err
    assert not (project.root / "runs").exists()
