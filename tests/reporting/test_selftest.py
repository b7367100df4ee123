"""The kill test for the user's own disk: it passes where all is well, and sees what is not."""

import shutil
import time

import pytest

from runmanager.reporting import selftest
from runmanager.reporting.selftest import NUM_RUNS, check_by_killing
from runmanager.tracking.owner import this_process
from tests.reporting.sweep_on_disk import SweepOnDisk


@pytest.mark.slow
def test_a_real_sweep_survives_at_least_five_kills_in_half_a_minute_and_leaves_nothing(tmp_path):
    (tmp_path / "runs").mkdir()
    began = time.monotonic()
    found = check_by_killing(tmp_path)
    assert found.level == "ok", found.text
    assert int(found.text.split()[0]) >= 5
    assert "0 runs lost, 0 epochs duplicated, 0 completed runs trained again, 0 left running" in found.text
    assert time.monotonic() - began < 30
    assert [path.name for path in tmp_path.rglob("*")] == ["runs"]


def test_a_launch_that_fails_by_itself_fails_and_says_why(tmp_path, monkeypatch):
    monkeypatch.setattr(selftest, "SWEEP", "sweep = 1\nraise RuntimeError('the toy is broken')")
    found = check_by_killing(tmp_path)
    assert found.level == "FAIL" and "the toy is broken" in found.text
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def done(tmp_path):
    """The toy sweep as it should be left, twice; what compares them is given as well."""
    sweeps = [SweepOnDisk(tmp_path / name, "selftest") for name in ("killed", "whole")]
    for sweep in sweeps:
        for number in range(1, NUM_RUNS + 1):
            sweep.run(number, {"x": number}, epochs=3)
        sweep.with_tables()
    killed, whole = sweeps
    return killed, lambda: selftest._outcome(killed.dir, whole.dir, 5, time.monotonic())


def test_what_is_the_same_is_well(done):
    _, outcome = done
    assert outcome().finding().level == "ok"
    assert "5 kills in a sweep of 16 runs: 0 runs lost, 0 epochs duplicated" in outcome().finding().text


def test_a_run_that_is_gone_is_lost(done):
    killed, outcome = done
    shutil.rmtree(list(killed.dir.runs())[3].path)
    assert outcome().lost == 1 and outcome().finding().level == "FAIL"


def test_a_run_with_other_rows_is_lost(done):
    killed, outcome = done
    shutil.rmtree(list(killed.dir.runs())[3].path)
    killed.run(4, {"x": 4}, epochs=2)
    killed.with_tables()
    assert outcome().lost == 1


def test_a_run_that_did_not_complete_is_lost(done):
    killed, outcome = done
    shutil.rmtree(list(killed.dir.runs())[3].path)
    killed.run(4, {"x": 4}, None, epochs=3)
    killed.with_tables()
    assert (outcome().lost, outcome().left) == (1, 0)


def test_a_row_that_stands_there_twice_is_seen(done):
    killed, outcome = done
    table = killed.dir.epochs_csv
    table.write_text(table.read_text() + table.read_text().splitlines()[-1] + "\n")
    assert outcome().duplicated == 1 and outcome().finding().level == "FAIL"


def test_a_run_that_was_trained_again_is_seen(done):
    killed, outcome = done
    killed.run(4, {"x": 4}, epochs=3)  # its journal is added to
    killed.with_tables()
    assert (outcome().again, outcome().lost) == (1, 0)
    assert outcome().finding().level == "FAIL"


def test_a_run_that_is_still_running_is_seen(done, monkeypatch):
    monkeypatch.setattr(selftest, "_GONE_SECONDS", 0.1)
    killed, outcome = done
    shutil.rmtree(list(killed.dir.runs())[3].path)
    killed.run(4, {"x": 4}, None, epochs=3, owner=this_process())
    assert outcome().left == 2  # the run, and its process


def test_a_table_that_says_running_of_a_run_that_is_done_is_seen(done):
    killed, outcome = done
    table = killed.dir.runs_csv
    table.write_text(table.read_text().replace("\n4,completed", "\n4,running"))
    assert (outcome().left, outcome().lost) == (1, 0)
