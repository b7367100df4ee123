"""What it costs to begin and to end a run.

Measured: `begin_run(run, network, loader)` and `end_run()`, with TensorBoard on and off. Between the two, not timed, lies an
epoch of one batch. The network is the classroom's for Fashion-MNIST, the loader reads the shipped sample. Its graph is traced
in the first run only; that run is timed apart, and the second and later ones are what is aimed at.
Against: the classroom's begin and end (a SummaryWriter, an image grid of the loader's first batch; no graph).
Device: CPU, one thread, and the disk of the temporary folder. 40 runs each, interleaved.
"""

import sys
import tempfile
import time
from collections import namedtuple

import torch
import torch.nn.functional as F
import torchvision
from measure import ROOT, against, interleaved, machine, report
from torch.utils.data import DataLoader
from torch.utils.tensorboard import SummaryWriter

from runmanager import RunManager
from runmanager.data.fashion_mnist import fashion_mnist_sample

sys.path.insert(0, str(ROOT))
from networks.fashion_cnn import FashionCNN

ROUNDS = 40
Run = namedtuple("Run", "lr batch_size shuffle")

torch.set_num_threads(1)
print(machine())
loader = DataLoader(fashion_mnist_sample().train, batch_size=100)
images, labels = next(iter(loader))
numbers = iter(range(1, 10**6))
parts: dict[str, list[float]] = {"begin_run": [], "end_run": []}


def begin_and_end(m: RunManager, parts: dict[str, list[float]] | None = None) -> float:
    network = FashionCNN()
    run = Run(next(numbers) / 1000, 100, True)
    began = time.perf_counter()
    m.begin_run(run, network, loader)
    begin_seconds = time.perf_counter() - began
    m.begin_epoch()
    preds = network(images)
    loss = F.cross_entropy(preds, labels)
    loss.backward()
    m.track_loss(loss)
    m.track_num_correct(preds, labels)
    m.end_epoch()
    began = time.perf_counter()
    m.end_run()
    end_seconds = time.perf_counter() - began
    if parts is not None:
        parts["begin_run"].append(begin_seconds)
        parts["end_run"].append(end_seconds)
    return begin_seconds + end_seconds


with tempfile.TemporaryDirectory() as folder:

    def classroom() -> float:
        network = FashionCNN()
        began = time.perf_counter()
        writer = SummaryWriter(f"{folder}/classroom/{next(numbers)}")
        first_images, _ = next(iter(loader))
        writer.add_image("images", torchvision.utils.make_grid(first_images))
        seconds = time.perf_counter() - began
        network(images)  # as much time passes as in a run of ours
        began = time.perf_counter()
        writer.close()
        return seconds + time.perf_counter() - began

    with_board = RunManager("on", root=folder, quiet=True)
    without = RunManager("off", root=folder, quiet=True, tensorboard=False)
    first = begin_and_end(with_board)
    samples = interleaved(
        ROUNDS,
        {
            "on": lambda: begin_and_end(with_board, parts),
            "off": lambda: begin_and_end(without),
            "classroom": classroom,
        },
    )
    with_board.close()
    without.close()

on, off = samples["on"], samples["off"]
versus = against("the classroom's", on, samples["classroom"], "ms")
report("begin_run + end_run, TensorBoard on", on, "ms", 20, versus)
for part, seconds in parts.items():
    report(f"  {part} of these", seconds[1:], "ms")
report(
    "begin_run + end_run, TensorBoard off", off, "ms", 3, against("the classroom's", off, samples["classroom"], "ms")
)
report("begin_run + end_run, the first run, with imports and the graph's trace", [first], "ms")
