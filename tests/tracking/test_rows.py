"""Epoch rows as plain data: what improves, what is a number, which names are free."""

import json
import math
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runmanager.tracking.errors import MetricError
from runmanager.tracking.rows import (
    EpochRow,
    best_of,
    better_is,
    check_metric_names,
    improves,
    metrics_from_json,
    metrics_to_json,
    plain_number,
)

NUMBERS = st.floats() | st.integers(-(2**63), 2**63 - 1)


def row(epoch: int, loss: float | None = None, **metrics: float) -> EpochRow:
    return EpochRow(1, epoch, loss, None, 0.1, 0.2, metrics)


@settings(max_examples=300, deadline=None)
@given(st.none() | st.floats(), st.dictionaries(st.text(max_size=5), NUMBERS, max_size=4))
def test_a_row_comes_back_from_strict_json_bit_for_bit(loss: float | None, metrics: dict[str, float]) -> None:
    text = json.dumps(row(3, loss, **{}).record() | {"metrics": metrics_to_json(metrics)}, allow_nan=False)
    back = EpochRow.from_record(1, json.loads(text))
    assert repr(back.loss) == repr(loss)
    assert {name: repr(value) for name, value in back.metrics.items()} == {name: repr(v) for name, v in metrics.items()}


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_one_metric_without_a_json_literal_does_not_change_the_others(value: float) -> None:
    metrics = {"a": 1.5, "b": value, "c": 2**62, "d": 1e308, "e": 1e308}
    back = metrics_from_json(json.loads(json.dumps(metrics_to_json(metrics), allow_nan=False)))
    assert list(map(repr, back.values())) == list(map(repr, metrics.values()))


def test_two_infinities_that_cancel_are_still_spelled_out() -> None:
    text = json.dumps(metrics_to_json({"up": math.inf, "down": -math.inf}), allow_nan=False)
    assert metrics_from_json(json.loads(text)) == {"up": math.inf, "down": -math.inf}


@pytest.mark.parametrize("mode", ["min", "max"])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_nan_and_infinity_never_improve_on_anything(value: float, mode: str) -> None:
    assert not improves(value, None, mode)
    assert not improves(value, 0.5, mode)


def test_the_best_is_the_first_of_equals() -> None:
    rows = [row(1, 0.5), row(2, 0.25), row(3, 0.25)]
    assert best_of(rows, {})["loss"].epoch == 2


def test_a_metric_that_was_never_finite_has_no_best() -> None:
    assert best_of([row(1, math.nan, acc=math.inf), row(2, math.inf, acc=math.nan)], {}) == {}


def test_the_sweeps_own_word_beats_the_name_of_the_metric() -> None:
    rows = [row(1, 0.5, gain=1.0), row(2, 0.25, gain=2.0)]
    best = best_of(rows, {"loss": "max", "gain": "min"})
    assert (best["loss"].epoch, best["gain"].epoch) == (1, 1)


@pytest.mark.parametrize(
    "name",
    ["loss", "val_loss", "train/loss", "val/loss", "decoder/loss", "top5-error", "MSE", "epoch_seconds"]
    + [f"{before}{name}" for before in ("", "val_", "average val_") for name in ("mae", "mse", "rmse", "mae/accuracy")]
    + ["val_MeanAbsoluteError", "LogCoshError", "val_MulticlassHammingDistance", "RMSELoss"],
)
def test_losses_errors_and_times_get_better_downwards(name: str) -> None:
    assert better_is(name) == "min"


@pytest.mark.parametrize(
    "name",
    [
        "accuracy",
        "val_accuracy",
        "f1",
        "auc",
        "glossary",
        "terror_score",
        "MulticlassF1Score/time",
        "neg_mean_squared_error",
    ]
    + [f"{before}{name}" for before in ("", "val_", "average val_") for name in ("kappa", "iou", "r2", "top_5", "f0.5")]
    + ["val_accuracy/time", "accuracy/error", "average val_precision/loss", "val_f2/distance", "val_iou/seconds"],
)
def test_anything_else_gets_better_upwards(name: str) -> None:
    assert better_is(name) == "max"


@pytest.mark.parametrize(
    ("value", "plain"),
    [
        (1, 1),
        (True, 1),
        (0.5, 0.5),
        (np.float32(0.5), 0.5),
        (np.float16(2), 2.0),
        (np.int8(-3), -3),
        (np.bool_(True), 1),
        (np.array([[7]]), 7),
        (2**63, float(2**63)),
        (-(2**63), -(2**63)),
    ],
)
def test_a_number_of_any_kind_becomes_a_plain_one(value: Any, plain: float) -> None:
    number = plain_number("log", "x", value)
    assert (type(number), number) == (type(plain), plain)


@pytest.mark.parametrize(
    "value", ["1", None, [1], {}, 1j, Fraction(1, 2), np.array([1, 2]), np.array([]), np.str_("1"), object()]
)
def test_what_is_no_number_is_refused_by_the_metrics_name(value: Any) -> None:
    with pytest.raises(MetricError, match=r"log\(x="):
        plain_number("log", "x", value)


def test_a_number_too_big_for_a_float_is_refused_or_infinite_but_no_raw_overflow() -> None:
    try:
        assert plain_number("log", "x", 10**400) == math.inf
    except MetricError as error:
        assert "x" in str(error)


@pytest.mark.parametrize(
    "name",
    ["run", "epoch", "epoch duration", "run duration", "status", "error", "lr", "best score", "Loss", "Accuracy"],
)
def test_a_metric_may_not_take_the_name_of_a_column_or_of_a_parameter(name: str) -> None:
    with pytest.raises(MetricError, match=name):
        check_metric_names("log", [name], {"lr": 0.1})


def test_validation_metrics_are_free_to_log() -> None:
    check_metric_names("log", ["val_loss", "val_accuracy", "any name at all/…", ""], {"lr": 0.1})
