"""Does what a document shows, in forks of this process, which have everything imported, and on fewer pictures."""

import os
import sys
from collections.abc import Callable
from pathlib import Path

from processes import in_child

from runmanager.cli import app
from runmanager.data import fashion_mnist
from runmanager.data.idx import read_idx, write_idx

SAMPLE = Path(fashion_mnist.__file__).with_name("fashion_mnist_sample")
NUM_PICTURES = 1500, 200  # to train and to test on, where a document's user has 6,000 and 1,000


def make_small_sample(folder: Path) -> Path:
    """The first pictures of the sample, in the sample's own files."""
    for file in SAMPLE.glob("*.gz"):
        write_idx(folder / file.name, read_idx(file)[: NUM_PICTURES[file.name.startswith("t10k")]])
    return folder


def run_command(arguments: list[str]) -> int | None:
    is_here = arguments[0] == "launch" and "--workers" not in arguments
    return app.main([*arguments, *["--workers", "0"] * is_here], prog_name="runmanager", standalone_mode=False)


def do_all(project: Path, sample: Path, steps: list[list[str] | Callable[[], object]]) -> None:
    """The arguments of `runmanager` commands, and functions, one after another in the project.

    A launch trains where it is, unless it asks for workers: they take seconds to start, also where nothing is left to train.
    """

    def do() -> None:
        for name in [name for name in sys.modules if name.partition(".")[0] in ("networks", "sweeps")]:
            del sys.modules[name]  # the project has its own
        os.chdir(project)
        fashion_mnist._SAMPLE = sample
        for step in steps:
            status = step() if callable(step) else run_command(step)
            assert not status, f"{step}: exit status {status}"

    assert in_child(do) == 0
