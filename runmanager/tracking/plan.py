"""What sweep.json says of a sweep: where its numbers come from."""

import platform
from datetime import UTC, datetime
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from runmanager import __version__
from runmanager.tracking.run_dir import SweepDir

_LIBRARIES = ("torch", "torchvision", "numpy", "tensorboard", "pandas")


def describe(sweep_dir: SweepDir, **plan: Any) -> dict[str, Any]:
    """The plan with what stands beside it: name, date, versions."""
    return {
        "name": sweep_dir.name,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        **plan,
        "versions": versions(),
    }


@lru_cache(maxsize=1)
def versions() -> dict[str, str]:
    """Python's version and those of the libraries that results depend on, none of which is imported for it."""
    found = {"runmanager": __version__, "python": platform.python_version()}
    for library in _LIBRARIES:
        try:
            found[library] = version(library)
        except PackageNotFoundError:
            continue
    return found
