"""The sweep whose runs a RunManager tracks: which folder a run has, and which number the next one gets."""

import itertools
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from runmanager.tracking.run_dir import RunDir, SweepDir


class OpenSweep:
    """A sweep's folder, and the runs that it has. Makes nothing on disk before the first run is asked for."""

    def __init__(self, sweep_dir: SweepDir) -> None:
        self.dir = sweep_dir
        self.modes: Mapping[str, str] = {}  # which way the sweep's objective improves
        self._known: dict[str, RunDir] | None = None  # by the first 12 digits of the run's identity
        self._next_number = 1

    def run_dir(self, params: dict[str, Any], number: int | None, run_id: str) -> RunDir:
        """The folder that the run has, or a new one, with the next free number where none is given.

        Raises:
            StorageError: a folder cannot be made.
        """
        known = self._known if self._known is not None else self._open()
        run_dir = known.get(run_id[:12])
        if run_dir is None:
            run_dir = self.dir.run_dir(number or self._next_number, params, run_id)
            known[run_id[:12]] = run_dir
            self._next_number = max(self._next_number, run_dir.number + 1)
        run_dir.make()
        return run_dir

    def _open(self) -> dict[str, RunDir]:
        """Makes the sweep's folder and finds the runs that it has."""
        self.dir.make()
        plan = self.dir.read_plan()
        if not plan:
            from runmanager.tracking.plan import describe

            self.dir.write_plan(describe(self.dir))
        if plan.get("objective"):
            self.modes = {plan["objective"]: plan["mode"]}
        self._known = self.dir.runs_by_id()
        self._next_number = 1 + max((run.number for run in self._known.values()), default=0)
        return self._known


_given_names: set[str] = set()  # a manager makes its folder only when its first run begins


def free_name(root: Path) -> str:
    """The date and time, with a number behind it where that is taken."""
    stamp = datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
    names = (stamp if number == 1 else f"{stamp}_{number}" for number in itertools.count(1))
    free = next(name for name in names if not (root / "runs" / name).exists() and name not in _given_names)
    _given_names.add(free)
    return free
