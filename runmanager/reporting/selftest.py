"""Kills a toy sweep again and again on the user's own disk, and looks what is left: no torch, a few seconds."""

import csv
import os
import random
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from runmanager.reporting.findings import FAIL, OK, Finding
from runmanager.reporting.machine import scratch
from runmanager.tracking.history import read_sweep
from runmanager.tracking.owner import is_alive
from runmanager.tracking.rows import COMPLETED, RUNNING
from runmanager.tracking.run_dir import RunDir, SweepDir

NUM_RUNS, NUM_EPOCHS, NUM_KILLS = 16, 10, 6
_NAME = "selftest"
_LAUNCH = ("-m", "runmanager", "launch", _NAME, "--workers", "2", "--quiet", "--no-tensorboard")
_SECONDS = 60.0  # for one launch, which takes one or two
_GONE_SECONDS = 5.0  # within which no process of a killed launch may be left

SWEEP = f"""\
import time

from runmanager import Sweep


def train(run, m):
    for epoch in range({NUM_EPOCHS}):
        m.begin_epoch()
        time.sleep(0.02)
        m.log(val_loss=run.x / (epoch + 1))
        m.end_epoch()


sweep = Sweep(params={{"x": list(range(1, {NUM_RUNS + 1}))}}, train=train, objective="val_loss", mode="min")
"""

Rows = list[tuple[str, ...]]


class SelftestError(RuntimeError):
    """A launch of the toy sweep failed by itself."""


@dataclass
class Outcome:
    """What was left when the killed sweep was done."""

    num_kills: int
    seconds: float
    lost: int  # runs that are not completed, or do not have the rows of the sweep that nobody killed
    duplicated: int  # epochs that stand in the table more than once
    again: int  # runs that were trained again after they had completed
    left: int  # runs that are shown as running, and processes that are still there

    def finding(self) -> Finding:
        """The line to print."""
        text = (
            f"{self.num_kills} kills in a sweep of {NUM_RUNS} runs: {self.lost} runs lost, {self.duplicated} epochs duplicated, "
            f"{self.again} completed runs trained again, {self.left} left running; {self.seconds:.1f} s"
        )
        is_well = not (self.lost or self.duplicated or self.again or self.left)
        step = "put the project on a local disk, and try again; if it stays so, report it with what doctor says"
        return Finding(OK, "fault selftest", text) if is_well else Finding(FAIL, "fault selftest", text, step)


def check_by_killing(root: Path, seed: int = 0) -> Finding:
    """Trains the toy sweep twice, once killed at random moments and once in peace, and compares."""
    try:
        with scratch(root) as folder:
            return _kill_and_compare(folder, random.Random(seed)).finding()
    except (SelftestError, OSError) as error:
        return Finding(FAIL, "fault selftest", str(error))


def _kill_and_compare(folder: Path, rng: random.Random) -> Outcome:
    began = time.monotonic()
    killed, whole = (_project(folder / name) for name in ("killed", "whole"))
    in_peace = _Launch(whole.root)
    try:
        num_kills = sum(_kill_one(killed, rng, place) for place in range(NUM_KILLS))
        _Launch(killed.root).finish()
        in_peace.finish()
    finally:
        in_peace.kill()
    return _outcome(killed, whole, num_kills, began)


def _project(folder: Path) -> SweepDir:
    (folder / "sweeps").mkdir(parents=True)
    (folder / "sweeps" / f"{_NAME}.py").write_text(SWEEP)
    return SweepDir(folder, _NAME)


class _Launch:
    """A launch of the toy sweep in a process of its own."""

    def __init__(self, project: Path) -> None:
        self._said = (project / "said.txt").open("w+")
        self._process = subprocess.Popen(
            [sys.executable, *_LAUNCH],
            cwd=project,
            env=_environment(),
            stdout=self._said,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # so that Ctrl-C is ours
        )

    def has_ended(self) -> bool:
        return self._process.poll() is not None

    def kill(self) -> None:
        """Takes it down without a warning."""
        self._process.kill()
        self._process.wait()
        self._said.close()

    def finish(self) -> None:
        """Waits until it has done all.

        Raises:
            SelftestError: it does not end, or not well.
        """
        try:
            status = self._process.wait(_SECONDS)
        except subprocess.TimeoutExpired:
            raise SelftestError(f"a launch of the toy sweep did not end within {_SECONDS:.0f} s") from None
        finally:
            self._said.seek(0)
            said = self._said.read().strip()
            self.kill()
        if status:
            raise SelftestError(f"a launch of the toy sweep ended with exit status {status}: {said[-500:]}")


def _environment() -> dict[str, str]:
    """Where the toy's processes find this package, when it stands in a checkout that was not installed."""
    home = Path(__file__).parents[2]
    if home.name in ("site-packages", "dist-packages"):
        return dict(os.environ)
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, (str(home), os.environ.get("PYTHONPATH"))))}


def _kill_one(sweep_dir: SweepDir, rng: random.Random, place: int) -> int:
    """Launches and kills; returns how many launches were killed: one, or none where it was done before.

    Every third is killed while it starts, the others some epochs after they have begun to train.
    """
    size = _recorded(sweep_dir)
    launch = _Launch(sweep_dir.root)
    try:
        by = time.monotonic() + _SECONDS
        while place % 3 and _recorded(sweep_dir) == size and not launch.has_ended() and time.monotonic() < by:
            time.sleep(0.005)
        time.sleep(rng.uniform(0.0, 0.25))
        if not launch.has_ended():
            return 1
        launch.finish()
        return 0
    finally:
        launch.kill()


def _recorded(sweep_dir: SweepDir) -> int:
    """How many bytes all journals have."""
    return sum(sweep_dir.journal_sizes().values())


def _outcome(killed: SweepDir, whole: SweepDir, num_kills: int, began: float) -> Outcome:
    rows, expected = _rows(killed), _rows(whole)
    runs = {str(run.number): run for run in read_sweep(killed).runs}
    numbers = {row[0] for row in expected}
    sound = {
        number
        for number in numbers & set(runs)
        if runs[number].status == COMPLETED and _of_run(rows, number) == _of_run(expected, number)
    }
    shown = [*(run.status for run in runs.values()), *_column(killed.runs_csv, "status")]
    return Outcome(
        num_kills,
        time.monotonic() - began,
        lost=max(NUM_RUNS, len(numbers)) - len(sound),
        duplicated=len(rows) - len({row[:2] for row in rows}),
        again=sum(_was_trained_again(run_dir) for run_dir in killed.runs()),
        left=shown.count(RUNNING) + _num_processes_left(killed),
    )


def _rows(sweep_dir: SweepDir) -> Rows:
    """Run, epoch, metric and parameter of each row of the table; not the durations."""
    names = ("run", "epoch", "val_loss", "x")
    return list(zip(*(_column(sweep_dir.epochs_csv, name) for name in names), strict=True))


def _column(table: Path, name: str) -> list[str]:
    with table.open(newline="") as file:
        return [row[name] for row in csv.DictReader(file)]


def _of_run(rows: Rows, number: str) -> set[tuple[str, ...]]:
    return {row for row in rows if row[0] == number}


def _was_trained_again(run_dir: RunDir) -> bool:
    """Whether an attempt was begun after one that had completed."""
    kinds = [record.get("status", record["kind"]) for record in run_dir.read_journal().records]
    return COMPLETED in kinds and "begin" in kinds[kinds.index(COMPLETED) :]


def _num_processes_left(sweep_dir: SweepDir) -> int:
    """How many processes that have trained a run are still there, once they have had time to go."""
    records = [record for run_dir in sweep_dir.runs() for record in run_dir.read_journal().records]
    owners = {str(record["owner"]): record["owner"] for record in records if record["kind"] == "begin"}
    by = time.monotonic() + _GONE_SECONDS
    while time.monotonic() < by and any(map(is_alive, owners.values())):
        time.sleep(0.02)
    return sum(map(is_alive, owners.values()))
