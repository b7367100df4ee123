"""The order of the samples in an epoch, as a DataLoader would take them."""

import torch
from torch import Tensor


def epoch_order(num_samples: int, shuffle: bool, generator: torch.Generator) -> Tensor:
    """The samples of one whole pass, int64 [N] on the CPU.

    `torch.utils.data.DataLoader(..., shuffle=shuffle, generator=generator)` gives them in the same order, whatever its batch
    size, and leaves the generator in the same state; so do any number of epochs, one after another.
    """
    # first of all, a DataLoader draws a seed for processes that load batches, though there may be none
    torch.empty((), dtype=torch.int64, device="cpu").random_(generator=generator)
    if not shuffle:
        return torch.arange(num_samples, device="cpu")
    order = torch.randperm(num_samples, generator=generator, device="cpu")
    # at the end, RandomSampler draws one more order for what is left of the samples, which is none
    torch.randperm(num_samples, generator=generator, device="cpu")
    return order
