"""A sweep's folder as processes leave it, written record by record."""

import os
import time
from contextlib import closing
from pathlib import Path
from typing import Any

from runmanager.parameters import identity
from runmanager.tracking.history import SweepHistory, read_sweep
from runmanager.tracking.owner import this_process
from runmanager.tracking.results import rebuild
from runmanager.tracking.rows import EpochRow, RunEnd
from runmanager.tracking.run_dir import RunDir, SweepDir, run_record

DEAD = {**this_process(), "started": -1}  # a process of this machine that is gone


class SweepOnDisk:
    """Adds runs to a sweep of a project."""

    def __init__(
        self, root: Path, name: str = "toy", *, epochs: int | None = None, numbers: int = 0, objective: str = "val_loss"
    ) -> None:
        self.root, self.dir = root, SweepDir(root, name)
        self.dir.make()
        planned = {f"{number:012x}": number for number in range(1, numbers + 1)}
        settings = {"epochs": epochs} if epochs else {}
        self.dir.write_plan({"objective": objective, "mode": "min", "settings": settings, "numbers": planned})

    def run(
        self,
        number: int,
        params: dict[str, Any],
        status: str | None = "completed",
        *,
        epochs: int = 0,
        epoch_seconds: float = 1.0,
        owner: dict[str, Any] = DEAD,
        began: float = 0.0,  # seconds ago
        last_sign: float = 0.0,  # seconds ago
        saved: tuple[int, ...] = (),
        attempts: int = 1,
        error: str | None = None,
        traceback: str | None = None,
    ) -> RunDir:
        """A run with `epochs` rows; without a status it has no end record."""
        run_id = identity(params)
        run_dir = self.dir.run_dir(number, params, run_id)
        run_dir.make()
        who = run_record(number, run_id, params, None, 1)
        run_dir.write_run(who)
        with closing(run_dir.open_journal()) as journal:
            for attempt in range(1, attempts + 1):
                begun = {"attempt": attempt, "time": time.time() - began, "owner": owner, "run": who}
                journal.append(("begin", begun))
            for epoch in range(1, epochs + 1):
                loss = 1 / epoch + number
                row = EpochRow(number, epoch, None, None, epoch_seconds, epoch * epoch_seconds, {"val_loss": loss})
                journal.append(("epoch", row.record()))
                if epoch in saved:
                    journal.append(("checkpoint", self._state(run_dir, epoch)))
            if status:
                journal.append(("end", RunEnd(status, epochs * epoch_seconds, error, traceback).record()))
        then = time.time() - last_sign
        os.utime(run_dir.path / "journal.jsonl", (then, then))
        return run_dir

    def _state(self, run_dir: RunDir, epoch: int) -> dict[str, Any]:
        run_dir.checkpoints.mkdir(exist_ok=True)
        (run_dir.checkpoints / f"epoch-{epoch}.pt").write_bytes(b"state")
        return {"epoch": epoch, "file": f"epoch-{epoch}.pt", "size": 5, "sha256": ""}

    def history(self) -> SweepHistory:
        """What can be read of it."""
        return read_sweep(self.dir)

    def with_tables(self) -> "SweepOnDisk":
        """The same, and its tables up to date."""
        rebuild(self.dir)
        return self
