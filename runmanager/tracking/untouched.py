"""Looking at data and networks without touching them: every random number generator is left as it was found."""

import random
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

SAMPLE_SIZE = 32
"""How many samples are looked at."""


@contextmanager
def frozen_rng(owner: Any = None) -> Iterator[None]:
    """Puts back the generators of python, numpy and torch, and those that `owner` keeps for itself."""
    import torch

    from runmanager.tracking.generators import Rewind, own_generators

    numpy = sys.modules.get("numpy")
    restore: list[Callable[[], Any]] = [_restorer(random.getstate, random.setstate)]
    if numpy:
        restore.append(_restorer(numpy.random.get_state, numpy.random.set_state))
    restore.append(Rewind(own_generators({"owner": owner})))
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
