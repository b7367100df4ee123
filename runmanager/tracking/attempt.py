"""An attempt at a run: how one process, and only one, comes to write it."""

import json
import os
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from runmanager.tracking.errors import RunInUseError
from runmanager.tracking.files import create_text, locks_hold
from runmanager.tracking.journal import Journal, Record, storage_error
from runmanager.tracking.owner import is_alive, is_on_this_machine, owner_text, read_owner, this_process
from runmanager.tracking.rows import RunEnd
from runmanager.tracking.run_dir import RunDir

_YOUNG_SECONDS = 10.0

BEAT_SECONDS = 60.0
"""How often a run that is under way says so to other machines."""


class Beating(Protocol):
    """Something whose file is touched now and then."""

    def beat(self) -> None:
        """Touches it."""


@dataclass(eq=False)
class Attempt:
    """This process's hold on a run, until it is closed."""

    number: int  # counted from 1
    run_dir: RunDir
    journal: Journal
    claim: Path | None = None
    has_beaten: bool = False

    def beat(self) -> None:
        """A sign of life, for those who cannot look at this process."""
        self.has_beaten = True
        try:
            self.run_dir.heartbeat.touch()
        except OSError:  # the folder was deleted, or the disk is full: the run's own records will say so
            return

    def refuse_unless_known(self, known_attempts: int | None) -> None:
        """Makes sure that nobody has tried the run since the caller looked at it.

        Raises:
            RunInUseError: somebody has.
        """
        begun = [record for record in self.journal.content.records if record["kind"] == "begin"]
        if known_attempts is not None and len(begun) != known_attempts:
            raise RunInUseError(None, "another launch has tried it meanwhile", str(self.run_dir.path))

    def close(self) -> None:
        """Lets go of the run.

        Raises:
            StorageError: what was written last did not reach the disk.
        """
        _beats.remove(self)
        for path in (self.claim, self.run_dir.heartbeat if self.has_beaten else None):
            if path is not None:
                _remove(path)
        self.journal.close()


def end_for_dead(run_dir: RunDir, pid: int, end: RunEnd) -> bool:
    """Records how an attempt ended whose process cannot do so any more, or is not to be believed; False where it is another's.

    Args:
        run_dir: the run.
        pid: the dead process.
        end: how its attempt ended.

    Raises:
        StorageError: it cannot be recorded.
    """
    try:
        journal = run_dir.open_journal()
    except RunInUseError:  # another launch has taken the run over
        return False
    with closing(journal):
        ends = [record for record in journal.content.records if record["kind"] in ("begin", "end")]
        begun = [record for record in ends if record["kind"] == "begin"]
        if not begun or not is_on_this_machine(begun[-1]["owner"], pid):
            return False
        journal.append(("end", end.record()))
    for path in (*run_dir.claims().values(), run_dir.heartbeat):
        _remove(path)
    return True


def _remove(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError:  # a read-only disk; a claim that is left takes the run from nobody once its maker is gone
        return


def begin_attempt(run_dir: RunDir) -> Attempt:
    """Takes a run for this process.

    Whoever makes the journal has the first attempt, and whoever makes the file `claim-<n>` has attempt n. So of several
    processes that try at once one gets the run, whether or not the file system has locks.

    Raises:
        RunInUseError: another process has the run.
        StorageError: the journal cannot be opened.
    """
    try:
        attempt = Attempt(1, run_dir, run_dir.open_journal(new=True))
    except FileExistsError:
        attempt = _begin_again(run_dir)
    _beats.add(attempt)
    return attempt


def _begin_again(run_dir: RunDir) -> Attempt:
    _refuse_while_in_use(run_dir)
    journal = run_dir.open_journal()
    try:
        begun = [record["attempt"] for record in journal.content.records if record["kind"] == "begin"]
        number = 1 + max([*run_dir.claims(), *begun], default=0)
        claim = _claim(run_dir, number)
        # of two that are about to begin, the lower one has it; and one may have ended since we looked, which is asked second
        # because an attempt records its end before it drops its claim
        if _has_lower_claim(run_dir, number) or journal.has_changed():
            _remove(claim)
            raise RunInUseError(None, "another process has just begun it", str(run_dir.path))
        for attempt, path in run_dir.claims().items():
            if attempt < number:
                _remove(path)
        return Attempt(number, run_dir, journal, claim)
    except BaseException:
        journal.close()
        raise


def _has_lower_claim(run_dir: RunDir, number: int) -> bool:
    """Whether a living process has an earlier attempt."""
    lower = [claim for attempt, claim in run_dir.claims().items() if attempt < number]
    return any(is_alive(read_owner(claim), run_dir.last_sign(claim)) for claim in lower if read_owner(claim))


def _refuse_while_in_use(run_dir: RunDir) -> None:
    """Before anything is touched: on another machine's disk a lock may not tell."""
    owners = [(owner, run_dir.last_sign()) for owner in _journal_owner(run_dir)]
    owners += [(read_owner(claim), run_dir.last_sign(claim)) for claim in run_dir.claims().values()]
    for owner, last_sign in owners:
        if owner and owner != this_process() and is_alive(owner, last_sign):
            raise RunInUseError(
                None, f"it is being trained by {owner_text(owner)}; let that one end first", str(run_dir.path)
            )


def _journal_owner(run_dir: RunDir) -> list[Record]:
    """Who began the last attempt, unless it has ended.

    Raises:
        RunInUseError: somebody has made the journal and is about to say who, as far as can be told without locks.
    """
    ends = [record for record in run_dir.read_journal().records if record["kind"] in ("begin", "end")]
    is_young = time.time() - run_dir.last_sign() < _YOUNG_SECONDS
    if not ends and is_young and not locks_hold(run_dir.path):
        raise RunInUseError(None, "another process has just begun it", str(run_dir.path))
    return [ends[-1]["owner"]] if ends and ends[-1]["kind"] == "begin" else []


def _claim(run_dir: RunDir, number: int) -> Path:
    claim = run_dir.claim_file(number)
    try:
        create_text(claim, json.dumps(this_process()))
    except FileExistsError:
        raise RunInUseError(None, "another process has just begun it", str(run_dir.path)) from None
    except OSError as error:
        raise storage_error(claim, error) from error
    return claim


@contextmanager
def beating(path: Path) -> Iterator[None]:
    """Touches a file now and then, for other machines."""
    one = _Touched(path)
    _beats.add(one)
    try:
        yield
    finally:
        _beats.remove(one)


class _Touched:
    def __init__(self, path: Path) -> None:
        self._path = path

    def beat(self) -> None:
        try:
            self._path.touch()
        except OSError:  # the disk will say so to whoever writes something that matters
            return


class _Beats:
    """One thread that lets all that this process holds beat."""

    def __init__(self) -> None:
        self._attempts: set[Beating] = set()
        self._thread: threading.Thread | None = None

    def add(self, attempt: Beating) -> None:
        self._attempts.add(attempt)
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="runmanager-beat", daemon=True)
            self._thread.start()

    def forget(self) -> None:
        """After a fork: what beats is the parent's."""
        self._attempts, self._thread = set(), None

    def remove(self, attempt: Beating) -> None:
        self._attempts.discard(attempt)

    def _work(self) -> None:
        while True:
            threading.Event().wait(BEAT_SECONDS)
            for attempt in list(self._attempts):
                attempt.beat()


_beats = _Beats()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_beats.forget)
