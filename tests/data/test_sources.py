"""What `Trainer(data=...)` takes, and what it says to everything else."""

import pytest
import torch
from torch.utils.data import Dataset, TensorDataset

from runmanager.data.sources import KNOWN, splits_of
from runmanager.data.splits import DataError, Splits

INPUTS, TARGETS = torch.rand(6, 2), torch.arange(6)


class Untouchable(Dataset):
    """Must not be read."""

    def __getitem__(self, index):
        raise AssertionError("the data was read")

    def __len__(self):
        raise AssertionError("the data was counted")


def of(data, tmp_path):
    return splits_of(data, None, tmp_path)


@pytest.mark.parametrize("kind", [tuple, list])
def test_a_pair_of_tensors_is_training_data(kind, tmp_path):
    splits = of(kind((INPUTS, TARGETS)), tmp_path)
    assert (splits.validation, splits.test) == (None, None)
    assert torch.equal(splits.train[3][0], INPUTS[3])
    assert splits.train[3][1] == 3


def test_a_dataset_is_training_data(tmp_path):
    data = TensorDataset(INPUTS, TARGETS)
    assert of(data, tmp_path) == Splits(data)


def test_a_pair_is_training_and_validation_and_a_triple_has_the_test_data_too(tmp_path):
    train, validation, test = (TensorDataset(INPUTS, TARGETS) for _ in range(3))
    assert of((train, validation), tmp_path) == Splits(train, validation)
    assert of((train, validation, test), tmp_path) == Splits(train, validation, test)


def test_the_parts_may_be_pairs_of_tensors(tmp_path):
    splits = of(((INPUTS, TARGETS), (INPUTS[:2], TARGETS[:2]), TensorDataset(INPUTS[:1], TARGETS[:1])), tmp_path)
    assert [len(part) for part in (splits.train, splits.validation, splits.test)] == [6, 2, 1]


def test_nothing_is_read_while_the_parts_are_told_apart(tmp_path):
    parts = Untouchable(), Untouchable(), Untouchable()
    assert of(parts, tmp_path).test is parts[2]


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("fashion-mnist", "fashion_mnist"),
        ("FashionMNIST_sample", "fashion_mnist_sample"),
        ("fashion_mnist_smaple", "fashion_mnist_sample"),
    ],
)
def test_an_unknown_name_lists_the_choices_and_the_nearest(name, nearest, tmp_path):
    with pytest.raises(DataError) as caught:
        of(name, tmp_path)
    message = str(caught.value)
    assert repr(name) in message
    assert all(known in message for known in KNOWN)
    assert f"did you mean {nearest!r}?" in message


def test_a_name_that_is_like_no_other_gets_no_guess(tmp_path):
    with pytest.raises(
        DataError, match=r"choose cifar10, fashion_mnist, fashion_mnist_sample, image_folder, mnist$"
    ) as caught:
        of("zzz", tmp_path)
    assert "did you mean" not in str(caught.value)


def test_inputs_and_targets_of_different_lengths_are_refused(tmp_path):
    with pytest.raises(DataError, match="6 inputs but 4 targets"):
        of((INPUTS, TARGETS[:4]), tmp_path)


@pytest.mark.parametrize("number", [1, 2, 3, 60])
def test_a_list_of_samples_is_training_data(number, tmp_path):
    data = [(INPUTS[0] + index, index % 2) for index in range(number)]
    splits = of(data, tmp_path)
    assert len(splits.train) == number
    assert splits.train[number - 1] is data[-1]
    assert (splits.validation, splits.test) == (None, None)


def test_lists_of_samples_may_be_parts_and_have_targets_of_any_kind(tmp_path):
    samples = [(one, target) for one, target in zip(INPUTS, TARGETS, strict=True)]
    splits = of((samples, samples[:2]), tmp_path)
    assert [len(splits.train), len(splits.validation)] == [6, 2]
    assert len(of([(one, torch.rand(2)) for one in INPUTS], tmp_path).with_validation(0.5, 0).validation) == 3


def test_pairs_of_tensors_in_a_list_are_parts_as_before(tmp_path):
    splits = of([(INPUTS, TARGETS), (INPUTS[:2], TARGETS[:2])], tmp_path)
    assert [len(splits.train), len(splits.validation)] == [6, 2]


def test_what_is_no_sample_in_a_list_of_samples_is_told_by_its_place(tmp_path):
    with pytest.raises(DataError, match=r"item 40 of the list of samples is a Tensor, .*mend it"):
        of([(INPUTS[0], 0)] * 40 + [INPUTS[0]], tmp_path)


def test_much_that_cannot_be_trained_on_is_told_in_few_words(tmp_path):
    with pytest.raises(DataError, match=r"data=\(int, int, int, int, \.\.\. 60000 in all\) cannot"):
        of([1] * 60_000, tmp_path)


@pytest.mark.parametrize(
    "data", [None, 7, [], (1, 2), {"train": 1}, (INPUTS,) * 4, [INPUTS, None], object(), (INPUTS[0], torch.tensor(1))]
)
def test_anything_else_is_told_what_can_be_given(data, tmp_path):
    with pytest.raises(DataError) as caught:
        of(data, tmp_path)
    message = str(caught.value)
    for part in (
        "data=",
        "fashion_mnist_sample",
        "torch Dataset",
        "(train, validation, test)",
        "list of (input, target)",
        "function of the run",
    ):
        assert part in message


def test_the_sample_is_known_by_its_name(tmp_path):
    splits = of("fashion_mnist_sample", tmp_path)
    assert (len(splits.train), len(splits.test)) == (6_000, 1_000)
    assert splits.validation is None
