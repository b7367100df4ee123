"""Resident data: batches by index that a DataLoader would have given, to the last bit, from one copy."""

import gc
import weakref
from collections import namedtuple
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch.utils.data import ConcatDataset, Dataset, StackDataset, Subset, TensorDataset, default_collate, random_split
from torchvision import datasets, transforms
from torchvision.transforms import v2

from runmanager.data.fashion_mnist import fashion_mnist_sample
from runmanager.data.resident import memory_budget
from runmanager.data.splits import stratified_split
from tests.data.kept import (
    GIB,
    Made,
    assert_like_a_dataloader,
    assert_same,
    keep,
    noise,
    pixels,
    reason,
    with_transform,
)

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"))]
TO_FLOAT = v2.ToDtype(torch.float32, scale=True)
Pair = namedtuple("Pair", ["picture", "label"])


@pytest.fixture(scope="module")
def fashion():
    return fashion_mnist_sample().train


class FakeCIFAR(datasets.CIFAR10):
    """torchvision's class with pictures that need no download."""

    def __init__(self, transform, size=300):
        generator = np.random.default_rng(0)
        self.data = generator.integers(0, 256, (size, 32, 32, 3), dtype=np.uint8)
        self.targets = generator.integers(0, 10, size).tolist()
        self.transform, self.target_transform = transform, None


def broken(index):
    if index == 40:
        raise OSError("image file is truncated")
    return noise(index), index


# -- bit-equal to a DataLoader

SETS = {
    "tensors": lambda: TensorDataset(torch.randn(50, 3), torch.arange(50)),
    "tensors in channels-last order": lambda: TensorDataset(torch.rand(20, 5, 6, 3).permute(0, 3, 1, 2), torch.rand(20)),
    "tensors every second of which counts": lambda: TensorDataset(torch.rand(40, 3)[::2], torch.arange(40)[::2]),
    "bfloat16 and complex": lambda: TensorDataset(torch.randn(30, 2).bfloat16(), torch.randn(30, dtype=torch.complex64)),
    "bytes of pictures": lambda: Made(lambda i: (pixels(i), i % 10)),
    "pictures by division": lambda: Made(lambda i: (pixels(i).float().div(255), i % 10)),
    "pictures by multiplication": lambda: Made(lambda i: (pixels(i).float().mul(1 / 255), i % 10)),
    "normalized pictures": lambda: Made(lambda i: ((pixels(i).float() / 255 - 0.3) / 0.2, i % 10)),
    "float64 pictures": lambda: Made(lambda i: (pixels(i).double() / 255, i)),
    "pictures but for the last": lambda: Made(lambda i: (pixels(i) / 255 if i < 698 else noise(i, (1, 4, 4)), i), 700),
    "black, then by multiplication": lambda: Made(lambda i: (pixels(i).float().mul(1 / 255 if i > 600 else 0), i), 700),
    "a negative zero": lambda: Made(lambda i: (torch.full((2,), -0.0 if i == 50 else 0.0), i)),
    "not a number": lambda: Made(lambda i: (torch.full((2,), float("nan") if i % 2 else 1.0), i)),
    "infinity and large numbers": lambda: Made(lambda i: (torch.tensor([float("inf"), 1e30, -5.0, 300.0]), i)),
    "numbers in and out": lambda: Made(lambda i: (i / 7, i % 2 == 0)),
    "complex numbers": lambda: Made(lambda i: (torch.complex(noise(i), noise(-i)), i)),
    "wide complex numbers": lambda: Made(lambda i: (torch.complex(noise(i), noise(-i)).to(torch.complex128), i)),
    "bfloat16": lambda: Made(lambda i: (noise(i).bfloat16(), i)),
    "numpy arrays": lambda: Made(lambda i: (np.arange(4) * i, np.float32(i) / 3)),
    "lists as pairs": lambda: Made(lambda i: [noise(i), noise(i + 1)]),
    "named pairs": lambda: Made(lambda i: Pair(noise(i), i)),
    "targets of several numbers": lambda: Made(lambda i: (noise(i), noise(i, (2, 2)))),
    "inputs without a number": lambda: Made(lambda i: (torch.empty(0), i)),
    "one sample": lambda: Made(lambda i: (noise(i), i), 1),
    "two samples": lambda: Made(lambda i: (noise(i), i), 2),
    "more than a chunk": lambda: Made(lambda i: (noise(i), i), 1300),
    "a concatenation": lambda: ConcatDataset([Made(lambda i: (noise(i), i), 30), Made(lambda i: (noise(-i), i), 20)]),
    "a stack": lambda: StackDataset(Made(noise, 30), Made(lambda i: i, 30)),
    "a subset": lambda: Subset(Made(lambda i: (noise(i), i)), [5, 3, 99, 3, 0]),
    "a subset of a subset": lambda: Subset(Subset(Made(lambda i: (noise(i), i)), range(90, 10, -1)), np.arange(5, 40)),
    "a subset of tensors": lambda: Subset(TensorDataset(torch.randn(50, 3), torch.arange(50)), torch.tensor([4, 1])),
    "a random split": lambda: random_split(Made(lambda i: (noise(i), i)), [0.8, 0.2])[1],
    "fake data that puts its generator back": lambda: datasets.FakeData(40, (3, 8, 8), 10, transforms.ToTensor()),
    "CIFAR": lambda: FakeCIFAR(transforms.ToTensor()),
    "CIFAR by v2": lambda: FakeCIFAR(v2.Compose([v2.ToImage(), TO_FLOAT])),
    "a part of CIFAR": lambda: Subset(FakeCIFAR(transforms.Compose([transforms.ToTensor()])), range(20, 200, 3)),
    "normalized CIFAR": lambda: FakeCIFAR(transforms.Compose([transforms.ToTensor(), transforms.Normalize([0.5] * 3, [0.2] * 3)])),
}  # fmt: skip


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", SETS)
def test_batches_are_those_of_a_dataloader_to_the_last_bit(name, device):
    dataset = SETS[name]()
    kept = keep(dataset, device)
    assert (len(kept), kept.device.type) == (len(dataset), device)
    assert_like_a_dataloader(dataset, kept)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(
    "transform",
    [
        transforms.ToTensor(),
        transforms.Compose([transforms.ToTensor()]),
        v2.Compose([v2.ToImage(), TO_FLOAT]),
        v2.Compose([v2.PILToTensor(), v2.ToDtype(torch.float32)]),
        transforms.PILToTensor(),
        transforms.Compose([transforms.ToTensor(), transforms.Normalize(0.2860, 0.3530)]),
        transforms.Compose([transforms.Resize(14), transforms.ToTensor(), torch.flatten]),
    ],
    ids=str,
)
def test_fashion_mnist_is_that_of_a_dataloader_to_the_last_bit(fashion, transform, device):
    dataset = Subset(with_transform(fashion, transform), range(0, 6000, 4))
    assert_like_a_dataloader(dataset, keep(dataset, device), batch_size=100)


def test_a_target_transform_is_applied(fashion):
    dataset = with_transform(fashion, transforms.ToTensor(), target_transform=lambda target: float(target > 4))
    assert_like_a_dataloader(dataset, keep(dataset), batch_size=1000, epochs=1)


def test_an_own_class_of_fashion_mnist_is_read_as_it_reads_itself(fashion):
    class Inverted(type(fashion)):
        def __getitem__(self, index):
            image, label = super().__getitem__(index)
            return (1 - image if index == 1234 else image), label

    dataset = with_transform(fashion, transforms.ToTensor())
    dataset.__class__ = Inverted
    assert_same(keep(dataset).batch(torch.tensor([1233, 1234])), default_collate([dataset[1233], dataset[1234]]))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("scale", [lambda x: x.float().div(255), lambda x: x.float().mul(1 / 255)])
def test_every_byte_becomes_the_number_that_it_was(scale, device):
    dataset = Made(lambda i: (scale(torch.tensor([i, 255 - i], dtype=torch.uint8)), i), 256)
    kept = keep(dataset, device)
    assert kept.num_bytes == 256 * (2 + 8)
    assert_same(kept.batch(torch.arange(256, device=device)), default_collate([dataset[i] for i in range(256)]))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", ["tensors", "pictures by division", "a subset of a subset", "numbers in and out"])
def test_the_batches_of_several_members_are_taken_at_once(name, device):
    dataset = SETS[name]()
    kept = keep(dataset, device)
    rows = torch.randint(0, len(dataset), (3, 5), device=device)
    inputs, targets = kept.batch(rows)
    for member in range(3):
        assert_same((inputs[member], targets[member]), kept.batch(rows[member]))
    assert inputs.shape[:2] == targets.shape[:2] == (3, 5)


def test_numbers_are_as_wide_whatever_torch_takes_for_granted(fashion):
    torch.set_default_dtype(torch.float64)
    try:
        dataset = Subset(with_transform(fashion, transforms.ToTensor()), range(3000))
        assert_like_a_dataloader(dataset, keep(dataset), batch_size=500, epochs=1)
    finally:
        torch.set_default_dtype(torch.float32)


# -- what it takes


def test_pictures_take_a_byte_for_each_pixel(fashion):
    labels = 6000 * 8
    for transform in (
        transforms.ToTensor(),
        v2.Compose([v2.ToImage(), TO_FLOAT]),
        lambda image: transforms.ToTensor()(image),
    ):
        assert keep(with_transform(fashion, transform)).num_bytes == 6000 * 784 + labels


def test_pictures_are_not_read_one_by_one(fashion):
    reads = []

    class Counting(transforms.ToTensor):
        pass

    Counting.__module__, Counting.__name__ = transforms.ToTensor.__module__, "ToTensor"
    Counting.__call__ = lambda self, picture: reads.append(1) or transforms.ToTensor()(picture)
    keep(with_transform(fashion, Counting()))
    assert len(reads) < 100


def test_tensors_on_the_device_are_not_copied():
    dataset = TensorDataset(torch.zeros(10, 2), torch.zeros(10))
    kept = keep(dataset, budget=0)
    dataset.tensors[0][4] = 1
    assert kept.batch(torch.tensor([4]))[0].tolist() == [[1, 1]]


def test_pictures_of_fashion_mnist_are_not_copied(fashion):
    assert keep(with_transform(fashion, transforms.ToTensor()), budget=0).num_bytes == 6000 * (784 + 8)


def test_numbers_are_read_within_a_budget_for_the_bytes_they_came_from():
    dataset = Made(lambda i: (pixels(i).float().div(255), i))
    assert keep(dataset, budget=100 * (16 + 8)).num_bytes == 100 * (16 + 8)
    assert reason(Made(dataset.make), budget=1000) == "it takes 2.3 KiB, and may take 1000 bytes on cpu"


def test_too_large_a_set_is_refused_before_it_is_read():
    dataset = Made(lambda i: (torch.zeros(1024, 1024).log(), i), 5_000)
    assert reason(dataset, budget=3 * GIB // 2) == "it takes 19.5 GiB, and may take 1.5 GiB on cpu"
    assert dataset.num_read < 50


def test_a_set_that_turns_out_to_be_too_large_is_refused_then():
    dataset = Made(lambda i: (torch.full((100,), 1.0 if i != 777 else 0.123), i), 1000)
    assert reason(dataset, budget=200_000) == "it takes 390.6 KiB, and may take 195.3 KiB on cpu"


def test_a_part_that_fits_is_kept_where_the_whole_does_not():
    dataset = Subset(Made(lambda i: (noise(i), i)), range(0, 100, 2))
    kept = keep(dataset, budget=50 * (12 + 8))
    assert kept.num_bytes == 50 * (12 + 8)
    assert_like_a_dataloader(dataset, kept)


def test_a_few_samples_of_a_large_set_are_read_alone():
    base = Made(lambda i: (noise(i), i), 20_000)
    dataset = Subset(base, range(0, 20_000, 200))
    kept = keep(dataset)
    assert base.num_read < 500
    assert_like_a_dataloader(dataset, kept)


# -- one copy for all


def test_two_parts_of_one_set_share_one_copy():
    base = Made(lambda i: (noise(i), i))
    train, validation = stratified_split(base, 0.2, seed=0)
    base.num_read = 0
    kept = [keep(train), keep(validation), keep(base), keep(Subset(train, [1, 2]))]
    assert [len(one) for one in kept] == [80, 20, 100, 2]
    assert base.num_read < 300
    assert len({one._inputs._values.data_ptr() for one in kept}) == 1
    for part, one in zip((train, validation), kept, strict=False):
        assert_like_a_dataloader(part, one)


def test_the_copy_is_forgotten_with_its_set():
    base = Made(lambda i: (noise(i), i))
    values = weakref.ref(keep(Subset(base, range(60)))._inputs._values)
    assert keep(base)._inputs._values is values()
    del base
    gc.collect()
    assert values() is None


def test_batches_outlive_their_set():
    base = Made(lambda i: (noise(i), i))
    kept, expected = keep(base), [base[3], base[4]]
    del base
    gc.collect()
    assert_same(kept.batch(torch.tensor([3, 4])), default_collate(expected))


def test_a_new_set_is_never_taken_for_one_that_died():
    for shift in range(30):
        dataset = Made(lambda i, shift=shift: (noise(i + shift), i), 10)
        assert_same(keep(dataset).batch(torch.tensor([0])), default_collate([dataset[0]]))
        del dataset


def test_sets_without_a_hash_or_weak_references_are_kept_too():
    @dataclass
    class Unhashed(Dataset):
        shift: int

        def __getitem__(self, index):
            return noise(index + self.shift), index

        def __len__(self):
            return 10

    for dataset in (Unhashed(0), Unhashed(0), Unhashed(1), Subset([(noise(i), i) for i in range(10)], range(5))):
        assert_like_a_dataloader(dataset, keep(dataset))


def test_a_set_that_was_changed_is_read_again(fashion):
    dataset = with_transform(fashion, transforms.ToTensor())
    before = keep(dataset).num_bytes
    dataset.transform = transforms.Compose([transforms.ToTensor(), transforms.Normalize(0.3, 0.3)])
    assert keep(dataset).num_bytes > before
    assert_like_a_dataloader(dataset, keep(dataset), batch_size=3000, epochs=1)


def test_a_part_without_the_samples_that_cannot_be_kept_is_kept_alone():
    base = Made(broken)
    dataset = Subset(base, [index for index in range(100) if index != 40])
    assert_like_a_dataloader(dataset, keep(dataset))
    assert "sample 40 cannot be read" in reason(base)


def test_pictures_that_do_not_tell_how_they_are_scaled_are_all_read():
    dataset = FakeCIFAR(v2.Compose([v2.ToImage(), TO_FLOAT]), size=1000)
    dataset.data[:] = 0
    dataset.data[601] = np.arange(32)[:, None, None]
    assert_like_a_dataloader(dataset, keep(dataset), batch_size=100)


def test_one_changed_target_is_noticed():
    dataset = FakeCIFAR(transforms.ToTensor())
    keep(dataset)
    dataset.targets[77] = 99
    assert keep(dataset).batch(torch.tensor([77]))[1].tolist() == [99]


def test_a_set_that_became_random_is_refused_and_one_that_became_plain_is_kept(fashion):
    dataset = with_transform(fashion, transforms.ToTensor())
    plain = dataset.transform
    for _ in range(2):
        keep(dataset)
        dataset.transform = transforms.Compose([transforms.RandomHorizontalFlip(), plain])
        assert "random numbers of torch" in reason(dataset)
        dataset.transform = plain


def test_what_took_long_to_refuse_is_not_read_again():
    dataset = Made(lambda i: (noise(i, (3 if i != 77 else 4,)), i))
    first = reason(dataset)
    num_read = dataset.num_read
    assert reason(dataset) == first == "its samples differ: there are (float32 [3], int) and (float32 [4], int)"
    assert dataset.num_read == num_read


# -- how much there may be


def test_the_budget_is_a_workers_share_of_a_quarter_of_what_is_free(monkeypatch):
    monkeypatch.setattr("runmanager.data.resident.memory", lambda: (100.0 * GIB, 40.0 * GIB))
    for workers, expected in ((None, 10), ("2", 5), ("1", 10), ("0", 10), ("many", 10)):
        monkeypatch.delenv("RUNMANAGER_WORKERS", raising=False)
        if workers:
            monkeypatch.setenv("RUNMANAGER_WORKERS", workers)
        assert memory_budget("cpu") == expected * GIB


def test_a_system_that_tells_nothing_has_no_budget(monkeypatch):
    monkeypatch.setattr("runmanager.data.resident.memory", lambda: (float("inf"), float("inf")))
    assert memory_budget(torch.device("cpu")) > 2**60


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_the_budget_of_a_gpu_is_half_of_what_is_free_there():
    assert memory_budget("cuda") == pytest.approx(torch.cuda.mem_get_info()[0] / 2, rel=0.1)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_has_a_copy_of_its_own_for_all_parts():
    base = TensorDataset(torch.randn(50, 3), torch.arange(50))
    kept = [keep(Subset(base, range(40)), "cuda"), keep(Subset(base, range(40, 50)), "cuda:0")]
    assert len({one._inputs._values.data_ptr() for one in kept}) == 1
    assert keep(base).device.type == "cpu"
    assert "may take 100 bytes on cuda:0" in reason(TensorDataset(*base.tensors), device="cuda", budget=100)
