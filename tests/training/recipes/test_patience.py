"""Early stopping against a few independent lines."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from runmanager.training.recipes.monitor import Monitor, parse
from runmanager.training.recipes.patience import Patience
from runmanager.training.settings import TrainerError

VALUES = st.lists(
    st.one_of(st.sampled_from([math.nan, math.inf, -math.inf, 0.0, 1.0, 2.0]), st.floats(-9, 9)), max_size=30
)


def stop_by_hand(values, epochs, mode):
    """The first epoch whose best lies `epochs` or more behind it, counted from 1; None if there is none."""
    for epoch in range(1, len(values) + 1):
        costs = np.array(values[:epoch]) * (1 if mode == "min" else -1)
        costs = np.where(np.isnan(costs), np.inf, costs)
        best = int(np.argmin(costs)) + 1 if np.min(costs) < np.inf else 0
        if epoch - best >= epochs:
            return epoch
    return None


def stop_of(patience, values, first=1):
    for epoch, value in enumerate(values, first):
        if patience.end_epoch({"score": value}, epoch):
            return epoch
    return None


@given(values=VALUES, epochs=st.integers(1, 8), mode=st.sampled_from(["min", "max"]))
def test_a_run_stops_in_the_epoch_that_a_few_lines_find(values, epochs, mode):
    assert stop_of(Patience(epochs, Monitor("score", mode)), values) == stop_by_hand(values, epochs, mode)


@given(values=VALUES, cut=st.integers(0, 30), epochs=st.integers(1, 8))
def test_a_run_that_is_resumed_anywhere_stops_in_the_same_epoch(values, cut, epochs):
    monitor = Monitor("score", "min")
    first = Patience(epochs, monitor)
    stopped = stop_of(first, values[:cut])
    if stopped is None:
        later = Patience(epochs, monitor)
        later.load_state_dict(first.state_dict())
        stopped = stop_of(later, values[cut:], first=cut + 1)
    assert stopped == stop_by_hand(values, epochs, "min")


def test_the_reason_names_metric_best_epoch_and_wait():
    patience = Patience(2, parse("val_loss"))
    reasons = [patience.end_epoch({"val_loss": v}, n) for n, v in enumerate([0.5, 0.31234567, 0.4, 0.31234567], 1)]
    assert reasons == [None, None, None, "val_loss has not been below 0.312346 (epoch 2) for 2 epochs"]

    patience = Patience(1, parse("val_accuracy"))
    assert patience.end_epoch({"val_accuracy": 0.5}, 1) is None
    assert patience.end_epoch({"val_accuracy": 0.5}, 2) == "val_accuracy has not been above 0.5 (epoch 1) for 1 epoch"

    assert (
        Patience(1, parse("loss")).end_epoch({"loss": math.nan}, 1) == "loss has not been a finite number for 1 epoch"
    )


def test_more_patience_after_a_stop_lets_the_run_go_on_counting():
    short = Patience(2, parse("loss"))
    assert stop_of(Patience(2, Monitor("score", "min")), [1, 2, 3]) == 3
    for epoch, value in enumerate([1, 2, 3], 1):
        short.end_epoch({"loss": value}, epoch)
    longer = Patience(4, parse("loss"))
    longer.load_state_dict(short.state_dict())
    assert longer.end_epoch({"loss": 3}, 4) is None
    assert longer.end_epoch({"loss": 3}, 5) == "loss has not been below 1 (epoch 1) for 4 epochs"


@pytest.mark.parametrize("epochs", [0, -1, 1.5, True, "5"])
def test_what_is_no_number_of_epochs_is_refused(epochs):
    with pytest.raises(TrainerError, match=f"patience={epochs!r} is not a whole number of 1 or more"):
        Patience(epochs, parse("loss"))


def test_a_metric_that_is_not_there_is_told():
    with pytest.raises(TrainerError, match="monitor='val_loss' is unknown; choose loss"):
        Patience(2, parse("val_loss")).end_epoch({"loss": 1.0}, 1)


def test_a_state_of_another_metric_is_refused():
    waiting = Patience(2, Monitor("val_loss", "min"))
    waiting.end_epoch({"val_loss": 0.5}, 1)
    with pytest.raises(TrainerError, match=r"waited for .*val_loss.* before, and waits for .*val_accuracy"):
        Patience(2, Monitor("val_accuracy", "max")).load_state_dict(waiting.state_dict())
