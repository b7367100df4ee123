"""How many samples a batch holds."""

import pytest
import torch
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    IterableDataset,
    SequentialSampler,
    Subset,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
)

from runmanager.tracking.batches import BatchSizes, batch_length
from runmanager.tracking.errors import UnknownBatchSizeError

TEN = TensorDataset(torch.arange(10.0).reshape(10, 1), torch.zeros(10))

LOADERS = {
    "divides": DataLoader(TEN, batch_size=5),
    "short last batch": DataLoader(TEN, batch_size=4),
    "drop_last": DataLoader(TEN, batch_size=4, drop_last=True),
    "larger than the data": DataLoader(TEN, batch_size=32),
    "shuffled": DataLoader(TEN, batch_size=3, shuffle=True),
    "subset": DataLoader(Subset(TEN, [1, 3, 5, 7, 9]), batch_size=2),
    "subset sampler": DataLoader(TEN, batch_size=2, sampler=SubsetRandomSampler([0, 1, 2])),
    "more draws than samples": DataLoader(TEN, batch_size=8, sampler=WeightedRandomSampler([1.0] * 10, 25)),
    "plain batch sampler": DataLoader(TEN, batch_sampler=BatchSampler(SequentialSampler(TEN), 4, False)),
}


@pytest.mark.parametrize("name", LOADERS)
def test_the_loader_tells_the_size_of_each_batch_it_gives(name: str) -> None:
    loader = LOADERS[name]
    given = [len(inputs) for inputs, _ in loader]
    sizes = BatchSizes(loader)
    assert [sizes.size_of(index) for index in range(len(given))] == given
    with pytest.raises(UnknownBatchSizeError, match=rf"{len(given) + 1} times.*{len(given)} batches.*pass the batch"):
        sizes.size_of(len(given))


class Stream(IterableDataset):
    def __iter__(self):
        return iter(TEN)


class OddBatches:
    """A batch sampler of the user's own: sizes 1, 2, 3, 4."""

    def __iter__(self):
        return iter([[0], [1, 2], [3, 4, 5], [6, 7, 8, 9]])

    def __len__(self):
        return 4


@pytest.mark.parametrize(
    "loader",
    [DataLoader(Stream(), batch_size=2), DataLoader(TEN, batch_sampler=OddBatches()), [(1, 2)], None],
    ids=["stream", "batch sampler", "list", "none"],
)
def test_what_cannot_be_known_asks_for_the_batch(loader) -> None:
    with pytest.raises(UnknownBatchSizeError, match=r"track_loss\(loss, batch\)"):
        BatchSizes(loader).size_of(0)


@pytest.mark.parametrize(
    "batch",
    [
        torch.zeros(7, 3),
        (torch.zeros(7, 3), torch.zeros(7)),
        [torch.zeros(7), torch.zeros(1)],
        {"image": torch.zeros(7, 2), "label": torch.zeros(7)},
        [{"text": torch.zeros(7, 5)}, torch.zeros(7)],
        [["a", "b", "c", "d", "e", "f", "g"], torch.zeros(7)],
    ],
    ids=["tensor", "pair", "list", "dict", "dict in list", "strings"],
)
def test_a_batch_tells_its_length(batch) -> None:
    assert batch_length(batch) == 7


@pytest.mark.parametrize("batch", [3, torch.tensor(1.0)], ids=["number", "scalar tensor"])
def test_a_batch_without_a_length_is_refused(batch) -> None:
    with pytest.raises(UnknownBatchSizeError, match="without a length"):
        batch_length(batch)
