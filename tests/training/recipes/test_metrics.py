"""The metrics against scikit-learn, on random and degenerate data; what cannot be measured; what is left of an epoch."""

import math
import subprocess
import sys
import warnings

import numpy as np
import pytest
import sklearn.metrics as sk
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from runmanager.tracking.errors import MetricError
from runmanager.tracking.rows import better_is
from runmanager.training.recipes.metric_names import CHOICES, class_columns
from runmanager.training.recipes.metrics import build_metrics
from runmanager.training.settings import TrainerError

CPU = torch.device("cpu")
AVERAGES = ("macro", "micro", "weighted")


def metrics(*specs, classes=None, num_classes=None):
    return build_metrics(list(specs), classes=classes, num_classes=num_classes, device=CPU)


def scores_of(predicted, num_classes, seed=0):
    """Scores [N, C] whose largest is that of the predicted class."""
    draws = torch.rand(len(predicted), num_classes, generator=torch.Generator().manual_seed(seed))
    draws[torch.arange(len(predicted)), predicted] += 1
    return draws


def measured(specs, scores, targets, num_batches=1, classes=None):
    """The values of specs over some batches, which may not warn."""
    made = metrics(*specs, classes=classes)
    made.reset()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for batch in zip(scores.chunk(num_batches), targets.chunk(num_batches), strict=True):
            made.add(*batch)
        return made.compute(), made


def of_sklearn(true, predicted, scores):
    """What scikit-learn says, by the names that are ours."""
    found = {"accuracy": sk.accuracy_score(true, predicted)}
    for average in AVERAGES:
        options = {"average": average, "zero_division": 0}
        suffix = "" if average == "macro" else f"_{average}"
        found[f"precision{suffix}"] = sk.precision_score(true, predicted, **options)
        found[f"recall{suffix}"] = sk.recall_score(true, predicted, **options)
        found[f"f1{suffix}"] = sk.f1_score(true, predicted, **options)
        found[f"f0.5{suffix}"] = sk.fbeta_score(true, predicted, beta=0.5, **options)
        found[f"f2{suffix}"] = sk.fbeta_score(true, predicted, beta=2, **options)
        found[f"iou{suffix}"] = sk.jaccard_score(true, predicted, **options)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        kappa = sk.cohen_kappa_score(true, predicted)
    return found | {"kappa": 0.0 if math.isnan(kappa) else kappa}


@st.composite
def labels(draw):
    """Classes, true and predicted: few or many, some of which may be missing in one or both."""
    num_classes, size = draw(st.integers(2, 7)), draw(st.integers(1, 40))
    one = st.lists(st.integers(0, draw(st.integers(0, num_classes - 1))), min_size=size, max_size=size)
    return num_classes, draw(one), draw(one)


@given(labels(), st.integers(1, 4))
@settings(max_examples=60, deadline=None)
def test_every_metric_of_classes_is_scikit_learns(found, num_batches):
    num_classes, true, predicted = found
    scores = scores_of(predicted, num_classes)
    expected = of_sklearn(true, predicted, scores)
    values, _ = measured(list(expected), scores, torch.tensor(true), min(num_batches, len(true)))
    assert values == pytest.approx(expected, abs=1e-12)


@given(labels())
@settings(max_examples=40, deadline=None)
def test_every_metric_of_each_class_is_scikit_learns(found):
    num_classes, true, predicted = found
    values, made = measured(
        [
            "per_class",
            "per_class_precision",
            "per_class_recall",
            "per_class_f1",
            "per_class_f2",
            "per_class_iou",
            "confusion",
        ],
        scores_of(predicted, num_classes),
        torch.tensor(true),
    )
    options = {"labels": list(range(num_classes)), "average": None, "zero_division": 0}
    expected = {
        "accuracy": sk.recall_score(true, predicted, **options),
        "precision": sk.precision_score(true, predicted, **options),
        "recall": sk.recall_score(true, predicted, **options),
        "f1": sk.f1_score(true, predicted, **options),
        "f2": sk.fbeta_score(true, predicted, beta=2, **options),
        "iou": sk.jaccard_score(true, predicted, **options),
    }
    flat = {f"{name}/{index}": value for name, each in expected.items() for index, value in enumerate(each)}
    assert values == pytest.approx(flat, abs=1e-12)
    assert made.confusion.tolist() == sk.confusion_matrix(true, predicted, labels=range(num_classes)).tolist()


@pytest.mark.parametrize("k", [1, 2, 3, 5])
def test_top_k_is_scikit_learns_whatever_the_first_batch_was_like(k):
    draws = torch.Generator().manual_seed(3)
    scores, targets = torch.randn(96, 6, generator=draws), torch.randint(6, (96,), generator=draws)
    targets[:32] = scores[:32].argmax(1)  # all right: every k agrees so far
    values, _ = measured([f"top_{k}", "accuracy", "top_4"], scores, targets, num_batches=3)
    expected = [sk.top_k_accuracy_score(targets, scores, k=one, labels=range(6)) for one in (k, 1, 4)]
    assert [values[f"top_{k}"], values["accuracy"], values["top_4"]] == pytest.approx(expected)


@given(
    st.lists(st.tuples(st.floats(-1e3, 1e3), st.floats(-1e3, 1e3)), min_size=2, max_size=30),
    st.integers(1, 3),
    st.floats(-1e5, 1e5),
)
@settings(max_examples=60, deadline=None)
def test_regression_is_scikit_learns_far_from_zero_too(pairs, num_batches, offset):
    true, predicted = torch.tensor(pairs, dtype=torch.float64).T + offset
    if true.std() < 1e-3 * (1 + abs(offset)):  # all but constant: nothing to explain
        return
    values, _ = measured(["mae", "mse", "rmse", "r2"], predicted, true, min(num_batches, len(true)))
    assert values["mae"] == pytest.approx(sk.mean_absolute_error(true, predicted), rel=1e-6, abs=1e-6)
    assert values["mse"] == pytest.approx(sk.mean_squared_error(true, predicted), rel=1e-6, abs=1e-6)
    assert values["rmse"] == pytest.approx(sk.root_mean_squared_error(true, predicted), rel=1e-6, abs=1e-6)
    assert values["r2"] == pytest.approx(sk.r2_score(true, predicted), rel=1e-5, abs=1e-5)


def test_regression_of_several_values_is_the_mean_over_them():
    draws = torch.Generator().manual_seed(5)
    true, predicted = torch.randn(20, 3, generator=draws), torch.randn(20, 3, generator=draws)
    values, _ = measured(["mae", "r2"], predicted, true, num_batches=2)
    assert values == pytest.approx({"mae": sk.mean_absolute_error(true, predicted), "r2": sk.r2_score(true, predicted)})


def test_predictions_in_a_column_are_of_targets_in_a_row():
    values, _ = measured(["mae"], torch.tensor([[1.0], [2.0]]), torch.tensor([1.5, 2.0]))
    assert values == {"mae": 0.25}


def test_r2_of_small_values_is_scikit_learns():
    true, predicted = torch.tensor([1e-3, 2e-3, 4e-3]), torch.tensor([2e-3, 2e-3, 2e-3])
    values, _ = measured(["r2"], predicted, true)
    assert values["r2"] == pytest.approx(sk.r2_score(true.double(), predicted.double()))


def test_r2_of_targets_that_are_all_the_same_is_0_and_said():
    values, made = measured(["r2"], torch.tensor([1.0, 2.0]), torch.tensor([3.0, 3.0]))
    assert (values, made.notes) == ({"r2": 0.0}, ["r2: all targets are the same, counted as 0"])
    assert measured(["r2"], torch.tensor([3.0, 3.0]), torch.tensor([3.0, 3.0]))[0] == {"r2": 1.0}


def test_r2_of_one_sample_is_not_known_and_says_so():
    values, made = measured(["r2", "mae"], torch.tensor([1.0]), torch.tensor([2.0]))
    assert math.isnan(values["r2"])
    assert values["mae"] == 1
    assert made.notes == ["r2: there are not two samples to compare, so that it is not known"]


def test_segmentation_is_scikit_learns_over_all_pixels_without_those_that_are_ignored():
    draws = torch.Generator().manual_seed(7)
    scores, targets = torch.randn(6, 4, 5, 3, generator=draws), torch.randint(4, (6, 5, 3), generator=draws)
    targets[0, :2] = -100
    values, _ = measured(["iou", "accuracy", "per_class_iou"], scores, targets, num_batches=2)
    counted = targets.flatten() != -100
    true, predicted = targets.flatten()[counted], scores.argmax(1).flatten()[counted]
    assert values["iou"] == pytest.approx(sk.jaccard_score(true, predicted, average="macro"))
    assert values["accuracy"] == pytest.approx(sk.accuracy_score(true, predicted))
    each = [values[f"iou/{index}"] for index in range(4)]
    assert each == pytest.approx(sk.jaccard_score(true, predicted, average=None).tolist())


def test_what_is_divided_by_nothing_is_0_and_said():
    predicted, true = [0, 0, 1, 4], torch.tensor([0, 2, 1, 0])
    names = ["cat", "dog", "cow", "emu", "owl"]
    values, made = measured(["precision", "recall", "per_class"], scores_of(predicted, 5), true, classes=names)
    assert made.notes == [
        "precision of 'cow': never predicted, counted as 0",
        "recall of 'owl': no sample is of that class, counted as 0",
        "'emu': neither there nor predicted, counted as 0; means over the classes leave it out",
    ]
    assert [values[f"accuracy/{name}"] for name in names] == [0.5, 1, 0, 0, 0]


def test_many_classes_that_were_never_predicted_are_one_note():
    _, made = measured(["precision"], scores_of([0] * 12, 12), torch.arange(12))
    assert made.notes == ["precision of '1', '2', '3', '4', '5' and 6 more: never predicted, counted as 0"]


def test_a_micro_average_has_nothing_to_say_of_classes():
    _, made = measured(["precision_micro", "accuracy"], scores_of([0, 0], 3), torch.tensor([0, 1]))
    assert made.notes == []


def test_kappa_of_one_class_alone_is_0_and_said():
    values, made = measured(["kappa"], scores_of([1, 1], 3), torch.tensor([1, 1]))
    assert values == {"kappa": 0.0}
    assert made.notes == ["kappa: all samples and all predictions are of one class, counted as 0"]


def test_nothing_of_an_epoch_is_left_in_the_next():
    def share(preds, labels):
        return (preds.argmax(1) == labels).float().mean()

    from torchmetrics.classification import MulticlassAUROC

    specs = [share, "f1", "kappa", "per_class", "confusion", "top_2", MulticlassAUROC(num_classes=3)]
    draws = torch.Generator().manual_seed(1)
    made = metrics(*specs)
    for size in (90, 60, 75):
        scores, targets = torch.randn(size, 3, generator=draws).softmax(1), torch.randint(3, (size,), generator=draws)
        made.reset()
        for batch in zip(scores.chunk(3), targets.chunk(3), strict=True):
            made.add(*batch)
        alone = metrics(*specs)
        alone.add(scores, targets)
        assert made.compute() == pytest.approx(alone.compute())
        assert torch.equal(made.confusion, alone.confusion)
        assert made.confusion.sum() == size


def test_an_epoch_without_batches_has_no_values():
    made = metrics("f1", "mae", "confusion")
    made.reset()
    assert (made.compute(), made.confusion, made.notes) == ({}, None, [])


def test_nothing_asked_for_is_nothing():
    assert metrics() is None
    assert build_metrics(None, classes=None, num_classes=None, device=CPU) is None


def test_one_name_needs_no_list():
    made = build_metrics("f1", classes=None, num_classes=2, device=CPU)
    made.add(torch.eye(2), torch.arange(2))
    assert made.compute() == {"f1": 1}


def test_a_torchmetrics_object_is_copied_for_each_run():
    from torchmetrics import MetricCollection
    from torchmetrics.classification import MulticlassAUROC, MulticlassSpecificity

    given = MetricCollection({"auroc": MulticlassAUROC(3), "specificity": MulticlassSpecificity(3)})
    draws = torch.Generator().manual_seed(2)
    scores, targets = torch.randn(40, 3, generator=draws).softmax(1), torch.randint(3, (40,), generator=draws)
    given.update(scores, targets)
    before = {name: value.item() for name, value in given.compute().items()}
    members = [metrics(given), metrics(given)]
    members[0].add(scores[:25], targets[:25])
    members[1].add(scores[25:], targets[25:])
    for member, part in zip(members, (slice(25), slice(25, None)), strict=True):
        values = member.compute()
        assert set(values) == {"auroc", "specificity"}
        expected = sk.roc_auc_score(targets[part], scores[part], multi_class="ovr")
        assert values["auroc"] == pytest.approx(expected, abs=1e-5)
    assert {name: value.item() for name, value in given.compute().items()} == before


def test_an_object_with_a_value_for_each_class_has_a_column_for_each():
    from torchmetrics.classification import MulticlassF1Score

    made = metrics(MulticlassF1Score(3, average=None), classes=["a", "b", "c"], num_classes=3)
    true, predicted = torch.tensor([0, 1, 2, 2]), torch.tensor([0, 1, 1, 2])
    made.add(scores_of(predicted, 3), true)
    expected = sk.f1_score(true, predicted, average=None)
    names = [f"MulticlassF1Score/{one}" for one in "abc"]
    assert made.compute() == pytest.approx(dict(zip(names, expected, strict=True)))


def test_a_function_sees_all_predictions_of_the_epoch_at_once_on_the_host():
    seen = []

    def auc(preds, labels):
        seen.append((len(preds), preds.device.type, preds.requires_grad))
        return sk.roc_auc_score(labels, preds[:, 1])

    made = metrics(auc)
    scores = torch.randn(20, 2, generator=torch.Generator().manual_seed(0), requires_grad=True)
    targets = torch.arange(20) % 2
    for batch in zip(scores.split(8), targets.split(8), strict=True):
        made.add(*batch)
    values = made.compute()
    assert values == pytest.approx({"auc": sk.roc_auc_score(targets, scores[:, 1].detach())})
    assert seen[-1] == (20, "cpu", False)


def test_a_buffer_that_the_loop_uses_again_does_not_change_what_a_function_sees():
    def largest(preds, labels):
        return preds.max()

    made, buffer = metrics(largest), torch.tensor([[3.0, 1.0]])
    made.add(buffer, torch.tensor([0]))
    buffer.zero_()
    assert made.compute() == {"largest": 3.0}


def test_a_function_that_one_batch_is_too_little_for_is_asked_again_at_the_end():
    def auc(preds, labels):
        if len(set(labels.tolist())) < 2:
            raise ValueError("one class alone")
        return 0.75

    made = metrics(auc)
    made.add(torch.rand(2, 2), torch.tensor([0, 0]))
    with pytest.raises(ValueError, match="one class alone"):
        made.compute()
    made.add(torch.rand(2, 2), torch.tensor([1, 1]))
    assert made.compute() == {"auc": 0.75}


@pytest.mark.parametrize("value", [None, "good", torch.ones(2, 2), np.ones(3), [1, 2]])
def test_a_function_that_gives_no_number_is_refused_at_the_first_batch(value):
    def odd(preds, labels):
        return value

    made = metrics(odd)
    with pytest.raises(MetricError, match=r"metrics=odd: the value .*predictions \[4, 2\] and targets \[4\] of int64"):
        made.add(torch.rand(4, 2), torch.zeros(4, dtype=torch.int64))


@pytest.mark.parametrize(
    ("name", "preds", "targets", "says"),
    [
        ("f1", torch.rand(4, 1), torch.rand(4, 1), r"predictions \[4, 1\] and targets \[4, 1\] of float32.*choose mae"),
        ("accuracy", torch.rand(4, 3), torch.rand(4), r"\[4, 3\].*\[4\] of float32"),
        ("precision", torch.rand(4), torch.zeros(4, dtype=torch.int64), r"predictions \[4\] and targets \[4\]"),
        ("iou", torch.rand(4, 3, 5, 5), torch.zeros(4, 5, 4, dtype=torch.int64), r"\[4, 3, 5, 5\].*\[4, 5, 4\]"),
        ("kappa", torch.rand(4, 1), torch.zeros(4, dtype=torch.int64), r"\[4, 1\]"),
        ("mae", torch.rand(4, 3), torch.tensor([2, 0, 1, 2]), r"targets \[4\] of int64 \(targets like 2\).*choose accuracy"),
        ("f1", torch.rand(4, 3), torch.tensor([0, 1, 7, 2]), r"class 7, but there are 3 classes, 0 to 2; the batch has .*\[4, 3\]"),
        ("confusion", torch.rand(4, 3), torch.tensor([0, -1, 1, 2]), r"class -1, but there are 3 classes"),
        ("top_5", torch.rand(4, 3), torch.tensor([0, 1, 1, 2]), r"only 3 classes; choose top_3"),
    ],
)  # fmt: skip
def test_a_batch_that_a_metric_is_not_made_for_is_refused_with_its_shapes(name, preds, targets, says):
    with pytest.raises((MetricError, TrainerError), match=says):
        metrics(name).add(preds, targets)


def test_an_object_that_cannot_take_the_batch_says_which_and_the_shapes():
    from torchmetrics.classification import MulticlassF1Score

    made = metrics(MulticlassF1Score(num_classes=3))
    with pytest.raises(MetricError, match=r"metrics=MulticlassF1Score cannot take the batch predictions \[4, 2\]"):
        made.add(torch.rand(4, 2), torch.zeros(4, dtype=torch.int64))


def test_scores_of_another_number_of_classes_are_refused():
    with pytest.raises(MetricError, match=r"there are 10 classes, but scores of 12"):
        metrics("f1", num_classes=10).add(torch.rand(4, 12), torch.zeros(4, dtype=torch.int64))


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ("presicion", "did you mean 'precision'"),
        ("per_class_accuracy", "did you mean 'per_class'?"),
        ("per_class_precison", "did you mean 'per_class_precision'?"),
        ("f", "choose accuracy, top_5, precision"),
        ("f0", "unknown"),
        ("top_0", "unknown"),
        ("per_class_f1_micro", "unknown"),
        ("accuracy_macro", "unknown"),
        (3, "a metric is a name, a torchmetrics object or a function"),
        (lambda preds, labels: 1.0, "define it with another name"),
        (torch.nn.L1Loss, r"give an object: L1Loss\(...\)"),
    ],
)
def test_what_is_no_metric_is_refused_when_it_is_built(spec, says):
    with pytest.raises(TrainerError, match=says):
        metrics("recall", spec)


def test_top_k_of_too_few_classes_is_refused_when_it_is_built():
    with pytest.raises(TrainerError, match="only 3 classes; choose top_3 at most"):
        metrics("top_5", num_classes=3)


def test_two_of_one_name_are_refused():
    with pytest.raises(TrainerError, match="two are called 'f1'"):
        metrics("f1", "F1")


@pytest.mark.parametrize("name", CHOICES)
def test_every_choice_that_messages_list_can_be_had(name):
    assert metrics(name) is not None


def test_classes_names_are_parts_of_a_metrics_name():
    names = class_columns(["T-shirt/top", "T-shirt_top", "", "a\nb", "x" * 60, "x" * 70, "Ångström"])
    assert names == ["T-shirt_top", "T-shirt_top (1)", "2", "a b", "x" * 40, f"{'x' * 40} (5)", "Ångström"]


@given(st.lists(st.text(max_size=50), max_size=12))
def test_no_two_classes_share_a_column(classes):
    columns = class_columns(classes)
    assert len({*columns}) == len(columns)
    assert not [column for column in columns if "/" in column or column == ""]


def test_which_way_a_named_metric_improves_is_told_by_its_name():
    names = [name for name in CHOICES if name != "confusion" and not name.startswith("per_class")]
    smaller = [name for name in names if better_is(f"val_{name}") == "min"]
    assert smaller == ["mae", "mse", "rmse"]
    assert {better_is(f"val_{name}/time") for name in ("accuracy", "precision", "recall", "f1", "iou")} == {"max"}


def test_torchmetrics_is_imported_only_when_it_is_used():
    code = (
        "import sys, torch\n"
        "from runmanager.training.recipes.metrics import build_metrics\n"
        "made = build_metrics(['f1', print], classes=None, num_classes=3, device=torch.device('cpu'))\n"
        "print('torchmetrics' in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
