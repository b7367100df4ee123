"""`runmanager board` in a project's folder, as its user runs it."""

import json
import os
import re
import signal
import subprocess
import sys
import urllib.request
from collections import namedtuple
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from runmanager import RunManager
from tests.tensorboard_server import ADDRESS, until

Run = namedtuple("Run", ["lr"])

LISTENS = "0A"  # the state's number in /proc/net/tcp
LOOPBACK = {"0100007F", "00000000000000000000000001000000", "0000000000000000FFFF00000100007F"}


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("project")
    for name, rates in [("first", [0.1, 0.2]), ("second", [0.3])]:
        m = RunManager(name, root=root, quiet=True)
        for lr in rates:
            m.begin_run(Run(lr))
            m.log(score=lr)
            m.end_run()
    return root


def runs_of(project: Path, sweep: str) -> list[str]:
    return sorted(path.name for path in (project / "runs" / sweep).iterdir() if path.is_dir())


@contextmanager
def board(project: Path, *arguments: str) -> Iterator[tuple[subprocess.Popen[bytes], Path]]:
    """The command under way, and the file that its output goes to; no process of it is left behind."""
    said = project / f"board-{os.urandom(4).hex()}.txt"
    command = [sys.executable, "-m", "runmanager", "board", *arguments]
    with said.open("wb") as output:
        process = subprocess.Popen(
            command, cwd=project, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
        )
    try:
        yield process, said
    finally:
        for pid in processes_of_group(process.pid):
            os.kill(pid, signal.SIGKILL)
        process.wait()


def processes_of_group(group: int) -> list[int]:
    """The living processes of a process group, which is what the command and all it starts are."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            state, _, process_group = (entry / "stat").read_text().rpartition(")")[2].split()[:3]
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(process_group) == group and state != "Z":
            found.append(int(entry.name))
    return found


def address_in(process: subprocess.Popen[bytes], said: Path) -> str:
    def look() -> str | None:
        assert process.poll() is None, said.read_text()
        found = ADDRESS.search(said.read_text())
        return found[0] if found else None

    return until(look)


def listening_addresses(pids: list[int]) -> list[str]:
    """The local addresses, as the kernel writes them, that these processes accept connections on."""
    sockets = set()
    for pid in pids:
        for descriptor in Path(f"/proc/{pid}/fd").iterdir():
            try:
                target = os.readlink(descriptor)
            except FileNotFoundError:
                continue
            sockets |= set(re.findall(r"socket:\[(\d+)\]", target))
    addresses = []
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        path = Path(table)
        for line in path.read_text().splitlines()[1:] if path.exists() else []:
            fields = line.split()
            if fields[3] == LISTENS and fields[9] in sockets:
                addresses.append(fields[1].partition(":")[0])
    return addresses


def ask_runs(address: str) -> list[str]:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(f"{address}/data/runs", timeout=30) as answer:
        return sorted(json.loads(answer.read()))


def test_the_printed_address_serves_the_runs_of_the_sweep_on_loopback_alone(project: Path) -> None:
    with board(project, "first", "--port", "0") as (process, said):
        address = address_in(process, said)
        until(lambda: ask_runs(address) == runs_of(project, "first"))
        pids = processes_of_group(process.pid)
        addresses = listening_addresses(pids)
        assert addresses, "nothing listens"
        assert set(addresses) <= LOOPBACK
        assert said.read_text().count("\n") == 1  # the address, and none of what TensorBoard says
        assert "first" in said.read_text()


def test_without_a_name_all_sweeps_are_shown(project: Path) -> None:
    expected = [f"{name}/{run}" for name in ("first", "second") for run in runs_of(project, name)]
    with board(project, "--port", "0") as (process, said):
        address = address_in(process, said)
        until(lambda: ask_runs(address) == expected)


def test_ctrl_c_ends_it_with_no_process_left(project: Path) -> None:
    with board(project, "first", "--port", "0") as (process, said):
        address_in(process, said)
        assert len(processes_of_group(process.pid)) >= 2
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130
        until(lambda: not processes_of_group(process.pid))
        assert "Traceback" not in said.read_text()


def test_ctrl_c_in_a_terminal_reaches_all_its_processes_and_ends_them(project: Path) -> None:
    with board(project, "first", "--port", "0") as (process, said):
        address_in(process, said)
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does
        assert process.wait(60) in (0, 130)
        until(lambda: not processes_of_group(process.pid))
        assert "Traceback" not in said.read_text()


def test_a_plain_kill_of_the_command_leaves_no_listener(project: Path) -> None:
    with board(project, "first", "--port", "0") as (process, said):
        address_in(process, said)
        process.terminate()
        process.wait(60)
        until(lambda: not processes_of_group(process.pid), seconds=20)


def test_a_taken_port_is_an_error_that_names_it(project: Path) -> None:
    with board(project, "first", "--port", "0") as (process, said):
        port = address_in(process, said).rpartition(":")[2]
        with board(project, "second", "--port", port) as (second, its_output):
            assert second.wait(60) != 0
            assert port in its_output.read_text() and "Traceback" not in its_output.read_text()


def test_an_unknown_sweep_is_refused_with_the_names_that_there_are(project: Path) -> None:
    command = [sys.executable, "-m", "runmanager", "board", "thrid"]
    done = subprocess.run(command, cwd=project, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert "'thrid'" in done.stderr and "first, second" in done.stderr
    assert "Traceback" not in done.stderr and done.stdout == ""
