"""Every recipe, in every way: as a plain loop has it, in processes, killed and resumed, and together with others in a step."""

import importlib
import pkgutil
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
import torch

import tests.conformance.recipes as package
from runmanager import launch
from runmanager.tracking.run_dir import RunDir, SweepDir
from tests.conformance.left_behind import killed_in_second_epoch, state_of, table_of
from tests.conformance.recipes.cases import Case, sweep_of

pytestmark = pytest.mark.usefixtures("one_thread")

MODULES = [module.name for module in pkgutil.iter_modules(package.__path__) if module.name != "cases"]
CASES: dict[str, Case] = {
    name: case
    for module in MODULES
    for name, case in importlib.import_module(f"tests.conformance.recipes.{module}").CASES.items()
}
MODULE_OF = {
    name: module for module in MODULES for name in importlib.import_module(f"tests.conformance.recipes.{module}").CASES
}
NAMES = [pytest.param(name, marks=pytest.mark.long) if case.is_slow else name for name, case in CASES.items()]
EXACT = pytest.mark.parametrize(
    "name", [one for one, case in zip(NAMES, CASES.values(), strict=True) if case.plain is not None]
)
EVERY = pytest.mark.parametrize("name", NAMES)
IN_WORKERS = {
    next(name for name in CASES if MODULE_OF[name] == module)
    for module in ("data", "determinism", "metrics", "transfer")
}
SOME = pytest.mark.parametrize(
    "name", [name if name in IN_WORKERS else pytest.param(name, marks=pytest.mark.long) for name in CASES]
)
"""What reads files or changes what a whole process does; worker processes take some seconds to start, so the others run in the
long loop, and always in processes of their own that are killed."""
Trained = Callable[[str], Path]


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """Trains a case one run at a time in this process, once for all that compare with it."""
    projects: dict[str, Path] = {}

    def train(name: str) -> Path:
        if name not in projects:
            projects[name] = made(tmp_path_factory.mktemp("project"), name)
            launch_here(projects[name], name)
        return projects[name]

    return train


def made(project: Path, name: str) -> Path:
    """A project with the case's sweep file."""
    (project / "sweeps").mkdir()
    root = str(Path(__file__).parents[2])
    (project / "sweeps" / "recipe.py").write_text(
        f"import sys\nfrom pathlib import Path\n\nsys.path.append({root!r})\n"
        f"from tests.conformance.recipes.cases import sweep_of\nfrom tests.conformance.recipes.{MODULE_OF[name]} import CASES\n\n"
        f"sweep = sweep_of(CASES[{name!r}], Path({str(project)!r}))\n"
    )
    CASES[name].prepare(project)
    return project


def launch_here(project: Path, name: str, **options) -> None:
    launch(sweep_of(CASES[name], project), tensorboard=False, **{"fuse": "off", "quiet": True, **options})


def runs_of(project: Path) -> list[RunDir]:
    return sorted(SweepDir(project, "recipe").runs(), key=lambda run_dir: run_dir.number)


def rows_of(project: Path) -> pd.DataFrame:
    """The rows without what time and place decide."""
    return table_of(project, "recipe").drop(columns="group size")


def weights_of(run_dir: RunDir) -> dict[str, torch.Tensor]:
    """Those that were saved last."""
    return state_of(run_dir)["network"]


def assert_same(project: Path, other: Path) -> None:
    """The same rows and the same last weights, to the last bit."""
    pd.testing.assert_frame_equal(rows_of(project), rows_of(other), check_exact=True)
    for ours, theirs in zip(runs_of(project), runs_of(other), strict=True):
        mine, its = weights_of(ours), weights_of(theirs)
        assert mine.keys() == its.keys()
        assert all(torch.equal(mine[key], its[key]) for key in mine)


@EXACT
def test_losses_and_weights_are_to_the_last_bit_those_of_a_plain_loop(name: str, here: Trained) -> None:
    project, case = here(name), CASES[name]
    table = rows_of(project)
    for number, run in enumerate(sweep_of(case, project).runs(), 1):
        plain = case.plain(run)
        own = table[table["run"] == number]
        for column in plain.rows[0]:
            assert own[column].tolist() == [row[column] for row in plain.rows], column
        weights = weights_of(runs_of(project)[number - 1])
        assert all(torch.equal(weights[key], value) for key, value in plain.network.state_dict().items())


@SOME
def test_worker_processes_leave_the_same(name: str, here: Trained, tmp_path: Path) -> None:
    project = made(tmp_path, name)
    launch(project / "sweeps" / "recipe.py", workers=2, quiet=True, tensorboard=False, fuse="off")
    assert_same(project, here(name))


@EVERY
def test_runs_that_are_killed_go_on_to_the_same(name: str, here: Trained, tmp_path: Path) -> None:
    project = made(tmp_path, name)
    for number in range(1, len(sweep_of(CASES[name], project).runs()) + 1):
        launch_and_be_killed(project, name, number)
    launch_here(project, name)
    assert_same(project, here(name))


def launch_and_be_killed(project: Path, name: str, number: int) -> None:
    """Trains a run in a process that is killed when its second epoch begins."""
    killed_in_second_epoch(lambda: launch_here(project, name, only=(number,)))


@EVERY
def test_two_runs_in_one_step_reach_the_same_or_it_is_said_why_not(
    name: str, here: Trained, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    project, case = made(tmp_path, name), CASES[name]
    launch_here(project, name, fuse=2, quiet=False)
    sizes = pd.read_csv(project / "results" / "recipe.csv")["group size"]
    if case.alone is not None:
        assert case.alone in capsys.readouterr().out
        assert set(sizes) == {1}
        assert_same(project, here(name))
        return
    assert set(sizes) == ({1, 2} if case.leaves_early else {2})
    own, alone = rows_of(project), rows_of(here(name))
    pd.testing.assert_frame_equal(own, alone, rtol=case.tolerance, atol=case.tolerance)
