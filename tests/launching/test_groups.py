"""Runs that are trained together: what each leaves, and that what befalls one is no other's affair."""

import json

import pytest

from runmanager import load_results
from tests.launching.grouped import all_completed, attempts, ends, measured, mend, sizes, whole, write

pytestmark = pytest.mark.usefixtures("forked_workers")
NEIGHBOURS = (1, 3, 4)
IN_BOTH_WAYS = pytest.mark.parametrize(("workers", "fuse"), [(0, 4), (2, 2)], ids=["here", "in workers"])


CALM_SCHEDULE = "lambda run, optimizer: torch.optim.lr_scheduler.LambdaLR(optimizer, lambda epoch: 1.0)"


def neighbours_are_as_without_it(project, **parts):
    """To the last bit."""
    found, expected = measured(project), whole(project, **parts)
    assert [found[number] for number in NEIGHBOURS] == [expected[number] for number in NEIGHBOURS]


@IN_BOTH_WAYS
def test_each_run_leaves_what_it_leaves_alone(workers, fuse, project):
    write(project)
    write(project, name="alone")
    project.launch(fuse=fuse, workers=workers)
    project.launch("alone", fuse="off")
    assert all_completed(project)
    assert attempts(project) == [1] * 4
    assert sizes(project) == {number: [fuse] * 3 for number in (1, 2, 3, 4)}
    for number, losses in project.losses("alone").items():
        assert project.losses()[number] == pytest.approx(losses, rel=1e-5)
    frame, alone = load_results("tiny"), load_results("alone")
    assert list(frame.columns) == list(alone.columns)
    assert frame["group size"].tolist() == [fuse] * 12
    assert frame[["run", "epoch"]].equals(alone[["run", "epoch"]])
    names = [{path.name for path in folder.iterdir()} for folder in project.folders()]
    assert names == [{path.name for path in folder.iterdir()} for folder in project.folders("alone")]


def test_a_run_that_is_left_over_is_trained_in_the_same_way(project):
    write(project, params="lr=[0.1, 0.2, 0.3]")
    project.launch(fuse=2)
    assert sorted(sizes(project).values()) == [[1] * 3, [2] * 3, [2] * 3]
    assert all_completed(project)


@IN_BOTH_WAYS
def test_a_run_whose_loss_raises_fails_alone(workers, fuse, project):
    write(project, "raise ValueError('no more')")
    project.launch(fuse=fuse, workers=workers)
    assert project.statuses() == {1: "completed", 2: "failed", 3: "completed", 4: "completed"}
    run = project.history().runs[1]
    assert (run.error, len(run.rows)) == ("ValueError: no more", 1)
    assert "raise ValueError('no more')" in run.traceback
    assert attempts(project) == [1] * 4
    assert sizes(project)[1] == [fuse, fuse - 1, fuse - 1]
    if fuse == 4:
        neighbours_are_as_without_it(project)


def test_a_run_that_fails_in_validation_fails_alone(project):
    write(project, "raise ValueError('no more')", in_training=False)
    project.launch(fuse=4)
    assert project.statuses() == {1: "completed", 2: "failed", 3: "completed", 4: "completed"}
    neighbours_are_as_without_it(project)


SCHEDULE = """
class Rate:
    def __init__(self, lr):
        self.lr = lr


class Schedule(torch.optim.lr_scheduler.LambdaLR):
    def __init__(self, run, optimizer):
        self.lr_of_run = run.lr
        super().__init__(optimizer, lambda epoch: 1.0)

    def step(self, *args):
        if is_odd(Rate(self.lr_of_run)):
            raise ValueError("no more")
        super().step(*args)
"""


def test_a_run_whose_schedule_raises_fails_alone(project):
    write(project, more=SCHEDULE, scheduler="lambda run, optimizer: Schedule(run, optimizer)")
    project.launch(fuse=4)
    assert project.statuses() == {1: "completed", 2: "failed", 3: "completed", 4: "completed"}
    neighbours_are_as_without_it(project, scheduler=CALM_SCHEDULE)


@pytest.mark.parametrize("fuse", ["off", 4])
def test_a_run_that_wants_to_leave_the_program_ends_alone(fuse, project):
    write(project, "raise SystemExit(3)")
    project.launch(fuse=fuse)
    assert project.statuses() == {1: "completed", 2: "failed", 3: "completed", 4: "completed"}


WHERE = {
    "training": ("raise ValueError('no more')", {}),
    "validation": ("raise ValueError('no more')", {"in_training": False}),
    "schedule": ("pass", {"more": SCHEDULE, "scheduler": "lambda run, optimizer: Schedule(run, optimizer)"}),
}


@pytest.mark.parametrize("where", WHERE)
def test_a_group_of_which_all_fail_at_once_hinders_nobody(where, project):
    does, parts = WHERE[where]
    write(project, does, rates="(0.1, 0.2)", **parts)
    history = project.launch(fuse=2)
    assert project.statuses() == {1: "failed", 2: "failed", 3: "completed", 4: "completed"}
    assert history.unrecorded == []
    assert attempts(project) == [1] * 4


def test_a_failed_run_is_tried_again_as_often_as_was_asked(project):
    write(project, "raise ValueError('no more')")
    project.launch(fuse=4, retries=2)
    assert attempts(project) == [1, 3, 1, 1]
    assert ends(project, 2) == [("failed", "ValueError: no more")] * 3
    mend(project)
    project.launch(fuse=4, retry_failed=True)
    assert attempts(project) == [1, 4, 1, 1]
    assert all_completed(project)
    assert sizes(project)[2] == [4, 1, 1]


def test_failures_stop_the_sweep_as_was_asked(project):
    write(project, "raise ValueError('no more')")
    history = project.launch(fuse=2, on_error="stop")
    assert history.stopped == "1 run failed (--on-error)"
    assert project.statuses()[2] == "failed"
    assert "completed" not in {status for number, status in project.statuses().items() if number > 2}
    project.launch(fuse=2)
    assert list(project.statuses().values()).count("completed") == 3


def test_a_run_that_diverges_is_marked_so_alone(project):
    write(project, "return super().forward(preds * float('nan'), targets)")
    project.launch(fuse=4)
    assert project.statuses() == {1: "completed", 2: "diverged", 3: "completed", 4: "completed"}
    assert sizes(project) == {number: [4] * 3 for number in (1, 2, 3, 4)}
    neighbours_are_as_without_it(project)


def test_a_run_that_diverges_leaves_at_once_when_asked(project):
    write(project, "return super().forward(preds * float('nan'), targets)")
    project.launch(fuse=4, stop_diverged=True)
    assert project.statuses() == {1: "completed", 2: "diverged", 3: "completed", 4: "completed"}
    assert sizes(project) == {1: [4, 4, 3], 2: [4, 4], 3: [4, 4, 3], 4: [4, 4, 3]}
    assert project.history().runs[1].error == "the loss of epoch 2 is nan (--stop-diverged)"
    neighbours_are_as_without_it(project)


def test_runs_of_one_group_may_have_different_numbers_of_epochs(project):
    write(project, params="lr=[0.1], epochs=[1, 3, 2]", epochs=None)
    project.launch(fuse=3)
    assert all_completed(project)
    assert sizes(project) == {1: [3], 2: [3, 2, 1], 3: [3, 2]}


def test_only_and_limit_are_obeyed(project):
    write(project)
    assert project.launch(fuse=4, only="2-3").trained == [2, 3]
    assert sizes(project) == {2: [2] * 3, 3: [2] * 3}
    assert project.launch(fuse=4, limit=1).trained == [1]
    assert project.launch(fuse=4).trained == [4]
    assert all_completed(project)


def test_the_best_runs_keep_their_states(project):
    write(project, sweep="objective='val_loss', mode='min'")
    project.launch(fuse=4, keep=2)
    best = sorted(project.history().runs, key=lambda run: min(row.metrics["val_loss"] for row in run.rows))[:2]
    kept = {int(folder.name[:4]) for folder in project.folders() if (folder / "checkpoints").is_dir()}
    assert kept == {run.number for run in best}


@pytest.mark.parametrize(
    ("every", "saved"), [(0, set()), (2, {"epoch-0003.pt"}), pytest.param(1, {"epoch-0003.pt"}, marks=pytest.mark.long)]
)
def test_states_are_saved_as_often_as_asked_and_at_the_end(every, saved, project):
    write(project, sweep="")
    project.launch(fuse=4, checkpoint_every=every, keep="all")
    for folder in project.folders():
        found = {path.name for path in (folder / "checkpoints").glob("*.pt")}
        assert found == saved
    assert measured(project) == whole(project)


def choice(project, name="tiny"):
    return json.loads((project.root / "runs" / name / "sweep.json").read_text())["fusion"]


def test_what_was_found_is_said_recorded_and_kept_by_the_next_launch(project, capsys):
    write(project)
    project.launch(limit=2, quiet=False)
    ((key, found),) = choice(project).items()
    assert (
        f"2 runs are trained {'in groups of up to 2' if found['size'] > 1 else 'one by one'}: "
        in capsys.readouterr().out
    )
    record = json.loads((project.root / "runs/tiny/sweep.json").read_text())
    record["fusion"] = {key: {**found, "size": 3, "most": 8, "arithmetic": "vmap", "reason": "as it was"}}
    (project.root / "runs/tiny/sweep.json").write_text(json.dumps(record))
    project.launch(params={"lr": [0.1, 0.2, 0.3, 0.4, 0.5]}, quiet=False)
    assert "3 runs are trained in groups of up to 3: as it was" in capsys.readouterr().out
    assert [sizes(project)[number] for number in (3, 4, 5)] == [[3] * 3] * 3
    assert choice(project)[key]["reason"] == "as it was"


@pytest.mark.parametrize(
    "damaged", [{"size": 0}, *(pytest.param(one, marks=pytest.mark.long) for one in (7, None, [], {"key": None}))]
)
def test_a_damaged_record_of_the_choice_is_made_anew(damaged, project):
    write(project)
    project.launch(limit=2)
    record = json.loads((project.root / "runs/tiny/sweep.json").read_text())
    record["fusion"] = dict.fromkeys(record["fusion"], damaged)
    (project.root / "runs/tiny/sweep.json").write_text(json.dumps(record))
    project.launch()
    assert all_completed(project)


@pytest.mark.parametrize("fuse", ["0", "-3", "many", "2.5"])
def test_nonsense_is_refused_with_the_choices_and_nothing_is_written(fuse, project, command):
    write(project)
    said = command("launch", "tiny", f"--fuse={fuse}")
    assert said.status == 2
    assert f"fuse={fuse!r} is unknown; give auto, off, or how many runs are trained in one step, as in 8" in said.err
    assert not (project.root / "runs").exists()


def test_the_command_takes_a_number_and_off(project, command):
    write(project)
    assert command("launch", "tiny", "--no-tensorboard", "--fuse", "2", "--only", "1-2").status == 0
    assert command("launch", "tiny", "--no-tensorboard", "--fuse", "off").status == 0
    assert sizes(project) == {1: [2] * 3, 2: [2] * 3, 3: [1] * 3, 4: [1] * 3}


@pytest.mark.parametrize("fuse", ["auto", 4])
def test_a_hand_written_function_is_called_for_one_run_after_another(fuse, project, capsys):
    project.by_function("m.begin_epoch()\nm.log(loss=run.lr)\nm.end_epoch()", params="{'lr': [0.1, 0.2, 0.3]}")
    project.launch(fuse=fuse, quiet=False)
    assert sizes(project) == {1: [1], 2: [1], 3: [1]}
    assert "group" not in capsys.readouterr().out.replace("group size", "")


def test_random_data_is_trained_one_by_one_and_that_is_said(project, capsys):
    noisy = (
        "\nclass Noisy(Dataset):\n    def __len__(self):\n        return 60\n\n"
        "    def __getitem__(self, index):\n        return inputs[index] + 0.01 * torch.rand(4), targets[index]\n"
    )
    write(project, more=noisy, data="Noisy()")
    project.launch(fuse=4, quiet=False)
    assert "4 runs are trained one by one: a group needs data that stays on the device" in capsys.readouterr().out
    assert all_completed(project)
    assert sizes(project) == {number: [1] * 3 for number in (1, 2, 3, 4)}


def test_what_all_do_together_is_shared_in_the_durations(project):
    write(project)
    project.launch(fuse=4)
    runs = project.history().runs
    assert len({run.rows[1].epoch_seconds for run in runs}) == 1
    assert all(0 < run.overhead_seconds < run.run_seconds for run in runs)
