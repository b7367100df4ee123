"""What sweep.json keeps of a sweep, so that a later launch knows what is already there."""

import hashlib
from typing import Any

from runmanager.launching.schedule import Schedule
from runmanager.launching.sweep import Sweep, SweepError
from runmanager.parameters import encode
from runmanager.tracking.history import SweepHistory, is_complete
from runmanager.tracking.plan import describe
from runmanager.tracking.run_dir import SweepDir


def write_record(sweep: Sweep, sweep_dir: SweepDir, plan: Schedule, data: str | None) -> None:
    """Writes the plan of this launch over that of the last one.

    Args:
        sweep: the sweep.
        sweep_dir: where it is kept.
        plan: its runs, with every number that was ever given.
        data: where the trainer's data was found.

    Raises:
        StorageError: it could not be written.
    """
    before = sweep_dir.read_plan()
    about = describe(
        sweep_dir,
        objective=sweep.objective,
        mode=sweep.mode,
        grid={name: [encode(value) for value in values] for name, values in sweep.params.items()},
        settings=settings_of(sweep),
        data=data or before.get("data"),
        code=_code(sweep),
        numbers=plan.numbers,
    )
    sweep_dir.write_plan({**about, "created": before.get("created", about["created"])})


def settings_of(sweep: Sweep) -> dict[str, Any]:
    """What beside the parameters decides what a run reaches, as far as it is a plain value."""
    given = sweep.trainer.plain_settings() if sweep.trainer is not None else {}
    return {"seed": sweep.seed, **given}


def check_settings(sweep: Sweep, sweep_dir: SweepDir, there: SweepHistory) -> None:
    """Refuses to put runs beside complete ones that were trained in another way.

    Raises:
        SweepError: it names the setting, and both ways out.
    """
    num_complete = sum(map(is_complete, there.runs))
    before, now = sweep_dir.read_plan().get("settings", {}), settings_of(sweep)
    faults = [
        f"{name}={now.get(name)!r}, but {num_complete} completed runs of runs/{sweep_dir.name} were trained with "
        f"{name}={before.get(name)!r}; {_way_back(name, before.get(name))}, or add --fresh to start over beside them"
        for name in {**before, **now}
        if num_complete and before and before.get(name) != now.get(name)
    ]
    if faults:
        raise SweepError(sweep.name, faults)


def _way_back(name: str, value: Any) -> str:
    return f"repeat --epochs {value}" if name == "epochs" else "put that back in the sweep file"


def code_has_changed(sweep: Sweep, sweep_dir: SweepDir) -> bool:
    """Whether the sweep file says something else than at the last launch."""
    before = sweep_dir.read_plan().get("code")
    return bool(before) and before != _code(sweep)


def _code(sweep: Sweep) -> dict[str, str]:
    """The sweep file, and a digest of what it says."""
    if sweep.file is None or not sweep.file.is_file():
        return {}
    return {"file": sweep.file.name, "sha256": hashlib.sha256(sweep.file.read_bytes()).hexdigest()}
