"""No process is left: neither of a killed driver, nor of a stopped one, nor of a killed worker. Found by their environment."""

import os
import signal
import time
from pathlib import Path

import pytest

LATEST = 15.0  # seconds until nothing may be left, on a busy machine
BEFORE = """\
import ctypes
import os
import signal
import subprocess
import time
from pathlib import Path

def say(name, *words):
    Path(f"{name}.new").write_text(" ".join(map(str, words)))
    Path(f"{name}.new").rename(name)

def with_loader(name):
    import torch
    from torch.utils.data import DataLoader
    torch.set_num_threads(1)
    batches = DataLoader(list(range(100_000)), batch_size=1, num_workers=2)
    child = subprocess.Popen(["sh", "-c", "trap '' TERM; sleep 1000; sleep 1000"])
    for number, batch in enumerate(batches):
        if number == 10:
            say(name, os.getpid(), child.pid)
        time.sleep(0.01)

def holding_the_gil(name):
    say(name, os.getpid())
    while True:
        ctypes.PyDLL(None).sleep(100)

def stubborn(name):
    for number in set(signal.Signals) - {signal.SIGKILL, signal.SIGSTOP}:
        signal.signal(number, signal.SIG_IGN)
    say(name, os.getpid())
    while True:
        time.sleep(0.1)

def forking(name):
    if os.fork() == 0:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        os.fork()
        time.sleep(1000)
    say(name, os.getpid())
    time.sleep(1000)

def fine(name):
    say(name, os.getpid())
"""
BODY = "globals()[run.kind.split()[0]](run.kind)\nreturn {'x': 1.0}"


def begin(project, *kinds):
    """Writes the sweep; the words of the launch that trains all of its runs at once."""
    project.by_function(BODY, before=BEFORE, params=f"{{'kind': {list(kinds)}}}")
    return "launch", "tiny", "--workers", str(len(kinds)), "--no-tensorboard", "--quiet", "--grace", "0.5"


def nothing_is_left(project):
    """Or fails with what is still there."""
    began = time.monotonic()
    while left := project.alive():
        assert time.monotonic() - began < LATEST, [command_of(pid) for pid in left]
        time.sleep(0.02)


def command_of(pid):
    try:
        return f"{pid} of group {os.getpgid(pid)}: {Path(f'/proc/{pid}/cmdline').read_bytes()!r:.200}"
    except OSError:
        return f"{pid} is gone"


def of_group(project, group):
    found = []
    for pid in project.alive():
        try:
            if os.getpgid(pid) == group:
                found.append(pid)
        except ProcessLookupError:
            pass
    return found


@pytest.mark.slow
def test_nothing_is_left_soon_after_a_driver_is_killed(project):
    kinds = ("with_loader", "holding_the_gil", "stubborn", "forking")
    with project.started(*begin(project, *kinds)) as process:
        for kind in kinds:
            project.wait_for(kind, 60)
        assert len(project.alive()) >= 1 + 1 + 4 + 2 + 2 + 2  # driver, guard, workers, loaders, sh and sleep, forks
        process.kill()
        process.wait()
        nothing_is_left(project)
    project.wait_for(lambda: set(project.statuses().values()) == {"interrupted"})


@pytest.mark.slow
def test_a_killed_worker_takes_its_loaders_along_and_a_stopped_driver_all_the_rest(project):
    with project.started(*begin(project, "with_loader", "stubborn", "fine")) as process:
        for kind in ("with_loader", "stubborn", "fine"):
            project.wait_for(kind, 60)
        worker, child = map(int, (project.root / "with_loader").read_text().split())
        assert len(of_group(project, worker)) >= 5  # itself, two loaders, sh, sleep
        os.kill(worker, signal.SIGKILL)
        project.wait_for(lambda: not of_group(project, worker), LATEST)
        assert child not in project.alive()
        project.wait_for(lambda: project.statuses()[1] == "killed")
        assert project.statuses() == {1: "killed", 2: "running", 3: "completed"}
        process.send_signal(signal.SIGTERM)
        said = project.said(process, 30)
        nothing_is_left(project)
    assert said.status == 143
    assert project.statuses() == {1: "killed", 2: "interrupted", 3: "completed"}


@pytest.mark.parametrize(
    "number",
    [signal.SIGTERM, *(pytest.param(number, marks=pytest.mark.long) for number in (signal.SIGINT, signal.SIGHUP))],
    ids=lambda number: number.name,
)
def test_nothing_is_left_of_a_driver_that_a_signal_stops(project, number):
    kinds = ("holding_the_gil", "stubborn", "forking")
    with project.started(*begin(project, *kinds)) as process:
        for kind in kinds:
            project.wait_for(kind)
        process.send_signal(number)
        said = project.said(process, LATEST)
        nothing_is_left(project)
    assert said.status == 128 + number
    assert set(project.statuses().values()) == {"interrupted"}


def test_nothing_is_left_of_a_driver_that_is_told_to_stop_twice(project):
    options = begin(project, "stubborn", "forking")
    with project.forked(*options[:-3], "--grace", "100") as process:
        project.wait_for("stubborn"), project.wait_for("forking")
        process.send_signal(signal.SIGTERM)
        project.wait_for(lambda: "once more stops now" in process.printed()[1])  # or both might be one to it
        process.send_signal(signal.SIGTERM)
        said = project.said(process, LATEST)
        nothing_is_left(project)
    assert said.status == 143


def test_children_that_a_completed_run_forgot_are_gone_with_the_launch(project):
    body = "import subprocess\nsubprocess.Popen(['sh', '-c', \"trap '' TERM INT HUP; sleep 1000\"])\nreturn {'x': 1.0}"
    project.by_function(body, params="{'k': [1, 2, 3]}")
    said = project.process("launch", "tiny", "--workers", "2", "--no-tensorboard", "--quiet")
    assert said.status == 0
    nothing_is_left(project)


@pytest.mark.parametrize(
    "moment", [0.05, 0.2, *(pytest.param(moment, marks=pytest.mark.long) for moment in (0.03, 0.08, 0.15, 0.3))]
)
def test_nothing_is_left_of_a_driver_that_is_killed_while_it_starts(project, moment):
    with project.started(*begin(project, "forking", "stubborn")) as process:
        time.sleep(moment)
        process.kill()
        process.wait()
        nothing_is_left(project)


def test_a_run_trains_on_when_its_driver_is_suspended_for_a_while(project):
    """A suspended laptop, or Ctrl-Z: the workers train on, and nothing is killed for it."""
    body = "for epoch in range(4):\n    m.begin_epoch()\n    time.sleep(0.1)\n    m.log(x=epoch)\n    m.end_epoch()\n"
    project.by_function(
        body + "Path('done').touch()", before="import time\nfrom pathlib import Path", params="{'k': [1]}"
    )
    options = ("launch", "tiny", "--workers", "1", "--no-tensorboard", "--quiet", "--epoch-timeout", "60")
    with project.started(*options) as process:
        project.wait_for("runs/tiny")
        process.send_signal(signal.SIGSTOP)
        time.sleep(0.4)
        process.send_signal(signal.SIGCONT)
        said = project.said(process)
    assert (said.status, project.statuses()) == (0, {1: "completed"})
