"""How long it takes to read results back, and whether a large sweep slows down the next run.

Measured: `load_results` of 1,000 runs × 100 epochs, with 4 metrics (loss, accuracy, val_loss, val_accuracy) of 16 digits and 4
parameters (a float, an integer, a boolean, a word), in a fresh process that has imported pandas, and nothing of runmanager:
our own imports are counted. It also checks that every loss came back bit for bit.
Then, for information, the slow way: the results CSV is gone, and the journals are read instead.
Against: a bare `pandas.read_csv` of the same file, in a fresh process too.
At last runs are added to that sweep, to see whether what is there already makes them slower: begin_run + end_run, and
end_epoch, against an empty sweep. A manager's first `begin_run` reads the sweep, and is timed apart.
Device: CPU and warm file caches. 15 processes each (5 for the slow way) and 50 runs each, interleaved, after a round that is
not counted.
"""

import random
import subprocess
import sys
import tempfile
import time
from collections import namedtuple
from pathlib import Path

from measure import against, interleaved, machine, report, seconds_of

from runmanager import RunManager
from runmanager.tracking.owner import this_process
from runmanager.tracking.results import rebuild
from runmanager.tracking.rows import COMPLETED, EpochRow
from runmanager.tracking.run_dir import SweepDir

ROUNDS, SLOW_ROUNDS, ADDED, RUNS, EPOCHS = 15, 5, 50, 1000, 100
Run = namedtuple("Run", "lr batch_size shuffle optimizer")

LOAD = """
import sys, time, pandas
began = time.perf_counter()
from runmanager import load_results
frame = load_results(sys.argv[1])
seconds = time.perf_counter() - began
assert len(frame) == int(sys.argv[3]), len(frame)
assert frame["loss"].sum().hex() == sys.argv[4], "a loss came back changed"
print(seconds)
"""
READ_CSV = """
import sys, time, pandas
began = time.perf_counter()
pandas.read_csv(sys.argv[2])
print(time.perf_counter() - began)
"""


def make_sweep(sweep_dir: SweepDir) -> str:
    """Writes the journals as a training process does, then the tables; returns the sum of the losses, exactly."""
    import pandas as pd

    random.seed(0)
    losses = []
    sweep_dir.make()
    for number in range(1, RUNS + 1):
        params = {
            "lr": random.random() / 10,
            "batch_size": random.choice([100, 1000]),
            "shuffle": random.random() < 0.5,
            "optimizer": random.choice(["sgd", "adam", "adamw"]),
        }
        run_dir = sweep_dir.make_run(number, params, seed=number)
        journal = run_dir.open_journal()
        journal.append("begin", {"attempt": 1, "time": time.time(), "owner": this_process()})
        for epoch in range(1, EPOCHS + 1):
            loss, accuracy, val_loss, val_accuracy = (random.random() for _ in range(4))
            metrics = {"val_loss": val_loss, "val_accuracy": val_accuracy}
            row = EpochRow(number, epoch, loss, accuracy, random.random(), random.random() + epoch, metrics)
            journal.append("epoch", row.record())
            losses.append(loss)
        journal.append("end", {"status": COMPLETED, "run_seconds": 101.0, "error": None, "traceback": None})
        journal.close()
    rebuild(sweep_dir)
    return float(pd.Series(losses).sum()).hex()


def add_run(m: RunManager, lr: float, epoch_ends: list[float] | None = None) -> float:
    """Seconds for begin_run and end_run; an epoch in between is timed apart."""
    seconds = seconds_of(lambda: m.begin_run(Run(lr, 100, True, "adam")))
    m.begin_epoch()
    m.log(val_loss=0.5, val_accuracy=0.5)
    epoch_seconds = seconds_of(m.end_epoch)
    if epoch_ends is not None:
        epoch_ends.append(epoch_seconds)
    return seconds + seconds_of(m.end_run)


print(machine())
with tempfile.TemporaryDirectory() as folder:
    sweep_dir = SweepDir(Path(folder), "large")
    sum_of_losses = make_sweep(sweep_dir)
    words = [str(sweep_dir.path), str(sweep_dir.epochs_csv), str(RUNS * EPOCHS), sum_of_losses]

    def in_a_fresh_process(code: str) -> float:
        done = subprocess.run([sys.executable, "-c", code, *words], check=True, stdout=subprocess.PIPE, text=True)
        return float(done.stdout)

    cases = {"load_results": lambda: in_a_fresh_process(LOAD), "read_csv": lambda: in_a_fresh_process(READ_CSV)}
    samples = interleaved(ROUNDS, cases)
    print(f"the CSV: {RUNS * EPOCHS:,} rows, {sweep_dir.epochs_csv.stat().st_size / 1e6:.1f} MB")
    sweep_dir.epochs_csv.unlink()
    slow = interleaved(SLOW_ROUNDS, {"slow": cases["load_results"]})["slow"]

    large = RunManager("large", root=folder, tensorboard=False, quiet=True)
    empty = RunManager("empty", root=folder, tensorboard=False, quiet=True)
    first = add_run(large, 1.0)
    add_run(empty, 1.0)
    learning_rates = iter(range(2, 10**6))
    large_ends: list[float] = []
    empty_ends: list[float] = []
    added = interleaved(
        ADDED,
        {
            "large": lambda: add_run(large, next(learning_rates), large_ends),
            "empty": lambda: add_run(empty, next(learning_rates), empty_ends),
        },
    )
    large.close()
    empty.close()

loaded, bare = samples["load_results"], samples["read_csv"]
report("load_results, 100,000 rows", loaded, "s", 0.25, against("bare pandas.read_csv", loaded, bare, "s"))
report("load_results, 100,000 rows, from the journals (no CSV)", slow, "s")
versus = against("an empty sweep", added["large"], added["empty"], "ms")
report("begin_run + end_run in a sweep of 100,000 rows, TensorBoard off", added["large"], "ms", 3, versus)
versus = against("an empty sweep", large_ends, empty_ends, "ms")
report("end_epoch in a sweep of 100,000 rows", large_ends, "ms", 0.1, versus)
report("the first begin_run in a sweep of 100,000 rows", [first], "ms")
