"""`runmanager doctor` as its user runs it."""

import subprocess
import sys

import pytest

from tests.reporting.sweep_on_disk import SweepOnDisk


def levels(said):
    """The level of each line, by what it is about."""
    return {line[6:20].strip(): line[:4].strip() for line in said.out.splitlines()}


@pytest.mark.slow
def test_a_line_for_each_thing_and_exit_status_zero_where_all_is_well(project, command, monkeypatch):
    SweepOnDisk(project.root).run(1, {"lr": 1})
    said = project.process("doctor")
    assert (said.status, said.err) == (0, ""), said
    found = levels(said)
    names = ("python", "project", "disk", "locks", "shared memory", "open files", "torch", "torchvision", "cpu")
    assert set(found) >= {*names, "tensorboard", "sweep toy"}
    assert found["torch"] == found["torchvision"] == found["tensorboard"] == "ok"
    assert found["sweep toy"] == "warn"  # it has no tables; a warning is no failure
    monkeypatch.setattr("runmanager.reporting.doctor._libraries", lambda: [])  # they take seconds, and were seen above
    repaired = command("doctor", "--repair")
    assert repaired.status == 0 and levels(repaired)["sweep toy"] == "ok"
    assert (project.root / "results" / "toy.csv").exists()


@pytest.fixture
def broken(project, monkeypatch):
    """A project whose torch and TensorBoard cannot be imported, which is quick to find out."""
    for name in ("torch", "tensorboard"):
        (project.root / "broken" / name).mkdir(parents=True)
        (project.root / "broken" / name / "__init__.py").write_text("raise ImportError('a bad wheel')")
    monkeypatch.setenv("PYTHONPATH", str(project.root / "broken"))
    return project


def test_what_fails_makes_the_exit_status_one_and_stops_no_other_check(broken):
    SweepOnDisk(broken.root).run(1, {"lr": 1})
    said = broken.process("doctor")
    assert said.status == 1 and "Traceback" not in said.out + said.err
    found = levels(said)
    assert found["torch"] == found["tensorboard"] == "FAIL"
    assert found["disk"] != "FAIL" and found["sweep toy"] == "warn"
    (line,) = [line for line in said.out.splitlines() if line.startswith("FAIL  torch ")]
    assert "ImportError: a bad wheel. Next: python -m pip install" in line


def test_outside_a_project_it_says_so_and_makes_nothing(broken, tmp_path):
    (tmp_path / "empty").mkdir()
    said = subprocess.run(
        [sys.executable, "-m", "runmanager", "doctor"],
        cwd=tmp_path / "empty",
        capture_output=True,
        text=True,
        check=False,
    )
    assert "has neither runs/ nor sweeps/. Next: cd into a project, or make one" in said.stdout
    assert list((tmp_path / "empty").iterdir()) == []


@pytest.mark.slow
def test_the_fault_selftest_is_a_line_more_and_needs_no_torch(broken):
    said = broken.process("doctor", "--fault-selftest")
    last = said.out.splitlines()[-1]
    assert last.startswith("ok    fault selftest  6 kills in a sweep of 16 runs: 0 runs lost"), said


def test_the_doctor_itself_imports_neither_torch_nor_pandas():
    code = (
        "import sys, runmanager.reporting.doctor; print({'torch', 'pandas', 'tensorboard', 'numpy'} & set(sys.modules))"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "set()"
