"""Whether the process that launches grows with the runs that it has done.

Measured: its resident memory and its open descriptors while run 1,000 and while run 10,000 of a sweep of 10,000 runs is trained,
which do nothing, TensorBoard off; in this process, and with two workers. Given: what a run in between adds.
Against: nothing. Device: CPU and the disk of this checkout. 3 rounds, interleaved, after one that is not counted; each in a
fresh process and a fresh project.
"""

from functools import partial
from pathlib import Path

from launches import COMMAND, Projects, folder_on_disk, lines_of, rounds, start
from measure import interleaved, machine, report

ROUNDS, RUNS, EARLY = rounds(3), 10_000, 1_000
SWEEP = f"""
import os
def note():
    with open("noted.txt", "a") as notes:
        for pid in (os.getpid(), os.getppid()):
            with open(f"/proc/{{pid}}/status") as file:
                memory = next(line.split()[1] for line in file if line.startswith("VmRSS"))
            notes.write(f"{{pid}} {{memory}} {{len(os.listdir(f'/proc/{{pid}}/fd'))}}\\n")

def train(run, m):
    if run.x in ({EARLY - 1}, {RUNS - 1}):
        note()
    return {{"y": run.x}}

from runmanager import Sweep
sweep = Sweep(params={{"x": list(range({RUNS}))}}, train=train)
"""


def launched(folder: Path, workers: int, found: dict[str, list[float]]) -> float:
    """Kibibytes that a run adds; all that was found goes to `found`."""
    project = Projects(folder, "memory", SWEEP).make()
    process = start([*COMMAND, "sweeps/memory.py", "--workers", str(workers), "--no-tensorboard", "--quiet"], project)
    assert process.wait() == 0, (project / "output.txt").read_text()
    mine = [line for line in lines_of(project / "noted.txt") if int(line[0]) == process.pid]
    (early, early_files), (late, late_files) = ((int(memory), int(files)) for _, memory, files in mine)
    found["early"].append(early * 1024 / 1e6)
    found["late"].append(late * 1024 / 1e6)
    found["descriptors"].append(late_files - early_files)
    found["open"].append(late_files)
    return (late - early) / (RUNS - EARLY)


print(machine())
found: dict[int, dict[str, list[float]]] = {
    workers: {name: [] for name in ("early", "late", "descriptors", "open")} for workers in (0, 2)
}
with folder_on_disk() as folder:
    cases = {str(workers): partial(launched, folder, workers, found[workers]) for workers in (0, 2)}
    samples = interleaved(ROUNDS, cases)

for workers, name in ((0, "in this process"), (2, "two workers")):
    mine = {what: values[1:] for what, values in found[workers].items()}  # without the round that is not counted
    report(f"memory that a run adds, {name}, run {EARLY:,} to {RUNS:,}", samples[str(workers)], "KiB", 1)
    report(f"  memory at run {EARLY:,}", mine["early"], "MB")
    report(f"  memory at run {RUNS:,}", mine["late"], "MB")
    report("  descriptors that were opened in between and stay open", mine["descriptors"], "descriptors", 0)
    report("  descriptors open at the end", mine["open"], "descriptors")
