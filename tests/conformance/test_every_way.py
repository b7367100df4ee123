"""Every way of training leaves the same folder: the same files, rows, statuses and numbers."""

import json
from pathlib import Path

import pandas as pd
import pytest

from runmanager import load_results
from runmanager.tracking.history import SweepHistory, read_sweep
from runmanager.tracking.run_dir import find_sweep
from tests.conformance.ways import BROKEN_LR, NAME, NUM_EPOCHS, PARAMS, WAYS

pytestmark = pytest.mark.parametrize("way", WAYS)


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def train(way: str, project: Path, *, fails: bool = False, tensorboard: bool = False) -> SweepHistory:
    project.mkdir(exist_ok=True)
    WAYS[way](project, fails, tensorboard)
    return read_sweep(find_sweep(NAME, project))


def test_a_row_for_each_run_and_epoch_with_the_columns_in_their_order(way: str, project: Path) -> None:
    train(way, project)
    table = pd.read_csv(project / "results" / f"{NAME}.csv")
    first = ["run", "epoch", "loss", "accuracy", "epoch duration", "run duration"]
    assert list(table.columns) == [*first, "val_loss", "val_accuracy", *PARAMS]
    assert list(zip(table["run"], table["epoch"], strict=True)) == [
        (run, epoch) for run in (1, 2, 3, 4) for epoch in (1, 2)
    ]
    assert table["loss"].notna().all() and table["val_accuracy"].between(0, 1).all()
    as_json = json.loads((project / "results" / f"{NAME}.json").read_text())
    assert [row["val_loss"] for row in as_json] == table["val_loss"].tolist()
    assert [list(row) for row in as_json] == [list(table.columns)] * len(table)


def test_the_same_files_in_the_same_folders(way: str, project: Path) -> None:
    train(way, project, tensorboard=True)
    folders = sorted((project / "runs" / NAME).glob("*/"))
    assert [folder.name.split("-")[:2] for folder in folders] == [
        ["0001", "lr=0.1,batch_size=8"],
        ["0002", "lr=0.1,batch_size=32"],
        ["0003", "lr=0.01,batch_size=8"],
        ["0004", "lr=0.01,batch_size=32"],
    ]
    for folder in folders:
        kinds = sorted(file.name.split(".out.")[0] for file in folder.iterdir())
        assert kinds == ["events", "events", "journal.jsonl", "run.json"]
    assert sorted(path.name for path in (project / "results").iterdir()) == [
        f"{NAME}.{end}" for end in ("csv", "json", "runs.csv")
    ]


def test_the_journal_tells_the_run_from_begin_to_end(way: str, project: Path) -> None:
    train(way, project)
    for run_dir in find_sweep(NAME, project).runs():
        content = run_dir.read_journal()
        assert [record["kind"] for record in content.records] == ["begin", *["log", "epoch"] * NUM_EPOCHS, "end"]
        assert [record["seq"] for record in content.records] == list(range(1, len(content.records) + 1))
        assert content.num_bad_lines == 0


def test_every_run_is_completed_and_has_its_best(way: str, project: Path) -> None:
    history = train(way, project)
    assert [run.status for run in history.runs] == ["completed"] * 4
    runs = load_results(project / "runs" / NAME, runs=True)
    rows = load_results(project / "runs" / NAME)
    assert runs["best val_loss"].tolist() == rows.groupby("run")["val_loss"].min().tolist()
    assert runs["best val_accuracy"].tolist() == rows.groupby("run")["val_accuracy"].max().tolist()


def test_a_run_that_raises_is_failed_with_its_rows_and_the_others_are_unharmed(way: str, project: Path) -> None:
    history = train(way, project, fails=True)
    for run in history.runs:
        if run.params["lr"] == BROKEN_LR and run.params["batch_size"] == 8:
            assert run.status == "failed" and run.error == "RuntimeError: the loss broke"
            assert run.traceback is not None and "in forward" in run.traceback
            assert len(run.rows) == 1
        else:
            assert run.status == "completed" and len(run.rows) == NUM_EPOCHS


def test_logging_changes_no_number(way: str, project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    quiet = train(way, project)
    monkeypatch.chdir(project)
    logged = train(way, project / "logged", tensorboard=True)
    assert numbers(quiet) == numbers(logged)


def test_the_numbers_are_those_of_every_other_way(way: str, project: Path) -> None:
    assert numbers(train(way, project)) == numbers(train("by hand", project / "by_hand"))


def numbers(history: SweepHistory) -> list[tuple]:
    return [(row.run, row.epoch, row.loss, row.accuracy, row.metrics) for run in history.runs for row in run.rows]
