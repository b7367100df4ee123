"""How long a launch takes to begin its work.

Measured: from the start of the command `runmanager launch` to the first line of a `train=` function, which notes the time, with
two workers or as many as there are cores (`--workers auto`, the default) and in the command's own process (`--workers 0`). And
how much memory the command's process had used at most at that moment (VmHWM).
Against: `python -c pass`, whole; an Optuna script, from its start to the first line of its objective.
Then with a Trainer on the shipped Fashion-MNIST sample: from the start of the command to the first training step, which is when
its loss function is first called with gradients on; TensorBoard on, as it is by default.
Against: a script that imports torch and torchvision and reads the same four files, from its start to when they are read.
Device: CPU, warm file caches, modules compiled before, the disk of this checkout. 15 rounds of the first part and 7 of the
second, interleaved, after one that is not counted; each launch in a fresh project.
"""

import shutil
import sys
import time
from functools import partial
from pathlib import Path

from launches import COMMAND, HAS_OPTUNA, Projects, folder_on_disk, lines_of, rounds, run, start
from measure import ROOT, against, interleaved, machine, report, seconds_of

ROUNDS, TRAINER_ROUNDS = rounds(15), rounds(7)

NOTE = """
import os, time
def memory(pid):
    with open(f"/proc/{pid}/status") as file:
        return next(line.split()[1] for line in file if line.startswith("VmHWM"))
def note():
    moment = time.monotonic()
    if not os.path.exists("noted.txt"):
        with open("noted.txt", "a") as file:
            for pid in (os.getpid(), os.getppid()):
                file.write(f"{moment} {pid} {memory(pid)}\\n")
"""
FUNCTION = f"""{NOTE}
def train(run, m):
    note()
    return {{"y": run.x}}

from runmanager import Sweep
sweep = Sweep(params={{"x": list(range(8))}}, train=train)
"""
OPTUNA = f"""{NOTE}
import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

def objective(trial):
    note()
    return trial.suggest_int("x", 0, 7)

sampler = optuna.samplers.GridSampler({{"x": list(range(8))}})
study = optuna.create_study(storage=JournalStorage(JournalFileBackend("journal.log")), sampler=sampler)
study.optimize(objective)
"""
TRAINER = f"""{NOTE}
import torch, torch.nn.functional as F
from networks.fashion_cnn import FashionCNN
from runmanager import Sweep, Trainer

def loss(preds, labels):
    if torch.is_grad_enabled():
        note()
    return F.cross_entropy(preds, labels)

sweep = Sweep(
    params={{"lr": [0.01, 0.001], "batch_size": [100]}},
    trainer=Trainer(
        data="fashion_mnist_sample",
        network=FashionCNN,
        optimizer=lambda run, network: torch.optim.Adam(network.parameters(), lr=run.lr),
        loss=loss,
        epochs=1,
    ),
)
"""
IMPORT_AND_READ = f"""{NOTE}
import gzip, pathlib, sys
import torch, torchvision
headers = {{"images": 16, "labels": 8}}
for path in pathlib.Path(sys.argv[1]).glob("*-ubyte.gz"):
    header = next(size for name, size in headers.items() if name in path.name)
    data = torch.frombuffer(bytearray(gzip.decompress(path.read_bytes())), dtype=torch.uint8)[header:]
    assert len(data) in (6_000, 1_000, 6_000 * 784, 1_000 * 784)
note()
"""
SAMPLE = ROOT / "runmanager" / "data" / "fashion_mnist_sample"


def begun(project: Path, words: list[str], peaks: list[float] | None = None) -> float:
    """Seconds from the start of a process to the moment that is noted; its peak memory goes to `peaks`."""
    began = time.monotonic()
    process = start(words, project)
    if process.wait():
        raise RuntimeError(f"{' '.join(words)} failed:\n{(project / 'output.txt').read_text()[-2000:]}")
    moment, _, kilobytes = next(line for line in lines_of(project / "noted.txt") if int(line[1]) == process.pid)
    if peaks is not None:
        peaks.append(int(kilobytes) * 1024 / 1e6)
    return float(moment) - began


def launched(projects: Projects, workers: str, peaks: list[float] | None = None) -> float:
    """The same of a launch, in a fresh project."""
    project = projects.make()
    if "networks" in (project / "sweeps" / f"{projects.name}.py").read_text():
        shutil.copytree(ROOT / "networks", project / "networks", ignore=shutil.ignore_patterns("__pycache__"))
    return begun(project, [*COMMAND, f"sweeps/{projects.name}.py", "--workers", workers], peaks)


def first_line(folder: Path) -> None:
    functions, empty = Projects(folder, "function", FUNCTION), Projects(folder, "empty", "").make()
    peaks: dict[str, list[float]] = {"auto": [], "0": [], "Optuna": []}
    cases = {workers: partial(launched, functions, workers, peaks[workers]) for workers in ("auto", "0")}
    cases["bare"] = lambda: seconds_of(lambda: run([sys.executable, "-c", "pass"], empty))
    if HAS_OPTUNA:
        cases["Optuna"] = lambda: begun(
            Projects(folder, "o", "").make(), [sys.executable, "-c", OPTUNA], peaks["Optuna"]
        )
    else:
        print("Optuna is not installed; left out")
    samples = interleaved(ROUNDS, cases)
    for workers, target, memory in (("auto", 0.15, 45), ("0", None, None)):
        mine = samples[workers]
        others = [against("python -c pass", mine, samples["bare"], "s")]
        others += [against("Optuna", mine, samples["Optuna"], "s")] if HAS_OPTUNA else []
        report(f"from command to the first line of train=, --workers {workers}", mine, "s", target, "; ".join(others))
        # the first of the samples is of the round that is not counted
        versus = against("Optuna", peaks[workers][1:], peaks["Optuna"][1:], "MB") if HAS_OPTUNA else ""
        report("  peak memory of the command's process by then", peaks[workers][1:], "MB", memory, versus)


def first_step(folder: Path) -> None:
    trainers, empty = Projects(folder, "trainer", TRAINER), Projects(folder, "empty", "")
    reading = [sys.executable, "-c", IMPORT_AND_READ, str(SAMPLE)]
    cases = {workers: partial(launched, trainers, workers) for workers in ("auto", "1", "0")}
    cases["reading"] = lambda: begun(empty.make(), reading)
    samples = interleaved(TRAINER_ROUNDS, cases)
    for workers in ("auto", "1", "0"):
        mine, theirs = samples[workers], samples["reading"]
        report(
            f"from command to the first training step, --workers {workers}, beside importing and reading",
            [ours / other for ours, other in zip(mine, theirs, strict=True)],
            "×",
            1.3,
            against("importing torch, torchvision and reading the data", mine, theirs, "s"),
        )
        report("  in seconds", mine, "s")


print(machine())
with folder_on_disk() as folder:
    first_line(folder)
    first_step(folder)
