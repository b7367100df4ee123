"""What the benchmarks of launching share: projects on the project's own disk, the command, fresh processes, what a process uses."""

import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from measure import PER_SECOND, ROOT

from runmanager.tracking.history import RunHistory, read_sweep
from runmanager.tracking.run_dir import SweepDir

COMMAND = [str(Path(sys.executable).with_name("runmanager")), "launch"]
HAS_OPTUNA = importlib.util.find_spec("optuna") is not None

PER_SECOND.update({"×": 1.0, "runs": 1.0, "MB": 1.0, "KiB": 1.0, "descriptors": 1.0, "processes": 1.0})

# Compiled modules are kept, as they are wherever the package is installed, even where the shell says otherwise.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
os.environ["PYTHONPYCACHEPREFIX"] = str(ROOT / "build" / "compiled")


def rounds(default: int) -> int:
    """How often each case is measured; RUNMANAGER_BENCHMARK_ROUNDS says another number, to see whether a script works."""
    return int(os.environ.get("RUNMANAGER_BENCHMARK_ROUNDS", default))


@contextmanager
def folder_on_disk() -> Iterator[Path]:
    """A folder on the disk of this checkout, where /tmp may be memory.

    It is deleted at the very end: where many files have just been deleted, ext4 takes long to make new ones, because it
    leaves their inodes alone for some seconds.
    """
    (ROOT / "build").mkdir(exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="benchmark-", dir=ROOT / "build"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


class Projects:
    """Fresh projects, each with the same sweep file."""

    def __init__(self, folder: Path, name: str, code: str) -> None:
        self._folder, self.name, self._code = folder, name, code

    def make(self) -> Path:
        project = Path(tempfile.mkdtemp(prefix=f"{self.name}-", dir=self._folder))
        (project / "sweeps").mkdir()
        (project / "sweeps" / f"{self.name}.py").write_text(self._code, encoding="utf-8")
        return project


def start(words: list[str], project: Path, **environment: str) -> "subprocess.Popen[bytes]":
    """A process in a project's folder, its output in a file there."""
    with (project / "output.txt").open("ab") as output:
        return subprocess.Popen(words, cwd=project, stdout=output, stderr=output, env={**os.environ, **environment})


def run(words: list[str], project: Path, **environment: str) -> None:
    """The same, to its end.

    Raises:
        RuntimeError: it failed; the message has what it printed.
    """
    if start(words, project, **environment).wait():
        raise RuntimeError(f"{' '.join(words)} failed:\n{(project / 'output.txt').read_text()[-2000:]}")


def number_from(code: str, project: Path, *words: object, python: str = sys.executable) -> float:
    """The number that a fresh process prints last."""
    command = [python, "-c", code, *map(str, words)]
    done = subprocess.run(command, cwd=project, check=True, stdout=subprocess.PIPE, text=True)
    return float(done.stdout.split()[-1])


def histories(project: Path, name: str) -> list[RunHistory]:
    """The runs of a sweep as this process, another one than trained them, can read them."""
    return read_sweep(SweepDir(project, name)).runs


def statuses(project: Path, name: str) -> Counter[str]:
    """How many runs have each status."""
    return Counter(history.status for history in histories(project, name))


def lines_of(file: Path) -> list[list[str]]:
    """The words of each whole line."""
    text = file.read_text() if file.exists() else ""
    return [line.split() for line in text[: text.rfind("\n") + 1].splitlines()]
