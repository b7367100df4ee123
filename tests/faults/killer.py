"""What the fault suite shares: a toy sweep that says what it was promised, launches that can be harmed, and what must be left."""

import csv
import json
import os
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from runmanager.tracking.history import RunHistory, read_sweep
from runmanager.tracking.journal import Record, read_journal
from runmanager.tracking.run_dir import SweepDir

HERE = Path(__file__).parent
NAME = "toy"
TOY = """\
import os
import time

from runmanager import Sweep

ACKS = os.open({acks!r}, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)


def said(*what):
    os.write(ACKS, " ".join(map(str, (os.getpid(), *what))).encode() + b"\\n")


def train(run, m):
    said("begin", run.lr)
    for epoch in range({num_epochs}):
        m.begin_epoch()
        time.sleep({seconds})
        m.log_step(rate=run.lr / (epoch + 1))
        m.log(score=run.lr * (epoch + 1))
        m.end_epoch()
        said("epoch", run.lr, epoch + 1)
    return {{"final": 3 * run.lr}}


sweep = Sweep(params={{"lr": {lrs!r}}}, train=train, objective="score", mode="max")
"""
TRAINED = """\
import torch
import torch.nn.functional as F
from torch import nn

from runmanager import Sweep, Trainer

torch.set_num_threads(1)
inputs = torch.rand(40, 4, generator=torch.Generator().manual_seed(0))
targets = (inputs.sum(1) > 2).long()

sweep = Sweep(
    params={{"lr": {lrs!r}}},
    trainer=Trainer(
        data=(inputs, targets), network=lambda: nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.2), nn.Linear(8, 2)),
        optimizer=lambda run, network: torch.optim.Adam(network.parameters(), lr=run.lr), loss=F.cross_entropy,
        epochs={num_epochs}, batch_size=10, device="cpu",
    ),
    objective="val_loss",
)
"""


@dataclass
class Ended:
    """How a launch ended."""

    status: int  # negative for a signal
    out: str
    operations: list[str] = field(default_factory=list)  # of its project's files; none when it was killed


class Zygote:
    """Launches in forks of a process that has all modules loaded."""

    def __init__(self, *options: str) -> None:
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
        self._process = subprocess.Popen(
            [sys.executable, str(HERE / "zygote.py"), *options],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment,
        )  # fmt: skip

    def launch(
        self, toy: "Toy", *options: str, file_size: int | None = None, seconds: float | None = None, **harm: Any
    ) -> Ended:
        """`runmanager launch` in the toy's folder, harmed like this: `kind="kill", at=7`; killed after so many seconds."""
        args = ["launch", NAME, "--workers", "0", "--quiet", *toy.options, *options]
        request: dict[str, Any] = {
            "folder": str(toy.root),
            "args": args,
            "harm": harm or None,
            "file_size": file_size,
            "seconds": seconds,
        }
        assert self._process.stdin and self._process.stdout
        print(json.dumps(request), file=self._process.stdin, flush=True)
        return Ended(**json.loads(self._process.stdout.readline()))

    def close(self) -> None:
        """Ends it."""
        assert self._process.stdin
        self._process.stdin.close()
        self._process.wait(20)


@dataclass
class Toy:
    """A project with one small sweep."""

    root: Path
    text: str
    options: tuple[str, ...] = ("--no-tensorboard", "--fuse", "off")

    @classmethod
    def make(
        cls, root: Path, *, num_runs: int = 3, num_epochs: int = 2, seconds: float = 0.0, text: str = TOY
    ) -> "Toy":
        """Lays it out. What its runs were promised stands in `acks`, beside the project."""
        lrs = [round(0.1 * number, 1) for number in range(1, num_runs + 1)]
        acks = str(root.with_name(f"{root.name}.acks"))
        toy = cls(root, text.format(acks=acks, num_epochs=num_epochs, seconds=seconds, lrs=lrs))
        toy.reset()
        return toy

    @property
    def acks(self) -> Path:
        """What the runs said once a call had returned."""
        return self.root.with_name(f"{self.root.name}.acks")

    @property
    def sweep_dir(self) -> SweepDir:
        """Where the sweep is kept."""
        return SweepDir(self.root, NAME)

    def reset(self) -> None:
        """As if nothing had ever been launched."""
        shutil.rmtree(self.root, ignore_errors=True)
        self.acks.unlink(missing_ok=True)
        (self.root / "sweeps").mkdir(parents=True)
        (self.root / "sweeps" / f"{NAME}.py").write_text(self.text)

    def copy_from(self, saved: Path) -> None:
        """Puts the project back to a copy of it."""
        shutil.rmtree(self.root, ignore_errors=True)
        shutil.copytree(saved, self.root, symlinks=True)

    def begun(self) -> list[str]:
        """The learning rate of each run that began, in their order."""
        return [words[2] for words in self._said() if words[1] == "begin"]

    def promised(self) -> dict[str, list[int]]:
        """The epochs that each run's latest attempt was told are safe, by learning rate."""
        epochs: dict[str, list[int]] = {}
        for words in self._said():
            if words[1] == "begin":
                epochs[words[2]] = []
            else:
                epochs[words[2]].append(int(words[3]))
        return epochs

    def _said(self) -> list[list[str]]:
        return [line.split() for line in self.acks.read_text().splitlines()] if self.acks.exists() else []

    def runs(self) -> list[RunHistory]:
        """The runs as they are on disk."""
        return read_sweep(self.sweep_dir).runs

    def statuses(self) -> Counter[str]:
        """How many runs have which status."""
        return Counter(run.status for run in self.runs())

    def journals(self) -> dict[int, list[Record]]:
        """The journals' records, by the run's number."""
        found = {}
        for run_dir in self.sweep_dir.runs():
            content = read_journal(run_dir.path / "journal.jsonl")
            found[run_dir.number] = content.records
        return found

    def command(self, *options: str) -> list[str]:
        """The launch as a command."""
        return [sys.executable, "-m", "runmanager", "launch", NAME, "--quiet", *self.options, *options]

    def process(self, *options: str, before: tuple[str, ...] = ()) -> "subprocess.Popen[str]":
        """Launches in a process of its own."""
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
        return subprocess.Popen(
            [*before, *self.command(*options)], cwd=self.root, env=environment, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip


def outcome(toy: Toy) -> dict[str, Any]:
    """What a sweep has reached, without durations: as the journals have it, and as each table has it."""
    return {"journals": journal_outcome(toy), "tables": table_outcome(toy)}


def journal_outcome(toy: Toy) -> list[Any]:
    """Number, parameters, status, rows and metrics of each run."""
    return [
        (run.number, run.params, run.status, [(row.epoch, row.values()) for row in run.rows], run.metrics)
        for run in toy.runs()
    ]


def table_outcome(toy: Toy) -> dict[str, list[tuple[str, ...]]]:
    """The rows of the three tables, sorted, so that a doubled one shows."""
    results = toy.root / "results"
    with (results / f"{NAME}.csv").open(newline="") as file:
        epochs = [_without_durations(row) for row in csv.DictReader(file)]
    with (results / f"{NAME}.runs.csv").open(newline="") as file:
        runs = [_without_durations(row) for row in csv.DictReader(file)]
    rows = json.loads((results / f"{NAME}.json").read_text(), parse_constant=_refuse)
    return {"csv": sorted(epochs), "json": sorted(map(_without_durations, rows)), "runs": sorted(runs)}


def _without_durations(row: dict[str, Any]) -> tuple[str, ...]:
    """The cells that are the same each time: no durations, and not how much memory was held."""
    measured = ("duration", "_seconds", "_mib")
    return tuple(sorted(f"{name}={value}" for name, value in row.items() if not name.endswith(measured)))


def _refuse(text: str) -> None:
    raise AssertionError(f"{text} is no JSON")


def difference(got: Any, wanted: Any) -> str:
    """The first thing that is not as it should be, short enough to read."""
    if isinstance(wanted, dict):
        parts = (
            f"{name}: {difference(got.get(name), wanted[name])}" for name in wanted if got.get(name) != wanted[name]
        )
        return next(parts, "nothing")
    if isinstance(wanted, list) and isinstance(got, list):
        lost, added = [one for one in wanted if one not in got], [one for one in got if one not in wanted]
        doubled = [one for one in got if got.count(one) > wanted.count(one) and one not in added]
        return f"lost {lost[:2]}, added {added[:2]}, doubled {doubled[:2]} ({len(got)} of {len(wanted)})"
    return f"{got!r:.300} is not {wanted!r:.300}"


def reference(toy: Toy, zygote: Zygote) -> dict[str, Any]:
    """What the sweep reaches when nothing disturbs it."""
    toy.reset()
    ended = zygote.launch(toy)
    assert ended.status == 0, ended.out
    return outcome(toy)


def once_each(toy: Toy) -> list[str]:
    """What is wrong with the journals of a completed sweep whose runs cannot be resumed: nothing, it should be."""
    faults = []
    for number, records in toy.journals().items():
        ends = [record["status"] for record in records if record["kind"] == "end"]
        if ends.count("completed") != 1 or ends[-1] != "completed":
            faults.append(f"run {number} has the ends {ends}")
        numbers = [record["seq"] for record in records]
        if numbers != list(range(1, len(numbers) + 1)):
            faults.append(f"run {number} has the records {numbers}")
    return faults


def broken_promises(toy: Toy) -> list[str]:
    """What the runs were told is safe, and is not on disk."""
    rows = {str(run.params["lr"]): {row.epoch for row in run.rows} for run in toy.runs()}
    return [
        f"lr={lr}: epoch {epoch} is lost"
        for lr, epochs in toy.promised().items()
        for epoch in epochs
        if epoch not in rows.get(lr, set())
    ]


def completed(toy: Toy) -> set[str]:
    """The learning rates of the runs that have completed."""
    return {str(run.params["lr"]) for run in toy.runs() if run.status == "completed"}


def left_behind(toy: Toy) -> list[str]:
    """Temporary files, claims of the dead, and whatever else no finished sweep should have."""
    return [
        str(path.relative_to(toy.root)) for path in toy.root.rglob("*") if path.match("*.tmp") or path.match("claim-*")
    ]


def kill_after(process: "subprocess.Popen[str]", seconds: float) -> Ended | None:
    """Kills a launch with SIGKILL at that moment; how it ended where it was quicker, else None."""
    try:
        out, err = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        return None
    return Ended(process.returncode, out + (err or ""))


@contextmanager
def timed(what: str) -> Iterator[None]:
    """Prints what a loop took, with -s."""
    began = time.monotonic()
    yield
    print(f"{what}: {time.monotonic() - began:.1f} s")
