"""Training in worker processes: limits of time, workers that die, what runs print, and sweep files that misbehave."""

import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from runmanager import Sweep, launch
from runmanager.launching.sweep import SweepError
from tests.launching.leaping_clock import HANGS, leap

BEFORE = "import os\nimport signal\nimport sys\nimport threading\nimport time\nfrom pathlib import Path"
EPOCH = "m.begin_epoch()\nm.log(val_loss=run.k)\nm.end_epoch()\n"
THREE = "{'k': [1, 2, 3]}"
SLEEPS = "for _ in range(600):\n        time.sleep(0.1)"
HOLDS_THE_GIL = "sum(__import__('itertools').repeat(0, 10**12))"
rarely = pytest.mark.long


def launched(project, *options, workers=1, start=None):
    """What the command says; it is a fork of this process, unless told otherwise."""
    words = ("launch", "tiny", "--no-tensorboard", "--workers", str(workers), *options)
    with (start or project.forked)(*words) as process:
        return project.said(process)


def in_run_two(code):
    """A sweep's body in which run 2 does this after its first epoch, the first time."""
    return f"{EPOCH}if run.k == 2 and not Path('mended').exists():\n    {code}\n"


def log_of(project, run):
    return (project.folders()[run - 1] / "log.txt").read_text()


def pids(project):
    """The process of each run."""
    return [run.owner["pid"] for run in project.history().runs]


HANG = {
    "sleeps": SLEEPS,
    "waits": "threading.Event().wait(60)",
    "spins": "while True: pass",
    "holds the GIL": HOLDS_THE_GIL,
    "ignores SIGTERM": f"signal.signal(signal.SIGTERM, signal.SIG_IGN)\n    {SLEEPS}",
}
LIKE_SLEEPING = ("waits", "spins")  # each lets a handler of signals run


@pytest.mark.parametrize("how", [pytest.param(how, marks=rarely) if how in LIKE_SLEEPING else how for how in HANG])
def test_a_run_that_takes_too_long_is_stopped_and_says_where_it_was(how, project, monkeypatch):
    leap(project.root, monkeypatch)
    project.by_function(in_run_two(f"{HANGS}\n    {HANG[how]}"), params=THREE, before=BEFORE)
    began = time.monotonic()
    said = launched(project, "--run-timeout", "100s")
    assert time.monotonic() - began < 45  # it would sleep for 60
    assert said.status == 1
    assert project.statuses() == {1: "completed", 2: "timed out", 3: "completed"}
    run = project.history().runs[1]
    assert run.error == "the run took longer than 1:40 (--run-timeout)"
    assert 0 < run.run_seconds < 45
    assert len(run.rows) == 1
    assert re.search(r'File ".*tiny\.py", line \d+ in train', log_of(project, 2))
    assert "run 2 timed out" in said.out


def test_a_run_that_timed_out_is_trained_again_when_its_status_is_named(project, monkeypatch):
    leap(project.root, monkeypatch)
    project.by_function(in_run_two(f"{HANGS}\n    {SLEEPS}"), params=THREE, before=BEFORE)
    assert launched(project, "--run-timeout", "100s").status == 1
    (project.root / "mended").touch()
    assert launched(project, "--retry-status", "timed-out").status == 0
    assert project.statuses() == {1: "completed", 2: "completed", 3: "completed"}


def test_an_epoch_that_takes_too_long_is_told_from_a_run_that_has_many(project):
    """By the real clock."""
    body = (
        "for epoch in range(8):\n    m.begin_epoch()\n    time.sleep(0.3)\n    m.log(v=1)\n    m.end_epoch()\n"
        f"if run.k == 2:\n    m.begin_epoch()\n    {SLEEPS}"
    )
    project.by_function(body, params="{'k': [1, 2]}", before=BEFORE)
    launched(project, "--epoch-timeout", "2", workers=2)
    assert project.statuses() == {1: "completed", 2: "timed out"}
    run = project.history().runs[1]
    assert run.error == "epoch 9 took longer than 2.00 s (--epoch-timeout)"
    assert len(run.rows) == 8


def test_a_run_that_timed_out_is_tried_again_when_asked(project, monkeypatch):
    leap(project.root, monkeypatch)
    mark = "mark = Path('tried')\nis_first = not mark.exists()\nmark.touch()\n"
    project.by_function(f"{mark}{EPOCH}if is_first:\n    {HANGS}\n    {SLEEPS}", params="{'k': [1]}", before=BEFORE)
    said = launched(project, "--run-timeout", "100s", "--retries", "1")
    (run,) = project.history().runs
    assert (run.status, run.attempts) == ("completed", 2)
    assert said.status == 0


def test_a_sweep_that_takes_too_long_stops_like_ctrl_c_and_exits_with_124(project, monkeypatch):
    leap(project.root, monkeypatch)
    both = f"Path(f'at{{run.k}}').touch()\n    if Path('at1').exists() and Path('at2').exists():\n        {HANGS}"
    epoch = f"m.begin_epoch()\n    time.sleep(0.05)\n    m.log(v=1)\n    m.end_epoch()\n    {both}"
    project.by_function(f"for epoch in range(1_000):\n    {epoch}", params=THREE, before=BEFORE)
    said = launched(project, "--sweep-timeout", "100s", workers=2)
    assert said.status == 124, said.out + said.err
    assert project.statuses() == {1: "interrupted", 2: "interrupted"}
    assert "stopped (the sweep took longer than 1:40 (--sweep-timeout))" in said.out
    assert "Traceback" not in said.out + said.err
    project.wait_for(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids(project)))


ENDS = {
    "SEGV": ("os.kill(os.getpid(), signal.SIGSEGV)", "the worker process was killed by SIGSEGV"),
    "a real SEGV": ("import ctypes; ctypes.string_at(0)", "the worker process was killed by SIGSEGV"),
    "KILL": ("os.kill(os.getpid(), signal.SIGKILL)", "the worker process was killed by SIGKILL"),
    "ABRT": ("os.abort()", "the worker process was killed by SIGABRT"),
    "_exit(0)": ("os._exit(0)", "the worker process ended with exit status 0 before the run had ended"),
    "_exit(3)": ("os._exit(3)", "the worker process ended with exit status 3 before the run had ended"),
}


LIKE_A_REAL_ONE = ("SEGV", "ABRT", "_exit(3)")  # a real SEGV, and _exit(0)


@pytest.mark.parametrize("end", [pytest.param(end, marks=rarely) if end in LIKE_A_REAL_ONE else end for end in ENDS])
def test_a_worker_that_dies_ends_one_run_which_says_why(end, project):
    code, reason = ENDS[end]
    project.by_function(f"print('hello from', run.k)\n{in_run_two(code)}", params="{'k': [1, 2, 3, 4]}", before=BEFORE)
    said = launched(project, workers=2 if end == "KILL" else 1)
    assert project.statuses() == {1: "completed", 2: "killed", 3: "completed", 4: "completed"}
    run = project.history().runs[1]
    assert run.error == reason
    assert len(run.rows) == 1
    assert "hello from 2" in log_of(project, 2)
    assert reason in said.out
    assert (said.status, said.err) == (1, "")
    if "SEGV" in end or end == "ABRT":
        assert re.search(r'File ".*tiny\.py", line \d+ in train', log_of(project, 2))


def test_a_worker_that_died_is_replaced_and_the_others_live_on(project):
    project.by_function(in_run_two("os._exit(1)"), params=THREE, before=BEFORE)
    launched(project)
    first, second, third = pids(project)
    assert first == second != third


def test_errors_of_any_kind_fail_one_run_each_and_the_worker_lives_on(project):
    errors = {
        1: "raise Unpicklable(lambda: 1)",
        2: "raise ValueError('x' * 10_000_000)",
        3: "raise Silent",
        4: "raise ValueError('\\ud800 \\x00 first line\\nsecond line')",
        5: "raise ExceptionGroup('many', [ValueError('one'), TypeError('two')])",
        6: "raise BaseException('basest')",
        7: "recurse = lambda: recurse()\n    recurse()",
        8: "raise MemoryError",
    }
    classes = (
        "class Unpicklable(Exception):\n    def __init__(self, inner):\n        self.inner = inner\n"
        "class Silent(Exception):\n    def __str__(self):\n        raise ValueError('no text')\n"
    )
    body = "".join(f"if run.k == {k}:\n    {code}\n" for k, code in errors.items())
    project.by_function(EPOCH + body, params="{'k': list(range(10))}", before=f"{BEFORE}\n{classes}")
    said = launched(project)
    statuses = project.statuses()
    assert [statuses[number] for number in (1, 10)] == ["completed"] * 2
    assert [statuses[number] for number in range(2, 9)] == ["failed"] * 7
    assert statuses[9] == "out of memory"
    for run in project.history().runs[1:9]:
        assert len(run.error) < 2_000
        assert "tiny.py" in run.traceback
        assert len(run.traceback) <= 100_000
    assert len(set(pids(project)[:9])) == 1  # what a worker could not give back would fail the next run too
    assert said.status == 1


def test_what_a_run_prints_is_in_its_own_log_and_not_on_the_screen(project):
    body = (
        "print('out of', run.k)\nprint('error of', run.k, file=sys.stderr)\n"
        "os.system(f'echo child of {run.k}')\nos.write(1, f'written by {run.k}\\n'.encode())\nm.log(v=1)"
    )
    project.by_function(body, params=THREE, before=f"{BEFORE}\nprint('the file is read')")
    said = launched(project, workers=2)
    for run in (1, 2, 3):
        lines = set(log_of(project, run).splitlines())
        assert lines == {f"out of {run}", f"error of {run}", f"child of {run}", f"written by {run}"}
    for text in ("out of", "error of", "child of", "written by", "the file is read"):
        assert text not in said.out + said.err
    assert (said.status, said.err) == (0, "")


def test_the_traceback_of_a_failed_run_is_in_its_log_too(project):
    project.by_function("print('before')\nraise ValueError('no good')", params="{'k': [1]}")
    launched(project)
    assert log_of(project, 1).startswith("before\nTraceback (most recent call last):")
    assert "ValueError: no good" in log_of(project, 1)


def test_a_run_that_prints_nothing_has_no_log(project):
    project.by_function("m.log(v=1)", params="{'k': [1]}")
    launched(project)
    assert not (project.folders()[0] / "log.txt").exists()


def test_the_log_of_a_second_attempt_stands_below_that_of_the_first(project):
    project.by_function("print('hello')\n" + in_run_two("raise ValueError"), params=THREE, before=BEFORE)
    launched(project)
    (project.root / "mended").touch()
    launched(project, "--retry-failed")
    first, second = log_of(project, 2).split("--- attempt 2 ---\n")
    assert first.startswith("hello\n")
    assert second == "hello\n"


def test_a_megabyte_of_output_holds_nothing_up(project):
    project.by_function("print('x' * 3_000_000)\nm.log(v=1)", params=THREE)
    assert launched(project).status == 0
    assert len(log_of(project, 3)) == 3_000_001


def test_a_run_that_closes_its_output_harms_no_other(project):
    project.by_function("sys.stdout.close() if run.k == 1 else print('hello')\nm.log(v=1)", params=THREE, before=BEFORE)
    said = launched(project)
    assert project.statuses()[1] == "completed"
    assert set(project.statuses().values()) <= {"completed", "failed"}
    assert "Traceback" not in said.err


def test_the_data_are_loaded_once_for_each_worker(project, forked_workers):
    project.sweep(
        params="lr=[0.1, 0.2, 0.3, 0.4]",
        batch_size="10",
        data="data",
        before="import os\n"
        "def data():\n    with open('loads', 'a') as file:\n        file.write(f'{os.getpid()}\\n')\n"
        "    return inputs, targets",
    )
    said = launched(project, "--epochs", "1", workers=1)
    assert said.status == 0, said.err
    loads = (project.root / "loads").read_text().split()
    assert len(loads) == len(set(loads)) <= 2  # one of them is the check's
    assert len(set(pids(project))) == 1


def test_the_process_that_launches_imports_neither_torch_nor_the_sweep(project):
    project.by_function(EPOCH, params=THREE, before=f"{BEFORE}\nimport numpy")
    code = (
        "import sys; from runmanager import launch; launch('tiny', workers=1, tensorboard=False)\n"
        "print(sorted({'torch', 'pandas', 'numpy', 'tensorboard', 'sweeps.tiny'} & set(sys.modules)))"
    )
    said = subprocess.run(
        [sys.executable, "-c", code],
        cwd=project.root,
        env=project.environment(),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert said.returncode == 0, said.stderr
    assert said.stdout.splitlines()[-1] == "[]"


def test_the_file_is_read_once_by_each_worker(project):
    count = "with open('reads', 'a') as file:\n    file.write(f'{os.getpid()}\\n')"
    project.by_function("m.log(v=1)", params="{'k': list(range(8))}", before=f"{BEFORE}\n{count}")
    launched(project, workers=2)
    reads = (project.root / "reads").read_text().split()
    assert len(reads) == len(set(reads)) <= 2


@pytest.mark.parametrize(
    ("breaks", "said"),
    [
        ("raise RuntimeError('no such disk')", "cannot be imported: RuntimeError: no such disk"),
        ("import nowhere_at_all", "No module named 'nowhere_at_all'"),
        ("os._exit(7)", "reading the sweep ended its process: the worker process exited with status 7"),
        (
            "os.kill(os.getpid(), signal.SIGSEGV)",
            "reading the sweep ended its process: the worker process was killed by SIGSEGV",
        ),
        ("sys.exit('I would rather not')", "I would rather not"),
        ("print('last words', flush=True); os._exit(7)", "last words"),
    ],
)
def test_a_file_that_cannot_be_read_is_one_clear_error(breaks, said, project):
    project.by_function("m.log(v=1)", before=f"{BEFORE}\n{breaks}")
    answer = launched(project, start=project.started)
    assert answer.status == 2
    assert answer.out == ""
    assert answer.err.startswith("SweepError: sweep 'tiny' cannot start:\n  - ")
    assert said in answer.err
    assert not (project.root / "runs").exists()
    project.wait_for(lambda: not project.alive())


def test_a_file_that_crashes_the_second_worker_alone_loses_no_run(project):
    crash = (
        "if Path('first').exists() and not Path('crashed').exists():\n"
        "    Path('crashed').touch()\n    os._exit(5)\nPath('first').touch()"
    )
    project.by_function(f"time.sleep(0.3)\n{EPOCH}", params="{'k': [1, 2, 3, 4]}", before=f"{BEFORE}\n{crash}")
    said = launched(project, workers=2)
    done = project.statuses()
    assert set(done.values()) == {"completed"}
    assert said.status == (0 if len(done) == 4 else 1)
    assert launched(project, workers=2).status == 0
    assert list(project.statuses().values()) == ["completed"] * 4


def test_a_file_with_another_grid_each_time_is_told_so(project):
    both = "while len(Path('reads').read_text()) < 2:\n    time.sleep(0.01)\ntime.sleep(0.1)\n"
    project.by_function(
        f"{both}{EPOCH}",
        params="{'k': [random.random() for _ in range(6)]}",
        before=f"{BEFORE}\nimport random\nwith open('reads', 'a') as file:\n    file.write('x')",
    )
    said = launched(project, workers=2)
    assert said.status == 1
    assert "the sweep file gives another grid each time that it is read; let it draw from a fixed seed" in said.err
    for run in project.history().runs:
        assert run.status == "completed"
        assert run.last["val_loss"] == run.params["k"]


def test_a_file_that_launches_itself_while_it_is_read_is_one_clear_error(project):
    path = project.by_function("m.log(v=1)")
    path.write_text(path.read_text() + "\nfrom runmanager import launch\nlaunch(sweep, workers=2, tensorboard=False)\n")
    said = launched(project)
    assert said.status == 2
    assert "its file launches it while it is read; put launch(...) under if __name__ == '__main__':" in said.err
    assert said.err.count("SweepError") == 1
    assert not (project.root / "runs").exists()


@pytest.mark.parametrize("guard", [False, True])
def test_a_file_that_is_run_as_a_script_launches_itself(guard, project):
    path = project.by_function("m.log(v=run.lr)")
    call = "launch(sweep, workers=2, tensorboard=False, quiet=True)\n"
    end = f"if __name__ == '__main__':\n    {call}" if guard else call
    path.write_text(f"{path.read_text()}\nfrom runmanager import launch\n{end}")
    done = subprocess.run(
        [sys.executable, str(path)],
        cwd=project.root,
        env=project.environment(),
        capture_output=True,
        text=True,
        timeout=60,
    )
    if guard:
        assert done.returncode == 0, done.stderr
        assert project.statuses() == {1: "completed", 2: "completed"}
    else:
        assert done.returncode != 0
        assert "put launch(...) under if __name__ == '__main__':" in done.stderr
        assert not (project.root / "runs").exists()
    project.wait_for(lambda: not project.alive())


def test_workers_need_a_file(project):
    sweep = eval("Sweep({'lr': [0.1]}, train=print, name='mine')", {"Sweep": Sweep})
    with pytest.raises(
        SweepError, match="workers read the sweep from its file, and it has none; write it in sweeps/, or"
    ):
        launch(sweep, workers=2)
    assert not (project.root / "runs").exists()


def test_workers_of_a_sweep_whose_file_is_not_its_own_say_what_is_missing(project):
    """Made in a file that is no sweep file, as this one is."""
    sweep = Sweep({"lr": [0.1]}, train=print, name="mine")
    with pytest.raises(SweepError, match="write sweep = Sweep"):
        launch(sweep, workers=1, quiet=True, tensorboard=False)
    project.wait_for(lambda: not project.alive())


@pytest.mark.parametrize("change", ["params", "name"])
def test_a_sweep_object_that_is_not_what_its_file_has_is_not_trained_as_another(change, project):
    """Changed after it was loaded, or the second of a file: workers would read the file, and train something else."""
    from runmanager.launching.load_sweep import load_sweep

    sweep = load_sweep(project.by_function("m.log(v=run.lr)"))
    if change == "params":
        sweep.params["lr"] = [0.7]
    else:
        sweep.name = "second"
    try:
        history = launch(sweep, workers=1, quiet=True, tensorboard=False)
    except SweepError:
        return
    assert (history.name, [run.params["lr"] for run in history.runs]) == (sweep.name, sweep.params["lr"])


def test_workers_are_kept_from_run_to_run(project):
    project.by_function(EPOCH, params="{'k': list(range(20))}")
    launched(project, workers=2, start=project.started)
    assert len(set(pids(project))) <= 2
    project.wait_for(lambda: not project.alive())


def test_no_more_workers_are_started_than_there_are_runs(project):
    together = (
        "Path(str(run.k)).touch()\nwhile not (Path('1').exists() and Path('2').exists()):\n    time.sleep(0.01)\n"
    )
    project.by_function(f"{together}{EPOCH}", params="{'k': [1, 2]}", before=BEFORE)
    launched(project, workers=8)
    assert len(set(pids(project))) == 2


def test_nothing_to_do_starts_no_training(project):
    project.by_function(EPOCH, params=THREE)
    launched(project)
    before = project.files()
    assert launched(project, workers=2).status == 0
    after = project.files()
    assert {name for name in after if after[name] != before.get(name)} <= {"runs/tiny/sweep.json"}


def test_the_driver_shows_what_the_workers_record(project):
    project.by_function(f"{EPOCH}{EPOCH}return {{'score': run.k * 2}}", params=THREE, sweep="objective='val_loss'")
    said = launched(project, workers=2)
    for run in (1, 2, 3):
        for line in (f"run {run}: k={run}", f"run {run}  epoch 2  val_loss {run}", f"run {run} completed in"):
            assert line in said.out
    assert "best val_loss 1 (run 1)" in said.out


def test_a_signal_without_a_name_ends_one_run_alone(project):
    project.by_function(in_run_two("os.kill(os.getpid(), 40)"), params=THREE, before=BEFORE)
    said = launched(project)
    assert said.status == 1
    assert project.statuses() == {1: "completed", 2: "killed", 3: "completed"}
    assert "signal 40" in project.history().runs[1].error


def test_a_worker_that_alone_is_told_to_stop_has_its_run_tried_again(project):
    once = "Path('mended').touch()\n    os.kill(os.getpid(), signal.SIGTERM)\n    time.sleep(0.2)"
    project.by_function(in_run_two(once) + EPOCH, params=THREE, before=BEFORE)
    assert launched(project).status == 0
    assert project.statuses() == {1: "completed", 2: "completed", 3: "completed"}


def test_code_that_is_edited_in_mid_sweep_is_not_trained_by_a_worker_that_starts_later(project):
    edits = "Path(__file__).write_text(Path(__file__).read_text().replace('run.k)', 'run.k + 100)'))\n    os._exit(1)"
    project.by_function(in_run_two(edits), params=THREE, before=BEFORE)
    said = launched(project)
    assert said.status == 1
    assert "sweeps/tiny.py has changed" in said.err
    assert all(row.metrics["val_loss"] < 100 for run in project.history().runs for row in run.rows)
    assert project.statuses().get(3) is None
