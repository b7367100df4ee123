"""What runs have to agree in to be trained in one step, and what keeps a network from it."""

import pickle
import sys
from collections.abc import Mapping
from types import CodeType, FunctionType, MethodType
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn import Module
from torch.nn.modules import module as nn_module
from torch.nn.parameter import is_lazy

from runmanager.training.parts import Parts
from runmanager.training.stacked_optimizers import refusal, structure, trained_parameters

_OF_EVERY_MODULE = frozenset(vars(Module()))
_GLOBAL_HOOKS = (
    "_global_forward_hooks",
    "_global_forward_pre_hooks",
    "_global_backward_hooks",
    "_global_backward_pre_hooks",
)
_MAY_DIFFER: dict[type, set[str]] = {nn.Dropout: {"p"}, nn.Dropout1d: {"p"}, nn.Dropout2d: {"p"}, nn.Dropout3d: {"p"}}


class NotFusable(Exception):  # noqa: N818 (it is no fault)
    """A run that is trained alone; the text says why."""


def token(value: Any) -> str:
    """A text that is the same for two values where they do the same, as far as that can be told; never for others.

    Modules count without their parameters' and buffers' values.
    """
    return _token(value, ())


def _token(value: Any, above: tuple[int, ...]) -> str:
    """`above` are the values that it stands in: one of them is told by its place."""
    if id(value) in above:
        return f"<{above.index(id(value))} above>"
    above = (*above, id(value))
    if isinstance(value, Module):
        left_out = _OF_EVERY_MODULE | _MAY_DIFFER.get(type(value), set())
        kept = {name: one for name, one in vars(value).items() if name not in left_out}
        return f"{_kind(value)} {_token(kept, above)} {_token(dict(value.named_children()), above)}"
    if isinstance(value, torch.Tensor):
        return f"{value.dtype} {tuple(value.shape)} {value.detach().cpu().reshape(-1).tolist()}"
    if isinstance(value, (tuple, list)):
        return f"{type(value).__name__}({', '.join(_token(one, above) for one in value)})"
    if isinstance(value, Mapping):
        parts = [f"{key!r}: {_token(one, above)}" for key, one in value.items()]
        return f"{type(value).__name__}({', '.join(parts)})"
    if isinstance(value, CodeType):
        return f"{value.co_code.hex()} {value.co_names} {_token(value.co_consts, above)}"
    if isinstance(value, (FunctionType, MethodType)):
        return _function_token(value, above)
    try:
        return repr(pickle.dumps(value))  # it is compared, never loaded
    except Exception:  # noqa: BLE001 (what cannot be pickled is equal to itself alone)
        return f"{type(value).__name__} at {id(value)}"


def _function_token(value: Any, above: tuple[int, ...]) -> str:
    cells = [cell.cell_contents for cell in value.__closure__ or ()]
    kept = [value.__code__, cells, value.__defaults__, value.__kwdefaults__, getattr(value, "__self__", None)]
    return f"{value.__module__}.{value.__qualname__} {_token(kept, above)}"


def _kind(value: Any) -> str:
    """A class by its name; one that is made anew for each run, so that its name does not tell it, by itself."""
    kind = type(value)
    found: Any = sys.modules.get(kind.__module__)
    for part in kind.__qualname__.split("."):
        found = getattr(found, part, None)
    name = f"{kind.__module__}.{kind.__qualname__}"
    return name if found is kind else f"{name} at {id(kind)}"


def values_token(module: Any) -> str:
    """The same with the values of parameters and buffers, where it has any."""
    values = dict(module.state_dict()) if isinstance(module, Module) else {}
    return f"{token(module)} {token(values)}"


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
    kind, recipe = _loss_kind(parts.loss), parts.recipe.structure()
    return "\n".join(
        map(str, (token(parts.network), shapes, trained, structure(parts.optimizer), kind, recipe, others))
    )


def _loss_kind(loss: Any) -> str:
    """The same for losses that are worked out together, as all cross entropies are."""
    if type(loss) is nn.CrossEntropyLoss or getattr(loss, "func", loss) is F.cross_entropy:
        return "cross entropy"
    return _kind(loss) if isinstance(loss, Module) else getattr(loss, "__qualname__", "")


def _refuse(parts: Parts) -> None:
    network, optimizer = parts.network, parts.optimizer
    reason = parts.recipe.refusal() or _parameters_fault(parts)
    reason = reason or refusal(optimizer) or _layer_fault(network) or _hooked(network)
    if reason:
        raise NotFusable(reason)


def _layer_fault(network: Module) -> str | None:
    """The layers that torch.func goes through in another way than autograd, or not at all."""
    for path, module in network.named_modules():
        if isinstance(module, nn.RNNBase):
            return f"its {path} is a {type(module).__name__}, which has no batched form"
        if isinstance(module, (nn.Embedding, nn.EmbeddingBag)):
            settings = ("padding_idx", "max_norm", "scale_grad_by_freq", "sparse")
            given = [
                name for name in settings if getattr(module, name) is not None and getattr(module, name) is not False
            ]
            if given:
                return f"its {path} is an {type(module).__name__} with {given[0]}, which has no batched form"
    return None


def _hooked(network: Module) -> str | None:
    if any(getattr(nn_module, name) for name in _GLOBAL_HOOKS):
        return "hooks are registered for all modules, and would see all members at once"
    for path, module in network.named_modules():
        hooks = (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks, module._backward_pre_hooks)
        if any(hooks):
            return f"its network has a hook on {path or 'itself'}, which would see all members at once"
    for name, param in network.named_parameters():
        if param._backward_hooks or getattr(param, "_post_accumulate_grad_hooks", None):
            return f"its network has a hook on {name}, which would not be called"
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
    due = {} if parts.recipe.unfreezing is None else parts.recipe.unfreezing.due
    thawed = [params[name] for names in due.values() for name in names]
    if len({(param.dtype, param.device) for param in [*trained, *thawed]}) > 1:
        return "its network has parameters of several dtypes or devices"
    return None
