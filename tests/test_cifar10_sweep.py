"""sweeps/cifar10.py itself, launched by the command on files of CIFAR-10's format: tables, TensorBoard, classes by their names."""

import io
import json
import pickle
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from pages import SAMPLE, do_all
from PIL import Image
from sklearn.metrics import accuracy_score, confusion_matrix
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torchvision.transforms import v2

from networks.cifar_cnn import CifarCNN
from networks.resnet import ResNet
from runmanager import Sweep, Trainer, load_results
from runmanager.data.cifar10 import CIFAR10_SET
from tests.conftest import Project
from tests.data.cifar_files import CLASSES, put

ROOT = Path(__file__).parents[1]
SIZE = 1800  # pictures of a file, of which 8,100 are trained on: 2,025 steps
COLOURS = np.random.default_rng(3).integers(40, 216, (10, 3))


def batch(number: int) -> tuple[np.ndarray, list[int]]:
    """Pictures [SIZE, 3072] of noise in the colours of their classes; three in ten are in those of another class."""
    generator = np.random.default_rng(number)
    labels = generator.integers(0, 10, SIZE)
    shown = np.where(generator.random(SIZE) < 0.3, generator.integers(0, 10, SIZE), labels)
    noise = generator.integers(-40, 41, (SIZE, 3, 1024))
    pixels = np.clip(COLOURS[shown][:, :, None] + noise, 0, 255).astype(np.uint8)
    return pixels.reshape(SIZE, 3072), labels.tolist()


def files() -> dict[str, bytes]:
    """As those that are handed out."""
    contents = {"batches.meta": pickle.dumps({"label_names": CLASSES, "num_cases_per_batch": SIZE, "num_vis": 3072}, 0)}
    for number, name in enumerate([*(f"data_batch_{one}" for one in range(1, 6)), "test_batch"]):
        pixels, labels = batch(number)
        contents[name] = pickle.dumps({"batch_label": name, "labels": labels, "data": pixels, "filenames": []}, 2)
    return contents


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory, one_thread: None) -> Project:
    """The sweep, launched for one epoch."""
    project = Project(tmp_path_factory.mktemp("project"))
    for folder in ("networks", "sweeps"):
        shutil.copytree(ROOT / folder, project.root / folder, ignore=shutil.ignore_patterns("__pycache__"))
    put(project.root / "data" / "cifar-10-batches-py", files())
    do_all(project.root, SAMPLE, [["launch", "cifar10", "--epochs", "1", "--workers", "0"]])
    return project


@pytest.fixture(scope="module")
def run_dir(project: Project) -> Path:
    (folder,) = project.folders("cifar10")
    return folder


@pytest.fixture(scope="module")
def events(run_dir: Path) -> EventAccumulator:
    found = EventAccumulator(str(run_dir), size_guidance={"images": 0, "scalars": 0})
    found.Reload()
    return found


@pytest.fixture(scope="module")
def judged(project: Project, run_dir: Path) -> tuple[np.ndarray, np.ndarray, float]:
    """True and predicted classes and the loss, by the saved network, of the validation pictures out of the files."""
    splits = CIFAR10_SET.find(None, project.root).with_validation(0.1, 0)
    rows = splits.validation.indices
    pixels = np.concatenate([batch(number)[0] for number in range(5)])[rows].reshape(-1, 3, 32, 32)
    targets = np.concatenate([batch(number)[1] for number in range(5)])[rows]
    network = CifarCNN()
    (saved,) = (run_dir / "checkpoints").glob("epoch-*.pt")
    network.load_state_dict(torch.load(saved, weights_only=True)["state"]["network"])
    inputs = v2.Normalize([0.5] * 3, [0.5] * 3)(torch.from_numpy(pixels).float() / 255)
    with torch.no_grad():
        scores = network(inputs)
    return targets, scores.argmax(1).numpy(), F.cross_entropy(scores, torch.from_numpy(targets)).item()


def test_the_row_is_what_the_saved_network_reaches(project: Project, judged: tuple) -> None:
    targets, preds, loss = judged
    (row,) = pd.read_csv(project.root / "results" / "cifar10.csv").to_dict("records")
    assert row["val_accuracy"] == pytest.approx(accuracy_score(targets, preds))
    assert row["val_loss"] == pytest.approx(loss, rel=1e-5)
    assert row["val_accuracy"] > 0.5
    for number, name in enumerate(CLASSES):
        assert row[f"val_accuracy/{name}"] == pytest.approx((preds[targets == number] == number).mean(), rel=1e-6)


def test_load_results_gives_the_classes_by_name_and_the_running_loss(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(project.root)
    runs = load_results("cifar10", runs=True)
    assert [name for name in runs if name.startswith("val_accuracy/")] == [f"val_accuracy/{name}" for name in CLASSES]
    (status, lr, batch_size) = runs.loc[0, ["status", "lr", "batch_size"]]
    assert (status, lr, batch_size) == ("completed", 0.001, 4)
    steps = load_results("cifar10", steps=True)
    assert steps["step"].tolist() == [2000]
    last = load_results("cifar10")["loss"][0] * 2025 - steps["running_loss"][0] * 2000
    assert 0 < last / 25 < 3  # the mean of the last 25 steps


def test_the_confusion_matrix_is_in_json_and_in_a_picture(
    judged: tuple, run_dir: Path, events: EventAccumulator
) -> None:
    targets, preds, _ = judged
    (file,) = (run_dir / "confusion").iterdir()
    record = json.loads(file.read_text())
    assert record["classes"] == CLASSES
    assert record["counts"] == confusion_matrix(targets, preds, labels=range(10)).tolist()
    (picture,) = events.Images("confusion")
    assert (picture.step, picture.width > 300) == (1, True)


def test_pictures_are_shown_as_they_were_before_they_were_normalised(events: EventAccumulator) -> None:
    (picture,) = events.Images("images")
    shown = np.array(Image.open(io.BytesIO(picture.encoded_image_string)).convert("RGB"))
    first = batch(0)[0][0].reshape(3, 32, 32).transpose(1, 2, 0)
    assert np.abs(shown[2:34, 2:34].astype(int) - first).max() <= 1


def test_sixteen_predictions_are_shown_with_their_classes(judged: tuple, events: EventAccumulator) -> None:
    (picture,) = events.Images("Predictions")
    shown = np.array(Image.open(io.BytesIO(picture.encoded_image_string)).convert("RGB"))
    frame = (0, 128, 0), (200, 0, 0)
    targets, preds, _ = judged
    corners = [tuple(map(int, shown[6 + 140 * row, 6 + 108 * column])) for row in range(4) for column in range(4)]
    assert corners == [frame[int(guess != truth)] for guess, truth in zip(preds[:16], targets[:16], strict=True)]


def test_scalars_are_those_of_each_class_and_the_running_loss_at_its_step(events: EventAccumulator) -> None:
    assert {f"val_accuracy/{name}" for name in CLASSES} < set(events.Tags()["scalars"])
    assert [event.step for event in events.Scalars("step/running_loss")] == [2000]


@pytest.mark.parametrize(("depth", "num_params"), [(8, 75_290), (14, 172_506), (20, 269_722), (32, 464_154)])
def test_a_resnet_has_as_many_parameters_as_the_paper_says(depth: int, num_params: int) -> None:
    network = ResNet(depth)
    assert sum(param.numel() for param in network.parameters()) == num_params
    assert sum(isinstance(one, (torch.nn.Conv2d, torch.nn.Linear)) for one in network.modules()) == depth
    assert network(torch.rand(2, 3, 32, 32)).shape == (2, 10)


def test_the_classrooms_network_has_its_layers() -> None:
    network = CifarCNN()
    assert sum(param.numel() for param in network.parameters()) == 62_006
    assert network(torch.rand(2, 3, 32, 32)).shape == (2, 10)


def test_a_depth_that_no_resnet_has_is_refused_before_a_run_begins(tmp_path: Path) -> None:
    data = torch.rand(20, 3, 32, 32), torch.arange(20) % 10
    trainer = Trainer(network=ResNet, data=data, optimizer="SGD", loss=F.cross_entropy, epochs=1, device="cpu")
    sweep = Sweep({"lr": [0.1], "batch_size": [10], "depth": [8, 9]}, trainer=trainer, name="depths")
    with pytest.raises(ValueError, match="depth=9 is no ResNet's; give 8, 14, 20"):
        sweep.check(tmp_path)
