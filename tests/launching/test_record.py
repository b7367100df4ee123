"""What is recorded of a sweep, and what a launch says when it is no longer so."""

import json
import subprocess

import pytest

from runmanager import Trainer
from runmanager.launching.record import _setting_changes
from runmanager.launching.sweep import SweepError

TRAIN = "m.begin_epoch()\nm.log(val_loss=run.lr * FACTOR)\nm.end_epoch()"
WAYS_OUT = "add --accept-changes to go on all the same, or --fresh to start over beside what is there"


def plan(project, name="tiny"):
    return json.loads((project.root / "runs" / name / "sweep.json").read_text())


def write(project, *, factor=1, lrs="[0.1, 0.01]", sweep=""):
    project.by_function(TRAIN, params=f"{{'lr': {lrs}}}", before=f"FACTOR = {factor}", sweep=sweep)


def refusal(project, **options):
    with pytest.raises(SweepError) as caught:
        project.launch(**options)
    return caught.value.faults


def test_changed_code_is_named_and_both_ways_out(project):
    write(project)
    project.launch(limit=1)
    before = {name: data for name, data in project.files().items() if not name.startswith("sweeps")}
    write(project, factor=2)
    assert refusal(project) == ["sweeps/tiny.py has changed", WAYS_OUT]
    assert {name: data for name, data in project.files().items() if not name.startswith("sweeps")} == before


def test_accepted_changes_are_said_trained_and_recorded(project, capsys):
    write(project)
    project.launch(limit=1)
    write(project, factor=2)
    project.launch(accept_changes=True, quiet=False)
    assert "accepted: sweeps/tiny.py has changed" in capsys.readouterr().out
    assert [run.last["val_loss"] for run in project.history().runs] == [0.1, 0.02]
    (accepted,) = plan(project)["accepted"]
    assert accepted["changes"] == ["sweeps/tiny.py has changed"]
    write(project, factor=2, lrs="[0.1, 0.01, 0.5]")
    assert project.launch().trained == [3]  # what was accepted is not asked for again
    assert len(plan(project)["accepted"]) == 1


def test_changes_may_be_accepted_where_there_are_none(project):
    write(project)
    project.launch(accept_changes=True)
    assert plan(project)["accepted"] == []


def test_a_fresh_start_needs_no_leave(project):
    write(project)
    project.launch()
    write(project, factor=2)
    project.launch(fresh=True)
    assert [run.last["val_loss"] for run in project.history().runs] == [0.2, 0.02]
    assert [run.last["val_loss"] for run in project.history("tiny.1").runs] == [0.1, 0.01]


@pytest.mark.parametrize(
    "change",
    [
        {"lrs": "[0.5, 0.1]"},
        {"lrs": "[0.1, 0.01, 0.001]"},
        {"sweep": "objective='val_loss'"},
        {"sweep": "objective='val_loss', mode='max'"},
    ],
)
def test_another_grid_or_objective_is_no_change(change, project):
    write(project)
    project.launch(limit=1)
    write(project, **change)
    project.launch()
    assert set(project.statuses().values()) == {"completed"}


def test_a_comment_is_no_change(project):
    write(project)
    project.launch(limit=1)
    path = project.root / "sweeps" / "tiny.py"
    path.write_text("# a thought\n" + path.read_text().replace("FACTOR = 1", "FACTOR  =  1"))
    assert project.launch().trained == [2]


def test_what_the_sweep_imports_counts_too(project):
    (project.root / "parts_to_record.py").write_text("FACTOR = 1\n")
    project.by_function(TRAIN, before="from parts_to_record import FACTOR")
    project.launch(limit=1)
    assert sorted(plan(project)["code"]) == ["parts_to_record.py", "sweeps/tiny.py"]
    (project.root / "parts_to_record.py").write_text("FACTOR = 2\n")
    assert refusal(project)[0] == "parts_to_record.py has changed"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"epochs": "3"}, "epochs is 3 now, and was 2"),
        ({"sweep": "objective='val_accuracy', seed=1"}, "seed is 1 now, and was 0"),
        ({"validation": "0.3"}, "validation is 0.3 now, and was 0.1"),
        ({"shuffle": "False"}, "shuffle is False now, and was True"),
    ],
)
def test_another_setting_is_named_with_what_it_was(change, said, project):
    project.sweep(params="lr=[0.1, 0.01]", batch_size="10")
    project.launch(limit=1)
    project.sweep(**{"params": "lr=[0.1, 0.01]", "batch_size": "10", **change})
    assert said in refusal(project)
    project.launch(accept_changes=True)
    assert set(project.statuses().values()) == {"completed"}


@pytest.mark.parametrize(
    ("before", "now", "said"),
    [
        ({"metrics": ["f1"]}, {"metrics": ["kappa"]}, "metrics is ['kappa'] now, and was ['f1']"),
        ({"unfreeze": {2: "0.*"}}, {"unfreeze": {3: "0.*"}}, "unfreeze is {'3': '0.*'} now, and was {'2': '0.*'}"),
        ({"scheduler": "cosine"}, {"scheduler": "linear"}, "scheduler is 'linear' now, and was 'cosine'"),
        ({"monitor": "loss"}, {"monitor": ("loss", "min")}, "monitor is ['loss', 'min'] now, and was 'loss'"),
        (
            {"init": {"bias": 0}},
            {"init": lambda run: {"bias": 0}},
            "init is not given as a value now, and was {'bias': 0}",
        ),
    ],
)
def test_a_recipe_is_named_with_what_it_was_where_no_file_tells(before, now, said):
    first, second = (Trainer(**one).plain_settings() for one in (before, now))
    assert _setting_changes(json.loads(json.dumps(first)), second) == [said]


def test_other_epochs_from_the_command_line_are_a_change_like_any(project, command):
    project.sweep(params="lr=[0.1, 0.01]", batch_size="10")
    command("launch", "tiny", "--limit", "1", "--no-tensorboard", "-q")
    said = command("launch", "tiny", "--epochs", "3", "--no-tensorboard", "-q")
    assert said.status == 2
    assert "epochs is 3 now, and was 2" in said.err
    assert WAYS_OUT in said.err


def test_other_data_are_a_change(project):
    parts = {"params": "lr=[0.1, 0.01]", "batch_size": "10", "data": "data"}
    code = (
        "from pathlib import Path\n"
        "def data():\n    return inputs + float(Path('shift').read_text()), targets[: len(inputs)]\n"
    )
    (project.root / "shift").write_text("0")
    project.sweep(before=code, **parts)
    project.launch(limit=1)
    project.launch(limit=1)  # the same data are no change
    (project.root / "shift").write_text("1")
    project.sweep(before=code, **{**parts, "params": "lr=[0.1, 0.01, 0.001]"})
    (fault, ways) = refusal(project)
    assert fault.startswith("the data has changed")
    assert ways == WAYS_OUT


def test_another_torch_is_a_change(project):
    write(project)
    project.launch(limit=1)
    path = project.root / "runs/tiny/sweep.json"
    about = plan(project)
    now = about["versions"]["torch"]
    path.write_text(json.dumps({**about, "versions": {**about["versions"], "torch": "1.0.0"}}))
    assert f"torch is {now} now, and was 1.0.0" in refusal(project)


def test_a_change_is_asked_about_beside_runs_that_are_not_looked_at(project):
    write(project)
    project.launch(only="1")
    write(project, factor=2)
    assert "sweeps/tiny.py has changed" in refusal(project, only="2")


def test_a_change_is_asked_about_beside_runs_that_are_no_longer_in_the_grid(project):
    write(project)
    project.launch()
    write(project, factor=2, lrs="[0.5]")
    assert "sweeps/tiny.py has changed" in refusal(project)


@pytest.mark.parametrize("options", [{}, {"only": "1"}, {"quiet": True}])
def test_a_launch_that_trains_nothing_makes_no_change_forgotten(options, project):
    """Else a grid that grows later would be trained with other code than the runs beside it, and nobody asked."""
    write(project)
    project.launch()
    write(project, factor=2)
    try:
        assert project.launch(**options).trained == []
    except SweepError:
        pass
    write(project, factor=2, lrs="[0.1, 0.01, 0.5]")
    assert "sweeps/tiny.py has changed" in refusal(project)


def test_a_dry_run_records_nothing(project):
    write(project)
    project.launch(limit=1)
    before = plan(project)
    write(project, factor=2)
    project.launch(dry_run=True)
    assert plan(project) == before


def test_a_changed_sweep_is_refused_with_workers_too(project, command):
    write(project)
    assert command("launch", "tiny", "--no-tensorboard", "--workers", "1", "--limit", "1").status == 0
    write(project, factor=2)
    said = command("launch", "tiny", "--no-tensorboard", "--workers", "2")
    assert said.status == 2
    assert said.err.splitlines() == [
        "SweepError: sweep 'tiny' cannot start:",
        "  - sweeps/tiny.py has changed",
        f"  - {WAYS_OUT}",
    ]
    said = command("launch", "tiny", "--no-tensorboard", "--workers", "2", "--accept-changes")
    assert said.status == 0
    assert "accepted: sweeps/tiny.py has changed" in said.out


def test_what_is_trained_here_goes_on_in_workers_without_a_question(project, command):
    write(project)
    project.launch(limit=1)
    said = command("launch", "tiny", "--no-tensorboard", "--workers", "1")
    assert said.status == 0, said.err
    assert set(project.statuses().values()) == {"completed"}


def git(project, *arguments):
    identity = ["-c", "user.name=a", "-c", "user.email=a@b.c", "-c", "commit.gpgsign=false"]
    command = ["git", "-C", str(project.root), *identity, *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def commit(project):
    (project.root / ".gitignore").write_text("/runs\n/results\n")
    git(project, "init", "-q", "-b", "main")
    git(project, "add", ".")
    git(project, "commit", "-qm", "first")
    return git(project, "rev-parse", "HEAD")


@pytest.mark.parametrize("workers", ["0", "1"])
def test_the_revision_is_recorded_and_whether_something_was_not_committed(workers, project, command):
    write(project)
    revision = commit(project)
    launch = ("launch", "tiny", "--no-tensorboard", "--workers", workers, "-q")
    assert command(*launch, "--limit", "1").status == 0
    assert plan(project)["git"] == {"revision": revision, "branch": "main", "dirty": False}
    write(project, lrs="[0.1, 0.01, 0.5]")
    assert command(*launch).status == 0
    assert plan(project)["git"] == {"revision": revision, "branch": "main", "dirty": True}


def test_without_git_there_is_none(project):
    write(project)
    project.launch()
    assert plan(project)["git"] == {}


def test_the_diff_is_kept_only_when_asked_and_without_secrets(project):
    write(project)
    commit(project)
    path = project.root / "sweeps" / "tiny.py"
    path.write_text(
        "API_KEY = 'sk-abcdefghijklmnopqrstuvwxyz123456'\n" + path.read_text().replace("FACTOR = 1", "FACTOR = 3")
    )
    kept = project.root / "runs/tiny/code.diff"
    project.launch(limit=1)
    assert not kept.exists()
    project.launch(save_diff=True)
    diff = kept.read_text()
    assert "+FACTOR = 3" in diff
    assert "abcdefghijklm" not in diff
    assert "<redacted>" in diff


@pytest.mark.parametrize("workers", ["0", "2"])
def test_python_the_libraries_and_the_devices_are_recorded_once_for_the_sweep(workers, project, command):
    write(project)
    said = command("launch", "tiny", "--no-tensorboard", "--workers", workers)
    assert said.status == 0, said.err
    about = plan(project)
    assert {"runmanager", "python", "torch", "numpy"} <= set(about["versions"])
    assert about["devices"]
    assert about["settings"] == {"seed": 0}


@pytest.mark.parametrize("damage", ["", "{", "[]", '{"settings": 3, "code": 4, "versions": 5, "numbers": 6}', "null"])
def test_a_damaged_record_stops_nobody(damage, project):
    write(project)
    project.launch(limit=1)
    (project.root / "runs/tiny/sweep.json").write_text(damage)
    try:
        project.launch()
    except SweepError as error:
        assert "sweep.json" in str(error)
        return
    assert project.statuses() == {1: "completed", 2: "completed"}
    assert [run.attempts for run in project.history().runs] == [1, 1]
