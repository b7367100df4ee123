"""Balanced sampling, held against the real DataLoader with torch's WeightedRandomSampler."""

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset, Subset, TensorDataset, WeightedRandomSampler

from runmanager.data.balance import balanced_order, balanced_sampler, class_shares, num_classes, targets_tensor
from runmanager.data.splits import DataError

EPOCHS = 3
RARE = torch.tensor([0] * 900 + [1] * 90 + [2] * 10)


def generator_of(seed=7):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize(("size", "batch_size"), [(1, 1), (2, 1), (11, 5), (11, 100), (1000, 7), (40_001, 999)])
def test_the_order_and_the_generator_are_those_of_a_dataloader_epoch_after_epoch(size, batch_size):
    weights = class_shares(torch.arange(size) ** 2 % 5)
    ours, theirs = generator_of(), generator_of()
    sampler = WeightedRandomSampler(weights, size, replacement=True, generator=theirs)
    loader = DataLoader(TensorDataset(torch.arange(size)), batch_size=batch_size, sampler=sampler, generator=theirs)
    for _ in range(EPOCHS):
        order = balanced_order(weights, ours)
        assert (order.dtype, order.device.type, order.shape) == (torch.int64, "cpu", (size,))
        assert torch.equal(order, torch.cat([samples for (samples,) in loader]))
        assert torch.equal(ours.get_state(), theirs.get_state())


@pytest.mark.parametrize("num_workers", [0, 1])
def test_the_sampler_for_a_dataloader_gives_the_same_order(num_workers):
    weights, ours, theirs = class_shares(RARE), generator_of(), generator_of()
    sampler = balanced_sampler(weights, theirs)
    data = TensorDataset(torch.arange(len(RARE)))
    loader = DataLoader(data, batch_size=64, sampler=sampler, generator=theirs, num_workers=num_workers)
    assert len(loader) == 16
    for _ in range(2):
        assert torch.equal(balanced_order(weights, ours), torch.cat([samples for (samples,) in loader]))
        assert torch.equal(ours.get_state(), theirs.get_state())


def test_each_class_comes_as_often_as_the_others():
    drawn = RARE[balanced_order(class_shares(RARE), generator_of())]
    counts = torch.bincount(drawn)
    assert counts.sum() == len(RARE)
    assert counts.tolist() == pytest.approx([1000 / 3] * 3, abs=75)  # five standard deviations


def test_a_weight_is_one_over_the_count_of_the_class():
    targets = torch.tensor([3, 0, 0, 3, 3, 1])
    assert class_shares(targets).tolist() == [1 / 3, 1 / 2, 1 / 2, 1 / 3, 1 / 3, 1]
    assert class_shares(targets).dtype == torch.float64
    assert num_classes(targets) == 4


def test_only_the_given_generator_draws():
    torch.manual_seed(1)
    before = torch.get_rng_state()
    balanced_order(class_shares(RARE), generator_of())
    assert torch.equal(torch.get_rng_state(), before)


class Drawn(Dataset):
    """Samples that are drawn anew each time they are read, and targets that are known only from them."""

    def __init__(self, classes):
        self.classes_of_samples = classes

    def __len__(self):
        return len(self.classes_of_samples)

    def __getitem__(self, index):
        if index >= len(self):
            raise IndexError
        return torch.rand(3), self.classes_of_samples[index]


class Transformed(Drawn):
    """As torchvision's: the targets at hand are those before target_transform."""

    def __init__(self, classes, target_transform=lambda one: one):
        super().__init__([target_transform(one) for one in classes])
        self.targets = list(classes)


@pytest.mark.parametrize(
    "dataset",
    [
        TensorDataset(torch.rand(4, 3), torch.tensor([2, 0, 1, 1])),
        TensorDataset(torch.rand(4, 3), torch.tensor([2, 0, 1, 1], dtype=torch.uint8)),
        Drawn([2, 0, 1, 1]),
        Drawn([torch.tensor(2), torch.tensor(0), torch.tensor(1), torch.tensor(1)]),
        Drawn(np.array([2, 0, 1, 1])),
        Transformed([2, 0, 1, 1]),
        Transformed([8, 6, 7, 7], lambda one: one - 6),
        Subset(TensorDataset(torch.rand(6, 3), torch.tensor([9, 2, 0, 1, 1, 9])), [1, 2, 3, 4]),
        Subset(Subset(Drawn([9, 2, 0, 1, 1, 9]), [0, 1, 2, 3, 4]), [1, 2, 3, 4]),
        Subset(Transformed([9, 8, 6, 7, 7, 9], lambda one: one - 6), [1, 2, 3, 4]),
    ],
)
def test_targets_are_those_of_the_samples(dataset):
    torch.manual_seed(0)
    before = torch.get_rng_state()
    targets = targets_tensor(dataset)
    assert targets.dtype == torch.int64 and targets.tolist() == [2, 0, 1, 1]
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        (torch.rand(4), "these are [4] of float32"),
        (torch.zeros(4, 5, dtype=torch.int64), "these are [4, 5] of int64"),
        (torch.tensor([0, -1, 2]), "that of sample 1 is -1"),
        (torch.empty(0, dtype=torch.int64), "there are no samples"),
    ],
)
def test_targets_that_are_no_classes_are_refused_with_what_was_found(targets, message):
    for function in (class_shares, num_classes):
        with pytest.raises(DataError) as error:
            function(targets)
        assert message in str(error.value)


@pytest.mark.parametrize(
    ("dataset", "message"),
    [
        (
            Drawn([0.5, 1.5]),
            "have to be classes, whole numbers from 0 up, one for each sample; these are [2] of float64",
        ),
        (Drawn(["cat", "dog"]), "the first of them is 'cat', a str"),
        (Drawn([[0, 1], [0]]), "the first of them is [0, 1], a list"),
        (Transformed(["cat", "dog"]), "the first of them is 'cat', a str"),
        (Subset(Drawn([0, 0, 0, -3]), [1, 3]), "that of sample 3 is -3"),
        (TensorDataset(torch.rand(3, 2), torch.rand(3, 2)), "these are [3, 2] of float32"),
        (TensorDataset(torch.rand(3, 2)), "no (inputs, targets) pairs"),
    ],
)
def test_a_data_set_without_classes_is_refused_with_what_was_found(dataset, message):
    with pytest.raises(DataError) as error:
        targets_tensor(dataset)
    assert message in str(error.value)


def test_one_class_alone_cannot_be_balanced():
    with pytest.raises(
        DataError, match="all 9 training samples are of class 4; look at the targets, or leave sampling out"
    ):
        class_shares(torch.full((9,), 4))
