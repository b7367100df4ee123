"""What a second worker brings.

Measured: `runmanager launch sweeps/quickstart.py` (8 runs of 3 epochs on the shipped Fashion-MNIST sample, TensorBoard and saved
states on, as by default) with `--workers 2`, against `--workers 1`:
  - the whole command, and the training alone, from the first run's begin record to the last run's end record, so that the
    start of the processes is told apart
  - with the CPU threads that the tool chooses (the cores divided among the workers, so that one worker has them all), and
    with OMP_NUM_THREADS=1 for both
Then what limits it: how many cores each keeps busy, how much longer a run takes while another is trained beside it, and how
long one worker has nothing left to do while the other still trains.
Device: CPU and the disk of this checkout. 3 rounds, interleaved, after one that is not counted; each in a fresh project.
"""

import shutil
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from resource import RUSAGE_CHILDREN, getrusage
from statistics import median

from launches import COMMAND, Projects, folder_on_disk, histories, rounds, run
from measure import ROOT, against, interleaved, machine, report

from runmanager.tracking.run_dir import SweepDir

ROUNDS = rounds(3)
QUICKSTART = (ROOT / "sweeps" / "quickstart.py").read_text()


@dataclass
class Launch:
    """One launch, in seconds."""

    whole: float
    training: float
    cores: float  # busy, on average, over the whole command
    runs: float  # the sum of what the runs took
    alone: float  # between the last run's end and the end of the last but one


def launched(folder: Path, workers: int, found: list[Launch], **environment: str) -> float:
    project = Projects(folder, "quickstart", QUICKSTART).make()
    shutil.copytree(ROOT / "networks", project / "networks", ignore=shutil.ignore_patterns("__pycache__"))
    before, began = getrusage(RUSAGE_CHILDREN), time.perf_counter()
    run([*COMMAND, "sweeps/quickstart.py", "--workers", str(workers)], project, **environment)
    seconds, after = time.perf_counter() - began, getrusage(RUSAGE_CHILDREN)
    busy = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    runs = histories(project, "quickstart")
    assert [run.status for run in runs] == ["completed"] * 8, runs
    ends = sorted(run_dir.journal_time() / 1e9 for run_dir in SweepDir(project, "quickstart").runs())
    training = ends[-1] - min(run.began or 0.0 for run in runs)
    alone = ends[-1] - ends[-2] if workers > 1 else 0.0
    found.append(Launch(seconds, training, busy / seconds, sum(run.run_seconds or 0.0 for run in runs), alone))
    return seconds


print(machine())
WAYS = {"threads as the tool chooses": {}, "OMP_NUM_THREADS=1": {"OMP_NUM_THREADS": "1"}}
found: dict[tuple[str, int], list[Launch]] = {(way, workers): [] for way in WAYS for workers in (1, 2)}
with folder_on_disk() as folder:
    cases = {
        f"{way} {workers}": partial(launched, folder, workers, launches, **WAYS[way])
        for (way, workers), launches in found.items()
    }
    interleaved(ROUNDS, cases)

for way in WAYS:
    one, two = (found[way, workers][1:] for workers in (1, 2))  # without the round that is not counted
    for part, target in (("whole", 0.6), ("training", None)):
        mine, theirs = ([getattr(launch, part) for launch in launches] for launches in (two, one))
        what = "the whole command" if part == "whole" else "the training alone"
        shares = [ours / other for ours, other in zip(mine, theirs, strict=True)]
        report(f"two workers against one, {way}: {what}", shares, "×", target, against("one", mine, theirs, "s"))
    start_one, start_two = (median(launch.whole - launch.training for launch in launches) for launches in (one, two))
    cores_one, cores_two = (median(launch.cores for launch in launches) for launches in (one, two))
    slower = median(ours.runs / other.runs for ours, other in zip(two, one, strict=True))
    alone = median(launch.alone for launch in two)
    print(
        f"    what limits it: {start_one:.2f} s of one and {start_two:.2f} s of two are start and end; one keeps "
        f"{cores_one:.2f} cores busy, two {cores_two:.2f}; a run takes {slower:.2f}× as long beside another; one worker is "
        f"idle for {alone:.2f} s at the end"
    )
