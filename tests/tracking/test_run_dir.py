"""Folders under attack: no parameter reaches a path, and what cannot be made or read says so."""

import json
import os
import re
import subprocess
import sys
from collections import namedtuple
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from runmanager import RunBuilder, RunManager, load_results
from runmanager.parameters import identity
from runmanager.tracking.errors import ResultsNotFoundError, StorageError
from runmanager.tracking.run_dir import (
    RunDir,
    SweepDir,
    find_sweep,
    folder_name,
    project_root,
    run_record,
    sweep_name_fault,
    sweep_names,
)

NAMES = st.text(st.characters(categories=["L"]), min_size=1, max_size=30).filter(str.isidentifier)
VALUES = (
    st.text(max_size=30)
    | st.sampled_from(
        [
            "..",
            ".",
            "a/b",
            "/etc/passwd",
            "..\\x",
            "C:\\x",
            "~",
            "a\0b",
            "a\nb",
            "-",
            "x" * 10_000,
            "\ud800",
            "CON",
            "$HOME",
        ]
    )
    | st.integers()
    | st.floats()
    | st.booleans()
    | st.none()
    | st.lists(st.integers(), max_size=2)
)


def known_run(root: Path, params: dict[str, Any]) -> RunDir:
    """The folder of a run that has been told who it is."""
    sweep_dir = SweepDir(root, "sweep")
    sweep_dir.make()
    run_dir = made(sweep_dir, 1, params)
    run_dir.write_run(run_record(1, identity(params), params, None, 1))
    return run_dir


def made(sweep_dir: SweepDir, number: int, params: dict[str, Any]) -> RunDir:
    run_dir = sweep_dir.run_dir(number, params, identity(params))
    run_dir.make()
    return run_dir


SAFE = re.compile(r"[A-Za-z0-9_.,=+\-]+")


@settings(max_examples=500, deadline=None)
@given(st.integers(1, 10**7), st.dictionaries(NAMES, VALUES, max_size=6))
def test_a_run_folder_is_64_plain_bytes_at_most_whatever_the_parameters_hold(
    number: int, params: dict[str, Any]
) -> None:
    name = folder_name(number, params, identity(params))
    assert len(name.encode("ascii")) <= 64
    assert SAFE.fullmatch(name)
    assert ".." not in name
    assert name.startswith(f"{number:04d}-")
    assert name.endswith(identity(params)[:12])


def test_a_run_folder_can_be_read_by_people() -> None:
    params = {"lr": 0.01, "batch_size": 100, "shuffle": True}
    assert folder_name(7, params, "0123456789abcdef").startswith("0007-lr=0.01,batch_size=100,shuffle=True-")


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.dictionaries(NAMES, VALUES, max_size=4))
def test_any_parameters_come_back_from_their_folder_and_nothing_is_made_elsewhere(
    tmp_path: Path, params: dict[str, Any]
) -> None:
    sweep_dir = SweepDir(tmp_path, "sweep")
    sweep_dir.make()
    made(sweep_dir, 3, params).write_run(run_record(3, identity(params), params, 5, 1))
    found = sweep_dir.runs_by_id()[identity(params)[:12]].read_run()
    assert found is not None
    assert repr(found["params"]) == repr(params)
    assert (found["number"], found["seed"], found["replicate"]) == (3, 5, 1)
    assert set(os.listdir(tmp_path)) == {"runs", "results"}
    assert {path.name for path in (tmp_path / "runs" / "sweep").glob("*/*")} == {"run.json"}


def test_run_json_is_strict_json(tmp_path: Path) -> None:
    run_dir = known_run(tmp_path, {"a": float("nan"), "b": [float("inf")], "c": "\ud800"})
    json.loads((run_dir.path / "run.json").read_text("utf-8"), parse_constant=pytest.fail)


def test_a_run_json_torn_at_any_byte_is_no_run_and_no_error(tmp_path: Path) -> None:
    run_dir = known_run(tmp_path, {"a": float("nan"), "b": {"$name": 1}})
    file = run_dir.path / "run.json"
    whole = file.read_bytes()
    for end in range(whole.rindex(b"}")):
        file.write_bytes(whole[:end])
        assert run_dir.read_run() is None


@pytest.mark.parametrize(
    "text",
    [
        "[]",
        "3",
        "null",
        "{}",
        '{"params": []}',
        '{"params": {"a": {"$float": "x"}}}',
        '{"params": {"a": {"$float": []}}}',
        '{"params": {"a": {"$dict": [1]}}}',
        "\0",
        "\xff",
    ],
)
def test_a_run_json_of_any_other_content_is_no_run_and_no_error(tmp_path: Path, text: str) -> None:
    run_dir = known_run(tmp_path, {})
    (run_dir.path / "run.json").write_bytes(text.encode("latin-1"))
    assert run_dir.read_run() is None


@pytest.mark.parametrize(
    "name",
    ["", ".", "..", "../x", "a/b", "/tmp/x", "a\\b", ".hidden", "-x", "a b", "a\n", "ü", "x" * 65, "a\0", None, 3],
)
def test_a_name_that_could_leave_the_project_is_refused(tmp_path: Path, name: Any) -> None:
    assert repr(name)[:60] in (sweep_name_fault(name) or "")
    with pytest.raises(ValueError, match="sweep name"):
        SweepDir(tmp_path, name)


@pytest.mark.parametrize("name", ["mnist", "a.b-c_d", "2026-01-31_10-00-00", "_x", "x" * 64])
def test_an_ordinary_name_is_a_folder_of_that_name(tmp_path: Path, name: str) -> None:
    assert SweepDir(tmp_path, name).path == tmp_path / "runs" / name


def test_a_link_that_leads_out_of_the_project_is_refused(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "project" / "runs").mkdir(parents=True)
    (tmp_path / "project" / "runs" / "x").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ValueError, match="elsewhere"):
        SweepDir(tmp_path / "project", "x")


def test_a_project_whose_runs_folder_is_itself_a_link_to_a_big_disk_works(tmp_path: Path) -> None:
    (tmp_path / "big").mkdir()
    (tmp_path / "project").mkdir()
    (tmp_path / "project" / "runs").symlink_to(tmp_path / "big")
    SweepDir(tmp_path / "project", "x").make()
    assert (tmp_path / "big" / "x").is_dir()


def tables_of(sweep: SweepDir) -> tuple[Path, ...]:
    return sweep.epochs_csv, sweep.epochs_json, sweep.runs_csv, sweep.lr_range_csv


@pytest.mark.parametrize("name", ["mnist.runs", "mnist.csv", "mnist.json", "mnist.runs.csv", "mnist.lr-range"])
def test_no_two_sweeps_share_a_results_table(tmp_path: Path, name: str) -> None:
    """Either the name is refused, or its tables are its own."""
    mine = SweepDir(tmp_path, "mnist")
    try:
        other = SweepDir(tmp_path, name)
    except ValueError:
        return
    tables = [table for sweep in (mine, other) for table in tables_of(sweep)]
    assert len(set(tables)) == 8


def test_strangers_in_a_sweeps_folder_are_no_runs(tmp_path: Path) -> None:
    sweep_dir = SweepDir(tmp_path, "sweep")
    sweep_dir.make()
    made(sweep_dir, 1, {"a": 1})
    for name in (".DS_Store", "notes.txt", "0002", "0002-x", "x-0123456789ab", "0002-a b-0123456789ab"):
        (sweep_dir.path / name).mkdir()
    assert [run.number for run in sweep_dir.runs()] == [1]


def test_runs_come_by_number_and_not_by_letter(tmp_path: Path) -> None:
    sweep_dir = SweepDir(tmp_path, "sweep")
    sweep_dir.make()
    for number in (10_000, 2, 9_999, 11):
        made(sweep_dir, number, {"a": number})
    assert [run.number for run in sweep_dir.runs()] == [2, 11, 9_999, 10_000]


def test_a_sweep_that_is_set_aside_keeps_everything_under_another_name(tmp_path: Path) -> None:
    sweep_dir = SweepDir(tmp_path, "sweep")
    for _ in range(2):
        sweep_dir.make()
        made(sweep_dir, 1, {"a": 1})
        for table in tables_of(sweep_dir):
            table.write_text("rows")
        sweep_dir.set_aside()
    assert sweep_names(tmp_path) == ["sweep.1", "sweep.2"]
    for name in ("sweep.1", "sweep.2"):
        assert len(list(SweepDir(tmp_path, name).runs())) == 1
        assert [table.read_text() for table in tables_of(SweepDir(tmp_path, name))] == ["rows"] * 4


def test_the_project_is_the_nearest_folder_above_that_has_runs_and_sweeps(tmp_path: Path) -> None:
    for folder in ("runs", "sweeps"):
        (tmp_path / "project" / folder).mkdir(parents=True)
    (tmp_path / "project" / "notebooks" / "deep").mkdir(parents=True)
    assert project_root(tmp_path / "project" / "notebooks" / "deep") == (tmp_path / "project").resolve()


def test_a_sweep_that_is_not_there_is_told_with_those_that_are(tmp_path: Path) -> None:
    with pytest.raises(ResultsNotFoundError, match="none yet"):
        find_sweep("cifar", tmp_path)
    for name in ("mnist", "quickstart"):
        SweepDir(tmp_path, name).make()
    with pytest.raises(ResultsNotFoundError, match=r"cifar.*mnist, quickstart"):
        find_sweep("cifar", tmp_path)
    with pytest.raises(ResultsNotFoundError, match=r"mnist, quickstart"):
        find_sweep("../../etc", tmp_path)


@pytest.mark.parametrize("in_the_way", ["runs", "runs/sweep", "results"])
def test_a_file_where_a_folder_must_be_stops_the_run_with_its_name(tmp_path: Path, in_the_way: str) -> None:
    (tmp_path / in_the_way).parent.mkdir(exist_ok=True)
    (tmp_path / in_the_way).write_text("mine")
    m = RunManager("sweep", root=tmp_path, tensorboard=False, quiet=True)
    with pytest.raises(StorageError, match=in_the_way):
        m.begin_run(RunBuilder.get_runs({"lr": [1]})[0])
    assert (tmp_path / in_the_way).read_text() == "mine"


def test_a_file_where_the_runs_own_folder_must_be_stops_the_run_with_its_name(tmp_path: Path) -> None:
    sweep_dir = SweepDir(tmp_path, "sweep")
    sweep_dir.make()
    (sweep_dir.path / folder_name(1, {"lr": 1}, identity({"lr": 1}))).write_text("mine")
    m = RunManager("sweep", root=tmp_path, tensorboard=False, quiet=True)
    with pytest.raises(StorageError, match="0001-lr=1"):
        m.begin_run(RunBuilder.get_runs({"lr": [1]})[0])


def test_a_run_whose_journal_cannot_be_opened_is_stopped_with_its_name_and_harms_no_other(tmp_path: Path) -> None:
    one, two = RunBuilder.get_runs({"lr": [1, 2]})
    run_dir = known_run(tmp_path, {"lr": 1})
    (run_dir.path / "journal.jsonl").unlink(missing_ok=True)
    (run_dir.path / "journal.jsonl").mkdir()
    m = RunManager("sweep", root=tmp_path, tensorboard=False, quiet=True)
    with pytest.raises(StorageError, match="0001-lr=1"):
        m.begin_run(one)
    m.begin_run(two)
    m.begin_epoch()
    m.log(x=1.0)
    m.end_epoch()
    m.end_run()
    m.close()
    assert load_results(tmp_path / "runs" / "sweep")["lr"].tolist() == [2]


READ_ONLY = """
import os, subprocess, sys
from runmanager import RunBuilder, RunManager
from runmanager.tracking.errors import StorageError
root = sys.argv[1]
subprocess.run(["mount", "--bind", root, root], check=True)
subprocess.run(["mount", "-o", "remount,bind,ro", root], check=True)
try:
    RunManager("sweep", root=root, tensorboard=False, quiet=True).begin_run(RunBuilder.get_runs({"lr": [1]})[0])
except StorageError as error:
    print(error)
"""


def in_own_mounts(script: str, *arguments: object) -> str:
    """What a script prints that may mount; skips where the system does not let it."""
    if subprocess.run(["unshare", "-Urm", "true"], capture_output=True).returncode:
        pytest.skip("this system lets no process have mounts of its own (unshare -Urm)")
    command = ["unshare", "-Urm", sys.executable, "-c", script, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.skipif(sys.platform != "linux", reason="needs Linux's own mounts")
def test_a_read_only_project_stops_the_run_with_the_folders_name(tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    said = in_own_mounts(READ_ONLY, tmp_path)
    assert "Read-only file system" in said
    assert str(tmp_path) in said


FULL = """
import json, os, subprocess, sys, warnings
from runmanager import RunBuilder, RunManager, load_results
from runmanager.tracking.errors import StorageError
from runmanager.tracking.history import read_sweep
from runmanager.tracking.run_dir import SweepDir
from pathlib import Path
warnings.simplefilter("ignore")  # a table that cannot be written is warned about
root = Path(sys.argv[1])
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", root], check=True)
m = RunManager("sweep", root=root, tensorboard=False, quiet=True)
returned, message = [], ""

def train(run, epochs):
    m.begin_run(run)
    for epoch in range(epochs):
        m.begin_epoch()
        m.log(x=float(epoch))
        m.end_epoch()
        returned.append([run.lr, epoch + 1.0])
    m.end_run()

one, two, three = RunBuilder.get_runs({"lr": [1, 2, 3], "text": ["x" * 500]})
train(one, 3)
try:
    train(two, 10_000)
except StorageError as error:
    message = str(error)
    m.abandon(error)
frame = load_results(root / "runs" / "sweep")
at_full = frame[["lr", "epoch"]].values.tolist()
statuses = [run.status for run in read_sweep(SweepDir(root, "sweep")).runs]
for table in (root / "results").glob("*.csv"):
    table.unlink()  # make room
returned_before = len(returned)
train(three, 2)
frame = load_results(root / "runs" / "sweep")
print(json.dumps({"message": message, "returned": returned, "before": returned_before, "at_full": at_full,
    "statuses": statuses, "end": frame[["lr", "epoch"]].values.tolist(),
    "bad": sum(run_dir.read_journal().num_bad_lines for run_dir in SweepDir(root, "sweep").runs())}))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="needs Linux's own mounts")
def test_a_disk_that_fills_fails_that_run_keeps_every_row_and_the_next_run_goes_on_when_there_is_room(
    tmp_path: Path,
) -> None:
    seen = json.loads(in_own_mounts(FULL, tmp_path))
    assert "No space left" in seen["message"]
    assert "journal.jsonl" in seen["message"]
    assert seen["at_full"] == seen["returned"][: seen["before"]]
    assert seen["statuses"][0] == "completed"
    assert seen["end"] == seen["returned"]
    assert seen["bad"] == 0


def test_a_users_own_named_tuple_with_a_hostile_value_stays_in_its_folder(tmp_path: Path) -> None:
    run = namedtuple("Mine", "path name")("../../../../tmp/escape", "/etc/passwd")
    m = RunManager("sweep", root=tmp_path / "project", tensorboard=False, quiet=True)
    m.begin_run(run)
    m.end_run()
    m.close()
    made = {path.relative_to(tmp_path).parts[0] for path in tmp_path.rglob("*")}
    assert made == {"project"}
    (folder,) = [path for path in (tmp_path / "project" / "runs" / "sweep").iterdir() if path.is_dir()]
    assert re.fullmatch("0001-[0-9a-f]{12}", folder.name)
