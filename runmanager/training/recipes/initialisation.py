"""How a network's weights begin: by the initialisers of torch.nn.init, for each kind of layer or by the parameters' names."""

import inspect
from collections.abc import Callable, Mapping
from fnmatch import fnmatchcase
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import Module
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd
from torch.nn.parameter import is_lazy

from runmanager.training.recipes.freezing import no_match
from runmanager.training.recipes.naming import chosen, filled
from runmanager.training.settings import TrainerError

_LAYERS: dict[str, tuple[type[Module], ...]] = {
    "conv": (_ConvNd,),
    "linear": (nn.Linear, nn.Bilinear),
    "norm": (_NormBase, nn.GroupNorm, nn.LayerNorm, nn.RMSNorm),
    "embedding": (nn.Embedding, nn.EmbeddingBag),
}
KINDS = (*_LAYERS, "bias")
"""What stands for the weights of all layers of a kind, or for all biases, norms' biases among them."""

_SHORT = {"kaiming": "kaiming_normal", "he": "kaiming_normal", "xavier": "xavier_uniform", "glorot": "xavier_uniform"}


class _Initialiser(NamedTuple):
    """What fills a tensor, and what the record calls it."""

    name: str
    fill: Callable[[Tensor], Any]


def initialise(network: Module, init: Any, run: Any = None) -> dict[str, str]:
    """Fills the parameters anew, in the order of `network.parameters()`, each at most once.

    An initialiser is a name of torch.nn.init without its underscore (`kaiming_normal`; also `kaiming`, which is that, and
    `xavier`, which is xavier_uniform), a number, a partial, or a function that changes the tensor it is given. The arguments of a
    name are the hyperparameters of the same names: `normal` takes `mean` and `std`.

    Args:
        network: what is initialised.
        init: one initialiser for the weights of all conv and linear layers; biases, norms and whatever else stay as their layers
            made them. Or a dict of initialisers by kind ("conv", "linear", "norm", "embedding", "bias"), or by a pattern of
            parameter names (`layer4.*.weight`). A pattern goes before a kind; of several patterns the last that fits counts.
        run: a named tuple of hyperparameters, where there is one.

    Returns:
        What each parameter that was filled was filled by, by name.

    Raises:
        TrainerError: an initialiser is unknown or cannot fill a parameter; or a kind or pattern is that of no parameter.
    """
    if not isinstance(init, Mapping):
        init = _for_all(network, init)
    by_key = {key: _initialiser(one, run) for key, one in init.items()}
    kinds = _kinds(network)
    used = {name: key for name in kinds if (key := _key_of(name, kinds[name], by_key)) is not None}
    _check_used(network, kinds, by_key)
    done = {}
    for name, param in network.named_parameters():
        if name in used:
            _fill(by_key[used[name]], name, param)
            done[name] = by_key[used[name]].name
    return done


def told(done: Mapping[str, str]) -> str:
    """The record of what `initialise` has done: each initialiser, and what it has filled."""
    filled_by: dict[str, list[str]] = {}
    for name, how in done.items():
        filled_by.setdefault(how, []).append(name)
    return "first weights: " + "; ".join(f"{how} for {', '.join(names)}" for how, names in filled_by.items())


def _for_all(network: Module, init: Any) -> dict[str, Any]:
    """The same initialiser for those of conv and linear that the network has."""
    there = [kind for kind in ("conv", "linear") if kind in _kinds(network).values()]
    if not there:
        raise TrainerError(
            f"init={init!r:.80}: the network has no conv or linear layer; name its parameters, as in init={{'*': {init!r:.40}}}"
        )
    return dict.fromkeys(there, init)


def _kinds(network: Module) -> dict[str, str | None]:
    """Each parameter's kind; None for what is neither a bias nor a weight of a layer that is known."""
    found: dict[str, str | None] = {}
    for path, module in network.named_modules():
        kind = next((kind for kind, layers in _LAYERS.items() if isinstance(module, layers)), None)
        for name, _ in module.named_parameters(path, recurse=False):
            found[name] = "bias" if _is_bias(name.rpartition(".")[2]) else kind
    return {name: found[name] for name, _ in network.named_parameters()}


def _is_bias(name: str) -> bool:
    """Also `bias_ih_l0` of an LSTM and `in_proj_bias` of attention."""
    return name == "bias" or name.startswith("bias_") or name.endswith("_bias")


def _key_of(name: str, kind: str | None, keys: Mapping[Any, Any]) -> Any:
    patterns = [key for key in keys if key not in KINDS and fnmatchcase(name, str(key))]
    return patterns[-1] if patterns else (kind if kind in keys else None)


def _check_used(network: Module, kinds: Mapping[str, str | None], keys: Mapping[Any, Any]) -> None:
    for key in keys:
        if key in KINDS and key not in kinds.values():
            there = ", ".join(kind for kind in KINDS if kind in kinds.values()) or "none of the kinds"
            raise TrainerError(f"init has {key!r}, but the network has no {key}; it has {there}")
        if key not in KINDS and not any(fnmatchcase(name, str(key)) for name in kinds):
            raise TrainerError(f"{no_match('init', key, network)}; or choose a kind: {', '.join(KINDS)}")


def _initialiser(init: Any, run: Any) -> _Initialiser:
    if isinstance(init, str):
        return _named(init, run)
    if isinstance(init, (int, float)) and not isinstance(init, bool):
        return _Initialiser(f"constant({init})", partial(nn.init.constant_, val=init))
    if not callable(init) or isinstance(init, type):
        raise TrainerError(
            f"init={init!r:.80} is no initialiser; give a name like 'kaiming_normal', a number, or a function that fills a tensor"
        )
    function, fixed = (init.func, init.keywords) if isinstance(init, partial) else (init, {})
    name = str(getattr(function, "__name__", type(function).__name__))
    return _Initialiser(_said(name.rstrip("_"), fixed), init)


def _named(name: str, run: Any) -> _Initialiser:
    """One of torch.nn.init, with what the run says about its arguments."""
    choices = {one[:-1]: getattr(nn.init, one) for one in dir(nn.init) if one.endswith("_") and not one.startswith("_")}
    function = chosen("init", _SHORT.get(name.lower(), name.lower().removesuffix("_")), choices)
    given = filled(function, run, leave_out=("tensor", "generator")) if run is not None else {}
    params = list(inspect.signature(function).parameters.values())[1:]
    lacking = [one.name for one in params if one.default is one.empty and one.name not in given]
    short = function.__name__[:-1]
    if lacking:
        raise TrainerError(
            f"init={name!r} needs {' and '.join(lacking)}; add {lacking[0]}=[...] to the grid, or write "
            f"partial(torch.nn.init.{short}_, {lacking[0]}=...)"
            + "; a number alone is a constant"
            * (short == "constant")
        )
    return _Initialiser(_said(short, given), partial(function, **given) if given else function)


def _said(name: str, given: Mapping[str, Any]) -> str:
    return f"{name}({', '.join(f'{key}={value!r}' for key, value in given.items())})" if given else name


def _fill(init: _Initialiser, name: str, param: Tensor) -> None:
    if is_lazy(param):
        raise TrainerError(
            f"init={init.name} cannot fill {name}, whose shape is known at the first batch; give its layer a size"
        )
    shape = list(param.shape)
    try:
        with torch.no_grad():
            returned = init.fill(param)
    except (ValueError, RuntimeError, TypeError, IndexError) as error:
        hint = "; 'zeros', 'ones', 'normal', 'uniform' or a number can fill it" * (param.ndim < 2)
        raise TrainerError(f"init={init.name} cannot fill {name} {shape}: {error}{hint}") from error
    if isinstance(returned, Tensor) and returned.data_ptr() != param.data_ptr():
        raise TrainerError(
            f"init={init.name} returned a new tensor for {name} {shape}; let it change the one that it is given"
        )
