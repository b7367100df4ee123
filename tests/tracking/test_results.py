"""The results tables under attack: they always say what the journals say, whatever was killed, deleted or full."""

import csv
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from runmanager import RunBuilder, RunManager, load_results
from runmanager.tracking import results as tables_module
from runmanager.tracking.history import read_sweep
from runmanager.tracking.results import rebuild
from runmanager.tracking.run_dir import SweepDir

TABLES = ("sweep.csv", "sweep.json", "sweep.runs.csv")


def manager(root: Path) -> RunManager:
    return RunManager("sweep", root=root, tensorboard=False, quiet=True)


def epoch(m: RunManager, **metrics: float) -> None:
    m.begin_epoch()
    m.log(**metrics)
    m.end_epoch()


def train(m: RunManager, run: Any, *epochs: dict[str, float]) -> None:
    m.begin_run(run)
    for metrics in epochs:
        epoch(m, **metrics)
    m.end_run()


def tables(root: Path) -> dict[str, str]:
    return {name: (root / "results" / name).read_text("utf-8") for name in TABLES}


def rows_of(root: Path) -> list[dict[str, Any]]:
    """The results JSON by a strict parser."""
    text = (root / "results" / "sweep.json").read_text("utf-8")
    return list(json.loads(text, parse_constant=lambda literal: pytest.fail(f"{literal} is not strict JSON")))


def results(root: Path, **options: bool) -> pd.DataFrame:
    return load_results(root / "runs" / "sweep", **options)


RUNS = RunBuilder.get_runs({"lr": [0.1, 0.2, 0.3, 0.4]})


def test_tables_are_current_after_every_epoch_and_not_only_at_the_end(tmp_path: Path) -> None:
    m = manager(tmp_path)
    for number, run in enumerate(RUNS[:2]):
        m.begin_run(run)
        for done in range(3):
            epoch(m, x=float(done))
            assert len(pd.read_csv(tmp_path / "results" / "sweep.csv")) == 3 * number + done + 1
            assert [row["x"] for row in rows_of(tmp_path)][-1] == done
            assert pd.read_csv(tmp_path / "results" / "sweep.runs.csv")["epochs trained"].tolist()[-1] == done + 1
        m.end_run()
    m.close()
    assert tables(tmp_path) == rebuilt(tmp_path)


def rebuilt(root: Path) -> dict[str, str]:
    rebuild(SweepDir(root, "sweep"))
    return tables(root)


def test_columns_are_those_of_the_design_then_metrics_then_parameters_without_an_index(tmp_path: Path) -> None:
    m = manager(tmp_path)
    train(m, RunBuilder.get_runs({"lr": [0.1], "shuffle": [True]})[0], {"val_loss": 1.0, "f1": 0.5})
    m.close()
    header = ["run", "epoch", "loss", "accuracy", "epoch duration", "run duration", "group size", "val_loss", "f1"]
    header += ["lr", "shuffle"]
    assert list(pd.read_csv(tmp_path / "results" / "sweep.csv").columns) == header
    assert list(results(tmp_path).columns) == header


def test_a_metric_that_appears_late_widens_every_table_and_leaves_earlier_cells_empty(tmp_path: Path) -> None:
    m = manager(tmp_path)
    train(m, RUNS[0], {"a": 1.0}, {"a": 2.0})
    train(m, RUNS[1], {"a": 3.0})
    train(m, RUNS[2], {"a": 4.0}, {"a": 5.0, "late": 6.0}, {"late": 7.0})
    m.close()
    frame = results(tmp_path)
    assert list(frame.columns)[-3:] == ["a", "late", "lr"]
    assert frame["a"].tolist()[:5] == [1.0, 2.0, 3.0, 4.0, 5.0]
    assert frame["late"].isna().tolist() == [True, True, True, True, False, False]
    assert frame["late"].tolist()[4:] == [6.0, 7.0]
    assert ["late" in row for row in rows_of(tmp_path)] == [False, False, False, False, True, True]
    assert results(tmp_path, runs=True)["best late"].tolist()[2] == 7.0
    assert tables(tmp_path) == rebuilt(tmp_path)


def test_a_parameter_that_only_later_runs_have_widens_every_table(tmp_path: Path) -> None:
    m = manager(tmp_path)
    train(m, RUNS[0], {"a": 1.0})
    for run in RunBuilder.get_runs({"lr": [0.1], "momentum": [0.9, None]}):
        train(m, run, {"a": 2.0})
    m.close()
    frame = results(tmp_path)
    assert frame["momentum"].tolist()[1:] == [0.9, None]
    assert pd.isna(frame["momentum"][0])
    assert tables(tmp_path) == rebuilt(tmp_path)


OPERATIONS = st.lists(
    st.tuples(
        st.sampled_from(["epoch", "epoch", "log"]),
        st.dictionaries(
            st.sampled_from(["a", "b", "val_loss", "c,\n"]),
            st.sampled_from([0.5, 1, float("nan"), float("inf"), -2.5]),
            min_size=1,
        ),
    ),
    max_size=4,
)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(OPERATIONS, min_size=1, max_size=4), st.booleans())
def test_tables_kept_current_are_to_the_byte_those_rebuilt_from_the_journals(
    tmp_path: Path, runs: list[Any], one_manager: bool
) -> None:
    root = tmp_path / str(time.monotonic_ns())
    m = manager(root)
    for run, operations in zip(RUNS, runs, strict=False):
        m.begin_run(run)
        for kind, metrics in operations:
            if kind == "epoch":
                epoch(m, **metrics)
            else:
                m.log(**metrics)
        m.end_run()
        if not one_manager:
            m.close()
            m = manager(root)
    m.close()
    assert tables(root) == rebuilt(root)


KILLED = """
import os, signal, sys
from runmanager import RunBuilder, RunManager
from runmanager.tracking import results
m = RunManager("sweep", root=sys.argv[1], tensorboard=False, quiet=True)
m.begin_run(RunBuilder.get_runs({"lr": [0.1]})[0])

def die(*arguments):
    os.kill(os.getpid(), signal.SIGKILL)

def tear(file, settled, tail):  # a row that the killed process had half written
    os.pwrite(file._file.fileno(), settled[: len(settled) // 2].encode(), file._settled)
    die()

for number in range(1, 4):
    if number == 3 and sys.argv[2] == "before the row":
        results.ResultsWriter.epoch = die
    if number == 3 and sys.argv[2] == "within the row":
        results.TailFile.write = tear
    m.begin_epoch()
    m.log(x=float(number))
    m.end_epoch()
"""


@pytest.mark.parametrize("when", ["before the row", "within the row"])
def test_a_process_that_dies_between_journal_and_table_loses_no_row(tmp_path: Path, when: str) -> None:
    died = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path), when], capture_output=True, text=True)
    assert died.returncode == -9, died.stderr
    assert results(tmp_path)["x"].tolist() == [1.0, 2.0, 3.0]
    assert load_results(tmp_path / "results" / "sweep.csv")["x"].tolist() == [1.0, 2.0]
    m = manager(tmp_path)
    train(m, RUNS[1], {"x": 4.0})
    m.close()
    assert [row["x"] for row in rows_of(tmp_path)] == [1.0, 2.0, 3.0, 4.0]
    assert pd.read_csv(tmp_path / "results" / "sweep.csv")["x"].tolist() == [1.0, 2.0, 3.0, 4.0]
    assert tables(tmp_path) == rebuilt(tmp_path)


def test_a_row_that_is_recorded_within_the_same_clock_tick_as_the_table_is_not_missed(tmp_path: Path) -> None:
    """A file system's clock ticks every few milliseconds, so a table and a younger journal may bear the same time."""
    m = manager(tmp_path)
    m.begin_run(RUNS[0])
    epoch(m, x=1.0)
    old = {name: (tmp_path / "results" / name).read_bytes() for name in TABLES}
    epoch(m, x=2.0)
    (journal,) = tmp_path.glob("runs/sweep/*/journal.jsonl")
    now = journal.stat().st_mtime_ns
    os.utime(journal.parent.parent, ns=(now, now))
    for name, data in old.items():
        (tmp_path / "results" / name).write_bytes(data)
        os.utime(tmp_path / "results" / name, ns=(now, now))
    assert results(tmp_path)["x"].tolist() == [1.0, 2.0]
    m.close()


def test_a_run_folder_that_was_deleted_leaves_the_results(tmp_path: Path) -> None:
    m = manager(tmp_path)
    for number, run in enumerate(RUNS[:3]):
        train(m, run, {"x": float(number)})
    m.close()
    long_ago = time.time_ns() - 10**10
    for name in TABLES:
        os.utime(tmp_path / "results" / name, ns=(long_ago, long_ago))
    delete(next((tmp_path / "runs" / "sweep").glob("0002-*")))
    assert results(tmp_path)["run"].tolist() == [1, 3]
    assert results(tmp_path, runs=True)["run"].tolist() == [1, 3]
    m = manager(tmp_path)
    train(m, RUNS[3], {"x": 9.0})
    m.close()
    assert results(tmp_path)["run"].tolist() == [1, 3, 4]
    assert [row["run"] for row in rows_of(tmp_path)] == [1, 3, 4]
    assert pd.read_csv(tmp_path / "results" / "sweep.runs.csv")["run"].tolist() == [1, 3, 4]


def delete(folder: Path) -> None:
    for file in folder.iterdir():
        file.unlink()
    folder.rmdir()


def test_a_run_folder_that_was_deleted_while_the_manager_is_open_leaves_the_results_too(tmp_path: Path) -> None:
    m = manager(tmp_path)
    train(m, RUNS[0], {"x": 1.0})
    delete(next((tmp_path / "runs" / "sweep").glob("0001-*")))
    train(m, RUNS[1], {"x": 2.0})
    m.close()
    assert results(tmp_path)["x"].tolist() == [2.0]


def test_results_that_were_deleted_come_back_with_the_next_epoch(tmp_path: Path) -> None:
    m = manager(tmp_path)
    m.begin_run(RUNS[0])
    epoch(m, x=1.0)
    for name in TABLES:
        (tmp_path / "results" / name).unlink()
    epoch(m, x=2.0)
    assert pd.read_csv(tmp_path / "results" / "sweep.csv")["x"].tolist() == [1.0, 2.0]
    m.end_run()
    m.close()
    assert tables(tmp_path) == rebuilt(tmp_path)


def test_a_table_that_somebody_edited_is_mended_with_the_next_epoch(tmp_path: Path) -> None:
    m = manager(tmp_path)
    m.begin_run(RUNS[0])
    epoch(m, x=1.0)
    with (tmp_path / "results" / "sweep.csv").open("a") as file:
        file.write("rubbish\n")
    epoch(m, x=2.0)
    m.end_run()
    m.close()
    assert results(tmp_path)["x"].tolist() == [1.0, 2.0]
    assert tables(tmp_path) == rebuilt(tmp_path)


@pytest.mark.parametrize("name", TABLES)
def test_a_table_that_cannot_be_written_is_a_warning_and_the_run_goes_on(tmp_path: Path, name: str) -> None:
    (tmp_path / "results" / name).mkdir(parents=True)
    m = manager(tmp_path)
    with pytest.warns(RuntimeWarning, match="journal keeps every row"):
        train(m, RUNS[0], {"x": 1.0}, {"x": 2.0})
    m.close()
    assert results(tmp_path)["x"].tolist() == [1.0, 2.0]
    assert results(tmp_path, runs=True)["status"].tolist() == ["completed"]


CANNOT = """
import sys
from pathlib import Path
from runmanager import RunBuilder, RunManager
Path(sys.argv[1], "results", "sweep.json").mkdir(parents=True)
m = RunManager("sweep", root=sys.argv[1], tensorboard=False, quiet=True)
m.begin_run(RunBuilder.get_runs({"lr": [0.1]})[0])
m.end_run()
"""


def test_tables_that_cannot_be_written_at_the_end_of_the_program_are_one_line(tmp_path: Path) -> None:
    command = [sys.executable, "-c", CANNOT, str(tmp_path)]
    said = subprocess.run(command, check=True, capture_output=True, text=True).stderr.splitlines()
    assert "Traceback" not in "".join(said) and "Exception" not in "".join(said)
    (line,) = [line for line in said if line.startswith("sys:1: RuntimeWarning: ")]
    assert line == said[-1] and len([line for line in said if "RuntimeWarning" in line]) == 2  # the other as it begins
    assert (
        str(tmp_path / "results" / "sweep.csv") in line
        and "Is a directory" in line
        and "runmanager results sweep" in line
    )


FULL = """
import resource, sys, warnings
from runmanager import RunBuilder, RunManager
warnings.simplefilter("ignore")
m = RunManager("sweep", root=sys.argv[1], tensorboard=False, quiet=True)
m.begin_run(RunBuilder.get_runs({"text": ["x" * 5000]})[0])
_, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), hard))
for number in range(20):
    m.begin_epoch()
    m.log(x=float(number))
    m.end_epoch()
m.end_run()
"""


@pytest.mark.parametrize("limit", [50_000, 51_100])  # bytes: the CSV is the first that does not fit, or the JSON is
def test_tables_that_no_longer_fit_stay_whole_and_no_row_is_lost(tmp_path: Path, limit: int) -> None:
    subprocess.run([sys.executable, "-c", FULL, str(tmp_path), str(limit)], check=True)
    assert results(tmp_path)["x"].tolist() == [float(number) for number in range(20)]
    assert results(tmp_path, runs=True)["status"].tolist() == ["completed"]
    shown = [row["x"] for row in rows_of(tmp_path)]
    assert shown == [float(number) for number in range(len(shown))]
    assert (tmp_path / "results" / "sweep.csv").read_text().endswith("\n")
    assert len(pd.read_csv(tmp_path / "results" / "sweep.csv")) in (len(shown), len(shown) + 1)


def test_two_processes_that_train_runs_of_one_sweep_leave_all_rows_in_the_tables(tmp_path: Path) -> None:
    one, two = manager(tmp_path), manager(tmp_path)
    one.begin_run(RUNS[0])
    two.begin_run(RUNS[1])
    for value in (1.0, 2.0):
        epoch(one, x=value)
        epoch(two, x=-value)
    one.end_run()
    epoch(two, x=-3.0)
    two.end_run()
    one.close()
    two.close()
    assert sorted(results(tmp_path)["x"]) == [-3.0, -2.0, -1.0, 1.0, 2.0]
    assert sorted(row["x"] for row in rows_of(tmp_path)) == [-3.0, -2.0, -1.0, 1.0, 2.0]
    assert sorted(results(tmp_path, runs=True)["status"]) == ["completed", "completed"]


def test_the_run_table_has_last_and_best_of_each_metric_and_the_error(tmp_path: Path) -> None:
    m = manager(tmp_path)
    with pytest.raises(ValueError), m.tracking(RUNS[0]):
        epoch(m, f1=0.5, val_loss=0.2)
        epoch(m, f1=0.25, val_loss=0.1)
        m.log(size=10)
        raise ValueError('no, "really"\nnot')
    m.close()
    (row,) = results(tmp_path, runs=True).to_dict("records")
    assert (row["status"], row["epochs trained"], row["size"]) == ("failed", 2, 10)
    assert (row["f1"], row["best f1"], row["best f1 epoch"]) == (0.25, 0.5, 1)
    assert (row["val_loss"], row["best val_loss"], row["best val_loss epoch"]) == (0.1, 0.1, 2)
    assert row["error"] == 'ValueError: no, "really" not'


def test_a_learning_rate_has_no_best_beside_it_but_an_objective_always_has(tmp_path: Path) -> None:
    SweepDir(tmp_path, "sweep").make()
    SweepDir(tmp_path, "sweep").write_plan({"objective": "skipped steps", "mode": "min"})
    m = manager(tmp_path)
    rates = {"learning rate": 0.1, "learning rate/head": 0.2, "gradient norm": 3.0}
    train(m, RUNS[0], {**rates, "skipped steps": 4, "gain": 1.0}, {**rates, "skipped steps": 0, "gain": 0.5})
    m.close()
    assert tables(tmp_path) == rebuilt(tmp_path)
    table = results(tmp_path, runs=True)
    best = [name for name in table if name.startswith("best ") and not name.endswith(" epoch")]
    assert best == ["best loss", "best accuracy", "best skipped steps", "best gain"]
    (row,) = table.to_dict("records")
    assert {name: row[name] for name in rates} == rates
    assert (row["best skipped steps"], row["best skipped steps epoch"], row["best gain"], row["lr"]) == (0, 2, 1.0, 0.1)
    (run,) = read_sweep(SweepDir(tmp_path, "sweep")).ranked("learning rate")
    assert run.score("learning rate") == 0.1  # the last; so the runs can still be sorted by it


@pytest.mark.parametrize("name", ["best a", "best a epoch", "epochs trained", "lr.1"])
def test_a_metric_with_the_name_of_a_derived_column_is_refused_or_kept_apart(tmp_path: Path, name: str) -> None:
    m = manager(tmp_path)
    m.begin_run(RUNS[0])
    try:
        epoch(m, **{"a": 1.0, name: 77.0})
    except ValueError:
        m.close()
        return
    m.end_run()
    m.close()
    with (tmp_path / "results" / "sweep.runs.csv").open(newline="") as file:
        header = next(csv.reader(file))
    assert len(set(header)) == len(header)
    assert results(tmp_path)[name].tolist() == [77.0]


def test_a_metric_of_one_run_that_is_a_parameter_of_the_next_gives_no_two_columns_of_one_name(tmp_path: Path) -> None:
    m = manager(tmp_path)
    train(m, RUNS[0], {"warmup": 5.0})
    try:
        train(m, RunBuilder.get_runs({"warmup": [3]})[0], {"x": 1.0})
    except ValueError:
        pass  # refused
    m.close()
    with (tmp_path / "results" / "sweep.csv").open(newline="") as file:
        header = next(csv.reader(file))
    assert len(set(header)) == len(header)
    assert results(tmp_path)["warmup"].tolist()[0] == 5.0


def test_saved_files_hold_the_rows_of_this_manager_alone(tmp_path: Path) -> None:
    m = manager(tmp_path)
    train(m, RUNS[0], {"x": 1.0})
    m.close()
    m = manager(tmp_path)
    train(m, RUNS[1], {"x": float("nan")})
    m.save(tmp_path / "out" / "my results")
    m.close()
    assert load_results(tmp_path / "out" / "my results.csv")["lr"].tolist() == [0.2]
    text = (tmp_path / "out" / "my results.json").read_text()
    assert [row["x"] for row in json.loads(text, parse_constant=pytest.fail)] == ["NaN"]


def test_a_sweep_without_a_row_has_tables_all_the_same(tmp_path: Path) -> None:
    m = manager(tmp_path)
    train(m, RUNS[0])
    m.close()
    assert rows_of(tmp_path) == []
    assert results(tmp_path).empty
    assert results(tmp_path, runs=True)["epochs trained"].tolist() == [0]


READER = """
import json, sys
from runmanager import RunBuilder, RunManager
m = RunManager("sweep", root=sys.argv[1], tensorboard=False, quiet=True)
for number, run in enumerate(RunBuilder.get_runs({"lr": [0.1, 0.2, 0.3, 0.4, 0.5]})):
    m.begin_run(run)
    for epoch in range(20):
        m.begin_epoch()
        m.log(**{"x": 1.0, f"metric {number}": 2.0})
        m.end_epoch()
        print(20 * number + epoch + 1, flush=True)
    m.end_run()
m.close()
"""


def test_another_process_reads_every_returned_row_while_one_trains(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", READER, str(tmp_path)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            frame = results(tmp_path)
            assert len(frame) >= int(line)
            assert frame["x"].tolist() == [1.0] * len(frame)
            assert len(results(tmp_path, runs=True)) >= (int(line) - 1) // 20 + 1
    assert len(results(tmp_path)) == 100


# Attempts


def saved_epoch(m: RunManager, **metrics: float) -> None:
    m.begin_epoch()
    m.log(**metrics)
    m.end_epoch(checkpoint={"epoch": m.num_epochs + 1})


def cut_off(root: Path, run: Any, *values: float) -> None:
    """A run that was cut off in the epoch after these."""
    m = manager(root)
    m.begin_run(run)
    for value in values:
        saved_epoch(m, x=value)
    m.begin_epoch()
    m.log(x=99.0)
    m.close()


@pytest.mark.parametrize("begun", ["first", "after another run"])
def test_a_run_that_starts_from_nothing_again_has_its_new_rows_alone(tmp_path: Path, begun: str) -> None:
    cut_off(tmp_path, RUNS[0], 1.0, 2.0)
    m = manager(tmp_path)
    if begun == "after another run":
        train(m, RUNS[1], {"x": 7.0})
    m.begin_run(RUNS[0])
    epoch(m, x=10.0)
    assert [row["x"] for row in rows_of(tmp_path) if row["run"] == 1] == [10.0]
    assert pd.read_csv(tmp_path / "results" / "sweep.csv").query("run == 1")["x"].tolist() == [10.0]
    epoch(m, x=20.0)
    m.end_run()
    m.close()
    assert results(tmp_path).query("run == 1")["x"].tolist() == [10.0, 20.0]
    assert pd.read_csv(tmp_path / "results" / "sweep.csv").query("run == 1")["x"].tolist() == [10.0, 20.0]


@pytest.mark.parametrize("begun", ["first", "after another run"])
def test_a_run_that_goes_on_has_its_old_rows_and_the_new_ones(tmp_path: Path, begun: str) -> None:
    cut_off(tmp_path, RUNS[0], 1.0, 2.0)
    m = manager(tmp_path)
    if begun == "after another run":
        train(m, RUNS[1], {"x": 7.0})
    m.begin_run(RUNS[0])
    m.load_checkpoint()
    for name in ("sweep.csv", "sweep.runs.csv"):
        assert 1 in pd.read_csv(tmp_path / "results" / name)["run"].tolist()
    saved_epoch(m, x=3.0)
    table = pd.read_csv(tmp_path / "results" / "sweep.csv").query("run == 1")
    assert (table["epoch"].tolist(), table["x"].tolist()) == ([1, 2, 3], [1.0, 2.0, 3.0])
    assert [row["x"] for row in rows_of(tmp_path) if row["run"] == 1] == [1.0, 2.0, 3.0]
    m.end_run()
    m.close()
    (row,) = pd.read_csv(tmp_path / "results" / "sweep.runs.csv").query("run == 1").to_dict("records")
    assert (row["epochs trained"], row["status"], row["x"], row["best x"]) == (3, "completed", 3.0, 3.0)
    kept = tables(tmp_path)
    assert {name: sorted(text.split("\n")) for name, text in kept.items() if name.endswith("csv")} == {
        name: sorted(text.split("\n")) for name, text in rebuilt(tmp_path).items() if name.endswith("csv")
    }


def test_an_attempt_that_recorded_nothing_leaves_the_rows_in_the_tables(tmp_path: Path) -> None:
    cut_off(tmp_path, RUNS[0], 1.0, 2.0)
    m = manager(tmp_path)
    train(m, RUNS[1], {"x": 7.0})
    with pytest.raises(ValueError), m.tracking(RUNS[0]):
        raise ValueError("no data")
    m.close()
    assert sorted(row["x"] for row in rows_of(tmp_path)) == [1.0, 2.0, 7.0]
    assert sorted(results(tmp_path)["x"]) == [1.0, 2.0, 7.0]
    assert results(tmp_path, runs=True).query("run == 1")["epochs trained"].tolist() == [2]


INTERLEAVED = """
import json, sys, time
from pathlib import Path
from runmanager import RunBuilder, RunManager
from runmanager.tracking import results
if sys.argv[3] == "slowly":  # as where a rebuild takes long, so that it is not done each time
    results._QUICK_SECONDS = 0.0
m = RunManager("sweep", root=sys.argv[1], tensorboard=False, quiet=True)
runs = RunBuilder.get_runs({"lr": list(range(20))})
for number, run in enumerate(runs):
    if number % 2 != int(sys.argv[2]):
        continue
    with m.tracking(run, number=number + 1):
        for epoch in range(3):
            m.begin_epoch()
            m.log(x=float(10 * number + epoch))
            m.end_epoch()
            time.sleep(0.002)
m.close()
"""


@pytest.mark.parametrize("speed", ["quickly", "slowly"])
def test_two_processes_that_train_a_sweep_at_once_leave_complete_tables(tmp_path: Path, speed: str) -> None:
    commands = [[sys.executable, "-c", INTERLEAVED, str(tmp_path), place, speed] for place in "01"]
    both = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for command in commands]
    said = [process.communicate()[1] for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    expected = sorted(float(10 * number + each) for number in range(20) for each in range(3))
    assert sorted(results(tmp_path)["x"]) == expected
    assert sorted(pd.read_csv(tmp_path / "results" / "sweep.csv")["x"]) == expected
    assert sorted(row["x"] for row in rows_of(tmp_path)) == expected
    table = pd.read_csv(tmp_path / "results" / "sweep.runs.csv")
    assert (sorted(table["run"]), set(table["status"])) == (list(range(1, 21)), {"completed"})


@pytest.mark.parametrize(
    ("moment", "number"),
    [*(("put_text", number) for number in (1, 2, 3)), *(("journal_sizes", number) for number in (1, 2))],
)
def test_another_process_that_puts_its_tables_in_place_between_ours_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str, number: int
) -> None:
    """One process writes its tables, or has just seen that they are complete, when another one trains a run to its end."""
    one, two = manager(tmp_path), manager(tmp_path)

    def train_run(m: RunManager, run: int) -> None:
        with m.tracking(RUNS[run - 1], number=run):
            epoch(m, x=float(run))

    train_run(one, 1)
    train_run(two, 2)  # so that the first one has to write its tables anew
    place = tables_module if moment == "put_text" else SweepDir
    do, num_done = getattr(place, moment), 0

    def do_and_be_passed(*given: Any) -> Any:
        nonlocal num_done
        num_done += 1
        is_time = num_done == number
        done = do(*given)
        if is_time:
            train_run(two, 4)
            two.close()
        return done

    monkeypatch.setattr(place, moment, do_and_be_passed)
    train_run(one, 3)
    one.close()
    assert num_done > number
    assert sorted(row["x"] for row in rows_of(tmp_path)) == [1.0, 2.0, 3.0, 4.0]
    assert sorted(pd.read_csv(tmp_path / "results" / "sweep.csv")["x"]) == [1.0, 2.0, 3.0, 4.0]
    table = pd.read_csv(tmp_path / "results" / "sweep.runs.csv")
    assert (sorted(table["run"]), table["status"].tolist()) == ([1, 2, 3, 4], ["completed"] * 4)


def test_tables_from_what_was_read_before_another_run_went_on_are_not_taken_for_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One process reads the folders, another one ends its run, and then the first one writes its tables."""
    m = manager(tmp_path)
    train(m, RUNS[0], {"x": 1.0})
    m.begin_run(RUNS[1])
    epoch(m, x=2.0)
    read = tables_module.read_sweep

    def read_early(sweep_dir: SweepDir) -> Any:
        found = read(sweep_dir)
        assert len(found.runs) == 2  # read now
        monkeypatch.setattr(tables_module, "read_sweep", read)
        epoch(m, x=3.0)
        m.end_run()
        m.close()
        return found

    monkeypatch.setattr(tables_module, "read_sweep", read_early)
    rebuild(SweepDir(tmp_path, "sweep"))
    assert results(tmp_path)["x"].tolist() == [1.0, 2.0, 3.0]
    assert results(tmp_path, runs=True)["status"].tolist() == ["completed", "completed"]
