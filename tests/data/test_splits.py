"""The cut between training and validation data."""

from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import Dataset, IterableDataset, Subset, TensorDataset

from runmanager.data.splits import DataError, Normalization, Splits, stratified_split


class Bare(Dataset):
    """Samples without any list of targets beside them; sample `i` is `(i, targets[i])`."""

    def __init__(self, labels):
        self.labels = labels

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, index):
        return index, self.labels[index]


class WithTargets(Bare):
    """The same, with its targets at hand, as torchvision's data sets have them."""

    def __init__(self, labels):
        super().__init__(labels)
        self.targets = labels


def places(part):
    return [index for index, _ in part]


def counts(part):
    return Counter(int(label) for _, label in part)


@settings(deadline=None, max_examples=50)
@given(
    labels=st.lists(st.integers(0, 4), min_size=2, max_size=80),
    fraction=st.floats(0.05, 0.9),
    seed=st.integers(0, 2**32),
)
def test_every_sample_is_in_one_part_in_its_old_order_and_each_class_gives_its_share(labels, fraction, seed):
    size = len(labels)
    if round(size * fraction) in (0, size):
        return
    train, validation = stratified_split(Bare(labels), fraction, seed)
    assert len(validation) == round(size * fraction)
    assert sorted(places(train) + places(validation)) == list(range(size))
    assert places(train) == sorted(places(train))
    assert places(validation) == sorted(places(validation))
    for name, count in Counter(labels).items():
        assert abs(counts(validation)[name] - count * len(validation) / size) < 1


def test_unequal_classes_keep_their_proportions():
    labels = [0] * 500 + [1] * 300 + [2] * 20
    train, validation = stratified_split(WithTargets(labels), 0.1, 0)
    assert counts(validation) == {0: 50, 1: 30, 2: 2}
    assert counts(train) == {0: 450, 1: 270, 2: 18}


def test_the_same_seed_gives_the_same_cut_and_another_gives_another():
    data = Bare([0, 1] * 50)
    once, again, other = (places(stratified_split(data, 0.2, seed)[1]) for seed in (3, 3, 4))
    assert once == again
    assert once != other


def test_the_cut_draws_from_no_generator_of_the_user():
    torch.manual_seed(1)
    np.random.seed(1)
    before = torch.get_rng_state(), np.random.get_state()[1].tolist()
    stratified_split(Bare([0, 1] * 50), 0.2, 0)
    assert torch.equal(before[0], torch.get_rng_state())
    assert before[1] == np.random.get_state()[1].tolist()


@pytest.mark.parametrize("labels", [[0, 1, 2, 2] * 10, torch.tensor([0, 1, 2, 2] * 10)])
def test_however_the_targets_are_found_the_cut_is_the_same(labels):
    expected = places(stratified_split(Bare([0, 1, 2, 2] * 10), 0.25, 7)[1])
    assert places(stratified_split(WithTargets(labels), 0.25, 7)[1]) == expected
    tensors = TensorDataset(torch.arange(40), torch.as_tensor(labels))
    assert [int(index) for index in places(stratified_split(tensors, 0.25, 7)[1])] == expected


def test_a_subset_is_cut_by_its_own_samples():
    whole = WithTargets([0] * 50 + [1] * 50)
    part = Subset(whole, list(range(40, 80)))  # 10 of class 0, 30 of class 1
    train, validation = stratified_split(part, 0.2, 0)
    assert counts(validation) == {0: 2, 1: 6}
    assert sorted(places(train) + places(validation)) == list(range(40, 80))


def test_targets_that_are_no_classes_are_cut_all_the_same():
    data = TensorDataset(torch.arange(40), torch.rand(40))
    train, validation = stratified_split(data, 0.25, 0)
    assert (len(train), len(validation)) == (30, 10)
    assert len({int(place) for place in places(train) + places(validation)}) == 40


@pytest.mark.parametrize(("size", "fraction"), [(3, 0.1), (1, 0.5), (3, 0.9)])
def test_a_cut_that_leaves_a_part_empty_is_refused(size, fraction):
    with pytest.raises(DataError, match=rf"validation={fraction} of {size} samples.*validation=0"):
        stratified_split(Bare([0] * size), fraction, 0)


def test_validation_data_that_was_given_is_not_cut_again():
    splits = Splits(Bare([0] * 10), Bare([0] * 4))
    assert splits.with_validation(0.5, 0) is splits


def test_without_a_fraction_there_is_no_validation_split():
    assert Splits(Bare([0] * 10)).with_validation(0, 0).validation is None


def test_the_test_split_stays_what_it_was():
    test = Bare([0])
    assert Splits(Bare([0] * 10), None, test, "here").with_validation(0.2, 0).test is test


def test_ties_between_classes_favour_no_end_of_them():
    targets = torch.arange(200).repeat_interleave(5)
    _, validation = stratified_split(TensorDataset(torch.zeros(1000, 1), targets), 0.1, seed=0)
    classes = targets[validation.indices].unique()
    assert len(classes) == 100
    assert 60 < classes.float().mean() < 140


class Named(WithTargets):
    """With names of its classes."""

    classes = ("cat", "dog", "emu")


def test_the_names_of_the_classes_are_those_of_the_data_set_whatever_part_it_is():
    data = Named([0, 1, 0, 1])
    for splits in (Splits(data), Splits(Subset(Subset(data, [0, 1, 2]), [1, 2])), Splits(data).with_validation(0.5, 0)):
        assert splits.classes == ("cat", "dog", "emu")
        assert splits.num_classes == 3


@pytest.mark.parametrize("classes", [None, [], 7, {"cat": 0}, [0, 1], ["cat", None]])
def test_what_are_no_names_are_not_taken_for_them(classes):
    data = WithTargets([0, 4, 1])
    data.classes = classes
    assert Splits(data).classes is None
    assert Splits(data).num_classes == 5


def test_of_several_names_of_a_class_the_first_counts():
    data = WithTargets([0])
    data.classes = [("tench", "Tinca tinca"), ("goldfish",)]
    assert Splits(data).classes == ("tench", "goldfish")


def test_names_that_are_given_go_before_those_of_the_data():
    assert Splits(Named([0, 1] * 4), classes=("a", "b", "c")).with_validation(0.5, 0).classes == ("a", "b", "c")


@pytest.mark.parametrize(
    ("targets", "expected"),
    [
        (torch.tensor([0, 2, 1]), 3),
        (torch.tensor([0, 2, 1], dtype=torch.uint8), 3),
        (torch.tensor([0.0, 1.0, 2.0]), None),
        (torch.tensor([0, -1, 2]), None),
        (torch.tensor([[0, 1], [1, 0], [1, 1]]), None),
    ],
)
def test_tensors_have_no_names_but_may_have_a_number_of_classes(targets, expected):
    splits = Splits(TensorDataset(torch.zeros(3, 2), targets))
    assert splits.classes is None
    assert splits.num_classes == expected


def test_where_only_samples_tell_they_are_read_once_and_no_random_number_is_used_up():
    class Drawing(Bare):
        num_read = 0

        def __getitem__(self, index):
            self.num_read += 1
            return torch.rand(2), self.labels[index]

    splits, before = Splits(Drawing([0, 3, 1])), torch.get_rng_state()
    assert [splits.num_classes, splits.num_classes] == [4, 4]
    assert splits.train.num_read == 3
    assert torch.equal(before, torch.get_rng_state())


def test_a_cut_keeps_what_the_inputs_were_normalised_by():
    how = Normalization((0.5,), (0.2,))
    assert Splits(Bare([0, 1] * 4), normalization=how).with_validation(0.5, 0).normalization == how


@pytest.mark.parametrize("fraction", [0, 0.1])
@pytest.mark.parametrize("part", ["train", "validation"])
def test_a_part_without_samples_is_refused_by_its_name(part, fraction):
    parts = {name: Bare([0, 1] * 20) for name in ("train", "validation")} | {part: Bare([])}
    name = {"train": "training"}.get(part, part)
    with pytest.raises(DataError, match=rf"the {name} data \(Bare\) is empty; look at where its samples come from"):
        Splits(**parts).with_validation(fraction, 0)


def test_no_validation_data_is_cut_from_a_stream():
    class Stream(IterableDataset):
        def __iter__(self):
            yield torch.rand(2), 0

    with pytest.raises(DataError, match=r"cannot be cut from Stream, which has no length; .*validation=0"):
        Splits(Stream()).with_validation(0.1, 0)
    assert Splits(Stream()).with_validation(0, 0).validation is None


def test_a_sample_that_cannot_be_read_is_told_by_its_place():
    class Broken(Bare):
        def __getitem__(self, index):
            return torch.rand(2), 1 // (7 - index)

    with pytest.raises(DataError, match=r"sample 7 of the data cannot be read \(ZeroDivisionError: .*mend it"):
        Splits(Broken([0] * 20)).with_validation(0.1, 0)
