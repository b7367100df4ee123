"""What tracking adds to a step: `python -m runmanager.launching.benchmarks.tracking_cost BATCH_SIZE`, in a folder of its own.

The same sums are written out by hand, on tensors that are detached already, so that detaching counts as tracking.
"""

import json
import statistics
import sys
import time
from collections import namedtuple
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader

from runmanager.tracking.manager import RunManager
from runmanager.training.settings import choose_device

BLOCKS, STEPS = 30, 300
_TRAINED_STEPS = 40
_Run = namedtuple("_Run", "batch_size")


def cost(batch_size: int, folder: Path) -> dict[str, float]:
    """Seconds per step: `tracked`, `by_hand`, and `step` of the classroom's network over tensors that are there already."""
    device = choose_device(None)
    preds = torch.randn(batch_size, 10, device=device, requires_grad=True)
    labels = torch.randint(10, (batch_size,), device=device)
    loss = F.cross_entropy(preds, labels)
    m = RunManager("tracking", root=folder, tensorboard=False, quiet=True)
    m.begin_run(_Run(batch_size), None, DataLoader(range(STEPS * batch_size), batch_size=batch_size))  # type: ignore[arg-type]
    tracked: list[float] = []
    by_hand: list[float] = []
    for block in range(-1, BLOCKS):
        seconds = _tracked(m, loss, preds, labels), _by_hand(loss.detach(), preds.detach(), labels)
        if block >= 0:  # the first warms up
            tracked.append(seconds[0])
            by_hand.append(seconds[1])
    m.end_run()
    m.close()
    beyond = statistics.median(mine - other for mine, other in zip(tracked, by_hand, strict=True))
    return {"beyond": beyond, "by_hand": statistics.median(by_hand), "step": step_seconds(batch_size, device)}


def _tracked(m: RunManager, loss: Tensor, preds: Tensor, labels: Tensor) -> float:
    def work() -> None:
        with _no_wait(loss.device):
            for _ in range(STEPS):
                m.track_loss(loss)
                m.track_num_correct(preds, labels)

    m.begin_epoch()
    seconds = _seconds_of(work, loss.device) / STEPS
    m.end_epoch()
    return seconds


def _by_hand(loss: Tensor, preds: Tensor, labels: Tensor) -> float:
    total = torch.zeros((), dtype=torch.float64, device=loss.device)
    correct = torch.zeros((), dtype=torch.int64, device=loss.device)

    def work() -> None:
        for _ in range(STEPS):
            total.add_(loss, alpha=len(labels))
            correct.add_(preds.argmax(1).eq(labels).sum())

    return _seconds_of(work, loss.device) / STEPS


def _seconds_of(work: Callable[[], None], device: torch.device) -> float:
    """On a GPU the time to hand the work over; what it makes of it is waited for before and after."""
    wait: Callable[[], Any] = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    wait()
    began = time.perf_counter()
    work()
    seconds = time.perf_counter() - began
    wait()
    return seconds


@contextmanager
def _no_wait(device: torch.device) -> Iterator[None]:
    """On a GPU, whatever waits for the device meanwhile is an error."""
    if device.type != "cuda":
        yield
        return
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def step_seconds(batch_size: int, device: torch.device) -> float:
    """A step of the classroom's network: no loader, no tracking."""
    from networks.fashion_cnn import FashionCNN

    network = FashionCNN().to(device)
    optimizer = torch.optim.Adam(network.parameters())
    images = torch.rand(batch_size, 1, 28, 28, device=device)
    labels = torch.randint(10, (batch_size,), device=device)

    def step() -> None:
        loss = F.cross_entropy(network(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if device.type == "cuda":
            torch.cuda.synchronize()

    samples = [_seconds_of(step, device) for _ in range(_TRAINED_STEPS)]
    return statistics.median(samples[_TRAINED_STEPS // 4 :])


if __name__ == "__main__":
    sys.path.insert(0, str(Path.cwd()))  # where networks/ is
    print(json.dumps(cost(int(sys.argv[1]), Path.cwd())))
