"""Files that survive: a replaced file is the old one or the new one, an appended one keeps all that returned."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from runmanager.tracking.files import SyncedFile, replace_text


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
