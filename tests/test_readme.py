"""What the README shows is true: its code blocks run, its tables name what there is."""

import inspect
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from pages import do_all, make_small_sample

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
@pytest.mark.usefixtures("one_thread")
def test_every_block_runs_in_a_new_project(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """The first launch is a process with workers of its own, as it is shown; `my_function` has the workers that it asks for."""
    init, *commands = [shlex.split(line)[1:] for line in shell_lines("sh")]
    sample = make_small_sample(tmp_path / "sample")
    do_all(tmp_path, sample, [init])
    project = tmp_path / "my_project"
    for kind, code in BLOCKS:
        if kind.startswith("python sweeps/"):
            (project / kind.removeprefix("python ")).write_text(code)
    do_all(project, sample, [as_program(code) for kind, code in BLOCKS if kind == "python"])
    (first,) = [command for command in commands if "--only" in command]
    run([sys.executable, "-m", "runmanager", *first], project)
    do_all(project, sample, commands)
    (after,) = [code for kind, code in BLOCKS if kind == "python after"]
    capfd.readouterr()
    do_all(project, sample, [as_program(after)])
    assert re.search(r"0\.010? +0\.\d+", capfd.readouterr().out)


def as_program(code: str) -> Callable[[], None]:
    """Does what `python -c` would."""

    def do() -> None:
        sys.path.insert(0, "")
        exec(compile(code, "<README>", "exec"), {"__name__": "__main__"})
        sys.path.remove("")
        sys.stdout.flush()

    return do


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
