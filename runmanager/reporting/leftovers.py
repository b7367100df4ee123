"""Files of processes that are gone: temporaries, claims, signs of life, the doctor's own folders."""

import os
from collections.abc import Iterable
from pathlib import Path

from runmanager.reporting.machine import SCRATCH
from runmanager.tracking.owner import is_alive, read_owner
from runmanager.tracking.run_dir import RunDir, SweepDir
from runmanager.tracking.temporaries import left_over


def leftovers(sweep_dir: SweepDir, idle: Iterable[RunDir]) -> list[Path]:
    """What may be dropped of a sweep.

    Args:
        sweep_dir: the sweep.
        idle: those of its runs that nobody trains.
    """
    found = [*sweep_dir.left_over(), *_dead([sweep_dir.launch_claim], 0.0)]
    for run_dir in idle:
        found += [*left_over(run_dir.path), *left_over(run_dir.checkpoints)]
        found += [*_dead(run_dir.claims().values(), run_dir.last_sign()), *_existing(run_dir.heartbeat)]
    return found


def old_scratch(root: Path) -> list[Path]:
    """The folders of doctors that were killed."""
    there = [path for base in (root, root / "runs") for path in base.glob(f"{SCRATCH}*")]
    return [path for path in there if not _lives(path.name.removeprefix(SCRATCH).partition("-")[0])]


def _dead(claims: Iterable[Path], last_sign: float) -> list[Path]:
    """The claims whose maker is gone."""
    return [
        path
        for claim in claims
        for path in _existing(claim)
        if not is_alive(read_owner(path), last_sign or _mtime(path))
    ]


def _existing(path: Path) -> list[Path]:
    return [path] if path.exists() else []


def _mtime(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


def _lives(pid: str) -> bool:
    """Whether this machine has a process of that number."""
    try:
        os.kill(int(pid), 0)
    except (ProcessLookupError, ValueError):
        return False
    except (OSError, OverflowError):  # another user's
        return True
    return True
