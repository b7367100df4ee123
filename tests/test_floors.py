"""The rooms keep their floors: who may import whom."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "runmanager"
ROOMS = {"space", "tracking", "data", "training", "launching", "reporting"}
MAY_IMPORT = {
    "space": set(),
    "tracking": set(),
    "data": set(),
    "training": {"tracking", "data"},
    "launching": {"space", "tracking", "training"},
    "reporting": {"tracking"},
}
ENTERS_BY = {"tensorboard": {"tracking/tensorboard.py"}, "ray": set(), "optuna": set(), "plotly": set()}


def modules(room: str) -> list[Path]:
    return sorted((PACKAGE / room).rglob("*.py"))


def imported(file: Path) -> set[str]:
    """The dotted names of all that a file imports, inside functions too."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file} imports relatively"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


@pytest.mark.parametrize("room", sorted(ROOMS))
def test_a_room_imports_only_what_stands_below_it(room: str) -> None:
    assert modules(room)
    for file in modules(room):
        rooms = {name.split(".")[1] for name in imported(file) if name.startswith("runmanager.")} & ROOMS
        assert rooms - {room} <= MAY_IMPORT[room], f"{file} imports {rooms}"


def test_the_ground_imports_no_room() -> None:
    for file in ("parameters.py", "machine.py", "nearest.py"):
        assert not any(name.startswith("runmanager") for name in imported(PACKAGE / file))


def test_every_folder_of_the_package_is_a_room_that_is_listed() -> None:
    assert {folder.parent.name for folder in PACKAGE.glob("*/__init__.py")} == ROOMS


@pytest.mark.parametrize("library", sorted(ENTERS_BY))
def test_an_optional_library_enters_by_one_file(library: str) -> None:
    files = {
        file.relative_to(PACKAGE).as_posix()
        for file in PACKAGE.rglob("*.py")
        if any(name.split(".")[0] == library for name in imported(file))
    }
    assert files == ENTERS_BY[library]


@pytest.mark.parametrize(
    "module",
    [
        "runmanager",
        "runmanager.cli",
        "runmanager.tracking.manager",
        "runmanager.tracking.results",
        "runmanager.launching.launch",
        "runmanager.launching.here",
        "runmanager.launching.processes",
        "runmanager.launching.remote",
        "runmanager.launching.plan_sweep",
        "runmanager.launching.worker",
        "runmanager.reporting.tables",
    ],
)
def test_what_moves_rows_and_processes_imports_neither_torch_nor_pandas(module: str) -> None:
    code = f"import sys, {module}; print(sorted({{'torch', 'pandas', 'numpy', 'tensorboard'}} & set(sys.modules)))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_the_public_names_are_those_of_the_design() -> None:
    import runmanager

    assert set(runmanager.__all__) == {"Run", "RunBuilder", "RunManager", "Sweep", "Trainer", "launch", "load_results"}
    for name in runmanager.__all__:
        assert getattr(runmanager, name).__doc__
    with pytest.raises(AttributeError, match="its names are"):
        runmanager.RunBuidler
