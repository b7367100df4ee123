"""Results as pandas DataFrames, from files alone."""

import io
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runmanager.parameters import Named
from runmanager.tracking.cells import from_cell
from runmanager.tracking.errors import ResultsNotFoundError
from runmanager.tracking.history import read_params, read_steps, read_sweep
from runmanager.tracking.run_dir import SweepDir, find_sweep, project_root
from runmanager.tracking.tables import epoch_csv, rows_of, run_csv

if TYPE_CHECKING:
    import pandas as pd


def load_results(name_or_path: str | Path, *, runs: bool = False, steps: bool = False) -> "pd.DataFrame":
    """The results of a sweep, one row per run and epoch, with every value as it was recorded.

    Args:
        name_or_path: a sweep's name, its folder in runs/, or a CSV that the tool or `m.save` wrote.
        runs: one row per run instead: status, last and best of each metric, duration, error.
        steps: one row per `m.log_step` call instead.

    Raises:
        ResultsNotFoundError: there are none of that name.
        ValueError: a CSV alone holds no steps; or both `runs` and `steps` were asked for.
    """
    if runs and steps:
        raise ValueError("load_results gives one table at a time; pass runs=True or steps=True")
    path = Path(name_or_path)
    if path.suffix == ".csv":
        if runs or steps:
            raise ValueError(f"{path} is one table; pass the sweep's name for runs=True or steps=True")
        return _frame(_read(path))
    sweep_dir = _sweep_dir(name_or_path)
    if steps:
        return _steps(sweep_dir)
    table = sweep_dir.runs_csv if runs else sweep_dir.epochs_csv
    if _is_current(sweep_dir, table):
        return _frame(_read(table))
    history = read_sweep(sweep_dir)
    text = run_csv(history) if runs else epoch_csv(rows_of(history))
    return _frame(text.encode())


def _sweep_dir(name_or_path: str | Path) -> SweepDir:
    path = Path(name_or_path)
    if path.is_dir() and path.resolve().parent.name == "runs":
        return SweepDir(path.resolve().parent.parent, path.resolve().name)
    root = project_root()
    results = root / "results"
    is_name = str(name_or_path) == path.name
    if is_name and not (root / "runs" / path.name).is_dir() and (results / f"{path.name}.csv").is_file():
        return SweepDir(root, path.name)  # the tables alone were kept
    return find_sweep(str(name_or_path))


def _is_current(sweep_dir: SweepDir, table: Path) -> bool:
    """Whether a table has all that the journals have: every run ended before it was written, and has its row."""
    try:
        written = table.stat().st_mtime_ns
        num_rows = sweep_dir.runs_csv.read_bytes().count(b"\n") - 1
    except OSError:
        return False
    if not sweep_dir.path.is_dir():
        return True
    runs = list(sweep_dir.runs())
    return len(runs) == num_rows and all(run.journal_time() <= written and run.has_ended() for run in runs)


def _read(path: Path) -> bytes:
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise ResultsNotFoundError(f"there is no {path}; pass a sweep's name, or the path of a results CSV") from None
    return data[: data.rfind(b"\n") + 1]  # a row that was being written when its writer died is not a row


def _frame(data: bytes) -> "pd.DataFrame":
    """A table as a DataFrame: columns of numbers and of booleans as pandas reads them, the others cell by cell."""
    frame = _read_csv(data)
    for name in frame.columns:
        column = frame[name]
        if column.dtype == "float64" and column.abs().max() >= 2**53:  # whole numbers may have lost digits
            column = _read_csv(data, usecols=[name], dtype=str)[name]
        if column.dtype.kind not in "biuf":
            frame[name] = _decoded(column)
    return frame.rename(columns={name: str(from_cell(name)) for name in frame.columns})


def _read_csv(data: bytes, **options: Any) -> "pd.DataFrame":
    import pandas as pd

    frame: pd.DataFrame = pd.read_csv(
        io.BytesIO(data), keep_default_na=False, na_values=["", "nan"], low_memory=False, **options
    )
    return frame


def _decoded(column: "pd.Series[Any]") -> "pd.Series[Any]":
    """Cells as the values they stand for; an empty cell stays missing."""
    import pandas as pd

    codes, cells = pd.factorize(column)
    values = [from_cell(cell) if isinstance(cell, str) else cell for cell in cells] + [math.nan]
    return _typed([values[code] for code in codes])


def _typed(values: list[Any]) -> "pd.Series[Any]":
    """Values as a column that has a type of its own only where that changes none of them."""
    import pandas as pd

    column = pd.Series([str(value) if isinstance(value, Named) else value for value in values], dtype=object)
    if any(value is None or isinstance(value, (list, dict)) for value in values):
        return column
    is_mixed = any(isinstance(value, float) for value in values)
    if is_mixed and any(isinstance(value, int) and abs(value) > 2**53 for value in values):
        return column  # as floats they would lose digits
    return column.infer_objects()


def _steps(sweep_dir: SweepDir) -> "pd.DataFrame":
    import pandas as pd

    steps: list[dict[str, Any]] = []
    params: list[dict[str, Any]] = []
    for run_dir in sweep_dir.runs():
        its_params = read_params(run_dir, run_dir.read_journal())
        for step in read_steps(run_dir) if its_params is not None else ():
            steps.append({"run": run_dir.number, "epoch": step.epoch, "step": step.step, **step.scalars})
            params.append(its_params or {})
    frame = pd.DataFrame(steps, columns=None if steps else ["run", "epoch", "step"])
    for name in dict.fromkeys(name for one in params for name in one):
        frame[name] = _typed([one.get(name, math.nan) for one in params])
    return frame
