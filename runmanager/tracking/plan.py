"""What sweep.json says of a sweep: where its numbers come from."""

import platform
from datetime import UTC, datetime
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
        "versions": {"runmanager": __version__, "python": platform.python_version(), **_library_versions()},
    }


def _library_versions() -> dict[str, str]:
    versions = {}
    for library in _LIBRARIES:
        try:
            versions[library] = version(library)
        except PackageNotFoundError:
            continue
    return versions
