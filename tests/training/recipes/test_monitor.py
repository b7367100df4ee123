"""What a monitor says of which value is better."""

import math

import pytest

from runmanager.training.recipes.monitor import Monitor, parse
from runmanager.training.settings import TrainerError

LESS = ["loss", "val_loss", "error", "val_error", "mae", "val_mse", "rmse", "val_perplexity", "error_rate"]
MORE = ["accuracy", "val_accuracy", "precision", "val_recall", "val_f1", "f0.5", "val_f2_macro", "kappa", "val_iou"]
MORE += ["mean_iou", "top_5", "val_top_3", "top5", "r2", "val_auc", "accuracy_cat", "Val_Accuracy"]


@pytest.mark.parametrize(("name", "mode"), [*((name, "min") for name in LESS), *((name, "max") for name in MORE)])
def test_a_known_name_tells_its_direction(name, mode):
    assert parse(name) == Monitor(name, mode)


@pytest.mark.parametrize("name", ["val_score", "glossary", "f", "topology", "neg_loss", "loss_accuracy", ""])
def test_a_name_that_does_not_is_refused_with_what_to_say(name):
    with pytest.raises(TrainerError, match="say ") as caught:
        parse(name)
    assert f"say ({name!r}, 'max') or ({name!r}, 'min')" in str(caught.value)


def test_a_name_that_is_near_a_metric_that_is_measured_is_told_so_first():
    def measured():
        return ["loss", "val_loss", "val_accuracy", "val_precision"]

    for name, meant in (("val_acuracy", "val_accuracy"), ("val_presision", "val_precision")):
        with pytest.raises(TrainerError) as caught:
            parse(name, measured)
        assert str(caught.value).startswith(f"monitor={name!r}: did you mean {meant!r}? If not, the name does not tell")
    with pytest.raises(TrainerError, match=r"^monitor='val_score' does not tell"):
        parse("val_score", measured)


def test_a_pair_says_it_itself_even_against_the_name():
    assert parse(("val_score", "max")) == ("val_score", "max")
    assert parse(["val_loss", "max"]).mode == "max"


@pytest.mark.parametrize("value", [3, None, ("val_loss",), ("val_loss", 1), ("a", "min", "b"), {"val_loss": "min"}])
def test_what_is_no_metric_is_refused(value):
    with pytest.raises(TrainerError, match="is no metric; give a name as 'val_loss'"):
        parse(value)


def test_an_unknown_mode_is_refused_with_the_nearest():
    with pytest.raises(TrainerError, match="mode='maxi' is unknown; choose min, max; did you mean 'max'"):
        parse(("val_loss", "maxi"))


def test_a_metric_that_is_not_there_is_refused_with_those_that_are():
    with pytest.raises(TrainerError, match="choose loss, val_loss; did you mean 'val_loss'"):
        parse("val_mean_loss").value({"loss": 1.0, "val_loss": 2.0})
    with pytest.raises(TrainerError, match=r"choose loss.*without a validation split there is no val_ metric"):
        parse("val_loss").value({"loss": 1.0})
    assert parse("val_loss").value({"loss": 1.0, "val_loss": 2}) == 2.0


def test_nan_is_never_better_and_everything_is_better_than_nan():
    less, more = parse("loss"), parse("accuracy")
    for monitor in (less, more):
        for best in (None, math.nan, 0.5, math.inf, -math.inf):
            assert not monitor.is_better(math.nan, best)
        for best in (None, math.nan):
            assert monitor.is_better(0.5, best)
            assert not monitor.is_better(monitor.worst, best)
        assert not monitor.is_better(0.5, 0.5)
    assert less.is_better(0.4, 0.5)
    assert not less.is_better(0.6, 0.5)
    assert more.is_better(0.6, 0.5)
    assert not more.is_better(0.4, 0.5)
