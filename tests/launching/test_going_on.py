"""The same command again goes on: what is complete is skipped, what was stopped goes on where it was."""

import json
import shutil
import signal

import pytest

from tests.processes import in_child

BEFORE = "import os\nimport signal\nimport time\nfrom pathlib import Path"
TRAIN = """\
saved = m.load_checkpoint()
total = saved["total"] if saved else 0
for epoch in range(m.num_epochs, 5):
    m.begin_epoch()
    with open("epochs", "a") as file:
        file.write(f"{run.k} {epoch + 1}\\n")
    if run.k == 2 and epoch == 3 and not Path("mended").exists():
        ENDS
    total += run.k * (epoch + 1)
    m.log(total=total)
    m.end_epoch(checkpoint={"total": total})
"""
DIES = "os.kill(os.getpid(), signal.SIGKILL)"
PARAMS = "{'k': [1, 2, 3]}"


def write(project, ends=DIES, **options):
    project.by_function(TRAIN.replace("ENDS", ends), params=PARAMS, before=BEFORE, **options)


def launched(project, *options):
    return project.process("launch", "tiny", "--no-tensorboard", "--workers", "1", *options)


def launched_and_killed(project, name="tiny", **options):
    """Launches in a fork of this process, which has torch already, and kills itself."""
    assert in_child(lambda: project.launch(name, **options)) == -signal.SIGKILL


def begun(project, run):
    """The epochs of a run in the order in which they were begun."""
    lines = (project.root / "epochs").read_text().splitlines()
    return [int(line.split()[1]) for line in lines if line.split()[0] == str(run)]


def totals(project):
    return [[row.metrics["total"] for row in run.rows] for run in project.history().runs]


WHOLE = [[k * sum(range(1, epoch + 2)) for epoch in range(5)] for k in (1, 2, 3)]


def test_a_run_that_was_killed_goes_on_after_its_last_epoch(project, command):
    write(project)
    launched_and_killed(project)
    assert project.statuses() == {1: "completed", 2: "interrupted"}
    (project.root / "mended").touch()
    said = command("launch", "tiny", "--no-tensorboard")
    assert said.status == 0, said.err
    assert "tiny: 3 runs: 2 to train, 1 completed" in said.out
    assert totals(project) == WHOLE
    assert begun(project, 1) == [1, 2, 3, 4, 5]
    assert begun(project, 2) == [1, 2, 3, 4, 4, 5]
    assert [run.attempts for run in project.history().runs] == [1, 2, 1]


def test_the_dry_run_says_where_each_run_goes_on(project, command):
    write(project)
    launched_and_killed(project)
    lines = command("launch", "tiny", "--dry-run").out.splitlines()
    assert [" ".join(line.split("Run(")[0].split()) for line in lines] == [
        "1 skip (completed)",
        "2 go on after epoch 3 (interrupted)",
        "3 train",
        "3 runs: 2 to train, 1 completed",
    ]
    assert begun(project, 2) == [1, 2, 3, 4]


def test_a_run_whose_worker_was_killed_goes_on_when_it_is_tried_again(project):
    write(project)
    assert launched(project).status == 1
    assert project.statuses() == {1: "completed", 2: "killed", 3: "completed"}
    project.launch()
    assert begun(project, 2) == [1, 2, 3, 4]  # only when asked
    (project.root / "mended").touch()
    assert launched(project, "--retry-failed").status == 0
    assert totals(project) == WHOLE
    assert begun(project, 2) == [1, 2, 3, 4, 4, 5]


def test_the_tables_have_each_epoch_once(project):
    write(project)
    launched_and_killed(project)
    (project.root / "mended").touch()
    project.launch()
    rows = json.loads((project.root / "results/tiny.json").read_text())
    assert [(row["run"], row["epoch"]) for row in rows] == [(run, epoch) for run in (1, 2, 3) for epoch in range(1, 6)]
    assert [row["total"] for row in rows] == [total for run in WHOLE for total in run]
    assert len((project.root / "results/tiny.csv").read_text().splitlines()) == 16


@pytest.mark.parametrize(("every", "again"), [(1, [4, 5]), (2, [3, 4, 5]), (0, [1, 2, 3, 4, 5])])
def test_a_run_goes_on_from_where_its_state_was_last_saved(every, again, project):
    write(project)
    launched_and_killed(project, checkpoint_every=every)
    (project.root / "mended").touch()
    project.launch(checkpoint_every=every)
    assert begun(project, 2) == [1, 2, 3, 4, *again]
    assert totals(project) == WHOLE


def test_deleting_a_runs_folder_makes_exactly_that_run_due(project):
    (project.root / "mended").touch()
    write(project)
    project.launch()
    rows = totals(project)
    journals = {folder.name: (folder / "journal.jsonl").read_bytes() for folder in project.folders()}
    shutil.rmtree(project.folders()[1])
    assert project.launch(dry_run=True).runs[1].number == 3
    history = project.launch()
    assert history.trained == [2]
    assert [folder.name for folder in project.folders()] == list(journals)
    assert totals(project) == rows
    for number in (0, 2):
        folder = project.folders()[number]
        assert (folder / "journal.jsonl").read_bytes() == journals[folder.name]


def test_deleting_the_saved_states_of_a_complete_run_changes_nothing(project):
    (project.root / "mended").touch()
    write(project)
    project.launch()
    for folder in project.folders():
        shutil.rmtree(folder / "checkpoints")
    assert project.launch().trained == []


def test_a_run_whose_saved_states_are_gone_says_that_it_cannot_go_on(project):
    write(project, ends="raise ValueError('no')")
    project.launch()
    shutil.rmtree(project.folders()[1] / "checkpoints")
    (project.root / "mended").touch()
    history = project.launch(retry_failed=True)
    run = history.runs[1]
    assert run.status == "completed" or ("cannot be resumed" in run.error and "Delete its folder" in run.error)


def test_a_run_that_is_tried_again_at_once_goes_on_from_its_last_epoch(project):
    write(project, ends="Path('mended').touch()\n        raise ValueError('no')")
    history = project.launch(retries=1)
    assert [run.status for run in history.runs] == ["completed"] * 3
    assert begun(project, 2) == [1, 2, 3, 4, 4, 5]
    assert totals(project) == WHOLE


def test_a_function_that_loads_no_state_begins_anew(project):
    body = "\n".join(TRAIN.replace("ENDS", DIES).splitlines()[2:]).replace("m.num_epochs", "0")
    project.by_function(f"total = 0\n{body}", params=PARAMS, before=BEFORE)
    launched_and_killed(project)
    (project.root / "mended").touch()
    project.launch()
    assert begun(project, 2) == [1, 2, 3, 4, 1, 2, 3, 4, 5]
    assert totals(project) == WHOLE


def test_a_trainer_goes_on_from_the_command_line_to_the_last_bit(project):
    """With dropout, momentum and a schedule; killed in the middle of epoch 3 of the second run."""
    network = "lambda: nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.3), nn.Linear(8, 2))"
    optimizer = "lambda run, network: torch.optim.SGD(network.parameters(), lr=run.lr, momentum=0.9)"
    killing = (
        "import os, signal\nfrom pathlib import Path\nseen = []\n"
        "def loss(preds, targets):\n"
        "    seen.append(1)\n"
        "    if len(seen) == 40 and not Path('mended').exists():\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "    return F.cross_entropy(preds, targets)\n"
    )
    parts = {"network": network, "optimizer": optimizer, "epochs": "4", "params": "lr=[0.1, 0.01], batch_size=[10]"}
    project.sweep(name="whole", **parts)
    project.sweep(name="parts", before=killing, **{**parts, "loss": "loss"})
    project.launch("whole", fuse="off")
    launched_and_killed(project, "parts", fuse="off")
    assert "interrupted" in project.statuses("parts").values()
    (project.root / "mended").touch()
    project.launch("parts", fuse="off")
    assert sum(run.attempts for run in project.history("parts").runs) == 3
    assert project.losses("parts") == project.losses("whole")
