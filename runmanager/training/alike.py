"""What runs have to agree in to be trained in one step, and what keeps a network from it."""

import pickle
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.nn import Module
from torch.nn.parameter import is_lazy

from runmanager.training.parts import Parts
from runmanager.training.stacked_optimizers import refusal, structure, trained_parameters

_OF_EVERY_MODULE = frozenset(vars(Module()))
_MAY_DIFFER: dict[type, set[str]] = {nn.Dropout: {"p"}, nn.Dropout1d: {"p"}, nn.Dropout2d: {"p"}, nn.Dropout3d: {"p"}}


class NotFusable(Exception):  # noqa: N818 (it is no fault)
    """A run that is trained alone; the text says why."""


def token(value: Any) -> str:
    """A text that is the same for two values where they do the same, as far as that can be told; never for others.

    Modules count without their parameters' and buffers' values.
    """
    if isinstance(value, Module):
        return f"{_kind(value)} {_attributes(value)} {[(name, token(one)) for name, one in value.named_children()]}"
    if isinstance(value, torch.Tensor):
        return f"{value.dtype} {tuple(value.shape)} {value.detach().cpu().reshape(-1).tolist()}"
    if isinstance(value, (tuple, list)):
        return f"{type(value).__name__}({', '.join(map(token, value))})"
    if isinstance(value, Mapping):
        return f"{type(value).__name__}({', '.join(f'{key!r}: {token(one)}' for key, one in value.items())})"
    code = getattr(value, "__code__", None)
    if code is not None:
        cells = [cell.cell_contents for cell in value.__closure__ or ()]
        return (
            f"{value.__module__}.{value.__qualname__} {code.co_code.hex()} {token(cells)} {token(value.__defaults__)}"
        )
    try:
        return repr(pickle.dumps(value))  # it is compared, never loaded
    except Exception:  # noqa: BLE001 (what cannot be pickled is equal to itself alone)
        return f"{type(value).__name__} at {id(value)}"


def _kind(module: Module) -> str:
    return f"{type(module).__module__}.{type(module).__qualname__}"


def _attributes(module: Module) -> str:
    """What a module keeps beside its parameters, buffers and children, but for what may differ between members."""
    left_out = _OF_EVERY_MODULE | _MAY_DIFFER.get(type(module), set())
    return token({name: value for name, value in vars(module).items() if name not in left_out})


def group_key(parts: Parts, others: Any) -> str:
    """What has to agree between the members of a group: architecture, loss, optimizer, and what else the caller names.

    Raises:
        NotFusable: the run is trained alone, whatever the others are.
    """
    _refuse(parts)
    shapes = [
        (name, tuple(one.shape), str(one.dtype), one.requires_grad)
        for name, one in [*parts.network.named_parameters(), *parts.network.named_buffers()]
    ]
    places = {id(param): name for name, param in parts.network.named_parameters()}
    trained = [places[id(param)] for param in trained_parameters(parts.optimizer)]
    kind = _kind(parts.loss) if isinstance(parts.loss, Module) else getattr(parts.loss, "__qualname__", "")
    return "\n".join(map(str, (token(parts.network), shapes, trained, structure(parts.optimizer), kind, others)))


def _refuse(parts: Parts) -> None:
    network, optimizer = parts.network, parts.optimizer
    reason = refusal(optimizer) or _hooked(network) or _parameters_fault(parts)
    if reason:
        raise NotFusable(reason)


def _hooked(network: Module) -> str | None:
    for path, module in network.named_modules():
        hooks = (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks, module._backward_pre_hooks)
        if any(hooks):
            return f"its network has a hook on {path or 'itself'}, which would see all members at once"
    if any(param._backward_hooks for param in network.parameters()):
        return "its network has a hook on a parameter, which would not be called"
    return None


def _parameters_fault(parts: Parts) -> str | None:
    params = dict(parts.network.named_parameters())
    if any(is_lazy(param) for param in params.values()):
        return "its network has layers that get their shape with the first batch"
    trained = trained_parameters(parts.optimizer)
    names = {id(param): name for name, param in params.items()}
    if any(id(param) not in names for param in trained) or len({id(param) for param in trained}) < len(trained):
        return "its optimizer trains something that is no parameter of its network"
    left_out = [name for name, param in params.items() if param.requires_grad and id(param) not in map(id, trained)]
    if left_out:
        return f"its optimizer leaves out {left_out[0]}, which is not frozen"
    if len({(param.dtype, param.device) for param in trained}) > 1:
        return "its network has parameters of several dtypes or devices"
    return None
