"""What a launch may be told beside the sweep: limits, retries, what to do about failures."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from runmanager.nearest import nearest
from runmanager.tracking.rows import DIVERGED, FAILURES, INTERRUPTED

_SECONDS = {"": 1.0, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86400.0}
_RETRYABLE = (*FAILURES, DIVERGED)
GRACE_SECONDS = 25.0
"""What a stop leaves the epochs under way by default: schedulers and container managers kill after 30 seconds."""


@dataclass(frozen=True)
class Limits:
    """How long things may take, in seconds; None for ever."""

    run: float | None = None
    epoch: float | None = None
    sweep: float | None = None
    grace: float = GRACE_SECONDS


@dataclass(frozen=True)
class OnError:
    """After how many failures the sweep stops: None for never. `same` counts only those that failed alike."""

    num_failures: int | None = None
    same: bool = False


def parse_seconds(option: str, value: float | str | None, faults: list[str]) -> float | None:
    """A duration: a number of seconds, or text like 90, 90s, 15m, 2h, 1d."""
    if value is None:
        return None
    match = re.fullmatch(r"\s*([0-9]*\.?[0-9]+)\s*(s|m|min|h|d|)\s*", str(value))
    seconds = float(match[1]) * _SECONDS[match[2]] if match and not isinstance(value, bool) else 0.0
    if seconds <= 0:
        faults.append(f"{option} {value}: give a time above 0, like 90 (seconds), 15m, 2h or 1d")
    return seconds


def parse_on_error(value: str, faults: list[str]) -> OnError:
    """`continue`, `stop`, `stop-after=N` or `stop-after=N-same`."""
    if value in ("continue", "stop"):
        return OnError(None if value == "continue" else 1)
    match = re.fullmatch(r"stop-after=([1-9][0-9]{0,6})(-same)?", str(value))
    if match is None:
        meant = nearest(value, ("continue", "stop"))
        faults.append(f"--on-error {value}: choose continue, stop, stop-after=3 or stop-after=3-same{meant}")
        return OnError()
    return OnError(int(match[1]), same=match[2] is not None)


def parse_statuses(failed: bool, statuses: str | Sequence[str], faults: list[str]) -> frozenset[str]:
    """The statuses whose runs are to be trained again."""
    texts = [statuses] if isinstance(statuses, str) else statuses
    asked = {part.strip().replace("-", " ").replace("_", " ") for text in texts for part in text.split(",")} - {""}
    known = {*_RETRYABLE, INTERRUPTED}
    choices = [one.replace(" ", "-") for one in _RETRYABLE]
    faults += [
        f"--retry-status {status}: choose {', '.join(choices)}{nearest(status.replace(' ', '-'), choices)}"
        for status in sorted(asked - known)
    ]
    return frozenset(asked & known) | (frozenset(FAILURES) if failed else frozenset())


def parse_keep(value: int | str, faults: list[str]) -> int | None:
    """How many runs keep their saved states; None for all."""
    if value == "all":
        return None
    if str(value).isascii() and str(value).isdigit() and not isinstance(value, bool):
        return int(value)
    faults.append(f"--keep {value}: give a number of runs, or all")
    return None


def check_count(option: str, value: int, least: int, faults: list[str]) -> int:
    """A whole number of `least` or more."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        faults.append(f"{option} {value}: give a whole number of {least} or more")
    return value
