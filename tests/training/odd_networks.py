"""Networks that cannot be stacked, by the cause that is named, and some that only look so."""

import random

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from tests.training.fused_networks import Embedded, Lstm

BATCH_SIZE = 16
"""With which they are tried; the last batch is a shorter one."""


class Usual(nn.Module):
    """Two layers; what is between them is another matter."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(4, 6), nn.Linear(6, 3)

    def forward(self, inputs):
        return self.last(self.between(torch.tanh(self.first(inputs))))

    def between(self, values):
        return values


class Counting(Usual):
    calls = 0

    def between(self, values):
        self.calls += 1
        return values


class CountingInEvaluation(Usual):
    calls = 0

    def between(self, values):
        self.calls += not self.training
        return values


class Keeping(Usual):
    def between(self, values):
        self.seen = values
        return values


class Collecting(Usual):
    def __init__(self):
        super().__init__()
        self.seen = []

    def between(self, values):
        self.seen.append(values.detach())
        return values


class LookingAtAValue(Usual):
    def between(self, values):
        return values * self.first.weight.sum().item()


class Deciding(Usual):
    def between(self, values):
        return values if values.sum() > 0 else -values


class DecidingInEvaluation(Usual):
    def between(self, values):
        return values if self.training or values.sum() > 0 else -values


class CumulativeNorm(Usual):
    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(6, momentum=None)

    def between(self, values):
        return self.norm(values)


class Dropping(Usual):
    def between(self, values):
        return F.dropout(values, 0.5, self.training)


class Noisy(Usual):
    def between(self, values):
        return values + torch.rand(6)


class NoisyLike(Usual):
    def between(self, values):
        return values + torch.randn_like(values)


class NoisyFromPython(Usual):
    def between(self, values):
        return values * random.random()


class NoisyFromNumpy(Usual):
    def between(self, values):
        return values * float(np.random.rand())


class ReplacingABuffer(Usual):
    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.zeros(6))

    def between(self, values):
        self.mean = self.mean * 0.9 + values.mean(0).detach() * 0.1
        return values - self.mean


class MakingABuffer(Usual):
    def __init__(self):
        super().__init__()
        self.register_buffer("mean", None)

    def between(self, values):
        now = values.mean(0).detach()
        self.mean = now if self.mean is None else self.mean * 0.9 + now * 0.1
        return values - self.mean


class Hooked(Usual):
    def __init__(self):
        super().__init__()
        self.first.register_forward_hook(lambda module, inputs, output: output * 2)


class Lazy(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.LazyLinear(3)

    def forward(self, inputs):
        return self.layer(inputs)


class WithAnUnusedLayer(Usual):
    def __init__(self):
        super().__init__()
        self.unused = nn.Linear(6, 6)


class UsingALayerForWholeBatches(Usual):
    def __init__(self):
        super().__init__()
        self.more = nn.Linear(6, 6)

    def between(self, values):
        return self.more(values) if len(values) == BATCH_SIZE else values


class OfTwoTypes(Usual):
    def __init__(self):
        super().__init__()
        self.last.double()

    def between(self, values):
        return values.double()


class OverTokens(Embedded):
    def forward(self, inputs):
        return super().forward((inputs * 11).long())


class Doubling(torch.autograd.Function):
    """It has no rule for vmap."""

    @staticmethod
    def forward(ctx, values):
        return values * 2

    @staticmethod
    def backward(ctx, grads):
        return grads * 2


class OwnFunction(Usual):
    def between(self, values):
        return Doubling.apply(values)


class ToNumpy(Usual):
    def between(self, values):
        return values + float(values.detach().numpy().mean())


class Pair(Usual):
    def forward(self, inputs):
        return super().forward(inputs), inputs


class ChangingItsInputs(Usual):
    def forward(self, inputs):
        return super().forward(inputs.add_(self.first.bias.detach().mean()))


REFUSED = {
    "its forward changes an attribute": [Counting, CountingInEvaluation, Keeping, Collecting],
    "looks at values": [LookingAtAValue, Deciding, DecidingInEvaluation, CumulativeNorm],
    "random numbers outside of dropout layers": [Dropping, Noisy, NoisyLike, NoisyFromPython, NoisyFromNumpy],
    "mean": [ReplacingABuffer, MakingABuffer],
    "hook on first": [Hooked],
    "shape with the first batch": [Lazy],
    "gets no gradient": [WithAnUnusedLayer, UsingALayerForWholeBatches],
    "several dtypes": [OfTwoTypes],
    "LSTM": [Lstm],
    "sparse": [lambda: OverTokens(sparse=True)],
    "padding_idx": [lambda: OverTokens(padding_idx=0)],
    "cannot be stacked": [OwnFunction, ToNumpy, Pair, ChangingItsInputs],
}


class Frozen(Usual):
    def __init__(self):
        super().__init__()
        self.first.requires_grad_(False)


class ChangingABuffer(Usual):
    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.zeros(6))

    def between(self, values):
        with torch.no_grad():
            self.mean.mul_(0.9).add_(values.mean(0), alpha=0.1)
        return values - self.mean


class Detaching(Usual):
    def between(self, values):
        return values + values.detach()


class WithTensorOutside(Usual):
    def __init__(self):
        super().__init__()
        self.shift = torch.arange(6.0)

    def between(self, values):
        return values + self.shift


TAKEN = [Usual, Frozen, ChangingABuffer, Detaching, WithTensorOutside, OverTokens]
