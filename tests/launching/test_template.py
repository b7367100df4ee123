"""`runmanager init` lays out a project that runs."""

import sys

import pytest

from runmanager.launching.template import TemplateError, lay_out


def test_the_folders_are_those_of_every_project(tmp_path):
    made = lay_out(tmp_path / "new")
    names = {str(path.relative_to(tmp_path / "new")) for path in made}
    assert names >= {"sweeps/quickstart.py", "networks/fashion_cnn.py", "runs/README.md", "results/README.md"}
    assert all(path.is_file() for path in made)
    assert "/runs/*" in (tmp_path / "new" / ".gitignore").read_text().splitlines()


def test_what_is_there_is_never_written_over(tmp_path):
    mine = tmp_path / "sweeps" / "quickstart.py"
    mine.parent.mkdir()
    mine.write_text("mine")
    with pytest.raises(TemplateError, match=r"quickstart\.py is there already; name a new folder, or move it away"):
        lay_out(tmp_path)
    assert mine.read_text() == "mine"
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [mine]


def test_a_folder_that_has_other_things_in_it_keeps_them(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    lay_out(tmp_path)
    assert (tmp_path / "notes.txt").read_text() == "mine"


@pytest.mark.slow
def test_a_new_project_runs(project):
    with project.forked("init", "new") as process:
        said = project.said(process)
    assert said.status == 0, said.err
    assert "next: cd new && runmanager launch sweeps/quickstart.py" in said.out
    project.root /= "new"
    said = project.process("launch", "sweeps/quickstart.py", "--only", "1", "--epochs", "1")
    assert said.status == 0, said.err
    assert said.err == ""
    assert len(project.folders("quickstart")) == 1
    rows = (project.root / "results" / "quickstart.csv").read_text().splitlines()
    assert len(rows) == 2
    with project.forked("results", "quickstart") as process:
        said = project.said(process)
    assert "completed" in said.out
    assert "val_accuracy" in said.out


def test_the_dry_run_of_a_new_project_lists_the_eight_runs(project, monkeypatch):
    lay_out(project.root / "new")
    project.root /= "new"
    for name in [name for name in sys.modules if name.split(".")[0] in ("networks", "sweeps")]:
        monkeypatch.delitem(sys.modules, name)
    with project.forked("launch", "quickstart", "--dry-run") as process:
        said = project.said(process)
    assert said.status == 0, said.err
    assert said.out.count("Run(lr=") == 8
    assert "8 runs: 8 to train" in said.out
