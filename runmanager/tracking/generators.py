"""The random number generators that data sets, networks and losses keep for themselves.

The global ones are seeded for each run; these are not, and a data set outlives a run.
"""

import random
from collections import deque
from collections.abc import Mapping
from functools import partial
from types import BuiltinMethodType, FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np
import torch
from torch.nn import Module

_MAX_DEPTH = 6  # subset, data set, transforms, list, transform, closure
_MAX_ITEMS = 100  # of a list; a longer one holds samples
_MAX_OBJECTS = 10_000  # of one owner; more than that takes longer than saving a small network
_OF_EVERY_MODULE = frozenset(vars(Module()))  # hooks and the like, which lead out of it
_HOLD_NONE = (torch.Tensor, np.ndarray, str, bytes, int, float, type(None), type, ModuleType)
_KINDS = (torch.Generator, np.random.Generator, np.random.RandomState, random.Random)
_GLOBAL = {id(random.getstate.__self__), id(np.random.get_state.__self__), id(torch.default_generator)}  # type: ignore[attr-defined]

Generators = dict[str, Any]
"""Generators by where they were found, like `train.dataset.rng`."""


def own_generators(owners: Mapping[str, Any]) -> Generators:
    """The generators in the attributes of these objects, and in those of what they hold, each once.

    One that is a global variable of the sweep file is not found.
    """
    found: Generators = {}
    seen: set[int] = set()
    for name, owner in owners.items():
        _search(name, owner, seen, found)
    return found


def _search(path: str, owner: Any, seen: set[int], found: Generators) -> None:
    """Adds what is found; the nearest objects first, so that each is met by its shortest way."""
    waiting = deque([(path, owner, _MAX_DEPTH)])
    enough = len(seen) + _MAX_OBJECTS
    while waiting and len(seen) < enough:
        path, owner, depth = waiting.popleft()
        if id(owner) in seen or isinstance(owner, _HOLD_NONE):
            continue
        seen.add(id(owner))
        if _is_generator(owner):
            found[path] = owner
            continue
        depth = max(depth, 3) if isinstance(owner, Module) else depth  # networks may be nested as deeply as they like
        if depth:
            waiting.extend((f"{path}.{name}", one, depth - 1) for name, one in _inside(owner).items())


def _is_generator(owner: Any) -> bool:
    return isinstance(owner, _KINDS) and not isinstance(owner, random.SystemRandom) and id(owner) not in _GLOBAL


def _inside(owner: Any) -> Mapping[Any, Any]:
    """What an object holds, by name."""
    if isinstance(owner, (list, tuple, dict)) and len(owner) > _MAX_ITEMS:
        return {}
    if isinstance(owner, (list, tuple)):
        return dict(enumerate(owner))
    if isinstance(owner, dict):  # an optimizer's keys are tensors, whose text is long
        return {key if isinstance(key, str) else place: owner[key] for place, key in enumerate(owner)}
    if isinstance(owner, FunctionType):
        return dict(zip(owner.__code__.co_freevars, map(_content, owner.__closure__ or ()), strict=True))
    if isinstance(owner, (MethodType, BuiltinMethodType)):
        return {"self": owner.__self__}
    if isinstance(owner, partial):
        return {"function": owner.func, "arguments": owner.args, **owner.keywords}
    attributes = dict(getattr(owner, "__dict__", {}))
    if isinstance(owner, Module):
        own = {name: one for name, one in attributes.items() if name not in _OF_EVERY_MODULE}
        return own | owner._modules
    return attributes


def _content(cell: Any) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # a variable that has no value yet
        return None


def state_of(generator: Any) -> Any:
    """Where a generator stands."""
    if isinstance(generator, np.random.Generator):
        return generator.bit_generator.state
    return generator.getstate() if isinstance(generator, random.Random) else generator.get_state()


def put_state(generator: Any, state: Any) -> None:
    """Puts a generator where `state_of` found it.

    Raises:
        Exception: the state is one of another kind of generator.
    """
    if isinstance(generator, np.random.Generator):
        generator.bit_generator.state = state
    elif isinstance(generator, random.Random):
        generator.setstate(state)
    else:
        generator.set_state(state.cpu() if isinstance(state, torch.Tensor) else state)


class Rewind:
    """Puts generators back to where they were when this was made."""

    def __init__(self, generators: Generators) -> None:
        self.generators = generators
        self._states = {path: state_of(generator) for path, generator in generators.items()}

    def __call__(self) -> None:
        """Puts them back."""
        for path, generator in self.generators.items():
            put_state(generator, self._states[path])
