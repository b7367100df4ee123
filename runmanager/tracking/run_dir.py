"""Folders: a run's, a sweep's, a project's. Only these classes know the name of a file."""

import itertools
import json
import os
import re
import socket
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runmanager.parameters import decode, encode, identity
from runmanager.tracking.errors import ResultsNotFoundError, SweepNameError
from runmanager.tracking.files import replace_text
from runmanager.tracking.journal import Journal, JournalContent, last_record, read_journal, storage_error

_SWEEP_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.\-]{0,63}")
_RUN_FOLDER = re.compile(r"(\d+)-(?:[A-Za-z0-9_.,=+\-]*-)?([0-9a-f]{12})")
_READABLE = re.compile(r"[A-Za-z0-9_.+\-]{1,16}")
_MAX_FOLDER_BYTES = 64
_EVENTS = "events.out.tfevents."
_events_counter = itertools.count()
_TABLE_ENDINGS = (".csv", ".json", ".runs")


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

    def write_run(self, params: Mapping[str, Any], seed: int | None, replicate: int) -> None:
        """Writes who the run is: its number, its typed parameters, its seed."""
        run = run_record(self.number, params, seed, replicate)
        replace_text(self._run_file, json.dumps(run, indent=1, allow_nan=False) + "\n")

    def read_run(self) -> dict[str, Any] | None:
        """What `write_run` wrote, with the parameters decoded; None when neither that nor the journal tells.

        The file is replaced whole, but a power cut may leave it empty; the journal's first record says the same.
        """
        try:
            return _decoded_run(json.loads(self._run_file.read_bytes()))
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            pass  # so the journal has to tell
        try:
            begun = (record["run"] for record in self.read_journal().records if record["kind"] == "begin")
            return _decoded_run(next(begun))
        except (OSError, StopIteration, KeyError):
            return None

    def open_journal(self) -> Journal:
        """The writer of the run's journal; there must be only one."""
        return Journal(self._journal_file)

    def read_journal(self) -> JournalContent:
        """All that the journal holds."""
        return read_journal(self._journal_file)

    def has_ended(self) -> bool:
        """Whether the journal's last line says how the run ended."""
        record = last_record(self._journal_file)
        return record is not None and record["kind"] == "end"

    def journal_time(self) -> int:
        """When the journal was last written to, in nanoseconds; 0 when there is none."""
        try:
            return self._journal_file.stat().st_mtime_ns
        except OSError:
            return 0

    def new_events_file(self, suffix: str = "") -> Path:
        """A name for another of the run's TensorBoard files, as TensorBoard wants it."""
        host = re.sub(r"[^A-Za-z0-9_-]", "-", socket.gethostname())
        return self.path / f"{_EVENTS}{int(time.time()):010d}.{host}.{os.getpid()}.{next(_events_counter)}{suffix}"

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


def run_record(number: int, params: Mapping[str, Any], seed: int | None, replicate: int) -> dict[str, Any]:
    """Who a run is, as strict JSON."""
    return {
        "number": number,
        "id": identity(params, replicate),
        "params": {name: encode(value) for name, value in params.items()},
        "replicate": replicate,
        "seed": seed,
    }


def _decoded_run(run: Any) -> dict[str, Any]:
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

    def runs_by_id(self) -> dict[str, RunDir]:
        """The run folders by the first 12 digits of the run's identity."""
        return {run.path.name[-12:]: run for run in self.runs()}

    def make_run(self, number: int, params: Mapping[str, Any], seed: int | None, replicate: int = 1) -> RunDir:
        """Makes the folder of a run.

        Raises:
            StorageError: it cannot be made.
        """
        path = self.path / folder_name(number, params, identity(params, replicate))
        run = RunDir(path, number)
        try:
            path.mkdir(parents=True, exist_ok=True)
            run.write_run(params, seed, replicate)
        except OSError as error:
            raise storage_error(path, error) from error
        return run

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
        return self.epochs_csv, self.epochs_json, self.runs_csv

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
        ResultsNotFoundError: there is none of that name.
    """
    root = root or project_root()
    if sweep_name_fault(name) is None:
        sweep_dir = SweepDir(root, name)
        if sweep_dir.path.is_dir():
            return sweep_dir
    there = ", ".join(sweep_names(root)) or "none yet; launch one with `runmanager launch sweeps/quickstart.py`"
    raise ResultsNotFoundError(f"no sweep {name!r:.100} in {root / 'runs'}; there are: {there}")
