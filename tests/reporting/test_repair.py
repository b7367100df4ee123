"""What the doctor finds in sweeps after a crash, and what it mends."""

import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from runmanager import RunBuilder, RunManager, load_results
from runmanager.reporting.repair import check_sweeps
from runmanager.tracking.history import read_sweep
from runmanager.tracking.owner import this_process
from runmanager.tracking.run_dir import SweepDir
from runmanager.tracking.temporaries import temporary_for
from tests.reporting.sweep_on_disk import DEAD, SweepOnDisk
from tests.tensorboard_server import until

ALIVE = this_process()
OLD_SECONDS = 120


def check(root, *, repair=False):
    """The lines of the doctor, each as `level: text`."""
    return [f"{one.level}: {one.text}" for one in check_sweeps(root, repair=repair)]


def journal_of(run_dir):
    return run_dir.path / "journal.jsonl"


def tear(run_dir, half=b'{"seq":99,"kind":"epo'):
    with journal_of(run_dir).open("ab") as file:
        file.write(half)


@pytest.fixture
def dead_pid():
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


@pytest.fixture
def sweep(tmp_path):
    """Two completed runs, a failed and an interrupted one, and their tables."""
    sweep = SweepOnDisk(tmp_path)
    sweep.run(1, {"lr": 1}, epochs=2)
    sweep.run(2, {"lr": 2}, epochs=2)
    sweep.run(3, {"lr": 3}, "failed", epochs=1, error="why")
    sweep.run(4, {"lr": 4}, None, epochs=1)
    return sweep.with_tables()


def test_a_sound_sweep_is_one_good_line(sweep):
    assert check(sweep.root) == ["ok: 4 runs, tables up to date"]


def test_a_project_without_sweeps_says_so(tmp_path):
    assert check(tmp_path) == [f"ok: none yet in {tmp_path / 'runs'}"]


def test_half_a_record_is_told_and_nothing_is_touched_without_repair(sweep):
    four = list(sweep.dir.runs())[3]
    tear(four)
    before = journal_of(four).read_bytes()
    assert check(sweep.root) == ["warn: half a record at the end of the journal of run 4"]
    assert journal_of(four).read_bytes() == before


def test_half_a_record_is_closed_by_repair_and_then_all_is_well(sweep):
    four = list(sweep.dir.runs())[3]
    before = four.read_journal().records
    tear(four)
    said = check(sweep.root, repair=True)
    assert said[0] == "ok: repaired: half a record closed at the end of the journal of run 4"
    assert said[-1] == "ok: 4 runs, tables up to date"
    assert journal_of(four).read_bytes().endswith(b"\n")
    assert four.read_journal().records == before
    assert check(sweep.root) == ["ok: 4 runs, tables up to date"]


def test_a_whole_record_that_only_lacks_its_end_counts_after_the_repair(sweep):
    one = next(sweep.dir.runs())
    journal_of(one).write_bytes(journal_of(one).read_bytes()[:-1])
    assert read_sweep(sweep.dir).runs[0].status == "interrupted"  # its end record is not closed
    check(sweep.root, repair=True)
    assert read_sweep(sweep.dir).runs[0].status == "completed"


def test_what_somebody_is_writing_is_left_alone(tmp_path):
    manager = RunManager("toy", root=tmp_path, tensorboard=False, quiet=True)
    manager.begin_run(RunBuilder.get_runs({"lr": [0.1]})[0])
    try:
        (run_dir,) = SweepDir(tmp_path, "toy").runs()
        tear(run_dir)
        before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
        assert check(tmp_path, repair=True) == ["ok: 1 run, its launch keeps the tables"]
        assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    finally:
        manager.close()


def test_a_journal_that_is_open_after_all_is_left_alone(sweep):
    four = list(sweep.dir.runs())[3]
    tear(four)
    before = journal_of(four).read_bytes()
    with journal_of(four).open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert "warn: half a record at the end of the journal of run 4" in check(sweep.root, repair=True)
    assert journal_of(four).read_bytes() == before


def test_damaged_records_are_counted_by_run_and_stay_as_they_are(sweep):
    one, two, *_ = sweep.dir.runs()
    for run_dir in (one, two):
        journal_of(run_dir).write_bytes(journal_of(run_dir).read_bytes().replace(b'"val_loss":', b'"vol_loss":'))
    damaged = journal_of(one).read_bytes()
    said = check(sweep.root, repair=True)
    assert said[-1] == "warn: damaged records, which are left out: 2 in run 1, 2 in run 2"
    assert journal_of(one).read_bytes() == damaged


def test_a_run_that_nobody_can_read_fails_and_keeps_its_rows_in_the_tables(sweep):
    one = next(sweep.dir.runs())
    (one.path / "run.json").unlink()
    journal_of(one).write_bytes(b"\xff\n" * 5)
    before = sweep.dir.epochs_csv.read_text()
    findings = list(check_sweeps(sweep.root, repair=True))
    assert [(one.level, one.about) for one in findings] == [("FAIL", "sweep toy")]
    assert one.path.name in findings[0].text and f"delete runs/toy/{one.path.name}" in findings[0].next_step
    assert sweep.dir.epochs_csv.read_text() == before


@pytest.mark.parametrize("name", ["epochs_csv", "epochs_json", "runs_csv"])
def test_a_table_that_is_gone_is_made_again(name, sweep):
    table = getattr(sweep.dir, name)
    before = table.read_bytes()
    table.unlink()
    assert check(sweep.root) == [f"warn: results/{table.name} is missing"]
    assert check(sweep.root, repair=True)[-1] == "ok: 4 runs, tables up to date"
    assert table.read_bytes() == before


def test_rows_that_the_tables_lack_are_counted_and_put_in(sweep):
    sweep.run(5, {"lr": 5}, epochs=3)
    (said,) = check(sweep.root)
    assert said == (
        "warn: results/toy.csv lacks 3 rows; results/toy.json lacks 3 rows; "
        "results/toy.runs.csv does not have the status of run 5"
    )
    check(sweep.root, repair=True)
    assert len(load_results(sweep.dir.epochs_csv)) == 9


def test_rows_that_no_journal_has_are_counted_and_taken_out(sweep):
    shutil.rmtree(next(sweep.dir.runs()).path)
    (said,) = check(sweep.root)
    assert "results/toy.csv has 2 rows that no journal has" in said
    assert "results/toy.runs.csv has 1 row that no journal has" in said
    check(sweep.root, repair=True)
    assert sorted(set(load_results(sweep.dir.epochs_csv)["run"])) == [2, 3, 4]


def test_tables_that_a_killed_launch_left_behind_say_running_of_nobody(sweep):
    table = sweep.dir.runs_csv
    table.write_text(table.read_text().replace("4,interrupted", "4,running"))
    assert check(sweep.root) == ["warn: results/toy.runs.csv does not have the status of run 4"]
    check(sweep.root, repair=True)
    assert "4,interrupted" in table.read_text()


def test_tables_that_were_marked_as_out_of_date_are_told(sweep):
    os.utime(sweep.dir.epochs_csv, (0, 0))
    assert check(sweep.root) == ["warn: results/toy.csv is marked as out of date"]


def test_tables_that_are_all_that_is_left_are_kept(sweep):
    for run_dir in list(sweep.dir.runs()):
        shutil.rmtree(run_dir.path)
    before = sweep.dir.epochs_csv.read_bytes()
    assert check(sweep.root, repair=True) == ["ok: 0 runs, tables up to date"]
    assert sweep.dir.epochs_csv.read_bytes() == before


def make(path, seconds_ago=OLD_SECONDS, text=""):
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    then = time.time() - seconds_ago
    os.utime(path, (then, then))
    return path


def temporary(name, pid):
    """What a process of this machine was about to put in the place of a file."""
    return temporary_for(Path(name)).name.replace(f"-{os.getpid()}-", f"-{pid}-")


def test_files_of_processes_that_are_gone_are_told_and_dropped(sweep, dead_pid):
    one = next(sweep.dir.runs())
    dead = [
        make(sweep.dir.path / temporary("sweep.json", dead_pid)),
        make(sweep.dir.epochs_csv.parent / temporary("toy.csv", dead_pid)),
        make(sweep.dir.path / temporary("locks", dead_pid)),
        make(one.checkpoints / temporary("epoch-0001.pt", dead_pid)),
        make(one.path / temporary("claim-2", dead_pid)),
        make(one.claim_file(2), text=json.dumps(DEAD)),
        make(one.heartbeat),
        make(sweep.dir.launch_claim, text=json.dumps(DEAD)),
    ]
    (said,) = check(sweep.root)
    assert said.startswith("warn: 8 files of processes that are gone: ") and said.endswith(" and 5 more")
    assert all(path.exists() for path in dead)
    assert "ok: repaired: dropped 8 files of processes that are gone" in check(sweep.root, repair=True)
    assert not any(path.exists() for path in dead)
    assert check(sweep.root) == ["ok: 4 runs, tables up to date"]


def test_files_that_may_still_be_needed_are_kept(sweep, dead_pid):
    one = next(sweep.dir.runs())
    kept = [
        make(sweep.dir.path / temporary("sweep.json", os.getpid())),  # its process lives
        make(sweep.dir.path / f".code.diff.0123abcd-{dead_pid}-1.tmp", seconds_ago=5),  # another machine's, perhaps
        make(sweep.dir.epochs_csv.parent / temporary("other.csv", dead_pid)),  # another sweep's
        make(one.claim_file(2), text=json.dumps(ALIVE)),
        make(one.path / ".notes.tmp"),
        make(one.path / "notes.1234.tmp"),
        make(one.path / "log.txt", text="what the run printed"),
    ]
    assert check(sweep.root, repair=True)[-1] == "ok: 4 runs, tables up to date"
    assert all(path.exists() for path in kept)


def test_folders_of_doctors_that_were_killed_are_dropped(sweep, dead_pid):
    old = sweep.root / "runs" / f".doctor-{dead_pid}-abc"
    own = sweep.root / "runs" / f".doctor-{os.getpid()}-abc"
    for folder in (old, own):
        folder.mkdir()
    assert check(sweep.root)[0] == "warn: 1 folder of a doctor that was killed"
    assert check(sweep.root, repair=True)[0] == "ok: dropped 1 folder of a doctor that was killed"
    assert own.exists() and not old.exists()


@pytest.mark.parametrize(
    ("lost", "said"),
    [
        ([], "ok: 5 runs, tables up to date"),
        ([2], "warn: run 5: its saved state of epoch 2 is missing or cut; it goes on after epoch 1"),
        ([1, 2], "FAIL: run 5: its saved state of epoch 2 is missing or cut, so it cannot go on"),
    ],
)
def test_a_saved_state_that_is_gone_is_told_before_a_launch_stumbles_over_it(lost, said, sweep):
    run_dir = sweep.run(5, {"lr": 5}, None, epochs=2, saved=(1, 2))
    sweep.with_tables()
    for epoch in lost:
        (run_dir.checkpoints / f"epoch-{epoch}.pt").write_bytes(b"cut"[: epoch % 2])
    assert check(sweep.root) == [said]


def test_a_sweep_that_cannot_be_looked_at_hides_no_other(sweep):
    (sweep.root / "elsewhere").mkdir()
    (sweep.root / "runs" / "linked").symlink_to(sweep.root / "elsewhere")
    said = check(sweep.root, repair=True)
    assert any(line.startswith("FAIL: runs/linked is a link") for line in said)
    assert said[-1] == "ok: 4 runs, tables up to date"


HELD = """
for epoch in range(20):
    m.begin_epoch()
    while run.lr > 0.1 and epoch == 10 and not GO.exists():
        time.sleep(0.01)
    m.log(val_loss=run.lr)
    m.end_epoch()
"""


def test_after_a_real_kill_the_tables_are_made_right_and_the_next_launch_goes_on(project):
    go = project.root / "go"
    before = f"import time\nfrom pathlib import Path\nGO = Path({str(go)!r})"
    project.by_function(HELD, before=before, params="{'lr': [0.1, 0.2, 0.3]}")
    command = [sys.executable, "-m", "runmanager", "launch", "tiny", "--workers", "2", "-q", "--no-tensorboard"]
    launch = subprocess.Popen(command, cwd=project.root, env=project.environment())
    table = project.root / "results" / "tiny.csv"
    until(lambda: table.exists() and table.read_text().count("\n") > 5)
    launch.send_signal(signal.SIGKILL)
    launch.wait()
    sweep_dir = SweepDir(project.root, "tiny")
    until(lambda: not read_sweep(sweep_dir).count("running"))
    assert any("tiny.runs.csv does not have the status of run" in line for line in check(project.root))
    assert check(project.root, repair=True)[-1].endswith("tables up to date")
    rows = sum(len(run.rows) for run in read_sweep(sweep_dir).runs)
    assert len(load_results(table)) == rows >= 5
    go.touch()
    assert project.process("launch", "tiny", "--workers", "2", "-q", "--no-tensorboard").status == 0
    assert check(project.root) == ["ok: 3 runs, tables up to date"]
