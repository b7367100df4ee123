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


def test_the_sweep_that_was_perhaps_meant_is_told_before_all_others(project):
    for name in ("first", "second", "third"):
        project.sweep(name=name)
    with pytest.raises(
        SweepError, match=r"no file thrid; did you mean 'third'\? The sweeps of .* are: sweeps/first.py, "
    ):
        find_sweep_file("thrid")


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
        (
            "from runmanager import Trainer\nsweep = Trainer(3, 4, 5, 6, epoch=1)",
            "Trainer has no argument 'epoch'; did you mean 'epochs'? (line 2)",
        ),
    ],
)
def test_a_file_that_gives_no_sweep_says_why(text, said, project):
    path = project.write(text, "broken")
    with pytest.raises(SweepError) as caught:
        load_sweep(path)
    assert str(path) in str(caught.value)
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        ("Trainer(mixupp=0.2)", "Trainer has no argument 'mixupp'; did you mean 'mixup'? (line 5)"),
        ("Trainer(shedule='cosine')", "Trainer has no argument 'shedule'; did you mean 'scheduler'?"),
        ("Trainer(model=3)", "Trainer has no argument 'model'; did you mean 'network'?"),
        ("Sweep(param={'lr': [0.1]})", "Sweep has no argument 'param'; did you mean 'params'?"),
        ("Sweep({'lr': [0.1]}, epochs=3)", "Sweep has no argument 'epochs'; it is one of Trainer"),
        ("Trainer(objective='val_loss')", "Trainer has no argument 'objective'; it is one of Sweep"),
        (
            "Trainer(label_smoothing=0.1)",
            "label_smoothing is a hyperparameter, of the loss; put label_smoothing=[...] into the grid, or fix it by "
            "functools.partial: loss=partial(..., label_smoothing=...)",
        ),
        ("Trainer(learning_rate=0.1)", "lr is a hyperparameter, of the optimizer; put lr=[...] into the grid"),
        ("Trainer(depth=3)", "depth is a hyperparameter, of the network; put depth=[...] into the grid"),
        (
            "Trainer(dropout=0.5)",
            "'dropout'; what the network, the loss or the optimizer takes is a hyperparameter: put",
        ),
        ("Other(lr=0.1)", "TypeError: Trainer.__init__() got an unexpected keyword argument 'lr'"),
    ],
)
def test_an_argument_that_a_class_of_ours_does_not_have_says_which_was_meant(call, said, project):
    """`Other` calls itself a Trainer, and is none of ours."""
    before = "import torch; from runmanager import Sweep, Trainer\n"
    before += "class Net(torch.nn.Module):\n    def __init__(self, depth=2): ...\n"
    other = "class Other:\n    def __init__(self): ...\n    __init__.__qualname__ = 'Trainer.__init__'\n"
    other += "Trainer = Other\n" if "Other" in call else ""
    path = project.write(f"{before}{other if 'Other' in call else chr(10)}sweep = {call}", "broken")
    with pytest.raises(SweepError) as caught:
        load_sweep(path)
    assert said in str(caught.value)


def test_the_faults_of_the_sweep_itself_come_through(project):
    with pytest.raises(SweepError, match=r"lr=0\.1 is not a list"):
        load_sweep(project.by_function("pass", params="{'lr': 0.1}"))
