"""A forward pass of K networks at once: one of them is gone through under vmap, with all K networks' tensors in its places."""

import copy
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn
from torch.nn import Module

from runmanager.training.arithmetics import LOOPED

_DROPOUTS = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d)
_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


@contextmanager
def without_advice() -> Iterator[None]:
    """Keeps back what torch says of operations that vmap goes through one by one: a group that is slower is not chosen."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="There is a performance drop because we have not yet implemented")
        yield


class Skeleton:
    """Calls one network's `forward` for all K. Any module that torch.func can go through will do.

    Dropout layers draw each network's mask from that network's own generator, as it would alone.
    """

    def __init__(
        self,
        networks: Sequence[Module],
        generators: Sequence[Generator],
        tensors: dict[str, Tensor],
        arithmetic: str,
        types: Mapping[str, torch.dtype] | None = None,
    ) -> None:
        """Takes a copy of the first network.

        Args:
            networks: K networks, which differ in nothing but their tensors and dropout rates.
            generators: of each, what its dropout draws from.
            tensors: their parameters and buffers, [K, ...], by name.
            arithmetic: one of `arithmetics.ARITHMETICS`.
            types: of the layers' outputs under autocast, by `output_types`; None where there is none.
        """
        self._module = copy.deepcopy(networks[0])
        self.generators = list(generators)
        self._rates: dict[str, list[float]] = {}  # of each dropout layer, [K]
        self._slots = _slots(self._module, list(tensors))
        self._empty = [
            (owner._buffers, key)
            for owner in self._module.modules()
            for key, one in owner._buffers.items()
            if one is None
        ]
        for path, module in self._module.named_modules():
            if type(module) in _DROPOUTS:
                self._rates[path] = [float(network.get_submodule(path).p) for network in networks]  # type: ignore[arg-type]
                module.forward = _Instead(self._dropped, path, module)
            elif type(module) in _BATCH_NORMS and module.momentum is not None:
                module.forward = _Instead(_normalised, module)
            elif arithmetic == LOOPED and is_convolution(module):
                module.forward = _Instead(_convolved, module)
        for path, dtype in (types or {}).items():
            self._module.get_submodule(path).register_forward_hook(_Typed(dtype))

    def keep(self, indices: Sequence[int]) -> None:
        """Goes on with some of the networks."""
        self.generators = [self.generators[index] for index in indices]
        self._rates = {path: [rates[index] for index in indices] for path, rates in self._rates.items()}

    def train(self, mode: bool) -> None:
        """Puts the networks into train or eval mode."""
        self._module.train(mode)

    @contextmanager
    def same_draws(self) -> Iterator[None]:
        """What is drawn in here changes nothing of what is drawn behind it."""
        states = [one.get_state() for one in self.generators]
        try:
            yield
        finally:
            for generator, state in zip(self.generators, states, strict=True):
                generator.set_state(state)

    def close(self) -> None:
        """Lets go of the last step's tensors; the layers that refer back here would keep them."""
        for place, key, _ in self._slots:
            place[key] = None
        for module in self._module.modules():
            vars(module).pop("forward", None)

    @property
    def module(self) -> Module:
        """The network that is gone through."""
        return self._module

    def __call__(self, tensors: dict[str, Tensor], inputs: Tensor, *, shared: bool) -> Tensor:
        """The predictions of all networks, [K, N, ...].

        Args:
            tensors: parameters and buffers, [K, ...]; buffers are changed in place.
            inputs: [K, N, ...], or [N, ...] where all networks have the same.
            shared: whether they have.
        """
        run = torch.vmap(self._forward, in_dims=(0, None if shared else 0))
        preds: Tensor = run(tuple(tensors[name] for _, _, name in self._slots), inputs)
        return preds

    def _forward(self, tensors: tuple[Tensor, ...], inputs: Tensor) -> Any:
        for (place, key, _), tensor in zip(self._slots, tensors, strict=True):
            place[key] = tensor
        preds = self._module(inputs)
        for (place, key, name), tensor in zip(self._slots, tensors, strict=True):
            if place[key] is not tensor:
                raise ValueError(f"forward puts another tensor in the place of {name}, instead of changing it")
        for place, key in self._empty:
            if place[key] is not None:
                raise ValueError(f"forward fills the buffer {key}, which is empty at first")
        return preds

    def _dropped(self, path: str, module: Any, inputs: Tensor) -> Tensor:
        if not module.training or not any(self._rates[path]):
            return inputs
        dropped: Tensor = _Dropout.apply(inputs, partial(self._noise, path, type(module) is not nn.Dropout))
        return dropped

    def _noise(self, path: str, by_feature: bool, like: Tensor) -> Tensor:
        """What dropout multiplies its inputs [K, ...] by: 0 or 1 / (1 - p), of each network its own draw."""
        each = zip(like, self._rates[path], self.generators, strict=False)
        noise = [_noise_of(one, by_feature, rate, generator) for one, rate, generator in each]
        num_spare = len(like) - len(noise)  # rows that are nobody's
        return torch.stack([*noise, *(torch.ones_like(one) for one in noise[:1] * num_spare)])


def _noise_of(like: Tensor, by_feature: bool, rate: float, generator: Generator) -> Tensor:
    """One network's noise, laid out in memory as its inputs are: torch draws it in that order."""
    noise = like.new_empty((*like.shape[:2], *(1 for _ in like.shape[2:]))) if by_feature else torch.empty_like(like)
    if rate == 0 or rate == 1:
        return noise.fill_(1 - rate)
    return noise.bernoulli_(1 - rate, generator=generator).div_(1 - rate)


Slot = tuple[dict[str, Any], str, str]


class _Instead:
    """What a layer of the skeleton does instead of its own `forward`; equal to itself alone."""

    def __init__(self, function: Callable[..., Tensor], *arguments: Any) -> None:
        self._function, self._arguments = function, arguments

    def __call__(self, inputs: Tensor) -> Tensor:
        return self._function(*self._arguments, inputs)

    def __reduce__(self) -> Any:
        raise TypeError("it holds what cannot be copied")


class _Typed:
    """Gives a layer's output the type that it has alone. Autocast goes by operations, and vmap has others: for an addmm, which
    gives a half, a bmm that does and an addition that does not.
    """

    def __init__(self, dtype: torch.dtype) -> None:
        self._dtype = dtype

    def __call__(self, module: Module, inputs: Any, output: Any) -> Any:
        if isinstance(output, Tensor) and torch.is_autocast_enabled(output.device.type):
            return output.to(self._dtype)
        return output


def output_types(network: Module, inputs: Tensor) -> dict[str, torch.dtype]:
    """The types of the outputs of all layers of a network that give one tensor, by their names; "" is the network itself.

    A copy of it is gone through, in eval mode, so that nothing is drawn or measured.
    """
    network, types = copy.deepcopy(network).eval(), dict[str, torch.dtype]()

    def note(path: str, layer: Module, inputs: Any, output: Any) -> None:
        if isinstance(output, Tensor):
            types[path] = output.dtype

    for path, layer in network.named_modules():
        layer.register_forward_hook(partial(note, path))
    with torch.no_grad():
        network(inputs)
    return types


def is_dropout(module: Module) -> bool:
    """Whether it is a dropout layer that draws."""
    return type(module) in _DROPOUTS and float(module.p) > 0  # type: ignore[arg-type]


def is_convolution(module: Module) -> bool:
    """Whether it is a convolution that can be looped over."""
    return type(module) in _CONVOLUTIONS


def _slots(module: Module, names: list[str]) -> list[Slot]:
    """Where each tensor stands: the module's own dict, the key there, and the tensor's name; a tied one has several."""
    wanted = set(names)
    primary = {id(tensor): name for name, tensor in [*module.named_parameters(), *module.named_buffers()]}
    slots: list[Slot] = []
    for _, owner in module.named_modules():
        for place in (owner._parameters, owner._buffers):
            for key, tensor in place.items():
                if tensor is not None and primary[id(tensor)] in wanted:
                    slots.append((place, key, primary[id(tensor)]))
    return slots


def _first(values: Tensor, dim: int | None) -> Tensor | None:
    """The values with K as their first dimension; None where they have none."""
    return None if dim is None else values.movedim(dim, 0)


class _Dropout(torch.autograd.Function):
    """Multiplies by a noise that is drawn outside of vmap."""

    generate_vmap_rule = False

    @staticmethod
    def forward(inputs: Tensor, noise: Callable[[Tensor], Tensor]) -> Tensor:
        raise NotImplementedError  # there is always a vmap around it

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        """Nothing is kept: under vmap, autograd sees the operations below."""

    @staticmethod
    def vmap(info: Any, in_dims: Any, inputs: Tensor, noise: Callable[[Tensor], Tensor]) -> tuple[Tensor, int]:
        stacked = _first(inputs, in_dims[0])
        if stacked is None:
            stacked = inputs.expand(info.batch_size, *inputs.shape)
        return stacked * noise(stacked), 0


class _Convolution(torch.autograd.Function):
    """A convolution of each network by itself, which on a CPU may be faster than a grouped one, and is as exact as alone."""

    generate_vmap_rule = False

    @staticmethod
    def forward(inputs: Tensor, weight: Tensor, bias: Tensor | None, convolve: Callable[..., Tensor]) -> Tensor:
        raise NotImplementedError  # there is always a vmap around it

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        """Nothing is kept: under vmap, autograd sees the operations below."""

    @staticmethod
    def vmap(
        info: Any, in_dims: Any, inputs: Tensor, weight: Tensor, bias: Tensor | None, convolve: Callable[..., Tensor]
    ) -> tuple[Tensor, int]:
        size = info.batch_size
        each = [
            values.movedim(dim, 0).unbind(0) if values is not None and dim is not None else [values] * size
            for values, dim in zip((inputs, weight, bias), in_dims, strict=False)
        ]
        return torch.stack([convolve(*one) for one in zip(*each, strict=True)]), 0


class _BatchNorm(torch.autograd.Function):
    """Batch normalisation of all networks at once, their channels side by side."""

    generate_vmap_rule = False

    @staticmethod
    def forward(inputs: Tensor, *others: Any) -> Tensor:
        raise NotImplementedError  # there is always a vmap around it

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        """Nothing is kept: under vmap, autograd sees the operations below."""

    @staticmethod
    def vmap(info: Any, in_dims: Any, inputs: Tensor, *others: Any) -> tuple[Tensor, int]:
        *of_channels, normalise = others  # running mean and variance, weight, bias: each [K, C], or None
        stacked = _first(inputs, in_dims[0])
        if stacked is None:
            stacked = inputs.expand(info.batch_size, *inputs.shape)
        flat = [
            None if one is None else one.reshape(-1) for one in of_channels
        ]  # running values as views: they are changed
        folded = (
            stacked.transpose(0, 1).flatten(1, 2).to(next((one.dtype for one in flat if one is not None), inputs.dtype))
        )
        normalised = normalise(folded, *flat).unflatten(1, (info.batch_size, -1)).transpose(0, 1)
        return normalised.to(inputs.dtype).contiguous(), 0  # laid out in the same way for any K


def _normalised(module: Any, inputs: Tensor) -> Tensor:
    module._check_input_dim(inputs)
    if module.training and module.num_batches_tracked is not None:
        module.num_batches_tracked.add_(1)
    uses_batch = module.training or module.running_mean is None
    normalise = partial(F.batch_norm, training=uses_batch, momentum=module.momentum, eps=module.eps)
    normalised: Tensor = _BatchNorm.apply(
        inputs, module.running_mean, module.running_var, module.weight, module.bias, normalise
    )
    return normalised


def _convolved(module: Any, inputs: Tensor) -> Tensor:
    if module.padding_mode != "zeros":
        return type(module).forward(module, inputs)  # type: ignore[no-any-return]
    function = {nn.Conv1d: F.conv1d, nn.Conv2d: F.conv2d, nn.Conv3d: F.conv3d}[type(module)]
    convolve = partial(
        function, stride=module.stride, padding=module.padding, dilation=module.dilation, groups=module.groups
    )
    convolved: Tensor = _Convolution.apply(inputs, module.weight, module.bias, convolve)
    return convolved
