"""Data sets to be kept on a device, and how they are held against a DataLoader."""

import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from runmanager.data.order import epoch_order
from runmanager.data.resident import NotResident, Resident, resident

GIB = 2**30


class Made(Dataset):
    """Sample i is `make(i)`; it counts how often samples are read."""

    def __init__(self, make, size=100):
        self.make, self.size, self.num_read = make, size, 0

    def __getitem__(self, index):
        if not 0 <= index < self.size:
            raise IndexError(index)
        self.num_read += 1
        return self.make(index)

    def __len__(self):
        return self.size


def keep(dataset, device="cpu", budget=GIB, **options) -> Resident:
    return resident(dataset, device, budget=budget, **options)


def reason(dataset, **options) -> str:
    with pytest.raises(NotResident) as caught:
        keep(dataset, **options)
    return str(caught.value)


def bits(tensor):
    return tensor.cpu().reshape(-1).view(torch.uint8).numpy().tobytes()


def assert_same(ours, theirs):
    for one, other in zip(ours, theirs, strict=True):
        assert (one.dtype, one.shape) == (other.dtype, other.shape)
        assert one.is_contiguous()
        assert other.is_contiguous()
        assert bits(one) == bits(other)


def assert_like_a_dataloader(dataset, kept, *, batch_size=7, epochs=2):
    """Every batch of some shuffled epochs, and of one in order."""
    for shuffle in (True, False):
        ours, theirs = torch.Generator().manual_seed(5), torch.Generator().manual_seed(5)
        loader = DataLoader(dataset, batch_size=batch_size, shuffle=shuffle, generator=theirs)
        for _ in range(epochs):
            order = epoch_order(len(kept), shuffle, ours).to(kept.device)
            batches = [kept.batch(rows) for rows in order.split(batch_size)]
            assert len(batches) == len(loader)
            for one, other in zip(batches, loader, strict=True):
                assert_same(one, other)


def pixels(index, shape=(1, 4, 4)):
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(index))


def noise(index, shape=(3,)):
    return torch.randn(shape, generator=torch.Generator().manual_seed(index))


def with_transform(fashion, transform, **changes):
    """The data set with another transform; its pictures are shared."""
    other = object.__new__(type(fashion))
    other.__dict__.update(fashion.__dict__, transform=transform, **changes)
    return other
