"""What the recipes' pages show is true: their sweeps launch, their commands run, their links lead somewhere."""

import re
import shlex
import shutil
from pathlib import Path

import pandas as pd
import pytest
from pages import SAMPLE, do_all, make_small_sample

ROOT = Path(__file__).parents[1]
INDEX = ROOT / "docs" / "recipes.md"
PAGES = sorted((ROOT / "docs" / "recipes").glob("*.md"))
EVERY_PAGE = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)


def links_of(page: Path) -> list[str]:
    return [target for target in re.findall(r"\]\(([^)#:]+)[^):]*\)", page.read_text()) if target]


def commands_of(page: Path) -> list[list[str]]:
    """The page's commands in their order; a sweep file is written where it stands, and launched."""
    commands = []
    for kind, code in re.findall(r"^```([^\n]*)\n(.*?)^```$", page.read_text(), re.M | re.S):
        sweep = re.match(r"# (sweeps/(\w+)\.py)\n", code)
        if kind == "python" and sweep:
            commands.append(["write", sweep[1], code])
            commands.append(["launch", sweep[2], "--workers", "0", "--quiet"])
        elif kind == "sh":
            commands += [
                shlex.split(line, comments=True)[1:] for line in code.splitlines() if line.startswith("runmanager")
            ]
    return commands


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_small_sample(tmp_path_factory.mktemp("sample"))


@EVERY_PAGE
@pytest.mark.usefixtures("one_thread")
def test_the_sweeps_and_commands_of_a_page_run(page: Path, sample: Path, tmp_path: Path) -> None:
    shutil.copytree(ROOT / "networks", tmp_path / "networks", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "sweeps").mkdir()
    commands = commands_of(page)
    for _, file, code in (command for command in commands if command[0] == "write"):
        (tmp_path / file).write_text(code)
    read = SAMPLE if page.stem == "devices" else sample  # the other processes of a run read the whole sample
    do_all(tmp_path, read, [command for command in commands if command[0] != "write"])
    launched = [command[1] for command in commands if command[0] == "launch"]
    assert launched, f"{page.name} has no sweep: a python block whose first line is # sweeps/<name>.py"
    for sweep in launched:
        table = pd.read_csv(tmp_path / "results" / f"{sweep}.runs.csv")
        assert set(table["status"]) <= {"completed", "stopped"}, sweep


@EVERY_PAGE
def test_the_links_of_a_page_lead_somewhere(page: Path) -> None:
    links = links_of(page)
    assert any("tests/" in link for link in links), "no link to a test"
    for link in links:
        assert (page.parent / link).exists(), link


def test_the_index_has_every_page_and_a_test_beside_each() -> None:
    text = INDEX.read_text()
    rows = [line for line in text.splitlines() if line.startswith("| [")]
    assert {link for row in rows for link in re.findall(r"\((recipes/\w+\.md)\)", row)} == {
        f"recipes/{page.name}" for page in PAGES
    }
    for row in rows:
        assert re.search(r"\(\.\./tests/[\w/]+\.py\)", row), row
    for link in links_of(INDEX):
        assert (INDEX.parent / link).exists(), link


def test_two_clicks_lead_from_the_readme_to_every_recipe() -> None:
    assert "docs/recipes.md" in links_of(ROOT / "README.md")


def test_every_setting_of_the_trainer_is_on_a_page() -> None:
    from runmanager.training.settings import SETTINGS

    text = "\n".join(page.read_text() for page in [*PAGES, INDEX, ROOT / "README.md"])
    assert [name for name in SETTINGS if not re.search(rf"\b{name}\b", text)] == []
