"""Sums over batches."""

import math

import pytest
import torch

from runmanager.tracking.errors import MetricError
from runmanager.tracking.meters import Accuracy, Mean


def test_a_mean_weighs_each_batch_by_its_samples() -> None:
    mean = Mean(1)
    mean.add(torch.tensor(1.0), 100)
    mean.add(torch.tensor(4.0), 50)
    assert mean.compute() == [2.0]


def test_a_mean_of_plain_numbers_and_of_both_kinds() -> None:
    mean = Mean(1)
    mean.add(1.0, 1)
    mean.add(torch.tensor(2.0), 1)
    mean.add(6, 2)
    assert mean.compute() == [3.75]


def test_a_group_has_a_mean_for_each_member() -> None:
    mean = Mean(3)
    mean.add(torch.tensor([1.0, 2.0, 3.0]), 2)
    mean.add(torch.tensor([2.0, 4.0, 6.0]), 2)
    assert mean.compute() == [1.5, 3.0, 4.5]


def test_many_small_losses_do_not_drown_in_a_float32_sum() -> None:
    mean = Mean(1)
    for _ in range(20_000):
        mean.add(torch.tensor(0.1), 1000)
    assert mean.compute() == pytest.approx([float(torch.tensor(0.1))], rel=1e-12)


def test_nothing_added_is_no_mean() -> None:
    assert Mean(1).compute() is None
    assert Accuracy(1).compute() is None


def test_a_loss_that_is_no_mean_names_its_shape() -> None:
    with pytest.raises(MetricError, match=r"shape \[5\].*mean over the batch"):
        Mean(1).add(torch.zeros(5), 5)


def test_a_mean_keeps_no_graph_alive() -> None:
    weight = torch.ones(1, requires_grad=True)
    mean = Mean(1)
    for _ in range(2):
        mean.add((weight * 2).mean(), 1)
    assert mean._total.grad_fn is None


def test_accuracy_counts_the_labels_it_has_seen() -> None:
    accuracy = Accuracy(1)
    accuracy.add(torch.tensor([[0.9, 0.1], [0.2, 0.8], [0.7, 0.3]]), torch.tensor([0, 1, 1]))
    accuracy.add(torch.tensor([[0.9, 0.1]]), torch.tensor([0]))
    assert accuracy.compute() == [0.75]


def test_accuracy_takes_classes_and_pixels() -> None:
    accuracy = Accuracy(1)
    accuracy.add(torch.tensor([1, 0]), torch.tensor([1, 1]))
    assert accuracy.compute() == [0.5]
    pixels = Accuracy(1)
    scores = torch.zeros(2, 3, 4, 4)
    scores[:, 2] = 1
    pixels.add(scores, torch.full((2, 4, 4), 2))
    assert pixels.compute() == [1.0]


def test_pixels_of_class_minus_100_count_for_nothing() -> None:
    labels = torch.tensor([[[0, 1, -100], [1, -100, -100]]])
    scores = torch.nn.functional.one_hot(torch.tensor([[[0, 0, 1], [1, 0, 1]]]), 2).movedim(-1, 1).float()
    alone, pair = Accuracy(1), Accuracy(2)
    for _ in range(2):
        alone.add(scores, labels)
        pair.add(torch.stack([scores, scores]), torch.stack([labels, labels.clamp(min=0)]))
    assert alone.compute() == [2 / 3]
    assert pair.compute() == [2 / 3, 3 / 6]
    pair.drop(0)
    assert pair.compute() == [3 / 6]
    nothing = Accuracy(1)
    nothing.add(scores, torch.full_like(labels, -100))
    assert math.isnan((nothing.compute() or [0.0])[0])


def test_a_group_has_an_accuracy_for_each_member() -> None:
    accuracy = Accuracy(2)
    preds = torch.tensor([[[0.9, 0.1], [0.9, 0.1]], [[0.1, 0.9], [0.9, 0.1]]])  # [K, N, C]
    accuracy.add(preds, torch.tensor([[0, 1], [1, 0]]))
    assert accuracy.compute() == [0.5, 1.0]


@pytest.mark.parametrize(
    ("preds", "labels"),
    [
        (torch.rand(4), torch.zeros(4)),
        (torch.rand(4, 1), torch.zeros(4, 1)),
        (torch.rand(4, 3), torch.zeros(5, dtype=torch.long)),
        (torch.zeros(4, dtype=torch.long), torch.zeros(5, dtype=torch.long)),
    ],
)
def test_predictions_that_do_not_fit_name_both_shapes(preds: torch.Tensor, labels: torch.Tensor) -> None:
    with pytest.raises(MetricError, match=r"shape \[.*labels"):
        Accuracy(1).add(preds, labels)


def test_adding_never_waits_for_the_device() -> None:
    # a tensor on the meta device has no data, so whoever wants to see a value of it gets an error
    mean, accuracy = Mean(1), Accuracy(1)
    for _ in range(3):
        mean.add(torch.zeros((), device="meta"), 10)
        accuracy.add(torch.zeros(10, 4, device="meta"), torch.zeros(10, dtype=torch.long, device="meta"))
    with pytest.raises((RuntimeError, NotImplementedError)):
        mean.compute()
