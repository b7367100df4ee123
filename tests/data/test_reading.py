"""Data that cannot be kept on a device, and the reason that is given."""

import pytest
import torch
from torch.utils.data import Dataset, IterableDataset, StackDataset, Subset, TensorDataset

from runmanager.data.fashion_mnist import fashion_mnist_sample
from tests.data.kept import Made, noise, reason, with_transform


class Stream(IterableDataset):
    def __iter__(self):
        return iter([(noise(0), 0)])


class Batched(Made):
    def __getitems__(self, indices):
        return [(noise(indices[0]), index) for index in indices]


class Picky(Subset):
    def __getitem__(self, index):
        return super().__getitem__(index)

    def __getitems__(self, indices):
        return [self[index] for index in indices]


class Endless(Dataset):
    def __getitem__(self, index):
        return noise(index), index


def broken(index):
    if index == 40:
        raise OSError("image file is truncated")
    return noise(index), index


REFUSED = {
    "a stream": (Stream, "an IterableDataset gives its samples in an order of its own"),
    "no length": (Endless, "Endless has no length"),
    "nothing": (lambda: Made(noise, 0), "it has no samples"),
    "an empty part": (lambda: Subset(Made(noise), []), "it has no samples"),
    "batches": (lambda: Batched(noise), "Batched gives whole batches by a __getitems__ of its own"),
    "a part of batches": (lambda: Subset(Batched(noise), [1]), "Batched gives whole batches by a __getitems__"),
    "a stack of batches": (lambda: StackDataset(Batched(noise), Batched(noise)), "Batched gives whole batches"),
    "an own way to pick": (lambda: Picky(Made(noise), [1]), "Picky gives whole batches by a __getitems__ of its own"),
    "one tensor": (lambda: TensorDataset(torch.ones(3)), "its samples have 1 tensors, and are not pairs of inputs and targets"),
    "three tensors": (lambda: TensorDataset(*[torch.ones(3)] * 3), "its samples have 3 tensors"),
    "tensors that learn": (lambda: TensorDataset(torch.ones(3, requires_grad=True), torch.ones(3)), "or trained"),
    "no pair": (lambda: Made(noise), "its samples are not pairs of inputs and targets"),
    "triples": (lambda: Made(lambda i: (i, i, i)), "its samples are not pairs of inputs and targets"),
    "dictionaries": (lambda: Made(lambda i: {"x": i, "y": i}), "its samples are not pairs of inputs and targets"),
    "texts": (lambda: Made(lambda i: ("text", i)), "(str, int) are not plain tensors or numbers"),
    "lists": (lambda: Made(lambda i: ([1, 2], i)), "(list, int) are not plain tensors or numbers"),
    "samples that learn": (lambda: Made(lambda i: (torch.ones(3, requires_grad=True), i)), "are not plain tensors"),
    "two shapes": (lambda: Made(lambda i: (noise(i, (3 + i % 2,)), i)), "(float32 [3], int) and (float32 [4], int)"),
    "two types": (lambda: Made(lambda i: (noise(i), i if i % 2 else float(i))), "(float32 [3], float) and (float32 [3], int)"),
    "one of another type": (
        lambda: Made(lambda i: (noise(i).to(torch.float64 if i == 77 else torch.float32), i)),
        "(float32 [3], int) and (float64 [3], int)",
    ),
    "a broken sample": (lambda: Made(broken), "sample 40 cannot be read (OSError: image file is truncated)"),
    "rows that are not there": (lambda: Subset(Made(noise), [1, 100]), "not all whole numbers from 0 to 99"),
    "rows from the end": (lambda: Subset(Made(noise), [-1]), "not all whole numbers from 0 to 99"),
    "rows by name": (lambda: Subset(Made(noise), ["a"]), "the indices of its subset are no numbers"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_kept_is_refused_with_a_reason(name):
    make, expected = REFUSED[name]
    said = reason(make())
    assert expected in said
    assert len(said) < 300


def test_pictures_that_nothing_turns_into_tensors_are_refused():
    assert (
        reason(with_transform(fashion_mnist_sample().train, None))
        == "its samples (Image, int) make no batch: TypeError"
    )
