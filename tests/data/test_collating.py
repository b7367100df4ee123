"""Samples that make no batch, or one whose numbers do not suit a network, and what is said of them."""

import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from runmanager.data.collating import advice, collated, first_batch
from runmanager.data.splits import DataError
from tests.data.kept import Made


def words(function, *arguments):
    with pytest.raises(DataError) as caught:
        function(*arguments)
    return str(caught.value)


def test_the_first_batch_is_that_of_a_dataloader():
    data = Made(lambda i: (torch.full((2,), float(i)), i))
    theirs = next(iter(DataLoader(data, batch_size=3)))
    assert all(map(torch.equal, first_batch(data, 3), theirs))


@pytest.mark.parametrize(
    ("odd", "said"),
    [
        (
            (Image.new("RGB", (4, 4)), 1),
            "sample 2 of a batch has inputs of type Image; turn them into tensors, as .*ToTensor",
        ),
        ((None, 1), "sample 2 of a batch has inputs of type NoneType"),
        ((torch.zeros(2), "cat"), r"sample 2 of a batch has targets of type str \('cat'\); give each class a number"),
        ((torch.zeros(2), None), "sample 2 of a batch has targets of type NoneType; give a number or a tensor"),
        (
            (torch.zeros(3), 1),
            r"sample 2 of a batch has inputs float32 \[3\], and the first has float32 \[2\]; make them alike",
        ),
        ((torch.zeros(2), torch.zeros(2)), r"sample 2 of a batch has targets float32 \[2\], and the first has int"),
        (torch.zeros(2), r"no \(inputs, targets\) pairs of tensors; let __getitem__ return such a pair"),
    ],
)
def test_what_makes_no_batch_is_told_with_its_sample_and_what_to_do(odd, said):
    data = Made(lambda i: odd if i == 2 else (torch.zeros(2), 1))
    with pytest.raises(DataError, match=said):
        first_batch(data, 3)
    with pytest.raises(DataError, match=said):
        list(DataLoader(data, batch_size=3, collate_fn=collated))


@pytest.mark.parametrize("data", [Made(lambda i: (torch.zeros(2), "cat")), Made(lambda i: (torch.zeros(2), 1, 2))])
def test_what_a_dataloader_stacks_to_other_things_than_two_tensors_is_refused(data):
    assert "give each class a number" in words(first_batch, data, 2) or "no (inputs, targets)" in words(
        first_batch, data, 2
    )


def test_data_that_turns_out_to_be_empty_is_told():
    class Nothing(IterableDataset):
        def __iter__(self):
            return iter(())

    assert words(first_batch, Nothing(), 2).startswith(
        "the training data (Nothing) is empty; look at where its samples"
    )


def test_what_a_data_set_raises_itself_is_not_hidden():
    with pytest.raises(ZeroDivisionError):
        first_batch(Made(lambda i: 1 // 0), 2)


CONVOLUTION = nn.Sequential(nn.Conv2d(3, 2, 3), nn.Flatten(), nn.Linear(8, 2))


@pytest.mark.parametrize(
    ("network", "inputs", "targets", "said"),
    [
        (
            CONVOLUTION,
            torch.zeros(2, 3, 4, 4, dtype=torch.uint8),
            torch.tensor([0, 1]),
            "are uint8 [2, 3, 4, 4]: turn them into ",
        ),
        (
            nn.Linear(4, 2),
            torch.zeros(2, 4, dtype=torch.int64),
            torch.tensor([0, 1]),
            "v2.ToDtype(torch.float32, scale=True)",
        ),
        (
            nn.Linear(4, 2),
            torch.zeros(2, 4).double(),
            torch.tensor([0, 1]),
            "are float64 [2, 4]: turn them into float32",
        ),
        (nn.Linear(4, 2), torch.zeros(2, 4), torch.tensor([0.0, 1.0]), "are float32 [2], and classes are int64"),
        (nn.Linear(4, 2), torch.zeros(2, 4), torch.tensor([True, False]), "are bool [2], and classes are int64"),
        (
            nn.Linear(4, 2),
            torch.zeros(2, 4),
            torch.tensor([[0], [1]]),
            "are int64 [2, 1]: give one number for each sample",
        ),
    ],
)
def test_where_torch_complains_of_a_type_the_way_out_is_added(network, inputs, targets, said):
    with pytest.raises(RuntimeError) as caught:
        F.cross_entropy(network(inputs), targets)
    assert said in advice(inputs, targets, caught.value)


def test_of_other_faults_nothing_is_added_though_inputs_are_no_floats():
    tokens, targets = torch.tensor([[3, 99]]), torch.tensor([0])
    with pytest.raises(IndexError) as caught:
        nn.Embedding(9, 4)(tokens)
    assert advice(tokens, targets, caught.value) == ""
    with pytest.raises(RuntimeError) as caught:
        nn.Linear(5, 2)(torch.zeros(2, 4))
    assert advice(torch.zeros(2, 4), targets, caught.value) == ""


def test_data_of_tensors_makes_the_batches_that_it_made():
    data = TensorDataset(torch.rand(7, 2), torch.arange(7))
    ours, theirs = (DataLoader(data, batch_size=3, **more) for more in ({"collate_fn": collated}, {}))
    for batch, other in zip(ours, theirs, strict=True):
        assert all(map(torch.equal, batch, other))
