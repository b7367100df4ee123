"""Metrics of whole sweeps: what is refused before epoch 1, and what a metric that raises does to its run and to no other."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import TensorDataset

from runmanager import Sweep, Trainer, launch
from runmanager.data.splits import Splits
from runmanager.launching.sweep import SweepError
from runmanager.tracking.confusion_files import ConfusionFiles
from runmanager.tracking.history import read_sweep
from runmanager.tracking.run_dir import SweepDir

DRAWS = torch.Generator().manual_seed(0)
INPUTS, CLASSES = torch.rand(40, 4, generator=DRAWS), torch.arange(40) % 3


def sweep_of(objective=None, lrs=(0.1, 0.2), **trainer):
    usual = {
        "data": (INPUTS, CLASSES),
        "network": lambda: nn.Linear(4, 3),
        "optimizer": lambda run, network: torch.optim.SGD(network.parameters(), lr=run.lr),
        "loss": F.cross_entropy,
        "epochs": 2,
        "batch_size": 10,
        "validation": 0.25,
        "device": "cpu",
    }
    return Sweep({"lr": list(lrs)}, trainer=Trainer(**{**usual, **trainer}), objective=objective, name="sweep")


def refusal(project, *args, **trainer):
    with pytest.raises(SweepError) as raised:
        sweep_of(*args, **trainer).check(project)
    return str(raised.value)


def trained(project: Path, sweep: Sweep, **options):
    sweep.file = project / "sweeps" / "sweep.py"
    launch(sweep, quiet=True, tensorboard=False, **options)
    return {run.number: run for run in read_sweep(SweepDir(project, "sweep")).runs}


def needs_all_classes(preds, labels):
    if len(labels.unique()) < 3:
        raise ValueError("not all classes are there")
    return (preds.argmax(1) == labels).double().mean()


def test_a_metric_that_the_check_has_too_few_samples_for_may_be_the_objective(tmp_path):
    runs = trained(tmp_path, sweep_of("val_needs_all_classes", metrics=needs_all_classes))
    assert [run.status for run in runs.values()] == ["completed"] * 2
    assert all(row.metrics["val_needs_all_classes"] == row.metrics["val_accuracy"] for row in runs[1].rows)


def test_an_objective_that_is_not_measured_is_refused_with_what_is(tmp_path):
    from torchmetrics import MetricCollection
    from torchmetrics.classification import MulticlassF1Score, MulticlassRecall

    both = MetricCollection({"ours": MulticlassF1Score(3), "each": MulticlassRecall(3, average=None)})
    text = refusal(tmp_path, "val_need_all_classes", metrics=["per_class_f1", both, needs_all_classes])
    names = "val_loss, val_accuracy, val_f1/0, val_f1/1, val_f1/2, val_each/0, val_each/1, val_each/2, val_ours"
    assert f"choose {names}, val_needs_all_classes, or add it to metrics" in text
    assert text.endswith("did you mean 'val_needs_all_classes'?")


def no_number(preds, labels):
    return "good"


@pytest.mark.parametrize(
    ("trainer", "says"),
    [
        ({"metrics": "presicion"}, "did you mean 'precision'?"),
        ({"metrics": ["top_5"]}, "there are only 3 classes; choose top_3 at most"),
        ({"metrics": ["mae"]}, "predictions [2, 3] and targets [2] of int64"),
        ({"metrics": ["f1"], "data": (INPUTS, INPUTS[:, :3]), "loss": F.mse_loss}, "targets [2, 3] of float32"),
        (
            {"metrics": no_number},
            "metrics=no_number: the value is 'good'; a metric is one number, or one for each class",
        ),
        ({"metrics": [nn.L1Loss]}, "give an object: L1Loss(...)"),
        ({"metrics": ["f1", "f1"]}, "two are called 'f1'"),
        ({"show_predictions": 3}, "show_predictions: the predictions cannot be shown: inputs have shape [2, 4]"),
    ],
)
def test_what_cannot_be_measured_is_refused_before_the_first_epoch(trainer, says, tmp_path):
    assert says in refusal(tmp_path, **trainer)
    assert list(tmp_path.iterdir()) == []


def needs_small_scores(preds, labels):
    if preds.abs().max() > 1e3:
        raise ValueError("too large")
    return preds.abs().max()


@pytest.mark.parametrize("fuse", ["off", 3])
def test_a_metric_that_raises_ends_its_own_run(fuse, tmp_path):
    runs = trained(tmp_path, sweep_of(metrics=needs_small_scores, lrs=(0.1, 1e6, 0.2)), fuse=fuse)
    assert [runs[number].status for number in (1, 2, 3)] == ["completed", "failed", "completed"]
    assert runs[2].error == "MetricError: metrics=needs_small_scores raised ValueError: too large"
    assert [len(runs[number].rows) for number in (1, 2, 3)] == [2, 0, 2]


def test_a_sweep_without_any_accuracy_leaves_its_column_empty(tmp_path):
    data = (INPUTS, INPUTS.sum(1, keepdim=True))
    sweep = sweep_of("val_rmse", data=data, network=lambda: nn.Linear(4, 1), loss=F.mse_loss, metrics=["rmse", "r2"])
    assert sweep.mode == "min"
    runs = trained(tmp_path, sweep, fuse=2)
    for row in [row for run in runs.values() for row in run.rows]:
        assert row.accuracy is None
        assert row.metrics.keys() == {"val_loss", "val_rmse", "val_r2"}
        assert row.metrics["val_rmse"] ** 2 == pytest.approx(row.metrics["val_loss"], rel=1e-5)


def test_matrices_have_the_classes_names_and_may_be_read_back(tmp_path):
    data = Splits(TensorDataset(INPUTS, CLASSES), classes=("ash", "birch", "cedar"))
    runs = trained(tmp_path, sweep_of(data=data, metrics=["confusion"], lrs=(0.1,)))
    (run_dir,) = SweepDir(tmp_path, "sweep").runs()
    files = ConfusionFiles(run_dir.confusions)
    assert files.epochs() == [1, 2]
    record = files.read(2)
    assert record["classes"] == ["ash", "birch", "cedar"]
    counts = torch.tensor(record["counts"])
    assert counts.sum() == 10
    assert (counts.diag().sum() / counts.sum()).item() == pytest.approx(runs[1].rows[-1].metrics["val_accuracy"])


def dropout_network():
    return nn.Sequential(nn.Linear(4, 16), nn.Dropout(0.5), nn.Linear(16, 3))


def bootstrapped(preds, labels):
    drawn = torch.randint(len(labels), (len(labels),))
    return preds[drawn].argmax(1).eq(labels[drawn]).float().mean()


def test_a_metric_that_draws_changes_nothing_of_the_training(tmp_path):
    losses = [
        [
            row.loss
            for run in trained(tmp_path / name, sweep_of(network=dropout_network, **with_it)).values()
            for row in run.rows
        ]
        for name, with_it in {"plain": {}, "drawing": {"metrics": bootstrapped}}.items()
    ]
    assert losses[0] == losses[1]
