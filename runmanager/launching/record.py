"""What sweep.json keeps of a sweep, so that a later launch knows what is already there and what it was trained with."""

from datetime import UTC, datetime
from typing import Any

from runmanager.launching.code_changes import code_changes
from runmanager.launching.description import Description
from runmanager.launching.schedule import Schedule
from runmanager.launching.sweep import SweepError
from runmanager.tracking.plan import describe, versions
from runmanager.tracking.run_dir import SweepDir


def write_record(
    sweep: Description, sweep_dir: SweepDir, plan: Schedule, surroundings: dict[str, Any], accepted: list[str]
) -> None:
    """Writes the plan of this launch over that of the last one.

    Args:
        sweep: the sweep.
        sweep_dir: where it is kept.
        plan: its runs, with every number that was ever given.
        surroundings: the data, git's revision, the threads of each worker.
        accepted: what has changed since the last launch, and was accepted.

    Raises:
        StorageError: it could not be written.
    """
    before = sweep_dir.read_plan()
    if not plan.due and before:  # nothing is trained, so what the runs were trained with stays as it is
        about = {"objective": sweep.objective, "mode": sweep.mode, "grid": sweep.grid_json(), "numbers": plan.numbers}
        sweep_dir.write_plan({**before, **about})
        return
    about = describe(
        sweep_dir,
        objective=sweep.objective,
        mode=sweep.mode,
        grid=sweep.grid_json(),
        settings=sweep.settings,
        code=sweep.code,
        devices=sweep.devices,
        **{"data": before.get("data"), **surroundings},
        accepted=[*_list(before.get("accepted")), *_dated(accepted)],
        numbers=plan.numbers,
    )
    sweep_dir.write_plan({**about, "created": before.get("created", about["created"])})


def _dated(changes: list[str]) -> list[dict[str, Any]]:
    return [{"time": datetime.now(UTC).isoformat(timespec="seconds"), "changes": changes}] if changes else []


def changes_since(sweep: Description, sweep_dir: SweepDir, plan: Schedule, surroundings: dict[str, Any]) -> list[str]:
    """What decides what a run reaches and is no longer as it was when the runs that are there were trained, a sentence each."""
    before = sweep_dir.read_plan()
    if not plan.num_tried:
        return []
    settings, code, its_versions = (_mapping(before.get(name)) for name in ("settings", "code", "versions"))
    return [
        *(_setting_changes(settings, sweep.settings) if settings else []),
        *(code_changes(code, sweep.code) if code else []),
        *_data_changes(before.get("data"), surroundings.get("data")),
        *_version_changes(its_versions, versions()),
    ]


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _mapping(value: Any) -> dict[str, Any]:
    """A part of the record; empty where it is damaged."""
    return value if isinstance(value, dict) else {}


def _setting_changes(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    return [
        f"{name} is {_shown(now, name)} now, and was {_shown(before, name)}"
        for name in {**before, **now}
        if before.get(name) != now.get(name)
    ]


def _shown(settings: dict[str, Any], name: str) -> str:
    return repr(settings[name]) if name in settings else "not given as a value"


def _data_changes(before: Any, now: Any) -> list[str]:
    if not isinstance(before, dict) or not isinstance(now, dict):
        return []
    if all(before.get(name) == now.get(name) for name in {*before, *now} - {"source"}):
        return []
    was, is_now = (f"{one.get('num_train', '?')} training samples ({one.get('source')})" for one in (before, now))
    return [f"the data has changed: {is_now} now, and was {was if was != is_now else 'as many others'}"]


def _version_changes(before: dict[str, str], now: dict[str, str]) -> list[str]:
    if before.get("torch") in (None, now.get("torch")):
        return []
    return [f"torch is {now.get('torch')} now, and was {before['torch']}"]


def refuse_changes(sweep: Description, changes: list[str]) -> None:
    """Refuses to put runs beside others that were trained in another way.

    Raises:
        SweepError: it names what has changed, and both ways out.
    """
    if changes:
        ways = "add --accept-changes to go on all the same, or --fresh to start over beside what is there"
        raise SweepError(sweep.name, [*changes, ways])
