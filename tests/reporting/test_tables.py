"""The tables for the terminal, and the same as JSON."""

import io
import json

import pytest
from rich.console import Console

from runmanager import RunBuilder, RunManager
from runmanager.reporting.tables import ReportError, print_results, results_json
from runmanager.tracking.history import read_sweep
from runmanager.tracking.run_dir import SweepDir

VALUES = {0.1: [0.5, 0.7, 0.6], 0.01: [0.4, 0.9, 0.8], 0.001: [0.3, 0.3, 0.2]}


def sweep_of(tmp_path, values=VALUES, *, params=None, objective="val_accuracy", fails=()):
    """A sweep of one run for each lr, whose epochs have these accuracies."""
    manager = RunManager("mine", root=tmp_path, tensorboard=False, quiet=True)
    sweep_dir = SweepDir(tmp_path, "mine")
    sweep_dir.make()
    sweep_dir.write_plan({"objective": objective, "mode": "max" if objective else None})
    for run in RunBuilder.get_runs({"lr": list(values), "batch_size": [10], **(params or {})}):
        try:
            with manager.tracking(run):
                for value in values[run.lr]:
                    manager.begin_epoch()
                    manager.track_loss(1 - value, [0])
                    manager.log(val_accuracy=value, val_loss=1 - value)
                    manager.end_epoch()
                if run.lr in fails:
                    raise RuntimeError("[bold]out of memory[/bold]")
        except RuntimeError:
            pass
    manager.close()
    return read_sweep(sweep_dir)


def text_of(show, *arguments, width=None):
    file = io.StringIO()
    show(*arguments, console=Console(file=file, width=width, force_terminal=width is not None, color_system=None))
    return file.getvalue()


def cells(text):
    """The rows of the table that begin with a number, by cell."""
    return [line.split() for line in text.splitlines() if line.strip()[:1].isdigit()]


def numbers(text):
    return [int(row[0]) for row in cells(text)]


def strict(text):
    def refuse(literal):
        raise AssertionError(f"{literal} is no JSON")

    return json.loads(text, parse_constant=refuse)


def test_only_what_varies_has_a_column_and_the_rest_stands_once_above(tmp_path):
    lines = text_of(print_results, sweep_of(tmp_path)).splitlines()
    assert lines[0] == "mine: 3 runs, best val_accuracy first"
    assert lines[1] == "all with batch_size=10"
    header = next(line for line in lines if "val_loss" in line)
    assert "lr" in header.split()
    assert "batch_size" not in header


def test_a_row_has_the_last_values_the_best_its_epoch_the_duration_and_the_status(tmp_path):
    row = cells(text_of(print_results, sweep_of(tmp_path)))[0]
    assert row[:2] == ["2", "0.01"]
    assert row[2] == "0.2"  # loss, of the last epoch
    assert row[3:7] == ["0.8", "0.2", "0.9", "2"]  # val_accuracy and val_loss, the best, its epoch
    assert row[-2:] == ["s", "completed"]


def test_runs_stand_best_first_by_the_objective_and_by_any_other_metric(tmp_path):
    history = sweep_of(tmp_path)
    assert numbers(text_of(print_results, history)) == [2, 1, 3]
    history = sweep_of(tmp_path / "b", {0.1: [0.1], 0.01: [0.3], 0.001: [0.2]})
    assert numbers(text_of(print_results, history, "val_loss")) == [2, 3, 1]  # the smaller the better
    assert "best val_loss first" in text_of(print_results, history, "val_loss")


def test_without_an_objective_runs_stand_by_number(tmp_path):
    assert numbers(text_of(print_results, sweep_of(tmp_path, objective=None))) == [1, 2, 3]


def test_the_top_are_the_best(tmp_path):
    history = sweep_of(tmp_path)
    assert numbers(text_of(print_results, history, None, 2)) == [2, 1]
    assert [run["run"] for run in strict(results_json(history, None, 1))] == [2]


def test_parameters_that_vary_in_the_sweep_keep_their_column_when_only_one_run_is_shown(tmp_path):
    assert "lr" in text_of(print_results, sweep_of(tmp_path), None, 1).splitlines()[2].split()


def test_an_unknown_metric_lists_those_there_are(tmp_path):
    history = sweep_of(tmp_path)
    for show in (results_json, lambda *arguments: text_of(print_results, *arguments)):
        with pytest.raises(ReportError, match=r"--sort val_acc: sweep mine has loss, .*val_accuracy"):
            show(history, "val_acc", None)


@pytest.mark.parametrize("top", [0, -1])
def test_a_top_below_one_is_refused(top, tmp_path):
    with pytest.raises(ReportError, match=f"--top {top}: give a whole number of 1 or more"):
        results_json(sweep_of(tmp_path), None, top)


@pytest.mark.parametrize("sort", ["val_accuracy", "val_loss"])
def test_what_is_not_finite_never_ranks_best(sort, tmp_path):
    inf, nan = float("inf"), float("nan")
    history = sweep_of(tmp_path, {0.1: [nan], 0.2: [inf], 0.3: [-inf], 0.4: [0.1], 0.5: [nan, 0.2]})
    assert numbers(text_of(print_results, history, sort)) == [5, 4, 1, 2, 3]
    assert history.best.number == 5


def test_json_is_strict_and_has_everything(tmp_path):
    history = sweep_of(tmp_path, {0.1: [float("nan")], 0.2: [0.5, 0.4]}, fails=[0.1])
    best, other = strict(results_json(history))
    assert best["params"] == {"lr": 0.2, "batch_size": 10}
    assert best["best"]["val_accuracy"] == {"value": 0.5, "epoch": 1}
    assert best["last"]["val_accuracy"] == 0.4
    assert (best["status"], best["epochs_trained"], best["error"]) == ("completed", 2, None)
    assert best["run_seconds"] > 0
    assert (tmp_path / "runs/mine" / best["folder"]).is_dir()
    assert other["last"]["val_accuracy"] == "NaN"
    assert "val_accuracy" not in other["best"]
    assert (other["status"], other["error"]) == ("failed", "RuntimeError: [bold]out of memory[/bold]")


def test_a_failed_run_is_named_with_its_error_as_it_was(tmp_path):
    text = text_of(print_results, sweep_of(tmp_path, fails=[0.01]))
    assert "run 2 failed: RuntimeError: [bold]out of memory[/bold]" in text
    assert "failed" in cells(text)[0]


def test_odd_values_break_no_table(tmp_path):
    names = ["[red]x[/red]", "a\nb", "ü" * 10_000, "", None, [1, 2], {"a": 1}, dict]
    history = sweep_of(tmp_path, params={"name": names})
    text = text_of(print_results, history)
    assert "[red]x[/red]" in text
    assert "a·b" in text
    assert max(map(len, text.splitlines())) < 200
    assert len(strict(results_json(history))) == 24


def test_a_metric_of_the_run_itself_is_its_best_too(tmp_path):
    manager = RunManager("mine", root=tmp_path, tensorboard=False, quiet=True)
    for run in RunBuilder.get_runs({"lr": [0.1, 0.2]}):
        with manager.tracking(run):
            manager.log(reward=run.lr)
    manager.close()
    text = text_of(print_results, read_sweep(SweepDir(tmp_path, "mine")), "reward")
    assert [row[:4] for row in cells(text)] == [["2", "0.2", "0.2", "0.2"], ["1", "0.1", "0.1", "0.1"]]


def test_a_narrow_terminal_gets_fewer_metrics_and_is_told_so(tmp_path):
    text = text_of(print_results, sweep_of(tmp_path), width=60)
    assert "left out to fit; --json has everything" in " ".join(text.split())
    assert max(map(len, text.splitlines())) <= 60
    assert numbers(text) == [2, 1, 3]


@pytest.mark.parametrize("width", [None, 100])
def test_single_classes_are_left_out_and_named_in_the_order_of_their_columns(tmp_path, width):
    manager = RunManager("mine", root=tmp_path, tensorboard=False, quiet=True)
    with manager.tracking(RunBuilder.get_runs({"lr": [0.1]})[0]):
        each = {f"val_f1/{name}": 0.5 for name in "abcdefghijklmnop"}
        manager.log(**{"val_loss": 1.0, "val_f1": 0.25, **each, "gradient norm": 2.0})
    manager.close()
    text = text_of(print_results, read_sweep(SweepDir(tmp_path, "mine")), "val_f1", width=width)
    shown, _, said = " ".join(text.split()).partition("completed ")
    left_out = said.split(" left out to fit")[0].split(", ")
    assert left_out[-1] == "val_f1/p" and left_out == sorted(left_out) and 8 < len(left_out) < 16
    assert [name for name in each if name in shown.split()] == sorted(each.keys() - set(left_out))
    assert "val_loss" in shown and "gradient" in shown  # a header may break between words


def test_a_pipe_gets_whole_rows(tmp_path):
    text = text_of(print_results, sweep_of(tmp_path, params={"a_long_parameter_name": ["x" * 32, "y" * 32]}))
    assert all(row[-1] == "completed" for row in cells(text))


def test_a_sweep_without_runs_has_a_table_all_the_same(tmp_path):
    sweep_dir = SweepDir(tmp_path, "mine")
    sweep_dir.make()
    history = read_sweep(sweep_dir)
    assert "mine: 0 runs" in text_of(print_results, history)
    assert strict(results_json(history)) == []
