"""What the end of an epoch costs, persisted: journal, CSV, JSON and the one-row-per-run table.

Measured: `m.end_epoch()` of an epoch with loss, accuracy, val_loss and val_accuracy:
  - without TensorBoard, silent; and with a line on a screen that goes to /dev/null
  - with TensorBoard, beyond its own writer's cost for the same row (no network, so no histograms)
  - with 10, 1,000 and 10,000 rows there already: the cost must not grow
Against: torch's SummaryWriter (four add_scalar and a flush), and the classroom's table (a DataFrame of all rows, made anew).
Device: CPU and the disk of the temporary folder. 1,000 epochs, interleaved one by one, after 10 that are not counted.
"""

import os
import tempfile
import time
from collections import OrderedDict, namedtuple
from contextlib import redirect_stdout
from functools import partial
from pathlib import Path

import pandas as pd
import torch
from measure import against, beyond, interleaved, machine, report
from torch.utils.tensorboard import SummaryWriter

from runmanager import RunManager
from runmanager.tracking.display import PlainDisplay
from runmanager.tracking.progress import Progress
from runmanager.tracking.rows import EpochRow
from runmanager.tracking.run_dir import RunDir
from runmanager.tracking.tensorboard import TensorBoardWriter
from runmanager.tracking.writers import Member

ROUNDS = 1000
Run = namedtuple("Run", "lr batch_size shuffle")
RUN = Run(0.01, 100, True)
LOSS, PREDS, LABELS = torch.tensor(0.5), torch.randn(100, 10), torch.randint(10, (100,))
VALUES = {"loss": 0.51, "accuracy": 0.82, "val_loss": 0.61, "val_accuracy": 0.79}

torch.set_num_threads(1)
print(machine())


def one_epoch(m: RunManager) -> float:
    """Seconds that `end_epoch` takes."""
    m.begin_epoch()
    m.track_loss(LOSS, LABELS)
    m.track_num_correct(PREDS, LABELS)
    m.log(val_loss=0.61, val_accuracy=0.79)
    began = time.perf_counter()
    m.end_epoch()
    return time.perf_counter() - began


def manager(folder: str, name: str, **options) -> RunManager:
    m = RunManager(name, root=folder, quiet=True, **options)
    return m.begin_run(RUN)


class TensorBoardAlone:
    """Our own TensorBoard writer and nothing else."""

    def __init__(self, folder: str) -> None:
        path = Path(folder, "alone")
        path.mkdir()
        self._writer = TensorBoardWriter()
        self._member = Member(1, RUN._asdict(), RunDir(path, 1), 1)
        self._writer.begin(self._member)
        self._num_epochs = 0

    def one_epoch(self) -> float:
        self._num_epochs += 1
        row = EpochRow(1, self._num_epochs, 0.51, 0.82, 1.0, 1.0, {"val_loss": 0.61, "val_accuracy": 0.79})
        began = time.perf_counter()
        self._writer.epoch(self._member, row)
        return time.perf_counter() - began


class Classroom:
    """The classroom's end_epoch without its TensorBoard: a table of all rows, made anew."""

    def __init__(self) -> None:
        self._rows: list[OrderedDict] = []

    def one_epoch(self) -> float:
        began = time.perf_counter()
        row = OrderedDict(run=1, epoch=len(self._rows) + 1, **VALUES, **RUN._asdict())
        self._rows.append(row)
        pd.DataFrame(self._rows)
        return time.perf_counter() - began


def summary_writer_epoch(writer: SummaryWriter) -> float:
    began = time.perf_counter()
    for name, value in VALUES.items():
        writer.add_scalar(name, value, 1)
    writer.flush()
    return time.perf_counter() - began


def prepared(folder: str, num_rows: int) -> RunManager:
    """A manager whose run has so many epochs already."""
    m = manager(folder, f"rows_{num_rows}", tensorboard=False)
    for _ in range(num_rows):
        one_epoch(m)
    return m


with tempfile.TemporaryDirectory() as folder, open(os.devnull, "w") as nowhere, redirect_stdout(nowhere):
    silent = manager(folder, "silent", tensorboard=False)
    shown = manager(folder, "shown", tensorboard=False, writers=[PlainDisplay(Progress())])
    board = manager(folder, "board")
    writer = SummaryWriter(f"{folder}/summary_writer")
    cases = {
        "silent": lambda: one_epoch(silent),
        "shown": lambda: one_epoch(shown),
        "board": lambda: one_epoch(board),
        "board alone": TensorBoardAlone(folder).one_epoch,
        "SummaryWriter": lambda: summary_writer_epoch(writer),
        "classroom": Classroom().one_epoch,
    }
    for case in cases.values():
        for _ in range(10):  # the first of them writes the tables anew, because its metrics are new
            case()
    samples = interleaved(ROUNDS, cases)
    deep = {f"{rows:,}": prepared(folder, rows) for rows in (10, 1000, 10_000)}
    by_depth = interleaved(ROUNDS // 5, {rows: partial(one_epoch, m) for rows, m in deep.items()})
    writer.close()
    for m in (silent, shown, board, *deep.values()):
        m.end_run()
        m.close()

ours = samples["silent"]
others = [
    against("SummaryWriter", ours, samples["SummaryWriter"], "ms"),
    against("the classroom's table", ours, samples["classroom"], "ms"),
]
report("end_epoch without TensorBoard, silent", ours, "ms", 0.1, "; ".join(others))
report("end_epoch without TensorBoard, a line shown", samples["shown"], "ms", 0.1)
alone = samples["board alone"]
report(
    "end_epoch with TensorBoard, beyond TensorBoard's own cost",
    beyond(samples["board"], alone),
    "ms",
    0.1,
    against("our TensorBoard writer alone", samples["board"], alone, "ms"),
)
first = by_depth["10"]
for rows, mine in by_depth.items():
    versus = "" if mine is first else against("10 rows", mine, first, "ms")
    report(f"end_epoch after {rows} rows", mine, "ms", 0.1, versus)
