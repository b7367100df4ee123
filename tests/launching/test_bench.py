"""`runmanager bench`: what it prints, what it falls back to, and that it leaves nothing behind."""

import json
import runpy
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from forked import Forked

from runmanager.launching.bench import bench
from runmanager.launching.benchmarks import rows
from runmanager.launching.benchmarks.arms import Done, largest_difference, launched, looped
from runmanager.launching.benchmarks.lines import Line, Target
from runmanager.launching.benchmarks.probe import FULL, SAMPLE, look
from runmanager.launching.benchmarks.processes import ArmError
from runmanager.launching.benchmarks.projects import FAMILIES, SweepFile, Workplace
from runmanager.launching.benchmarks.rows import ROWS, Row, Setting, interleaved

SMALL = SweepFile("lr=[0.1, 0.01]", epochs=1, samples=40, network="families.mlp", settings="batch_size=20")


@pytest.fixture
def place(project):
    return Workplace(project.root, SAMPLE, project.root / "data")


@pytest.fixture
def forked_sides(monkeypatch):
    """The processes of a bench are forks of this one, with torch imported."""

    def start(words, *, cwd, env, stdout, **_):
        def work():
            sys.argv[:] = words[2:]
            runpy.run_module(words[2], run_name="__main__", alter_sys=True)

        return Forked(work, cwd, env, stdout.fileno(), stdout.fileno())

    monkeypatch.setattr(
        "runmanager.launching.benchmarks.processes.subprocess",
        SimpleNamespace(Popen=start, DEVNULL=subprocess.DEVNULL),
    )


@pytest.fixture
def with_rows(monkeypatch):
    """Puts other rows into the table, and has this process look at the machine."""

    def look_here(words, folder):
        (folder / "output.txt").write_text(json.dumps(look(Path(words[-2]), words[-1])))

    monkeypatch.setattr("runmanager.launching.benchmarks.probe.step_seconds", lambda *arguments: 0.01)
    monkeypatch.setattr("runmanager.launching.bench.run", look_here)

    def put(**measures):
        monkeypatch.setattr(rows, "ROWS", [Row(name, name, 1, 1, measure) for name, measure in measures.items()])

    return put


def some_lines(setting):
    yield Line("a ratio", [2.0, 3.0, 2.5], cpu=Target(2), gpu=Target(9), note="1 s against 2.5 s")
    yield Line("a cost", [20.0], " µs", cpu=Target(15, at_least=False))


def no_lines(setting):
    raise ArmError("the command: exit status 1\nwhat it said")


def test_a_measure_is_shown_with_its_median_spread_and_verdict():
    line = Line("a ratio", [2.0, 3.0, 2.5], cpu=Target(2), gpu=Target(9))
    assert line.as_text("cpu", is_quick=False).split() == [
        "a",
        "ratio",
        "2.5×",
        "(2..3)",
        "no",
        "GPU",
        "here",
        "≥",
        "2×",
        "reached",
    ]
    assert line.as_text("cuda", is_quick=False).split()[-3:] == ["≥", "9×", "MISSED"]
    assert line.as_text("cpu", is_quick=True).endswith("not judged")


def test_sides_take_turns_and_every_second_round_goes_backwards():
    order = []
    found = interleaved(2, {name: lambda name=name: order.append(name) or len(order) for name in "ab"})
    assert order == ["a", "b", "b", "a"]
    assert found == {"a": [1, 4], "b": [2, 3]}


def test_a_row_that_fails_hides_no_other(project, with_rows, capsys):
    with_rows(broken=no_lines, fine=some_lines)
    assert bench(rounds=3, quick=True) == 1
    said = capsys.readouterr().out
    assert "quick: small data" in said
    assert "the sample that runmanager ships" in said
    assert "Ctrl-C keeps what is printed" in said
    assert said.index("broken") < said.index("what it said") < said.index("a ratio")


def test_as_json_each_line_is_an_object(project, with_rows, capsys):
    with_rows(fine=some_lines)
    assert bench(rounds=3, quick=True, as_json=True) == 0
    machine, ratio, cost = map(json.loads, capsys.readouterr().out.splitlines())
    assert machine["versions"]["torch"]
    assert machine["quick"] is True
    assert (ratio["row"], ratio["median"], ratio["n"], ratio["target"]) == ("fine", 2.5, 3, 2)
    assert cost["unit"] == " µs"


def test_a_row_that_is_unknown_is_refused_with_those_there_are(command):
    said = command("bench", "--only", "grit")
    assert said.status == 2
    assert "--only grit: choose one-100, one-1000, grid," in said.err


def test_no_rounds_are_refused(command):
    assert "--rounds 0: give a whole number of 1 or more" in command("bench", "--rounds", "0").err


def test_without_the_full_set_the_sample_is_taken(project, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_DATA_DIRS", str(tmp_path / "nothing"))
    monkeypatch.setattr("torchvision.datasets.FashionMNIST.mirrors", [])
    monkeypatch.setattr("runmanager.launching.benchmarks.probe.step_seconds", lambda *arguments: 0.01)
    found = look(tmp_path / "data", FULL)
    assert found["data"] == SAMPLE
    assert "ships" in found["source"]


@pytest.mark.usefixtures("forked_sides")
def test_the_two_sides_reach_the_same_losses_and_leave_nothing(place, project):
    ours, loop = launched(place, SMALL, fuse="off", workers=0), looped(place, SMALL)
    assert ours.losses == loop.losses
    assert ours.val_losses == loop.val_losses
    assert len(ours.losses) == 2
    assert 0 < ours.run <= ours.training < ours.whole
    assert sorted(path.name for path in project.root.iterdir()) == ["sweeps"]


@pytest.mark.usefixtures("forked_sides")
def test_a_side_that_trains_its_runs_together_says_so_and_reaches_nearly_the_same(place):
    together, alone = (launched(place, SMALL, fuse=fuse, workers=0, bare=True) for fuse in (2, "off"))
    assert (together.group_size, alone.group_size) == (2, 1)
    assert largest_difference(together.losses, alone.losses) < 1e-5


@pytest.mark.usefixtures("forked_sides")
def test_a_side_that_fails_says_what_it_printed(place):
    broken = SweepFile("lr=[0.1]", epochs=1, samples=40, network="lambda: 1 / 0", settings="batch_size=20")
    with pytest.raises(ArmError, match=r"exit status [12]\n(.|\n)*division by zero"):
        launched(place, broken, workers=0)


@pytest.mark.parametrize("network", FAMILIES.values(), ids=[*FAMILIES])
def test_each_family_of_networks_can_be_trained(place, network):
    import torch

    from runmanager.launching.benchmarks import families
    from runmanager.launching.load_sweep import load_sweep

    sweep = SweepFile("lr=[0.1]", epochs=1, samples=40, network=network, settings="batch_size=20")
    with place.project(sweep) as project:
        found = load_sweep(project / "sweeps" / "bench.py")
        run = found.runs()[0]
        splits = found.trainer.splits(run, 0, project)
        parts = found.trainer.build(run, splits, project)
    scores = parts.network(torch.rand(5, 1, 28, 28))
    assert scores.shape == (5, 10)
    assert families.digits()[0].shape == (1797, 64)


def test_without_scikit_learn_there_are_digits_of_the_same_shape(monkeypatch):
    from runmanager.launching.benchmarks import families

    real = families.digits()
    monkeypatch.setattr(families, "has_real_digits", lambda: False)
    inputs, targets = families.digits()
    assert (inputs.shape, inputs.dtype) == (real[0].shape, real[0].dtype)
    assert (targets.shape, targets.dtype) == (real[1].shape, real[1].dtype)


def test_ctrl_c_keeps_what_was_printed_and_leaves_no_process_and_no_folder(project):
    with project.started("bench", "--quick", "--only", "one-100") as process:
        project.wait_for(lambda: is_training(project) or process.poll() is not None, 120)
        process.send_signal(signal.SIGINT)
        said = project.said(process)
    assert (said.status, said.err) == (130, "stopped (SIGINT); what was measured is above\n")
    assert "measure" in said.out
    assert [path.name for path in project.root.iterdir()] == ["sweeps"]
    project.wait_for(lambda: not project.alive())


def is_training(project):
    """Whether a launch of the bench trains a run, in a worker of its own."""
    return list(project.root.glob(".runmanager-bench-*/*/runs/bench/*/journal.jsonl"))


ALIKE = Done(whole=2.0, training=1.0, run=0.5, losses=[[0.5] * 11] * 8, val_losses=[[0.5] * 11] * 8, group_size=8)
COSTS = {"ours": 1.0, "others": 1.0, "beyond": 1e-6, "by_hand": 1e-6, "step": 1e-6}


@pytest.mark.parametrize("row", ROWS, ids=[row.name for row in ROWS])
def test_of_sides_that_are_alike_a_row_tells_that(row, place, monkeypatch):
    monkeypatch.setattr(rows, "launched", lambda *_, **__: ALIKE)
    monkeypatch.setattr(rows, "looped", lambda *_, **__: ALIKE)
    monkeypatch.setattr(rows, "_repeated", lambda setting, *_: [COSTS] * setting.rounds)
    for device in ("cpu", "cuda"):
        lines = list(row.measure(Setting(place, 2, True, device, 2)))
        assert lines
        for line in lines:
            assert line.median == pytest.approx({"": 0, " %": 100}.get(line.unit, 1)), line


@pytest.mark.slow
@pytest.mark.usefixtures("forked_sides")
def test_the_command_measures_a_row(command):
    said = command("bench", "--quick", "--rounds", "1", "--only", "tensorboard")
    assert said.status == 0, said.out
    assert "TensorBoard, ours to SummaryWriter" in said.out
    assert "failed" not in said.out


@pytest.mark.long
@pytest.mark.parametrize("row", [row.name for row in ROWS])
def test_a_row_can_be_measured(row, command):
    said = command("bench", "--quick", "--rounds", "1", "--only", row)
    assert said.status == 0, said.out
    assert "failed" not in said.out


def test_each_row_has_a_name_of_its_own_and_says_how_long_it_takes():
    assert len({row.name for row in ROWS}) == len(ROWS)
    assert all(row.seconds > 0 and row.quick_seconds > 0 for row in ROWS)


def test_rates_are_all_different():
    assert len({*rows._spread(16, 1e-4)}) == 16
