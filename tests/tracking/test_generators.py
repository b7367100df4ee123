"""Generators that objects keep for themselves are found where people keep them, and put back."""

import random
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import Dataset, Subset

from runmanager.tracking.generators import Rewind, own_generators

MAKERS = {
    "numpy": lambda: np.random.default_rng(1),
    "numpy, Mersenne": lambda: np.random.Generator(np.random.MT19937(1)),
    "numpy, Philox": lambda: np.random.Generator(np.random.Philox(1)),
    "numpy, of old": lambda: np.random.RandomState(1),
    "torch": lambda: torch.Generator().manual_seed(1),
    "python": lambda: random.Random(1),
}


def drawn(generator):
    return torch.rand((), generator=generator).item() if isinstance(generator, torch.Generator) else generator.random()


class Noisy(Dataset):
    def __init__(self, rng):
        self.rng = rng


class Transform:
    def __init__(self, rng):
        self.transforms = [print, partial(drawn, rng)]


class Drop(nn.Module):
    def __init__(self, rng):
        super().__init__()
        self.rng = rng


def in_a_closure(rng):
    return Noisy(lambda: rng.random())


def deep(rng):
    network = Drop(rng)
    for _ in range(8):
        network = nn.Sequential(network)
    return network


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_a_generator_is_put_back_to_where_it_was(make):
    generator = make()
    drawn(generator)
    rewind = Rewind(own_generators({"data": Noisy(generator)}))
    once = [drawn(generator) for _ in range(3)]
    for _ in range(2):
        rewind()
        assert [drawn(generator) for _ in range(3)] == once


@pytest.mark.parametrize(
    ("hold", "path"),
    [
        (Noisy, "data.rng"),
        (lambda rng: Subset(Subset(Noisy(rng), [0]), [0]), "data.dataset.dataset.rng"),
        (lambda rng: Noisy({"inner": [rng]}), "data.rng.inner.0"),
        (lambda rng: Noisy(Transform(rng)), "data.rng.transforms.1.arguments.0"),
        (in_a_closure, "data.rng.rng"),
        (lambda rng: Noisy(rng.random), "data.rng.self"),
        (deep, "data" + ".0" * 8 + ".rng"),
    ],
)
def test_it_is_found_where_it_is_kept(hold, path):
    generator = random.Random(1)
    owner = hold(generator)
    assert own_generators({"data": owner, "again": owner}) == {path: generator}


def test_the_generators_that_all_share_are_nobodys_own():
    owner = Noisy([torch.default_generator, np.random.mtrand._rand, random, random.random, random.SystemRandom(), np])
    assert own_generators({"data": owner}) == {}


def test_samples_are_not_searched():
    assert own_generators({"data": Noisy([random.Random(1)] * 101)}) == {}


def test_hooks_on_a_network_lead_nowhere():
    network = nn.Linear(1, 1)
    network.register_forward_hook(partial(drawn, random.Random(1)))
    assert own_generators({"network": network}) == {}


def test_a_circle_has_an_end():
    owner = Noisy(None)
    owner.rng = [owner]
    assert own_generators({"data": owner}) == {}
