"""Where a run's random numbers come from. Imports neither torch nor numpy, and seeds them where they are loaded."""

import hashlib
import importlib.util
import random
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

from runmanager.parameters import canonical


def run_seed(sweep_seed: int, params: Mapping[str, Any], replicate: int = 1) -> int:
    """A run's seed, below 2**63: from the sweep's seed, the run's parameters and its replicate, by SHA-256.

    Its number, its worker, its place in the order and how often it was tried do not enter.
    """
    digest = hashlib.sha256(f"{sweep_seed}|{canonical(params)}|{replicate}".encode("ascii")).digest()
    return int.from_bytes(digest[:8], "big") >> 1


class _SeedsOnImport:
    """Seeds numpy and torch when they are imported while a run is trained: a late import must not change its numbers."""

    def __init__(self, seed: int) -> None:
        self._seed = seed

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        """The library's own spec, with its loader seeding what it has loaded."""
        if name not in _SEEDERS:
            return None
        sys.meta_path.remove(self)
        try:
            spec = importlib.util.find_spec(name)
        finally:
            sys.meta_path.insert(0, self)
        if spec is not None and spec.loader is not None:
            load = spec.loader.exec_module

            def load_and_seed(module: ModuleType) -> None:
                load(module)
                _SEEDERS[name](module, self._seed)

            spec.loader.exec_module = load_and_seed  # type: ignore[method-assign]
        return spec


_SEEDERS: dict[str, Callable[[Any, int], Any]] = {
    "numpy": lambda numpy, seed: numpy.random.seed(seed % 2**32),
    "torch": lambda torch, seed: torch.manual_seed(seed),
}


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seeds python's, numpy's and torch's generators, and puts them back as they were at the end."""
    numpy, torch = sys.modules.get("numpy"), sys.modules.get("torch")
    python_state = random.getstate()
    numpy_state = numpy.random.get_state() if numpy else None
    torch_state = torch.get_rng_state() if torch else None
    cuda_states = torch.cuda.get_rng_state_all() if torch and torch.cuda.is_initialized() else None
    late = _SeedsOnImport(seed)
    sys.meta_path.insert(0, late)
    try:
        random.seed(seed)
        for name, library in (("numpy", numpy), ("torch", torch)):
            if library:
                _SEEDERS[name](library, seed)
        yield
    finally:
        sys.meta_path.remove(late)
        random.setstate(python_state)
        if numpy:
            numpy.random.set_state(numpy_state)
        if torch:
            torch.set_rng_state(torch_state)
        if torch and cuda_states is not None:
            torch.cuda.set_rng_state_all(cuda_states)
