"""The classroom's loop, as notebooks have it: what `runmanager bench` compares a launch with.

`python -m runmanager.launching.classroom sweeps/fashion_mnist.py` does the same work as `runmanager launch` on the same sweep:
a DataLoader that turns pictures into tensors, the loss and the number of right predictions read at each step, a validation
pass, TensorBoard with images, graph and histograms, a table made anew and a state saved after each epoch. It differs from the
notebook in what the comparison needs: the seeds are those of a launch, so that the losses are the same bits, and as many
pictures are shown as a launch shows.
"""

import sys
import time
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pandas as pd
import torch
import torchvision
from torch import Tensor
from torch.nn import Module
from torch.utils.data import DataLoader
from torch.utils.tensorboard import SummaryWriter

from runmanager.launching.load_sweep import find_sweep_file, load_sweep, project_of
from runmanager.launching.sweep import Sweep
from runmanager.tracking.untouched import SAMPLE_SIZE
from runmanager.training.seeding import run_seed, seeded

TABLE = "classroom"


class ClassroomManager:
    """The notebook's RunManager: times, accumulates, shows and keeps the table."""

    def __init__(self, folder: Path, *, tensorboard: bool = True) -> None:
        self.folder, self.tensorboard = folder, tensorboard
        self.epoch_count, self.epoch_loss, self.epoch_num_correct, self.epoch_start_time = 0, 0.0, 0, 0.0
        self.run_count, self.run_start_time = 0, 0.0
        self.run_params: Any = None
        self.run_data: list[OrderedDict[str, Any]] = []
        self.network: Any = None
        self.loader: Any = None
        self.tb: Any = None
        (folder / "results").mkdir(exist_ok=True)

    def begin_run(self, run: Any, network: Module, loader: "DataLoader[Any]", images: Tensor) -> None:
        """`images` [N, ...] are what is shown, and what the graph is traced with."""
        self.run_start_time = time.perf_counter()
        self.run_params = run
        self.run_count += 1
        self.epoch_count = 0
        self.network, self.loader = network, loader
        self.run_folder = self.folder / "runs" / TABLE / str(self.run_count)
        self.run_folder.mkdir(parents=True)
        if self.tensorboard:
            self.show_run(images)

    def show_run(self, images: Tensor) -> None:
        """The image grid and the graph."""
        self.tb = SummaryWriter(self.run_folder)
        if images.ndim == 4:
            self.tb.add_image("images", torchvision.utils.make_grid(images))
        self.tb.add_graph(self.network, images)

    def begin_epoch(self) -> None:
        """The clock of the epoch starts, and its sums are zero."""
        self.epoch_start_time = time.perf_counter()
        self.epoch_count += 1
        self.epoch_loss = 0.0
        self.epoch_num_correct = 0

    def track_loss(self, loss: Tensor, images: Tensor) -> None:
        """Waits for the device, as the notebook does."""
        self.epoch_loss += loss.item() * images.shape[0]

    def track_num_correct(self, preds: Tensor, labels: Tensor) -> None:
        """The same for predictions [N, C] and labels [N]."""
        self.epoch_num_correct += int(preds.argmax(dim=1).eq(labels).sum().item())

    def end_epoch(self, val_loss: float, val_accuracy: float) -> None:
        """Shows the epoch, and writes the whole table again."""
        epoch_duration = time.perf_counter() - self.epoch_start_time
        run_duration = time.perf_counter() - self.run_start_time
        loss = self.epoch_loss / len(self.loader.dataset)
        accuracy = self.epoch_num_correct / len(self.loader.dataset)
        scalars = {"Loss": loss, "Accuracy": accuracy, "val_loss": val_loss, "val_accuracy": val_accuracy}
        if self.tensorboard:
            self.show_epoch(scalars)
        results: OrderedDict[str, Any] = OrderedDict()
        results["run"] = self.run_count
        results["epoch"] = self.epoch_count
        results["loss"] = loss
        results["accuracy"] = accuracy
        results["epoch duration"] = epoch_duration
        results["run duration"] = run_duration
        results["val_loss"] = val_loss
        results["val_accuracy"] = val_accuracy
        for name, value in self.run_params._asdict().items():
            results[name] = value
        self.run_data.append(results)
        self.save()

    def show_epoch(self, scalars: dict[str, float]) -> None:
        """The scalars, and histograms of every parameter and its gradient."""
        for name, value in scalars.items():
            self.tb.add_scalar(name, value, self.epoch_count)
        for name, param in self.network.named_parameters():
            self.tb.add_histogram(name, param, self.epoch_count)
            self.tb.add_histogram(f"{name}.grad", param.grad, self.epoch_count)

    def save(self) -> None:
        """The table of all epochs so far, as CSV and as JSON."""
        table = pd.DataFrame(self.run_data)
        table.to_csv(self.folder / "results" / f"{TABLE}.csv", index=False)
        table.to_json(self.folder / "results" / f"{TABLE}.json", orient="records")

    def end_run(self) -> None:
        """Closes what TensorBoard reads. The run's last row gets the time until now."""
        if self.tensorboard:
            self.tb.close()
        self.run_data[-1]["run duration"] = time.perf_counter() - self.run_start_time


def train_run(run: Any, sweep: Sweep, project: Path, seed: int, m: ClassroomManager, *, checkpoints: bool) -> None:
    """One run of the notebook. The loaders draw from generators of their own, as those of a launch do."""
    trainer: Any = sweep.trainer
    splits = trainer.splits(run, sweep.seed, project)
    batch_size, shuffle = trainer.setting("batch_size", run), trainer.setting("shuffle", run)
    parts = trainer.build(run, splits, project)
    network, optimizer, device = parts.network, parts.optimizer, parts.device
    order = torch.Generator().manual_seed(seed)
    loader = DataLoader(splits.train, batch_size=batch_size, shuffle=shuffle, generator=order)
    m.begin_run(run, network, loader, first_images(splits.train, batch_size).to(device))
    for epoch in range(trainer.setting("epochs", run)):
        m.begin_epoch()
        network.train()
        for images, labels in loader:
            images, labels = images.to(device), labels.to(device)
            preds = network(images)
            loss = parts.loss(preds, labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            m.track_loss(loss, images)
            m.track_num_correct(preds, labels)
        m.end_epoch(*validate(network, parts.loss, splits.validation, batch_size, device))
        if checkpoints:
            state = {"epoch": epoch, "network": network.state_dict(), "optimizer": optimizer.state_dict()}
            torch.save(state, m.run_folder / "checkpoint.pt")
    m.end_run()


def validate(
    network: Module, criterion: Any, dataset: Any, batch_size: int, device: torch.device
) -> tuple[float, float]:
    """Loss and accuracy on data that is not trained on."""
    total_loss, num_correct = 0.0, 0
    network.eval()
    with torch.no_grad():
        for images, labels in DataLoader(dataset, batch_size=batch_size, generator=torch.Generator()):
            images, labels = images.to(device), labels.to(device)
            preds = network(images)
            total_loss += criterion(preds, labels).item() * images.shape[0]
            num_correct += int(preds.argmax(dim=1).eq(labels).sum().item())
    return total_loss / len(dataset), num_correct / len(dataset)


def first_images(dataset: Any, batch_size: int) -> Tensor:
    """Of the first batch as many as are shown [N, ...]; nothing of the training's order is drawn for them."""
    loader = DataLoader(dataset, batch_size=min(batch_size, SAMPLE_SIZE), generator=torch.Generator())
    images: Tensor = next(iter(loader))[0]
    return images


def train_sweep(sweep: Sweep, project: Path, *, tensorboard: bool = True, checkpoints: bool = True) -> ClassroomManager:
    """All runs of a sweep, one after another."""
    m = ClassroomManager(project, tensorboard=tensorboard)
    for run in sweep.runs():
        seed = run_seed(sweep.seed, run._asdict())
        with seeded(seed):
            train_run(run, sweep, project, seed, m, checkpoints=checkpoints)
    m.save()
    return m


def main(arguments: list[str]) -> None:
    """`python -m runmanager.launching.classroom SWEEP [--bare]`; bare leaves out TensorBoard and saved states."""
    file, is_full = find_sweep_file(arguments[0]), "--bare" not in arguments
    train_sweep(load_sweep(file), project_of(file), tensorboard=is_full, checkpoints=is_full)


if __name__ == "__main__":
    main(sys.argv[1:])
