"""What TensorBoard costs a run: an image grid, the graph, and of each of three epochs four scalars and 20 histograms.

Measured: our TensorBoardWriter alone, from `begin` to `end`, for the classroom's network and the shipped Fashion-MNIST sample.
It takes 32 pictures from the data set, which is timed, and traces one row.
  - a later run of a sweep: the graph and the grid are kept from the run before
  - the first run of a sweep: they are made; imports and the histograms' table (0.6 ms once) are not counted
Ours also writes the hyperparameters, the best value of each metric and how the run ended.
Against: torch's SummaryWriter from its opening to its closing. Its pictures are ready before the clock starts. Given are:
  - the loader's first batch of 100, as the classroom has it: a grid of 100 pictures, a graph traced with 100 rows
  - the same with 1,000
  - the very 32 rows that ours shows: the same grid, the same graph (traced with 32 rows), the same histograms byte for byte
Apart from the whole run, the parts of ours, and an epoch alone against SummaryWriter's with a flush.
Device: CPU, one thread, and the disk of the temporary folder. 15 rounds, interleaved; median, p10..p90, ratios round by round.
Found on two cores of an AMD EPYC that others used too (load 2; the ratios were the same at load 5): 7.3 ms (6.5..7.8) for a
later run and 20.8 ms (19.9..26.1) for the first, against 121 (the same 32 rows), 150 (100) and 646 ms (1,000): 0.06×, 0.05×,
0.01× and 0.17×, 0.14×, 0.03×.
"""

import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

import torch
import torch.nn.functional as F
import torchvision
from measure import ROOT, against, interleaved, machine, report, seconds_of
from tensorboard.backend.event_processing.event_file_loader import RawEventFileLoader
from tensorboard.compat.proto.event_pb2 import Event
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.tensorboard import SummaryWriter

from runmanager.data.fashion_mnist import fashion_mnist_sample
from runmanager.tracking.rows import COMPLETED, EpochRow, RunEnd
from runmanager.tracking.run_dir import RunDir
from runmanager.tracking.tensorboard import TensorBoardWriter
from runmanager.tracking.untouched import SAMPLE_SIZE
from runmanager.tracking.writers import Member

sys.path.insert(0, str(ROOT))
from networks.fashion_cnn import FashionCNN

ROUNDS, EPOCHS = 15, 3
TARGET = 0.6  # times SummaryWriter's cost
PARAMS = {"lr": 0.01, "batch_size": 100, "shuffle": True}
VALUES = {"Loss": 0.51, "Accuracy": 0.82, "val_loss": 0.61, "val_accuracy": 0.79}

torch.set_num_threads(1)
warnings.filterwarnings("ignore", category=FutureWarning)  # the tracer that both use is deprecated
print(machine())
dataset = fashion_mnist_sample().train
loader = DataLoader(dataset, batch_size=100)
images, labels = next(iter(DataLoader(dataset, batch_size=1000)))
network = FashionCNN()
F.cross_entropy(network(images[:100]), labels[:100]).backward()
folder = tempfile.TemporaryDirectory()
numbers = iter(range(1, 10**6))
parts: dict[str, list[float]] = {}


def new_folder() -> Path:
    path = Path(folder.name, f"{next(numbers):04}")
    path.mkdir()
    return path


def row(number: int, epoch: int) -> EpochRow:
    return EpochRow(number, epoch, 0.51, 0.82, 1.0, 1.0, {"val_loss": 0.61, "val_accuracy": 0.79})


def ours(writer: TensorBoardWriter, parts: dict[str, list[float]] | None = None) -> float:
    """Seconds of a run."""
    path = new_folder()
    member = Member(1, PARAMS, RunDir(path, 1), 1)
    seconds = {"begin": seconds_of(lambda: writer.begin(member))}
    member.network, member.loader = network, loader
    seconds["watch"] = seconds_of(lambda: writer.watch(member))
    seconds["three epochs"] = 0.0
    for epoch in range(1, EPOCHS + 1):
        member.add(row(1, epoch), {})
        seconds["three epochs"] += seconds_of(lambda: writer.epoch(member, member.rows[-1]))
    seconds["end"] = seconds_of(lambda: writer.end(member, RunEnd(COMPLETED, 1.0)))
    for part, one in seconds.items() if parts is not None else ():
        parts.setdefault(part, []).append(one)
    return sum(seconds.values())


def theirs(pictures: Tensor) -> float:
    """Seconds of a run whose grid has these pictures [N, 1, 28, 28], and whose graph is traced with them."""
    path = new_folder()
    began = time.perf_counter()
    writer = SummaryWriter(str(path))
    writer.add_image("images", torchvision.utils.make_grid(pictures))
    writer.add_graph(network, pictures)
    for epoch in range(1, EPOCHS + 1):
        their_epoch(writer, epoch)
    writer.close()
    return time.perf_counter() - began


def their_epoch(writer: SummaryWriter, epoch: int) -> None:
    for name, value in VALUES.items():
        writer.add_scalar(name, value, epoch)
    for name, param in network.named_parameters():
        writer.add_histogram(name, param, epoch)
        writer.add_histogram(f"{name}.grad", param.grad, epoch)


class OneEpochAtATime:
    """An epoch alone, until its events are with the system."""

    def __init__(self) -> None:
        self._ours, self._theirs = TensorBoardWriter(), SummaryWriter(str(new_folder()))
        self._member = Member(1, PARAMS, RunDir(new_folder(), 1), 1)
        self._ours.begin(self._member)
        self._member.network = network
        self._member.add(row(1, 1), {})

    def ours(self) -> float:
        return seconds_of(lambda: self._ours.epoch(self._member, self._member.rows[-1]))

    def theirs(self) -> float:
        began = time.perf_counter()
        their_epoch(self._theirs, 1)
        self._theirs.flush()
        return time.perf_counter() - began

    def close(self) -> None:
        self._ours.end(self._member, RunEnd(COMPLETED, 1.0))
        self._theirs.close()


def events(path: Path) -> Iterator[Event]:
    for file in sorted(path.iterdir()):
        yield from (Event.FromString(record) for record in RawEventFileLoader(str(file)).Load())


def content(path: Path) -> tuple[set[tuple[str, int, bytes]], bytes, int]:
    """A run's scalars and histograms, its graph, and the number of pixels in its grid."""
    values, graph, num_pixels = set(), b"", 0
    for event in events(path):
        graph = event.graph_def or graph
        for value in event.summary.value:
            if value.WhichOneof("value") in ("histo", "simple_value"):
                values.add((value.tag, event.step, value.SerializeToString()))
            num_pixels += value.image.height * value.image.width
    return values, graph, num_pixels


def check_equal_content() -> None:
    """Ours shows no less than SummaryWriter does of the same rows."""
    before = set(Path(folder.name).iterdir())
    ours(TensorBoardWriter())
    theirs(images[:SAMPLE_SIZE])
    mine, other = (content(path) for path in sorted(set(Path(folder.name).iterdir()) - before))
    their_histograms = {value for value in other[0] if value[0] not in VALUES}
    assert their_histograms <= mine[0] and len(their_histograms) == 20 * EPOCHS
    assert {(tag, step) for tag, step, _ in other[0]} <= {(tag, step) for tag, step, _ in mine[0]}
    assert mine[2] == other[2]
    assert abs(len(mine[1]) - len(other[1])) < 100  # the shapes in it say 1 row and 32


check_equal_content()
kept, one_epoch = TensorBoardWriter(), OneEpochAtATime()
ours(kept)
samples = interleaved(
    ROUNDS,
    {
        "later": lambda: ours(kept, parts),
        "first": lambda: ours(TensorBoardWriter()),
        "the same 32 rows": lambda: theirs(images[:SAMPLE_SIZE]),
        "its batch of 100": lambda: theirs(images[:100]),
        "its batch of 1,000": lambda: theirs(images),
        "epoch": one_epoch.ours,
        "their epoch": one_epoch.theirs,
    },
)
one_epoch.close()
folder.cleanup()

for which in ("later", "first"):
    for given in ("the same 32 rows", "its batch of 100", "its batch of 1,000"):
        mine, other = samples[which], samples[given]
        aim = TARGET * sorted(other)[len(other) // 2] * 1e3
        versus = against(f"SummaryWriter, given {given}", mine, other, "ms")
        report(f"TensorBoard of the {which} run of a sweep", mine, "ms", round(aim, 1), versus)
for part, seconds in parts.items():
    report(f"  {part}, of a later run", seconds[1:], "ms")
report(
    "an epoch alone",
    samples["epoch"],
    "ms",
    None,
    against("SummaryWriter", samples["epoch"], samples["their epoch"], "ms"),
)
