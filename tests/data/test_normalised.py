"""Normalised inputs: torchvision's own bits, measured over the training part alone, and undone for people."""

import numpy as np
import pytest
import torch
from torch.utils.data import IterableDataset, Subset, TensorDataset, default_collate
from torchvision import transforms
from torchvision.transforms import v2

from runmanager.data.fashion_mnist import fashion_mnist_sample
from runmanager.data.measuring import measured, normalised
from runmanager.data.normalised import unnormalised
from runmanager.data.splits import DataError, Splits
from tests.data.kept import Made, assert_like_a_dataloader, assert_same, keep, noise, pixels, with_transform
from tests.data.test_resident import FakeCIFAR

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"))]
GIVEN = ((0.4914, 0.4822, 0.4465), (0.247, 0.2435, 0.2616))


def colours():
    return FakeCIFAR(transforms.ToTensor())


SETS = {
    "CIFAR": lambda: colours(),
    "CIFAR by v2": lambda: FakeCIFAR(v2.Compose([v2.ToImage(), v2.ToDtype(torch.float32, scale=True)])),
    "a part of CIFAR": lambda: Subset(colours(), range(5, 200, 3)),
    "read one by one": lambda: Made(lambda i: (pixels(i, (3, 4, 5)).float().div(255), i % 10)),
    "tensors": lambda: TensorDataset(torch.randn(50, 3, 4, 2), torch.arange(50)),
    "float64": lambda: TensorDataset(torch.randn(50, 3, 4, 2).double(), torch.arange(50)),
    "half": lambda: TensorDataset(torch.randn(50, 3, 4, 2).half(), torch.arange(50)),
    "bfloat16": lambda: Made(lambda i: (noise(i, (3, 4, 2)).bfloat16(), i)),
    "short films": lambda: TensorDataset(torch.randn(20, 5, 3, 4, 2), torch.arange(20)),
    "numpy arrays": lambda: Made(lambda i: (np.arange(24, dtype=np.float32).reshape(3, 2, 4) * i, i)),
}


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", SETS)
@pytest.mark.parametrize("how", [GIVEN, (0.3, 0.2), ((0.3,), (0.2,)), "measured"], ids=str)
def test_resident_and_loaded_batches_are_those_of_torchvisions_normalize(name, how, device):
    data = SETS[name]()
    splits = normalised(Splits(data, data, data), how)
    own = v2.Normalize(*splits.normalization)
    kept = keep(splits.train, device)
    assert_like_a_dataloader(splits.train, kept)
    rows = [3, 0, 11]
    expected = default_collate(
        [(own(torch.as_tensor(data[row][0]).as_subclass(torch.Tensor)), data[row][1]) for row in rows]
    )
    for part in (splits.train, splits.validation, splits.test):
        assert_same(default_collate([part[row] for row in rows]), expected)
    assert_same(kept.batch(torch.tensor(rows, device=device)), expected)


def test_one_number_stands_for_every_channel():
    assert normalised(Splits(colours()), (0.5, 0.25)).normalization == ((0.5,) * 3, (0.25,) * 3)


@pytest.mark.parametrize("name", ["CIFAR", "read one by one", "tensors", "short films", "bfloat16"])
def test_measured_numbers_are_those_of_numpy(name):
    data = SETS[name]()
    every = torch.stack([data[index][0] for index in range(len(data))]).double().numpy()
    axes = tuple(axis for axis in range(every.ndim) if axis != every.ndim - 3)
    found = measured(data)
    assert found.means == pytest.approx(every.mean(axes).tolist(), rel=1e-12, abs=1e-14)
    assert found.stds == pytest.approx(every.std(axes).tolist(), rel=1e-12)


def test_features_and_numbers_are_channels_of_their_own():
    table = torch.randn(40, 3) * torch.tensor([1.0, 100.0, 0.01]) + 5
    splits = normalised(Splits(TensorDataset(table, torch.arange(40))), "measured")
    values = torch.stack([splits.train[index][0] for index in range(40)])
    assert torch.allclose(values.mean(0), torch.zeros(3), atol=1e-4)
    assert torch.allclose(values.std(0, unbiased=False), torch.ones(3), atol=1e-4)
    numbers = Made(lambda i: (i / 7, i), 40)
    assert measured(numbers).means == pytest.approx([np.mean([i / 7 for i in range(40)])])
    assert_like_a_dataloader(
        normalised(Splits(numbers), "measured").train, keep(normalised(Splits(numbers), "measured").train)
    )


def test_a_large_mean_costs_no_digits_of_the_std():
    values = torch.randn(3000, 1, dtype=torch.float64) + 1e8
    assert measured(TensorDataset(values, torch.arange(3000))).stds == pytest.approx(
        [values.std(unbiased=False).item()], rel=1e-9
    )


def test_only_the_training_part_is_measured():
    inputs = torch.cat([torch.zeros(50, 1), torch.full((50, 1), 9.0)])
    train, held_out = TensorDataset(inputs[:50], torch.zeros(50)), TensorDataset(inputs[50:], torch.zeros(50))
    splits = normalised(Splits(train, held_out, held_out), "measured")
    assert splits.normalization.means == (0.0,)
    assert splits.validation[0][0] == splits.test[0][0] == 9
    cut = Splits(TensorDataset(inputs, torch.arange(100) // 50)).with_validation(0.2, 3)
    expected = torch.stack([cut.train[index][0] for index in range(80)]).double().mean().item()
    assert normalised(cut, "measured").normalization.means == pytest.approx((expected,), rel=1e-12)


def test_a_channel_that_never_varies_becomes_zero():
    inputs = torch.rand(30, 2, 3, 3)
    inputs[:, 1] = 0.1
    splits = normalised(Splits(TensorDataset(inputs, torch.arange(30))), "measured")
    assert splits.normalization.stds[1] == 1
    assert splits.train[4][0][1].abs().max() == 0


def test_pictures_of_several_sizes_are_measured_all_the_same():
    data = Made(lambda i: (noise(i, (3, 4 + i % 2, 5)), i), 30)
    every = torch.cat([data[index][0].flatten(1) for index in range(30)], 1).double()
    assert measured(data).means == pytest.approx(every.mean(1).tolist())
    assert measured(data).stds == pytest.approx(every.std(1, unbiased=False).tolist())


def test_known_pictures_stay_bytes_that_nobody_reads_one_by_one():
    fashion = fashion_mnist_sample().train
    reads = []

    class Counting(transforms.ToTensor):
        pass

    Counting.__module__, Counting.__name__ = transforms.ToTensor.__module__, "ToTensor"
    Counting.__call__ = lambda self, picture: reads.append(1) or transforms.ToTensor()(picture)
    splits = Splits(with_transform(fashion, Counting())).with_validation(0.1, 0)
    ours = normalised(splits, "measured")
    kept = [keep(part, budget=0) for part in (ours.train, ours.validation, splits.train)]
    assert len(reads) < 500
    assert [one.num_bytes for one in kept] == [6000 * (784 + 8)] * 3
    assert len({one._inputs._values.data_ptr() for one in kept}) == 1


def test_a_part_of_normalised_data_shares_its_copy():
    whole = normalised(Splits(SETS["read one by one"]()), (0.3, 0.2)).train
    part = Subset(whole, [5, 3, 77, 3])
    assert keep(part)._inputs._values is keep(whole)._inputs._values
    assert_like_a_dataloader(part, keep(part))


def test_data_that_draws_is_normalised_as_it_is_read():
    fashion = fashion_mnist_sample().train
    augmented = with_transform(fashion, transforms.Compose([transforms.RandomHorizontalFlip(), transforms.ToTensor()]))
    plain = Subset(augmented, range(300))
    before = torch.get_rng_state()
    splits = normalised(Splits(plain), "measured")
    assert torch.equal(before, torch.get_rng_state())
    own = v2.Normalize(*splits.normalization)
    for index in range(20):
        torch.manual_seed(index)
        expected = own(plain[index][0])
        torch.manual_seed(index)
        assert torch.equal(splits.train[index][0], expected)


def test_a_stream_is_normalised_as_it_comes():
    class Stream(IterableDataset):
        def __iter__(self):
            return ((torch.tensor([float(number)]), number) for number in range(10))

    splits = normalised(Splits(Stream()), "measured")
    assert splits.normalization.means == (4.5,)
    assert [inputs.item() for inputs, _ in splits.train] == pytest.approx(
        [(n - 4.5) / np.std(range(10)) for n in range(10)]
    )
    assert splits.train.as_seen(torch.tensor([[0.0], [1.0]])).flatten().tolist() == pytest.approx(
        [4.5, 4.5 + np.std(range(10))]
    )


def test_a_data_set_that_reads_many_at_once_still_does():
    class Batched(Made):
        def __getitems__(self, rows):
            self.asked = list(rows)
            return [self[row] for row in rows]

    data = Batched(lambda i: (noise(i), i))
    loader = torch.utils.data.DataLoader(normalised(Splits(data), (0.0, 2.0)).train, batch_size=5)
    inputs, _ = next(iter(loader))
    assert data.asked == [0, 1, 2, 3, 4]
    assert torch.equal(inputs, torch.stack([noise(i) for i in range(5)]) / 2)


def test_what_is_shown_is_what_it_was_and_not_darker_than_black():
    data = colours()
    splits = normalised(Splits(data), GIVEN)
    plain = torch.stack([data[index][0] for index in range(20)])
    inputs = torch.stack([splits.train[index][0] for index in range(20)])
    for seen in (unnormalised(inputs, splits), splits.train.as_seen(inputs), keep(splits.train).as_seen(inputs)):
        assert torch.allclose(seen, plain, atol=1e-6)
        assert (seen.min(), seen.max()) == (0, 1)
        assert torch.equal((seen * 255).round().byte(), (plain * 255).round().byte())
    assert unnormalised(plain, Splits(data)) is plain


def test_names_of_classes_and_targets_are_kept():
    splits = normalised(fashion_mnist_sample().with_validation(0.1, 0), "measured")
    assert splits.classes[9] == "Ankle boot"
    assert splits.num_classes == 10
    assert [len(part) for part in (splits.train, splits.validation, splits.test)] == [5400, 600, 1000]


def test_off_changes_nothing():
    splits = Splits(colours())
    assert normalised(splits, None) is splits


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_what_was_measured_here_is_not_read_again_for_another_device():
    data = SETS["read one by one"]()
    splits = normalised(Splits(data), "measured")
    data.num_read = 0
    kept = keep(splits.train, "cuda")
    assert data.num_read < 40
    assert_like_a_dataloader(splits.train, kept)


# -- what makes no sense


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ("measure", "normalize='measure' is unknown; give \"measured\""),
        (0.5, "normalize=0.5 makes no sense"),
        ((0.5,), "makes no sense"),
        (((0.5, 0.5), (0.5,)), "2 means but 1 stds"),
        (((0.5,) * 3, (0.5, 0.0, 0.5)), "a std of 0 for channel 1"),
        ((0.5, -1), "a std of -1 for channel 0"),
        ((float("nan"), 1), "no finite numbers"),
        (("0.5", "0.2"), "no finite numbers"),
        (((), ()), "no finite numbers"),
        (((0.5, None), (1, 1)), "no finite numbers"),
        (((0.5, 0.5), (0.2, 0.2)), r"2 means, but inputs \[3, 32, 32\] have 3 channels"),
        ((0.5, 1e-60), "which is 0 as float32"),
    ],
)
def test_a_setting_that_makes_no_sense_is_told(how, reason):
    with pytest.raises(DataError, match=reason):
        normalised(Splits(colours()), how)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (lambda: FakeCIFAR(transforms.PILToTensor()), r"floats, not uint8 \[3, 32, 32\].*ToDtype"),
        (lambda: FakeCIFAR(None), "tensors of floats, not Image.*ToTensor"),
        (lambda: Made(lambda i: noise(i)), r"\(inputs, targets\) pairs"),
        (lambda: Made(lambda i: (noise(i), i), 0), "no sample"),
        (
            lambda: Made(lambda i: (torch.full((2, 1), float("inf" if i == 77 else i)), i)),
            "not finite in sample 77 of the train",
        ),
        (lambda: Subset(TensorDataset(torch.tensor([0.0, 1.0, torch.nan]), torch.zeros(3)), [1, 2]), "in sample 2 of"),
        (lambda: Made(lambda i: (torch.zeros(1 + (i == 77), 2, 2), i)), "samples of 1 and of 2 channels"),
    ],
)
def test_data_that_cannot_be_normalised_is_told(data, reason):
    with pytest.raises(DataError, match=reason):
        normalised(Splits(data()), "measured")


def test_normalised_data_is_not_normalised_again():
    with pytest.raises(DataError, match="normalised already"):
        normalised(normalised(Splits(colours()), "measured"), "measured")
