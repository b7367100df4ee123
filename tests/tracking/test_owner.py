"""Who writes a run: alive only while that very process is, on this machine, since this boot."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from runmanager import RunBuilder, RunManager
from runmanager.tracking.owner import REMOTE_SECONDS, is_alive, owner_text, this_process
from runmanager.tracking.run_dir import SweepDir

SLEEPER = """
import json, sys
from runmanager.tracking.owner import this_process
print(json.dumps(this_process()), flush=True)
sys.stdin.read()
"""


@pytest.fixture
def other() -> Iterator["subprocess.Popen[str]"]:
    """A process that says who it is and waits."""
    command = [sys.executable, "-c", SLEEPER]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        yield process
        process.kill()


def owner_of(process: "subprocess.Popen[str]") -> dict[str, object]:
    assert process.stdout is not None
    return dict(json.loads(process.stdout.readline()))


def test_this_process_is_alive() -> None:
    assert is_alive(this_process())


def test_another_process_is_alive_until_it_is_killed(other: "subprocess.Popen[str]") -> None:
    owner = owner_of(other)
    assert is_alive(owner)
    other.kill()
    other.wait()
    assert not is_alive(owner)


def test_a_killed_process_that_nobody_has_waited_for_is_dead(other: "subprocess.Popen[str]") -> None:
    owner = owner_of(other)
    other.kill()
    deadline = time.monotonic() + 30
    while Path(f"/proc/{other.pid}/stat").read_text().rsplit(") ", 1)[1][0] != "Z":
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert not is_alive(owner)


def test_a_stopped_process_is_still_alive(other: "subprocess.Popen[str]") -> None:
    owner = owner_of(other)
    other.send_signal(signal.SIGSTOP)
    assert is_alive(owner)


def test_another_process_that_got_the_same_number_is_not_the_owner() -> None:
    mine = this_process()
    assert not is_alive({**mine, "started": mine["started"] - 1})
    assert not is_alive({**mine, "started": None})


@pytest.mark.parametrize(
    "stranger", [{"host": "elsewhere"}, {"boot": "an earlier one"}, {"pid": 0}, {"pid": -1}, {"pid": None}]
)
def test_whoever_cannot_be_seen_from_here_is_not_provably_alive(stranger: dict[str, object]) -> None:
    assert not is_alive({**this_process(), **stranger})


ELSEWHERE = [{"host": "elsewhere"}, {"host": "elsewhere", "boot": "its own"}, {"pids": "pid:[4026539999]"}]


@pytest.mark.parametrize("stranger", ELSEWHERE)
def test_a_process_that_cannot_be_seen_from_here_lives_as_long_as_it_gives_signs(stranger: dict[str, object]) -> None:
    owner = {**this_process(), **stranger}
    assert is_alive(owner, time.time())
    assert is_alive(owner, time.time() - REMOTE_SECONDS + 5)
    assert not is_alive(owner, time.time() - REMOTE_SECONDS - 5)


def test_a_sign_from_the_far_future_is_no_sign(tmp_path: Path) -> None:
    """The clock of that machine, or of the disk, was wrong by hours; the run would be running for as long."""
    assert not is_alive({**this_process(), "host": "elsewhere"}, time.time() + 10 * 3600)


@pytest.mark.parametrize("stranger", [{"boot": "an earlier one"}, {"pid": 2**22 - 3}, {"started": 1}])
def test_a_fresh_sign_does_not_bring_a_dead_process_of_this_machine_back(stranger: dict[str, object]) -> None:
    assert not is_alive({**this_process(), **stranger}, time.time())


def test_a_process_in_a_container_of_its_own_is_told_by_its_signs() -> None:
    if subprocess.run(["unshare", "-Urpf", "true"], capture_output=True).returncode:
        pytest.skip("this system lets no process have process ids of its own (unshare -Urpf)")
    script = "import json; from runmanager.tracking.owner import this_process; print(json.dumps(this_process()))"
    command = ["unshare", "-Urpf", "--mount-proc", sys.executable, "-c", script]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(done.stderr)
    owner = json.loads(done.stdout)
    assert owner["pids"] != this_process()["pids"]
    assert is_alive(owner, time.time())  # although a process of that number may be there, or not
    assert not is_alive(owner, time.time() - 2 * REMOTE_SECONDS)


def test_a_forked_process_is_another_one() -> None:
    mine = this_process()
    receiver, sender = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.write(sender, json.dumps(this_process()).encode())
        os._exit(0)
    owner = json.loads(os.read(receiver, 10_000))
    os.waitpid(pid, 0)
    assert owner["pid"] == pid != mine["pid"]
    assert not is_alive(owner)
    assert is_alive(mine)


def test_an_owner_is_named_with_its_machine_where_that_is_another() -> None:
    mine = this_process()
    assert owner_text(mine) == f"pid {mine['pid']}"
    assert owner_text({**mine, "host": "gpu-box"}) == f"pid {mine['pid']} on gpu-box"


def test_a_run_without_an_owner_is_nobodys() -> None:
    assert not is_alive({})


TWIN = """
import sys
from runmanager import RunBuilder, RunManager
m = RunManager("twins", root=sys.argv[1], tensorboard=False, quiet=True)
(run,) = RunBuilder.get_runs({"lr": [0.1]})
m.begin_run(run)
for epoch in range(3):
    m.begin_epoch()
    m.log(who=2.0)
    m.end_epoch()
m.end_run()
"""


def test_a_run_that_a_living_process_is_writing_loses_no_row_to_a_second_launch(tmp_path: Path) -> None:
    m = RunManager("twins", root=tmp_path, tensorboard=False, quiet=True)
    (run,) = RunBuilder.get_runs({"lr": [0.1]})
    m.begin_run(run)
    record(m, 1)
    second = subprocess.run([sys.executable, "-c", TWIN, str(tmp_path)], capture_output=True, text=True)
    record(m, 2)
    m.end_run()
    m.close()
    journals = [run_dir.read_journal() for run_dir in SweepDir(tmp_path, "twins").runs()]
    kept = [record["metrics"]["who"] for journal in journals for record in journal.records if record["kind"] == "epoch"]
    assert sorted(kept) == ([1.0, 1.0] if second.returncode else [1.0, 1.0, 2.0, 2.0, 2.0]), second.stderr


def record(m: RunManager, epoch: int) -> None:
    m.begin_epoch()
    m.log(who=1.0)
    m.end_epoch()
