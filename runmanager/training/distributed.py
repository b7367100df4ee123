"""One run on several devices: rank 0 trains it as ever, and the other ranks train the same run beside it.

Every rank is a process that builds the run from the sweep file by itself: the same seed, network, optimizer, order and data, and
goes through the very same code (see `Alone`) with a network that computes this rank's share of each batch (see `SpreadNetwork`).
So all that follows from predictions, gradients and metrics - schedules, clipping, early stops - comes out the same on each, and
need not be told. What rank 0 alone has, it tells: the state that a run goes on from, and at each epoch's beginning the random
numbers. Rank 0 alone has a RunManager; when it leaves, for whatever reason, the others are ended.
"""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor
from torch.nn import Module

from runmanager.tracking.checkpoint import generators, put_back
from runmanager.tracking.manager import RunManager
from runmanager.training.distributed_network import SpreadNetwork
from runmanager.training.distributed_team import STEP_SECONDS, Meeting, StartRanks, Team, joined, leading
from runmanager.training.settings import TrainerError, choose_device

if TYPE_CHECKING:
    from runmanager.training.alone import Alone
    from runmanager.training.trainer import Trainer

DDP, DP = "ddp", "dp"
"""How one run uses several devices: a process for each, or one process for all."""


def devices_fault(
    devices: Any, parallel: Any = DDP, sync_batchnorm: Any = False, device: Any = None, how_compiled: Any = None
) -> str | None:
    """What is wrong with what a run says of its devices, or None.

    Args:
        devices: how many.
        parallel: 'ddp' or 'dp'.
        sync_batchnorm: whether BatchNorm is over all of them.
        device: the kind of device, where it was given.
        how_compiled: whether the network is compiled.
    """
    if isinstance(devices, bool) or not isinstance(devices, int) or devices < 1:
        return f"devices={devices!r} is not a whole number of 1 or more"
    if parallel not in (DDP, DP):
        return f"parallel={parallel!r} is unknown; choose 'ddp' or 'dp'"
    if not isinstance(sync_batchnorm, bool):
        return f"sync_batchnorm={sync_batchnorm!r} is neither True nor False"
    if sync_batchnorm and devices > 1 and parallel == DP:
        return "sync_batchnorm=True is of parallel='ddp': DataParallel takes the statistics of each device by itself"
    if how_compiled and devices > 1 and parallel == DP:
        return (
            "compile and parallel='dp' cannot both be: DataParallel's copies would all run what was compiled for the first "
            "device; write parallel='ddp', or leave compile out"
        )
    return _machine_fault(devices, device) if devices > 1 else None


def _machine_fault(devices: int, device: Any) -> str | None:
    kind = _kind(device)
    if kind not in ("cuda", "cpu"):
        return f"devices={devices} is for GPUs of CUDA or for the CPU, and device is {kind!r}; choose 'cuda' or 'cpu'"
    if device is not None and torch.device(device).index is not None:
        return f"devices={devices}, but device={str(device)!r} is a single one; write device={kind!r}"
    num_gpus = torch.cuda.device_count()
    if kind == "cuda" and num_gpus < devices:
        return (
            f"devices={devices}, but this process sees {num_gpus} GPU{'s' * (num_gpus != 1)}; give devices={num_gpus}"
        )
    return None


def _kind(device: Any) -> str:
    """Of the devices of a run, whether there are any or not."""
    return choose_device(None).type if device is None else torch.device(device).type


def meeting_of(devices: int, sync_batchnorm: bool, device: Any, seconds: float = STEP_SECONDS) -> Meeting:
    """What the ranks of a run have to know, but for the folder where they meet."""
    threads = max(1, torch.get_num_threads() // devices)
    return Meeting("", devices, _kind(device), sync_batchnorm, threads, seconds)


def meeting_for(trainer: "Trainer", run: Any) -> Meeting:
    """The same, of a run whose Trainer says that it has several."""
    devices, sync_batchnorm, device = (trainer.setting(name, run) for name in ("devices", "sync_batchnorm", "device"))
    return meeting_of(devices, sync_batchnorm, device)


def lead(
    trainer: "Trainer",
    run: Any,
    manager: RunManager,
    start_ranks: StartRanks | None,
    meeting: Meeting,
    *,
    seed: int,
    split_seed: int,
    project: Path,
) -> None:
    """Trains a run as rank 0, which `manager` has begun; the other ranks are started, and gone at the end.

    Raises:
        TrainerError: a rank is lost or comes to other numbers, or nothing starts the others.
    """
    if start_ranks is None:
        raise TrainerError(
            f"devices={meeting.size}: the other processes of the run are started by a launch of its sweep; call "
            "launch(sweep), or leave devices= out"
        )
    meeting = meeting._replace(with_start=not manager.resumes())
    with leading(start_ranks, meeting) as join:  # they load the run while this process does
        splits = trainer.splits(run, split_seed, project)
        with (
            trainer.ready(run, splits, seed, project, with_start=meeting.with_start) as alone,
            join() as team,
        ):
            _train(alone, team, _Leader(manager, team, alone.parts.network), trainer.setting("epochs", run))


def follow(
    trainer: "Trainer", run: Any, meeting: Meeting, rank: int, *, seed: int, split_seed: int, project: Path
) -> None:
    """Trains a run beside rank 0, and keeps nothing of it.

    Raises:
        TrainerError: this rank comes to other numbers.
    """
    splits = trainer.splits(run, split_seed, project)
    with (
        trainer.ready(run, splits, seed, project, with_start=meeting.with_start) as alone,
        joined(meeting, rank) as team,
    ):
        _train(alone, team, _Follower(team, alone.parts.network), trainer.setting("epochs", run))


def _train(alone: "Alone", team: Team, manager: "_Leader | _Follower", num_epochs: int) -> None:
    alone.stepper.network = SpreadNetwork(alone.parts.network, team)
    alone.train(cast(RunManager, manager), num_epochs)


class _Checks:
    """That the ranks have the same first loss of each epoch, and the same weights after it."""

    def __init__(self, team: Team, network: Module) -> None:
        self._team, self._network = team, network
        self._first_loss: Any = None

    def begin(self) -> None:
        self._first_loss = None

    def note(self, loss: Any) -> None:
        if self._first_loss is None:
            self._first_loss = loss.clone() if isinstance(loss, Tensor) else loss

    def end(self) -> None:
        with torch.no_grad():
            weights = sum(param.abs().sum(dtype=torch.float64).item() for param in self._network.parameters())
        loss = float("nan") if self._first_loss is None else float(self._first_loss)
        self._team.agree(the_first_loss_of_the_epoch=loss, the_sum_of_all_weights=weights)


class _Leader:
    """Rank 0's RunManager, which tells the others what it alone knows. The rest is the RunManager's own."""

    def __init__(self, manager: RunManager, team: Team, network: Module) -> None:
        self._manager, self._team, self._checks = manager, team, _Checks(team, network)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._manager, name)

    def load_checkpoint(self) -> dict[str, Any] | None:
        saved = self._manager.load_checkpoint()
        self._team.say([saved, self._manager.num_epochs])
        return saved

    def so_far(self) -> Any:
        return self._team.say(self._manager.so_far())

    def begin_epoch(self) -> None:
        self._manager.begin_epoch()
        self._team.say(generators())
        self._checks.begin()

    def track_loss(self, loss: Any, batch: Any = None) -> None:
        self._checks.note(loss)
        self._manager.track_loss(loss, batch)

    def end_epoch(self, **told: Any) -> None:
        self._checks.end()  # before there is a row
        self._manager.end_epoch(**told)


class _Follower:
    """What the others have in place of a RunManager: it hears what rank 0 says, and records nothing."""

    def __init__(self, team: Team, network: Module) -> None:
        self._team, self._checks = team, _Checks(team, network)
        self.num_epochs = 0

    def __getattr__(self, name: str) -> Callable[..., None]:
        if name.startswith("_"):
            raise AttributeError(name)
        return lambda *arguments, **named: None  # recording is rank 0's

    def load_checkpoint(self) -> dict[str, Any] | None:
        saved, self.num_epochs = self._team.say()
        return cast("dict[str, Any] | None", saved)

    def so_far(self) -> Any:
        return self._team.say()

    def begin_epoch(self) -> None:
        put_back(self._team.say())
        self._checks.begin()

    def track_loss(self, loss: Any, batch: Any = None) -> None:
        self._checks.note(loss)

    def end_epoch(self, **told: Any) -> None:
        self._checks.end()
        self.num_epochs += 1


__all__ = ["DDP", "DP", "Meeting", "StartRanks", "TrainerError", "devices_fault", "follow", "lead", "meeting_of"]
