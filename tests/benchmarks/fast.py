"""What the benchmarks of speed share: rows of `runmanager bench`, put into run_all.py's table too."""

import json
import os
import sys
from pathlib import Path

from launches import rounds
from measure import RECORDS, ROOT, machine

from runmanager.launching.bench import ROUNDS, bench
from runmanager.launching.benchmarks.lines import Line


def run_rows(*names: str) -> None:
    """Measures rows of the table five times each, and ends this process. The projects are made on the disk of this checkout."""
    print(machine())
    os.chdir(ROOT)
    sys.exit(bench(only=names, rounds=rounds(ROUNDS), tell=_record))


def _record(line: Line, device: str) -> None:
    if not os.environ.get(RECORDS):
        return
    low, high = line.spread()
    aim = line.target(device).text(line.unit) or "none"
    verdict = line.verdict(device, is_quick=False) or "for information"
    spread = f"{low:.3g}..{high:.3g}"
    with Path(os.environ[RECORDS]).open("a", encoding="utf-8") as file:
        file.write(json.dumps([line.title, aim, verdict, f"{line.median:.3g}{line.unit}", spread, line.note]) + "\n")
