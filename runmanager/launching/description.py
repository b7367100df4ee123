"""What a launch has to know of a sweep, as plain data: the process that launches needs neither torch nor the user's code."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from runmanager.launching.load_sweep import load_sweep, project_of
from runmanager.launching.sweep import Sweep
from runmanager.launching.texts import parse_set
from runmanager.parameters import decode, encode, identity
from runmanager.space.grid import Run, RunBuilder
from runmanager.tracking.run_dir import project_root


@dataclass(frozen=True)
class Changes:
    """What a launch changes of its sweep."""

    params: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    texts: Sequence[str] = ()  # the same from the command line: `name=v1,v2`
    epochs: int | None = None

    def apply(self, sweep: Sweep) -> Sweep:
        """The changed sweep.

        Raises:
            SweepError: a parameter is not in the grid, or the number of epochs is not the trainer's.
            ParameterError: a text cannot be read.
        """
        return sweep.changed({**self.params, **parse_set(self.texts, sweep.params)}, self.epochs)

    def to_json(self) -> dict[str, Any]:
        """As strict JSON."""
        params = {name: [encode(value) for value in values] for name, values in self.params.items()}
        return {"params": params, "texts": list(self.texts), "epochs": self.epochs}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "Changes":
        """What `to_json` made; a class or function is its name now."""
        params = {name: [decode(value) for value in values] for name, values in data["params"].items()}
        return cls(params, data["texts"], data["epochs"])


@dataclass(frozen=True)
class Description:
    """A sweep without what can only be called."""

    name: str
    project: Path
    file: Path | None
    params: Mapping[str, Sequence[Any]]
    objective: str | None
    mode: str | None
    seed: int
    settings: dict[str, Any]  # what beside the parameters decides what a run reaches, as far as it is plain
    code: dict[str, str]  # the project's files that it rests on, and digests of what they say
    has_trainer: bool
    devices: list[str]  # of the machine that trains
    devices_per_run: int = 1  # the most that a run has

    @cached_property
    def runs(self) -> list[tuple[Run, str]]:
        """The points of the grid, each with the first 12 digits of its identity."""
        return [(run, identity(run._asdict())[:12]) for run in RunBuilder.get_runs(self.params)]

    @property
    def num_epochs(self) -> int | None:
        """How many epochs a run has, where that is one number for all."""
        epochs = self.settings.get("epochs")
        return epochs if isinstance(epochs, int) else None

    def grid_json(self) -> dict[str, list[Any]]:
        """The grid as strict JSON."""
        return {name: [encode(value) for value in values] for name, values in self.params.items()}

    def to_json(self) -> dict[str, Any]:
        """As strict JSON, for another process."""
        file = str(self.file) if self.file else None
        return {**vars(self), "project": str(self.project), "file": file, "params": self.grid_json()}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "Description":
        """What `to_json` made; a class or function in the grid is its name now."""
        params = {name: [decode(value) for value in values] for name, values in data["params"].items()}
        file = Path(data["file"]) if data["file"] else None
        return cls(**{**data, "project": Path(data["project"]), "file": file, "params": params})


def describe(sweep: Sweep) -> Description:
    """The plain part of a sweep."""
    from runmanager.launching.code import code_of, device_names  # not needed by a process that is told the description

    project = project_of(sweep.file) if sweep.file else project_root()
    given = sweep.trainer.plain_settings() if sweep.trainer is not None else {}
    return Description(
        str(sweep.name),
        project,
        sweep.file,
        sweep.params,
        sweep.objective,
        sweep.mode,
        sweep.seed,
        {"seed": sweep.seed, **given},
        code_of(sweep.file, project),
        sweep.trainer is not None,
        device_names(),
        devices_per_run(sweep),
    )


def devices_per_run(sweep: Sweep) -> int:
    """The most devices that a run is trained on; what is wrong with one of them, the check tells."""
    trainer = sweep.trainer
    if trainer is None or (trainer.given("devices") is None and "devices" not in sweep.params):
        return 1
    most = 1
    for run in sweep.runs():
        with suppress(Exception):
            most = max(most, int(trainer.setting("devices", run)))
    return most


def load_changed(file: Path, changes: Changes) -> Sweep:
    """The sweep of a file, changed.

    Raises:
        SweepError: it cannot be loaded, or not be changed so.
        ParameterError: a text of the changes cannot be read.
    """
    return changes.apply(load_sweep(file))
