"""Where a run's random numbers come from. Imports neither torch nor numpy, and seeds them where they are loaded."""

import hashlib
import random
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from runmanager.parameters import canonical


def run_seed(sweep_seed: int, params: Mapping[str, Any], replicate: int = 1) -> int:
    """A run's seed, below 2**63: from the sweep's seed, the run's parameters and its replicate, by SHA-256.

    Its number, its worker, its place in the order and how often it was tried do not enter.
    """
    digest = hashlib.sha256(f"{sweep_seed}|{canonical(params)}|{replicate}".encode("ascii")).digest()
    return int.from_bytes(digest[:8], "big") >> 1


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seeds python's, numpy's and torch's generators, and puts them back as they were at the end."""
    numpy, torch = sys.modules.get("numpy"), sys.modules.get("torch")
    python_state = random.getstate()
    numpy_state = numpy.random.get_state() if numpy else None
    torch_state = torch.get_rng_state() if torch else None
    cuda_states = torch.cuda.get_rng_state_all() if torch and torch.cuda.is_initialized() else None
    try:
        random.seed(seed)
        if numpy:
            numpy.random.seed(seed % 2**32)
        if torch:
            torch.manual_seed(seed)
        yield
    finally:
        random.setstate(python_state)
        if numpy:
            numpy.random.set_state(numpy_state)
        if torch:
            torch.set_rng_state(torch_state)
        if torch and cuda_states is not None:
            torch.cuda.set_rng_state_all(cuda_states)
