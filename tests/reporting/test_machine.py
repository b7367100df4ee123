"""What the doctor says of the disk, the file system, shared memory and open files."""

import collections
import fcntl
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from runmanager.reporting import machine
from runmanager.reporting.machine import check_disk, check_file_system, check_machine, file_system, scratch


def by_name(findings):
    return {one.about: one for one in findings}


def test_a_good_machine_is_well_and_nothing_is_left_in_the_project(tmp_path):
    (tmp_path / "runs").mkdir()
    found = by_name(check_machine(tmp_path))
    assert set(found) >= {"disk", "locks", "shared memory", "open files"}
    assert found["disk"].level != "FAIL" and "GiB free, a record is on it in " in found["disk"].text
    assert "locks, exclusive creation and replacement work" in found["locks"].text
    assert [path.name for path in tmp_path.rglob("*")] == ["runs"]


def test_what_is_tried_is_tried_on_the_disk_of_the_runs(tmp_path):
    (tmp_path / "runs").mkdir()
    with scratch(tmp_path) as folder:
        assert folder.parent == tmp_path / "runs" and folder.name.startswith(".doctor-")
    assert not folder.exists()


def test_a_project_that_cannot_be_written_fails(tmp_path):
    found = by_name(check_machine(tmp_path / "nowhere"))
    assert found["disk"].level == "FAIL" and "cannot be written" in found["disk"].text
    assert found["open files"].level in ("ok", "warn")  # the others are checked all the same


@pytest.mark.parametrize(("free", "level"), [(2**20, "FAIL"), (2**30, "warn"), (2**40, "ok")])
def test_little_space_is_told(free, level, tmp_path, monkeypatch):
    usage = collections.namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(2**41, 0, free))
    assert check_disk(tmp_path).level == level


def test_a_slow_disk_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr(machine, "_sync_milliseconds", lambda folder: 900.0)
    found = check_disk(tmp_path)
    assert found.level == "warn" and "900.0 ms" in found.text


def test_locks_that_are_granted_twice_are_told(tmp_path, monkeypatch):
    monkeypatch.setattr(fcntl, "flock", lambda *arguments: None)
    found = by_name(check_file_system(tmp_path))
    assert found["locks"].level == "warn" and "grants one twice" in found["locks"].text


def test_locks_that_are_refused_are_told(tmp_path, monkeypatch):
    def refuse(*arguments):
        raise OSError(37, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    assert by_name(check_file_system(tmp_path))["locks"].level == "warn"


def test_locks_that_hold_in_one_process_alone_are_told(tmp_path, monkeypatch):
    monkeypatch.setattr(machine, "_TRY_LOCK", "")
    found = by_name(check_file_system(tmp_path))
    assert found["locks"].level == "warn" and "two processes can lock one file" in found["locks"].text


def test_a_file_system_that_makes_a_new_file_twice_fails(tmp_path, monkeypatch):
    real = os.open
    monkeypatch.setattr(os, "open", lambda path, flags, *rest: real(path, flags & ~os.O_EXCL, *rest))
    found = by_name(check_file_system(tmp_path))
    assert found["file system"].level == "FAIL" and "can be made twice" in found["file system"].text


def test_a_file_system_that_replaces_in_two_steps_fails(tmp_path, monkeypatch):
    gaps = iter([0, 0.5])  # at the first the reader has not begun

    def replace(path, text):
        path.unlink(missing_ok=True)
        time.sleep(next(gaps, 0))
        path.write_text(text)

    monkeypatch.setattr(machine, "replace_text", replace)
    found = by_name(check_file_system(tmp_path))
    assert found["file system"].level == "FAIL" and "for a moment" in found["file system"].text


@pytest.mark.skipif(not Path("/proc/mounts").exists(), reason="only Linux lists its mounts there")
def test_the_file_system_is_named_by_the_nearest_mount():
    assert file_system(Path("/proc/self")) == "proc"
    assert file_system(Path("/dev/shm/some/where")) == file_system(Path("/dev/shm"))


@pytest.mark.parametrize(
    ("kind", "level", "said"),
    [("nfs4", "ok", "between machines a run is claimed by a file"), ("tmpfs", "warn", "gone at the next start")],
)
def test_file_systems_that_are_special_are_told(kind, level, said, tmp_path, monkeypatch):
    monkeypatch.setattr(machine, "file_system", lambda path: kind)
    found = [one for one in check_file_system(tmp_path) if said in one.text]
    assert [one.level for one in found] == [level] and kind in found[0].text


def test_a_low_limit_of_open_files_is_told_with_the_command_that_raises_it():
    code = (
        "import resource; from runmanager.reporting.machine import check_open_files\n"
        "hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard)); print(check_open_files())"
    )
    said = subprocess.check_output([sys.executable, "-c", code], text=True)
    assert "level='warn'" in said and "256 a process" in said and "ulimit -n " in said
