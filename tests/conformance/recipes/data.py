"""Data sets: normalised inputs, pictures in folders, and samples that draw random numbers when they are read."""

import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader, Dataset, TensorDataset, WeightedRandomSampler
from torchvision.datasets import ImageFolder
from torchvision.transforms import ToTensor, v2

from tests.conformance.recipes.cases import BATCH_SIZE, NUM_CLASSES, NUM_EPOCHS, Case, Plain, pictures

COLOURS = ("amber", "blue", "coral")


class Changed(Dataset):
    """Samples of another data set, each changed by a transform."""

    def __init__(self, dataset, transform):
        self.dataset, self.transform = dataset, transform

    def __len__(self):
        return len(self.dataset)

    def __getitem__(self, index):
        inputs, target = self.dataset[index]
        return self.transform(inputs), target


class Flipped(Dataset):
    """Pictures of which about half are read turned over, as a generator of the data set's own draws it."""

    def __init__(self, number):
        self.inputs, self.classes_of = pictures(number)
        self.draws = np.random.default_rng(4)

    def __len__(self):
        return len(self.inputs)

    def __getitem__(self, index):
        picture = self.inputs[index]
        return picture.flip(-1) if self.draws.random() < 0.5 else picture, self.classes_of[index]


def trained(plain: Plain) -> Plain:
    """Gone through."""
    for _ in range(NUM_EPOCHS):
        plain.rows.append({"loss": plain.train(), **plain.validate()})
    return plain


def read_by(plain: Plain, train: Dataset, validation: Dataset) -> Plain:
    """The same loop with other data, whose order is drawn anew from the same seed."""
    order = torch.Generator().manual_seed(plain.loader.generator.initial_seed())
    plain.loader = DataLoader(train, batch_size=BATCH_SIZE, shuffle=True, generator=order)
    plain.validation = validation
    return plain


def normalised(run) -> Plain:
    plain = Plain.begin(run)
    train = plain.loader.dataset
    if run.normalize is None:
        return trained(plain)
    values = np.stack([inputs.numpy() for inputs, _ in train]).astype(np.float64)
    means, stds = ([values.mean()], [values.std()]) if run.normalize == "measured" else run.normalize
    normalize = v2.Normalize(means, stds)
    return trained(read_by(plain, Changed(train, normalize), Changed(plain.validation, normalize)))


def augmented(transform=v2.RandomHorizontalFlip()):  # noqa: B008 (it has no state)
    """Pictures to train on that are turned over at random, and others to validate on that are not."""
    return Changed(TensorDataset(*pictures(48)), transform), TensorDataset(*pictures(60))


def read_anew(run) -> Plain:
    return trained(read_by(Plain.begin(run), *augmented()))


def drawn(run) -> Plain:
    """Classes are looked for beforehand, and the samples shown after each epoch are read once more: neither draws what counts."""
    plain, data, validation = Plain.begin(run), Flipped(48), Flipped(60)
    if run.sampling is None:
        return trained(read_by(plain, data, validation))
    weights = (1 / torch.bincount(data.classes_of).double())[data.classes_of]
    order = torch.Generator().manual_seed(plain.loader.generator.initial_seed())
    sampler = WeightedRandomSampler(weights, len(weights), replacement=True, generator=order)
    plain.loader = DataLoader(data, batch_size=BATCH_SIZE, sampler=sampler, generator=order)
    plain.validation = validation
    return trained(plain)


def colour_network() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16, NUM_CLASSES))


def put_pictures(project: Path) -> None:
    """60 pictures of 4×4 in data/image_folder, each in the folder of its class."""
    generator = np.random.default_rng(2)
    for number in range(60):
        folder = project / "data" / "image_folder" / COLOURS[number % NUM_CLASSES]
        folder.mkdir(parents=True, exist_ok=True)
        pixels = generator.integers(0, 200, (4, 4, 3), dtype=np.uint8)
        pixels[..., number % NUM_CLASSES] += 55
        Image.fromarray(pixels).save(folder / f"{number}.png")


def in_folders(run) -> Plain:
    """The pictures are made where the loop is, by the same function."""
    with tempfile.TemporaryDirectory() as project:
        put_pictures(Path(project))
        samples = list(ImageFolder(Path(project) / "data" / "image_folder", transform=ToTensor()))
    inputs, targets = torch.stack([one for one, _ in samples]), torch.tensor([one for _, one in samples])
    return with_each_class(Plain.begin(run, colour_network, data=TensorDataset(inputs, targets)), COLOURS)


def with_each_class(plain: Plain, names: Sequence[str]) -> Plain:
    """Gone through, with the share of each class's validation pictures that are taken for it, in float32 as torchmetrics has it."""
    for _ in range(NUM_EPOCHS):
        row = {"loss": plain.train(), **plain.validate()}
        inputs, targets = (
            torch.stack([torch.as_tensor(one) for one in each]) for each in zip(*plain.validation, strict=True)
        )
        with torch.no_grad():
            is_right = plain.network(inputs).argmax(1) == targets
        for number, name in enumerate(names):
            own = is_right[targets == number]
            row[f"val_accuracy/{name}"] = own.double().mean().item() if len(own) else 0.0
        plain.rows.append(row)
    return plain


CASES = {
    "normalised inputs": Case(
        {"lr": [0.1, 0.05], "normalize": ["measured", [[0.5], [0.25]], None]}, lambda project: {}, normalised
    ),
    "augmented pictures": Case(
        {"lr": [0.1, 0.05]},
        lambda project: {"data": augmented()},
        read_anew,
        alone="the data is read by a DataLoader",
    ),
    "samples that draw from a generator of their own": Case(
        {"lr": [0.1], "sampling": ["balanced", None]},
        lambda project: {
            "data": (Flipped(48), Flipped(60)),
            "metrics": ["per_class"],
            "show_predictions": 3,
        },
        drawn,
        alone="the data is read by a DataLoader",
    ),
    "pictures in folders": Case(
        {"lr": [0.1, 0.05]},
        lambda project: {"data": "image_folder", "network": colour_network, "metrics": ["per_class"]},
        in_folders,
        prepare=put_pictures,
    ),
}
