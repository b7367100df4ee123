"""load_results gives back what was recorded: any parameter, the right dtypes, by name, by folder, by file."""

import json
import math
import time
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from runmanager import RunBuilder, RunManager, load_results
from runmanager.parameters import canonical, decode
from runmanager.tracking.errors import ResultsNotFoundError

HOSTILE: list[Any] = [
    "", " ", "'", '"', "''", "'\"", '"a"', "a'b", "a/b", "../../x", "C:\\x", "a\nb", "a\r\nb", "\r", "a,b", ",", ";",
    "\0", "\ud800", "x\udfff", "x" * 10_000, "ünï 😀", "\u2028", "\x85", "\ufeff", "#", "\\", "\\n", "%s", "<b>",
    "=1+1", "-1", "@x", "+1", "\t", "\t=1", "nan", "NaN", "None", "true", "True", "1e5", "1", "007", "1_000", "inf",
    "[1]", '{"a": 1}', '{"$name": "x"}', "builtins.int", "null", "NA", None, True, False, 0, 1, -1,
    2**53 + 1, 2**63, -(2**63) - 1, 10**30, 0.1, -0.0, 1e-05, 1e300, 5e-324, math.nan, math.inf, -math.inf,
    [], [1, [2, [3.5, "a", None]]], {}, {"a": {"b": []}}, {"$name": "x"}, {"$float": "NaN"}, {"$dict": 1},
    [math.nan], ["\ud800", "a,b"],
]  # fmt: skip
NAMED: list[tuple[Any, str]] = [
    (int, "builtins.int"),
    (OrderedDict, "collections.OrderedDict"),
    (math.sqrt, "math.sqrt"),
]
TEXT = st.text(max_size=10) | st.text("0123456789eE+-._nNaAiIfFtTrRuU '\"[]{}:,=@\t\n", max_size=6)
VALUES = st.sampled_from(HOSTILE) | st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=4,
)


def same(found: Any, value: Any) -> bool:
    """Equal, of the same kind all the way down. A column of numbers alone has one dtype: an int may come back as an equal float."""
    if isinstance(found, np.generic):
        found = found.item()
    if isinstance(value, float) and math.isnan(value):
        return isinstance(found, float) and math.isnan(found)
    if isinstance(value, list):
        return isinstance(found, list) and len(found) == len(value) and all(map(same, found, value))
    if isinstance(value, dict):
        return (
            isinstance(found, dict)
            and list(found) == list(value)
            and all(same(found[key], value[key]) for key in value)
        )
    numbers = type(found) in (int, float) and type(value) in (int, float)
    return (numbers or type(found) is type(value)) and bool(found == value)


def train(root: Path, runs: list[Any], *, steps: bool = False, name: str = "sweep") -> None:
    m = RunManager(name, root=root, tensorboard=False, quiet=True)
    for run in runs:
        m.begin_run(run)
        m.begin_epoch()
        m.log(x=1.0)
        if steps:
            m.log_step(s=2.0)
        m.end_epoch()
        m.end_run()
    m.close()


def strict(path: Path) -> Any:
    return json.loads(
        path.read_text("utf-8"), parse_constant=lambda literal: pytest.fail(f"{literal} is not strict JSON")
    )


def check_all_tables(root: Path, name: str, values: list[Any]) -> None:
    """The values of a parameter, from every table and file that has them."""
    frames = {
        "epochs": load_results(root / "runs" / "sweep"),
        "runs": load_results(root / "runs" / "sweep", runs=True),
        "steps": load_results(root / "runs" / "sweep", steps=True),
        "csv": load_results(root / "results" / "sweep.csv"),
    }
    for table in (root / "results").glob("*.csv"):
        table.unlink()
    frames["journals"] = load_results(root / "runs" / "sweep")
    rows = strict(root / "results" / "sweep.json")
    for index, value in enumerate(values):
        for table, frame in frames.items():
            if table != "steps" or "s" in frame:
                assert same(frame[name].iloc[index], value), (table, frame[name].iloc[index], value)
        assert same(decode(rows[index][name]), value), ("json", rows[index][name], value)


@pytest.mark.parametrize("value", HOSTILE, ids=lambda value: ascii(value)[:20])
def test_each_hostile_value_alone_comes_back_exactly(tmp_path: Path, value: Any) -> None:
    train(tmp_path, RunBuilder.get_runs({"p": [value]}), steps=True)
    check_all_tables(tmp_path, "p", [value])


def test_all_hostile_values_of_one_parameter_together_come_back_exactly(tmp_path: Path) -> None:
    train(tmp_path, RunBuilder.get_runs({"p": HOSTILE}))
    check_all_tables(tmp_path, "p", HOSTILE)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(VALUES, min_size=1, max_size=6, unique_by=lambda value: canonical({"p": value})))
def test_any_values_of_one_parameter_come_back_exactly_from_every_table(tmp_path: Path, values: list[Any]) -> None:
    root = tmp_path / str(time.monotonic_ns())
    train(root, RunBuilder.get_runs({"p": values}))
    check_all_tables(root, "p", values)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(VALUES, min_size=1, max_size=6))
def test_any_column_of_a_saved_csv_comes_back_exactly(tmp_path: Path, values: list[Any]) -> None:
    from runmanager.tracking.rows import EpochRow
    from runmanager.tracking.tables import epoch_csv, epoch_json

    rows = [({"p": value}, [EpochRow(1, 1, 0.5, None, 0.1, 0.1)]) for value in values]
    (tmp_path / "saved.csv").write_text(epoch_csv(rows), "utf-8", newline="")
    (tmp_path / "saved.json").write_text(epoch_json(rows), "utf-8", newline="")
    found = load_results(tmp_path / "saved.csv")["p"]
    rows = strict(tmp_path / "saved.json")
    for index, value in enumerate(values):
        assert same(found.iloc[index], value)
        assert same(decode(rows[index]["p"]), value)


def test_classes_and_functions_come_back_by_their_name(tmp_path: Path) -> None:
    train(tmp_path, RunBuilder.get_runs({"p": [value for value, _ in NAMED]}), steps=True)
    check_all_tables(tmp_path, "p", [name for _, name in NAMED])
    assert [row["p"] for row in strict(tmp_path / "results" / "sweep.json")] == [name for _, name in NAMED]


def test_devices_dtypes_and_network_classes_come_back_by_their_name(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    values = [torch.device("cpu"), torch.device("cuda:1"), torch.float16, torch.nn.ReLU]
    train(tmp_path, RunBuilder.get_runs({"p": values}))
    assert load_results(tmp_path / "runs" / "sweep")["p"].tolist() == [
        "cpu",
        "cuda:1",
        "torch.float16",
        "torch.nn.modules.activation.ReLU",
    ]


def test_numpy_scalars_come_back_as_plain_values_with_plain_dtypes(tmp_path: Path) -> None:
    grid = {
        "lr": list(np.float32([0.5, 0.25])),
        "n": list(np.int8([1, 2])),
        "on": [np.bool_(True)],
        "name": [np.str_("a")],
    }
    train(tmp_path, RunBuilder.get_runs(grid))
    frame = load_results(tmp_path / "runs" / "sweep")
    assert [str(frame[name].dtype) for name in ("lr", "n", "on")] == ["float64", "int64", "bool"]
    assert frame[["lr", "n", "on", "name"]].to_numpy().tolist()[0] == [0.5, 1, True, "a"]


def test_no_value_of_a_parameter_reaches_a_path(tmp_path: Path) -> None:
    train(tmp_path / "project", RunBuilder.get_runs({"p": HOSTILE}))
    assert [path.name for path in tmp_path.iterdir()] == ["project"]
    assert {path.name for path in (tmp_path / "project").iterdir()} == {"runs", "results"}
    folders = [path for path in (tmp_path / "project" / "runs" / "sweep").iterdir() if path.is_dir()]
    assert len(folders) == len(HOSTILE)
    assert all(path.name.isascii() and path.name.isprintable() and len(path.name) <= 64 for path in folders)


def test_columns_have_the_dtypes_of_what_was_recorded(tmp_path: Path) -> None:
    grid = {"lr": [0.1, 1.0], "batch_size": [100, 1000], "shuffle": [True, False], "name": ["adam", "sgd"]}
    m = RunManager("sweep", root=tmp_path, tensorboard=False, quiet=True)
    for run in RunBuilder.get_runs(grid):
        m.begin_run(run)
        m.begin_epoch()
        m.track_loss(0.5, batch=[0, 0])
        m.log(count=3, f1=1.0)
        m.end_epoch()
        m.end_run()
    m.close()
    for frame in (load_results(tmp_path / "runs" / "sweep"), load_results(tmp_path / "results" / "sweep.csv")):
        dtypes = {name: str(dtype) for name, dtype in frame.dtypes.items()}
        whole = {name for name, dtype in dtypes.items() if dtype == "int64"}
        fractions = {name for name, dtype in dtypes.items() if dtype == "float64"}
        assert whole == {"run", "epoch", "group size", "count", "batch_size"}
        assert fractions == {"loss", "accuracy", "epoch duration", "run duration", "f1", "lr"}
        assert dtypes["shuffle"] == "bool"
        assert isinstance(frame["name"][0], str)
        assert frame["accuracy"].isna().all()


def test_columns_keep_their_dtypes_when_a_loss_diverges(tmp_path: Path) -> None:
    m = RunManager("sweep", root=tmp_path, tensorboard=False, quiet=True)
    m.begin_run(RunBuilder.get_runs({"lr": [0.1]})[0])
    for loss in (0.1, math.inf, -math.inf, math.nan, 1e308):
        m.begin_epoch()
        m.track_loss(loss, batch=[0])
        m.log(up=loss)
        m.end_epoch()
    m.end_run()
    m.close()
    frame = load_results(tmp_path / "runs" / "sweep")
    assert str(frame["loss"].dtype) == str(frame["up"].dtype) == "float64"
    assert list(map(repr, frame["loss"].tolist())) == ["0.1", "inf", "-inf", "nan", "1e+308"]


def test_every_float_comes_back_bit_for_bit(tmp_path: Path) -> None:
    numbers = [0.1, 1 / 3, 5e-324, 1.7976931348623157e308, 123456789.12345679, -0.0, 1e22, 2.0**53 + 2]
    m = RunManager("sweep", root=tmp_path, tensorboard=False, quiet=True)
    m.begin_run(RunBuilder.get_runs({"lr": [0.1]})[0])
    for number in numbers:
        m.begin_epoch()
        m.log(x=number)
        m.end_epoch()
    m.end_run()
    m.close()
    assert list(map(repr, load_results(tmp_path / "runs" / "sweep")["x"].tolist())) == list(map(repr, numbers))


def test_a_boolean_parameter_that_only_some_runs_have_comes_back(tmp_path: Path) -> None:
    train(tmp_path, RunBuilder.get_runs({"lr": [0.1]}))
    train(tmp_path, RunBuilder.get_runs({"lr": [0.1], "shuffle": [True, False]}))
    frame = load_results(tmp_path / "runs" / "sweep")
    assert frame["shuffle"].tolist()[1:] == [True, False]
    assert pd.isna(frame["shuffle"][0])


@pytest.mark.parametrize(
    "name",
    [
        "a b",
        "val/acc",
        "a,b",
        "'x",
        '"x"',
        "=1+1",
        "1",
        "",
        "nan",
        "x\ny",
        "ü😀",
        "\ud800",
        "self",
        "True",
        "Unnamed: 0",
        "index",
        "a.1",
        "x" * 1000,
    ],
)
def test_a_metric_of_any_name_comes_back_under_that_name(tmp_path: Path, name: str) -> None:
    m = RunManager("sweep", root=tmp_path, tensorboard=False, quiet=True)
    m.begin_run(RunBuilder.get_runs({"lr": [0.1]})[0])
    m.begin_epoch()
    m.log(**{name: 0.5})
    m.log_step(**{name: 0.25})
    m.end_epoch()
    m.end_run()
    m.close()
    assert load_results(tmp_path / "runs" / "sweep")[name].tolist() == [0.5]
    assert load_results(tmp_path / "runs" / "sweep", runs=True)[f"best {name}"].tolist() == [0.5]
    assert load_results(tmp_path / "runs" / "sweep", steps=True)[name].tolist() == [0.25]
    assert strict(tmp_path / "results" / "sweep.json")[0][name] == 0.5


def test_a_step_may_log_its_own_loss_and_accuracy(tmp_path: Path) -> None:
    m = RunManager("sweep", root=tmp_path, tensorboard=False, quiet=True)
    m.begin_run(RunBuilder.get_runs({"lr": [0.1]})[0])
    m.log_step(loss=0.5, accuracy=0.25)
    m.close()
    frame = load_results(tmp_path / "runs" / "sweep", steps=True)
    assert frame[["step", "loss", "accuracy"]].to_numpy().tolist() == [[1, 0.5, 0.25]]


def test_steps_give_one_row_per_call_with_the_runs_parameters(tmp_path: Path) -> None:
    m = RunManager("sweep", root=tmp_path, tensorboard=False, quiet=True)
    for run in RunBuilder.get_runs({"dropout": [None, 1, "a"]}):
        m.begin_run(run)
        m.log_step(a=1.0)
        m.begin_epoch()
        m.log_step(a=math.nan, b=2)
        m.log(x=1.0)
        m.end_epoch()
        m.end_run()
    m.close()
    frame = load_results(tmp_path / "runs" / "sweep", steps=True)
    assert list(frame.columns) == ["run", "epoch", "step", "a", "b", "dropout"]
    assert frame["step"].tolist() == [1, 2, 1, 2, 1, 2]
    assert frame["run"].tolist() == [1, 1, 2, 2, 3, 3]
    assert frame["epoch"].tolist()[1::2] == [1, 1, 1]
    assert frame["dropout"].tolist() == [None, None, 1, 1, "a", "a"]


@pytest.mark.parametrize(
    "values", [[None, 1], [None, 0.5], [None, True], [None, "a"], [1, 2**70], [True, 1], ["a", "\ud800"], [1, 0.5]]
)
def test_the_parameters_of_steps_are_as_exact_as_those_of_epochs(tmp_path: Path, values: list[Any]) -> None:
    train(tmp_path, RunBuilder.get_runs({"p": values}), steps=True)
    check_all_tables(tmp_path, "p", values)


def test_a_sweep_without_steps_gives_an_empty_table_with_its_columns(tmp_path: Path) -> None:
    train(tmp_path, RunBuilder.get_runs({"lr": [0.1]}))
    frame = load_results(tmp_path / "runs" / "sweep", steps=True)
    assert list(frame.columns)[:3] == ["run", "epoch", "step"]
    assert frame.empty


def test_results_are_found_by_name_by_folder_and_by_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train(tmp_path, RunBuilder.get_runs({"lr": [0.1, 0.2]}))
    (tmp_path / "notebooks").mkdir()
    monkeypatch.chdir(tmp_path)
    for where in (
        "sweep",
        "runs/sweep",
        "runs/sweep/",
        "results/sweep.csv",
        tmp_path / "runs" / "sweep",
        tmp_path / "results" / "sweep.csv",
    ):
        assert load_results(where)["lr"].tolist() == [0.1, 0.2]
    assert load_results("sweep", runs=True)["status"].tolist() == ["completed", "completed"]
    assert load_results("results/sweep.runs.csv")["status"].tolist() == ["completed", "completed"]


def test_the_tables_alone_are_enough(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train(tmp_path, RunBuilder.get_runs({"lr": [0.1]}))
    (tmp_path / "runs").rename(tmp_path / "gone")
    (tmp_path / "runs").mkdir()
    monkeypatch.chdir(tmp_path)
    assert load_results("sweep")["lr"].tolist() == [0.1]


@pytest.mark.parametrize("runs", [False, True])
@pytest.mark.parametrize("name", ["nope", "../nope", "runs/nope", "nope/sweep", "/nowhere/runs/nope", "", "a\nb"])
def test_an_unknown_name_is_told_with_the_names_there_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, runs: bool
) -> None:
    for known in ("mnist", "sweep"):
        train(tmp_path, RunBuilder.get_runs({"lr": [0.1]}), name=known)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ResultsNotFoundError, match="mnist, sweep"):
        load_results(name, runs=runs)


def test_another_projects_folder_that_is_gone_is_not_answered_with_the_tables_of_this_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(tmp_path / "mine", RunBuilder.get_runs({"lr": [0.1]}))
    (tmp_path / "mine" / "runs" / "sweep").rename(tmp_path / "gone")
    monkeypatch.chdir(tmp_path / "mine")
    with pytest.raises(FileNotFoundError):
        load_results(tmp_path / "other" / "runs" / "sweep")


def test_a_csv_that_is_not_there_is_told_by_its_path(tmp_path: Path) -> None:
    with pytest.raises(ResultsNotFoundError, match=r"nope\.csv"):
        load_results(tmp_path / "nope.csv")


def test_one_table_at_a_time(tmp_path: Path) -> None:
    train(tmp_path, RunBuilder.get_runs({"lr": [0.1]}))
    with pytest.raises(ValueError, match="one table at a time"):
        load_results(tmp_path / "runs" / "sweep", runs=True, steps=True)
    with pytest.raises(ValueError, match="one table"):
        load_results(tmp_path / "results" / "sweep.csv", steps=True)


def test_a_csv_whose_last_row_is_half_written_gives_the_rows_before_it(tmp_path: Path) -> None:
    train(tmp_path, RunBuilder.get_runs({"lr": [0.1, 0.2]}))
    whole = (tmp_path / "results" / "sweep.csv").read_bytes()
    last = whole[:-1].rindex(b"\n") + 1
    for end in range(last, len(whole)):
        (tmp_path / "cut.csv").write_bytes(whole[:end])
        assert load_results(tmp_path / "cut.csv")["lr"].tolist() == [0.1]


def test_reading_results_writes_nothing(tmp_path: Path) -> None:
    train(tmp_path, RunBuilder.get_runs({"lr": [0.1]}))
    (tmp_path / "results" / "sweep.csv").unlink()
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    for options in ({}, {"runs": True}, {"steps": True}):
        load_results(tmp_path / "runs" / "sweep", **options)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before
