"""What a saved state costs at the end of an epoch.

Measured: `m.end_epoch(checkpoint=state)` beyond `m.end_epoch()` of an epoch without one. It writes the state and the random number
generators to a new file down to the disk, with its SHA-256, commits it with the epoch's row, and drops states that are no
longer needed. The state holds a network's parameters and Adam's: for the quickstart's network, and for one of 10 million
parameters. In an epoch that does nothing else; TensorBoard off.
Against: `torch.save` of the same state to a new file, flushed and synced, and the file before deleted.
Device: CPU, one thread, and the disk of this checkout. 40 epochs of the small network and 10 of the large, interleaved one by
one, after one that is not counted.
"""

import os
import sys
from collections import namedtuple
from collections.abc import Callable
from pathlib import Path

import torch
from launches import folder_on_disk, rounds
from measure import ROOT, against, beyond, interleaved, machine, report, seconds_of
from torch import nn

from runmanager import RunManager

sys.path.insert(0, str(ROOT))
from networks.fashion_cnn import FashionCNN

Run = namedtuple("Run", "network")

torch.set_num_threads(1)
print(machine())


def state_of(network: nn.Module) -> dict[str, object]:
    """What a run keeps: the network's parameters, and the optimizer's state after a step."""
    optimizer = torch.optim.Adam(network.parameters())
    for parameter in network.parameters():
        parameter.grad = torch.randn_like(parameter)
    optimizer.step()
    return {"network": network.state_dict(), "optimizer": optimizer.state_dict()}


def ours(m: RunManager, state: dict[str, object] | None) -> float:
    m.begin_epoch()
    m.log(val_loss=0.5)
    return seconds_of(lambda: m.end_epoch(checkpoint=state))


def bare(folder: Path, state: dict[str, object]) -> Callable[[], float]:
    """`torch.save` and a sync, each time to another file."""
    files: list[Path] = []

    def save() -> None:
        files.append(folder / f"bare-{len(files)}.pt")
        with files[-1].open("xb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
        if len(files) > 1:
            files[-2].unlink()

    return lambda: seconds_of(save)


def measure(name: str, num_epochs: int, network: nn.Module, folder: Path) -> None:
    state = state_of(network)
    with_states = RunManager("with_states", root=folder, tensorboard=False, quiet=True)
    without = RunManager("without", root=folder, tensorboard=False, quiet=True)
    for m in (with_states, without):
        m.begin_run(Run(name))
    cases = {
        "with": lambda: ours(with_states, state),
        "without": lambda: ours(without, None),
        "bare": bare(folder, state),
    }
    samples = interleaved(num_epochs, cases)
    for m in (with_states, without):
        m.end_run()
        m.close()
    num_parameters = sum(parameter.numel() for parameter in network.parameters())
    mine, theirs = beyond(samples["with"], samples["without"]), samples["bare"]
    versus = against("torch.save and fsync", mine, theirs, "ms")
    report(f"a saved state, {name} ({num_parameters:,} parameters, Adam)", mine, "ms", None, versus)


with folder_on_disk() as folder:
    (folder / "small").mkdir()
    (folder / "large").mkdir()
    measure("the quickstart's network", rounds(40), FashionCNN(), folder / "small")
    wide = nn.Sequential(nn.Linear(784, 2000), nn.ReLU(), nn.Linear(2000, 4000), nn.ReLU(), nn.Linear(4000, 110))
    measure("a large network", rounds(10), wide, folder / "large")
