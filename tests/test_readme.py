"""What the README shows is true: its code blocks run, its tables name what there is."""

import inspect
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = [(kind.strip(), code) for kind, code in re.findall(r"^```([^\n]+)\n(.*?)^```$", README, re.M | re.S)]


def run(command: list[str], folder: Path) -> str:
    result = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert result.returncode == 0, f"{command}\n{result.stdout}\n{result.stderr}"
    return result.stdout


def shell_lines(kind: str) -> list[str]:
    return [line for block, code in BLOCKS if block == kind for line in code.splitlines() if line]


@pytest.mark.slow
def test_every_block_runs_in_a_new_project(tmp_path: Path) -> None:
    init, *commands = shell_lines("sh")
    runmanager = [sys.executable, "-m", "runmanager"]
    run([*runmanager, *shlex.split(init)[1:]], tmp_path)
    project = tmp_path / "my_project"
    for kind, code in BLOCKS:
        if kind.startswith("python sweeps/"):
            (project / kind.removeprefix("python ")).write_text(code)
    for kind, code in BLOCKS:
        if kind == "python":
            run([sys.executable, "-c", code], project)
    for command in commands:
        run([*runmanager, *shlex.split(command)[1:]], project)
    (after,) = [code for kind, code in BLOCKS if kind == "python after"]
    assert re.search(r"0\.010? +0\.\d+", run([sys.executable, "-c", after], project))


def test_the_picture_and_the_links_are_there() -> None:
    for target in re.findall(r"\]\(([^)#:]+)\)", README):
        assert (ROOT / target).exists(), target


def test_every_command_and_option_is_in_the_readme() -> None:
    from runmanager.cli import app

    for name, command in app.commands.items():
        assert f"runmanager {name}" in README
        for option in (option for param in command.params for option in (*param.opts, *param.secondary_opts)):
            if option.startswith("--") and option not in ("--help", "--tensorboard"):
                assert option in README, f"runmanager {name} {option}"


def test_the_signature_in_the_readme_is_the_real_one() -> None:
    from runmanager import RunManager

    shown = re.search(r"`RunManager\(([^`]*)\)`", README)
    assert shown is not None
    names = [part.split("=")[0].strip() for part in shown[1].split(",")]
    assert [name for name in names if name != "*" and name != ")"] == list(inspect.signature(RunManager).parameters)


def test_the_line_for_the_tests_is_the_one_that_ci_runs() -> None:
    lines = shell_lines("sh setup")
    assert sum(line.startswith("python3 -m venv") and line.endswith("-m pytest") for line in lines) == 1
