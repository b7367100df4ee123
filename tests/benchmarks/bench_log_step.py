"""What logging a step costs, and what a killed process loses.

Measured: `m.log_step` of 20 scalars, 2,000 steps a round, in the caller. First the whole round divided by its calls, which
leaves out nothing; then the median call of each round. With TensorBoard on and off.
Against: torch's SummaryWriter (one add_scalar per scalar), and a bare JSON line, flushed, with no checksum.
Device: CPU and the disk of the temporary folder. 10 rounds, interleaved, after one that is not counted.

Then 10 processes that log without pause are killed by SIGKILL, each at another moment. Each said through a pipe how many
of its calls had returned, before it made the next. Another process reads what is there: no returned call may be missing.
"""

import json
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import namedtuple
from pathlib import Path

from measure import against, interleaved, machine, report
from torch.utils.tensorboard import SummaryWriter

from runmanager import RunManager, load_results

ROUNDS, STEPS, KILLS = 10, 2000, 10
Run = namedtuple("Run", "number")
random.seed(0)
STEP_SCALARS = [{f"scalar_{index}": random.random() for index in range(20)} for _ in range(STEPS)]

print(machine())


def mean_and_median(log) -> tuple[float, float]:
    """Seconds per call: all of the round, and the median call."""
    clock, seconds = time.perf_counter, []
    began = clock()
    for step, scalars in enumerate(STEP_SCALARS):
        before = clock()
        log(step, scalars)
        seconds.append(clock() - before)
    return (clock() - began) / STEPS, statistics.median(seconds)


with tempfile.TemporaryDirectory() as folder:
    numbers = iter(range(10**6))
    medians: dict[str, list[float]] = {"TensorBoard on": [], "TensorBoard off": []}
    managers = {
        "TensorBoard on": RunManager("on", root=folder, quiet=True),
        "TensorBoard off": RunManager("off", root=folder, quiet=True, tensorboard=False),
    }

    def ours(case: str) -> float:
        m = managers[case]
        m.begin_run(Run(next(numbers)))
        mean, median = mean_and_median(lambda step, scalars: m.log_step(**scalars))
        m.end_run()
        medians[case].append(median)
        return mean

    def summary_writer() -> float:
        writer = SummaryWriter(f"{folder}/summary_writer_{next(numbers)}")

        def log(step, scalars):
            for name, value in scalars.items():
                writer.add_scalar(name, value, step)

        mean, _ = mean_and_median(log)
        writer.close()
        return mean

    def json_line() -> float:
        with Path(folder, f"{next(numbers)}.jsonl").open("w") as file:

            def log(step, scalars):
                file.write(json.dumps({"step": step, **scalars}) + "\n")
                file.flush()

            return mean_and_median(log)[0]

    samples = interleaved(
        ROUNDS,
        {
            "TensorBoard on": lambda: ours("TensorBoard on"),
            "TensorBoard off": lambda: ours("TensorBoard off"),
            "SummaryWriter": summary_writer,
            "JSON line": json_line,
        },
    )

for case, mine in ((case, samples[case]) for case in medians):
    others = "; ".join(
        against(name, mine, samples[other], "µs")
        for name, other in (("SummaryWriter", "SummaryWriter"), ("a bare flushed JSON line", "JSON line"))
    )
    report(f"log_step, 20 scalars, {case}: whole round / calls", mine, "µs", 30, others)
    report(f"log_step, 20 scalars, {case}: median call", medians[case][1:], "µs", 30)


CHILD = """
import os, sys
from collections import namedtuple
from runmanager import RunManager
m = RunManager("killed", root=sys.argv[1], quiet=True)
m.begin_run(namedtuple("Run", "number")(int(sys.argv[2])))
step = 0
while True:
    step += 1
    m.log_step(**{f"scalar_{index}": step + index / 20 for index in range(20)})
    os.write(1, b"%d\\n" % step)
"""


def kill_while_logging(folder: str, number: int) -> int:
    """Kills a process that logs, and returns how many of its calls had returned."""
    child = subprocess.Popen([sys.executable, "-c", CHILD, folder, str(number)], stdout=subprocess.PIPE)
    assert child.stdout is not None
    enough = random.randint(200, 3000)
    for line in child.stdout:
        if int(line) >= enough:
            break
    os.kill(child.pid, signal.SIGKILL)
    returned = max(map(int, child.stdout.read().split()), default=enough)
    child.wait()
    return max(returned, enough)


with tempfile.TemporaryDirectory() as folder:
    returned = {number: kill_while_logging(folder, number) for number in range(KILLS)}
    steps = load_results(Path(folder, "runs", "killed"), steps=True)
    lost = []
    for number, num_returned in returned.items():
        mine = steps[steps["number"] == number].set_index("step")
        sound = {step for step, value in mine["scalar_7"].items() if value == step + 7 / 20}
        lost.append(len(set(range(1, num_returned + 1)) - sound))

print(f"calls returned before SIGKILL: {sum(returned.values()):,} in {KILLS} processes")
report("log_step calls lost by SIGKILL", [sum(lost)], "calls", 0)
