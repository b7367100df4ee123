"""What a launch may be told: each option is checked, and what cannot be is named together with the rest."""

import pytest

from runmanager.launching.options import (
    OnError,
    check_count,
    parse_keep,
    parse_on_error,
    parse_seconds,
    parse_statuses,
)
from runmanager.launching.sweep import SweepError

FAILURES = {"failed", "out of memory", "killed", "timed out"}


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90", 90), ("90s", 90), (90, 90), (0.5, 0.5), ("15m", 900), ("15 min", 900), ("2h", 7200), ("1.5d", 129_600)],
)
def test_a_time_is_seconds_or_has_a_unit(text, seconds):
    faults = []
    assert parse_seconds("--run-timeout", text, faults) == seconds
    assert faults == []


def test_no_time_is_no_limit():
    assert parse_seconds("--run-timeout", None, []) is None


@pytest.mark.parametrize("text", ["", "soon", "-1", -1, "0", 0, "1e3", "nan", "inf", "90x", "1h30m", True, "0s"])
def test_what_is_no_time_is_named_with_what_to_write(text):
    faults = []
    parse_seconds("--epoch-timeout", text, faults)
    assert faults == [f"--epoch-timeout {text}: give a time above 0, like 90 (seconds), 15m, 2h or 1d"]


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("continue", OnError(None)),
        ("stop", OnError(1)),
        ("stop-after=3", OnError(3)),
        ("stop-after=12-same", OnError(12, same=True)),
    ],
)
def test_what_to_do_about_failures(text, meant):
    faults = []
    assert parse_on_error(text, faults) == meant
    assert faults == []


@pytest.mark.parametrize("text", ["", "halt", "stop-after", "stop-after=0", "stop-after=-1", "stop-after=3-alike"])
def test_what_cannot_be_done_about_failures_lists_the_choices(text):
    faults = []
    parse_on_error(text, faults)
    assert faults == [f"--on-error {text}: choose continue, stop, stop-after=3 or stop-after=3-same"]


@pytest.mark.parametrize(
    ("failed", "statuses", "meant"),
    [
        (False, (), set()),
        (True, (), FAILURES),
        (False, "timed-out", {"timed out"}),
        (False, ["out_of_memory", "killed,diverged"], {"out of memory", "killed", "diverged"}),
        (True, "diverged", {*FAILURES, "diverged"}),
        (False, "interrupted", {"interrupted"}),
    ],
)
def test_the_statuses_that_are_tried_again(failed, statuses, meant):
    faults = []
    assert parse_statuses(failed, statuses, faults) == meant
    assert faults == []


@pytest.mark.parametrize("status", ["completed", "running", "broken"])
def test_a_status_that_cannot_be_tried_again_lists_those_that_can(status):
    faults = []
    parse_statuses(False, status, faults)
    assert faults == [f"--retry-status {status}: choose failed, out-of-memory, killed, timed-out, diverged"]


def test_the_choice_that_was_perhaps_meant_is_told():
    faults = []
    parse_on_error("stopp", faults)
    parse_statuses(False, "timout", faults)
    assert [fault.rpartition("; ")[2] for fault in faults] == ["did you mean 'stop'?", "did you mean 'timed-out'?"]


@pytest.mark.parametrize(("text", "meant"), [("all", None), ("10", 10), (0, 0), ("0", 0)])
def test_how_many_runs_keep_their_states(text, meant):
    faults = []
    assert parse_keep(text, faults) == meant
    assert faults == []


@pytest.mark.parametrize("text", ["none", "-1", -1, 1.5, True, ""])
def test_what_is_no_number_of_runs_to_keep_is_named(text):
    faults = []
    parse_keep(text, faults)
    assert faults == [f"--keep {text}: give a number of runs, or all"]


def test_a_digit_that_is_no_number_is_named():
    faults = []
    parse_keep("²", faults)
    assert faults == ["--keep ²: give a number of runs, or all"]


@pytest.mark.parametrize("value", [-1, 0.5, True, "3"])
def test_what_is_no_count_is_named(value):
    faults = []
    check_count("--retries", value, 0, faults)
    assert faults == [f"--retries {value}: give a whole number of 0 or more"]


WRONG = {
    "workers": ("many", "workers='many' is no number of workers"),
    "retries": (-1, "--retries -1: give a whole number"),
    "run_timeout": ("soon", "--run-timeout soon: give a time"),
    "epoch_timeout": (0, "--epoch-timeout 0: give a time"),
    "sweep_timeout": ("-1s", "--sweep-timeout -1s: give a time"),
    "grace": ("0", "--grace 0: give a time"),
    "on_error": ("halt", "--on-error halt: choose"),
    "retry_status": ("lost", "--retry-status lost: choose"),
    "keep": ("some", "--keep some: give a number"),
    "checkpoint_every": (-1, "--checkpoint-every -1: give a whole number"),
    "histograms_every": (-1, "--histograms-every -1: give a whole number"),
    "limit": (0, "--limit 0: give a whole number"),
}


@pytest.mark.parametrize("option", WRONG)
def test_a_wrong_option_is_refused_before_anything_is_written(option, project):
    project.by_function("m.log(value=run.lr)")
    before = project.files()
    value, said = WRONG[option]
    with pytest.raises(SweepError) as caught:
        project.launch(**{option: value})
    assert said in str(caught.value)
    assert project.files() == before


def test_all_wrong_options_are_named_together(project):
    project.by_function("m.log(value=run.lr)")
    together = [option for option in WRONG if option not in ("limit", "histograms_every")]
    with pytest.raises(SweepError) as caught:
        project.launch(**{option: WRONG[option][0] for option in together})
    for option in together:
        assert WRONG[option][1] in str(caught.value)


def test_limits_of_time_need_a_worker(project):
    project.by_function("m.log(value=run.lr)")
    with pytest.raises(SweepError, match="--run-timeout, --sweep-timeout: limits are kept from outside the run; add"):
        project.launch(run_timeout=1, sweep_timeout=1)


@pytest.mark.parametrize(
    "option",
    [
        ["--workers", "x"],
        ["--retries", "-1"],
        ["--grace", "no"],
        ["--keep", "few"],
        ["--on-error", "ignore"],
        ["--retry-status", "completed"],
        ["--run-timeout", "1"],
        ["--checkpoint-every", "-2"],
    ],
)
def test_on_the_command_line_it_is_one_clean_message(option, project, command):
    project.by_function("m.log(value=run.lr)")
    said = command("launch", "tiny", *option)
    assert (said.status, said.out) == (2, "")
    assert said.err.startswith("SweepError: sweep 'tiny' cannot start:\n  - ")
    assert option[0].strip("-") in said.err or option[0] == "--workers"
    assert not (project.root / "runs").exists()
