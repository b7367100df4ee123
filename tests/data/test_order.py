"""The order of an epoch, held against the real DataLoader."""

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from runmanager.data.order import epoch_order

EPOCHS = 3


@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize(
    ("size", "batch_size"),
    [(1, 1), (1, 5), (2, 1), (10, 5), (11, 5), (11, 11), (11, 100), (1000, 7), (40_000, 1000), (40_001, 999)],
)
def test_the_order_and_the_generator_are_those_of_a_dataloader_epoch_after_epoch(size, batch_size, shuffle):
    ours, theirs = torch.Generator().manual_seed(7), torch.Generator().manual_seed(7)
    loader = DataLoader(TensorDataset(torch.arange(size)), batch_size=batch_size, shuffle=shuffle, generator=theirs)
    for _ in range(EPOCHS):
        order = epoch_order(size, shuffle, ours)
        assert (order.dtype, order.device.type, order.shape) == (torch.int64, "cpu", (size,))
        assert torch.equal(order, torch.cat([samples for (samples,) in loader]))
        assert torch.equal(ours.get_state(), theirs.get_state())


def test_the_epochs_of_a_shuffled_set_differ_and_each_has_every_sample():
    generator = torch.Generator().manual_seed(0)
    epochs = [epoch_order(100, True, generator) for _ in range(EPOCHS)]
    assert not torch.equal(epochs[0], epochs[1])
    for order in epochs:
        assert order.sort().values.tolist() == list(range(100))


def test_an_order_that_goes_on_from_a_saved_generator_is_the_one_that_would_have_come():
    generator = torch.Generator().manual_seed(3)
    epoch_order(50, True, generator)
    saved = generator.get_state()
    expected = epoch_order(50, True, generator)
    assert torch.equal(epoch_order(50, True, torch.Generator().set_state(saved)), expected)


def test_only_the_given_generator_draws():
    torch.manual_seed(1)
    before = torch.get_rng_state()
    epoch_order(50, True, torch.Generator().manual_seed(3))
    assert torch.equal(torch.get_rng_state(), before)
