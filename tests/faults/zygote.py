"""Launches sweeps in forks of itself, so that a launch costs hundredths of a second and not the imports as well.

Reads requests as JSON lines, `{"folder", "args", "harm", "file_size", "seconds"}`, and answers each with
`{"status", "out", "operations"}`. A fork is as good as a fresh process here: nothing of a launch has happened yet, there are no
threads, and it ends by `os._exit` or by a kill. `--torch` loads torch and the trainer as well, `--tensorboard` its writer.
"""

import atexit
import io
import json
import os
import resource
import signal
import sys
import tempfile
import threading
import traceback
from typing import Any

import runmanager.launching.launch
import runmanager.launching.sweep_training
import runmanager.reporting.tables
import runmanager.tracking.results  # noqa: F401
from runmanager.cli import app, main

from harm import Harm, limit_file_size  # isort: skip


def launch(request: dict[str, Any], operations: str) -> int:
    """What `runmanager` does with these arguments; returns its exit status."""
    harm = Harm(request["folder"], **(request["harm"] or {"kind": "kill", "at": 0}))
    harm.install()
    if request["file_size"] is not None:
        limit_file_size(request["file_size"])
    sys.argv = ["runmanager", *request["args"]]
    try:
        main()
        status = 0
    except SystemExit as error:
        status = error.code if isinstance(error.code, int) else int(error.code is not None)
    except BaseException as error:  # noqa: BLE001 (what the interpreter would do with it)
        sys.excepthook(type(error), error, error.__traceback__)
        status = 1
    atexit._run_exitfuncs()
    sys.stdout.flush()
    limit_file_size(resource.RLIM_INFINITY)
    with open(operations, "w") as file:
        file.write("\n".join(harm.operations))
    return status


def answer(request: dict[str, Any], operations: str) -> dict[str, Any]:
    """Forks, waits, and tells how it ended."""
    os.truncate(operations, 0)
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        status = 70
        try:
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            os.dup2(writer, 1)
            os.dup2(writer, 2)
            os.closerange(3, 20)
            sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115
            os.chdir(request["folder"])
            status = launch(request, operations)
        except BaseException:  # noqa: BLE001
            traceback.print_exc()
        finally:
            os._exit(status)
    os.close(writer)
    killer = threading.Timer(request["seconds"] or 0, os.kill, (pid, signal.SIGKILL))
    if request["seconds"] is not None:
        killer.start()
    with open(reader, "rb") as pipe:
        out = pipe.read().decode(errors="replace")
    killer.cancel()
    if killer.ident:
        killer.join()  # before the process id may be another's
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    with open(operations) as file:
        names = file.read().split("\n")
    return {"status": status, "out": out, "operations": [name for name in names if name]}


def warm_up() -> None:
    """Loads what a launch loads when it is first needed."""
    command: Any = app
    command.commands["launch"].make_context("launch", ["toy", "--workers", "0"])
    import runmanager.launching.here
    import runmanager.tracking.manager  # noqa: F401


def warm_up_torch() -> None:
    """Loads torch, and what it loads with the first step of an optimizer and the first batch."""
    import torch

    import runmanager.training.trainer  # noqa: F401

    torch.set_num_threads(1)
    network = torch.nn.Linear(1, 1)
    optimizer = torch.optim.Adam(network.parameters())
    for (batch,) in torch.utils.data.DataLoader(torch.utils.data.TensorDataset(torch.ones(2, 1))):
        torch.nn.functional.cross_entropy(network(batch), torch.zeros(1, dtype=torch.long)).backward()
    optimizer.step()
    torch.save(optimizer.state_dict(), io.BytesIO())


def serve() -> None:
    """Answers until its input ends."""
    warm_up()
    if "--torch" in sys.argv:
        warm_up_torch()
    if "--tensorboard" in sys.argv:
        import runmanager.tracking.tensorboard  # noqa: F401
    descriptor, operations = tempfile.mkstemp()  # no TemporaryDirectory, which each fork would remove at its end
    os.close(descriptor)
    for line in sys.stdin:
        print(json.dumps(answer(json.loads(line), operations)), flush=True)
    os.unlink(operations)


if __name__ == "__main__":
    serve()
