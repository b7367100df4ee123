"""What a run prints, kept in its folder: for processes that train nothing else meanwhile."""

import os
import sys
from contextlib import suppress

from runmanager.tracking.rows import RunEnd
from runmanager.tracking.run_dir import RunDir
from runmanager.tracking.writers import Member, Writer

_STDOUT, _STDERR = 1, 2


class LogWriter(Writer):
    """Sends the standard output and error of this process, and of those it starts, to the log of the run under way.

    What a group prints is in the log of the first of its runs that is under way; each run's traceback is in its own.
    """

    def __init__(self) -> None:
        self._outside = os.dup(_STDERR)  # where output goes between runs
        self._members: dict[int, Member] = {}  # those under way, the first of them first

    def begin(self, member: Member) -> None:
        """From here on output is the run's, unless it is another's of its group."""
        if member.attempt > 1:
            _append(member, f"--- attempt {member.attempt} ---\n")
        self._members[member.number] = member
        if len(self._members) == 1:
            self._point_to_log(member)

    def end(self, member: Member, end: RunEnd) -> None:
        """The run's output is over; a log that nobody wrote to is removed."""
        is_first = next(iter(self._members), None) == member.number
        self._members.pop(member.number, None)
        _flush()
        if end.traceback:
            _append(member, f"{end.traceback}\n")
        if is_first and self._members:
            self._point_to_log(next(iter(self._members.values())))
        elif not self._members:
            self._point_to(self._outside)
        _remove_empty(member.run_dir)

    def _point_to_log(self, member: Member) -> None:
        log = _open(member)
        self._point_to(log)
        os.close(log)

    def _point_to(self, descriptor: int) -> None:
        _flush()
        os.dup2(descriptor, _STDOUT)
        os.dup2(descriptor, _STDERR)


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        with suppress(ValueError, OSError):  # closed by the run, or its log's disk is full
            stream.flush()


def _open(member: Member) -> int:
    return os.open(member.run_dir.log_file, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o666)


def _append(member: Member, text: str) -> None:
    log = _open(member)
    try:
        os.write(log, text.encode("utf-8", "backslashreplace"))
    finally:
        os.close(log)


def _remove_empty(run_dir: RunDir) -> None:
    if run_dir.log_file.exists() and run_dir.log_file.stat().st_size == 0:
        run_dir.log_file.unlink()
