"""How long a command takes before it does anything.

Measured: whole processes, from their start to their end, with warm file caches:
  - `python -c "import runmanager"`, beyond `python -c pass`
  - `runmanager --help`
  - `runmanager results SWEEP`, on a sweep of 8 runs and 3 epochs
Against: the bare interpreter. Device: CPU. 15 rounds, interleaved, after one that is not counted.
It also checks that neither `import runmanager` nor `runmanager results` imports torch or pandas.
"""

import subprocess
import sys
import tempfile
from collections import OrderedDict
from pathlib import Path

from measure import against, beyond, interleaved, machine, report, seconds_of

from runmanager import RunBuilder, RunManager

ROUNDS = 15
HEAVY = "heavy = {'torch', 'pandas'} & set(sys.modules); assert not heavy, f'imported: {heavy}'"

print(machine())
with tempfile.TemporaryDirectory() as project:
    m = RunManager("speed", root=project, tensorboard=False, quiet=True)
    for run in RunBuilder.get_runs(OrderedDict(lr=[0.01, 0.001], batch_size=[100, 1000], shuffle=[True, False])):
        m.begin_run(run)
        for epoch in range(3):
            m.begin_epoch()
            m.log(val_loss=run.lr / (epoch + 1), val_accuracy=0.5)
            m.end_epoch()
        m.end_run()
    m.close()

    def python(code: str) -> None:
        subprocess.run([sys.executable, "-c", code], check=True, cwd=project)

    def runmanager(*words: str) -> None:
        command = Path(sys.executable).with_name("runmanager")
        subprocess.run([command, *words], check=True, cwd=project, stdout=subprocess.DEVNULL)

    python(f"import runmanager, sys; {HEAVY}")
    python(
        f"import atexit, os, sys; sys.argv = ['runmanager', 'results', 'speed']; sys.stdout = open(os.devnull, 'w')\n"
        f"from runmanager.cli import app; app(standalone_mode=False); {HEAVY}"
    )
    samples = interleaved(
        ROUNDS,
        {
            "bare": lambda: seconds_of(lambda: python("pass")),
            "import": lambda: seconds_of(lambda: python("import runmanager")),
            "help": lambda: seconds_of(lambda: runmanager("--help")),
            "results": lambda: seconds_of(lambda: runmanager("results", "speed")),
        },
    )

bare = samples["bare"]
more = beyond(samples["import"], bare)
report(
    "import runmanager, beyond a bare interpreter", more, "s", 0.1, against("bare python", samples["import"], bare, "s")
)
report("runmanager --help", samples["help"], "s", 0.4, against("bare python", samples["help"], bare, "s"))
report(
    "runmanager results, 8 runs", samples["results"], "s", 0.8, against("bare python", samples["results"], bare, "s")
)
