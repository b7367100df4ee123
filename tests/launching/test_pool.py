"""Worker processes: what they answer, how they end, and that nothing is left of them."""

import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ALL_COMPLETED, FIRST_COMPLETED, CancelledError, wait
from pathlib import Path

import pytest

from runmanager.launching import pool as pool_module
from runmanager.launching import worker
from runmanager.launching.pool import CallFailed, WorkerDied, WorkerPool
from runmanager.launching.slots import Slot

HERE = Path(__file__).parent
SECONDS = 20  # that anything may take before it is said to hang
DRIVER = """
import sys, time
from pathlib import Path
from runmanager.launching.pool import WorkerPool
from runmanager.launching.slots import Slot

folder = Path(sys.argv[1])
pool = WorkerPool([Slot(index, {"PYTHONPATH": sys.argv[2]}) for index in range(4)], folder)
calls = [
    pool.submit("pool_calls:have_children", str(folder / "children")),
    pool.submit("pool_calls:hold_gil", str(folder / "held"), 300),
    pool.submit("pool_calls:sleep", 300, str(folder / "asleep")),
    pool.submit("pool_calls:have_children", str(folder / "orphans"), "answer"),
]
time.sleep(300)
"""


def slots(num_slots: int, **environment: str) -> list[Slot]:
    return [Slot(index, {"PYTHONPATH": str(HERE), **environment}) for index in range(num_slots)]


@pytest.fixture
def make_pool(tmp_path):
    """Makes pools; at the end, no process and no file is left of them."""
    files, processes = set(os.listdir("/proc/self/fd")), set(children(os.getpid()))
    made: list[WorkerPool] = []

    def make(num_slots: int = 1, **environment: str) -> WorkerPool:
        made.append(WorkerPool(slots(num_slots, **environment), tmp_path))
        return made[-1]

    yield make
    for one in made:
        one.terminate()
    # what an earlier test has left may have ended meanwhile
    assert set(children(os.getpid())) <= processes
    assert set(os.listdir("/proc/self/fd")) <= files


@pytest.fixture
def pool(make_pool):
    return make_pool()


def stat(pid: int) -> list[bytes]:
    """State, parent, group, ... of a process; nothing when there is none."""
    try:
        return Path(f"/proc/{pid}/stat").read_bytes().rpartition(b") ")[2].split()
    except OSError:
        return []


def lives(pid: int) -> bool:
    return stat(pid)[:1] not in ([], [b"Z"])


def children(parent: int) -> list[int]:
    """Zombies too."""
    pids = [int(name) for name in os.listdir("/proc") if name.isdigit()]
    return [pid for pid in pids if stat(pid)[1:2] == [b"%d" % parent]]


def descendants(parent: int) -> list[int]:
    below = children(parent)
    return below + [pid for child in below for pid in descendants(child)]


def eventually(holds, seconds: float = SECONDS) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, "it never came to be"
        time.sleep(0.005)


def died(future) -> WorkerDied:
    with pytest.raises(WorkerDied) as caught:
        future.result(SECONDS)
    return caught.value


def failed(future) -> CallFailed:
    with pytest.raises(CallFailed) as caught:
        future.result(SECONDS)
    return caught.value


def pids_in(path: Path) -> list[int]:
    eventually(lambda: path.exists() and path.read_text())
    return [int(pid) for pid in path.read_text().split()]


# --- calls ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [None, 3, 0.1, "né\n\x00\ud800", [1, [2]], {"a": {"b": None}}, float("inf")])
def test_a_plain_value_goes_there_and_back(pool, value):
    assert pool.submit("pool_calls:echo", value).result(SECONDS) == value


def test_a_function_of_a_module_is_called_by_itself_and_with_keywords(pool):
    assert pool.submit(os.getpid).result(SECONDS) != os.getpid()
    assert pool.submit("pool_calls:add", 1, second=2).result(SECONDS) == 3
    assert list(pool.map(os.path.basename, ["a/b", "c/d"])) == ["b", "d"]


def test_what_a_worker_cannot_be_given_is_refused_at_once(pool):
    with pytest.raises(TypeError, match="give a function of a module"):
        pool.submit(lambda: 1)
    with pytest.raises(TypeError, match="give a function of a module"):
        pool.submit(Path.cwd)
    with pytest.raises(TypeError, match="not JSON serializable"):
        pool.submit("pool_calls:echo", object())


def test_a_result_of_ten_megabytes_arrives_whole_and_so_does_such_an_argument(pool):
    assert pool.submit("pool_calls:letters", 10_000_000).result(SECONDS) == "x" * 10_000_000
    assert pool.submit("pool_calls:echo", "y" * 10_000_000).result(SECONDS) == "y" * 10_000_000


def test_calls_are_begun_in_the_order_they_were_made(pool, tmp_path):
    calls = [pool.submit("pool_calls:say", f"call {index}") for index in range(20)]
    wait(calls, SECONDS)
    assert died(pool.submit("pool_calls:leave_at_once", 0)).output.split("\n")[:20] == [f"call {i}" for i in range(20)]


def test_two_workers_work_at_once_and_there_are_no_more(make_pool, tmp_path):
    pool = make_pool(2)
    calls = [pool.submit("pool_calls:meet", str(tmp_path), *names) for names in ("ab", "ba")]
    pids = {call.result(SECONDS) for call in calls}
    assert len(pids) == 2
    assert {call.result(SECONDS) for call in [pool.submit("pool_calls:pid") for _ in range(30)]} <= pids


def test_one_after_another_needs_one_worker(make_pool):
    pool = make_pool(2)
    assert len({pool.submit("pool_calls:pid").result(SECONDS) for _ in range(200)}) == 1


def test_slots_that_are_added_are_used_by_calls_that_wait(pool, tmp_path):
    calls = [pool.submit("pool_calls:meet", str(tmp_path), *names) for names in ("ab", "ba")]
    pool.add_slots(slots(2)[1:])
    assert len({call.result(SECONDS) for call in calls}) == 2


def test_a_call_that_waits_can_be_cancelled_and_one_under_way_cannot(pool, tmp_path):
    first = pool.submit("pool_calls:wait_for", str(tmp_path / "go"))
    second, third = pool.submit("pool_calls:say", "second"), pool.submit("pool_calls:pid")
    assert second.cancel()
    assert not first.cancel()
    assert (pool.pid_of(second), pool.pid_of(third)) == (None, None)
    (tmp_path / "go").touch()
    assert third.result(SECONDS)
    assert wait([second], SECONDS).done
    assert "second" not in died(pool.submit("pool_calls:leave_at_once", 0)).output


def test_a_worker_knows_what_it_is_and_has_only_what_it_needs(pool, tmp_path):
    about = pool.submit("pool_calls:about").result(SECONDS)
    assert about == {
        "in_worker": True,
        "folder": str(tmp_path),
        "argv": [],
        "group": True,
        "num_files": 5,  # the standard three and two pipes
        "heavy": [],
    }
    assert not worker.in_worker()


def test_a_worker_has_its_slots_environment_and_the_drivers(make_pool, monkeypatch):
    monkeypatch.setenv("OF_THE_USER", "kept")
    pool = make_pool(1, OMP_NUM_THREADS="3")
    assert pool.submit("pool_calls:environment", "OMP_NUM_THREADS").result(SECONDS) == "3"
    assert pool.submit("pool_calls:environment", "OF_THE_USER").result(SECONDS) == "kept"


def test_a_file_that_is_called_like_a_standard_module_does_no_harm(make_pool, tmp_path):
    (tmp_path / "json.py").write_text("raise SystemExit('not the one you wanted')")
    assert make_pool().submit("pool_calls:echo", 1).result(SECONDS) == 1


def test_ten_thousand_calls_leave_memory_and_files_as_they_were(pool):
    def calls(number: int) -> None:
        for _ in range(number // 100):
            wait([pool.submit("pool_calls:echo", index) for index in range(100)], SECONDS)

    def size() -> tuple[int, int]:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE"), len(os.listdir("/proc/self/fd"))

    calls(1_000)
    memory, files = size()
    calls(10_000)
    assert size()[0] - memory < 2_000_000
    assert size()[1] == files


# --- failures ---------------------------------------------------------------------------------------------------------


def test_an_exception_fails_its_call_alone(pool):
    before = pool.submit("pool_calls:pid").result(SECONDS)
    error = failed(pool.submit("pool_calls:fail", "first line\nsecond line"))
    assert str(error) == "ValueError: first line"
    assert error.traceback.startswith("Traceback (most recent call last):\n")
    assert "in fail\n    raise ValueError(text)\nValueError: first line\nsecond line\n" in error.traceback
    assert "worker.py" not in error.traceback
    assert pool.submit("pool_calls:pid").result(SECONDS) == before


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (("pool_calls:leave", 3), "SystemExit: 3"),
        (("pool_calls:fail", ""), "ValueError"),
        (("pool_calls:fail_unprintably",), "UnprintableError"),
        (("pool_calls:unspeakable",), "TypeError: Object of type set is not JSON serializable"),
        (("pool_calls:nothing",), "AttributeError: module 'pool_calls' has no attribute 'nothing'"),
        (("no_such_module:echo",), "ModuleNotFoundError: No module named 'no_such_module'"),
        (("pool_calls:echo",), "TypeError: echo() missing 1 required positional argument: 'value'"),
    ],
)
def test_a_call_that_fails_says_why(pool, call, message):
    assert str(failed(pool.submit(*call))) == message


def test_an_error_of_ten_megabytes_is_one_short_line_and_a_whole_traceback(pool):
    error = failed(pool.submit("pool_calls:fail", "x" * 10_000_000))
    assert len(str(error)) == 1_000
    assert "x" * 10_000_000 in error.traceback


@pytest.mark.parametrize("number", [signal.SIGSEGV, signal.SIGKILL, signal.SIGABRT, signal.SIGBUS])
def test_a_worker_that_is_ended_by_a_signal_is_replaced(pool, number):
    call, after = pool.submit("pool_calls:die", number), pool.submit("pool_calls:echo", "next")
    error = died(call)
    assert error.returncode == -number
    assert str(error) == f"the worker process was killed by {number.name} in the middle of a call"
    assert error.output.startswith("a last word")
    assert (number == signal.SIGKILL) != ("in die\n" in error.output)  # the stack where it crashed
    assert after.result(SECONDS) == "next"


@pytest.mark.parametrize("status", [0, 3])
def test_a_worker_that_exits_is_replaced_whatever_its_status(pool, status):
    error = died(pool.submit("pool_calls:leave_at_once", status))
    assert (error.returncode, error.output) == (status, "")
    assert str(error) == f"the worker process exited with status {status} in the middle of a call"
    assert pool.submit("pool_calls:echo", "next").result(SECONDS) == "next"


def test_only_the_last_of_much_output_is_kept(pool):
    pool.submit("pool_calls:say", "é" * 3_000_000).result(SECONDS)
    pool.submit("pool_calls:say", "z" * 1_000).result(SECONDS)
    error = died(pool.submit("pool_calls:leave_at_once", 0))
    assert error.output == "z" * 1_000 + "\n"  # more than a megabyte is dropped at the next call
    pool.submit("pool_calls:say", "é" * 3_000).result(SECONDS)
    assert died(pool.submit("pool_calls:leave_at_once", 0)).output == "é" * 1_999 + "\n"


def test_a_worker_that_dies_while_it_is_idle_costs_no_call(pool):
    for _ in range(10):
        before = pool.submit("pool_calls:pid").result(SECONDS)
        os.kill(before, signal.SIGKILL)
        eventually(lambda pid=before: not lives(pid))
        assert pool.submit("pool_calls:pid").result(SECONDS) != before


def test_workers_that_cannot_start_fail_their_calls_and_say_why(make_pool):
    calls = [make_pool(1, PYTHONHOME="/nowhere").submit("pool_calls:echo", 1) for _ in range(2)]
    for error in map(died, calls):
        assert error.returncode == 1
        assert "encodings" in error.output


def test_a_process_that_cannot_be_started_fails_the_call_and_the_pool_goes_on(pool, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(sys, "executable", "/nowhere/python")
        with pytest.raises(FileNotFoundError):
            pool.submit("pool_calls:echo", 1).result(SECONDS)
    assert pool.submit("pool_calls:echo", 1).result(SECONDS) == 1


def test_calls_wait_for_the_workers_there_are_when_no_more_can_be_started(make_pool, monkeypatch, tmp_path):
    pool = make_pool(2)
    first = pool.submit("pool_calls:wait_for", str(tmp_path / "go"))
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    second = pool.submit("pool_calls:echo", 2)
    (tmp_path / "go").touch()
    assert (first.result(SECONDS), second.result(SECONDS)) == (None, 2)


def test_a_worker_whose_pipe_is_written_to_by_others_is_not_trusted(pool):
    assert died(pool.submit("pool_calls:write_nonsense")).returncode == -signal.SIGKILL
    assert pool.submit("pool_calls:echo", 1).result(SECONDS) == 1


# --- signals ----------------------------------------------------------------------------------------------------------


def test_a_hung_worker_can_be_killed(pool, tmp_path):
    call = pool.submit("pool_calls:sleep", 300, str(tmp_path / "asleep"))
    assert pids_in(tmp_path / "asleep") == [pool.pid_of(call)]
    assert pool.kill(call)
    assert died(call).returncode == -signal.SIGKILL
    assert not pool.kill(call)
    assert [pool.pid_of(call)] == pids_in(tmp_path / "asleep")  # whose run it was can still be told
    assert pool.submit("pool_calls:echo", 1).result(SECONDS) == 1


def test_a_worker_is_asked_to_stop_and_the_next_call_is_not(pool, tmp_path):
    call = pool.submit("pool_calls:wait_until_asked_to_stop", str(tmp_path / "begun"))
    eventually((tmp_path / "begun").exists)
    assert pool.signal(call, signal.SIGTERM)
    assert call.result(SECONDS) == "stopped"
    assert not pool.signal(call, signal.SIGTERM)
    assert pool.submit("pool_calls:was_asked_to_stop").result(SECONDS) is False


def test_a_worker_that_still_starts_can_be_asked_to_stop(make_pool, tmp_path):
    for index in range(3):
        pool = make_pool()
        call = pool.submit("pool_calls:wait_until_asked_to_stop", str(tmp_path / f"begun{index}"))
        for number in (signal.SIGTERM, signal.SIGUSR1):
            assert pool.signal(call, number)
        assert call.result(SECONDS) == "stopped"


def test_ctrl_c_is_the_drivers_affair(pool, tmp_path):
    call = pool.submit("pool_calls:sleep", 0.1, str(tmp_path / "asleep"))
    pids_in(tmp_path / "asleep")
    pool.signal(call, signal.SIGINT)
    assert call.result(SECONDS)


def test_stacks_are_dumped_while_a_c_function_holds_the_gil(pool, tmp_path):
    call = pool.submit("pool_calls:hold_gil", str(tmp_path / "held"), 300)
    pids_in(tmp_path / "held")
    time.sleep(0.05)
    assert pool.signal(call, signal.SIGUSR1)
    eventually(lambda: b" in hold_gil\n" in os.pread(call.worker._output, 10_000, 0))
    pool.kill(call)
    assert "(most recent call first):" in (output := died(call).output)
    assert " in hold_gil\n" in output


def test_a_child_of_a_worker_is_ended_by_sigterm_as_multiprocessing_does_it(pool):
    for _ in range(20):
        assert pool.submit("pool_calls:start_and_stop_child").result(SECONDS) == signal.SIGTERM


def test_a_worker_is_replaced_when_it_is_idle(pool):
    call = pool.submit("pool_calls:pid")
    before = call.result(SECONDS)
    pool.recycle(call)
    assert pool.submit("pool_calls:pid").result(SECONDS) != before
    pool.recycle(call)  # its worker is gone


def test_a_worker_is_replaced_after_the_call_that_it_does(pool, tmp_path):
    call, after = pool.submit("pool_calls:wait_for", str(tmp_path / "go")), pool.submit("pool_calls:pid")
    before = pool.pid_of(call)
    pool.recycle(call)
    (tmp_path / "go").touch()
    call.result(SECONDS)
    assert after.result(SECONDS) != before


def test_a_callback_can_have_the_worker_replaced_before_the_next_call(pool):
    calls = []
    for _ in range(5):
        calls.append(pool.submit("pool_calls:pid"))
        calls[-1].add_done_callback(pool.recycle)
    assert len({call.result(SECONDS) for call in calls}) == 5


# --- ends -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("end", ["sleep", "exit", "answer"])
def test_the_children_of_a_worker_end_with_it(pool, tmp_path, end):
    call = pool.submit("pool_calls:have_children", str(tmp_path / "children"), end)
    pids = pids_in(tmp_path / "children")
    if end == "sleep":
        pool.kill(call)
        assert died(call).returncode == -signal.SIGKILL
    elif end == "exit":
        assert died(call).returncode == 7  # though a child of it lives
    else:
        assert call.result(SECONDS) == pids[1]
        assert all(map(lives, pids))
        pool.shutdown()
    eventually(lambda: not any(map(lives, pids)))


def test_a_pool_that_is_shut_down_has_done_all_its_calls(make_pool):
    with make_pool(2) as pool:
        calls = [pool.submit("pool_calls:echo", index) for index in range(50)]
    assert [call.result(0) for call in calls] == list(range(50))
    with pytest.raises(RuntimeError, match="shut down"):
        pool.submit("pool_calls:echo", 1)
    pool.shutdown()


def test_a_shutdown_can_cancel_what_waits(pool, tmp_path):
    calls = [pool.submit("pool_calls:wait_for", str(tmp_path / "go")) for _ in range(3)]
    pool.shutdown(wait=False, cancel_futures=True)
    assert wait(calls, SECONDS, FIRST_COMPLETED).not_done == {calls[0]}
    (tmp_path / "go").touch()
    assert calls[0].result(SECONDS) is None
    pool.shutdown()
    with pytest.raises(CancelledError):
        calls[1].result(0)


def test_a_worker_that_does_not_end_by_itself_is_killed(pool, monkeypatch):
    monkeypatch.setattr(pool_module, "_CLOSING_SECONDS", 0.2)
    pool.submit("pool_calls:leave_a_thread").result(SECONDS)
    started = time.monotonic()
    pool.shutdown()
    assert 0.2 <= time.monotonic() - started < 5


def test_a_pool_that_is_never_used_starts_nothing(make_pool):
    before = set(children(os.getpid()))
    make_pool(4).shutdown()
    assert set(children(os.getpid())) == before


def test_a_pool_is_terminated_at_once(make_pool, tmp_path):
    pool = make_pool(2)
    calls = [pool.submit("pool_calls:have_children", str(tmp_path / f"children{index}")) for index in range(4)]
    pids = [pid for index in range(2) for pid in pids_in(tmp_path / f"children{index}")]
    started = time.monotonic()
    pool.terminate()
    assert time.monotonic() - started < 5  # ten are what it waits for one that does not die
    assert wait(calls, SECONDS, ALL_COMPLETED).not_done == set()
    assert [died(call).returncode for call in calls[:2]] == [-signal.SIGKILL] * 2
    assert [call.cancelled() for call in calls[2:]] == [True, True]
    eventually(lambda: not any(map(lives, pids)))


def test_a_worker_outlives_the_thread_that_asked_for_it(pool):
    calls = []
    thread = threading.Thread(target=lambda: calls.append(pool.submit("pool_calls:pid")))
    thread.start()
    thread.join()
    before = calls[0].result(SECONDS)
    time.sleep(0.05)
    assert pool.submit("pool_calls:pid").result(SECONDS) == before


# --- a driver that dies -----------------------------------------------------------------------------------------------


def test_a_worker_ends_when_its_parent_is_another(tmp_path):
    command = [sys.executable, "-m", "runmanager.launching.worker", "0", "1", str(os.getppid())]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=SECONDS)
    assert (done.returncode, done.stdout, done.stderr) == (1, b"", b"")


@pytest.fixture
def driver(tmp_path):
    """A process that owns a pool of four, with children that ignore SIGTERM and a worker that holds the GIL."""
    process = subprocess.Popen([sys.executable, "-c", DRIVER, str(tmp_path), str(HERE)])
    for name in ("children", "held", "asleep", "orphans"):
        pids_in(tmp_path / name)
    pids = descendants(process.pid)
    yield process, pids
    process.kill()
    process.wait()
    eventually(lambda: not any(map(lives, pids)))


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGSEGV])
def test_nothing_is_left_of_a_driver_that_is_killed(driver, number):
    process, pids = driver
    assert len(pids) == 4 + 1 + 2 * 2  # workers, guard, children with one child each
    process.send_signal(number)
    process.wait(SECONDS)
    eventually(lambda: not any(map(lives, pids)))


def guard_of(pid: int) -> int:
    [guard] = [child for child in children(pid) if b"guard.py" in Path(f"/proc/{child}/cmdline").read_bytes()]
    return guard


def test_the_workers_themselves_end_with_the_driver_even_if_the_guard_is_gone(driver):
    process, pids = driver
    workers = children(process.pid)
    os.kill(guard_of(process.pid), signal.SIGKILL)
    process.kill()
    process.wait()
    eventually(lambda: not any(map(lives, workers)))
    for pid in filter(lives, pids):
        os.kill(pid, signal.SIGKILL)


def test_the_guard_does_not_end_by_what_ends_others(driver):
    process, _ = driver
    guard = guard_of(process.pid)
    assert os.getsid(guard) == guard
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        os.kill(guard, number)
    time.sleep(0.05)
    assert lives(guard)


def test_a_guard_that_was_killed_is_replaced_when_the_next_worker_starts(make_pool, tmp_path):
    pool = make_pool(2)
    pool.submit("pool_calls:sleep", 300, str(tmp_path / "asleep"))
    pids_in(tmp_path / "asleep")
    guard = guard_of(os.getpid())
    os.kill(guard, signal.SIGKILL)
    eventually(lambda: not lives(guard))
    pool.submit("pool_calls:pid").result(SECONDS)
    assert lives(guard_of(os.getpid()))


def test_a_guard_kills_what_was_put_into_its_care_and_not_taken_out():
    groups = [subprocess.Popen(["sleep", "300"], process_group=0) for _ in range(2)]
    command = [sys.executable, "-I", "-S", pool_module.__file__.replace("pool.py", "guard.py")]
    kept, left = (process.pid for process in groups)
    subprocess.run(command, input=f"+{kept}\n+{left}\n-{kept}\n+999999999\n".encode(), check=True, timeout=SECONDS)
    assert groups[1].wait(SECONDS) == -signal.SIGKILL
    assert groups[0].poll() is None
    groups[0].kill()
    groups[0].wait()
