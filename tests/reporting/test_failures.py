"""Failures as the end of a launch and `runmanager results` show them."""

import io
import json
import traceback

import pytest
from rich.console import Console

from runmanager.reporting.failures import places, print_errors
from runmanager.reporting.tables import results_json
from runmanager.tracking.history import read_sweep
from runmanager.tracking.run_dir import SweepDir
from tests.reporting.sweep_on_disk import SweepOnDisk

TRACE = """\
Traceback (most recent call last):
  File "{root}/sweeps/toy.py", line {line}, in train
    network(images)
  File "/usr/lib/site-packages/torch/nn/linear.py", line 134, in forward
    return F.linear(input)
           ^^^^^^^^^^^^^^^
RuntimeError: {message}
"""


def errors_of(history, root):
    file = io.StringIO()
    print_errors(history, history.runs, Console(file=file), root)
    return file.getvalue()


def errors_after_launch(project, **options):
    return errors_of(project.launch(**options), project.root)


def failing(sweep, number, params, *, line=7, message="bad shapes"):
    trace = TRACE.format(root=sweep.root, line=line, message=message)
    sweep.run(number, params, "failed", error=f"RuntimeError: {message}", traceback=trace)


def test_failures_that_are_alike_are_one_entry(tmp_path):
    sweep = SweepOnDisk(tmp_path)
    for number, lr in enumerate([0.1, 0.2, 0.3], start=1):
        failing(sweep, number, {"lr": lr, "size": 7, "depth": 2})
    sweep.run(4, {"lr": 0.1, "size": 8, "depth": 2})
    assert errors_of(sweep.history(), tmp_path).splitlines() == [
        "3 runs failed: RuntimeError: bad shapes",
        "  runs 1, 2, 3, with lr=0.1, 0.2, 0.3 · size=7",
        "  at torch/nn/linear.py:134 in forward: return F.linear(input)",
        "  called at sweeps/toy.py:7 in train: network(images)",
    ]


def test_a_failure_of_its_own_has_its_error_its_parameters_and_its_place(project):
    project.by_function("if run.lr == 0.1:\n    raise ValueError('no good')\nm.log(value=1)")
    lines = errors_after_launch(project).splitlines()
    assert lines == [
        "run 1 failed: ValueError: no good",
        "  with lr=0.1",
        "  at sweeps/tiny.py:6 in train: raise ValueError('no good')",
    ]


def test_where_a_library_raised_both_its_line_and_the_projects_are_told(project):
    project.by_function("json.loads('{' * 3)", before="import json")
    text = errors_after_launch(project)
    assert "2 runs failed: JSONDecodeError: Expecting property name" in text
    assert "json/decoder.py:" in text
    assert "called at sweeps/tiny.py:5 in train: json.loads('{' * 3)" in text


def test_a_mistake_that_this_tool_refuses_names_the_line_that_made_it(project):
    project.by_function("m.begin_epoch()\nm.begin_epoch()")
    assert "called at sweeps/tiny.py:6 in train: m.begin_epoch()" in errors_after_launch(project)


def test_other_errors_and_other_places_are_other_entries_the_most_frequent_first(tmp_path):
    sweep = SweepOnDisk(tmp_path)
    failing(sweep, 1, {"lr": 1}, line=3)
    failing(sweep, 2, {"lr": 2}, line=5, message="one")
    failing(sweep, 3, {"lr": 3}, line=5, message="two")
    sweep.run(4, {"lr": 4}, "killed", error="the worker process was killed by SIGSEGV")
    text = errors_of(sweep.history(), tmp_path)
    heads = [line for line in text.splitlines() if not line.startswith(" ")]
    assert heads == [
        "2 runs failed: RuntimeError: one (their messages differ)",
        "run 1 failed: RuntimeError: bad shapes",
        "run 4 was killed: the worker process was killed by SIGSEGV",
    ]


@pytest.mark.parametrize(
    ("status", "said"),
    [
        ("out of memory", "ran out of memory"),
        ("killed", "was killed"),
        ("timed out", "timed out"),
        ("failed", "failed"),
    ],
)
def test_each_kind_of_failure_has_its_word(status, said, tmp_path):
    sweep = SweepOnDisk(tmp_path)
    sweep.run(1, {"lr": 1}, status, error="why")
    assert errors_of(sweep.history(), tmp_path).startswith(f"run 1 {said}: why\n")


@pytest.mark.parametrize("status", ["completed", "diverged", "interrupted", None])
def test_what_is_no_failure_has_no_entry(status, tmp_path):
    sweep = SweepOnDisk(tmp_path)
    sweep.run(1, {"lr": 1}, status, error="why")
    assert errors_of(sweep.history(), tmp_path) == ""


def test_of_many_runs_a_few_are_named(tmp_path):
    sweep = SweepOnDisk(tmp_path)
    for number in range(1, 21):
        failing(sweep, number, {"lr": number})
    line = errors_of(sweep.history(), tmp_path).splitlines()[1]
    assert line == "  runs 1, 2, 3, 4, 5, 6, 7, 8 and 12 more, with lr=1, 2, 3, 4, 5 and 15 more"


def test_of_many_kinds_the_first_are_shown_and_the_others_counted(tmp_path):
    sweep = SweepOnDisk(tmp_path)
    for number in range(1, 14):
        failing(sweep, number, {"lr": number}, line=number)
    assert errors_of(sweep.history(), tmp_path).splitlines()[-1] == (
        "and 3 other kinds of failure; runmanager results toy --json has all"
    )


def test_what_a_worker_printed_is_pointed_to(project):
    project.by_function("print('my own words')\nraise ValueError('no good')")
    said = project.process("launch", "tiny", "--workers", "1", "--no-tensorboard", "--limit", "1")
    assert said.status == 1
    (line,) = [line for line in said.out.splitlines() if line.startswith("  its output: ")]
    assert "my own words" in (project.root / line.removeprefix("  its output: ")).read_text()


def test_the_whole_traceback_is_in_the_json(project):
    project.by_function("raise ValueError('no good')")
    project.launch()
    runs = json.loads(results_json(read_sweep(SweepDir(project.root, "tiny"))))
    assert "Traceback (most recent call last)" in runs[0]["traceback"]
    assert "no good" in runs[0]["traceback"] and runs[0]["attempts"] == 1


def test_an_error_cannot_colour_the_terminal(tmp_path):
    sweep = SweepOnDisk(tmp_path)
    sweep.run(1, {"lr": 1}, "failed", error="\x1b[31mred\x07")
    assert errors_of(sweep.history(), tmp_path).startswith("run 1 failed: ·[31mred·\n")


def trace_of(function):
    with pytest.raises(Exception) as caught:
        function()
    return "".join(traceback.format_exception(caught.value))


def chained():
    try:
        raise KeyError("first")
    except KeyError as error:
        raise ValueError("second") from error


def endless():
    endless()


def in_a_group():
    raise ExceptionGroup("several", [ValueError("one")])


def without_source():
    exec("raise ValueError('no file')")


@pytest.mark.parametrize(
    ("function", "name", "source"),
    [
        (chained, "chained", 'raise ValueError("second") from error'),
        (endless, "endless", "endless()"),
        (in_a_group, "in_a_group", 'raise ExceptionGroup("several", [ValueError("one")])'),
        (without_source, "<module>", ""),
    ],
)
def test_the_place_is_found_in_every_kind_of_traceback(function, name, source):
    last = places(trace_of(function))[-1]
    assert (last.function, last.source) == (name, source)


def test_a_file_that_is_no_python_is_a_place_too():
    found = places(trace_of(lambda: compile("a b", "sweeps/broken.py", "exec")))[-1]
    assert (found.file, found.line, found.function, found.source) == ("sweeps/broken.py", 1, "", "a b")


@pytest.mark.parametrize("text", [None, "", "no traceback at all", 'File "half'])
def test_what_is_no_traceback_has_no_place(text):
    assert places(text) == []
