"""What several rooms' tests share: a small project on disk, and the command that works in it."""

import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import hypothesis
import pytest
from forked import Forked, fork_command, fork_worker
from processes import children, is_ending

# a job in the background may ignore these, and so would its children
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)

if os.environ.get("RUNMANAGER_LONG") != "1":  # each time the same examples; the long loop looks for others
    hypothesis.settings.register_profile("same", derandomize=True)
    hypothesis.settings.load_profile("same")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Long loops run when RUNMANAGER_LONG=1 is set; their small twins run always."""
    if os.environ.get("RUNMANAGER_LONG") == "1":
        return
    reason = "a long loop; set RUNMANAGER_LONG=1 to run it (its small twin has run)"
    for item in items:
        if item.get_closest_marker("long"):
            item.add_marker(pytest.mark.skip(reason=reason))


TINY = """\
import random
from collections import OrderedDict

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import Dataset

from runmanager import Sweep, Trainer

torch.set_num_threads(1)
inputs = torch.rand(60, 4, generator=torch.Generator().manual_seed(0))
targets = (inputs.sum(1) > 2).long()
{before}

sweep = Sweep(
    params=OrderedDict({params}),
    trainer=Trainer({parts}),
    {sweep}
)
"""
PARTS = {
    "data": "(inputs, targets)",
    "network": "lambda: nn.Linear(4, 2)",
    "optimizer": "lambda run, network: torch.optim.SGD(network.parameters(), lr=run.lr)",
    "loss": "F.cross_entropy",
    "epochs": "2",
    "device": "'cpu'",
}
BY_FUNCTION = """\
from runmanager import Sweep
{before}

def train(run, m):
{body}

sweep = Sweep(params={params}, train=train, {sweep})
"""


@dataclass
class Said:
    """What a command left: its exit status and what it printed."""

    status: int
    out: str
    err: str


@dataclass
class Project:
    """A project in a temporary folder."""

    root: Path
    mark: str = field(default_factory=lambda: uuid.uuid4().hex)  # in the environment of all processes of the project
    options: dict[str, Any] = field(
        default_factory=lambda: {"tensorboard": False, "quiet": True}
    )  # of a launch in here

    def write(self, text: str, name: str = "tiny") -> Path:
        """Puts a file into sweeps/."""
        path = self.root / "sweeps" / f"{name}.py"
        path.write_text(text)
        return path

    def sweep(
        self,
        *,
        name: str = "tiny",
        params: str = "lr=[0.1, 0.01], batch_size=[10, 20]",
        sweep: str = "objective='val_accuracy'",
        before: str = "",
        **parts: str | None,
    ) -> Path:
        """Writes a sweep of four runs that takes no time; `parts` are the Trainer's arguments, as source text."""
        given = {part: text for part, text in {**PARTS, **parts}.items() if text is not None}
        arguments = ", ".join(f"{part}={text}" for part, text in given.items())
        return self.write(TINY.format(before=before, params=params, parts=arguments, sweep=sweep), name)

    def by_function(
        self, body: str, *, name: str = "tiny", params: str = "{'lr': [0.1, 0.01]}", sweep: str = "", before: str = ""
    ) -> Path:
        """Writes a sweep that is trained by a function with this body."""
        lines = "".join(f"    {line}\n" for line in body.strip().splitlines())
        return self.write(BY_FUNCTION.format(before=before, body=lines, params=params, sweep=sweep), name)

    def launch(self, name: str = "tiny", **options: Any) -> Any:
        """Launches a sweep of sweeps/ in this process; quiet and without TensorBoard unless told otherwise."""
        from runmanager import launch

        return launch(self.root / "sweeps" / f"{name}.py", **{**self.options, **options})

    def folders(self, name: str = "tiny") -> list[Path]:
        """The run folders of a sweep, by number."""
        return sorted(path for path in (self.root / "runs" / name).iterdir() if path.is_dir())

    def losses(self, name: str = "tiny") -> dict[int, list[float]]:
        """The losses of each run, epoch by epoch, as its journal has them."""
        return {run.number: [row.loss for row in run.rows] for run in self.history(name).runs}

    def files(self) -> dict[str, bytes]:
        """Every file of the project but compiled Python, with its content."""
        paths = [path for path in self.root.rglob("*") if path.is_file() and path.suffix != ".pyc"]
        return {str(path.relative_to(self.root)): path.read_bytes() for path in paths}

    def environment(self) -> dict[str, str]:
        """For a process of its own."""
        return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1", "PROJECT_MARK": self.mark}

    def process(self, *arguments: str) -> Said:
        """`python -m runmanager ...` in a process of its own."""
        with self.started(*arguments) as process:
            return self.said(process)

    @contextmanager
    def started(self, *arguments: str) -> "Iterator[subprocess.Popen[str]]":
        """The same, while it runs; killed at the end if it is still there."""
        command = [sys.executable, "-m", "runmanager", *arguments]
        pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        pipes["start_new_session"] = True  # a terminal's Ctrl-C would reach the tests as well
        with subprocess.Popen(command, cwd=self.root, env=self.environment(), **pipes) as process:
            try:
                yield process
            finally:
                process.kill()

    @contextmanager
    def forked(self, *arguments: str) -> "Iterator[Forked]":
        """The same in a fork of this process, where it is not told from a process of its own."""
        process = fork_command(arguments, self.root, self.environment())
        try:
            yield process
        finally:
            process.close()

    def said(self, process: "subprocess.Popen[str] | Forked", seconds: float = 60) -> Said:
        """What a process leaves when it has ended by itself."""
        out, err = process.communicate(timeout=seconds)
        return Said(process.returncode, out, err)

    def alive(self) -> list[int]:
        """The processes that were started for this project, by whomever, and are still there."""
        return [pid for pid in map(int, filter(str.isdigit, os.listdir("/proc"))) if self._is_ours(pid)]

    def _is_ours(self, pid: int) -> bool:
        """Whether it is, or is just ending, when it has no environment any more but still holds its locks."""
        try:
            environment = Path(f"/proc/{pid}/environ").read_bytes()
        except ProcessLookupError:  # gone, or about to be
            environment = b""
        except OSError:  # another user's
            return False
        return f"PROJECT_MARK={self.mark}".encode() in environment or (not environment and is_ending(pid))

    def wait_for(self, condition: str | Callable[[], object], seconds: float = 30) -> None:
        """Waits for a file of the project, or until a function says yes."""
        is_there = (self.root / condition).exists if isinstance(condition, str) else condition
        deadline = time.monotonic() + seconds
        while not is_there():
            assert time.monotonic() < deadline, f"it never came: {condition}"
            time.sleep(0.02)

    def statuses(self, name: str = "tiny") -> dict[int, str]:
        """The status of each run, by number."""
        return {run.number: run.status for run in self.history(name).runs}

    def history(self, name: str = "tiny") -> Any:
        """What a sweep has reached."""
        from runmanager.tracking.history import read_sweep
        from runmanager.tracking.run_dir import SweepDir

        return read_sweep(SweepDir(self.root, name))


@pytest.fixture
def forked_workers(monkeypatch):
    """Workers that this process starts are forks of it, with torch imported."""
    import torch  # noqa: F401

    monkeypatch.setattr(
        "runmanager.launching.pool.subprocess", SimpleNamespace(Popen=fork_worker, DEVNULL=subprocess.DEVNULL)
    )


@pytest.fixture
def no_process_is_left():
    """Whatever the test has started is gone at its end."""
    before = children()
    yield
    assert children() <= before


@pytest.fixture(scope="module")
def one_thread():
    """The same bits in all processes of the module's tests."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        yield
    torch.set_num_threads(before)


@pytest.fixture
def project(tmp_path, monkeypatch):
    """An empty project, which is also the current folder."""
    root = tmp_path / "project"
    (root / "sweeps").mkdir(parents=True)
    monkeypatch.chdir(root)
    monkeypatch.setattr(sys, "path", sys.path[:])  # a launch puts the project on it
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    return Project(root)


@pytest.fixture
def command(project, monkeypatch, capsys):
    """Runs the `runmanager` command in this process, in the project; a launch trains here too, unless told otherwise."""

    def run(*arguments: str) -> Said:
        from runmanager.cli import main

        is_launch = arguments[:1] == ("launch",) and "--workers" not in arguments
        monkeypatch.setattr(sys, "argv", ["runmanager", *arguments, *(["--workers", "0"] if is_launch else [])])
        capsys.readouterr()
        try:
            main()
            status = 0
        except SystemExit as error:
            status = error.code or 0
        said = capsys.readouterr()
        return Said(status, said.out, said.err)

    return run
