"""Looking at data and networks without touching them: every random number generator is left as it was found."""

import random
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

SAMPLE_SIZE = 32
"""How many samples are looked at."""

_MAX_DEPTH = 5
"""How far below a data set its own generators are looked for: subset, data set, transforms, list, transform."""


@contextmanager
def frozen_rng(owner: Any = None) -> Iterator[None]:
    """Puts back the generators of python, numpy and torch, and those that `owner` keeps for itself."""
    import torch

    numpy = sys.modules.get("numpy")
    restore: list[Callable[[], Any]] = [_restorer(random.getstate, random.setstate)]
    if numpy:
        restore.append(_restorer(numpy.random.get_state, numpy.random.set_state))
    restore += _own_generators(owner, _MAX_DEPTH, set())
    devices = [torch.cuda.current_device()] if torch.cuda.is_initialized() else []
    try:
        with torch.random.fork_rng(devices):
            yield
    finally:
        for put_back in restore:
            put_back()


def _restorer(get: Callable[[], Any], put: Callable[[Any], Any]) -> Callable[[], None]:
    state = get()
    return lambda: put(state)


def _own_generators(owner: Any, depth: int, seen: set[int]) -> list[Callable[[], None]]:
    """What puts back the generators in an object's attributes, and in theirs."""
    if depth < 0 or id(owner) in seen:
        return []
    seen.add(id(owner))
    restorer = _generator_restorer(owner)
    if restorer:
        return [restorer]
    if isinstance(owner, (list, tuple)) and len(owner) <= 100:
        inner = list(owner)
    elif isinstance(owner, dict) and len(owner) <= 100:
        inner = list(owner.values())
    else:
        inner = list(getattr(owner, "__dict__", {}).values())
    return [restore for one in inner for restore in _own_generators(one, depth - 1, seen)]


def _generator_restorer(owner: Any) -> Callable[[], None] | None:
    kind = (type(owner).__module__.split(".")[0], type(owner).__name__)
    if isinstance(owner, random.Random):
        return _restorer(owner.getstate, owner.setstate)
    if kind in (("torch", "Generator"), ("numpy", "RandomState")):
        return _restorer(owner.get_state, owner.set_state)
    if kind == ("numpy", "Generator"):
        bits = owner.bit_generator
        return _restorer(lambda: bits.state, lambda state: setattr(bits, "state", state))
    return None


def sample_batch(loader: Any) -> Any:
    """The first samples of the loader's data set, collated as the loader does it; None when it cannot be looked into.

    No iterator is begun, so the loader's own order and its workers stay as they are.
    """
    dataset: Any = getattr(loader, "dataset", None)
    if not hasattr(dataset, "__getitem__") or not hasattr(dataset, "__len__"):
        return None
    with frozen_rng(dataset):
        samples = [dataset[index] for index in range(min(SAMPLE_SIZE, len(dataset)))]
        return loader.collate_fn(samples) if samples else None
