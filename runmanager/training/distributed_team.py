"""The processes that train one run: how they meet, what rank 0 tells the others, and how one that is lost is told."""

import io
import math
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from runmanager.training.settings import TrainerError

STEP_SECONDS = 600.0
"""That a rank is waited for inside an epoch; the first step of a compiled network may take minutes."""

_COMING_SECONDS = 1800.0  # that a rank may load the run longer than rank 0 did
_PATIENCE = timedelta(days=1)  # of the others for rank 0, with which they die
_DEATH_SECONDS = 3.0  # until it is known that a process has ended whose connection is closed
_POLL_SECONDS = 0.01
_AS_RANK_0 = 1e-5  # relative: the same arithmetic on the same kind of device


class Meeting(NamedTuple):
    """Where the processes of a run meet, and what all of them have to know. Plain values, which cross a process border."""

    folder: str  # of the file by which they find each other
    size: int  # how many they are
    device: str  # "cuda", one each, or "cpu"
    sync_batchnorm: bool = False
    threads: int = 1  # of each for its arithmetic, on the CPU
    seconds: float = STEP_SECONDS
    with_start: bool = True  # whether `start_from` is read; not where rank 0 has a saved state

    @property
    def backend(self) -> str:
        """What they talk by; plain values and CPU tensors go by gloo everywhere."""
        return "cpu:gloo,cuda:nccl" if self.device == "cuda" else "gloo"


Fault = Callable[[float], str | None]
"""Why a rank has ended, waited for so many seconds; None where all are there."""

StartRanks = Callable[[Meeting], AbstractContextManager[Fault]]
"""Starts the ranks from 1 on. They are there for the time of the `with`, and gone after it."""


class Team:
    """The ranks of a run, seen from one of them."""

    def __init__(self, meeting: Meeting, rank: int) -> None:
        """Every rank has to make it at the same time.

        Args:
            meeting: where they have met.
            rank: this process's own number, from 0.
        """
        self.rank, self.size, self.sync_batchnorm = rank, meeting.size, meeting.sync_batchnorm
        waits = timedelta(seconds=meeting.seconds) if rank == 0 else _PATIENCE
        self._words: Any = dist.new_group(backend="gloo", timeout=waits)

    def say(self, value: Any = None) -> Any:
        """Rank 0's value, on all ranks; tensors and plain values, as a checkpoint has them."""
        num_bytes = torch.zeros((), dtype=torch.int64)
        data = torch.empty(0, dtype=torch.uint8)
        if self.rank == 0:
            buffer = io.BytesIO()
            torch.save(value, buffer)
            data = torch.frombuffer(buffer.getbuffer(), dtype=torch.uint8)
            num_bytes.fill_(len(data))
        dist.broadcast(num_bytes, 0, group=self._words)
        if self.rank != 0:
            data = torch.empty(int(num_bytes), dtype=torch.uint8)
        dist.broadcast(data, 0, group=self._words)
        return value if self.rank == 0 else torch.load(io.BytesIO(data.numpy().tobytes()), weights_only=True)

    def agree(self, **numbers: float) -> None:
        """Refuses to go on where the ranks have different numbers, but for rounding.

        Raises:
            TrainerError: it says which rank has another one.
        """
        mine = torch.tensor(list(numbers.values()), dtype=torch.float64)
        every = [torch.empty_like(mine) for _ in range(self.size)]
        dist.all_gather(every, mine)
        for rank, theirs in enumerate(every):
            for name, first, other in zip(numbers, every[0].tolist(), theirs.tolist(), strict=True):
                if not _is_near(first, other):
                    raise TrainerError(_disagreement(name.replace("_", " "), rank, first, other))


def _is_near(first: float, other: float) -> bool:
    return math.isclose(first, other, rel_tol=_AS_RANK_0) or (math.isnan(first) and math.isnan(other))


def _disagreement(name: str, rank: int, first: float, other: float) -> str:
    return (
        f"rank {rank} has {other:.9g} as {name}, and rank 0 {first:.9g}; each rank builds the run from the sweep file, "
        "so data and network have to come out the same each time: draw from torch, numpy or random, or from a fixed seed"
    )


@contextmanager
def joined(meeting: Meeting, rank: int, fault: Fault | None = None) -> Iterator[Team]:
    """This process as a rank of its run, for the time of the `with`.

    Args:
        meeting: where they meet.
        rank: this process's own number.
        fault: why another rank has ended; rank 0 asks while it waits for them.

    Raises:
        TrainerError: a rank does not come, or this process is a rank of something else.
    """
    if dist.is_initialized():
        raise TrainerError(
            "this process belongs to a process group of torch.distributed already; end it by destroy_process_group()"
        )
    store = dist.FileStore(str(Path(meeting.folder) / "ranks"), meeting.size)  # type: ignore[attr-defined]
    _wait_for_all(store, meeting, rank, fault)
    with _on_loopback(), _threads(meeting):
        timeout = timedelta(seconds=meeting.seconds)
        dist.init_process_group(meeting.backend, store=store, rank=rank, world_size=meeting.size, timeout=timeout)
        try:
            yield Team(meeting, rank)
        finally:
            if sys.exc_info()[0] is not None and meeting.device == "cuda":
                dist.group.WORLD.abort()  # type: ignore[union-attr]  # NCCL would wait for a rank that is gone
            dist.destroy_process_group()


def _wait_for_all(store: Any, meeting: Meeting, rank: int, fault: Fault | None) -> None:
    """Returns when all have loaded the run, which may take one of them longer than another."""
    store.set(f"is here {rank}", "")
    if rank != 0:
        store.wait(["all are here"], _PATIENCE)
        return
    until = time.monotonic() + _COMING_SECONDS
    names = [f"is here {other}" for other in range(meeting.size)]
    while not store.check(names):
        if fault is not None and (why := fault(_POLL_SECONDS)):
            raise TrainerError(why)
        if time.monotonic() > until:
            raise TrainerError(f"not all of {meeting.size} ranks have come within {_COMING_SECONDS:g} s of the first")
    store.set("all are here", "")


@contextmanager
def _on_loopback() -> Iterator[None]:
    """Lets nobody outside this machine in, unless the user has named an interface."""
    loopback = "lo0" if sys.platform == "darwin" else "lo"
    ours = {name: loopback for name in ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME") if name not in os.environ}
    os.environ.update(ours)
    try:
        yield
    finally:
        for name in ours:
            os.environ.pop(name, None)


@contextmanager
def _threads(meeting: Meeting) -> Iterator[None]:
    """The ranks share the cores that one process would have had."""
    before = torch.get_num_threads()
    if meeting.device == "cpu":
        torch.set_num_threads(meeting.threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def leading(start_ranks: StartRanks, meeting: Meeting) -> Iterator[Callable[[], AbstractContextManager[Team]]]:
    """Starts the other ranks, which load the run meanwhile; inside, what is yielded joins them as rank 0.

    None is left at the end, however that comes.

    Raises:
        TrainerError: a rank has ended, or does not answer.
    """
    with tempfile.TemporaryDirectory(prefix="runmanager-ranks-") as folder:
        meeting = meeting._replace(folder=folder)
        with start_ranks(meeting) as fault:
            try:
                yield lambda: joined(meeting, 0, fault)
            except RuntimeError as error:
                if not _is_of_talking(error):
                    raise
                why = fault(_DEATH_SECONDS)
                if why is None:
                    why = f"another of the {meeting.size} ranks has not answered within {meeting.seconds:g} s"
                raise TrainerError(why) from error


def _is_of_talking(error: RuntimeError) -> bool:
    """Whether it says that the ranks cannot talk to each other; gloo has no class of its own for that."""
    return isinstance(error, dist.DistError) or "gloo" in str(error).lower()


def shares(num_samples: int, size: int) -> list[int]:
    """How many samples of a batch each of `size` ranks takes: as many as the next, or one more."""
    return [num_samples // size + (rank < num_samples % size) for rank in range(size)]


class Gathered(torch.autograd.Function):
    """The predictions of all ranks [N, ...] from each rank's own [n, ...]. Back flows to each what is its own.

    DistributedDataParallel takes the mean over the ranks of their gradients, and what is wanted is their sum: so each gradient
    is multiplied by the number of ranks here.
    """

    @staticmethod
    def forward(ctx: Any, own: Tensor, sizes: Sequence[int], rank: int) -> Tensor:
        """See the class.

        Args:
            ctx: of autograd.
            own: this rank's predictions.
            sizes: how many each rank has.
            rank: this one's number.
        """
        ctx.start, ctx.size, ctx.num_ranks = sum(sizes[:rank]), sizes[rank], len(sizes)
        padded = own.new_zeros((max(sizes), *own.shape[1:]))  # what is gathered has to have one shape
        padded[: len(own)] = own
        every = [torch.empty_like(padded) for _ in sizes]
        dist.all_gather(every, padded)
        return torch.cat([part[:size] for part, size in zip(every, sizes, strict=True)])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        """See the class."""
        return grads[0][ctx.start : ctx.start + ctx.size] * ctx.num_ranks, None, None
