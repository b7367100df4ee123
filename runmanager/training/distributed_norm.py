"""BatchNorm over the samples of all ranks. On CUDA it is torch's; torch has none for the CPU, so that is done here."""

from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn import Module, SyncBatchNorm
from torch.nn.modules.batchnorm import _BatchNorm


class Sharing:
    """Whether synchronised layers are just now over all ranks. They are while a run takes steps, and not while it is measured or
    its average is brought up to date, which each rank does by itself.
    """

    is_on = False


class _Sum(torch.autograd.Function):
    """The sum over the ranks; what flows back is the sum of what each rank's part of the loss says of it."""

    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:
        return _sum(value)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        return _sum(grads[0])


def _sum(value: Tensor) -> Tensor:
    total = value.detach().clone(memory_format=torch.contiguous_format)
    dist.all_reduce(total)
    return total


class CpuSyncBatchNorm(_BatchNorm):
    """What torch.nn.SyncBatchNorm is on CUDA, for CPU tensors: mean and variance are over the samples of all ranks."""

    def _check_input_dim(self, input: Tensor) -> None:
        if input.ndim < 2:
            raise ValueError(f"expected at least 2D input (got {input.ndim}D input)")

    def forward(self, input: Tensor) -> Tensor:
        """Normalises inputs [n, C, ...], which are this rank's own."""
        self._check_input_dim(input)
        if not (self.training and Sharing.is_on):
            return super().forward(input)
        dtype = torch.promote_types(input.dtype, torch.float32)
        values = input.to(dtype)
        dims = [dim for dim in range(input.ndim) if dim != 1]
        shape = [1, -1, *[1] * (input.ndim - 2)]
        count = values.new_tensor([input.numel() // input.shape[1]])
        count = _sum(count)
        mean = _Sum.apply(values.sum(dims)) / count  # [C]
        centred = values - mean.reshape(shape)
        variance = _Sum.apply((centred**2).sum(dims)) / count  # [C]
        self._keep(mean.detach(), variance.detach(), count)
        normal = centred * torch.rsqrt(variance + self.eps).reshape(shape)
        if self.weight is not None:
            normal = normal * self.weight.reshape(shape) + self.bias.reshape(shape)
        return cast(Tensor, normal.to(input.dtype))

    def _keep(self, mean: Tensor, variance: Tensor, count: Tensor) -> None:
        """Adds to the running statistics, as BatchNorm does: the variance there is the unbiased one."""
        if not self.track_running_stats or self.running_mean is None or self.running_var is None:
            return
        assert self.num_batches_tracked is not None
        self.num_batches_tracked.add_(1)
        share = 1 / int(self.num_batches_tracked) if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), share)
        unbiased = variance * (count / (count - 1))
        self.running_var.lerp_(unbiased.to(self.running_var.dtype), share)


class CudaSyncBatchNorm(SyncBatchNorm):
    """torch's own, where it is shared."""

    def forward(self, input: Tensor) -> Tensor:
        """Normalises inputs [n, C, ...], which are this rank's own."""
        return super().forward(input) if Sharing.is_on else _BatchNorm.forward(self, input)


def synchronise(network: Module) -> Module:
    """The network with its BatchNorm layers over all ranks; parameters, buffers and their names are the same ones."""
    is_cuda = any(param.device.type == "cuda" for param in network.parameters())
    if is_cuda:
        network = SyncBatchNorm.convert_sync_batchnorm(network)
    for module in network.modules():
        if isinstance(module, _BatchNorm):  # neither class adds a state of its own
            module.__class__ = CudaSyncBatchNorm if is_cuda else CpuSyncBatchNorm
    return network


def normalises_by_batch(network: Module) -> bool:
    """Whether it takes the statistics of a batch in eval mode too, where no layer is synchronised."""
    return any(isinstance(module, _BatchNorm) and module.running_mean is None for module in network.modules())
