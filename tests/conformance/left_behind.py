"""What a launch has left in a project, and launches that leave it halfway."""

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from runmanager import RunManager
from runmanager.tracking.run_dir import RunDir
from tests.processes import in_child


def table_of(project: Path, name: str) -> pd.DataFrame:
    """The rows of a sweep by run and epoch, without what time decides."""
    table = pd.read_csv(project / "results" / f"{name}.csv").sort_values(["run", "epoch"], ignore_index=True)
    return table.drop(columns=["epoch duration", "run duration"])


def state_of(run_dir: RunDir) -> Any:
    """What was saved last of a run."""
    last = sorted((run_dir.path / "checkpoints").glob("epoch-*.pt"))[-1]
    return torch.load(last, weights_only=True)["state"]


def killed_in_second_epoch(work: Callable[[], object]) -> None:
    """Does it in a process that is killed when a run's second epoch begins."""

    def until_then() -> None:
        begin_epoch = RunManager.begin_epoch

        def begin_or_die(manager: RunManager) -> None:
            if manager.num_epochs == 1:
                os.kill(os.getpid(), signal.SIGKILL)
            begin_epoch(manager)

        RunManager.begin_epoch = begin_or_die
        work()

    assert in_child(until_then) == -signal.SIGKILL
