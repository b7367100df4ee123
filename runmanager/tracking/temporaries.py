"""Names of temporary files, which tell whose they are, so that those of the dead can be dropped."""

import os
import re
import threading
import time
import zlib
from pathlib import Path

from runmanager.tracking.owner import machine_text

_NAME = re.compile(r"\.(?P<target>.+)\.(?P<machine>[0-9a-f]{8})-(?P<pid>\d+)-\d+\.tmp(\.tmp)?")
_OLD_SECONDS = 3600.0
"""After which another machine's file, whose process nobody here can see, is no longer one that is being written."""


def temporary_for(path: Path) -> Path:
    """What this thread writes before it is put in the place of `path`."""
    return path.with_name(f".{path.name}.{_machine()}-{os.getpid()}-{threading.get_ident()}.tmp")


def left_over(folder: Path, targets: set[str] | None = None) -> list[Path]:
    """The temporaries in a folder whose writer is gone.

    Args:
        folder: where to look.
        targets: only those that were to take the place of a file with one of these names.
    """
    try:
        matches = [(_NAME.fullmatch(name), name) for name in os.listdir(folder) if name[:1] == "."]
    except OSError:
        return []
    wanted = [
        (match, folder / name) for match, name in matches if match and (not targets or match["target"] in targets)
    ]
    return [path for match, path in wanted if _is_left_over(match["machine"], int(match["pid"]), path)]


def _is_left_over(machine: str, pid: int, path: Path) -> bool:
    if machine == _machine():
        return pid != os.getpid() and not _lives(pid)
    try:
        return time.time() - path.stat().st_mtime > _OLD_SECONDS
    except OSError:
        return False


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:  # another user's
        return True
    return True


def _machine() -> str:
    return f"{zlib.crc32(machine_text().encode()):08x}"
