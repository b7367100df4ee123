"""Calls of a RunManager that come out of order: each is refused by a message that names the call that is missing."""

import warnings
from typing import NoReturn

from runmanager.tracking import exits
from runmanager.tracking.errors import CallOrderError
from runmanager.tracking.group import Group
from runmanager.tracking.rows import FAILED


def need_run(group: Group, call: str) -> None:
    """Refuses a call that is about an open run where none is.

    Raises:
        CallOrderError: the group has no members.
    """
    if not group:
        raise CallOrderError(f"{call}: no run is open; begin_run(run, network, loader) is missing")


def refuse_outside_epoch(group: Group, call: str) -> NoReturn:
    """Refuses a call that is about an open epoch.

    Raises:
        CallOrderError: always.
    """
    need_run(group, call)
    raise CallOrderError(f"{call}: no epoch is open; begin_epoch() is missing")


def refuse_in_epoch(group: Group, call: str) -> None:
    """Refuses a call that has to wait for the end of the epoch.

    Raises:
        CallOrderError: an epoch is open.
    """
    if group.epoch is not None:
        raise CallOrderError(f"{call}: epoch {group.epoch.number} is still open; end_epoch() is missing")


def refuse_where_driven(is_driven: bool, call: str) -> None:
    """Refuses to begin or end a run inside a `with` that does so.

    Raises:
        CallOrderError: there is such a `with`.
    """
    if is_driven:
        raise CallOrderError(f"{call}: this run is begun and ended for you; leave begin_run() and end_run() out here")


def close_abandoned(manager: exits.Abandonable, group: Group) -> None:
    """Closes a run that its loop left open, before the next one begins.

    Whether its loop was left by an exception that somebody caught, or merely forgot `end_run()`, cannot be told apart. So
    the run is marked failed, that is said, and the next one begins: nobody's later runs are lost.

    Raises:
        CallOrderError: nothing was done in the open run, so that `begin_run()` was just called twice.
    """
    if not group:
        return
    exits.unwatch(manager)
    number, epoch = group.numbers[0], group.epoch
    if epoch is None and group.num_epochs == 0:
        group.end(FAILED, "begin_run() was called again before anything was done")
        raise CallOrderError(
            f"begin_run(): run {number} is still open and has no epoch; end_run() is missing. It is marked failed; "
            "call begin_run() again to go on"
        )
    where = f"in epoch {epoch.number}" if epoch else f"after epoch {group.num_epochs}"
    group.end(FAILED, f"the loop left the run {where}; end_run() is missing")
    warnings.warn(
        f"run {number} was left {where}, by an exception or because end_run() is missing; it is marked failed, its rows "
        "are kept, and the next run begins",
        RuntimeWarning,
        stacklevel=3,
    )
