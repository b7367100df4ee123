"""Every way of training leaves the same folder: the same files, rows, statuses and numbers."""

import json
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from runmanager import load_results
from runmanager.tracking.counting import counted
from runmanager.tracking.history import SweepHistory, read_sweep
from runmanager.tracking.run_dir import find_sweep
from tests.conformance.ways import BROKEN_LR, FUSED, NAME, NUM_EPOCHS, PARAMS, WAYS

pytestmark = pytest.mark.parametrize("way", WAYS)
Train = Callable[..., Path]
WITHOUT_WORKERS = {"processes": "here", "fused in processes": "fused"}
"""Workers take seconds to start: these ways train with TensorBoard alone, and what that changes is seen beside the same in here."""


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, one_thread: None) -> Train:
    """Trains in one of the ways with one thread, once for all that look at what it leaves; returns the project."""
    projects: dict[tuple[str, bool, bool], Path] = {}

    def train(way: str, *, fails: bool = False, tensorboard: bool = False) -> Path:
        tensorboard = tensorboard or (way in WITHOUT_WORKERS and not fails)
        key = way, fails, tensorboard
        if key not in projects:
            projects[key] = tmp_path_factory.mktemp("project")
            WAYS[way](projects[key], fails, tensorboard)
        return projects[key]

    return train


def history_of(project: Path) -> SweepHistory:
    return read_sweep(find_sweep(NAME, project))


def test_a_row_for_each_run_and_epoch_with_the_columns_in_their_order(way: str, trained: Train) -> None:
    project = trained(way)
    table = pd.read_csv(project / "results" / f"{NAME}.csv")
    first = ["run", "epoch", "loss", "accuracy", "epoch duration", "run duration", "group size"]
    assert list(table.columns) == [*first, "val_loss", "val_accuracy", *PARAMS]
    assert list(zip(table["run"], table["epoch"], strict=True)) == [
        (run, epoch) for run in (1, 2, 3, 4) for epoch in (1, 2)
    ]
    assert table["loss"].notna().all() and table["val_accuracy"].between(0, 1).all()
    as_json = json.loads((project / "results" / f"{NAME}.json").read_text())
    assert [row["val_loss"] for row in as_json] == table["val_loss"].tolist()
    assert [list(row) for row in as_json] == [list(table.columns)] * len(table)


def test_the_same_files_in_the_same_folders(way: str, trained: Train) -> None:
    project = trained(way, tensorboard=True)
    folders = sorted((project / "runs" / NAME).glob("*/"))
    assert [folder.name.split("-")[:2] for folder in folders] == [
        ["0001", "lr=0.1,batch_size=8"],
        ["0002", "lr=0.1,batch_size=32"],
        ["0003", "lr=0.01,batch_size=8"],
        ["0004", "lr=0.01,batch_size=32"],
    ]
    for folder in folders:
        kinds = {file.name.split(".out.")[0] for file in folder.iterdir()}
        assert kinds == {"checkpoints", "events", "journal.jsonl", "run.json"}
        saved = sorted(file.name for file in (folder / "checkpoints").iterdir())
        assert saved == ["epoch-0002.pt"]
    assert sorted(path.name for path in (project / "results").iterdir()) == [
        f"{NAME}.{end}" for end in ("csv", "json", "runs.csv")
    ]


def test_the_journal_tells_the_run_from_begin_to_end(way: str, trained: Train) -> None:
    for run_dir in find_sweep(NAME, trained(way)).runs():
        content = run_dir.read_journal()
        kinds = [record["kind"] for record in content.records]
        assert kinds[0] == "begin" and kinds[-1] == "end"
        assert kinds.count("begin") == (2 if "resumed" in way else 1)
        assert [record["kind"] for record in counted(content.records)] == ["log", "epoch", "checkpoint"] * NUM_EPOCHS
        assert [record["seq"] for record in content.records] == list(range(1, len(content.records) + 1))
        assert content.num_bad_lines == 0


def test_every_run_is_completed_and_has_its_best(way: str, trained: Train) -> None:
    project = trained(way)
    assert [run.status for run in history_of(project).runs] == ["completed"] * 4
    runs = load_results(project / "runs" / NAME, runs=True)
    rows = load_results(project / "runs" / NAME)
    assert runs["best val_loss"].tolist() == rows.groupby("run")["val_loss"].min().tolist()
    assert runs["best val_accuracy"].tolist() == rows.groupby("run")["val_accuracy"].max().tolist()


def test_a_run_that_raises_is_failed_with_its_rows_and_the_others_are_unharmed(way: str, trained: Train) -> None:
    for run in history_of(trained(way, fails=True)).runs:
        if run.params["lr"] == BROKEN_LR and run.params["batch_size"] == 8:
            assert run.status == "failed" and run.error == "RuntimeError: the loss broke"
            assert run.traceback is not None and "in forward" in run.traceback
            assert len(run.rows) == 1
        else:
            assert run.status == "completed" and len(run.rows) == NUM_EPOCHS


def test_logging_changes_no_number(way: str, trained: Train) -> None:
    assert numbers(trained(way, tensorboard=True)) == numbers(trained(WITHOUT_WORKERS.get(way, way)))


def test_the_numbers_are_those_of_every_other_way(way: str, trained: Train) -> None:
    """Alone they are the same bits; in a group, where sums are taken in another order, the same to within rounding."""
    found, expected = numbers(trained(way)), numbers(trained("by hand"))
    assert_close(found, expected, 1e-5 if way in FUSED else 0)
    assert len({row[2] for row in found}) == len(found) == 4 * NUM_EPOCHS


def assert_close(found: list[tuple], expected: list[tuple], tolerance: float) -> None:
    for (run, epoch, loss, accuracy, metrics), other in zip(found, expected, strict=True):
        assert (run, epoch) == other[:2]
        assert (loss, accuracy) == pytest.approx(other[2:4], rel=0, abs=tolerance)
        assert metrics == pytest.approx(other[4], rel=0, abs=tolerance)


def test_rows_tell_how_many_runs_were_trained_in_one_step(way: str, trained: Train) -> None:
    sizes = {(row.epoch, row.group_size) for run in history_of(trained(way)).runs for row in run.rows}
    in_first, in_second = (
        2 if way in FUSED and way != one else 1 for one in ("alone, resumed fused", "fused, resumed alone")
    )
    assert sizes == {(1, in_first), (2, in_second)}


def test_the_tables_are_those_of_every_other_way(way: str, trained: Train) -> None:
    tables = [load_results(trained(one) / "runs" / NAME) for one in (way, "by hand")]
    durations = ["epoch duration", "run duration", "group size"]
    kept = [table.drop(columns=durations) for table in tables]
    pd.testing.assert_frame_equal(*kept, check_exact=way not in FUSED, rtol=0, atol=1e-5)
    assert (tables[0][durations] > 0).all(axis=None)


def test_what_tracking_costs_is_known_of_every_run(way: str, trained: Train) -> None:
    runs = load_results(trained(way) / "runs" / NAME, runs=True)
    assert (runs["overhead_seconds"] > 0).all()


def numbers(project: Path) -> list[tuple]:
    runs = history_of(project).runs
    return [(row.run, row.epoch, row.loss, row.accuracy, row.metrics) for run in runs for row in run.rows]
