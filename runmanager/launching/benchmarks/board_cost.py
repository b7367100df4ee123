"""What TensorBoard costs a run: `python -m runmanager.launching.benchmarks.board_cost BATCH_SIZE`, in a folder of its own.

Ours and the classroom's write the same for a run of three epochs of the classroom's network: an image grid, the graph, four
scalars an epoch, histograms of every parameter and its gradient. Ours writes the hyperparameters and how the run ended, too.
"""

import json
import statistics
import sys
import time
from collections import namedtuple
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch.nn import Module
from torch.utils.data import DataLoader, TensorDataset

from runmanager.launching.classroom import ClassroomManager, first_images
from runmanager.tracking.rows import COMPLETED, EpochRow, RunEnd
from runmanager.tracking.run_dir import RunDir
from runmanager.tracking.tensorboard import TensorBoardWriter
from runmanager.tracking.writers import Member

RUNS, EPOCHS = 6, 3
_Run = namedtuple("_Run", "lr batch_size")
_VALUES = {"Loss": 0.51, "Accuracy": 0.82, "val_loss": 0.61, "val_accuracy": 0.79}


def cost(batch_size: int, folder: Path) -> dict[str, float]:
    """Seconds of a run, `ours` and `others`: the median of some runs of one process, after the first, which imports and traces."""
    from networks.fashion_cnn import FashionCNN

    dataset = TensorDataset(torch.rand(batch_size, 1, 28, 28), torch.randint(10, (batch_size,)))
    network = FashionCNN()
    images, labels = dataset.tensors
    F.cross_entropy(network(images), labels).backward()
    loader = DataLoader(dataset, batch_size=batch_size)
    writer, manager = TensorBoardWriter(), ClassroomManager(folder, tensorboard=False)
    ours: list[float] = []
    others: list[float] = []
    for number in range(RUNS + 1):
        ours.append(_ours(writer, number + 1, network, loader, folder))
        others.append(_others(manager, network, loader))
    return {"ours": statistics.median(ours[1:]), "others": statistics.median(others[1:])}


def _ours(writer: TensorBoardWriter, number: int, network: Module, loader: "DataLoader[Any]", folder: Path) -> float:
    path = folder / f"ours-{number}"
    path.mkdir()
    member = Member(number, {"lr": 0.01, "batch_size": 100}, RunDir(path, number), 1)
    began = time.perf_counter()
    writer.begin(member)
    member.network, member.loader = network, loader
    writer.watch(member)
    for epoch in range(1, EPOCHS + 1):
        row = EpochRow(number, epoch, 0.51, 0.82, 1.0, 1.0, {"val_loss": 0.61, "val_accuracy": 0.79})
        member.add(row, {})
        writer.epoch(member, row)
    writer.end(member, RunEnd(COMPLETED, 1.0))
    return time.perf_counter() - began


def _others(manager: ClassroomManager, network: Module, loader: "DataLoader[Any]") -> float:
    images = first_images(loader.dataset, loader.batch_size or 1)
    manager.begin_run(_Run(0.01, 100), network, loader, images)
    began = time.perf_counter()
    manager.show_run(first_images(loader.dataset, loader.batch_size or 1))
    for epoch in range(1, EPOCHS + 1):
        manager.epoch_count = epoch
        manager.show_epoch(_VALUES)
    manager.tb.close()
    return time.perf_counter() - began


if __name__ == "__main__":
    sys.path.insert(0, str(Path.cwd()))  # where networks/ is
    print(json.dumps(cost(int(sys.argv[1]), Path.cwd())))
