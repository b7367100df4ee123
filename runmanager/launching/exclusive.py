"""Where the file system's locks do not hold, one launch of a sweep at a time."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from runmanager.launching.sweep import SweepError
from runmanager.tracking.attempt import beating
from runmanager.tracking.files import create_text, locks_hold
from runmanager.tracking.journal import storage_error
from runmanager.tracking.owner import is_alive, owner_text, read_owner, this_process
from runmanager.tracking.run_dir import SweepDir
from runmanager.tracking.temporaries import temporary_for


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
    for _ in range(3):
        try:
            create_text(claim, json.dumps(this_process()))
            return
        except FileExistsError:
            _refuse_living(claim, name)
            _set_aside(claim)
        except OSError as error:
            raise storage_error(claim, error) from error
    raise SweepError(name, ["other launches of it are starting as well; try again"])


def _refuse_living(claim: Path, name: str) -> None:
    owner = read_owner(claim)
    try:
        last_sign = claim.stat().st_mtime
    except OSError:  # it has just ended
        return
    if owner and is_alive(owner, last_sign):
        raise SweepError(
            name,
            [
                f"{owner_text(owner)} is launching it, and the file system of runs/ does not keep locks, so they cannot share "
                f"it; wait for that one to end. If it has died, delete {claim}"
            ],
        )


def _set_aside(claim: Path) -> None:
    """Takes a dead launch's claim away; of several that try, one does, and what it took is not a new one."""
    mine = temporary_for(claim)
    try:
        claim.rename(mine)
    except OSError:
        return
    if is_alive(read_owner(mine), mine.stat().st_mtime):  # somebody was quicker: give it back
        mine.rename(claim)
    else:
        mine.unlink()
