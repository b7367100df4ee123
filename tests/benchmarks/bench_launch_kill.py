"""What is lost and what is done twice when the process that launches is killed.

Measured: `runmanager launch --workers 2` of 200 runs of 10 ms, without torch, is killed by SIGKILL when half of the runs have
ended; a second later the same command is given again, to its end. The function notes each run as it begins it and before it
returns. Counted: runs that are not completed in the end, runs that had completed and were trained again, runs that were begun
twice at all, runs that are shown as running, processes that were left over.
Against: two Optuna processes with a journal file, both killed and both started again; its runs that had ended and have no
result or more than one, that were begun twice, that are left as running. Its grid is what both draw from.
Device: CPU and the disk of this checkout. 5 rounds each, interleaved, after one that is not counted; each in a fresh folder.
"""

import signal
import subprocess
import sys
import time
from collections import Counter
from functools import partial
from pathlib import Path

from launches import COMMAND, HAS_OPTUNA, Projects, folder_on_disk, histories, lines_of, rounds, run, start
from measure import interleaved, machine, report

ROUNDS, RUNS, WORKERS = rounds(5), 200, 2
NOTE = """
import os, time
notes = os.open("notes.txt", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
def note(what, x):
    os.write(notes, f"{what} {x} {os.getpid()}\\n".encode())
"""
SWEEP = f"""{NOTE}
def train(run, m):
    note("begun", run.x)
    time.sleep(0.01)
    note("ended", run.x)
    return {{"y": run.x}}

from runmanager import Sweep
sweep = Sweep(params={{"x": list(range({RUNS}))}}, train=train)
"""
OPTUNA = f"""{NOTE}
import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
optuna.logging.set_verbosity(optuna.logging.ERROR)

def objective(trial):
    x = 10 * trial.suggest_int("tens", 0, {RUNS // 10 - 1}) + trial.suggest_int("ones", 0, 9)
    note("begun", x)
    time.sleep(0.01)
    note("ended", x)
    return x

sampler = optuna.samplers.GridSampler({{"tens": list(range({RUNS // 10})), "ones": list(range(10))}}, seed=0)
storage = JournalStorage(JournalFileBackend("journal.log"))
study = optuna.create_study(study_name="killed", storage=storage, sampler=sampler, load_if_exists=True)
study.optimize(objective)
"""


def noted(project: Path, what: str) -> Counter[int]:
    """How often each run was begun, or ended."""
    return Counter(int(x) for kind, x, _ in lines_of(project / "notes.txt") if kind == what)


def kill_at_half(processes: list["subprocess.Popen[bytes]"], project: Path) -> None:
    while len(noted(project, "ended")) < RUNS // 2:
        assert any(process.poll() is None for process in processes), (project / "output.txt").read_text()
        time.sleep(0.005)
    for process in processes:
        process.send_signal(signal.SIGKILL)
        process.wait()
    time.sleep(1)


def is_there(pid: str) -> bool:
    """Whether a process does still something; a zombie only waits for the system to take note."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def ours(folder: Path, found: dict[str, list[int]]) -> float:
    """One kill and one restart; the counts go to `found`."""
    project = Projects(folder, "killed", SWEEP).make()
    words = [*COMMAND, "sweeps/killed.py", "--workers", str(WORKERS), "--no-tensorboard"]
    kill_at_half([start(words, project)], project)
    left = {pid for _, _, pid in lines_of(project / "notes.txt") if is_there(pid)}
    completed = {run.params["x"] for run in histories(project, "killed") if run.status == "completed"}
    began = time.perf_counter()
    run(words, project)
    took = time.perf_counter() - began
    times_begun, after = noted(project, "begun"), histories(project, "killed")
    found["lost"].append(RUNS - sum(run.status == "completed" and run.metrics["y"] == run.params["x"] for run in after))
    found["again"].append(sum(times_begun[x] > 1 for x in completed))
    found["twice"].append(sum(times > 1 for times in times_begun.values()))
    found["running"].append(sum(run.status == "running" for run in after))
    found["processes"].append(len(left))
    return took


def optunas(folder: Path, found: dict[str, list[int]]) -> float:
    """The same with Optuna."""
    import optuna
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    project = Projects(folder, "optuna", "").make()
    words = [sys.executable, "-c", OPTUNA]
    kill_at_half([start(words, project) for _ in range(WORKERS)], project)
    began = time.perf_counter()
    again = [start(words, project) for _ in range(WORKERS)]
    assert not any(process.wait() for process in again), (project / "output.txt").read_text()
    took = time.perf_counter() - began
    study = optuna.load_study(
        study_name="killed", storage=JournalStorage(JournalFileBackend(str(project / "journal.log")))
    )
    states = Counter(trial.state.name for trial in study.trials)
    results = Counter(int(trial.value) for trial in study.trials if trial.state.name == "COMPLETE")
    found["lost"].append(RUNS - len(results))
    found["again"].append(sum(times > 1 for times in results.values()))
    found["twice"].append(sum(times > 1 for times in noted(project, "begun").values()))
    found["running"].append(states["RUNNING"])
    return took


NAMES = {
    "lost": "runs without a result in the end",
    "again": "runs with a result that were trained again",
    "twice": "runs begun twice at all",
    "running": "runs shown as running in the end",
    "processes": "processes left over after the kill",
}
TARGETS = {"lost": 0, "again": 0, "twice": WORKERS, "running": 0, "processes": 0}

print(machine())
found: dict[str, dict[str, list[int]]] = {tool: {name: [] for name in NAMES} for tool in ("ours", "Optuna")}
with folder_on_disk() as folder:
    cases = {"ours": partial(ours, folder, found["ours"])}
    if HAS_OPTUNA:
        cases["Optuna"] = partial(optunas, folder, found["Optuna"])
    else:
        print("Optuna is not installed; left out")
    samples = interleaved(ROUNDS, cases)

for name, what in NAMES.items():
    theirs = found["Optuna"][name]
    versus = f"Optuna: {', '.join(map(str, theirs))} in {len(theirs)} tries" if theirs else ""
    unit = "processes" if name == "processes" else "runs"
    # the worst of all tries, the uncounted round's too, since once is too often
    report(f"SIGKILL at half of {RUNS} runs: {what}, at worst", [max(found["ours"][name])], unit, TARGETS[name], versus)
report("the same command again, to its end", samples["ours"], "s")
