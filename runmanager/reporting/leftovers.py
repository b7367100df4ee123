"""Files of processes that are gone: temporaries, claims, signs of life, the doctor's own folders."""

import json
import os
import re
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from runmanager.reporting.machine import SCRATCH
from runmanager.tracking.owner import is_alive
from runmanager.tracking.run_dir import RunDir, SweepDir

_TEMPORARY = re.compile(r"\.(?P<name>.+?)\.(?P<pid>\d+)\.(?:\d+\.)?tmp|\.locks\.(?P<locker>\d+)")
_OLD_SECONDS = 60.0  # what was written to more lately may be another machine's, whose processes nobody here can see


def leftovers(sweep_dir: SweepDir, idle: Iterable[RunDir]) -> list[Path]:
    """What may be dropped of a sweep.

    Args:
        sweep_dir: the sweep.
        idle: those of its runs that nobody trains.
    """
    tables = (sweep_dir.epochs_csv, sweep_dir.epochs_json, sweep_dir.runs_csv)
    names = {table.name for table in tables}
    found = [path for path in _temporaries(tables[0].parent) if _target(path) in names]
    found += [*_temporaries(sweep_dir.path), *_dead([sweep_dir.launch_claim], 0.0)]
    for run_dir in idle:
        found += [*_temporaries(run_dir.path), *_temporaries(run_dir.checkpoints)]
        found += [*_dead(run_dir.claims().values(), run_dir.last_sign()), *_existing(run_dir.heartbeat)]
    return found


def old_scratch(root: Path) -> list[Path]:
    """The folders of doctors that were killed."""
    there = [path for base in (root, root / "runs") for path in base.glob(f"{SCRATCH}*")]
    return [path for path in there if not _lives(path.name.removeprefix(SCRATCH).partition("-")[0])]


def _temporaries(folder: Path) -> list[Path]:
    """What a process that is gone was about to put in the place of a file."""
    try:
        names = os.listdir(folder)
    except OSError:
        return []
    return [folder / name for name in names if name[:1] == "." and _is_left_over(folder / name)]


def _is_left_over(path: Path) -> bool:
    match = _TEMPORARY.fullmatch(path.name)
    if match is None or _lives(match["pid"] or match["locker"]):
        return False
    try:
        return time.time() - path.stat().st_mtime > _OLD_SECONDS
    except OSError:
        return False


def _target(path: Path) -> str:
    """The name of the file whose place a temporary was to take."""
    match = _TEMPORARY.fullmatch(path.name)
    return (match["name"] or "") if match else ""


def _dead(claims: Iterable[Path], last_sign: float) -> list[Path]:
    """The claims whose maker is gone."""
    return [
        path for claim in claims for path in _existing(claim) if not is_alive(_owner(path), last_sign or _mtime(path))
    ]


def _existing(path: Path) -> list[Path]:
    return [path] if path.exists() else []


def _mtime(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


def _owner(claim: Path) -> dict[str, Any]:
    """Who made a claim; nobody where its maker died before saying so."""
    try:
        owner = json.loads(claim.read_bytes())
    except (OSError, ValueError):
        return {}
    return owner if isinstance(owner, dict) else {}


def _lives(pid: str) -> bool:
    """Whether this machine has a process of that number."""
    try:
        os.kill(int(pid), 0)
    except (ProcessLookupError, ValueError):
        return False
    except (OSError, OverflowError):  # another user's
        return True
    return True
