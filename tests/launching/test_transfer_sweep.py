"""Sweeps that start from what others have trained: their notes, their resumes, and what is refused."""

import json
import shutil

import numpy as np
import pytest

from runmanager import RunManager
from runmanager.launching.sweep import SweepError
from runmanager.tracking.run_dir import SweepDir

DEEP = "lambda: nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 2))"
STARTED = "batch_size=[10], lr=[0.1, 0.01], start_from=['base/best']"
ALONE = {"fuse": "off"}


@pytest.fixture
def based(project):
    """A project with a sweep that was trained, and one that starts from it."""
    project.sweep(name="base", network=DEEP)
    project.launch("base", **ALONE)
    project.sweep(name="tiny", network=DEEP, params=STARTED, epochs="3", freeze="'0.*'")
    return project


def stopped_before_epoch(number, monkeypatch):
    """Ctrl-C, whenever that epoch is to begin."""
    begin_epoch = RunManager.begin_epoch

    def begin_or_stop(manager):
        if manager.num_epochs == number - 1:
            raise KeyboardInterrupt
        begin_epoch(manager)

    monkeypatch.setattr(RunManager, "begin_epoch", begin_or_stop)


def launched_and_stopped(project, before_epoch, **options):
    with pytest.MonkeyPatch.context() as patch:
        stopped_before_epoch(before_epoch, patch)
        project.launch(**options)


def best_of(project, name):
    history = project.history(name)
    return f"{name}/{history.best.number}, epoch {history.best.best['val_accuracy'].epoch}"


@pytest.mark.parametrize("fuse", ["off", 2])
def test_what_a_run_started_from_and_what_is_frozen_is_told_once(fuse, based, command):
    based.launch(fuse=fuse)
    notes = [f"started from {best_of(based, 'base')}: 4 of 4 tensors", "frozen: 0.*"]
    assert [run.notes for run in based.history().runs] == [notes, notes]
    assert [run["notes"] for run in json.loads(command("results", "tiny", "--json").out)] == [notes, notes]
    said = command("results", "tiny").out.splitlines()
    assert said[-2:] == [f"all runs: {note}" for note in notes]


@pytest.mark.parametrize("fuse", ["off", 2])
def test_a_run_goes_on_though_what_it_started_from_is_gone(fuse, based):
    based.launch(fuse=fuse)
    expected, notes = based.losses(), [run.notes for run in based.history().runs]
    shutil.rmtree(based.root / "runs" / "tiny")
    for only in [(1, 2)] if fuse == 2 else [(1,), (2,)]:
        launched_and_stopped(based, before_epoch=3, fuse=fuse, only=only)
    shutil.rmtree(based.root / "runs" / "base")
    assert [len(run.rows) for run in based.history().runs] == [2, 2]
    with pytest.raises(SweepError, match="start_from: no sweep 'base'"):
        based.launch(fuse=fuse, params=["lr=0.5"])  # a new run
    based.launch(fuse=fuse)
    assert based.statuses() == {1: "completed", 2: "completed"}
    assert based.losses() == expected
    assert [run.notes for run in based.history().runs] == notes


def test_a_run_that_cannot_start_is_refused_before_a_folder_is_made(based):
    shutil.rmtree(based.root / "runs" / "base")
    (based.root / "runs" / "bases").mkdir()
    with pytest.raises(SweepError, match=r"start_from: no sweep 'base' .*there are: bases; did you mean 'bases'\?"):
        based.launch()
    assert not (based.root / "runs" / "tiny").exists()


@pytest.mark.parametrize("workers", [0, 1])
def test_runs_that_begin_anew_need_what_they_start_from_though_they_have_states(workers, based):
    based.launch(fuse="off")
    shutil.rmtree(based.root / "runs" / "base")
    before = based.files()
    with pytest.raises(SweepError, match="start_from: no sweep 'base'"):
        based.launch(fresh=True, workers=workers)
    assert based.files() == before


def test_features_and_exports_of_a_run_need_nothing_that_it_started_from(based, command):
    based.launch(**ALONE)
    assert command("features", "tiny", "1", "--layer", "0", "-o", "before.npz").status == 0
    shutil.rmtree(based.root / "runs" / "base")
    assert command("features", "tiny", "1", "--layer", "0", "-o", "after.npz").status == 0
    before, after = np.load(based.root / "before.npz"), np.load(based.root / "after.npz")
    assert np.array_equal(before["features"], after["features"])
    assert command("export-model", "tiny", "1").status == 0


def test_a_network_is_looked_at_as_it_starts_and_not_without_what_it_starts_from(based, command):
    assert "12 trainable, 25 frozen" in command("summary", "tiny").out
    shutil.rmtree(based.root / "runs" / "base")
    for looking in (("summary", "tiny"), ("lr-range", "tiny", "--steps", "10")):
        said = command(*looking)
        assert said.status == 2
        assert "start_from: no sweep 'base'" in said.err


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        ({"freeze": "'0'"}, "freeze: '0' fits no parameter of the network, which has 0.*, 2.*; '0' is a layer"),
        ({"freeze": "'*'"}, "all 4 parameters of the network are frozen, so there is nothing to train"),
        (
            {"freeze": "'*'", "unfreeze": "{2: '2.*'}"},
            "all 4 parameters of the network are frozen until epoch 2, so there is nothing to train",
        ),
        ({"freeze": "'0.*'", "unfreeze": "{2: '0.wight'}"}, "unfreeze at epoch 2: '0.wight' fits no parameter"),
        ({"freeze": "'0.*'", "unfreeze": "{1: '0.*'}"}, "unfreeze has epoch 1; give a whole number of 2 or more"),
        ({"freeze": "'0.*'", "unfreeze": "{'two': '0.*'}"}, "unfreeze has epoch 'two'; give a whole number"),
        (
            {"freeze": "'0.*'", "unfreeze": "{2: '0.bias', 3: '0.*', 9: '*'}"},
            "unfreeze has epoch 3 and 9, but the run ends with epoch 2, so that what is due then would stay frozen; leave it out, "
            "give an earlier epoch, or set epochs=9",
        ),
        (
            {"freeze": "'0.*'", "params": "lr=[0.1], batch_size=[10], unfreeze=[None, {'2': '0.*'}, {'3': '0.*'}]"},
            "unfreeze has epoch 3, but the run ends with epoch 2, so that",
        ),
        (
            {
                "freeze": "'0.*'",
                "params": "lr=[0.1], batch_size=[10], epochs=[3, 2]",
                "unfreeze": "{3: '0.*'}",
                "epochs": "None",
            },
            "unfreeze has epoch 3, but the run ends with epoch 2, so that",
        ),
        ({"head": "'clases'"}, "head='clases' is not a number of classes; give a whole number of 1 or more"),
        ({"network": "'resnet19'"}, "network='resnet19' is unknown; choose one of the"),
        ({"start_from": "'base/9'"}, "start_from: sweep 'base' has no run '9'; it has 'best' and 1, 2, 3, 4"),
        (
            {"start_from": "'base/1'", "network": "lambda: nn.Linear(4, 2)"},
            "start_from='base/1' does not fit the network: missing there: weight, bias; only there: 0.weight, 0.bias",
        ),
        ({"profile": "0"}, "profile=0 is not a whole number of 1 or more"),
    ],
)
def test_what_cannot_be_is_refused_before_epoch_one(parts, said, based):
    based.sweep(**{"network": DEEP, "params": "batch_size=[10], lr=[0.1]", **parts})
    with pytest.raises(SweepError) as refused:
        based.launch()
    assert said in str(refused.value)
    assert not (based.root / "runs" / "tiny").exists()


def test_the_first_steps_of_a_run_are_profiled_into_its_folder_and_none_of_a_resumed_one(project):
    project.sweep(params="lr=[0.1], batch_size=[20]", profile="4")  # an epoch has three steps
    launched_and_stopped(project, before_epoch=2, **ALONE)
    (folder,) = project.folders()
    trace = (folder / "profile.json").read_text()
    assert sum(event["name"] == "step" for event in json.loads(trace)["traceEvents"]) == 2  # as many as there were
    project.launch(**ALONE)
    assert project.statuses() == {1: "completed"}
    assert (folder / "profile.json").read_text() == trace
    project.launch(fresh=True, **ALONE)
    trace = json.loads((project.folders()[0] / "profile.json").read_text())
    assert sum(event["name"] == "step" for event in trace["traceEvents"]) == 4


def test_what_a_killed_profile_has_left_is_found(project):
    project.sweep(params="lr=[0.1], batch_size=[20]", profile="1")
    project.launch(**ALONE)
    (folder,) = project.folders()
    for name in (".profile.json.%s-999999-1.tmp", ".profile.json.%s-999999-1.tmp.tmp"):
        from runmanager.tracking.temporaries import _machine

        (folder / (name % _machine())).write_text("{")
    from runmanager.reporting.repair import repair_sweep

    said = [finding.text for finding in repair_sweep(SweepDir(project.root, "tiny"))]
    assert "repaired: dropped 2 files of processes that are gone" in said
    assert not list(folder.glob(".profile*"))
    assert (folder / "profile.json").is_file()
