"""What a checkpoint of a Trainer's run holds, and how it is put back."""

from collections.abc import Callable, Mapping, Sequence
from itertools import zip_longest
from types import FunctionType
from typing import Any

import torch
from torch.nn import Module, ModuleDict
from torch.nn.parameter import is_lazy
from torch.optim.lr_scheduler import LRScheduler

from runmanager.data.splits import Splits
from runmanager.tracking.generators import Generators, own_generators, put_state, state_of
from runmanager.tracking.untouched import frozen_rng
from runmanager.training.parts import Parts
from runmanager.training.plain import differences, from_plain, to_plain
from runmanager.training.recipe import KEPT
from runmanager.training.settings import TrainerError

_OF_EVERY_MODULE = frozenset(vars(Module()))
_MAX_NAMES = 4  # of a group's parameters in a message
_WAY_OUT = "put that back as it was, or delete the run's folder to train the run anew"


class TrainingState:
    """All that decides how a run goes on after an epoch, but for the global random numbers: its RunManager keeps those.

    Beside what their state_dicts have, networks and losses keep buffers that are not persistent, and numbers as plain
    attributes, like a count of steps; those are saved too. Train and eval mode are not: each epoch sets them anew.
    """

    def __init__(self, parts: Parts, order: torch.Generator, splits: Splits) -> None:
        """Takes what was just built for the run; nothing may have been trained yet.

        Args:
            parts: network, optimizer, loss and recipe.
            order: draws the order of the batches.
            splits: the data, which may keep generators of its own.
        """
        self._order, self._splits, self._device = order, splits, parts.device
        self._parts: dict[str, Any] = {
            "network": parts.network,
            **parts.recipe.keepers(),
            "optimizer": parts.optimizer,
            "loss": parts.loss,
        }
        self._keepers = {name: part for name, part in self._parts.items() if hasattr(part, "load_state_dict")}
        self._modules = ModuleDict({name: part for name, part in self._parts.items() if isinstance(part, Module)})
        self._first_numbers = _numbers(self._modules)

    def capture(self) -> dict[str, Any]:
        """What is to be saved, under a name each. The tensors are the live ones: save them before the next step.

        Raises:
            TrainerError: something in it could not be loaded again.
        """
        return {name: to_plain(content, name) for name, content in self._fields().items()}

    def _fields(self) -> dict[str, Any]:
        numbers = _numbers(self._modules)
        fields = {name: _state_dict(keeper) for name, keeper in self._keepers.items()}
        fields["groups"] = {"list": self._groups()}
        fields["order"] = {"state": self._order.get_state()}
        fields["generators"] = {path: state_of(generator) for path, generator in self._generators().items()}
        fields["buffers"] = _buffers_left_out(self._modules)
        fields["numbers"] = {path: one for path, one in numbers.items() if one != self._first_numbers.get(path)}
        return {name: content for name, content in fields.items() if content}

    def _generators(self) -> Generators:
        return own_generators({"train": self._splits.train, "validation": self._splits.validation, **self._parts})

    def restore(self, saved: Mapping[str, Any]) -> None:
        """Puts back what `capture` returned.

        Raises:
            TrainerError: the run is built from other parts now; the message names what does not fit.
        """
        fields = {name: from_plain(content) for name, content in saved.items()}
        self._check_parts(fields)
        for name, keeper in self._keepers.items():
            if name in fields:
                if name == "optimizer":
                    self._check_optimizer(fields)
                _make_room(keeper, fields[name], self._device)
                _put(name, keeper.load_state_dict, fields[name])
        _put("order", put_state, self._order, fields["order"]["state"])
        for path, value in {**fields.get("buffers", {}), **fields.get("numbers", {})}.items():
            _put(path, _put_attribute, self._modules, path, value, self._device)
        self._put_generators(fields.get("generators", {}))
        for where in differences(saved, self.capture(), ""):
            raise TrainerError(f"the checkpoint's {where} does not come back as it was saved; {_WAY_OUT}")

    def _check_parts(self, saved: Mapping[str, Any]) -> None:
        """Whether the checkpoint and the run have the same parts."""
        now = self._fields()
        for name in ("network", "optimizer", *KEPT, "loss", "order"):
            if name in now and name not in saved:
                raise TrainerError(f"the checkpoint has no {name}, and the run has one now; {_WAY_OUT}")
            if name in saved and name not in {*now, *self._keepers}:
                raise TrainerError(f"the checkpoint has {_an(name)}, and the run has none now; {_WAY_OUT}")

    def _check_optimizer(self, saved: Mapping[str, Any]) -> None:
        """Whether its groups are those of before, and take the same arguments."""
        before, now = saved["optimizer"]["param_groups"], self._parts["optimizer"].param_groups
        _check_groups(saved["groups"]["list"], self._groups())
        unknown = {key for one, other in zip(before, now, strict=True) for key in one if key not in other}
        if unknown:
            raise TrainerError(f"the optimizer has no {', '.join(sorted(unknown))} now, but had it before; {_WAY_OUT}")

    def _groups(self) -> list[dict[str, Any]]:
        return _groups_of(self._parts["optimizer"], self._parts["network"])

    def _put_generators(self, states: Mapping[str, Any]) -> None:
        found = self._generators()
        if states.keys() - found.keys():  # a data set may make its own when it is read for the first time
            with frozen_rng():
                for split in (self._splits.train, self._splits.validation):
                    _put("data", getattr(split, "__getitem__", id), 0)
            found = self._generators()
        for path, state in states.items():
            if path not in found:
                raise TrainerError(
                    f"the checkpoint has the generator {path}, and the run has none there now; {_WAY_OUT}"
                )
            _put(path, put_state, found[path], state)


def _groups_of(optimizer: Any, network: Module) -> list[dict[str, Any]]:
    """The name of each group of parameters, and theirs: torch itself maps states to parameters by their places alone."""
    names = {id(param): name for name, param in network.named_parameters()}
    return [
        {"name": group.get("name"), "parameters": [names.get(id(param)) for param in group["params"]]}
        for group in optimizer.param_groups
    ]


def _check_groups(before: Sequence[Mapping[str, Any]], now: Sequence[Mapping[str, Any]]) -> None:
    for number, (one, other) in enumerate(zip_longest(before, now)):
        if one != other:
            raise TrainerError(
                f"group {number} of the optimizer was {_said_of_group(one)}, and is {_said_of_group(other)} now; {_WAY_OUT}"
            )


def _said_of_group(group: Mapping[str, Any] | None) -> str:
    if group is None:
        return "none"
    first, more = group["parameters"][:_MAX_NAMES], len(group["parameters"]) - _MAX_NAMES
    names = f"{', '.join(map(str, first)) or 'no parameters'}{f' and {more} more' if more > 0 else ''}"
    return names if group["name"] is None else f"{group['name']!r} ({names})"


def _an(name: str) -> str:
    return f"{'an' if name[0] in 'aeiou' else 'a'} {name}"


def _state_dict(keeper: Any) -> dict[str, Any]:
    """What a part says of itself. A schedule of the user's own may keep functions, which the next one has as well."""
    state: dict[str, Any] = keeper.state_dict()
    if isinstance(keeper, LRScheduler) and type(keeper).load_state_dict is LRScheduler.load_state_dict:
        return {name: value for name, value in state.items() if not isinstance(value, FunctionType)}
    return state


def _put(name: str, put: Callable[..., Any], *arguments: Any) -> None:
    try:
        put(*arguments)
    except Exception as error:
        text = " ".join(f"{type(error).__name__}: {error}".split())
        raise TrainerError(f"the checkpoint's {name} does not fit the run: {text:.600}; {_WAY_OUT}") from error


def _put_attribute(modules: Module, path: str, value: Any, device: torch.device) -> None:
    """A number, or a buffer."""
    owner, _, name = path.rpartition(".")
    module = modules.get_submodule(owner)
    if isinstance(value, torch.Tensor):
        there = module._buffers[name]
        value = value.to(device if there is None else there.device, copy=True)
    setattr(module, name, value)


def _make_room(keeper: Any, state: Mapping[str, Any], device: torch.device) -> None:
    """Gives buffers that were first filled in training, or grew there, the shape that they had."""
    if not isinstance(keeper, Module):
        return
    modules = dict(keeper.named_modules())
    for path, value in state.items():
        owner, _, name = path.rpartition(".")
        module = modules.get(owner)
        if module is None or name not in module._buffers:
            continue
        there = module._buffers[name]
        if there is None or (not is_lazy(there) and there.shape != value.shape):
            module._buffers[name] = torch.empty_like(value, device=device if there is None else there.device)


def _buffers_left_out(modules: Module) -> dict[str, torch.Tensor]:
    """The buffers that state_dict leaves out."""
    return {
        f"{path}.{name}": buffer.detach()
        for path, module in modules.named_modules()
        for name, buffer in module._buffers.items()
        if name in module._non_persistent_buffers_set and buffer is not None
    }


def _numbers(modules: Module) -> dict[str, float]:
    """The numbers that modules keep as plain attributes."""
    return {
        f"{path}.{name}": value
        for path, module in modules.named_modules()
        for name, value in vars(module).items()
        if type(value) in (bool, int, float) and name not in _OF_EVERY_MODULE
    }
