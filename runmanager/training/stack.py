"""K networks of one architecture as one: their parameters and buffers in tensors with a first dimension of K."""

from collections.abc import Sequence
from itertools import accumulate

import torch
from torch import Tensor
from torch.nn import Module, Parameter
from torch.optim import Optimizer

from runmanager.training.stacked_optimizers import trained_parameters


class Stack:
    """The parameters and buffers of K networks. The networks keep theirs: each is a view of its part of the stack.

    What is trained lies in one tensor, so that a step of the optimizer is as many operations for any number of networks and of
    layers. Copies of it, as for a checkpoint or a histogram, are made of the networks as ever.
    """

    def __init__(self, networks: Sequence[Module], optimizers: Sequence[Optimizer], *, num_spare: int = 0) -> None:
        """Moves the networks' parameters and buffers into the stack.

        Args:
            networks: K networks of one architecture.
            optimizers: of each, over the same of its parameters in the same order.
            num_spare: rows behind the networks' that are no network's: copies of the first one's.
        """
        self.networks, self._num_spare = list(networks), num_spare
        self._trained = [trained_parameters(optimizer) for optimizer in optimizers]
        first = self._trained[0]
        ends = [0, *accumulate(param.numel() for param in first)]
        self._places = list(zip(ends[:-1], ends[1:], [param.shape for param in first], strict=True))
        names = {id(param): name for name, param in networks[0].named_parameters()}
        self._names = [names[id(param)] for param in first]
        rows = [*self._trained, *[first] * num_spare]
        self.values = torch.stack([_flat(params) for params in rows])  # [K + spare, P]
        self.others = self._stacked_others()
        """What is not trained, [K + spare, ...] each, by name."""
        self._bind()

    @property
    def size(self) -> int:
        """K."""
        return len(self.networks)

    def _stacked_others(self) -> dict[str, Tensor]:
        """What no optimizer trains: frozen parameters, and buffers."""
        trained = set(self._names)
        kept = [
            {
                **{name: param.data for name, param in network.named_parameters() if name not in trained},
                **_buffers(network),
            }
            for network in [*self.networks, *self.networks[:1] * self._num_spare]
        ]
        return {name: torch.stack([one[name] for one in kept]) for name in kept[0]}

    def _bind(self) -> None:
        """Makes the networks' tensors views of the stack's."""
        self.grads = torch.zeros_like(self.values)
        self.leaves = {name: one.requires_grad_() for name, one in self.views_of(self.values).items()}
        self._grad_views = list(self.views_of(self.grads).values())
        for index, (network, params) in enumerate(zip(self.networks, self._trained, strict=True)):
            for param, leaf, grad in zip(params, self.leaves.values(), self._grad_views, strict=True):
                param.data, param.grad = leaf.detach()[index], grad[index]
            bind(network, {name: values[index] for name, values in self.others.items()})

    def views_of(self, values: Tensor) -> dict[str, Tensor]:
        """Numbers for all that is trained, [K + spare, P], as a tensor [K + spare, ...] for each parameter, by its name."""
        places = zip(self._names, self._places, strict=True)
        return {name: values[:, start:stop].view(-1, *shape) for name, (start, stop, shape) in places}

    def tensors(self) -> dict[str, Tensor]:
        """All that a forward pass needs, by the names that a network has for it; each [K + spare, ...]."""
        return {**self.leaves, **self.others}

    def take_grads(self, losses: Tensor, *, adds: bool = False) -> None:
        """Puts the gradients of each network's own loss, [K], into `grads`, or adds them; those of spare rows are 0."""
        found = torch.autograd.grad(losses.sum(), list(self.leaves.values()))
        (torch._foreach_add_ if adds else torch._foreach_copy_)(self._grad_views, list(found))

    def keep(self, indices: Sequence[int]) -> None:
        """Goes on with some of the networks; those that leave keep what they have."""
        spare = range(self.size, self.size + self._num_spare)
        rows = torch.tensor([*indices, *spare], device=self.values.device)
        self.networks = [self.networks[index] for index in indices]
        self._trained = [self._trained[index] for index in indices]
        self.values = self.values.detach()[rows]
        self.others = {name: values[rows] for name, values in self.others.items()}
        self._bind()


def _flat(params: Sequence[Parameter]) -> Tensor:
    return torch.cat([param.detach().reshape(-1) for param in params])


def _buffers(network: Module) -> dict[str, Tensor]:
    return dict(network.named_buffers())


def bind(network: Module, values: dict[str, Tensor]) -> None:
    """Makes a network's parameters and buffers of these names these tensors, wherever they stand in it."""
    for name, param in network.named_parameters():
        if name in values:
            param.data = values[name]
    names = {id(buffer): name for name, buffer in network.named_buffers()}
    for module in network.modules():
        for key, buffer in module._buffers.items():
            if buffer is not None and names[id(buffer)] in values:
                module._buffers[key] = values[names[id(buffer)]]
