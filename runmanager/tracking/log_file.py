"""What a run prints, kept in its folder: for processes that train nothing else meanwhile."""

import os
import sys
from contextlib import suppress

from runmanager.tracking.rows import RunEnd
from runmanager.tracking.run_dir import RunDir
from runmanager.tracking.writers import Member, Writer

_STDOUT, _STDERR = 1, 2


class LogWriter(Writer):
    """Sends the standard output and error of this process, and of those it starts, to the log of the run under way."""

    def __init__(self) -> None:
        self._outside = os.dup(_STDERR)  # where output goes between runs

    def begin(self, member: Member) -> None:
        """From here on output is the run's."""
        path = member.run_dir.log_file
        log = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o666)
        if member.attempt > 1:
            os.write(log, f"--- attempt {member.attempt} ---\n".encode())
        self._point_to(log)
        os.close(log)

    def end(self, member: Member, end: RunEnd) -> None:
        """The run's output is over; a log that nobody wrote to is removed."""
        if end.traceback:
            print(end.traceback, file=sys.stderr)
        self._point_to(self._outside)
        _remove_empty(member.run_dir)

    def _point_to(self, descriptor: int) -> None:
        for stream in (sys.stdout, sys.stderr):
            with suppress(ValueError, OSError):  # closed by the run, or its log's disk is full
                stream.flush()
        os.dup2(descriptor, _STDOUT)
        os.dup2(descriptor, _STDERR)


def _remove_empty(run_dir: RunDir) -> None:
    if run_dir.log_file.exists() and run_dir.log_file.stat().st_size == 0:
        run_dir.log_file.unlink()
