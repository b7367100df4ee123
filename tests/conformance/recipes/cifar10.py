"""The networks for CIFAR-10, on files of its format: the classroom's, trained as its sweep says, and a small ResNet."""

import pickle
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import TensorDataset
from torchvision.transforms import v2

from networks.cifar_cnn import CifarCNN
from networks.resnet import ResNet
from tests.conformance.recipes.cases import Case, Plain
from tests.conformance.recipes.data import trained, with_each_class
from tests.data.cifar_files import CLASSES, put, python_files

HALF = (0.5, 0.5, 0.5)


def put_files(project: Path) -> None:
    put(project / "data" / "cifar-10-batches-py", python_files())


def pictures() -> TensorDataset:
    """All training pictures, from -1 to 1, out of the pickled files."""
    files = [pickle.loads(content) for name, content in python_files().items() if name.startswith("data_batch_")]
    pixels = np.concatenate([one["data"] for one in files]).reshape(-1, 3, 32, 32)
    plain = torch.from_numpy(pixels).float().div(255)
    inputs = torch.stack([v2.Normalize(HALF, HALF)(picture) for picture in plain])
    return TensorDataset(inputs, torch.tensor([label for one in files for label in one["labels"]]))


def classroom(run) -> Plain:
    return with_each_class(Plain.begin(run, CifarCNN, data=pictures()), CLASSES)


def residual(run) -> Plain:
    return trained(Plain.begin(run, partial(ResNet, depth=8, width=run.width), data=pictures()))


CASES = {
    "the classroom's CIFAR-10 classifier": Case(
        {"lr": [0.01, 0.005]},
        lambda project: {
            "data": "cifar10",
            "normalize": (0.5, 0.5),
            "network": CifarCNN,
            "metrics": ["per_class", "confusion"],
            "log_every": 2,
            "show_predictions": 4,
        },
        classroom,
        prepare=put_files,
    ),
    "a ResNet for CIFAR-10": Case(
        {"lr": [0.1, 0.05], "depth": [8], "width": [4]},
        lambda project: {"data": "cifar10", "normalize": (HALF, HALF), "network": ResNet},
        residual,
        tolerance=1e-3,
        prepare=put_files,
    ),
}
