"""Targets that a network has no output for."""

import numpy as np
import pytest
import torch
from torch.utils.data import Subset, TensorDataset

from runmanager.data.measuring import normalised
from runmanager.data.splits import Splits
from runmanager.data.targets import first_outside, target_fault
from tests.data.kept import Made, keep, noise


def data(targets):
    return TensorDataset(torch.zeros(len(targets), 2), torch.as_tensor(targets))


@pytest.mark.parametrize("kind", [list, np.array, torch.tensor, lambda one: torch.tensor(one, dtype=torch.uint8)])
def test_the_first_target_outside_is_told_by_sample_and_value(kind):
    assert first_outside(kind([0, 2, 1, 9, 12]), 3) == (3, 9)
    assert first_outside(kind([0, 2, 1]), 3) is None


def test_a_negative_target_is_outside_but_for_what_losses_ignore():
    assert first_outside(torch.tensor([0, -100, -1]), 3) == (2, -1)
    assert first_outside(torch.tensor([0, 255, 1]), 3, ignored=255) is None


def test_of_targets_of_many_pixels_the_sample_is_told():
    targets = torch.zeros(5, 4, 4, dtype=torch.int64)
    targets[3, 2, 1] = 7
    assert first_outside(targets, 7) == (3, 7)


@pytest.mark.parametrize(
    "targets", [torch.rand(4) * 99, torch.tensor([True, False]), [], ["a"], torch.empty(0, dtype=torch.int64)]
)
def test_what_are_no_classes_is_left_alone(targets):
    assert first_outside(targets, 1) is None


def test_the_message_names_part_sample_value_and_what_to_do():
    fault = target_fault(Splits(data([0, 1, 2, 3]), data([0])), 3)
    assert fault == (
        "sample 3 of the training data has class 3, but the network has 3 outputs, for classes 0 to 2; give it 4 outputs, or "
        "mend the target"
    )
    assert target_fault(Splits(data([0, 1]), data([1, -7])), 2).startswith(
        "sample 1 of the validation data has class -7, and"
    )
    assert target_fault(Splits(data([0, 1]), data([1, 0])), 2) is None


def test_the_sample_is_counted_in_the_whole_data_set():
    whole = TensorDataset(torch.rand(20, 2), torch.tensor([0] * 17 + [5] + [0] * 2))
    splits = Splits(Subset(whole, range(5)), Subset(whole, [3, 17, 4]))
    for one in (splits, normalised(splits, (0.0, 1.0))):
        assert "sample 17 of the validation data has class 5" in target_fault(one, 5)


def test_resident_targets_are_looked_at_where_the_data_has_none_at_hand():
    whole = Made(lambda i: (noise(i), i % 7))
    part = Subset(whole, [3, 5, 13, 6])
    assert target_fault(Splits(part), 6) is None
    assert keep(part).targets().tolist() == [3, 5, 6, 6]
    assert first_outside(keep(part).targets(), 6) == (2, 6)


def test_a_class_that_has_no_name_is_told():
    splits = Splits(data([0, 1, 2, 3]), data([0]), classes=("cat", "dog", "emu"))
    assert target_fault(splits, 10) == (
        "sample 3 of the training data has class 3, but there are names for 3 classes (cat, dog, emu); give one for each class, "
        "or mend the target"
    )
    assert target_fault(Splits(data([0, 1, 2]), classes=("cat", "dog", "emu", "gnu")), 10) is None
