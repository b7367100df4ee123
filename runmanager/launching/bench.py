"""`runmanager bench`: what launching, fusing and tracking bring on this machine, against the classroom's loop.

Each side of a comparison is a fresh process; the sides take turns, and the ratio is taken round by round.
"""

import json
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from runmanager.launching.benchmarks.lines import FAILED, WIDTHS, Line, row_of
from runmanager.launching.benchmarks.processes import ArmError, Interrupted, interruptible, output_of, run
from runmanager.launching.benchmarks.projects import SweepFile, Workplace
from runmanager.launching.benchmarks.rows import BenchError, Row, Setting, choose_rows
from runmanager.tracking.plan import versions
from runmanager.tracking.run_dir import project_root

ROUNDS, QUICK_ROUNDS = 5, 2
_REFERENCE_STEP = 0.005  # seconds; see Row.seconds
_QUICK = "quick: small data and few rounds; this shows that everything works, not how fast it is"


def bench(
    *,
    quick: bool = False,
    rounds: int | None = None,
    only: Sequence[str] = (),
    as_json: bool = False,
    tell: Callable[[Line, str], None] = lambda line, device: None,
) -> int:
    """Measures and prints row by row; returns the exit status: 1 where something failed, 128 + signal when stopped.

    Args:
        quick: small data and few rounds.
        rounds: how often each side is measured.
        only: names of rows.
        as_json: print one JSON object a line, first the machine, then a measure each.
        tell: is called with each measure and the kind of device, too.

    Raises:
        BenchError: there is no such row, or the number of rounds is none.
    """
    chosen = choose_rows([name.strip() for text in only for name in text.split(",")])
    if rounds is not None and rounds < 1:
        raise BenchError(f"--rounds {rounds}: give a whole number of 1 or more")
    rounds = rounds or (QUICK_ROUNDS if quick else ROUNDS)
    try:
        with interruptible(), _folder() as folder:
            return _Bench(folder, chosen, rounds, is_quick=quick, as_json=as_json, tell=tell).run()
    except Interrupted as stopped:
        print(f"stopped ({stopped}); what was measured is above", file=sys.stderr)
        return 128 + stopped.number


@contextmanager
def _folder() -> Iterator[Path]:
    """A folder on the disk where sweeps would be kept, gone at the end."""
    folder = Path(tempfile.mkdtemp(prefix=".runmanager-bench-", dir=project_root()))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


class _Bench:
    """One bench, from the look at the machine to the last row."""

    def __init__(
        self,
        folder: Path,
        rows: Sequence[Row],
        rounds: int,
        *,
        is_quick: bool,
        as_json: bool,
        tell: Callable[[Line, str], None],
    ) -> None:
        self._folder, self._rows, self._rounds, self._tell = folder, rows, rounds, tell
        self._is_quick, self._as_json = is_quick, as_json
        self._data_root = project_root() / "data"

    def run(self) -> int:
        """See `bench`."""
        machine = self._look()
        place = Workplace(self._folder, machine["data"], self._data_root)
        setting = Setting(place, self._rounds, self._is_quick, machine["device"], machine["cores"])
        self._begin(machine)
        failed = [row.name for row in self._rows if not self._measure(row, setting)]
        return 1 if failed else 0

    def _look(self) -> dict[str, Any]:
        """What this machine is, as a process says that can import torch.

        Raises:
            BenchError: it cannot, or it finds no device that works.
        """
        wanted = "fashion_mnist_sample" if self._is_quick else "fashion_mnist"
        module = "runmanager.launching.benchmarks.probe"
        with Workplace(self._folder, wanted, self._data_root).project(SweepFile("lr=[0.1]", epochs=1)) as project:
            try:
                run([sys.executable, "-m", module, str(self._data_root), wanted], project)
            except ArmError as error:
                raise BenchError(f"this machine cannot be measured: {error}") from error
            found: dict[str, Any] = json.loads(output_of(project).splitlines()[-1])
        return {**found, "wanted": wanted, "versions": versions(), "rounds": self._rounds, "quick": self._is_quick}

    def _begin(self, machine: dict[str, Any]) -> None:
        seconds = self._seconds(machine["step"])
        if self._as_json:
            _print(json.dumps({**machine, "estimated_seconds": round(seconds)}))
            return
        on_gpu = "no GPU here" if machine["device"] == "cpu" else f"device {machine['device']}"
        _print(f"runmanager bench on {', '.join(machine['names'])}, {machine['cores']} cores, {on_gpu}")
        _print(", ".join(f"{name} {version}" for name, version in machine["versions"].items()))
        rounds = f"{self._rounds} round{'s'[: self._rounds > 1]}, interleaved"
        _print(f"{rounds}, each side a fresh process; one core: one thread, pinned; data: {machine['source']}")
        if machine["data"] != machine["wanted"]:
            _print("note: the full Fashion-MNIST is not to be had here, so all rows take the sample, a tenth of it")
        if not machine["digits"]:
            _print("note: scikit-learn is not installed, so the digits are random ones of the same shape")
        if self._is_quick:
            _print(_QUICK)
        _print(f"this takes roughly {_duration(seconds)}; Ctrl-C keeps what is printed\n")
        _print(row_of(["measure", "CPU", "GPU", "target"]).rstrip())

    def _seconds(self, step: float) -> float:
        """A rough guess of the whole."""
        each = sum(row.quick_seconds if self._is_quick else row.seconds for row in self._rows)
        return each * self._rounds * (1 if self._is_quick else max(0.5, step / _REFERENCE_STEP))

    def _measure(self, row: Row, setting: Setting) -> bool:
        """Prints a row's lines as they come; whether all came."""
        try:
            for line in row.measure(setting):
                _print(self._shown(row, line, setting.device))
                self._tell(line, setting.device)
        except ArmError as error:
            text = str(error)
            _print(json.dumps({"row": row.name, "failed": text}) if self._as_json else _failure(row, text))
            return False
        return True

    def _shown(self, row: Row, line: Line, device: str) -> str:
        if self._as_json:
            return json.dumps({"row": row.name, **line.as_json(device, is_quick=self._is_quick)})
        return line.as_text(device, is_quick=self._is_quick)


def _failure(row: Row, text: str) -> str:
    lines = [line for line in text.splitlines() if line.strip()]
    shown = [lines[0], *lines[1:][-6:]]
    return f"{row.title:<{WIDTHS[0]}}  {FAILED}\n" + "\n".join(f"    {line}" for line in shown)


def _print(text: str) -> None:
    print(text, flush=True)


def _duration(seconds: float) -> str:
    return f"{seconds / 60:.0f} minutes" if seconds >= 90 else f"{seconds:.0f} seconds"
