"""`launch` trains what is missing, skips what is complete, and loses nothing."""

import json
import random
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from runmanager import RunManager, load_results
from runmanager.launching.sweep import SweepError
from runmanager.parameters import ParameterError

FAILS_ONCE = """\
from pathlib import Path
for epoch in range(2):
    m.begin_epoch()
    m.log(val_loss=run.lr)
    m.end_epoch()
    if epoch == 0 and run.lr == 0.1 and not Path("mended").exists():
        raise RuntimeError("the disk is on fire")
"""


@pytest.fixture
def project(project):
    """Runs are trained one by one unless told otherwise, for trying groups takes longer than the training."""
    project.options["fuse"] = "off"
    return project


def statuses(history):
    return [run.status for run in history.runs]


def attempts(history):
    return [run.attempts for run in history.runs]


def test_a_sweep_trains_every_run_and_leaves_tables(project):
    project.sweep()
    history = project.launch(fuse="auto")
    assert statuses(history) == ["completed"] * 4
    assert [run.number for run in history.runs] == [1, 2, 3, 4]
    frame = load_results("tiny")
    first = ["run", "epoch", "loss", "accuracy", "epoch duration", "run duration", "group size"]
    assert list(frame.columns) == [*first, "val_loss", "val_accuracy", "lr", "batch_size"]
    assert len(frame) == 8
    assert frame["lr"].tolist() == [0.1] * 4 + [0.01] * 4


def test_a_second_launch_trains_nothing(project):
    project.sweep()
    project.launch()
    before = {name: data for name, data in project.files().items() if "journal" in name or name.endswith("csv")}
    history = project.launch()
    assert attempts(history) == [1] * 4
    assert {name: project.files()[name] for name in before} == before


def test_the_same_run_gives_the_same_losses_alone_last_and_after_another(project):
    network = "lambda: nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.3), nn.Linear(8, 2))"
    project.sweep(network=network)
    project.sweep(network=network, name="alone")
    project.sweep(network=network, name="other_order", params="lr=[0.01, 0.1], batch_size=[20, 10]")
    project.launch()
    project.launch("alone", only=["4"])
    project.launch("alone", only=["2"])
    project.launch("other_order")
    losses, alone, other = (project.losses(name) for name in ("tiny", "alone", "other_order"))
    assert alone == {2: losses[2], 4: losses[4]}
    assert other == {1: losses[4], 2: losses[3], 3: losses[2], 4: losses[1]}
    assert len({tuple(values) for values in losses.values()}) == 4


def test_tensorboard_and_what_is_shown_change_no_loss(project, capsys):
    project.sweep()
    project.sweep(name="shown")
    project.launch()
    project.launch("shown", tensorboard=True, quiet=False)
    assert project.losses() == project.losses("shown")
    assert "tiny" not in capsys.readouterr().err


def test_random_numbers_outside_go_on_as_if_nothing_had_been(project):
    project.sweep(
        before="def data(run):\n    random.random(), np.random.rand()\n    return torch.rand(40, 4), targets[:40]",
        data="data",
    )
    states = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()
    project.launch()
    assert random.getstate() == states[2]
    assert np.random.get_state()[1].tolist() == states[1]
    assert torch.equal(torch.get_rng_state(), states[0])


def test_a_function_that_imports_numpy_late_is_seeded_all_the_same(project):
    body = "import numpy\nreturn {'draw': float(numpy.random.rand())}"
    for name in ("whole", "single"):
        project.by_function(body, name=name, params="{'k': [1, 2]}")
    code = "import sys; from runmanager import launch; launch(sys.argv[1], only=sys.argv[2:], tensorboard=False, quiet=True)"
    for name, *only in (("whole",), ("single", "2"), ("single", "1")):
        command = [sys.executable, "-c", code, name, *only]
        subprocess.run(command, cwd=project.root, env=project.environment(), check=True, timeout=60)
    draws = [
        load_results(name, runs=True).set_index("run")["draw"].sort_index().tolist() for name in ("whole", "single")
    ]
    assert draws[0] == draws[1]


def test_a_grid_that_grows_adds_only_the_new_runs_and_renumbers_nothing(project):
    project.sweep()
    project.launch()
    journals = {folder.name: (folder / "journal.jsonl").read_bytes() for folder in project.folders()}
    project.sweep(params="lr=[1.0, 0.1, 0.01], batch_size=[10, 20]")
    history = project.launch()
    assert statuses(history) == ["completed"] * 6
    assert [(run.number, run.params["lr"]) for run in history.runs[4:]] == [(5, 1.0), (6, 1.0)]
    assert {name: (project.root / "runs/tiny" / name / "journal.jsonl").read_bytes() for name in journals} == journals


def test_a_grid_that_shrinks_keeps_what_was_trained(project):
    project.sweep()
    project.launch()
    project.sweep(params="lr=[0.1], batch_size=[10]")
    assert len(project.launch().runs) == 4


def test_a_run_whose_folder_is_deleted_is_the_only_one_trained_again(project):
    project.sweep()
    losses = project.launch() and project.losses()
    name = project.folders()[1].name
    shutil.rmtree(project.folders()[1])
    history = project.launch()
    assert attempts(history) == [1] * 4
    assert project.folders()[1].name == name
    assert project.losses() == losses
    assert len(load_results("tiny")) == 8


def test_a_run_that_failed_does_not_stop_the_others_and_is_trained_again_when_asked(project):
    project.by_function(FAILS_ONCE)
    history = project.launch()
    assert statuses(history) == ["failed", "completed"]
    assert history.runs[0].error == "RuntimeError: the disk is on fire"
    assert "tiny.py" in history.runs[0].traceback
    assert len(history.runs[0].rows) == 1
    (project.root / "mended").touch()
    assert statuses(project.launch()) == ["failed", "completed"]
    history = project.launch(retry_failed=True)
    assert (statuses(history), attempts(history)) == (["completed"] * 2, [2, 1])
    frame = load_results("tiny")
    assert frame[["run", "epoch"]].sort_values(["run", "epoch"]).values.tolist() == [[1, 1], [1, 2], [2, 1], [2, 2]]
    assert load_results("tiny", runs=True)["error"].isna().all()


def test_a_run_whose_folder_cannot_be_made_is_not_passed_over_in_silence(project, capsys):
    project.sweep()
    project.launch()
    folder = project.folders()[1]
    shutil.rmtree(folder)
    folder.write_text("in the way")
    try:
        history = project.launch(quiet=False)
    except OSError as error:
        assert folder.name in str(error)
        return
    said = capsys.readouterr()
    assert folder.name in said.out + said.err
    assert "completed" not in [run.status for run in history.runs if run.number == 2]


def test_an_interrupted_run_is_trained_again(project):
    project.sweep()
    from runmanager.launching.load_sweep import load_sweep

    manager = RunManager("tiny", root=project.root, tensorboard=False, quiet=True)
    manager.begin_run(load_sweep(project.root / "sweeps/tiny.py").runs()[0])
    manager.close()
    history = project.launch()
    assert (statuses(history), attempts(history)) == (["completed"] * 4, [2, 1, 1, 1])


def test_a_fresh_start_leaves_a_run_to_the_process_that_trains_it(project):
    project.sweep()
    from runmanager.launching.load_sweep import load_sweep

    manager = RunManager("tiny", root=project.root, tensorboard=False, quiet=True)
    manager.begin_run(load_sweep(project.root / "sweeps/tiny.py").runs()[0])
    before = project.files()
    try:
        with pytest.raises(SweepError, match="run 1 is being trained by another process; stop that first"):
            project.launch(fresh=True)
        after = project.files()
        assert {name: after[name] for name in before} == before
        assert {Path(name).name for name in after.keys() - before} <= {"heartbeat"}  # of the run that goes on meanwhile
    finally:
        manager.close()


def test_fresh_starts_over_beside_the_old(project, capsys):
    project.sweep()
    project.launch()
    before = project.files()
    history = project.launch(fresh=True, quiet=False)
    assert "what was there is kept as tiny.1" in capsys.readouterr().out
    assert attempts(history) == [1] * 4
    files = project.files()
    for name, data in before.items():
        if name.startswith(("runs/tiny/", "results/")):
            assert files[name.replace("runs/tiny/", "runs/tiny.1/").replace("results/tiny", "results/tiny.1")] == data
    project.launch(fresh=True)
    assert len(load_results("tiny.1")) == len(load_results("tiny.2")) == len(load_results("tiny")) == 8


def test_fresh_writes_over_no_table_that_was_kept_without_its_runs(project):
    project.sweep()
    project.launch()
    (project.root / "results" / "tiny.1.csv").write_text("kept\n")
    project.launch(fresh=True)
    assert (project.root / "results" / "tiny.1.csv").read_text() == "kept\n"


def test_fresh_of_what_never_was_is_a_launch(project):
    project.sweep()
    assert statuses(project.launch(fresh=True)) == ["completed"] * 4


@pytest.mark.parametrize("fresh", [False, True])
def test_a_dry_run_says_what_would_be_done_and_writes_nothing(fresh, project, capsys):
    project.sweep()
    before = project.files()
    project.launch(dry_run=True, fresh=fresh, fuse="off")
    assert project.files() == before
    assert sorted(path.name for path in project.root.iterdir()) == ["sweeps"]
    project.launch(only=["2"])
    before = project.files()
    capsys.readouterr()
    project.launch(dry_run=True, fresh=fresh, fuse="off")
    assert project.files() == before
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 5
    assert ("skip (completed)" in lines[1]) is not fresh
    assert "Run(lr=0.1, batch_size=20)" in lines[1]
    assert lines[-1] == ("4 runs: 4 to train" if fresh else "4 runs: 3 to train, 1 completed")


def test_a_limit_trains_so_many_runs_and_the_next_launch_goes_on(project):
    project.sweep()
    assert len(project.launch(limit=1).runs) == 1
    assert len(project.launch(limit=2).runs) == 3
    history = project.launch()
    assert (statuses(history), attempts(history)) == (["completed"] * 4, [1] * 4)


def test_only_some_runs_are_trained_and_they_keep_their_numbers(project):
    project.sweep()
    assert [run.number for run in project.launch(only=["batch_size=20"]).runs] == [2, 4]
    assert [run.number for run in project.launch(only=["3"]).runs] == [2, 3, 4]


def test_other_values_are_trained_as_new_runs(project):
    project.sweep()
    project.launch()
    history = project.launch(params={"lr": [0.5]})
    assert [(run.number, run.params["lr"]) for run in history.runs[4:]] == [(5, 0.5), (6, 0.5)]


def test_other_epochs_are_trained_for_so_long(project):
    project.sweep()
    history = project.launch(epochs=1, limit=1)
    assert [len(run.rows) for run in history.runs] == [1]


@pytest.mark.usefixtures("no_process_is_left")
def test_faults_are_reported_together_before_any_folder_is_made(project):
    project.sweep(data="'fashion'", batch_size="0", params="lr=[0.1]", optimizer="lambda run, network: run.momentum")
    before = project.files()
    with pytest.raises(SweepError) as caught:
        project.launch()
    for part in ("data='fashion'", "batch_size=0", "run.momentum, but the grid has lr; add momentum=[0.9]"):
        assert part in str(caught.value)
    assert project.files() == before
    assert not (project.root / "runs").exists()
    assert not (project.root / "results").exists()


def test_a_parameter_that_nothing_uses_is_refused(project):
    project.sweep(params="lr=[0.1], batch_size=[10], width=[1, 2]")
    with pytest.raises(SweepError, match=r"width is in the grid, but nothing uses it; read run\.width"):
        project.launch()
    assert not (project.root / "runs").exists()


def test_a_parameter_that_a_function_never_read_is_a_note(project, capsys):
    project.by_function("m.log(value=run.lr)", params="{'lr': [0.1], 'width': [1, 2]}")
    assert statuses(project.launch(quiet=False)) == ["completed"] * 2
    assert "note: width is in the grid, but train() never read run.width" in capsys.readouterr().out


def test_the_test_data_is_never_read_by_a_sweep(project):
    project.sweep(
        before="class Untouchable(Dataset):\n"
        "    def __getitem__(self, index):\n        raise AssertionError('the test data was read')\n"
        "    def __len__(self):\n        raise AssertionError('the test data was counted')\n",
        data="((inputs, targets), (inputs[:10], targets[:10]), Untouchable())",
    )
    assert statuses(project.launch(tensorboard=True)) == ["completed"] * 4


def test_a_function_gets_a_run_that_has_begun_and_what_it_returns_is_logged(project):
    project.by_function(
        "m.begin_epoch()\nm.log(val_loss=run.lr)\nm.end_epoch()\nreturn {'score': run.lr * 2, 'steps': 7}",
        sweep="objective='score', mode='max'",
    )
    history = project.launch()
    assert [run.metrics for run in history.runs] == [{"score": 0.2, "steps": 7}, {"score": 0.02, "steps": 7}]
    assert history.best.number == 1
    assert load_results("tiny", runs=True)["score"].tolist() == [0.2, 0.02]
    assert load_results("tiny")["val_loss"].tolist() == [0.1, 0.01]


@pytest.mark.parametrize(("returned", "said"), [("3", "train returned a int; return a dict"), ("{'a': 'x'}", "a='x'")])
def test_what_cannot_be_logged_as_a_result_fails_the_run_and_says_so(returned, said, project):
    project.by_function(f"return {returned}", params="{'lr': [0.1]}")
    (run,) = project.launch().runs
    assert run.status == "failed"
    assert said in run.error


def test_a_result_is_not_lost_when_the_function_has_ended_the_run_itself(project):
    project.by_function("m.end_run()\nreturn {'score': 1.0}", params="{'lr': [0.1]}")
    (run,) = project.launch().runs
    assert run.metrics == {"score": 1.0} or (run.status == "failed" and run.error)


def test_a_function_that_begins_the_run_again_is_told_that_it_has_begun(project):
    project.by_function("m.begin_run(run)", params="{'lr': [0.1]}")
    (run,) = project.launch().runs
    assert run.status == "failed"
    assert "begun" in run.error


def test_a_function_shows_tensorboard_its_network_and_images(project):
    project.by_function(
        "import torch\n"
        "from torch.utils.data import DataLoader, TensorDataset\n"
        "network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 2))\n"
        "loader = DataLoader(TensorDataset(torch.rand(8, 1, 4, 4), torch.zeros(8).long()), batch_size=4)\n"
        "m.watch(network, loader)\n"
        "m.begin_epoch()\n"
        "for images, labels in loader:\n"
        "    loss = torch.nn.functional.cross_entropy(network(images), labels)\n"
        "    loss.backward()\n"
        "    m.track_loss(loss)\n"
        "m.end_epoch()",
        params="{'lr': [0.1]}",
    )
    assert statuses(project.launch(tensorboard=True)) == ["completed"]
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(project.folders()[0])).Reload()
    assert events.Tags()["images"]
    assert events.Tags()["graph"]
    assert {"1.weight", "1.weight.grad", "1.bias", "1.bias.grad"} <= set(events.Tags()["histograms"])
    assert "Loss" in events.Tags()["scalars"]


def test_the_plan_says_what_was_launched(project):
    project.sweep()
    project.launch(tensorboard=False)
    plan = json.loads((project.root / "runs/tiny/sweep.json").read_text())
    assert plan["grid"] == {"lr": [0.1, 0.01], "batch_size": [10, 20]}
    assert (plan["objective"], plan["mode"]) == ("val_accuracy", "max")
    assert list(plan["code"]) == ["sweeps/tiny.py"]
    assert (
        plan["versions"]["torch"] == torch.__version__.split("+")[0] or torch.__version__ == plan["versions"]["torch"]
    )


def test_a_loss_that_is_not_finite_is_recorded_and_never_best(project):
    body = "m.begin_epoch()\nm.log(val_loss=float(run.value), val_accuracy=float(run.value))\nm.end_epoch()"
    for objective in ("val_loss", "val_accuracy"):
        project.by_function(
            body, name=objective, params="{'value': ['nan', 'inf', '-inf', '0.5']}", sweep=f"objective={objective!r}"
        )
        history = project.launch(objective)
        assert history.best.number == 4
        assert statuses(history) == ["completed"] * 4
        assert str(load_results(objective)["val_loss"].tolist()) == "[nan, inf, -inf, 0.5]"


def test_a_wrong_value_from_the_caller_is_refused_before_anything_is_written(project):
    project.sweep()
    for options in ({"limit": 0}, {"only": ["9"]}, {"epochs": 0}, {"params": {"lr": 0.1}}, {"params": {"x": [1]}}):
        with pytest.raises((SweepError, ParameterError)):
            project.launch(**options)
    assert not (project.root / "runs").exists()
