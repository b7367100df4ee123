"""Small trainings by a plain loop, of which each rank does its share; and what the other ranks do in the tests."""

import os
import time
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from runmanager.training.distributed_network import SpreadNetwork
from runmanager.training.distributed_team import Meeting, Team, joined

NUM_EPOCHS = 3
DOUBLE = torch.float64


def drawn(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


class Case:
    """A training that can be done by one process or by several."""

    def __init__(
        self,
        network: Callable[[], nn.Module],
        shape: tuple[int, ...],
        *,
        num_samples: int = 63,
        batch_size: int = 20,
        dtype: torch.dtype = torch.float32,
        loss: Any = F.cross_entropy,
        optimizer: Any = torch.optim.SGD,
        penalty: float = 0.0,
        clip_norm: float | None = None,
        mixes: bool = False,
    ) -> None:
        self.network, self.dtype, self.loss, self.optimizer = network, dtype, loss, optimizer
        self.batch_size, self.penalty, self.clip_norm, self.mixes = batch_size, penalty, clip_norm, mixes
        self.inputs = drawn(num_samples, *shape, dtype=dtype)
        self.targets = (self.inputs.flatten(1).sum(1) > self.inputs[0].numel() / 2).long()

    def train(self, team: Team | None = None) -> tuple[list[float], list[float], dict[str, Tensor]]:
        """The losses of the steps, those of the epochs in eval mode, and the network's state; the usual loop."""
        torch.manual_seed(0)
        own = self.network().to(self.dtype)
        network = own if team is None else SpreadNetwork(own, team)
        optimizer = self.optimizer(own.parameters(), lr=0.1)
        losses, val_losses = [], []
        for _ in range(NUM_EPOCHS):
            network.train()
            for rows in torch.randperm(len(self.inputs)).split(self.batch_size):
                losses.append(self.step(network, optimizer, rows))
            network.eval()
            with torch.no_grad():
                val_losses.append(self.loss(network(self.inputs), self.targets).item())
        return losses, val_losses, own.state_dict()

    def step(self, network: nn.Module, optimizer: torch.optim.Optimizer, rows: Tensor) -> float:
        inputs, targets = self.inputs[rows], self.targets[rows]
        if self.mixes:
            share = torch.rand(())
            inputs = share * inputs + (1 - share) * inputs[torch.randperm(len(inputs))]
        optimizer.zero_grad()
        loss = self.loss(network(inputs), targets)
        if self.penalty:
            loss = loss + self.penalty * sum(param.square().sum() for param in network.parameters())
        loss.backward()
        if self.clip_norm is not None:
            nn.utils.clip_grad_norm_(network.parameters(), self.clip_norm)
        optimizer.step()
        return loss.item()


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 16), nn.Tanh(), nn.Linear(16, 2))


def normed_mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 2))


def cnn() -> nn.Module:
    head = nn.Sequential(nn.Flatten(), nn.Linear(6 * 16, 2))
    return nn.Sequential(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.AvgPool2d(2), head)


def other_norms() -> nn.Module:
    return nn.Sequential(
        nn.Linear(4, 8),
        nn.BatchNorm1d(8, momentum=None),
        nn.Linear(8, 8),
        nn.BatchNorm1d(8, affine=False),
        nn.Linear(8, 8),
        nn.BatchNorm1d(8, track_running_stats=False),
        nn.Linear(8, 2),
    )


def with_dropout() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 16), nn.Dropout(0.5), nn.Linear(16, 2))


class HalfUsed(nn.Module):
    """Has a layer that is never used, and a frozen one."""

    def __init__(self) -> None:
        super().__init__()
        self.used, self.unused, self.frozen = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 2)
        self.frozen.requires_grad_(False)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.frozen(self.used(inputs).tanh())


def weighted(preds: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(preds, targets, torch.tensor([0.2, 0.8], dtype=preds.dtype))


def of_pairs(preds: Tensor, targets: Tensor) -> Tensor:
    """A loss that is no mean over samples: each is compared with each."""
    return torch.cdist(preds, preds).mean() + F.cross_entropy(preds, targets)


CASES = {
    "mlp": Case(mlp, (4,)),
    "mlp in double": Case(mlp, (4,), dtype=DOUBLE),
    "adam": Case(mlp, (4,), dtype=DOUBLE, optimizer=torch.optim.Adam),
    "a weighted loss": Case(mlp, (4,), dtype=DOUBLE, loss=weighted),
    "a loss of pairs": Case(mlp, (4,), dtype=DOUBLE, loss=of_pairs),
    "a penalty and clipping": Case(mlp, (4,), dtype=DOUBLE, penalty=1e-2, clip_norm=0.1),
    "mixed inputs": Case(mlp, (4,), dtype=DOUBLE, mixes=True),
    "unused and frozen": Case(HalfUsed, (4,), dtype=DOUBLE),
    "cnn with norms": Case(cnn, (3, 10, 10), num_samples=42),
    "cnn with norms in double": Case(cnn, (3, 10, 10), num_samples=42, dtype=DOUBLE),
    "mlp with norms": Case(normed_mlp, (4,), dtype=DOUBLE),
    "norms in short batches": Case(normed_mlp, (4,), num_samples=12, batch_size=3, dtype=DOUBLE),
    "other norms": Case(other_norms, (4,), dtype=DOUBLE),
    "dropout": Case(with_dropout, (4,), num_samples=64, batch_size=16),
    **{f"batches of {size}": Case(mlp, (4,), num_samples=11, batch_size=size, dtype=DOUBLE) for size in range(1, 8)},
}


def of_all(team: Team, number: int) -> list[int]:
    """A number of each rank."""
    every = [torch.empty(1, dtype=torch.int64) for _ in range(team.size)]
    dist.all_gather(every, torch.tensor([number]))
    return torch.cat(every).tolist()


def differing_states(team: Team, name: str) -> list[int]:
    """How many of each rank's weights and running statistics are not rank 0's, bit for bit, after a training."""
    state = CASES[name].train(team)[2]
    theirs = team.say(state)
    return of_all(team, sum(not torch.equal(value, theirs[key]) for key, value in state.items()))


def masks(team: Team, num_samples: int) -> list[list[list[float]]]:
    """What dropout leaves of each rank's ones, in two steps."""
    torch.manual_seed(0)
    network = SpreadNetwork(nn.Dropout(0.5), team).train()
    return [network(torch.ones(num_samples, 32)).tolist() for _ in range(2)]


def are_masks_the_same(team: Team) -> list[int]:
    """Whether each rank has rank 0's masks of a batch that each takes as a whole."""
    mine = masks(team, team.size)
    return of_all(team, int(team.say(mine) == mine))


class Pair(nn.Linear):
    """Returns more than one tensor."""

    def forward(self, inputs: Tensor) -> Any:
        return super().forward(inputs), inputs


def refusal(team: Team, network: nn.Module) -> str:
    """What is said of a network's predictions."""
    try:
        SpreadNetwork(network, team)(torch.rand(4 * team.size, 4))
    except ValueError as error:
        return str(error)
    return "nothing"


def disagreement(team: Team, *, at_rank: int, number: float) -> str:
    """What is said where one rank has another number."""
    try:
        team.agree(the_loss=number if team.rank == at_rank else 1.0)
    except ValueError as error:
        return str(error)
    return "nothing"


OTHERS: dict[str, Callable[[Team], Any]] = {
    "dropout's states": lambda team: differing_states(team, "dropout"),
    "states with norms": lambda team: differing_states(team, "cnn with norms"),
    "masks": lambda team: masks(team, 3 * team.size),
    "masks of a short batch": are_masks_the_same,
    "a pair": lambda team: refusal(team, Pair(4, 2)),
    "a scalar for each sample's half": lambda team: refusal(team, nn.Sequential(nn.Linear(4, 2), nn.Flatten(0))),
    "another number": lambda team: disagreement(team, at_rank=1, number=1.001),
    "another rounding": lambda team: disagreement(team, at_rank=1, number=1 + 1e-9),
    "no number": lambda team: disagreement(team, at_rank=1, number=float("nan")),
}


def die(team: Team) -> None:
    """Ends a process in the middle of a step."""
    if team.rank:
        print("the device is on fire", flush=True)
        os._exit(7)
    CASES["mlp"].train(team)


def fail(team: Team) -> None:
    """Raises on one rank alone."""
    if team.rank:
        raise OverflowError("too much for rank 1")
    CASES["mlp"].train(team)


def hang(team: Team) -> None:
    """One rank never comes to its next step."""
    if team.rank:
        time.sleep(1000)
    CASES["mlp"].train(team)


OTHERS |= {"die": die, "fail": fail, "hang": hang}


def serve(meeting: dict[str, Any], rank: int) -> None:
    """What ranks from 1 on do: the cases that rank 0 names, until it names none."""
    torch.set_num_threads(1)
    with joined(Meeting(**meeting), rank) as team:
        while name := team.say():
            do(name, team)


def never_come(meeting: dict[str, Any], rank: int) -> None:
    """Fails before the ranks have met."""
    raise FileNotFoundError("rank 1 has no data")


def do(name: str, team: Team) -> Any:
    """A case, or one of the others, as each rank does it."""
    team.sync_batchnorm = not name.startswith("separate ")
    name = name.removeprefix("separate ")
    return OTHERS[name](team) if name in OTHERS else CASES[name].train(team)
