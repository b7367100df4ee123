"""Runs that never end: stopped at their deadline, marked timed out, with the place where they hung in their log."""

import threading
import time
from pathlib import Path

import pytest

BEFORE = """\
import ctypes
import os
import signal
import threading
import time
from pathlib import Path

C = ctypes.PyDLL(None)  # which keeps the GIL while it calls

def busy():
    while True:
        pass

def asleep():
    time.sleep(1e9)

def holding_the_gil():
    while True:  # a signal ends a sleep
        C.sleep(100)

def holding_the_gil_once():
    C.sleep(100)

def deaf():
    signal.pthread_sigmask(signal.SIG_BLOCK, set(signal.Signals) - {signal.SIGKILL, signal.SIGSTOP})
    while True:
        time.sleep(0.01)

def stubborn():
    while True:
        try:
            time.sleep(0.01)
        except BaseException:
            pass

def stopped():
    os.kill(os.getpid(), signal.SIGSTOP)

def beat():
    while True:
        time.sleep(0.02)

def deadlocked():
    threading.Thread(target=beat, daemon=True).start()
    lock = threading.Lock()
    def locked_twice():
        with lock, lock:
            pass
    thread = threading.Thread(target=locked_twice)
    thread.start()
    thread.join()

def child():
    import subprocess
    subprocess.run(["sleep", "1000"])

def fine():
    pass
"""
BODY = """\
print("pid", os.getpid(), flush=True)
Path(f"begun-{run.hang}").write_text(f"{os.getpid()} {time.monotonic()}")
globals()[run.hang.split()[0]]()
return {"x": 1.0}
"""
HANGS = [
    "busy",
    "asleep",
    "holding_the_gil",
    "holding_the_gil_once",
    "deaf",
    "stubborn",
    "stopped",
    "deadlocked",
    "child",
]
SILENT = {"deaf", "stopped"}  # they take no signal that would have them say where they are
FINE = ["fine 1", "fine 2", "fine 3"]
TIMEOUT = 1.5
LATEST = 15.0  # seconds that a run may live beyond its deadline, on a busy machine
EARLIEST = 0.5  # seconds that a busy machine may take from the run's begin to its function's


class Deaths(threading.Thread):
    """Notes when each of the processes that wrote a file `begun-<name>` was gone, by the monotonic clock."""

    def __init__(self, root: Path) -> None:
        super().__init__(daemon=True)
        self._root, self._is_over = root, threading.Event()
        self._alive: dict[str, tuple[int, float]] = {}
        self.seconds: dict[str, float] = {}
        """How long each one lived after it had begun."""

    def run(self) -> None:
        while not self._is_over.wait(0.02):
            for file in self._root.glob("begun-*"):
                words = file.read_text().split()
                if len(words) == 2 and file.name not in self._alive:
                    self._alive[file.name] = (int(words[0]), float(words[1]))
            for name, (pid, began) in self._alive.items():
                if name not in self.seconds and not lives(pid):
                    self.seconds[name] = time.monotonic() - began

    def __enter__(self) -> "Deaths":
        self.start()
        return self

    def __exit__(self, *error: object) -> None:
        time.sleep(0.1)
        self._is_over.set()
        self.join()


def lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_bytes().rpartition(b") ")[2][:1] != b"Z"
    except OSError:
        return False


def log_of(project, run):
    return (project.root / "runs" / "tiny" / run.folder / "log.txt").read_text(errors="replace")


_ended = []


@pytest.fixture
def ended(project):
    """All hangs at once in one launch, made for the first test that asks and kept for the others."""
    if not _ended:
        project.by_function(BODY, before=BEFORE, params=f"{{'hang': {HANGS + FINE}}}")
        with Deaths(project.root) as deaths:
            said = project.process(
                "launch", "tiny", "--workers", str(len(HANGS)), "--no-tensorboard", "--run-timeout", str(TIMEOUT)
            )
        _ended.append((project, said, {run.params["hang"]: run for run in project.history().runs}, deaths.seconds))
    return _ended[0]


@pytest.mark.parametrize("hang", HANGS)
def test_a_hung_run_is_marked_timed_out_with_the_reason(ended, hang):
    _, _, runs, _ = ended
    assert runs[hang].status == "timed out"
    assert "longer than 1.5" in runs[hang].error.replace("1.50", "1.5")
    assert "--run-timeout" in runs[hang].error


@pytest.mark.parametrize("hang", HANGS)
def test_a_hung_run_is_stopped_soon_after_its_deadline(ended, hang):
    _, _, runs, seconds = ended
    assert TIMEOUT - EARLIEST <= seconds[f"begun-{hang}"] <= TIMEOUT + LATEST
    assert TIMEOUT <= runs[hang].run_seconds <= TIMEOUT + LATEST


@pytest.mark.parametrize("hang", [hang for hang in HANGS if hang not in SILENT])
def test_the_log_names_the_function_that_a_run_hung_in(ended, hang):
    project, _, runs, _ = ended
    log = log_of(project, runs[hang])
    assert f"in {hang}" in log
    assert "in train" in log


def test_the_log_shows_every_thread_of_a_deadlocked_run(ended):
    project, _, runs, _ = ended
    log = log_of(project, runs["deadlocked"])
    assert [name for name in ("in locked_twice", "in beat", "in deadlocked") if name not in log] == []


def test_the_runs_after_hung_ones_complete_in_their_slots(ended):
    _, said, runs, _ = ended
    assert [runs[name].status for name in FINE] == ["completed"] * len(FINE)
    assert {run.attempts for run in runs.values()} == {1}
    assert said.status == 1
    assert "cannot be recorded" not in said.err


def test_no_process_of_a_hung_run_is_left(ended):
    project, _, _, _ = ended
    project.wait_for(lambda: not project.alive())  # the last ones may be giving back their memory


EPOCHS = """\
print("pid", os.getpid(), flush=True)
for epoch in range(5):
    m.begin_epoch()
    if epoch == 1 and run.hang != "fine":
        Path(f"begun-{run.hang}").write_text(f"{os.getpid()} {time.monotonic()}")
        globals()[run.hang.split()[0]]()
    time.sleep(0.4)
    m.log(score=epoch + 1)
    m.end_epoch()
"""


def test_a_run_that_hangs_in_its_second_epoch_keeps_the_first_and_one_of_many_epochs_goes_on(project):
    names = ["busy", "holding_the_gil", "fine"]  # which takes longer than an epoch may
    project.by_function(EPOCHS, before=BEFORE, params=f"{{'hang': {names}}}")
    with Deaths(project.root) as deaths:
        said = project.process("launch", "tiny", "--workers", "3", "--no-tensorboard", "--epoch-timeout", "1.5")
    assert said.status == 1
    runs = project.history().runs
    assert [run.status for run in runs] == ["timed out", "timed out", "completed"]
    assert [len(run.rows) for run in runs] == [1, 1, 5]
    for run in runs[:2]:
        assert "epoch 2 took longer than 1.5" in run.error and "--epoch-timeout" in run.error
        assert f"in {run.params['hang']}" in log_of(project, run)
        assert TIMEOUT - EARLIEST <= deaths.seconds[f"begun-{run.params['hang']}"] <= TIMEOUT + LATEST
        assert 0.4 + TIMEOUT <= run.run_seconds <= 0.4 + TIMEOUT + LATEST


def test_a_timed_out_run_is_retried_when_that_is_asked_for(project):
    body = "if not Path('hung').exists():\n    Path('hung').touch()\n    time.sleep(1e9)\nreturn {'x': 1.0}"
    project.by_function(body, before="import time\nfrom pathlib import Path", params="{'k': [1]}")
    options = ("launch", "tiny", "--workers", "1", "--no-tensorboard", "-q", "--run-timeout", "0.7")
    said = project.process(*options, "--retries", "1")
    assert (said.status, project.statuses(), project.history().runs[0].attempts) == (0, {1: "completed"}, 2)
