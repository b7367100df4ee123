"""The journal under attack: torn, damaged, doubled, swapped, read while written, killed, out of space."""

import json
import os
import random
import signal
import subprocess
import sys
import textwrap
import zlib
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from runmanager.tracking.errors import RunInUseError, StorageError
from runmanager.tracking.journal import Journal, TailReader, decode_line, encode_line, read_journal


def write(path: Path, *values: object) -> bytes:
    """Appends a record for each value; returns what the file then holds."""
    journal = Journal(path)
    for value in values:
        journal.append(("note", {"value": value}))
    journal.close()
    return path.read_bytes()


def values(path: Path) -> list[object]:
    return [record["value"] for record in read_journal(path).records]


def refuse(literal: str) -> None:
    raise AssertionError(f"{literal} is not strict JSON")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "journal.jsonl"


HOSTILE = [
    "",
    "a\nb",
    "\r",
    "\0",
    "\u2028",
    "ünï 😀",
    "\ud800",
    '"}\\',
    2**100,
    -(2**63),
    1e308,
    5e-324,
    None,
    True,
    [1, {"$": []}],
]


def test_records_come_back_in_their_order_with_what_was_put_in(path: Path) -> None:
    write(path, *HOSTILE)
    assert list(map(repr, values(path))) == list(map(repr, HOSTILE))
    assert read_journal(path).num_bad_lines == 0


def test_every_line_is_strict_json_that_any_parser_reads(path: Path) -> None:
    lines = write(path, *HOSTILE).split(b"\n")
    assert lines.pop() == b""
    assert [json.loads(line, parse_constant=refuse)["value"] for line in lines] == HOSTILE


def test_a_float_that_json_has_no_literal_for_never_becomes_one(path: Path) -> None:
    journal = Journal(path)
    try:
        journal.append(("note", {"value": float("nan"), "big": 2**70}))
    except ValueError:
        pass  # a refusal is as good
    assert b"NaN" not in path.read_bytes()


def test_a_journal_that_is_not_there_is_empty_and_reading_does_not_make_it(path: Path) -> None:
    assert read_journal(path).records == []
    assert not path.exists()


def test_a_tail_torn_at_any_byte_costs_only_the_torn_record(path: Path) -> None:
    whole = write(path, "first", "second", "torn")
    start = whole[:-1].rindex(b"\n") + 1
    for end in range(start, len(whole)):
        path.write_bytes(whole[:end])
        before = [value for value in values(path) if value != "torn"]
        for attempt in range(3):
            write(path, f"attempt {attempt}")
        after = [value for value in values(path) if value != "torn"]
        assert before == ["first", "second"]
        assert after == [*before, "attempt 0", "attempt 1", "attempt 2"], f"torn after {end - start} bytes"


def test_a_torn_first_record_costs_only_itself(path: Path) -> None:
    whole = write(path, "torn")
    for end in range(len(whole) - 1):
        path.write_bytes(whole[:end])
        write(path, "next")
        assert values(path) == ["next"]


def test_a_half_written_line_is_counted_and_hides_only_itself(path: Path) -> None:
    whole = write(path, 1, 2, 3)
    path.write_bytes(whole[:-9])
    assert values(path) == [1, 2]
    assert read_journal(path).num_bad_lines == 1


def test_a_tail_of_nuls_as_a_power_cut_leaves_it_hides_nothing(path: Path) -> None:
    path.write_bytes(write(path, 1, 2) + b"\0" * 4096)
    write(path, 3)
    assert values(path) == [1, 2, 3]
    assert read_journal(path).num_bad_lines == 1


def test_reading_a_torn_journal_changes_no_byte(path: Path) -> None:
    torn = write(path, 1, 2)[:-5]
    path.write_bytes(torn)
    before = path.stat().st_mtime_ns
    read_journal(path)
    assert (path.read_bytes(), path.stat().st_mtime_ns) == (torn, before)


@pytest.mark.parametrize("byte", [b"\0", b"\xff", b"\n", b"\r", b"0", b'"', b"}"])
def test_a_damaged_byte_anywhere_in_a_line_hides_only_that_line(path: Path, byte: bytes) -> None:
    whole = write(path, "before", "hit", "after")
    start = whole.index(b"\n") + 1
    for at in range(start, whole.index(b"\n", start)):
        if whole[at : at + 1] == byte:
            continue
        path.write_bytes(whole[:at] + byte + whole[at + 1 :])
        assert values(path) == ["before", "after"]
        assert read_journal(path).num_bad_lines >= 1


def test_two_lines_run_together_hide_no_third(path: Path) -> None:
    lines = write(path, 1, 2, 3).splitlines(keepends=True)
    path.write_bytes(lines[0].rstrip(b"\n") + lines[1] + lines[2])
    assert 3 in values(path)
    assert set(values(path)) <= {1, 2, 3}


def test_a_doubled_line_counts_once(path: Path) -> None:
    lines = write(path, 1, 2, 3).splitlines(keepends=True)
    path.write_bytes(b"".join([lines[0], lines[1], lines[1], lines[2]]))
    assert values(path) == [1, 2, 3]
    assert read_journal(path).num_bad_lines == 1


def test_swapped_lines_are_counted_and_put_in_order(path: Path) -> None:
    lines = write(path, 1, 2, 3).splitlines(keepends=True)
    path.write_bytes(lines[1] + lines[0] + lines[2])
    assert values(path) == [1, 2, 3]
    assert read_journal(path).num_bad_lines == 1


def test_bad_utf8_under_a_right_checksum_is_a_bad_line(path: Path) -> None:
    body = b'{"seq":2,"kind":"note","value":"\xff\xfe"'
    bad = b'%s,"crc":"%08x"}\n' % (body, zlib.crc32(body))
    path.write_bytes(write(path, 1) + bad + encode_line({"seq": 3, "kind": "note", "value": 3}))
    assert values(path) == [1, 3]
    assert read_journal(path).num_bad_lines == 1


def test_a_line_with_a_right_checksum_and_no_number_of_its_own_is_a_bad_line() -> None:
    for body in (b'{"kind":"note"', b'{"seq":"1"', b'{"seq":1.5', b'{"seq":null', b"[1"):
        assert decode_line(b'%s,"crc":"%08x"}' % (body, zlib.crc32(body))) is None


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 400), st.integers(0, 120), st.binary(max_size=60))
def test_no_damage_makes_a_reader_fail_or_believe_what_was_never_written(
    path: Path, at: int, n: int, junk: bytes
) -> None:
    path.unlink(missing_ok=True)
    whole = write_fast(path, range(8))
    path.write_bytes(whole[:at] + junk + whole[at + n :])
    found = values(path)
    assert found == sorted(set(found))
    assert set(found) <= set(range(8))
    first_hit, last_hit = whole[:at].count(b"\n"), whole[: at + n].count(b"\n")
    assert set(found) >= set(range(8)) - set(range(first_hit, last_hit + 1))


def write_fast(path: Path, numbers: range) -> bytes:
    whole = b"".join(encode_line({"seq": i + 1, "kind": "note", "value": i}) for i in numbers)
    path.write_bytes(whole)
    return whole


WRITER = """
import sys
from pathlib import Path
from runmanager.tracking.journal import Journal
journal = Journal(Path(sys.argv[1]))
for number in range(int(sys.argv[2]), int(sys.argv[3])):
    journal.append(("note", {"value": number, "padding": "x" * (number * 37 % 5000)}))
    print(number, flush=True)
"""


def start(path: Path, first: int, last: int) -> "subprocess.Popen[str]":
    command = [sys.executable, "-c", WRITER, str(path), str(first), str(last)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def test_another_process_reads_every_returned_record_while_one_writes(path: Path) -> None:
    with start(path, 0, 300) as writer:
        assert writer.stdout is not None
        for line in writer.stdout:
            found = values(path)
            assert found == list(range(len(found)))
            assert len(found) > int(line)
    assert values(path) == list(range(300))


def test_every_record_whose_call_returned_outlives_sigkill(path: Path) -> None:
    returned: list[int] = []
    for attempt in range(8):
        first = 1000 * attempt
        with start(path, first, first + 1000) as writer:
            assert writer.stdout is not None
            for _ in range(random.Random(attempt).randrange(1, 200)):
                returned.append(int(writer.stdout.readline()))
            writer.send_signal(signal.SIGKILL)
            returned += [int(line) for line in writer.stdout if line.endswith("\n")]
        assert writer.returncode == -signal.SIGKILL
    found = values(path)
    assert found == sorted(set(found))
    assert set(returned) <= set(found)


FULL = """
import json, resource, sys
from pathlib import Path
from runmanager.tracking.errors import StorageError
from runmanager.tracking.journal import Journal, read_journal
path = Path(sys.argv[1])
journal = Journal(path)
_, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (5000, hard))
number, message, refused = 0, "", 0
while refused < 3:
    try:
        journal.append(("note", {"value": number, "padding": "x" * 100}))
        number += 1
    except StorageError as error:
        refused, message = refused + 1, str(error)
at_limit = read_journal(path)
resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
journal.append(("note", {"value": "after"}))
end = read_journal(path)
print(json.dumps({"returned": number, "message": message,
    "at_limit": [r["value"] for r in at_limit.records], "bad_at_limit": at_limit.num_bad_lines,
    "end": [r["value"] for r in end.records], "bad": end.num_bad_lines}))
"""


def test_a_disk_that_fills_refuses_the_record_keeps_the_others_and_goes_on_when_there_is_room(path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", FULL, str(path)], capture_output=True, text=True, check=True)
    seen = json.loads(done.stdout)
    assert seen["returned"] > 10
    assert seen["at_limit"] == list(range(seen["returned"]))
    assert seen["end"] == [*range(seen["returned"]), "after"]
    assert (seen["bad_at_limit"], seen["bad"]) == (0, 0)
    assert str(path) in seen["message"]
    assert "kept" in seen["message"]


def test_a_journal_that_cannot_be_opened_is_a_storage_error_that_names_it(path: Path) -> None:
    path.mkdir()
    with pytest.raises(StorageError, match=r"journal\.jsonl"):
        Journal(path)


def test_a_journal_whose_folder_is_a_file_is_a_storage_error_that_names_it(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("in the way")
    with pytest.raises(StorageError, match=r"journal\.jsonl"):
        Journal(tmp_path / "run" / "journal.jsonl")


def test_what_is_read_back_can_be_appended_to_by_the_next_process(path: Path) -> None:
    script = textwrap.dedent("""
        import sys
        from pathlib import Path
        from runmanager.tracking.journal import Journal
        journal = Journal(Path(sys.argv[1]))
        journal.append(("note", {"value": sys.argv[2]}))
        journal.close()
    """)
    for word in ("one", "two", "three"):
        subprocess.run([sys.executable, "-c", script, str(path), word], check=True)
    assert values(path) == ["one", "two", "three"]
    assert read_journal(path).num_bad_lines == 0


def test_several_records_are_numbered_on_and_written_at_once(path: Path) -> None:
    journal = Journal(path)
    journal.append(("epoch", {"value": 1}), ("checkpoint", {"value": 2}))
    journal.append(("epoch", {"value": 3}))
    journal.append()
    journal.close()
    found = [(record["seq"], record["kind"], record["value"]) for record in read_journal(path).records]
    assert found == [(1, "epoch", 1), (2, "checkpoint", 2), (3, "epoch", 3)]


def test_of_several_records_that_cannot_be_written_none_is(path: Path) -> None:
    journal = Journal(path)
    journal.append(("note", {"value": 1}))
    before = path.read_bytes()
    with pytest.raises((TypeError, ValueError)):
        journal.append(("note", {"value": 2}), ("note", {"value": object()}))
    assert path.read_bytes() == before
    journal.append(("note", {"value": 3}))
    assert [record["seq"] for record in read_journal(path).records] == [1, 2]
    assert values(path) == [1, 3]


def test_several_records_torn_at_any_byte_leave_those_before_the_tear_and_the_journal_goes_on(path: Path) -> None:
    journal = Journal(path)
    journal.append(("note", {"value": 1}))
    first = len(path.read_bytes())
    journal.append(("note", {"value": 2}), ("note", {"value": 3}))
    journal.close()
    whole = path.read_bytes()
    for end in range(first, len(whole)):
        path.write_bytes(whole[:end])
        before = values(path)
        assert before == [1, 2, 3][: whole[:end].count(b"\n")]
        write(path, 4)
        assert [value for value in values(path) if value in (*before, 4)] == [*before, 4]


def test_a_new_journal_is_made_once(path: Path) -> None:
    journal = Journal(path, new=True)
    with pytest.raises(FileExistsError):
        Journal(path, new=True)
    with pytest.raises(RunInUseError):
        Journal(path)
    journal.append(("note", {"value": 1}))
    journal.close()
    with pytest.raises(FileExistsError):
        Journal(path, new=True)
    assert values(path) == [1]


def test_a_journal_that_is_refused_holds_no_descriptor(path: Path) -> None:
    journal = Journal(path, new=True)
    num_open = len(os.listdir("/proc/self/fd"))
    for _ in range(20):
        with pytest.raises(RunInUseError):
            Journal(path)
        with pytest.raises(FileExistsError):
            Journal(path, new=True)
    assert len(os.listdir("/proc/self/fd")) == num_open
    journal.close()


def test_what_was_in_the_journal_is_known_when_it_is_opened(path: Path) -> None:
    write(path, 1, 2)
    journal = Journal(path)
    assert [record["value"] for record in journal.content.records] == [1, 2]
    journal.close()


def test_a_follower_gets_each_record_once_as_it_is_written(path: Path) -> None:
    follower = TailReader(path)
    assert follower.read() == []
    with start(path, 0, 200) as writer:
        found: list[int] = []
        while writer.poll() is None:
            found += [record["value"] for record in follower.read()]
        assert writer.stdout is not None
    found += [record["value"] for record in follower.read()]
    assert found == list(range(200))
    assert follower.read() == []


def test_a_follower_waits_for_the_rest_of_a_line_byte_by_byte(path: Path) -> None:
    whole = write(path, "ünï", 2)
    path.write_bytes(b"")
    follower = TailReader(path)
    found: list[object] = []
    for end in range(len(whole) + 1):
        path.write_bytes(whole[:end])
        found += [record["value"] for record in follower.read()]
        assert len(found) == whole[:end].count(b"\n")
    assert found == ["ünï", 2]


def test_a_follower_passes_over_a_torn_line_that_a_new_attempt_mended(path: Path) -> None:
    whole = write(path, 1, 2)
    path.write_bytes(whole[:-7])
    follower = TailReader(path)
    assert [record["value"] for record in follower.read()] == [1]
    write(path, 3)
    assert [record["value"] for record in follower.read()] == [3]


def test_a_follower_of_a_run_that_was_deleted_and_made_again_sees_the_new_one(path: Path) -> None:
    write(path, 1, 2, 3)
    follower = TailReader(path)
    follower.read()
    path.unlink()
    assert follower.read() == []
    write(path, 4)
    assert [record["value"] for record in follower.read()] == [4]


def test_a_follower_of_what_cannot_be_read_says_which_file(path: Path) -> None:
    path.mkdir()
    with pytest.raises(StorageError, match=r"journal\.jsonl"):
        TailReader(path).read()
