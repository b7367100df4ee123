"""What tracking adds to a step.

Measured: `track_loss(loss)` and `track_num_correct(preds, labels)` per step, beyond the same sums written out by hand:
`total.add_(loss, alpha=n); correct.add_(preds.argmax(1).eq(labels).sum())`. The hand-written sums get tensors that are
detached already, so that detaching counts as tracking. Ten classes, batches of 100 and of 1,000.
Against: those sums, and the classroom's own (`loss.item() * n`, `.sum().item()`).
Device: CPU, one thread. 60 rounds of 500 steps each, interleaved, after one that is not counted.
"""

import tempfile
from collections import namedtuple

import torch
import torch.nn.functional as F
from measure import against, beyond, interleaved, machine, report, seconds_of
from torch.utils.data import DataLoader

from runmanager import RunManager

ROUNDS, STEPS = 60, 500
Run = namedtuple("Run", "batch_size")

torch.set_num_threads(1)
torch.manual_seed(0)
print(machine())


def measure(batch_size: int, project: str) -> None:
    preds = torch.randn(batch_size, 10, requires_grad=True)
    labels = torch.randint(10, (batch_size,))
    loss = F.cross_entropy(preds, labels)
    images = torch.zeros(batch_size, 1)
    plain_preds, plain_loss = preds.detach(), loss.detach()
    m = RunManager("speed", root=project, tensorboard=False, quiet=True)
    m.begin_run(Run(batch_size), None, DataLoader(range(STEPS * batch_size), batch_size=batch_size))

    def by_hand() -> None:
        total, correct = torch.zeros((), dtype=torch.float64), torch.zeros((), dtype=torch.int64)
        for _ in range(STEPS):
            total.add_(plain_loss, alpha=batch_size)
            correct.add_(plain_preds.argmax(1).eq(labels).sum())

    def classroom() -> None:
        total, correct = 0.0, 0
        for _ in range(STEPS):
            total += loss.item() * batch_size
            correct += preds.argmax(dim=1).eq(labels).sum().item()

    def tracked() -> None:
        for _ in range(STEPS):
            m.track_loss(loss)
            m.track_num_correct(preds, labels)

    def tracked_with_batch() -> None:
        for _ in range(STEPS):
            m.track_loss(loss, (images, labels))
            m.track_num_correct(preds, labels)

    def in_an_epoch(steps) -> float:
        m.begin_epoch()
        seconds = seconds_of(steps) / STEPS
        m.end_epoch()
        return seconds

    samples = interleaved(
        ROUNDS,
        {
            "by hand": lambda: seconds_of(by_hand) / STEPS,
            "classroom": lambda: seconds_of(classroom) / STEPS,
            "tracked": lambda: in_an_epoch(tracked),
            "with batch": lambda: in_an_epoch(tracked_with_batch),
        },
    )
    m.end_run()
    m.close()
    plain = samples["by hand"]
    for case, call in (("tracked", "track_loss(loss)"), ("with batch", "track_loss(loss, batch)")):
        others = [against("the same sums by hand", samples[case], plain, "µs")]
        others += [against("the classroom's", samples[case], samples["classroom"], "µs")]
        name = f"{call} + track_num_correct, batch {batch_size}, beyond the sums"
        report(name, beyond(samples[case], plain), "µs", 15, "; ".join(others))


with tempfile.TemporaryDirectory() as project:
    for batch_size in (100, 1000):
        measure(batch_size, project)
