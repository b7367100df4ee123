"""Random data: noticed whoever draws, refused at once, with every generator left as it was."""

import os
import random

import numpy as np
import pytest
import torch
from torch.utils.data import Dataset, Subset
from torchvision import transforms
from torchvision.transforms import v2

from runmanager.data.fashion_mnist import fashion_mnist_sample
from tests.data.kept import Made, keep, noise, reason, with_transform

TO_FLOAT = v2.ToDtype(torch.float32, scale=True)


@pytest.fixture(scope="module")
def fashion():
    return fashion_mnist_sample().train


class OwnGenerator(Dataset):
    """A few of its samples get noise from a generator of its own."""

    def __init__(self, p):
        self.generator, self.p = torch.Generator().manual_seed(0), p

    def __getitem__(self, index):
        is_noisy = torch.rand((), generator=self.generator) < self.p
        return torch.full((3,), float(is_noisy)), index

    def __len__(self):
        return 1000


def python_flip(image):
    return image.transpose(0) if random.random() < 0.5 else image


def numpy_shift(image):
    return image + np.random.normal()


def crypto_noise(image):
    return image + os.urandom(1)[0]


RANDOM = {
    "flip": (transforms.Compose([transforms.RandomHorizontalFlip(), transforms.ToTensor()]), "random numbers of torch"),
    "rare flip": (
        transforms.Compose([transforms.RandomHorizontalFlip(0.01), transforms.ToTensor()]),
        "random numbers of torch",
    ),
    "crop": (
        transforms.Compose([transforms.RandomCrop(28, padding=4), transforms.ToTensor()]),
        "random numbers of torch",
    ),
    "erasing": (transforms.Compose([transforms.ToTensor(), transforms.RandomErasing(0.01)]), "random numbers of torch"),
    "rotation by v2": (v2.Compose([v2.RandomRotation(10), v2.ToImage(), TO_FLOAT]), "random numbers of torch"),
    "flip by v2": (v2.Compose([v2.ToImage(), v2.RandomHorizontalFlip(0.01), TO_FLOAT]), "random numbers of torch"),
    "augment by v2": (v2.Compose([v2.RandAugment(), v2.ToImage(), TO_FLOAT]), "random numbers of torch"),
    "dropout": (transforms.Compose([transforms.ToTensor(), torch.nn.Dropout(0.01)]), "random numbers of torch"),
    "python": (transforms.Compose([python_flip, transforms.ToTensor()]), "random numbers of python"),
    "numpy": (transforms.Compose([transforms.ToTensor(), numpy_shift]), "random numbers of numpy"),
    "the system's": (
        transforms.Compose([transforms.ToTensor(), crypto_noise]),
        "not the same when they are read again",
    ),
}


def global_states():
    return torch.get_rng_state().tolist(), random.getstate(), str(np.random.get_state())


@pytest.mark.parametrize("name", RANDOM)
def test_random_augmentation_is_refused_at_once_and_leaves_the_generators(fashion, name):
    transform, expected = RANDOM[name]
    before = global_states()
    dataset = with_transform(fashion, transform)
    assert expected in reason(Subset(dataset, range(5000)))
    assert global_states() == before


def test_a_generator_of_its_own_is_noticed_by_who_watches_it_however_seldom_it_matters():
    dataset = OwnGenerator(p=0.001)
    assert "random numbers of its own" in reason(dataset, watched=lambda: {"data": [dataset.generator.get_state()]})


def test_what_is_watched_may_be_anything_that_stays_the_same():
    states = {"a": (np.random.default_rng(0).bit_generator.state, [torch.ones(3)]), "b": random.Random(1).getstate()}
    assert keep(Made(lambda i: (noise(i), i)), watched=lambda: {**states, "c": np.ones(3)})


def test_a_generator_of_its_own_is_noticed_by_its_samples_where_nobody_watches():
    assert "not the same when they are read again" in reason(OwnGenerator(p=0.5))


@pytest.mark.parametrize("draw", [lambda: torch.rand(()), random.random, np.random.rand])
def test_a_set_that_draws_for_one_sample_alone_is_refused_and_the_generators_are_put_back(draw):
    dataset = Made(lambda i: (torch.full((2,), float(draw()) if i == 1234 else 0.0), i), 5000)
    before = global_states()
    assert "random numbers of" in reason(dataset)
    assert global_states() == before
    assert dataset.num_read < 2500


def test_a_set_that_is_plainly_random_is_refused_before_it_is_read():
    dataset = Made(lambda i: (noise(i) + os.urandom(1)[0], i), 5000)
    assert "not the same when they are read again" in reason(dataset)
    assert dataset.num_read < 100


def test_a_set_that_seeds_a_global_generator_is_refused_since_the_network_draws_from_it_too():
    def seeded(index):
        torch.manual_seed(index)
        return torch.rand(3), index

    before = global_states()
    assert "random numbers of torch" in reason(Made(seeded))
    assert global_states() == before


def test_a_set_that_changes_as_it_is_read_is_refused():
    dataset = Made(lambda i: (torch.tensor(dataset.num_read // 600), i), 5000)
    assert "not the same when they are read again" in reason(dataset)


def test_a_kept_set_leaves_the_generators_too(fashion):
    before = global_states()
    keep(with_transform(fashion, transforms.Compose([transforms.ToTensor(), transforms.Normalize(0.5, 0.5)])))
    assert global_states() == before


def test_an_interrupted_reading_leaves_the_generators():
    def interrupted(index):
        random.random()
        raise KeyboardInterrupt

    before = global_states()
    with pytest.raises(KeyboardInterrupt):
        keep(Made(interrupted))
    assert global_states() == before
