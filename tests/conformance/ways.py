"""The ways a run can be trained. Each trains the same small grid on the same data and leaves one sweep in a project."""

import os
import signal
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader, TensorDataset

from runmanager import RunBuilder, RunManager, Sweep, Trainer, launch
from runmanager.data.splits import Splits
from runmanager.training.seeding import run_seed
from tests.processes import in_child

NAME = "same"
PARAMS = OrderedDict(lr=[0.1, 0.01], batch_size=[8, 32])
NUM_EPOCHS = 2
BROKEN_LR = 0.01
"""The run with this rate and batches of 8 raises in its second epoch, where a test asks for it."""
KILLED = "killed-"
"""Where a project has such a file for a run, the run has killed its process in its second epoch, and does so no more."""


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

    def __init__(self, project: Path, run, fails: bool) -> None:
        super().__init__()
        self.fails = fails and (run.lr, run.batch_size) == (BROKEN_LR, 8)
        self.project, self.journals = project, f"runs/{NAME}/*-lr={run.lr},batch_size={run.batch_size}-*/journal.jsonl"

    def is_in_second_epoch(self) -> bool:
        journal = next(self.project.glob(self.journals), None)
        return torch.is_grad_enabled() and journal is not None and b'"epoch_seconds"' in journal.read_bytes()

    def forward(self, preds: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        if self.fails and self.is_in_second_epoch():
            raise RuntimeError("the loss broke")
        return super().forward(preds, targets)


class KillingOnce(Failing):
    """It also kills its process in the first batch of the second epoch, unless that was done before."""

    def __init__(self, project: Path, run, fails: bool) -> None:
        super().__init__(project, run, fails)
        self.mark = project / f"{KILLED}{run.lr}-{run.batch_size}"

    def forward(self, preds: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        if not self.mark.exists() and self.is_in_second_epoch():
            self.mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().forward(preds, targets)


def by_hand(project: Path, fails: bool, tensorboard: bool) -> None:
    """The user's own loop drives."""
    data = splits()
    m = RunManager(NAME, root=project, tensorboard=tensorboard, quiet=True)
    for run in RunBuilder.get_runs(PARAMS):
        seed = run_seed(0, run._asdict())
        torch.manual_seed(seed)
        net = network()
        loss_function = Failing(project, run, fails)
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
                m.end_epoch(checkpoint={"network": net.state_dict(), "optimizer": optimizer.state_dict()})
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


def trainers_sweep(project: Path, fails: bool, *, is_killed: bool = False) -> Sweep:
    """The same runs for a Trainer; its project is where it is launched."""

    trainer = Trainer(
        network=network,
        data=splits(),
        optimizer=lambda run, net: torch.optim.SGD(net.parameters(), lr=run.lr),
        loss=lambda run: (KillingOnce if is_killed else Failing)(project, run, fails),
        epochs=NUM_EPOCHS,
    )
    sweep = Sweep(PARAMS, trainer=trainer, name=NAME)
    sweep.file = project / "sweeps" / f"{NAME}.py"
    return sweep


def here(project: Path, fails: bool, tensorboard: bool) -> None:
    """The Trainer drives, in this process."""
    (project / "sweeps").mkdir()
    launch(trainers_sweep(project, fails), quiet=True, tensorboard=tensorboard, fuse="off")


def fused(project: Path, fails: bool, tensorboard: bool) -> None:
    """The Trainer drives, in this process, two runs in each step."""
    (project / "sweeps").mkdir()
    launch(trainers_sweep(project, fails), quiet=True, tensorboard=tensorboard, fuse=2)


def processes(project: Path, fails: bool, tensorboard: bool, *, fuse: str | int = "off") -> None:
    """The Trainer drives, in two worker processes."""
    write_sweep_file(project, fails)
    launch(project / "sweeps" / f"{NAME}.py", workers=2, quiet=True, tensorboard=tensorboard, fuse=fuse)


def fused_in_processes(project: Path, fails: bool, tensorboard: bool) -> None:
    """The Trainer drives, in worker processes, two runs in each step."""
    processes(project, fails, tensorboard, fuse=2)


def write_sweep_file(project: Path, fails: bool) -> None:
    (project / "sweeps").mkdir()
    root = str(Path(__file__).parents[2])
    file = project / "sweeps" / f"{NAME}.py"
    file.write_text(
        f"import sys\nfrom pathlib import Path\n\nsys.path.append({root!r})\n"
        "from tests.conformance.ways import trainers_sweep\n\n"
        f"sweep = trainers_sweep(Path({str(project)!r}), {fails})\n"
    )


def resumed(project: Path, fails: bool, tensorboard: bool) -> None:
    """The Trainer drives, and its process is killed in the middle of every run; the last launch has nothing in its way."""
    (project / "sweeps").mkdir()
    for _ in range(len(PARAMS["lr"]) * len(PARAMS["batch_size"])):
        launch_and_be_killed(project, fails, tensorboard, "off")
    launch(trainers_sweep(project, fails, is_killed=True), quiet=True, tensorboard=tensorboard, fuse="off")


def fused_resumed_alone(project: Path, fails: bool, tensorboard: bool) -> None:
    """Groups of two are killed in their second epoch, one after another, and each run goes on alone."""
    (project / "sweeps").mkdir()
    for group in ((1, 3), (2, 4)):
        launch_and_be_killed(project, fails, tensorboard, 2, only=group)
    launch(trainers_sweep(project, fails), quiet=True, tensorboard=tensorboard, fuse="off")


def alone_resumed_fused(project: Path, fails: bool, tensorboard: bool) -> None:
    """Runs are killed one by one in their second epoch, and go on in groups of two."""
    (project / "sweeps").mkdir()
    for number in (1, 2, 3, 4):
        launch_and_be_killed(project, fails, tensorboard, "off", only=(number,))
    launch(trainers_sweep(project, fails), quiet=True, tensorboard=tensorboard, fuse=2)


def launch_and_be_killed(
    project: Path, fails: bool, tensorboard: bool, fuse: str | int, only: tuple[int, ...] = ()
) -> None:
    def train() -> None:
        sweep = trainers_sweep(project, fails, is_killed=True)
        launch(sweep, quiet=True, tensorboard=tensorboard, fuse=fuse, only=only)

    assert in_child(train) == -signal.SIGKILL


Train = Callable[[Path, bool, bool], None]
WAYS: dict[str, Train] = {
    "by hand": by_hand,
    "here": here,
    "processes": processes,
    "resumed": resumed,
    "fused": fused,
    "fused in processes": fused_in_processes,
    "fused, resumed alone": fused_resumed_alone,
    "alone, resumed fused": alone_resumed_fused,
}
FUSED = {way for way in WAYS if "fused" in way}
