"""Several launches of one sweep at once share its runs: each is trained once, and none is lost."""

import json
import os
import signal
import subprocess
import sys
from collections import Counter
from contextlib import ExitStack

import pytest

BEFORE = "import os\nimport time\nfrom pathlib import Path"
COUNTED = """\
with open("trained", "a") as file:
    file.write(f"{run.k} {os.getpid()}\\n")
m.begin_epoch()
time.sleep(0.01)
m.log(val_loss=run.k)
m.end_epoch()
"""


MET = """\
Path(f"in-{os.getpid()}").touch()
for _ in range(600):
    if len(list(Path().glob("in-*"))) > 1:
        break
    time.sleep(0.05)
"""
UNTIL_GO = """\
for _ in range(600):
    if Path("go").exists():
        break
    time.sleep(0.05)
"""


def launches(project, stack, number, *options, workers="0"):
    command = ("launch", "tiny", "--no-tensorboard", "--workers", workers, *options)
    return [stack.enter_context(project.forked(*command)) for _ in range(number)]


def launch_that_waits(project, stack, workers="0"):
    """A launch that waits for another one, and the line that says so."""
    process = stack.enter_context(project.started("launch", "tiny", "--no-tensorboard", "--workers", workers))
    return process, next((line for line in process.stdout if "waiting for" in line), "")


def trained(project):
    return Counter(int(line.split()[0]) for line in (project.root / "trained").read_text().splitlines())


def table(project):
    return [(row["run"], row["k"]) for row in json.loads((project.root / "results/tiny.json").read_text())]


@pytest.mark.parametrize("workers", ["0", "1"])
def test_eight_launches_at_once_train_each_run_once(workers, project, forked_workers):
    ks = list(range(60))
    project.by_function(MET + COUNTED, params=f"{{'k': {ks}}}", before=BEFORE, sweep="objective='val_loss'")
    with ExitStack() as stack:
        processes = launches(project, stack, 8, workers=workers)
        answers = [project.said(process) for process in processes]
    assert [answer.status for answer in answers] == [0] * 8, [answer.err for answer in answers]
    assert [answer.err for answer in answers] == [""] * 8
    assert trained(project) == Counter(ks)
    history = project.history()
    assert [(run.number, run.params["k"], run.status, run.attempts) for run in history.runs] == [
        (k + 1, k, "completed", 1) for k in ks
    ]
    assert table(project) == [(k + 1, k) for k in ks]
    pids = {line.split()[1] for line in (project.root / "trained").read_text().splitlines()}
    assert len(pids) > 1  # they did share
    for answer in answers:
        assert "60 runs, best val_loss first" in answer.out  # each has waited for the others' runs


def test_a_run_whose_launch_is_killed_is_taken_over_by_the_one_that_waits(project):
    body = "Path(f'in-{os.getpid()}').touch()\n" + UNTIL_GO + COUNTED
    project.by_function(body, params="{'k': [1]}", before=BEFORE)
    with ExitStack() as stack:
        (first,) = launches(project, stack, 1)
        project.wait_for(f"in-{first.pid}")
        second, _ = launch_that_waits(project, stack)
        (project.root / "go").touch()
        os.kill(first.pid, signal.SIGSTOP)  # whether it has seen the file or not, it does not end
        os.kill(first.pid, signal.SIGKILL)
        first.communicate()
        said = project.said(second, 20)
    assert said.status == 0, said.err
    (run,) = project.history().runs
    assert run.status == "completed"
    assert run.attempts in (1, 2)


def test_a_launch_that_waits_says_for_whom(project):
    body = "Path('begun').touch()\n" + UNTIL_GO + COUNTED
    project.by_function(body, params="{'k': [1]}", before=BEFORE)
    with ExitStack() as stack:
        (first,) = launches(project, stack, 1)
        project.wait_for("begun")
        second, line = launch_that_waits(project, stack)
        (project.root / "go").touch()
        said = project.said(second, 20)
        assert project.said(first, 20).status == 0
    assert said.status == 0
    assert trained(project) == {1: 1}
    assert f"pid {first.pid}" in line


def test_a_launch_that_waits_for_another_stops_at_once(project):
    body = "Path('begun').touch()\n" + UNTIL_GO + COUNTED
    project.by_function(body, params="{'k': [1]}", before=BEFORE)
    for workers in ("0", "1"):
        with ExitStack() as stack:
            (first,) = launches(project, stack, 1, "--fresh")
            project.wait_for("begun")
            second, _ = launch_that_waits(project, stack, workers)
            second.send_signal(signal.SIGINT)
            assert project.said(second, 20).status == 130
            (project.root / "go").touch()
            assert project.said(first, 20).status == 0
        for name in ("begun", "go"):
            (project.root / name).unlink()


def test_two_launches_of_which_one_has_a_grown_grid(project):
    slow = COUNTED.replace("0.01", "0.1")
    project.by_function(slow, params="{'k': list(range(8))}", before=BEFORE)
    with ExitStack() as stack:
        (first,) = launches(project, stack, 1)
        project.wait_for("trained")
        project.by_function(slow, params="{'k': list(range(-4, 8))}", before=BEFORE)
        (second,) = launches(project, stack, 1)
        answers = [project.said(first), project.said(second)]
    assert [answer.status for answer in answers] == [0, 0], [answer.err for answer in answers]
    assert trained(project) == Counter(range(-4, 8))
    numbers = {run.params["k"]: run.number for run in project.history().runs}
    assert numbers == {**{k: k + 1 for k in range(8)}, **{k: k + 13 for k in range(-4, 0)}}
    assert len(table(project)) == 12


def test_a_fresh_start_beside_a_running_launch_is_refused(project):
    body = "Path('begun').touch()\n" + UNTIL_GO + COUNTED
    project.by_function(body, params="{'k': [1, 2]}", before=BEFORE)
    with ExitStack() as stack:
        (first,) = launches(project, stack, 1)
        project.wait_for("begun")
        (second,) = launches(project, stack, 1, "--fresh", workers="1")
        said = project.said(second)
        assert said.status == 2
        assert "--fresh: run 1 is being trained by another process; stop that first" in said.err
        (project.root / "go").touch()
        assert project.said(first).status == 0
    assert trained(project) == {1: 1, 2: 1}


def test_a_run_that_this_very_process_has_open_is_not_waited_for(project):
    """In a notebook, say: it would wait for itself, for ever."""
    project.by_function(COUNTED, params="{'k': [1, 2]}", before=BEFORE)
    code = (
        "from runmanager import RunBuilder, RunManager, launch\n"
        "m = RunManager('tiny', tensorboard=False, quiet=True)\n"
        "m.begin_run(RunBuilder.get_runs({'k': [1]})[0])\n"
        "try:\n    launch('tiny', tensorboard=False)\nexcept Exception as error:\n    print(type(error).__name__, error)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code], cwd=project.root, env=project.environment(), stdout=subprocess.PIPE, text=True
    )
    try:
        out, _ = process.communicate(timeout=30)
    except subprocess.TimeoutExpired:
        pytest.fail("it waits for itself")
    finally:
        process.kill()
    assert "run 1" in out
