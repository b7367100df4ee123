"""Files that survive: a replaced file is the old one or the new one, an appended one keeps all that returned."""

import errno
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from runmanager.tracking import files
from runmanager.tracking.files import SYNC_SECONDS, SyncedFile, replace_text, sync_now


def run(script: str, *arguments: object) -> str:
    command = [sys.executable, "-c", script, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize("durable", [False, True])
def test_a_replaced_file_holds_exactly_the_new_text(tmp_path: Path, durable: bool) -> None:
    path = tmp_path / "table.csv"
    path.write_text("old")
    replace_text(path, "a\r\nb\n\u2028ü😀", durable=durable)
    assert path.read_bytes() == "a\r\nb\n\u2028ü😀".encode()
    assert os.listdir(tmp_path) == ["table.csv"]


def test_a_file_that_cannot_be_replaced_leaves_nothing_beside_it(tmp_path: Path) -> None:
    (tmp_path / "table.csv").mkdir()
    with pytest.raises(OSError):
        replace_text(tmp_path / "table.csv", "new")
    assert os.listdir(tmp_path) == ["table.csv"]


def test_text_that_utf8_cannot_hold_leaves_the_old_file_alone(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_text("old")
    with pytest.raises(UnicodeEncodeError):
        replace_text(path, "x" * 100_000 + "\ud800")
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["table.csv"]


FULL = """
import resource, sys
from pathlib import Path
from runmanager.tracking.files import replace_text
path = Path(sys.argv[1])
replace_text(path, "old")
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    replace_text(path, "new" * 10_000)
except OSError as error:
    print(error.errno)
"""


def test_a_disk_that_fills_while_a_file_is_replaced_keeps_the_old_one(tmp_path: Path) -> None:
    assert run(FULL, tmp_path / "table.csv").strip()
    assert (tmp_path / "table.csv").read_text() == "old"
    assert os.listdir(tmp_path) == ["table.csv"]


REPLACER = """
import sys
from pathlib import Path
from runmanager.tracking.files import replace_text
for number in range(100_000):
    replace_text(Path(sys.argv[1]), str(number % 10) * 200_000)
    if number % 10 == 0:
        print(number, flush=True)
"""


def test_a_replacer_that_is_killed_leaves_one_whole_file(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    for lines in (1, 3, 7):
        command = [sys.executable, "-c", REPLACER, str(path)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as replacer:
            assert replacer.stdout is not None
            for _ in range(lines):
                replacer.stdout.readline()
            text = path.read_text()  # while it is being replaced
            assert text == text[0] * 200_000
            replacer.send_signal(signal.SIGKILL)
        text = path.read_text()
        assert text == text[0] * 200_000


def test_appended_bytes_are_in_the_file_when_the_call_returns(tmp_path: Path) -> None:
    file = SyncedFile(tmp_path / "log")
    for number in range(100):
        file.append(b"%d\n" % number)
        assert (tmp_path / "log").read_bytes().endswith(b"%d\n" % number)
    file.close()


def test_a_file_that_is_opened_again_goes_on_at_its_end(tmp_path: Path) -> None:
    for word in (b"one", b"two"):
        file = SyncedFile(tmp_path / "log")
        file.append(word)
        file.sync()
        file.close()
    assert (tmp_path / "log").read_bytes() == b"onetwo"


def test_a_closed_file_takes_no_more_and_closes_twice(tmp_path: Path) -> None:
    file = SyncedFile(tmp_path / "log")
    file.append(b"one")
    file.close()
    file.close()
    with pytest.raises((OSError, ValueError)):
        file.append(b"two")
    assert (tmp_path / "log").read_bytes() == b"one"


TORN = """
import json, os, resource, sys
from pathlib import Path
from runmanager.tracking.files import SyncedFile
path = Path(sys.argv[1])
file = SyncedFile(path)
file.append(b"a" * 600)
_, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
sizes = []
for _ in range(3):
    try:
        file.append(b"b" * 600)  # 400 bytes of it fit
    except OSError:
        sizes.append(os.path.getsize(path))
file.append(b"c" * 300)
print(json.dumps(sizes))
"""


def test_an_append_that_does_not_fit_leaves_no_part_of_itself(tmp_path: Path) -> None:
    assert json.loads(run(TORN, tmp_path / "log")) == [600, 600, 600]
    assert (tmp_path / "log").read_bytes() == b"a" * 600 + b"c" * 300


def test_of_several_that_make_a_new_file_one_succeeds(tmp_path: Path) -> None:
    SyncedFile(tmp_path / "log", new=True).close()
    with pytest.raises(FileExistsError):
        SyncedFile(tmp_path / "log", new=True)
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    with pytest.raises(FileExistsError):
        SyncedFile(tmp_path / "link", new=True)
    assert not (tmp_path / "nowhere").exists()


MANY = """
import os, sys
from pathlib import Path
from runmanager.tracking.files import SyncedFile, sync_now
root = Path(sys.argv[1])
def num_open():
    return len(os.listdir("/proc/self/fd"))
before, most = num_open(), 0
for number in range(5000):
    file = SyncedFile(root / str(number), new=True)
    file.append(b"%d\\n" % number)
    file.close()
    most = max(most, num_open()) if number % 100 == 0 else most
sync_now()
print(most - before, num_open() - before)
sys.stdout.flush()
os.kill(os.getpid(), 9)
"""


def traced(script: str, *arguments: object) -> list[tuple[str, str]]:
    """What a script's process asked of the disk, call by call: the call, and its path where it has one."""
    if shutil.which("strace") is None:
        pytest.skip("needs strace")
    calls = "trace=fsync,fdatasync,syncfs,write,rename,renameat,renameat2"
    command = ["strace", "-f", "-y", "-e", calls, sys.executable, "-c", script, *map(str, arguments)]
    said = subprocess.run(command, capture_output=True, text=True).stderr
    return re.findall(r"(\w+)\(\d+<([^>]*)>", said)  # a call that another thread interrupts is told in two lines


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_five_thousand_files_that_were_closed_reach_the_disk_and_hold_no_descriptor(tmp_path: Path) -> None:
    calls = traced(MANY, tmp_path)
    synced: set[str] = set()
    waiting: set[str] = set()
    for call, path in calls:
        if call == "write" and path.startswith(str(tmp_path)):
            waiting.add(path)
        elif call == "syncfs":
            synced, waiting = synced | waiting, set()
        elif call in ("fsync", "fdatasync") and path in waiting:
            synced.add(path)
            waiting.remove(path)
    assert (len(synced), waiting) == (5000, set())
    assert sum(call != "write" for call, _ in calls) < 200  # and not one by one
    for number in (0, 1234, 4999):
        assert (tmp_path / str(number)).read_text() == f"{number}\n"


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_descriptors_and_waiting_files_do_not_grow(tmp_path: Path) -> None:
    script = MANY.replace("os.kill(os.getpid(), 9)", "")
    most, left = map(int, run(script.replace("range(5000)", "range(2000)"), tmp_path).split())
    assert most <= 4 and left <= 1


@pytest.mark.parametrize("closed", [False, True])
def test_what_was_appended_is_synced_soon_without_any_further_call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, closed: bool
) -> None:
    synced: list[str] = []

    def fsync(descriptor: int) -> None:
        synced.append(os.readlink(f"/proc/self/fd/{descriptor}"))

    sync_now()
    monkeypatch.setattr(os, "fsync", fsync)
    file = SyncedFile(tmp_path / "log")
    file.append(b"one")
    began = time.monotonic()
    if closed:
        file.close()
    while str(tmp_path / "log") not in synced:
        assert time.monotonic() - began < SYNC_SECONDS + 30
        time.sleep(0.01)
    file.close()


def fail(*arguments: Any) -> None:
    raise OSError(errno.EIO, "Input/output error")


def test_a_sync_that_failed_is_told_by_sync_now_and_by_every_append_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = SyncedFile(tmp_path / "log")
    file.append(b"one")
    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", fail)
        with pytest.raises(OSError, match="Input/output"):
            sync_now()
    for _ in range(2):  # the system says so once, and a second try would succeed without the bytes
        with pytest.raises(OSError, match="Input/output"):
            file.append(b"two")
    with pytest.raises(OSError, match="Input/output"):
        file.close()
    assert (tmp_path / "log").read_bytes() == b"one"


def test_a_sync_that_failed_in_the_background_after_the_file_was_closed_is_told_at_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = SyncedFile(tmp_path / "log")
    file.append(b"one")
    file.close()
    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", fail)
        files._syncer.now()  # what the background thread does
    with pytest.raises(OSError, match="Input/output"):
        sync_now()


AT_EXIT = """
import os, sys, time
from pathlib import Path
from runmanager.tracking.files import SyncedFile
def fail(descriptor):
    raise OSError(5, "Input/output error")
os.fsync = fail
for number in range(int(sys.argv[2])):
    file = SyncedFile(Path(sys.argv[1]) / str(number))
    file.append(b"one")
    file.close()
time.sleep(float(sys.argv[3]))
"""


@pytest.mark.parametrize("wait", [0.0, 1.0], ids=["at the end", "in the background"])
def test_a_process_whose_records_did_not_reach_the_disk_says_so_before_it_ends(tmp_path: Path, wait: float) -> None:
    command = [sys.executable, "-c", AT_EXIT, str(tmp_path), "1", str(wait)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "may not outlive a power cut" in done.stderr and "Input/output error" in done.stderr


def test_a_file_system_that_fails_to_sync_many_files_fails_each(tmp_path: Path, monkeypatch) -> None:
    sync_now()
    monkeypatch.setattr(files, "_sync_file_system", lambda libc, folder: OSError(errno.EIO, "Input/output error"))
    many = [SyncedFile(tmp_path / str(number)) for number in range(30)]
    for file in many:
        file.append(b"one")
    with pytest.raises(OSError, match="Input/output"):
        sync_now()
    for file in many:
        with pytest.raises(OSError, match="Input/output"):
            file.append(b"two")
        with pytest.raises(OSError):
            file.close()


def test_folders_that_were_deleted_meanwhile_fail_nothing(tmp_path: Path) -> None:
    for num_files in (1, 40):
        for number in range(num_files):
            (tmp_path / f"folder{number}").mkdir()
            file = SyncedFile(tmp_path / f"folder{number}" / "log")
            file.append(b"one")
            file.close()
            shutil.rmtree(tmp_path / f"folder{number}")
        sync_now()


def test_a_forked_process_syncs_what_it_appends_itself(tmp_path: Path) -> None:
    file = SyncedFile(tmp_path / "parent")
    file.append(b"one")
    pid = os.fork()
    if pid == 0:
        mine = SyncedFile(tmp_path / "child")
        mine.append(b"two")
        os._exit(0 if [one.path.name for one in files._syncer._waiting] == ["child"] else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    file.close()


def test_an_append_whose_torn_part_cannot_be_taken_back_does_not_swallow_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = SyncedFile(tmp_path / "log")
    file.append(b"one\n")

    class Failing:
        def __init__(self, inner: Any) -> None:
            self.inner = inner

        def __getattr__(self, name: str) -> Any:
            return getattr(self.inner, name)

        def write(self, data: bytes) -> int:
            self.inner.write(data[:2])
            raise OSError(errno.EIO, "Input/output error")

        def truncate(self, size: int) -> int:
            raise OSError(errno.EIO, "Input/output error")

    inner = file._file
    file._file = Failing(inner)  # type: ignore[assignment]
    with pytest.raises(OSError):
        file.append(b"two\n")
    file._file = inner
    try:
        file.append(b"three\n")
    except OSError:
        return  # to take no more is as good
    assert b"three" in (tmp_path / "log").read_bytes().split(b"\n")
