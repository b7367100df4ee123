"""Folders: a run's, a sweep's, a project's. Only these classes know the name of a file."""

import itertools
import json
import os
import re
import time
from collections.abc import Container, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from runmanager.nearest import nearest
from runmanager.parameters import decode, encode
from runmanager.tracking.errors import ResultsNotFoundError, SweepNameError
from runmanager.tracking.files import SyncedFile, replace_text, write_new
from runmanager.tracking.journal import (
    Journal,
    JournalContent,
    TailReader,
    ends_in_line_feed,
    last_record,
    read_journal,
    storage_error,
)
from runmanager.tracking.owner import host_name
from runmanager.tracking.temporaries import left_over

_SWEEP_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.\-]{0,63}")
_RUN_FOLDER = re.compile(r"(\d+)-(?:[A-Za-z0-9_.,=+\-]*-)?([0-9a-f]{12})")
_READABLE = re.compile(r"[A-Za-z0-9_.+\-]{1,16}")
_MAX_FOLDER_BYTES = 64
_EVENTS = "events.out.tfevents."
_EVENTS_FILE = re.compile(r"events\.out\.tfevents\.\d+\.")
_events_counter = itertools.count()
_TABLE_ENDINGS = (".csv", ".json", ".runs", ".lr-range")


def sweep_name_fault(name: object) -> str | None:
    """What is wrong with a sweep's name, or None."""
    if isinstance(name, str) and _SWEEP_NAME.fullmatch(name):
        taken = next((end for end in _TABLE_ENDINGS if name.endswith(end)), None)
        return f"the sweep name {name!r} ends like a table's file; leave out {taken!r}" if taken else None
    return (
        f"the sweep name {name!r:.100} cannot be a folder's; use at most 64 letters, digits, '_', '-' and '.', "
        "beginning with a letter, a digit or '_'"
    )


def project_root(start: Path | None = None) -> Path:
    """The nearest folder above `start` that has both runs/ and sweeps/; `start` itself when it has one of them, or none does."""
    start = (start or Path.cwd()).resolve()
    if (start / "runs").is_dir() or (start / "sweeps").is_dir():
        return start
    projects = (folder for folder in start.parents if (folder / "runs").is_dir() and (folder / "sweeps").is_dir())
    return next(projects, start)


@dataclass(frozen=True)
class RunDir:
    """One run's folder."""

    path: Path
    number: int

    @property
    def _run_file(self) -> Path:
        return self.path / "run.json"

    @property
    def _journal_file(self) -> Path:
        return self.path / "journal.jsonl"

    @property
    def log_file(self) -> Path:
        """What the run printed, where it was trained by a worker process."""
        return self.path / "log.txt"

    @property
    def checkpoints(self) -> Path:
        """The folder of the run's saved states."""
        return self.path / "checkpoints"

    @property
    def confusions(self) -> Path:
        """The folder of the run's confusion matrices."""
        return self.path / "confusion"

    @property
    def profile(self) -> Path:
        """The trace of the run's first steps, where they were profiled."""
        return self.path / "profile.json"

    def make(self) -> None:
        """Makes the folder, where there is none.

        Raises:
            StorageError: it cannot be made.
        """
        try:
            self.path.mkdir()
        except FileExistsError:
            pass
        except OSError as error:
            raise storage_error(self.path, error) from error

    def write_run(self, run: Mapping[str, Any]) -> None:
        """Writes who the run is, as `run_record` has it: for people, since the journal says the same.

        Raises:
            StorageError: it cannot be written.
        """
        try:
            write_new(self._run_file, _pretty_json(run))  # not replaced whole, since nobody depends on it
        except OSError as error:
            raise storage_error(self._run_file, error) from error

    def read_run(self) -> dict[str, Any] | None:
        """What `write_run` wrote, with the parameters decoded; None when it cannot be read."""
        try:
            return decoded_run(json.loads(self._run_file.read_bytes()))
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return None

    def claim_file(self, attempt: int) -> Path:
        """Whoever makes this file has that attempt of the run."""
        return self.path / f"claim-{attempt}"

    def claims(self) -> dict[int, Path]:
        """The claims that there are, by attempt: of attempts under way, or of such that died."""
        found = ((re.fullmatch(r"claim-([0-9]{1,9})", name), name) for name in os.listdir(self.path))
        return {int(match[1]): self.path / name for match, name in found if match}

    @property
    def heartbeat(self) -> Path:
        """Touched now and then by a long run's owner, for other machines that cannot look at its process."""
        return self.path / "heartbeat"

    def last_sign(self, *claims: Path) -> float:
        """When the run's owner, or whoever made one of these claims, last wrote here, in seconds since 1970."""
        return max(map(_mtime_ns, (self._journal_file, self.heartbeat, *claims))) / 1e9

    def open_journal(self, *, new: bool = False) -> Journal:
        """The writer of the run's journal; there must be only one.

        Raises:
            FileExistsError: it has to be new, and there is one.
            RunInUseError: another process has it open.
            StorageError: it cannot be opened.
        """
        return Journal(self._journal_file, new=new)

    def journal_follower(self) -> "TailReader":
        """Reads the journal as it grows."""
        return TailReader(self._journal_file)

    def read_journal(self) -> JournalContent:
        """All that the journal holds."""
        return read_journal(self._journal_file)

    def has_torn_tail(self) -> bool:
        """Whether the journal's last line has no end, as its writer's death may leave it."""
        try:
            return not ends_in_line_feed(self._journal_file)
        except OSError:
            return False

    def has_ended(self) -> bool:
        """Whether the journal's last line says how the run ended."""
        record = last_record(self._journal_file)
        return record is not None and record["kind"] == "end"

    def journal_time(self) -> int:
        """When the journal was last written to, in nanoseconds; 0 when there is none."""
        return _mtime_ns(self._journal_file)

    def journal_size(self) -> int:
        """How many bytes the journal has; 0 when there is none."""
        try:
            return self._journal_file.stat().st_size
        except OSError:
            return 0

    def new_events_file(self, suffix: str = "") -> Path:
        """A name for another of the run's TensorBoard files, as TensorBoard wants it."""
        host = re.sub(r"[^A-Za-z0-9_-]", "-", host_name())
        earlier = [int(name.split(".")[3]) for name in os.listdir(self.path) if _EVENTS_FILE.match(name)]
        # TensorBoard reads in the order of names, and the clock may have been set back
        stamp = max([int(time.time()), *(one + (not suffix) for one in earlier)])
        return self.path / f"{_EVENTS}{stamp:010d}.{host}.{os.getpid()}.{next(_events_counter)}{suffix}"

    def remove_end_events(self) -> None:
        """Takes back what TensorBoard was told of the end of an attempt that is taken up again.

        Raises:
            StorageError: a file cannot be removed.
        """
        for file in self.path.glob(f"{_EVENTS}*.end"):
            try:
                file.unlink()
            except OSError as error:
                raise storage_error(file, error) from error

    def set_events_aside(self) -> None:
        """Hides the TensorBoard files of an earlier attempt from TensorBoard, and keeps them.

        Raises:
            StorageError: they cannot be renamed.
        """
        for file in sorted(self.path.glob(f"{_EVENTS}*")):
            try:
                file.rename(file.with_name(file.name.replace(_EVENTS, "earlier-attempt.")))
            except OSError as error:
                raise storage_error(file, error) from error


def _mtime_ns(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return 0


def _pretty_json(value: Mapping[str, Any]) -> bytes:
    try:
        return orjson.dumps(value, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)
    except TypeError:  # a lone surrogate, or an integer beyond 64 bits
        return json.dumps(value, indent=2, allow_nan=False).encode() + b"\n"


def run_record(number: int, run_id: str, params: Mapping[str, Any], seed: int | None, replicate: int) -> dict[str, Any]:
    """Who a run is, as strict JSON."""
    return {
        "number": number,
        "id": run_id,
        "params": {name: encode(value) for name, value in params.items()},
        "replicate": replicate,
        "seed": seed,
    }


def decoded_run(run: Any) -> dict[str, Any]:
    """What `run_record` made, with the parameters as they were."""
    return {**run, "params": {name: decode(value) for name, value in run["params"].items()}}


def folder_name(number: int, params: Mapping[str, Any], run_id: str) -> str:
    """`<number>-<short readable>-<hash>`, at most 64 ASCII bytes."""
    head, tail = f"{number:04d}", run_id[:12]
    readable = readable_name(params, _MAX_FOLDER_BYTES - len(head) - len(tail) - 2)
    return "-".join(part for part in (head, readable, tail) if part)


def readable_name(params: Mapping[str, Any], room: int) -> str:
    """`lr=0.01,batch_size=100`, in ASCII, as much as there is room for; a value that is no plain word or number stays out."""
    parts: list[str] = []
    for name, value in params.items():
        if _is_readable(name, value) and len(",".join([*parts, f"{name}={value}"])) <= room:
            parts.append(f"{name}={value}")
    return ",".join(parts)


def _is_readable(name: str, value: object) -> bool:
    plain = isinstance(value, (bool, int, float, str)) and ".." not in str(value)
    return plain and name.isascii() and _READABLE.fullmatch(str(value)) is not None


class SweepDir:
    """One sweep's folder of run folders, and where its results stand."""

    def __init__(self, root: Path, name: str) -> None:
        """Names a sweep of the project at `root`; makes nothing.

        Raises:
            SweepNameError: the name cannot be a folder's, or leads out of the project's runs.
        """
        fault = sweep_name_fault(name)
        if fault:
            raise SweepNameError(fault)
        self.root, self.name = root, name
        self.path = root / "runs" / name
        if Path(os.path.realpath(self.path)).parent != Path(os.path.realpath(root / "runs")):
            raise SweepNameError(
                f"runs/{name} is a link that leads to {os.path.realpath(self.path)}; move that folder into runs/"
            )

    @property
    def epochs_csv(self) -> Path:
        """One row per run and epoch."""
        return self.root / "results" / f"{self.name}.csv"

    @property
    def epochs_json(self) -> Path:
        """The same as JSON."""
        return self.root / "results" / f"{self.name}.json"

    @property
    def runs_csv(self) -> Path:
        """One row per run."""
        return self.root / "results" / f"{self.name}.runs.csv"

    @property
    def lr_range_csv(self) -> Path:
        """One row per step of the last range test of its learning rates."""
        return self.root / "results" / f"{self.name}.lr-range.csv"

    @property
    def launch_claim(self) -> Path:
        """Whoever makes this file may launch the sweep, where locks do not tell."""
        return self.path / ".launch"

    @property
    def _plan_file(self) -> Path:
        return self.path / "sweep.json"

    def make(self) -> None:
        """Makes the folders of the runs and of the results.

        Raises:
            StorageError: a folder cannot be made.
        """
        for folder in (self.path, self.epochs_csv.parent):
            try:
                folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise storage_error(folder, error) from error

    def write_plan(self, plan: Mapping[str, Any]) -> None:
        """Writes the plan, sweep.json.

        Raises:
            StorageError: it could not be written; the old plan is kept.
        """
        try:
            replace_text(self._plan_file, json.dumps(plan, indent=1, allow_nan=False) + "\n", durable=True)
        except OSError as error:
            raise storage_error(self._plan_file, error) from error

    def read_plan(self) -> dict[str, Any]:
        """What `write_plan` wrote; empty when the file is missing or damaged."""
        try:
            plan = json.loads(self._plan_file.read_bytes())
        except (OSError, ValueError):
            return {}
        return plan if isinstance(plan, dict) else {}

    def left_over(self) -> list[Path]:
        """What processes that are gone were about to put in the place of the plan or of a table."""
        tables = {table.name for table in self._tables()}
        return [*left_over(self.epochs_csv.parent, tables), *left_over(self.path)]

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keeps other launches of the sweep from planning at the same time.

        Raises:
            StorageError: the lock's file cannot be made.
        """
        try:
            lock = SyncedFile(self.path / ".lock")
        except OSError as error:
            raise storage_error(self.path / ".lock", error) from error
        with closing(lock):
            lock.wait_for_lock()
            yield

    def numbering(self) -> tuple[int, set[str]]:
        """What changes when runs get numbers or folders."""
        return _mtime_ns(self._plan_file), {run.path.name for run in self.runs()}

    def write_diff(self, text: str) -> None:
        """Keeps what the project's code was beside its last commit.

        Raises:
            StorageError: it could not be written.
        """
        try:
            replace_text(self.path / "code.diff", text)
        except OSError as error:
            raise storage_error(self.path / "code.diff", error) from error

    def run_dir(self, number: int, params: Mapping[str, Any], run_id: str) -> RunDir:
        """The folder of a new run; it is not made."""
        return RunDir(self.path / folder_name(number, params, run_id), number)

    def runs(self) -> Iterator[RunDir]:
        """The run folders that there are, by number."""
        found = []
        try:
            names = os.listdir(self.path)
        except (FileNotFoundError, NotADirectoryError):
            return
        for name in names:
            match = _RUN_FOLDER.fullmatch(name)
            if match:
                found.append((int(match[1]), name))
        for number, name in sorted(found):
            yield RunDir(self.path / name, number)

    def journal_sizes(self, leave_out: Container[int] = ()) -> dict[str, int]:
        """How many bytes each run's journal has, by folder: what tells that something was recorded meanwhile."""
        sizes = {}
        for run in self.runs():
            if run.number not in leave_out:
                sizes[run.path.name] = run.journal_size()
        return sizes

    def runs_by_id(self) -> dict[str, RunDir]:
        """The run folders by the first 12 digits of the run's identity."""
        return {run.path.name[-12:]: run for run in self.runs()}

    def set_aside(self) -> str:
        """Gives an old sweep, its results included, another name beside this one; returns that name."""
        old = next(old for old in self._names_aside() if not old.is_there())
        if self.path.exists():
            self.path.rename(old.path)
        for mine, its in zip(self._tables(), old._tables(), strict=True):
            if mine.exists():
                mine.rename(its)
        return old.name

    def is_there(self) -> bool:
        """Whether there are runs, or tables that were kept without them."""
        return any(path.exists() for path in self._all_paths())

    def _names_aside(self) -> "Iterator[SweepDir]":
        return (SweepDir(self.root, f"{self.name[:56]}.{number}") for number in itertools.count(1))

    def _tables(self) -> tuple[Path, ...]:
        return self.epochs_csv, self.epochs_json, self.runs_csv, self.lr_range_csv

    def _all_paths(self) -> tuple[Path, ...]:
        return self.path, *self._tables()


def sweep_names(root: Path) -> list[str]:
    """The names in a project's runs/ that may be sweeps; a link that leads out of it is among them."""
    try:
        names = sorted(os.listdir(root / "runs"))
    except OSError:
        return []
    return [name for name in names if sweep_name_fault(name) is None and (root / "runs" / name).is_dir()]


def find_sweep(name: str, root: Path | None = None) -> SweepDir:
    """The folder of a sweep that was launched.

    Raises:
        ResultsNotFoundError: there is none of that name; it lists those there are, and the nearest.
    """
    root = root or project_root()
    if sweep_name_fault(name) is None:
        sweep_dir = SweepDir(root, name)
        if sweep_dir.path.is_dir():
            return sweep_dir
    names = sweep_names(root)
    there = ", ".join(names) or "none yet; launch one with `runmanager launch sweeps/quickstart.py`"
    meant = nearest(Path(name).name.removesuffix(".py"), names)
    raise ResultsNotFoundError(f"no sweep {name!r:.100} in {root / 'runs'}; there are: {there}{meant}")
