"""A run of a sweep on several processes: rows, checkpoints and files are those of one process, and none is left."""

import math
import os
import signal
import threading
import time

import pytest
import torch

from runmanager.launching.description import Changes
from runmanager.launching.load_sweep import load_sweep
from runmanager.launching.rank import Ranks
from runmanager.launching.sweep import SweepError
from runmanager.launching.train_options import TrainOptions
from runmanager.tracking.errors import RunStopped
from runmanager.tracking.manager import RunManager
from runmanager.tracking.rows import INTERRUPTED
from runmanager.training.distributed import lead, meeting_of
from runmanager.training.seeding import run_seed
from runmanager.training.settings import TrainerError

pytestmark = pytest.mark.usefixtures("no_process_is_left", "forked_workers")
torch.set_num_threads(1)
# no bias before BatchNorm: its gradient is rounding alone, which Adam makes a step of
NORMED = "lambda: nn.Sequential(nn.Linear(4, 8, bias=False), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 2))"
DROPS = "lambda: nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.3), nn.Linear(8, 2))"
ADAM = "lambda run, network: torch.optim.Adam(network.parameters(), lr=run.lr)"
STEP_LR = "lambda run, optimizer: torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5)"
PARTS = {"optimizer": ADAM, "scheduler": STEP_LR, "epochs": "3"}


def train(project, name="tiny", *, devices=2, index=0, stop_after=None, sync=True, seconds=60.0):
    """Trains a run of a sweep of the project; returns its rows, without durations."""
    file = project.root / "sweeps" / f"{name}.py"
    sweep = load_sweep(file)
    run = sweep.runs()[index]
    seed = run_seed(sweep.seed, run._asdict())
    told = {"seed": seed, "split_seed": sweep.seed, "project": project.root}

    def stop_when(row):
        return RunStopped(INTERRUPTED, "as asked") if row.epoch == stop_after else None

    manager = RunManager(f"{name}-{devices}", root=project.root, tensorboard=False, quiet=True, stop_when=stop_when)
    try:
        with manager.tracking(run, number=index + 1, seed=seed):
            if devices == 1:
                sweep.trainer.train(run, manager, **told)
            else:
                start = Ranks(file, Changes(), TrainOptions()).of(run, seed)
                lead(sweep.trainer, run, manager, start, meeting_of(devices, sync, "cpu", seconds), **told)
    except RunStopped:
        pass
    finally:
        manager.close()
    return [
        {name: value for name, value in row.items() if not name.endswith("duration") and name != "run"}
        for row in manager.run_data
    ]


def test_a_run_on_two_processes_has_the_rows_of_one(project):
    project.sweep(network=NORMED, **PARTS)
    together, alone = train(project), train(project, devices=1)
    assert len(together) == len(alone) == 3
    for row, row_alone in zip(together, alone, strict=True):
        assert row.keys() == row_alone.keys()
        assert row["accuracy"] == row_alone["accuracy"]
        assert row == pytest.approx(row_alone, rel=1e-5)


def test_recipes_come_to_the_same_on_two_processes(project):
    recipes = {
        "scheduler": "lambda run, optimizer: torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=0)",
        "optimizer": "lambda run, network: torch.optim.SGD(network.parameters(), lr=5.0)",
        "monitor": "'val_loss'",
        "clip_norm": "0.5",
        "accumulate": "2",
        "l2": "0.001",
        "mixup": "0.3",
        "class_weights": "[0.3, 0.7]",
        "average": "'ema'",
    }
    project.sweep(**{**PARTS, **recipes, "epochs": "6"}, params="batch_size=[10]")
    together, alone = train(project), train(project, devices=1)
    assert together == [pytest.approx(row, rel=1e-4) for row in alone]
    assert len({row["learning rate"] for row in together}) > 1, "the plateau was met"


def test_a_run_that_goes_on_reaches_the_same_bits(project):
    project.sweep(network=DROPS, **PARTS)
    whole = train(project, sync=False, devices=3)
    project.sweep(name="cut", network=DROPS, **PARTS)
    first = train(project, "cut", sync=False, devices=3, stop_after=1)
    rest = train(project, "cut", sync=False, devices=3)
    assert len(first) == 1
    assert rest[-2:] == whole[-2:]
    assert first == whole[:1]


def test_what_a_run_has_started_from_may_be_gone_when_it_goes_on(project):
    torch.save(torch.nn.Linear(4, 2).state_dict(), project.root / "first.pt")
    parts = {**PARTS, "start_from": f"{str(project.root / 'first.pt')!r}"}
    project.sweep(**parts)
    first = train(project, stop_after=1)
    alone = train(project, devices=1)
    assert first == [pytest.approx(row, rel=1e-5) for row in alone[:1]]
    (project.root / "first.pt").unlink()
    rest = train(project)
    assert rest[-2:] == [pytest.approx(row, rel=1e-5) for row in alone[1:]]


def test_a_data_set_that_a_loader_reads_is_cut_the_same(project):
    dataset = """
class Pairs(Dataset):
    def __len__(self):
        return 60

    def __getitem__(self, index):
        return inputs[index] + random.random() * 0, targets[index]
"""
    project.sweep(before=dataset, data="Pairs()", **PARTS)
    together, alone = train(project), train(project, devices=1)
    assert together == [pytest.approx(row, rel=1e-5) for row in alone]


def test_a_sweep_whose_data_is_another_in_each_process_is_refused(project):
    project.sweep(before="targets = torch.from_numpy(np.random.default_rng().integers(2, size=60))", **PARTS)
    with pytest.raises(TrainerError, match=r"rank 1.* as the (first loss of the epoch|sum of all weights), and rank 0"):
        train(project)


SLOW = """
import os
import time
from pathlib import Path

def slow(preds, labels):
    rank = Path(f"rank{torch.distributed.get_rank()}")
    rank.exists() or rank.write_text(str(os.getpid()))
    time.sleep(0.05)
    return F.cross_entropy(preds, labels)
"""


def test_a_rank_that_is_killed_fails_the_run_and_says_so(project):
    project.sweep(before=SLOW, loss="slow", **{**PARTS, "epochs": "100"})
    killed = []

    def kill():
        project.wait_for(lambda: list(project.root.glob("runs/tiny-2/*/journal.jsonl")) and '"epoch"' in journal())
        os.kill(int((project.root / "rank1").read_text()), signal.SIGKILL)
        killed.append(time.monotonic())

    def journal():
        return next(project.root.glob("runs/tiny-2/*/journal.jsonl")).read_text()

    killer = threading.Thread(target=kill)
    killer.start()
    with pytest.raises(TrainerError, match=r"rank 1 of 2 is lost: the worker process was killed by SIGKILL"):
        train(project)
    killer.join()
    assert time.monotonic() - killed[0] < 50  # and not after the minute that they wait for each other
    assert project.statuses("tiny-2") == {1: "failed"}


def test_a_rank_that_cannot_load_the_sweep_fails_the_run_with_its_error(project):
    before = "import os\n\nif 'RUNMANAGER_WORKERS' in os.environ:\n    raise OSError('no data here')\n"
    project.sweep(before=before, **PARTS)
    with pytest.raises(TrainerError, match=r"rank 1 of 2 failed: SweepError(.|\n)*no data here"):
        train(project)


def test_a_run_that_fails_takes_its_ranks_along(project):
    bad = "lambda preds, labels: F.cross_entropy(preds, labels) if len(labels) == 10 else 1 / 0"
    project.sweep(loss=bad, **PARTS)
    with pytest.raises(ZeroDivisionError):
        train(project, index=0)
    assert project.statuses("tiny-2") == {1: "failed"}


def test_a_sweep_without_a_file_is_refused(project):
    run = load_sweep(project.sweep(**PARTS)).runs()[0]
    with (
        pytest.raises(SweepError, match=r"devices=2: .* it has none; write it in sweeps/"),
        Ranks(None, Changes(), TrainOptions()).of(run, 0)(meeting_of(2, False, "cpu")),
    ):
        pass


def test_the_grid_is_as_this_launch_has_changed_it(project):
    file = project.sweep(**PARTS)
    changes = Changes(texts=["lr=0.5"])
    sweep = changes.apply(load_sweep(file))
    run = sweep.runs()[0]
    manager = RunManager("changed", root=project.root, tensorboard=False, quiet=True)
    with manager.tracking(run, seed=3):
        start = Ranks(file, changes, TrainOptions()).of(run, 3)
        lead(
            sweep.trainer,
            run,
            manager,
            start,
            meeting_of(2, False, "cpu", 60),
            seed=3,
            split_seed=0,
            project=file.parent,
        )
    manager.close()
    assert manager.run_data[-1]["lr"] == 0.5
    assert all(math.isfinite(row["loss"]) for row in manager.run_data)


def test_half_precision_stays_near_on_two_processes(project):
    project.sweep(**PARTS, amp="'bf16'", network=NORMED)
    together, alone = train(project), train(project, devices=1)
    assert [row["loss"] for row in together] == pytest.approx([row["loss"] for row in alone], rel=0.05)
