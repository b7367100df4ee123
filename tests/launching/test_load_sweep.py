"""From a path or a name to a Sweep; what cannot be loaded is told apart."""

import pytest

from runmanager.launching.load_sweep import find_sweep_file, load_sweep, project_of
from runmanager.launching.sweep import SweepError


def test_a_sweep_is_found_by_its_path_and_by_its_name(project, monkeypatch):
    path = project.sweep()
    assert find_sweep_file("sweeps/tiny.py") == find_sweep_file("tiny") == find_sweep_file(path) == path
    (project.root / "runs").mkdir()
    monkeypatch.chdir(project.root / "sweeps")
    assert find_sweep_file("tiny.py") == find_sweep_file("tiny") == path


def test_an_unknown_sweep_lists_those_there_are(project):
    project.sweep(name="one")
    project.sweep(name="two")
    with pytest.raises(SweepError) as caught:
        find_sweep_file("three")
    assert "there is no file three" in str(caught.value)
    assert "sweeps/one.py, sweeps/two.py" in str(caught.value)


def test_a_project_without_sweeps_says_so(project):
    with pytest.raises(SweepError, match="are: none"):
        find_sweep_file("three")


def test_a_sweep_belongs_to_the_project_around_it(project):
    assert project_of(project.sweep()) == project.root
    alone = project.root / "alone.py"
    assert project_of(alone) == project.root


def test_a_sweep_can_import_from_its_project(project):
    (project.root / "parts_of_this_test").mkdir()
    (project.root / "parts_of_this_test" / "grid.py").write_text("LRS = [0.1, 0.2]\n")
    path = project.by_function(
        "pass", before="from parts_of_this_test.grid import LRS", params="{'lr': LRS}", name="importing"
    )
    sweep = load_sweep(path)
    assert sweep.params == {"lr": [0.1, 0.2]}
    assert sweep.name == "importing"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "import nowhere_at_all\nsweep = 1",
            "cannot be imported: ModuleNotFoundError: No module named 'nowhere_at_all'",
        ),
        ("sweep = (", "cannot be imported: SyntaxError"),
        ("sweep = 1 / 0", "cannot be imported: ZeroDivisionError"),
        ("x = 1", "has no Sweep called 'sweep'; write sweep = Sweep("),
        ("sweep = 3", "is a int; write sweep = Sweep("),
        ("from runmanager import Trainer\nsweep = Trainer(3, 4, 5, 6, epoch=1)", "unexpected keyword argument 'epoch'"),
    ],
)
def test_a_file_that_gives_no_sweep_says_why(text, said, project):
    path = project.write(text, "broken")
    with pytest.raises(SweepError) as caught:
        load_sweep(path)
    assert str(path) in str(caught.value)
    assert said in str(caught.value)


def test_the_faults_of_the_sweep_itself_come_through(project):
    with pytest.raises(SweepError, match=r"lr=0\.1 is not a list"):
        load_sweep(project.by_function("pass", params="{'lr': 0.1}"))
