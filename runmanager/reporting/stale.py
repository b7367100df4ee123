"""Whether the tables of a sweep have what its journals have."""

from pathlib import Path

from runmanager.reporting.failures import few
from runmanager.reporting.tables import plural
from runmanager.tracking.history import SweepHistory
from runmanager.tracking.run_dir import SweepDir

_MOST = 8


def table_faults(sweep_dir: SweepDir, history: SweepHistory) -> list[str]:
    """What is out of date, a sentence for each table."""
    found = (
        _epochs(sweep_dir.epochs_csv, history),
        _objects(sweep_dir.epochs_json, history),
        _runs(sweep_dir, history),
    )
    return [text for text in found if text]


def _epochs(table: Path, history: SweepHistory) -> str | None:
    there = _first_cells(table)
    due = {(str(run.number), str(row.epoch)) for run in history.runs for row in run.rows}
    return _difference(table, len(due - there), len(there - due))


def _objects(table: Path, history: SweepHistory) -> str | None:
    lacking = sum(len(run.rows) for run in history.runs) - sum(line.startswith("{") for line in _lines(table))
    return _difference(table, max(0, lacking), max(0, -lacking))


def _runs(sweep_dir: SweepDir, history: SweepHistory) -> str | None:
    table = sweep_dir.runs_csv
    there, due = _first_cells(table), {(str(run.number), run.status) for run in history.runs}
    wrong = sorted(int(number) for number, _ in due - there)
    if wrong and table.exists():
        numbers = few([str(number) for number in wrong], _MOST)
        return f"results/{table.name} does not have the status of run{plural(len(wrong))} {numbers}"
    return _difference(table, len(due - there), len(there - due))


def _difference(table: Path, num_lacking: int, num_more: int) -> str | None:
    name = f"results/{table.name}"
    if not table.exists():
        return f"{name} is missing"
    if num_lacking or num_more:
        lacks = f"lacks {num_lacking} row{plural(num_lacking)}" if num_lacking else ""
        more = f"has {num_more} row{plural(num_more)} that no journal has" if num_more else ""
        return f"{name} {' and '.join(part for part in (lacks, more) if part)}"
    return f"{name} is marked as out of date" if table.stat().st_mtime == 0 else None


def _first_cells(table: Path) -> set[tuple[str, str]]:
    """The first two cells of each row: its run, and its epoch or its status."""
    rows = [line.split(",", 2) for line in _lines(table)[1:] if "," in line]
    return {(row[0], row[1]) for row in rows}


def _lines(table: Path) -> list[str]:
    try:
        return table.read_text(encoding="utf-8", errors="replace").split("\n")
    except OSError:
        return []
