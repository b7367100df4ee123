"""A run's network: from a Module class, a function of the run, a ready Module, or the name of a model of torchvision."""

import copy
import difflib
import inspect
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch.nn import Conv2d, LazyConv2d, LazyLinear, Linear, Module
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear

from runmanager.nearest import nearest
from runmanager.training.recipes.naming import filled, refuse_unknown, short_name, unknown
from runmanager.training.settings import TrainerError

_EXAMPLES = "resnet18, mobilenet_v3_small, efficientnet_b0 or vit_b_16"
_POPPED = ("dropout", "image_size")  # options of a model that some of torchvision's functions take out of **kwargs


def build_network(network: Any, run: Any) -> Module:
    """The network of a run.

    A class, a partial of one, or a function gets its arguments from the run's hyperparameters of the same names. The one
    required argument that is left gets the run itself, and so does the only required argument of a function.

    Args:
        network: a Module, of which the run gets a copy; a class or a function that makes one; or a name like `resnet18`, which
            is torchvision's model. That has random weights, unless a hyperparameter `weights` says otherwise.
        run: a named tuple of hyperparameters.

    Raises:
        TrainerError: what was given makes no Module, or its weights cannot be had.
    """
    if isinstance(network, Module):
        return copy.deepcopy(network)
    made = _made(network, run) if callable(network) else network
    made = _by_name(made, run) if isinstance(made, str) else made
    if not isinstance(made, Module):
        raise TrainerError(
            f"network={short_name(network)} gives {short_name(made)}; give a Module class or a function that returns a Module"
        )
    return made


def _made(make: Callable[..., Any], run: Any) -> Any:
    """What a class or a function makes of the run."""
    refuse_unknown("network", make)
    try:
        params = inspect.signature(make).parameters.values()
    except (TypeError, ValueError):  # it is of C and has none
        return make(run)
    if _is_torchvisions(make):
        return _from_torchvision(make, run)
    given = filled(make, run)
    required = [
        one for one in params if one.default is one.empty and one.kind not in (one.VAR_POSITIONAL, one.VAR_KEYWORD)
    ]
    is_function = not isinstance(make, (type, partial))
    for_run = required if is_function and len(required) == 1 else [one for one in required if one.name not in given]
    if not for_run:
        return make(**given)
    if len(for_run) > 1:
        raise TrainerError(_not_given(make, [one.name for one in for_run]))
    return _with_run(make, run, for_run[0], {name: value for name, value in given.items() if name != for_run[0].name})


def _with_run(make: Callable[..., Any], run: Any, place: inspect.Parameter, given: dict[str, Any]) -> Any:
    """Calls `make` with the run in the place of one argument."""
    try:
        return make(run, **given) if place.kind is place.POSITIONAL_ONLY else make(**{place.name: run}, **given)
    except TypeError as error:
        if place.name == "run" or not isinstance(make, (type, partial)):
            raise
        raise TrainerError(f"{_not_given(make, [place.name])} (it got the run, and said: {error})") from error


def _not_given(make: Callable[..., Any], names: list[str]) -> str:
    fixed = ", ".join(f"{name}=..." for name in names)
    return (
        f"network={short_name(make)} needs {' and '.join(names)}, which the grid has not; "
        f"add {names[0]}=[...] to it, or write network=partial({short_name(make)}, {fixed})"
    )


def _by_name(name: str, run: Any) -> Any:
    from torchvision import models

    names = models.list_models()
    if name.lower() not in names:
        raise TrainerError(_no_model(name, names))
    builder = models.get_model_builder(name.lower())
    if "weights_backbone" in inspect.signature(builder).parameters and "weights_backbone" not in run._fields:
        builder = partial(builder, weights_backbone=None)  # torchvision would load one that nobody asked for
    return _from_torchvision(builder, run)


def _no_model(name: str, names: list[str]) -> str:
    near = difflib.get_close_matches(name.lower(), names, n=3)
    hint = f"; did you mean {' or '.join(map(repr, near))}?" if near else ""
    return (
        f"network={name!r} is unknown; choose one of the {len(names)} of torchvision.models.list_models(), "
        f"like {_EXAMPLES}, or give a Module class{hint}"
    )


def _is_torchvisions(make: Callable[..., Any]) -> bool:
    """Whether this is one of torchvision's functions that build a model, or a partial of one."""
    function = make.func if isinstance(make, partial) else make
    module = getattr(function, "__module__", None) or ""
    return inspect.isfunction(function) and module.startswith("torchvision.models.") and not module.endswith("._api")


def _from_torchvision(make: Callable[..., Any], run: Any) -> Any:
    """A model of torchvision. Options that its function only passes on are found in the model's own class."""
    function = make.func if isinstance(make, partial) else make
    fixed = make.keywords if isinstance(make, partial) else {}
    given = {**_options(function, run, fixed), **filled(make, run)}
    weights = given.get("weights", fixed.get("weights"))
    if isinstance(weights, str):
        weights = given["weights"] = _weights_named(function, weights)
    told = ", ".join(f"{name}={value!r:.40}" for name, value in {**fixed, **given}.items() if value is not None)
    said = f"network={function.__name__!r}" + (f" with {told}" if told else "")
    try:
        return make(**given)
    except (TypeError, ValueError) as error:
        hint = "; leave num_classes out and give the Trainer head=... for another number of classes" * bool(weights)
        raise TrainerError(f"{said} cannot be built: {error}{hint}") from error
    except Exception as error:  # a file of weights may be missing, or damaged in many ways
        url = getattr(weights, "url", None)
        if url is None:
            raise
        raise TrainerError(_no_weights(said, url, error)) from error


def _options(function: Callable[..., Any], run: Any, fixed: dict[str, Any]) -> dict[str, Any]:
    """The options of the model's class that have a default, by the run; the others are what makes the model that one."""
    kind = inspect.signature(function).return_annotation
    if not isinstance(kind, type):
        return {}
    params = inspect.signature(kind).parameters.values()
    is_set = [one.name for one in params if one.default is one.empty and one.name not in _POPPED]
    return filled(kind, run, leave_out=[*is_set, *fixed])


def _weights_named(function: Callable[..., Any], name: str) -> Any:
    """The weights of a model of torchvision by their name: `DEFAULT`, `IMAGENET1K_V1`."""
    from torchvision import models

    choices = models.get_model_weights(function).__members__
    short = name.rpartition(".")[2]
    if short not in choices:
        raise TrainerError(unknown("weights", name, choices) + f" (of {function.__name__})")
    return choices[short]


def _no_weights(said: str, url: str, error: Exception) -> str:
    folder = Path(torch.hub.get_dir()) / "checkpoints"
    file = folder / Path(url).name
    reason = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
    if file.exists():
        return f"{said}: the weights in {file} cannot be loaded ({reason}); delete that file and fetch {url} again"
    return (
        f"{said}: the weights {file.name} are not in {folder}, and could not be downloaded ({reason}); "
        f"fetch {url} where that can be done and put it there, set TORCH_HOME to a folder that has it, or leave weights out"
    )


def replace_head(network: Module, num_classes: int) -> str:
    """Puts a new last layer, with random weights, in the place of the network's own; returns its name.

    The last layer is the Linear, or the Conv2d of kernel size 1 as in SqueezeNet, that the network lists last. It is replaced even
    where it has `num_classes` outputs already, because a new head is what was asked for: draws from torch's generator.

    Raises:
        TrainerError: there is no such layer, or the number is none of classes.
    """
    if not isinstance(num_classes, int) or isinstance(num_classes, bool) or num_classes < 1:
        raise TrainerError(
            f"head={num_classes!r} is not a number of classes; give a whole number of 1 or more, or "
            f"'classes' for those of the data{nearest(num_classes, ['classes'])}"
        )
    heads = [name for name, module in network.named_modules() if _may_be_head(module)]
    if not heads:
        raise TrainerError(
            f"head={num_classes}: {short_name(type(network))} has no Linear and no 1x1 Conv2d to replace; "
            "give it the right number of outputs where you make it"
        )
    name: str = heads[-1]
    if not name:
        raise TrainerError(
            f"head={num_classes}: the network is one {short_name(type(network))} and has no body; "
            f"make it with {num_classes} outputs"
        )
    network.set_submodule(name, _like(network.get_submodule(name), num_classes))
    return name


def _may_be_head(module: Module) -> bool:
    if isinstance(module, Conv2d):
        return tuple(module.kernel_size) == (1, 1) and module.groups == 1
    is_in_attention = isinstance(module, NonDynamicallyQuantizableLinear)
    return isinstance(module, Linear) and not is_in_attention


def _like(old: Module, num_outputs: int) -> Module:
    """A new layer with the inputs of the old one."""
    assert isinstance(old, (Linear, Conv2d))
    place: dict[str, Any] = {"bias": old.bias is not None, "device": old.weight.device, "dtype": old.weight.dtype}
    if isinstance(old, LazyLinear):
        return LazyLinear(num_outputs, **place).train(old.training)
    if isinstance(old, Linear):
        return Linear(old.in_features, num_outputs, **place).train(old.training)
    shape: dict[str, Any] = {"stride": old.stride, "padding": old.padding, "padding_mode": old.padding_mode}
    if isinstance(old, LazyConv2d):
        return LazyConv2d(num_outputs, 1, **shape, **place).train(old.training)
    return Conv2d(old.in_channels, num_outputs, 1, **shape, **place).train(old.training)
