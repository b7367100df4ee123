"""What a launch costs beside the training: sweeps of runs that do nothing, over 2 to 4 parameters of 10 values each.

Measured: `launch()` of a sweep whose `train=` function returns a dict at once, TensorBoard off, silent, from call to return:
  - in this process, 100, 1,000 and 10,000 runs: seconds / runs, which leaves out nothing but the imports (each process has
    launched a sweep of one run before; what that took is given too)
  - with two workers, and in this process, what a run more costs: (10,000 runs - 1,000 runs) / 9,000, so that neither the
    start of the workers nor anything else that a launch does once is in it
Against: Optuna's GridSampler with a journal file and with SQLite at 100 and 1,000 runs, and Ray Tune with reused actors at
100, each after a sweep of 10 runs that is not counted; a bare JSON line per run, written and flushed.
Device: CPU and the disk of this checkout. 5 rounds (Optuna and Ray 1), interleaved, after one that is not counted; each sweep
in a fresh process and a fresh folder. Nothing is deleted before the end. Ray is taken from this Python, or from that which
RUNMANAGER_BENCHMARK_RAY names.

Then launches of 1,000 runs are killed by SIGKILL in their middle, in this process and with two workers. The function had
noted each run as it began it, so the runs before it in the same process had returned. Another process reads what is there.
"""

import os
import random
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from statistics import median

from launches import HAS_OPTUNA, Projects, folder_on_disk, histories, lines_of, number_from, rounds, start
from measure import against, beyond, interleaved, machine, report

ROUNDS, OTHERS_ROUNDS, KILLS = rounds(5), 1, rounds(5)
SMALL, MIDDLE, LARGE = 100, 1_000, 10_000
RAY_PYTHON = os.environ.get("RUNMANAGER_BENCHMARK_RAY", sys.executable)
SWEEP = """
from runmanager import Sweep
num_runs = {}
names = [f"x{{place}}" for place in range(len(str(num_runs)) - 1)] or ["x0"]
grid = {{name: list(range(10 if num_runs > 1 else 1)) for name in names}}
sweep = Sweep(params=grid, train=lambda run, m: {{"y": run.x0}})
"""
NOTING = """
import os
from runmanager import Sweep
notes = os.open("notes.txt", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
def noted(run, m):
    os.write(notes, b"%d %d\\n" % (os.getpid(), run.x))
    return {"y": run.x}
sweep = Sweep(params={"x": list(range(1_000))}, train=noted)
"""

LAUNCH = """
import sys, time
from runmanager import launch
def seconds(name, workers):
    began = time.perf_counter()
    history = launch(f"sweeps/{name}.py", workers=workers, tensorboard=False, quiet=True)
    took = time.perf_counter() - began
    assert history.count("completed") == len(history.runs), name
    return took
name, workers = sys.argv[1], int(sys.argv[2])
first = seconds("one", 0)
print(first if name == "one" else seconds(name, workers))
"""
OPTUNA = """
import sys, time, optuna
from optuna.storages import JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend
optuna.logging.set_verbosity(optuna.logging.ERROR)
def seconds(num_runs):
    name = f"{sys.argv[1]}-{num_runs}"
    began = time.perf_counter()
    if sys.argv[1] == "journal":
        storage = JournalStorage(JournalFileBackend(f"{name}.log"))
    else:
        storage = RDBStorage(f"sqlite:///{name}.db")
    grid = {f"x{place}": list(range(10)) for place in range(len(str(num_runs)) - 1)}
    study = optuna.create_study(storage=storage, sampler=optuna.samplers.GridSampler(grid))
    study.optimize(lambda trial: [trial.suggest_int(name, 0, 9) for name in grid][0])
    assert len(study.trials) == num_runs
    return time.perf_counter() - began
seconds(10)
print(seconds(int(sys.argv[2])))
"""
RAY = """
import os, sys, time
os.environ["RAY_AIR_NEW_OUTPUT"] = "0"
import ray
from ray import tune
def seconds(num_runs):
    began = time.perf_counter()
    names = [f"x{place}" for place in range(len(str(num_runs)) - 1)]
    results = tune.Tuner(
        lambda config: {"y": config["x0"]},
        param_space={name: tune.grid_search(list(range(10))) for name in names},
        tune_config=tune.TuneConfig(reuse_actors=True),
        run_config=tune.RunConfig(name=f"noop_{num_runs}", storage_path=os.getcwd(), verbose=0),
    ).fit()
    assert len(results) == num_runs
    return time.perf_counter() - began
ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
seconds(10)
print(seconds(int(sys.argv[1])))
"""
JSON_LINES = """
import json, sys, time
began = time.perf_counter()
with open("lines.jsonl", "w") as file:
    for x in range(int(sys.argv[1])):
        file.write(json.dumps({"x": x, "y": x}) + "\\n")
        file.flush()
print(time.perf_counter() - began)
"""


def launched(folder: Path, num_runs: int, workers: int) -> float:
    """Seconds that `launch()` takes in a fresh process and project."""
    project = Projects(folder, "noop", SWEEP.format(num_runs)).make()
    (project / "sweeps" / "one.py").write_text(SWEEP.format(1))
    return number_from(LAUNCH, project, "one" if num_runs == 1 else "noop", workers)


def other(folder: Path, code: str, *words: object, python: str = sys.executable) -> float:
    return number_from(code, Projects(folder, "other", "").make(), *words, python=python)


def has_ray() -> bool:
    done = subprocess.run([RAY_PYTHON, "-c", "import ray.tune"], stderr=subprocess.DEVNULL)
    return done.returncode == 0


def others(folder: Path) -> dict[str, list[float]]:
    """What the other tools take per run."""
    cases = {}
    if HAS_OPTUNA:
        for num_runs in (SMALL, MIDDLE):
            for storage in ("journal", "sqlite"):
                cases[f"Optuna ({storage}), {num_runs:,} runs"] = (OPTUNA, num_runs, [storage, num_runs])
    else:
        print("Optuna is not installed; left out")
    if has_ray():
        cases[f"Ray Tune, {SMALL} runs"] = (RAY, SMALL, [SMALL])
    else:
        print("Ray Tune is not installed; left out")
    found: dict[str, list[float]] = {name: [] for name in cases}
    for _ in range(OTHERS_ROUNDS):
        for name, (code, num_runs, words) in cases.items():
            python = RAY_PYTHON if code is RAY else sys.executable
            found[name].append(other(folder, code, *words, python=python) / num_runs)
    return found


def kill_in_the_middle(folder: Path, workers: int) -> tuple[int, int]:
    """How many runs had returned when the launch was killed, and how many of them another process cannot read."""
    project = Projects(folder, "killed", NOTING).make()
    code = (
        f"from runmanager import launch; launch('sweeps/killed.py', workers={workers}, tensorboard=False, quiet=True)"
    )
    child = start([sys.executable, "-c", code], project)
    enough = random.randint(MIDDLE // 3, 2 * MIDDLE // 3)
    while len(lines_of(project / "notes.txt")) < enough:
        assert child.poll() is None, (project / "output.txt").read_text()
        time.sleep(0.001)
    child.send_signal(signal.SIGKILL)
    child.wait()
    time.sleep(1)  # until its workers are gone too
    by_process: dict[str, list[int]] = {}
    for pid, x in lines_of(project / "notes.txt"):
        by_process.setdefault(pid, []).append(int(x))
    returned = {x for begun in by_process.values() for x in begun[:-1]}
    there = {run.params["x"] for run in histories(project, "killed") if run.status == "completed"}
    sound = {run.params["x"] for run in histories(project, "killed") if run.metrics.get("y") == run.params["x"]}
    return len(returned), len(returned - (there & sound))


print(machine())
with folder_on_disk() as folder:
    cases = {f"here {num_runs}": partial(launched, folder, num_runs, 0) for num_runs in (1, SMALL, MIDDLE, LARGE)}
    cases |= {f"two {num_runs}": partial(launched, folder, num_runs, 2) for num_runs in (MIDDLE, LARGE)}
    cases["lines"] = partial(other, folder, JSON_LINES, MIDDLE)
    samples = interleaved(ROUNDS, cases)
    by_tool = others(folder)
    random.seed(0)
    killed = {workers: [kill_in_the_middle(folder, workers) for _ in range(KILLS)] for workers in (0, 2)}

per_run = {n: [seconds / n for seconds in samples[f"here {n}"]] for n in (SMALL, MIDDLE, LARGE)}
more = {
    way: [seconds / (LARGE - MIDDLE) for seconds in beyond(samples[f"{way} {LARGE}"], samples[f"{way} {MIDDLE}"])]
    for way in ("here", "two")
}
lines = [seconds / MIDDLE for seconds in samples["lines"]]
for num_runs, mine in per_run.items():
    same = [
        f"{name} {median(theirs) * 1e3:.3g} ms (ours is {median(mine) / median(theirs):.3g}×)"
        for name, theirs in by_tool.items()
        if name.endswith(f" {num_runs:,} runs")
    ]
    versus = "; ".join([*same, against("a bare flushed JSON line", mine, lines, "ms")])
    report(f"launch() per no-op run, {num_runs:,} runs in this process", mine, "ms", 0.3, versus)
ratios = [max(costs) / min(costs) for costs in zip(*per_run.values(), strict=True)]
report("the dearest of these sizes against the cheapest", ratios, "×", 1.3)
report("what a no-op run more costs, in this process", more["here"], "ms", 0.3)
report("what a no-op run more costs, two workers", more["two"], "ms")
report("  beyond that in this process", beyond(more["two"], more["here"]), "ms", 1)
report("the first launch() of a process, one run, with imports", samples["here 1"], "ms")
for way, name in ((0, "in this process"), (2, "two workers")):
    print(f"runs returned before SIGKILL, {name}: {sum(returned for returned, _ in killed[way]):,} in {KILLS} launches")
    report(f"of these lost, {name}", [sum(lost for _, lost in killed[way])], "runs", 0)
