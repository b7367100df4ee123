"""Who may write a run: one process at a time, whoever races, dies, or sits on another machine."""

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from runmanager import RunBuilder, RunManager
from runmanager.parameters import identity
from runmanager.tracking import attempt as attempts
from runmanager.tracking.attempt import begin_attempt
from runmanager.tracking.errors import RunInUseError
from runmanager.tracking.history import read_run
from runmanager.tracking.owner import REMOTE_SECONDS, this_process
from runmanager.tracking.run_dir import RunDir, SweepDir, run_record

PARAMS = {"lr": 0.1}
(RUN,) = RunBuilder.get_runs({"lr": [0.1]})
LONG_AGO = 10 * REMOTE_SECONDS


def new_run(root: Path) -> RunDir:
    sweep_dir = SweepDir(root, "sweep")
    sweep_dir.make()
    run_dir = sweep_dir.run_dir(1, PARAMS, identity(PARAMS))
    run_dir.make()
    return run_dir


def begun_by(owner: dict[str, Any], root: Path) -> RunDir:
    """A run whose first attempt was begun by `owner`, and has not ended."""
    run_dir = new_run(root)
    fields = {"attempt": 1, "time": 0.0, "owner": owner, "run": run_record(1, identity(PARAMS), PARAMS, None, 1)}
    journal = run_dir.open_journal(new=True)
    journal.append(("begin", fields))
    journal.close()
    return run_dir


def dead() -> dict[str, Any]:
    """A process of this machine that is no more."""
    return {**this_process(), "pid": 2**22 - 3, "started": 1}


def age(run_dir: RunDir, seconds: float) -> None:
    """The last sign of life in the run's folder was so long ago."""
    then = time.time() - seconds
    for path in run_dir.path.iterdir():
        os.utime(path, (then, then))


def status(run_dir: RunDir) -> str:
    run = read_run(run_dir, {})
    assert run is not None
    return run.status


def test_attempts_are_counted_over_processes_that_ended_well_and_leave_no_claim(tmp_path: Path) -> None:
    run_dir = new_run(tmp_path)
    for number in (1, 2, 3):
        attempt = begin_attempt(run_dir)
        assert attempt.number == number
        attempt.journal.append(("begin", {"attempt": number, "owner": this_process()}))
        attempt.journal.append(("end", {"status": "failed"}))
        attempt.close()
    assert os.listdir(run_dir.path) == ["journal.jsonl"]


RACE = """
import fcntl, json, multiprocessing, sys
from pathlib import Path
from runmanager.tracking.attempt import begin_attempt
from runmanager.tracking.errors import RunInUseError
from runmanager.tracking.owner import this_process
from runmanager.tracking.run_dir import RunDir

root, locks, earlier, num_rounds, num_processes = sys.argv[1:4] + [int(text) for text in sys.argv[4:6]]
if locks == "without locks":
    fcntl.flock = lambda *arguments: None

def race(barrier, told):
    for number in range(num_rounds):
        run_dir = RunDir(Path(root) / str(number), 1)
        barrier.wait()
        attempt = None
        try:
            attempt = begin_attempt(run_dir)
            attempt.journal.append(("begin", {"attempt": attempt.number, "owner": this_process(), "run": {}}))
            told.put((number, attempt.number))
        except RunInUseError:
            pass
        barrier.wait()
        if attempt:
            attempt.close()

context = multiprocessing.get_context("fork")
barrier, told = context.Barrier(num_processes), context.Queue()
for number in range(num_rounds):
    (Path(root) / str(number)).mkdir()
    if earlier == "second":
        journal = RunDir(Path(root) / str(number), 1).open_journal(new=True)
        journal.append(("begin", {"attempt": 1, "owner": {**this_process(), "pid": 2**22 - 3}, "run": {}}))
        journal.close()
racers = [context.Process(target=race, args=(barrier, told)) for _ in range(num_processes)]
[racer.start() for racer in racers]
[racer.join(50) for racer in racers]
print(json.dumps([told.get(timeout=5) for _ in range(told.qsize())]))
"""


@pytest.mark.parametrize("earlier", ["first", "second"])
@pytest.mark.parametrize("locks", ["with locks", "without locks"])
def test_of_eight_processes_that_race_for_a_run_one_gets_it(tmp_path: Path, locks: str, earlier: str) -> None:
    """Without locks, as on some shared folders, the claims alone must hold."""
    command = [sys.executable, "-c", RACE, str(tmp_path), locks, earlier, "20", "8"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    won = [tuple(each) for each in json.loads(done.stdout)]
    doubled = {each: times for each, times in Counter(number for number, _ in won).items() if times > 1}
    assert not doubled, f"rounds in which more than one process has the run: {doubled}, {sorted(won)}"
    assert {number for number, _ in won} == set(range(20))
    for number in range(20):  # and what the winner recorded is there, once
        begun = [r["attempt"] for r in RunDir(tmp_path / str(number), 1).read_journal().records if r["kind"] == "begin"]
        assert begun == ([1, 2] if earlier == "second" else begun[:1])


QUICK = """
import fcntl, multiprocessing, sys
from pathlib import Path
from runmanager.tracking.attempt import begin_attempt
from runmanager.tracking.errors import RunInUseError
from runmanager.tracking.owner import this_process
from runmanager.tracking.run_dir import RunDir
if sys.argv[2] == "without locks":
    fcntl.flock = lambda *arguments: None

def train(barrier):
    for number in range(10):
        run_dir = RunDir(Path(sys.argv[1]) / str(number), 1)
        barrier.wait()
        for _ in range(5):
            try:
                attempt = begin_attempt(run_dir)
            except RunInUseError:
                continue
            attempt.journal.append(("begin", {"attempt": attempt.number, "owner": this_process(), "run": {}}))
            attempt.journal.append(("end", {"status": "failed"}))
            attempt.close()
            with open(f"{sys.argv[1]}/{number}.begun", "a") as begun:
                begun.write(f"{attempt.number}\\n")

context = multiprocessing.get_context("fork")
barrier = context.Barrier(6)
for number in range(10):
    (Path(sys.argv[1]) / str(number)).mkdir()
    journal = RunDir(Path(sys.argv[1]) / str(number), 1).open_journal(new=True)
    journal.append(("begin", {"attempt": 1, "owner": {**this_process(), "pid": 2**22 - 3}, "run": {}}))
    journal.close()
racers = [context.Process(target=train, args=(barrier,)) for _ in range(6)]
[racer.start() for racer in racers]
[racer.join(50) for racer in racers]
"""


@pytest.mark.parametrize("locks", ["with locks", "without locks"])
def test_attempts_that_follow_each_other_at_once_hide_no_record_of_each_other(tmp_path: Path, locks: str) -> None:
    """Whoever looked at the journal before the last attempt ended may not go on with what it saw then."""
    subprocess.run([sys.executable, "-c", QUICK, str(tmp_path), locks], timeout=60, check=True)
    for number in range(10):
        content = RunDir(tmp_path / str(number), 1).read_journal()
        begun = [record["attempt"] for record in content.records if record["kind"] == "begin"]
        assert content.num_bad_lines == 0, f"{content.num_bad_lines} records have the number of another one"
        # a number may be left out: whoever claimed it saw that the journal had changed, and let it go
        assert begun == sorted({1, *map(int, (tmp_path / f"{number}.begun").read_text().split())})


TAKE = """
import fcntl, sys
from pathlib import Path
from runmanager.tracking.attempt import begin_attempt
from runmanager.tracking.errors import RunInUseError
from runmanager.tracking.run_dir import RunDir
if sys.argv[2] == "without locks":
    fcntl.flock = lambda *arguments: None
try:
    print(begin_attempt(RunDir(Path(sys.argv[1]), 1)).number)
except RunInUseError as error:
    print("refused:", error)
"""


def take(run_dir: RunDir, locks: str = "with locks") -> str:
    """What another process says that tries to begin the run, and dies where it got it."""
    command = [sys.executable, "-c", TAKE + "import os; sys.stdout.flush(); os._exit(0)", str(run_dir.path), locks]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


@pytest.mark.parametrize("locks", ["with locks", "without locks"])
def test_a_run_that_is_being_trained_is_refused_to_another_process_who_is_told_by_whom(
    tmp_path: Path, locks: str
) -> None:
    m = RunManager("sweep", root=tmp_path, tensorboard=False, quiet=True)
    m.begin_run(RUN)
    (run_dir,) = SweepDir(tmp_path, "sweep").runs()
    before = (run_dir.path / "journal.jsonl").read_bytes()
    said = take(run_dir, locks)
    assert said.startswith("refused:") and f"pid {os.getpid()}" in said
    assert (run_dir.path / "journal.jsonl").read_bytes() == before
    m.log(x=1.0)
    m.end_run()
    m.close()
    assert status(run_dir) == "completed"


DIES = {
    "before it wrote a byte": "",
    "within its begin record": '{"seq":1,"kind":"begin","attempt":1,"ow',
}


@pytest.mark.parametrize("text", DIES.values(), ids=DIES.keys())
def test_a_creator_that_died_before_its_begin_record_leaves_the_run_to_the_next(tmp_path: Path, text: str) -> None:
    run_dir = new_run(tmp_path)
    (run_dir.path / "journal.jsonl").write_text(text)
    age(run_dir, 60)
    m = RunManager("sweep", root=tmp_path, tensorboard=False, quiet=True)
    with m.tracking(RUN):
        m.log(x=1.0)
    m.close()
    assert status(run_dir) == "completed"
    assert read_run(run_dir, {}).metrics == {"x": 1.0}
    assert not list(run_dir.path.glob("claim-*"))


@pytest.mark.parametrize("text", ["", "{", '{"host": "a', "null", "[1]", "3", "\0\0\0", '{"pid": "x"}'])
def test_a_claim_that_is_empty_or_torn_keeps_nobody_out(tmp_path: Path, text: str) -> None:
    run_dir = begun_by(dead(), tmp_path)
    run_dir.claim_file(2).write_text(text)
    age(run_dir, LONG_AGO)
    attempt = begin_attempt(run_dir)
    assert attempt.number == 3
    attempt.close()
    assert os.listdir(run_dir.path) == ["journal.jsonl"]


def test_a_claim_of_bytes_that_are_no_text_keeps_nobody_out(tmp_path: Path) -> None:
    run_dir = begun_by(dead(), tmp_path)
    run_dir.claim_file(2).write_bytes(b"\xff\xfe{")
    age(run_dir, LONG_AGO)
    begin_attempt(run_dir).close()


@pytest.mark.parametrize("name", ["claim-x1", "claim-", "claim-2.bak3", "claim-2 (copy) 2", "claim--1", "claim-²"])
def test_a_strangers_file_that_looks_like_a_claim_stops_no_run(tmp_path: Path, name: str) -> None:
    run_dir = begun_by(dead(), tmp_path)
    (run_dir.path / name).write_text("mine")
    attempt = begin_attempt(run_dir)
    assert attempt.number >= 2
    attempt.close()


def test_claims_of_the_dead_are_cleared_away_and_their_numbers_not_used_again(tmp_path: Path) -> None:
    run_dir = begun_by(dead(), tmp_path)
    for number in (2, 7):
        run_dir.claim_file(number).write_text(json.dumps(dead()))
    attempt = begin_attempt(run_dir)
    assert attempt.number == 8
    assert [path.name for path in run_dir.path.glob("claim-*")] == ["claim-8"]
    attempt.close()


def test_a_claim_whose_maker_lives_keeps_others_out_before_it_has_recorded_anything(tmp_path: Path) -> None:
    run_dir = begun_by(dead(), tmp_path)
    with subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE) as other:
        living = {**this_process(), "pid": other.pid, "started": started(other.pid)}
        run_dir.claim_file(2).write_text(json.dumps(living))
        with pytest.raises(RunInUseError, match=f"pid {other.pid}"):
            begin_attempt(run_dir)
        other.kill()
    attempt = begin_attempt(run_dir)
    assert attempt.number == 3
    attempt.close()


def started(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rsplit(") ", 1)[1].split()[19])


ELSEWHERE = {
    "another machine": {"host": "gpu-box", "boot": "its own", "pids": "pid:[1]"},
    "a container here": {"pids": "pid:[4026539999]"},
}


@pytest.mark.parametrize("where", ELSEWHERE)
def test_a_process_that_cannot_be_seen_has_the_run_as_long_as_it_gives_signs_of_life(
    tmp_path: Path, where: str
) -> None:
    run_dir = begun_by({**this_process(), **ELSEWHERE[where]}, tmp_path)
    assert status(run_dir) == "running"
    with pytest.raises(RunInUseError, match="being trained by pid"):
        begin_attempt(run_dir)
    age(run_dir, LONG_AGO)
    assert status(run_dir) == "interrupted"
    attempt = begin_attempt(run_dir)
    assert attempt.number == 2
    attempt.close()


def test_a_heartbeat_alone_keeps_a_run_whose_epochs_are_long(tmp_path: Path) -> None:
    run_dir = begun_by({**this_process(), "host": "gpu-box"}, tmp_path)
    age(run_dir, LONG_AGO)
    run_dir.heartbeat.touch()
    assert status(run_dir) == "running"
    with pytest.raises(RunInUseError, match="gpu-box"):
        begin_attempt(run_dir)
    os.utime(run_dir.heartbeat, (1, 1))
    assert status(run_dir) == "interrupted"


def test_after_a_reboot_a_fresh_journal_keeps_nobody_out(tmp_path: Path) -> None:
    run_dir = begun_by({**this_process(), "boot": "the one before"}, tmp_path)
    assert status(run_dir) == "interrupted"
    attempt = begin_attempt(run_dir)
    assert attempt.number == 2
    attempt.close()


def test_a_claim_of_another_machine_keeps_others_out_while_it_is_fresh(tmp_path: Path) -> None:
    run_dir = begun_by(dead(), tmp_path)
    run_dir.claim_file(2).write_text(json.dumps({**this_process(), "host": "gpu-box"}))
    with pytest.raises(RunInUseError, match="gpu-box"):
        begin_attempt(run_dir)
    age(run_dir, LONG_AGO)
    begin_attempt(run_dir).close()


def test_a_claim_made_just_now_on_another_machine_counts_though_the_journal_is_old(tmp_path: Path) -> None:
    run_dir = begun_by(dead(), tmp_path)
    age(run_dir, LONG_AGO)
    run_dir.claim_file(2).write_text(json.dumps({**this_process(), "host": "gpu-box"}))
    with pytest.raises(RunInUseError, match="gpu-box"):
        begin_attempt(run_dir)


def test_a_long_attempt_beats_and_takes_its_heartbeat_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attempts, "BEAT_SECONDS", 0.02)
    monkeypatch.setattr(attempts, "_beats", attempts._Beats())
    run_dir = new_run(tmp_path)
    attempt = begin_attempt(run_dir)
    deadline = time.monotonic() + 60
    while not run_dir.heartbeat.exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.utime(run_dir.heartbeat, (1, 1))
    while run_dir.last_sign() < time.time() - 60 or run_dir.heartbeat.stat().st_mtime == 1:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    attempt.close()
    time.sleep(0.1)
    assert not run_dir.heartbeat.exists()


def test_a_short_run_leaves_nothing_but_its_records(tmp_path: Path) -> None:
    m = RunManager("sweep", root=tmp_path, tensorboard=False, quiet=True)
    with m.tracking(RUN):
        m.log(x=1.0)
    (run_dir,) = SweepDir(tmp_path, "sweep").runs()
    assert sorted(os.listdir(run_dir.path)) == ["journal.jsonl", "run.json"]


KILLED = """
import os, signal, sys
from runmanager import RunBuilder, RunManager
from runmanager.tracking import {where}
def die(*arguments, **keywords):
    os.kill(os.getpid(), signal.SIGKILL)
{patch}
m = RunManager("sweep", root=sys.argv[1], tensorboard=False, quiet=True)
m.begin_run(RunBuilder.get_runs({{"lr": [0.1]}})[0])
"""
KILLS = {
    "before the journal": ("run_dir", "run_dir.RunDir.open_journal = die"),
    "after the journal was made": ("attempt", "attempt._Beats.add = die"),
    "before the claim": ("attempt", "attempt._claim = die"),
    "within the claim": ("attempt", "attempt.this_process = die"),
    "before the begin record": ("journal", "journal.Journal.append = die"),
    "before run.json": ("run_dir", "run_dir.RunDir.write_run = die"),
}


@pytest.mark.parametrize("when", KILLS)
@pytest.mark.parametrize("earlier", ["first attempt", "second attempt"])
def test_a_begin_that_is_killed_anywhere_leaves_the_run_to_the_next(tmp_path: Path, when: str, earlier: str) -> None:
    if earlier == "second attempt":
        begun_by(dead(), tmp_path)
    where, patch = KILLS[when]
    script = KILLED.format(where=where, patch=patch)
    died = subprocess.run([sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True)
    if earlier == "first attempt" and "claim" in when:
        assert died.returncode == 0  # a first attempt needs no claim
        return
    assert died.returncode == -signal.SIGKILL, died.stderr
    for run_dir in SweepDir(tmp_path, "sweep").runs():
        if run_dir.read_run():
            assert status(run_dir) == "interrupted"
        age(run_dir, 60)
    m = RunManager("sweep", root=tmp_path, tensorboard=False, quiet=True)
    with m.tracking(RUN):
        m.log(x=1.0)
    (run_dir,) = SweepDir(tmp_path, "sweep").runs()
    assert status(run_dir) == "completed"
    numbers = [r["attempt"] for r in run_dir.read_journal().records if r["kind"] == "begin"]
    assert numbers == sorted(set(numbers))


def test_a_run_whose_run_json_cannot_be_written_goes_on_without_it_and_says_so(tmp_path: Path) -> None:
    run_dir = new_run(tmp_path)
    (run_dir.path / "run.json").mkdir()
    m = RunManager("sweep", root=tmp_path, tensorboard=False, quiet=True)
    with pytest.warns(RuntimeWarning, match="run.json"):
        m.begin_run(RUN)
    m.log(x=1.0)
    m.end_run()
    assert status(run_dir) == "completed"


def test_a_run_that_was_refused_can_be_had_once_its_owner_is_killed(tmp_path: Path) -> None:
    script = KILLED.format(where="attempt", patch="") + "print(1, flush=True)\nsys.stdin.read()"
    command = [sys.executable, "-c", script, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None and other.stdout.readline()
        (run_dir,) = SweepDir(tmp_path, "sweep").runs()
        for _ in range(3):
            with pytest.raises(RunInUseError):
                begin_attempt(run_dir)
        other.kill()
        other.wait()
    attempt = begin_attempt(run_dir)
    assert attempt.number == 2
    attempt.close()
