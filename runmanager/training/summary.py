"""What a network is made of: its layers, what comes out of each, and how many parameters they have."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn import Module
from torch.nn.parameter import is_lazy

from runmanager.tracking.faults import one_line
from runmanager.tracking.untouched import frozen_rng
from runmanager.training.settings import TrainerError

_HEADS = ("layer", "kind", "output", "parameters", "trainable")
_KIB, _MIB = 2**10, 2**20


@dataclass(frozen=True)
class Layer:
    """One module that does something by itself, or has parameters of its own."""

    name: str
    kind: str
    output: str  # shapes, the batch's dimension as N; empty where the layer was not called
    num_params: int  # its own, those left out that an earlier layer shares with it
    num_trainable: int
    num_calls: int = 1
    shared_with: tuple[str, ...] = ()  # the layers before it that have some of its parameters too

    @property
    def trainable(self) -> str:
        """Whether its parameters are trained, for people."""
        if self.shared_with:
            return f"as {', '.join(self.shared_with)}"
        if not self.num_params:
            return ""
        return {0: "no", self.num_params: "yes"}.get(self.num_trainable, f"{self.num_trainable:,} of them")


@dataclass(frozen=True)
class Summary:
    """The layers of a network in the order in which they were registered, and all of it together."""

    layers: list[Layer]
    num_params: int
    num_trainable: int
    num_buffers: int  # the numbers in them
    num_bytes: int  # of parameters and buffers

    def lines(self) -> list[str]:
        """A table, and the totals."""
        rows = [_HEADS, *map(_cells, self.layers)]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        frozen = self.num_params - self.num_trainable
        return [
            *(_aligned(row, widths) for row in rows),
            "",
            f"parameters {self.num_params:,}: {self.num_trainable:,} trainable, {frozen:,} frozen",
            f"buffers {self.num_buffers:,}",
            f"size {_size_text(self.num_bytes)}",
        ]


def _size_text(num_bytes: int) -> str:
    return f"{num_bytes / _MIB:.2f} MiB" if num_bytes >= _MIB else f"{num_bytes / _KIB:.2f} KiB"


def _cells(layer: Layer) -> tuple[str, ...]:
    output = layer.output or "not called"
    calls = f", {layer.num_calls} calls" if layer.num_calls > 1 else ""
    params = f"{layer.num_params:,}" if layer.num_params or layer.shared_with else ""
    return layer.name, layer.kind, output + calls, params, layer.trainable


def _aligned(cells: tuple[str, ...], widths: list[int]) -> str:
    name, kind, output, params, trainable = (
        cell.rjust(width) if head == "parameters" else cell.ljust(width)
        for head, cell, width in zip(_HEADS, cells, widths, strict=True)
    )
    return "  ".join((name, kind, output, params, trainable)).rstrip()


def summarize(network: Module, inputs: Tensor) -> Summary:
    """The layers of a network, seen while a batch goes through it in eval mode; the network is left as it was.

    Args:
        network: the network.
        inputs: a batch [N, ...] on its device.

    Raises:
        TrainerError: the batch does not go through; the message says in which layer.
    """
    calls = _Calls(len(inputs))
    with calls.watching(network), _in_eval_mode(network), frozen_rng(network), torch.no_grad():
        try:
            network(inputs)
        except Exception as error:
            where = f" in {calls.under_way}" if calls.under_way else ""
            raise TrainerError(f"inputs {list(inputs.shape)} do not go through{where}: {one_line(error)}") from error
    return _counted(network, calls)


def _counted(network: Module, calls: "_Calls") -> Summary:
    owners: dict[int, str] = {}
    layers = [_layer(name, module, calls, owners) for name, module in _own_layers(network)]
    params, buffers = list(network.parameters()), list(network.buffers())
    return Summary(
        layers,
        sum(map(_size, params)),
        sum(_size(one) for one in params if one.requires_grad),
        sum(map(_size, buffers)),
        sum(_size(one) * one.dtype.itemsize for one in [*params, *buffers]),
    )


def _own_layers(network: Module) -> Iterator[tuple[str, Module]]:
    """Those that hold no others or have something of their own; one that stands in several places, in the first."""
    for name, module in network.named_modules():
        own = any(one is not None for one in (*module._parameters.values(), *module._buffers.values()))
        if own or not any(module.children()):
            yield name or "(network)", module


def _layer(name: str, module: Module, calls: "_Calls", owners: dict[int, str]) -> Layer:
    own = list(dict.fromkeys(module.parameters(recurse=False)))
    shared = dict.fromkeys(owners[id(one)] for one in own if id(one) in owners)
    new = [one for one in own if id(one) not in owners]
    owners.update({id(one): name for one in new})
    return Layer(
        name,
        type(module).__name__,
        calls.shapes.get(id(module), ""),
        sum(map(_size, new)),
        sum(_size(one) for one in new if one.requires_grad),
        calls.numbers.get(id(module), 0),
        tuple(shared),
    )


def _size(tensor: Tensor) -> int:
    return 0 if is_lazy(tensor) else tensor.numel()  # a lazy one that was never called has no shape yet


@dataclass
class _Calls:
    """What comes out of each module, by the module's id."""

    batch_size: int
    shapes: dict[int, str] = field(default_factory=dict)  # of the first call
    numbers: dict[int, int] = field(default_factory=dict)
    _open: list[str] = field(default_factory=list)  # the modules that are under way, the innermost last

    @property
    def under_way(self) -> str:
        """The innermost module that was called and has not returned."""
        return self._open[-1] if self._open else ""

    @contextmanager
    def watching(self, network: Module) -> Iterator[None]:
        """Looks at every call of every module of a network."""
        hooks: list[Any] = []
        try:
            for name, module in network.named_modules():
                hooks.append(module.register_forward_pre_hook(self._entering(name, module)))
                hooks.append(module.register_forward_hook(self._note))
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def _entering(self, name: str, module: Module) -> Any:
        label = f"{name} ({type(module).__name__})" if name else ""
        return lambda module, inputs: self._open.append(label)

    def _note(self, module: Module, inputs: Any, output: Any) -> None:
        self._open.pop()
        self.numbers[id(module)] = self.numbers.get(id(module), 0) + 1
        shapes = ", ".join(self._shape(one) for one in _tensors(output))
        self.shapes.setdefault(id(module), shapes or type(output).__name__)

    def _shape(self, tensor: Tensor) -> str:
        dims = [str(dim) for dim in tensor.shape]
        if dims and tensor.shape[0] == self.batch_size:
            dims[0] = "N"
        return f"[{', '.join(dims)}]"


def _tensors(output: Any) -> Iterable[Tensor]:
    """The tensors in what a module returned."""
    if isinstance(output, Tensor):
        return [output]
    values = output.values() if isinstance(output, dict) else output if isinstance(output, (tuple, list)) else ()
    return [tensor for one in values for tensor in _tensors(one)]


@contextmanager
def _in_eval_mode(network: Module) -> Iterator[None]:
    modes = [(module, module.training) for module in network.modules()]
    network.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode
