"""What sweep.json says of a sweep: where its numbers come from."""

import os
import platform
import re
import sys
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

from runmanager import __version__
from runmanager.tracking.run_dir import SweepDir

_INSTALLED = re.compile(r"(torch|torchvision|numpy|tensorboard|pandas)-([^-]+)(?:-py[\d.]+)?\.(?:dist|egg)-info")


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
    """Python's version and those of the libraries that results depend on.

    They are read off the names of the folders that installers leave, since importing what else could tell takes longer than
    a sweep takes to start.
    """
    found: dict[str, str] = {}
    for folder in sys.path:
        try:
            names = os.listdir(folder or ".")
        except OSError:
            continue
        for match in filter(None, map(_INSTALLED.fullmatch, names)):
            found.setdefault(match[1], match[2])
    return {"runmanager": __version__, "python": platform.python_version(), **dict(sorted(found.items()))}
