"""Where the file system's locks do not hold, one launch of a sweep at a time."""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from runmanager.launching.sweep import SweepError
from runmanager.tracking.attempt import beating
from runmanager.tracking.files import locks_hold
from runmanager.tracking.owner import is_alive, owner_text, this_process
from runmanager.tracking.run_dir import SweepDir


@contextmanager
def alone_without_locks(sweep_dir: SweepDir) -> Iterator[str | None]:
    """Keeps other launches of the sweep away while this one is under way, where locks cannot tell them apart.

    Gives a line to be said about it; None where locks hold, so that launches may share the sweep.

    Raises:
        SweepError: another launch is under way.
        StorageError: the folder cannot be written.
    """
    if locks_hold(sweep_dir.path):
        yield None
        return
    claim = sweep_dir.launch_claim
    _claim(claim, sweep_dir.name)
    try:
        with beating(claim):
            yield "note: the file system of runs/ does not keep locks, so no second launch may share this sweep"
    finally:
        claim.unlink(missing_ok=True)


def _claim(claim: Path, name: str) -> None:
    try:
        with claim.open("x") as file:
            file.write(json.dumps(this_process()))
        return
    except FileExistsError:
        owner = _owner_of(claim)
    if owner is None or is_alive(owner, claim.stat().st_mtime):
        who = owner_text(owner) if owner else "another process"
        raise SweepError(
            name,
            [
                f"{who} is launching it, and the file system of runs/ does not keep locks, so they cannot share it; wait "
                f"for that one to end. If it has died, delete {claim}"
            ],
        )
    claim.unlink(missing_ok=True)
    _claim(claim, name)


def _owner_of(claim: Path) -> dict[str, object] | None:
    """Who made the claim; None where that is not written yet."""
    time.sleep(0.1)  # it is written right after it is made
    try:
        owner = json.loads(claim.read_bytes())
    except (OSError, ValueError):
        return None
    return owner if isinstance(owner, dict) else None
