"""A network that several ranks, or several GPUs of one process, go through together: a batch in, its predictions out.

To a stepper it is a network like any other. It gets the whole batch and returns the predictions of the whole batch, so that loss,
penalty, clipping, metrics and the optimizer's step are those of one process, and nothing of them knows how many there are.
"""

import copy
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Generator, Tensor
from torch.nn import DataParallel, Module
from torch.nn.parallel import DistributedDataParallel

from runmanager.training.distributed_norm import Sharing, normalises_by_batch, synchronise
from runmanager.training.distributed_team import Gathered, Team, shares
from runmanager.training.settings import TrainerError

_LEAST_SAMPLES = 2  # of each rank: BatchNorm in train mode takes no single sample


class SpreadNetwork(Module):
    """A network of which each rank computes its share of a batch, by DistributedDataParallel.

    A batch of N samples is cut in their order: of 10 samples on 3 ranks rank 0 takes 4, and the others 3 each. All ranks get all
    predictions, so each has the loss of the whole batch, whatever that is; backward, each follows its own share, and the sum of
    the gradients is on all ranks. A batch with less than two samples for each rank is gone through by each rank as a whole:
    the mean of equal gradients is that gradient, and no rank is left with nothing to do while the others wait for it.

    Layers that draw, like dropout, draw on each rank from a stream of its own, so that two ranks do not share their masks.
    What is drawn outside the network, like mixup's partners, is the same on all ranks, and the same as in one process as long
    as the network draws nothing.

    A parameter that gets no gradient is left as it is, as in one process.
    """

    def __init__(self, network: Module, team: Team) -> None:
        """Takes the network, which stays the one whose parameters are trained; its BatchNorm layers may be converted in place.

        Args:
            network: on this rank's device.
            team: the ranks.
        """
        super().__init__()
        self.network = synchronise(network) if team.sync_batchnorm else network
        self._team, self._is_by_batch = team, normalises_by_batch(self.network)
        self._parallel: list[DistributedDataParallel] = []  # in a list, so that it is no part of this module
        self._unused: dict[tuple[bool, ...], bool] = {}  # by which parameters are trainable

    def train(self, mode: bool = True) -> "SpreadNetwork":
        """Each epoch begins with rank 0's weights, and with the parameters that are trainable then."""
        Sharing.is_on = mode
        if mode:
            self._parallel.clear()
        super().train(mode)
        return self

    def forward(self, inputs: Tensor) -> Tensor:
        """The predictions [N, ...] of the whole batch [N, ...], the same on all ranks.

        Raises:
            TrainerError: the network returns something that cannot be put together.
        """
        team = self._team
        sizes = shares(len(inputs), team.size)
        if min(sizes) < _LEAST_SAMPLES or (self._is_by_batch and not self.training):
            return self._as_a_whole(inputs)
        start = sum(sizes[: team.rank])
        with self._own_draws(inputs.device, team.rank):
            own = self._ddp(inputs)(inputs[start : start + sizes[team.rank]])
        if not isinstance(own, Tensor) or own.ndim == 0 or len(own) != sizes[team.rank]:
            what = f"shape {list(own.shape)}" if isinstance(own, Tensor) else f"a {type(own).__name__}"
            raise TrainerError(
                f"the network returns {what} for {sizes[team.rank]} samples, which ranks cannot put together; "
                "return one tensor whose first dimension is the batch, or leave devices= out"
            )
        whole: Tensor = Gathered.apply(own, sizes, team.rank)
        return whole

    def _as_a_whole(self, inputs: Tensor) -> Tensor:
        """All of it on each rank, with the same draws, so that all have the same gradient."""
        was_on, Sharing.is_on = Sharing.is_on, False
        try:
            with self._own_draws(inputs.device, 0):
                preds: Tensor = self._ddp(inputs)(inputs)
        finally:
            Sharing.is_on = was_on
        return preds

    def _ddp(self, inputs: Tensor) -> Module:
        trainable = tuple(param.requires_grad for param in self.network.parameters())
        if not any(trainable):
            return self.network
        if trainable not in self._unused:
            self._unused[trainable] = _has_unused(self.network, inputs[:_LEAST_SAMPLES])
        if not self._parallel:
            unused = self._unused[trainable]
            self._parallel.append(DistributedDataParallel(self.network, find_unused_parameters=unused))
        return self._parallel[0]

    @contextmanager
    def _own_draws(self, device: torch.device, rank: int) -> Iterator[None]:
        """Has what draws from torch draw from this rank's own stream, which the common one decides."""
        if not self.training:
            yield
            return
        outside = [(generator, generator.get_state()) for generator in _generators(device)]
        for generator, state in outside:
            peek = Generator(generator.device)
            peek.set_state(state)
            seed = int(torch.randint(2**62, (), generator=peek, device=generator.device))
            generator.manual_seed(seed + rank)
        before = [generator.get_state() for generator, _ in outside]
        try:
            yield
        finally:
            for (generator, state), seeded in zip(outside, before, strict=True):
                has_drawn = not torch.equal(generator.get_state(), seeded)
                generator.set_state(state)
                if has_drawn:  # the next step's streams are others
                    torch.rand(1, generator=generator, device=generator.device)


def _has_unused(network: Module, inputs: Tensor) -> bool:
    """Whether a trainable parameter gets no gradient; a twin is asked, so that the network stays as it is."""
    try:
        twin = copy.deepcopy(network).eval()
        params = [param for param in twin.parameters() if param.requires_grad]
        with torch.enable_grad(), torch.random.fork_rng():
            grads = torch.autograd.grad(twin(inputs).sum(), params, allow_unused=True)
    except (RuntimeError, TypeError, AttributeError):  # to look for them in every step does no harm, but for its time
        return True
    return any(grad is None for grad in grads)


def _generators(device: torch.device) -> list[Generator]:
    """Those that a network on this device draws from."""
    if device.type != "cuda":
        return [torch.default_generator]
    index = torch.cuda.current_device() if device.index is None else device.index
    return [torch.default_generator, torch.cuda.default_generators[index]]


def data_parallel(network: Module, devices: int) -> Module:
    """The network by DataParallel, for those who ask: one process, which cuts each batch of N samples into `devices` pieces.

    The pieces are as `torch.chunk` cuts: ceil(N / devices) samples each, the last one what is left, and a short batch uses fewer
    devices. In each step the weights are copied to every device, each goes through its piece in a thread, and the predictions
    come back to the first device, where the loss is that of the whole batch and the gradients are summed. So the losses are
    those of one device to within rounding; BatchNorm takes the statistics of each piece, and keeps those of the first. Where
    DistributedDataParallel computes, this copies and waits for Python: it is the slower of the two.

    On the CPU there is one device, and the network stays as it is.
    """
    device = next((param.device for param in network.parameters()), torch.device("cpu"))
    return DataParallel(network, list(range(devices))) if device.type == "cuda" else network
