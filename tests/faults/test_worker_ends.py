"""Runs whose worker process ends under them, or whose error nobody can handle: the reason is right, and the others go on."""

import csv
import re

import pytest

PARAMS = "{'end': %r}"
BEFORE = """\
import ctypes
import os
import signal
import sys

class UnpicklableError(Exception):
    def __reduce__(self):
        raise TypeError("cannot be pickled")

class UnprintableError(Exception):
    def __str__(self):
        raise RuntimeError("not even that")

    __repr__ = __str__

class AbortError(BaseException):
    pass

def die(number):
    if number == signal.SIGSEGV:
        ctypes.string_at(0)
    os.kill(os.getpid(), number)

def wrong():
    raise ValueError("x" * 10_000_000)
"""
BODY = """\
print("in run", run.end)
m.begin_epoch()
m.log(score=float(len(run.end)))
m.end_epoch()
if run.end.startswith("SIG"):
    print("a last word")
    die(getattr(signal, run.end))
elif run.end.startswith("exit"):
    os._exit(int(run.end.split()[1]))
elif run.end == "sys.exit":
    sys.exit(3)
elif run.end == "unpicklable":
    error = UnpicklableError("a lambda:", lambda: 0)
    error.open_file = open(__file__)
    raise error
elif run.end == "unprintable":
    raise UnprintableError
elif run.end == "abort":
    raise AbortError("no Exception")
elif run.end == "long text":
    wrong()
elif run.end == "deep":
    def deeper(): deeper()
    deeper()
elif run.end == "odd text":
    raise ValueError("a\\x00b\\ud800c\\u2028d\\nsecond line \\x1b[31mred")
return {"final": float(len(run.end))}
"""
ENDS = {
    "fine 1": ("completed", None),
    "SIGSEGV": ("killed", "the worker process was killed by SIGSEGV"),
    "SIGKILL": ("killed", "the worker process was killed by SIGKILL"),
    "SIGABRT": ("killed", "the worker process was killed by SIGABRT"),
    "fine 2": ("completed", None),
    "SIGBUS": ("killed", "the worker process was killed by SIGBUS"),
    "exit 0": ("killed", "the worker process ended with exit status 0 before the run had ended"),
    "exit 3": ("killed", "the worker process ended with exit status 3 before the run had ended"),
    "sys.exit": ("failed", r"SystemExit: 3"),
    "unpicklable": ("failed", r"UnpicklableError: \('a lambda:', .*"),
    "unprintable": ("failed", "UnprintableError.*"),
    "abort": ("failed", "AbortError: no Exception"),
    "long text": ("failed", "ValueError: x{900,1100}"),
    "deep": ("failed", "RecursionError: maximum recursion depth exceeded.*"),
    "odd text": ("failed", r"ValueError: a\x00b\\ud800c d second line \x1b\[31mred"),
    "fine 3": ("completed", None),
}
STACKS = {
    "SIGSEGV": ["Fatal Python error: Segmentation fault", "in string_at", "in die", "in train", "a last word"],
    "SIGABRT": ["Fatal Python error: Aborted", "in die", "in train", "a last word"],
    "SIGBUS": ["Fatal Python error: Bus error", "in die", "in train", "a last word"],
    "SIGKILL": ["a last word"],
    "exit 3": ["in run exit 3"],
    "unpicklable": ["tiny.py", "in train", "UnpicklableError: ('a lambda:'"],
    "unprintable": ["tiny.py", "in train", "UnprintableError"],
    "abort": ["tiny.py", "in train", "AbortError: no Exception"],
    "long text": ["tiny.py", "in train", "in wrong", "ValueError: xxxx"],
    "deep": ["tiny.py", "in deeper", "RecursionError"],
    "odd text": ["tiny.py", "in train", "second line"],
}


def launched(project, *options, workers="2"):
    with project.forked("launch", "tiny", "--workers", workers, "--no-tensorboard", *options) as process:
        return project.said(process)


def ends(project, names, *options, workers="2"):
    """Launches the sweep whose runs end like these; returns what was said, and the runs by how they were to end."""
    project.by_function(BODY, before=BEFORE, params=PARAMS % (list(names),), sweep="objective='score', mode='max'")
    said = launched(project, *options, workers=workers)
    return said, {run.params["end"]: run for run in project.history().runs}


def log_of(project, run):
    file = project.root / "runs" / "tiny" / run.folder / "log.txt"
    return file.read_text(errors="replace") if file.exists() else ""


_ended = []


@pytest.fixture
def ended(project):
    """All ends in one launch with two workers, made for the first test that asks and kept for the others."""
    if not _ended:
        _ended.append((project, *ends(project, ENDS)))
    return _ended[0]


@pytest.mark.parametrize("end", ENDS)
def test_status_and_reason_are_right_however_a_run_ends(ended, end):
    _, _, runs = ended
    status, reason = ENDS[end]
    assert runs[end].status == status
    assert runs[end].error is None if reason is None else re.fullmatch(reason, runs[end].error, re.DOTALL)


@pytest.mark.parametrize("end", STACKS)
def test_the_log_says_where_the_run_was(ended, end):
    project, _, runs = ended
    log = log_of(project, runs[end])
    assert [text for text in STACKS[end] if text not in log] == []
    assert len(log) < 200_000


def test_each_run_keeps_the_rows_that_it_had_and_no_other_run_is_touched(ended):
    _, _, runs = ended
    assert [run.number for run in runs.values()] == list(range(1, len(ENDS) + 1))
    for end, run in runs.items():
        assert [row.values() for row in run.rows] == [{"score": float(len(end))}], end
        assert run.metrics == ({"final": float(len(end))} if run.status == "completed" else {})
        assert (run.attempts, run.num_bad_lines) == (1, 0)


def test_each_log_holds_its_own_run_alone(ended):
    project, _, runs = ended
    for end, run in runs.items():
        log = log_of(project, run)
        assert re.findall("in run .*", log) == [f"in run {end}"]


def test_the_command_fails_and_says_each_reason(ended):
    _, said, runs = ended
    assert said.status == 1
    told = said.out + said.err
    for end, run in runs.items():
        if run.error:
            assert re.search(rf"run {run.number} (was )?{run.status}.*{re.escape(run.error[:9])}", told), end
    assert "was killed by SIGSEGV" in told
    assert "ended with exit status 3" in told
    assert "cannot be recorded" not in told
    assert "Exception in thread" not in told
    assert "\x1b" not in told and "\x00" not in told
    assert len(told) < 100_000


def test_the_tables_have_every_run_and_its_status(ended):
    project, _, _ = ended
    csv.field_size_limit(1 << 24)
    with open(project.root / "results" / "tiny.runs.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["end"]: row["status"] for row in rows} == {end: status for end, (status, _) in ENDS.items()}
    with open(project.root / "results" / "tiny.csv", newline="") as file:
        assert len(list(csv.DictReader(file))) == len(ENDS)


def test_a_second_launch_leaves_failures_alone_and_a_retry_trains_them_alone(ended):
    project, _, _ = ended
    again = launched(project, "--quiet")
    assert again.status == 0
    runs = project.history().runs
    assert {run.attempts for run in runs} == {1}
    retried = launched(project, "-q", "--retry-status", "killed")
    assert retried.status == 1
    runs = project.history().runs
    told = retried.out + retried.err
    assert [run.number for run in runs if run.status == "killed" and run.error not in told] == []
    assert [run.attempts for run in runs] == [2 if run.status == "killed" else 1 for run in runs]
    assert {run.params["end"]: run.status for run in runs} == {end: status for end, (status, _) in ENDS.items()}


def test_with_a_retry_each_failure_is_tried_twice_and_recorded_so(project):
    names = ["SIGKILL", "fine 1", "unpicklable", "exit 0", "fine 2"]
    said, runs = ends(project, names, "--retries", "1")
    assert said.status == 1
    assert {end: run.attempts for end, run in runs.items()} == {
        "SIGKILL": 2, "fine 1": 1, "unpicklable": 2, "exit 0": 2, "fine 2": 1,
    }  # fmt: skip
    assert [run.status for run in runs.values()] == ["killed", "completed", "failed", "killed", "completed"]
    assert [len(run.rows) for run in runs.values()] == [1] * 5
    assert log_of(project, runs["SIGKILL"]).count("a last word") == 2
    assert "--- attempt 2 ---" in log_of(project, runs["SIGKILL"])


def test_a_run_that_dies_once_completes_when_it_is_retried(project):
    project.by_function(
        "if not Path(f'died-{run.k}').exists():\n    Path(f'died-{run.k}').touch()\n    os.kill(os.getpid(), 9)\n"
        "return {'x': run.k}",
        before="import os\nfrom pathlib import Path",
        params="{'k': [1, 2, 3]}",
    )
    said = launched(project, "-q", "--retries", "1")
    runs = project.history().runs
    assert [(run.status, run.attempts, run.metrics) for run in runs] == [("completed", 2, {"x": k}) for k in (1, 2, 3)]
    assert said.status == 0


@pytest.mark.parametrize(
    ("names", "num_failures"),
    [
        (["SIGSEGV", "fine 1", "exit 0", "long text", "fine 2", "SIGSEGV again", "fine 3", "fine 4"], 4),
        (["exit 0", "fine 1", "exit 3", "fine 2", "unpicklable", "fine 3"], 3),
    ],
    ids=["alike", "not alike"],
)
def test_a_sweep_stops_after_so_many_failures_that_are_alike(project, names, num_failures):
    before = BEFORE + "signal.__dict__['SIGSEGV again'] = signal.SIGSEGV\n"
    project.by_function(BODY, before=before, params=PARAMS % (names,))
    said = launched(project, "-q", "--on-error", "stop-after=2-same", workers="1")
    runs = {run.params["end"]: run for run in project.history().runs}
    assert said.status == 1
    assert sum(run.status in ("killed", "failed") for run in runs.values()) == num_failures
    assert [name for name in names if name not in runs] == (["fine 3", "fine 4"] if num_failures == 4 else [])


def test_two_failures_with_long_texts_from_different_places_are_not_alike(project):
    project.by_function(
        "if run.k == 1:\n    raise ValueError('x' * 1_000_000)\nif run.k == 2:\n    raise ValueError('y' * 1_000_000)",
        params="{'k': [1, 2, 3]}",
    )
    launched(project, "-q", "--on-error", "stop-after=2-same", workers="1")
    runs = project.history().runs
    assert [run.status for run in runs] == ["failed", "failed", "completed"]
