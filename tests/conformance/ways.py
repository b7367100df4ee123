"""The ways a run can be trained. Each trains the same small grid on the same data and leaves one sweep in a project."""

from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader, TensorDataset

from runmanager import RunBuilder, RunManager, Sweep, Trainer, launch
from runmanager.data.splits import Splits
from runmanager.training.seeding import run_seed

NAME = "same"
PARAMS = OrderedDict(lr=[0.1, 0.01], batch_size=[8, 32])
NUM_EPOCHS = 2
BROKEN_LR = 0.01
"""Runs with this rate raise in their second epoch, where a test asks for it."""


def network() -> torch.nn.Module:
    return torch.nn.Sequential(
        torch.nn.Flatten(), torch.nn.Linear(16, 12), torch.nn.Dropout(0.2), torch.nn.Linear(12, 3)
    )


def splits() -> Splits:
    generator = torch.Generator().manual_seed(1)
    images = torch.rand(60, 1, 4, 4, generator=generator)
    labels = (images.sum((1, 2, 3)) * 2).long() % 3
    return Splits(TensorDataset(images, labels)).with_validation(0.2, seed=0)


class Failing(torch.nn.CrossEntropyLoss):
    """A loss that raises in the second epoch of the runs that are to fail."""

    def __init__(self, fails: bool) -> None:
        super().__init__()
        self.num_batches_left = 4 * NUM_EPOCHS if fails else None

    def forward(self, preds: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        if self.num_batches_left is not None and torch.is_grad_enabled():
            self.num_batches_left -= 1
            if self.num_batches_left <= 0:
                raise RuntimeError("the loss broke")
        return super().forward(preds, targets)


def by_hand(project: Path, fails: bool, tensorboard: bool) -> None:
    """The user's own loop drives."""
    data = splits()
    m = RunManager(NAME, root=project, tensorboard=tensorboard, quiet=True)
    for run in RunBuilder.get_runs(PARAMS):
        seed = run_seed(0, run._asdict())
        torch.manual_seed(seed)
        net = network()
        loss_function = Failing(fails and run.lr == BROKEN_LR)
        optimizer = torch.optim.SGD(net.parameters(), lr=run.lr)
        order = torch.Generator().manual_seed(seed)
        loader = DataLoader(data.train, batch_size=run.batch_size, shuffle=True, generator=order)
        try:
            m.begin_run(run, net, loader)
            for _ in range(NUM_EPOCHS):
                m.begin_epoch()
                net.train()
                for inputs, targets in loader:
                    preds = net(inputs)
                    loss = loss_function(preds, targets)
                    optimizer.zero_grad()
                    loss.backward()
                    optimizer.step()
                    m.track_loss(loss)
                    m.track_num_correct(preds, targets)
                m.log(**validate(net, data, run.batch_size))
                m.end_epoch()
            m.end_run()
        except RuntimeError as error:
            m.abandon(error)


def validate(net: torch.nn.Module, data: Splits, batch_size: int) -> dict[str, float]:
    net.eval()
    total, num_correct, num_samples = 0.0, 0, 0
    with torch.no_grad():
        for inputs, targets in DataLoader(data.validation, batch_size=batch_size, generator=torch.Generator()):
            preds = net(inputs)
            total += F.cross_entropy(preds, targets).double().item() * len(inputs)
            num_correct += int(preds.argmax(1).eq(targets).sum())
            num_samples += len(inputs)
    return {"val_loss": total / num_samples, "val_accuracy": num_correct / num_samples}


def here(project: Path, fails: bool, tensorboard: bool) -> None:
    """The Trainer drives, in this process."""
    (project / "sweeps").mkdir(exist_ok=True)
    sweep = Sweep(
        PARAMS,
        trainer=Trainer(
            network=network,
            data=splits(),
            optimizer=lambda run, net: torch.optim.SGD(net.parameters(), lr=run.lr),
            loss=lambda run: Failing(fails and run.lr == BROKEN_LR),
            epochs=NUM_EPOCHS,
        ),
        name=NAME,
    )
    sweep.file = project / "sweeps" / "same.py"
    launch(sweep, quiet=True, tensorboard=tensorboard)


WAYS: dict[str, Callable[[Path, bool, bool], None]] = {"by hand": by_hand, "here": here}
