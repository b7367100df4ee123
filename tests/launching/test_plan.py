"""`runmanager plan`: what it tells of a sweep before anything is trained, against what a launch then does."""

import os
import re
import shutil
import signal
import tempfile

import pytest

UNITS = {"KiB": 2**10, "MiB": 2**20, "GiB": 2**30}
MLP = "lambda: nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 2))"
WITH_BATCH_NORM = "lambda: nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 2))"


@pytest.fixture
def temporaries(tmp_path, monkeypatch):
    """Where temporary folders are made."""
    folder = tmp_path / "temporaries"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


@pytest.fixture
def plan(command, temporaries):
    """`runmanager plan` in this process, with the runs in it too, unless told otherwise; it leaves no temporary folder."""

    def run(*arguments):
        where = [] if "--workers" in arguments else ["--workers", "0"]
        said = command("plan", *arguments, *where)
        assert not [path for path in temporaries.iterdir() if path.name.startswith("runmanager-plan-")]
        return said

    return run


def size(text):
    """The bytes of `12.3 MiB`."""
    number, unit = text.split()
    return float(number) * UNITS[unit]


def seconds(text):
    """The seconds of `12.3 s` or `1:08`."""
    if text.endswith(" s"):
        return float(text.removesuffix(" s"))
    minutes, rest = text.split(":")
    return 60 * int(minutes) + int(rest)


def row(said, number):
    """The line of the table that begins with these runs."""
    return next(line for line in said.out.splitlines() if line.startswith(f"{number}  "))


def test_a_plan_tells_times_memory_and_disk_and_leaves_nothing(project, plan):
    project.sweep()
    before = project.files()
    said = plan("tiny")
    assert (said.status, said.err) == (0, "")
    assert "tiny: 4 runs: 4 to train" in said.out
    assert "built all, rehearsed 3" in said.out
    assert "errors: none was found" in said.out
    assert re.search(
        r"^memory: each worker [\d.]+ [MG]iB; .* are free\n  data .*, networks, .*, activations .*, Python",
        said.out,
        re.M,
    )
    assert re.search(r"^ETA: \d.* with 1 worker, .*\n  .* until the first run begins", said.out, re.M)
    assert project.files() == before
    assert not (project.root / "runs").exists()
    assert not (project.root / "results").exists()


@pytest.mark.parametrize(
    ("params", "parts", "sweep"),
    [
        ("lr=[0.1, 0.01], batch_size=[10, 20]", {"epochs": "6"}, "objective='val_accuracy'"),
        ("lr=[10 ** -(1 + k / 9) for k in range(24)]", {"network": MLP, "batch_size": "10"}, "objective='val_loss'"),
        ("lr=[0.1, 0.01]", {"batch_size": "30", "network": "lambda: nn.Linear(4, 2)"}, ""),
    ],
)
def test_the_disk_that_it_tells_is_what_a_launch_leaves(project, plan, params, parts, sweep):
    project.sweep(params=params, sweep=sweep, **parts)
    said = plan("tiny", "--fuse", "off")
    told = size(re.search(r"^disk: (\S+ \S+) ", said.out, re.M)[1])
    project.launch(tensorboard=True, fuse="off")
    files = [*(project.root / "runs").rglob("*"), *(project.root / "results").rglob("*")]
    real = sum(path.stat().st_size for path in files if path.is_file())
    assert told == pytest.approx(real, rel=0.3)


def test_the_time_that_it_tells_is_about_what_a_launch_takes(project, plan):
    slow = "class Slow(nn.Linear):\n    def forward(self, x):\n        time.sleep(0.02)\n        return super().forward(x)\n"
    project.sweep(before=f"import time\n{slow}", network="lambda: Slow(4, 2)", epochs="3")

    def differ():
        """By what part of it; each of the two times is longer where the machine has other things to do meanwhile."""
        shutil.rmtree(project.root / "runs", ignore_errors=True)
        said = plan("tiny", "--fuse", "off")
        told = seconds(re.search(r"begins \(measured\), then (.*) \(", said.out)[1])
        history = project.launch(fuse="off")
        return abs(told / sum(run.run_seconds for run in history.runs) - 1)

    assert any(differ() < 0.33 for _ in range(4))


def test_a_last_batch_of_one_sample_keeps_the_sweep_from_starting(project, plan):
    project.sweep(params="lr=[0.1, 0.01], batch_size=[9, 53]", network=WITH_BATCH_NORM)
    said = plan("tiny")
    assert said.status == 2
    assert "batch_size=53 leaves one of the 54 training samples by itself" in said.err
    assert "Expected more than 1 value per channel" in said.err


def test_a_class_out_of_range_in_the_data_of_one_run_is_found(project, plan):
    before = "def data(run):\n    bad = targets.clone()\n    bad[40] = 7 if run.noise == 0.2 else 1\n    return inputs, bad\n"
    params = "noise=[0.1, 0.2, 0.3], batch_size=[5]"
    project.sweep(
        before=before, params=params, data="data", optimizer="lambda run, n: torch.optim.SGD(n.parameters(), lr=0.1)"
    )
    said = plan("tiny")
    assert said.status == 2
    assert "sample 40 of the training data has class 7, but the network has 2 outputs, for classes 0 to 1" in said.err


def test_a_class_out_of_range_is_found_where_only_samples_tell_the_targets(project, plan):
    data = (
        "class Made(Dataset):\n    def __init__(self, worst):\n        self.worst = worst\n"
        "    def __len__(self):\n        return 900\n"
        "    def __getitem__(self, index):\n        return inputs[index % 60], "
        "self.worst if index in (111, 112, 113) else index % 2\n"
    )
    project.sweep(before=data, params="lr=[0.1], worst=[1, 5]", batch_size="10", data="lambda run: Made(run.worst)")
    said = plan("tiny")
    assert said.status == 1
    bad = r"DataError: sample \d of a batch with predictions \[10, 2\] and targets \[10\] has class 5"
    assert re.search(rf"^  run 2 \(lr=0\.1, worst=5\): {bad}", said.out, re.M)


def test_a_schedule_that_ends_too_early_is_found(project, plan):
    schedule = "lambda run, o: torch.optim.lr_scheduler.LambdaLR(o, lambda epoch: ([1.0] * run.length)[epoch])"
    project.sweep(params="lr=[0.1], length=[3, 20]", batch_size="10", scheduler=schedule, epochs="5")
    said = plan("tiny", "--only", "length=3")
    assert said.status == 1
    assert "errors: 1 of 1 run would fail; times and sizes leave out what fails" in said.out
    assert re.search(r"^  run 1 \(lr=0\.1, length=3\): IndexError: list index out of range", said.out, re.M)


def test_a_loss_that_one_value_breaks_is_found(project, plan):
    loss = "lambda run: nn.CrossEntropyLoss(label_smoothing=run.smoothing)"
    project.sweep(params="lr=[0.1, 0.2], smoothing=[0.0, 1.5]", batch_size="10", loss=loss)
    said = plan("tiny")
    assert said.status == 1
    assert re.search(
        r"^  run 2 \(lr=0\.1, smoothing=1\.5\): RuntimeError: label_smoothing must be between", said.out, re.M
    )


def test_what_keeps_a_sweep_from_starting_is_told_as_by_a_launch(project, plan):
    project.sweep(params="lr=[0.1], unread=[1, 2], batch_size=[10]")
    said = plan("tiny")
    assert said.status == 2
    assert "unread is in the grid, but nothing uses it" in said.err


def test_runs_that_fuse_and_runs_that_do_not_are_named_with_the_reason(project, plan):
    optimizer = "lambda run, n: getattr(torch.optim, run.kind)(n.parameters(), lr=0.1)"
    project.sweep(
        params="kind=['SGD', 'Adamax'], seed=list(range(8))", network=MLP, optimizer=optimizer, batch_size="10"
    )
    said = plan("tiny")
    assert said.status == 0
    fused, alone = row(said, "1-8"), row(said, "9-16")
    assert re.search(r"groups of 8, vmap .* a step of 8 runs \(vmap\) is \S+ times as fast as one by one", fused)
    assert re.search(r"one by one .* Adamax has no batched form", alone)
    assert "--fuse off" in row(plan("tiny", "--fuse", "off"), "1-8")


def test_what_an_earlier_launch_has_found_is_used_as_a_launch_would(project, plan):
    project.sweep(params="lr=[0.1], seed=list(range(8))", network=MLP, batch_size="10")
    project.launch(limit=2)
    project.launch(only="3-6")
    assert "(as an earlier launch has found)" in plan("tiny").out


def test_the_options_of_a_launch_choose_the_runs(project, plan):
    project.sweep()
    said = plan("tiny", "--only", "lr=0.01", "--limit", "1", "--epochs", "7", "--set", "batch_size=15,30")
    assert "2 runs: 1 to train" in said.out
    assert row(said, "3").split()[1] == "1"
    assert plan("tiny", "--set", "none=1").status == 2
    assert "fuse='some' is unknown" in plan("tiny", "--fuse", "some").err


def test_a_complete_sweep_leaves_nothing_to_train(project, plan):
    project.sweep()
    project.launch()
    before = project.files()
    said = plan("tiny")
    assert (said.status, said.out.splitlines()) == (0, ["tiny: 4 runs: 0 to train, 4 completed", "nothing to train"])
    assert project.files() == before


def test_a_function_of_ones_own_is_told_only_by_running_it(project, plan):
    project.by_function("raise AssertionError('it runs')")
    said = plan("tiny")
    assert said.status == 0
    assert said.out.count("Run(lr=") == 2
    assert "only running it tells" in said.out


def test_workers_tell_how_they_are_in_each_others_way(project, plan, forked_workers):
    project.sweep(params="lr=[0.1, 0.01], batch_size=[10, 20]")
    before = project.files()
    said = plan("tiny", "--workers", "2")
    assert (said.status, said.err) == (0, ""), said.out
    assert " with 2 workers, " in said.out
    assert project.files() == before
    project.wait_for(lambda: not _workers())


def _workers():
    """The processes that this one has started and that are still there."""
    return [pid for pid in map(int, filter(str.isdigit, os.listdir("/proc"))) if _parent(pid) == os.getpid()]


def _parent(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:
            return int(file.read().rsplit(")", 1)[1].split()[1])
    except OSError:
        return None


def test_data_that_cannot_be_resident_is_planned_too(project, plan):
    data = (
        "class Noisy(Dataset):\n    def __len__(self):\n        return 60\n"
        "    def __getitem__(self, index):\n        return inputs[index] + torch.randn(4), int(targets[index])\n"
    )
    project.sweep(before=data, data="Noisy()", params="lr=[0.1, 0.2]", batch_size="7")
    said = plan("tiny")
    assert said.status == 0
    assert "read by a DataLoader, because" in said.out
    assert "a group needs data that stays on the device" in row(said, "1-2")


def test_a_stream_is_rehearsed_though_nobody_knows_how_long_it_is(project, plan):
    data = (
        "from torch.utils.data import IterableDataset\n"
        "class Stream(IterableDataset):\n    def __iter__(self):\n"
        "        return ((inputs[k % 60], k % 2) for k in range(100))\n"
    )
    parts = {"data": "Stream()", "params": "lr=[0.1]", "batch_size": "7", "validation": "0", "shuffle": "False"}
    project.sweep(before=data, sweep="", **parts)
    said = plan("tiny")
    assert said.status == 0
    assert "nothing could be measured" in said.out


def test_a_run_that_ends_its_process_is_named(project, plan, forked_workers):
    net = (
        "class Net(nn.Linear):\n    def forward(self, x):\n"
        "        if self.training and len(x) > 2:\n            import os\n"
        "            os.abort()\n        return super().forward(x)\n"
    )
    project.sweep(before=net, params="lr=[0.1, 0.2]", batch_size="7", network="lambda: Net(4, 2)")
    said = plan("tiny", "--workers", "1")
    assert said.status == 1
    assert "run 1 (lr=0.1) would end its process: the worker process was killed by SIGABRT" in said.out


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGINT, 130), pytest.param(signal.SIGTERM, 143, marks=pytest.mark.long)]
)
def test_a_plan_that_is_stopped_leaves_nothing(project, temporaries, number, status):
    net = (
        "import time\nclass Net(nn.Linear):\n    def forward(self, x):\n"
        "        time.sleep(5)\n        return super().forward(x)\n"
    )
    project.sweep(before=net, params="lr=[0.1, 0.2]", batch_size="7", network="lambda: Net(4, 2)")
    before = project.files()
    with project.started("plan", "tiny", "--workers", "1") as process:
        project.wait_for(lambda: list(temporaries.glob("runmanager-plan-*")), 60)
        process.send_signal(number)
        said = project.said(process)
    assert (said.status, "nothing was trained" in said.err) == (status, True)
    assert not list(temporaries.glob("runmanager-plan-*"))
    assert project.files() == before
    project.wait_for(lambda: not project.alive())
