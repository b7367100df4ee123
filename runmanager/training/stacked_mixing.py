"""Mixup and cutmix of the batches of K networks, each by its own settings and with its own draws."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Generator, Tensor

from runmanager.training.recipes.mixing import Mixing


class StackedMixing:
    """Mixes one member's batch after another, to the last bit as each does alone."""

    def __init__(self, mixings: Sequence[Mixing], generators: Sequence[Generator]) -> None:
        """Takes each member's mixing, and the generator on the CPU that stands for the global one that it draws from."""
        self._mixings, self.generators = list(mixings), list(generators)

    def __call__(self, inputs: Tensor, targets: Tensor, *, shared: bool) -> tuple[Tensor, Tensor]:
        """Mixed inputs [K, N, ...], and shares of the classes [K, N, C].

        Args:
            inputs: [K, N, ...], or [N, ...] where all members have the same.
            targets: [K, N], or [N].
            shared: whether they have.
        """
        batches = [(inputs, targets)] * len(self._mixings) if shared else list(zip(inputs, targets, strict=True))
        mixed = []
        for mixing, generator, batch in zip(self._mixings, self.generators, batches, strict=True):
            with _drawing_from(generator):
                mixed.append(mixing(*batch))
        return torch.stack([one for one, _ in mixed]), torch.stack([shares for _, shares in mixed])

    def keep(self, indices: Sequence[int]) -> None:
        """Goes on with some of the members."""
        self._mixings = [self._mixings[index] for index in indices]
        self.generators = [self.generators[index] for index in indices]


@contextmanager
def _drawing_from(generator: Generator) -> Iterator[None]:
    """What draws from torch's global generator on the CPU draws from this one."""
    before = torch.get_rng_state()
    torch.set_rng_state(generator.get_state())
    try:
        yield
    finally:
        generator.set_state(torch.get_rng_state())
        torch.set_rng_state(before)
