"""From a sweep file to its Sweep."""

import ast
import importlib.util
import inspect
import re
import sys
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import runmanager
from runmanager.launching.sweep import Sweep, SweepError
from runmanager.nearest import nearest
from runmanager.tracking.run_dir import project_root

_NO_ARGUMENT = re.compile(r"(\w+)\.__init__\(\) got an unexpected keyword argument '(\w+)'")


def find_sweep_file(name_or_path: str | Path) -> Path:
    """The file of a sweep: a path, or the name of a file in the project's sweeps/.

    Raises:
        SweepError: there is no such file; it lists those there are, and the nearest.
    """
    path = Path(name_or_path)
    root = project_root()
    for candidate in (path, root / "sweeps" / f"{path.name}.py"):
        if candidate.is_file() and candidate.suffix == ".py":
            return candidate.resolve()
    names = sorted(file.stem for file in (root / "sweeps").glob("*.py"))
    there = ", ".join(f"sweeps/{name}.py" for name in names) or "none"
    meant = nearest(path.name.removesuffix(".py"), names)
    said = f"there is no file {path}{meant} The" if meant else f"there is no file {path}; the"
    raise SweepError(str(name_or_path), [f"{said} sweeps of {root} are: {there}"])


def project_of(file: Path) -> Path:
    """The project that a sweep file belongs to: the folder above its sweeps/, or the project it stands in."""
    return file.parent.parent if file.parent.name == "sweeps" else project_root(file.parent)


def load_sweep(file: Path) -> Sweep:
    """Imports a sweep file, the project's folder on the import path, and returns its `sweep`.

    Raises:
        SweepError: it cannot be imported, or has no Sweep called `sweep`.
    """
    if not _names_sweep(file):
        raise SweepError(
            file.stem, [f"{file} has no Sweep called 'sweep'; write sweep = Sweep(params=..., trainer=...)"]
        )
    root = str(project_of(file))
    if root not in sys.path:
        sys.path.insert(0, root)
    spec = importlib.util.spec_from_file_location(f"sweeps.{file.stem}", file)
    if spec is None or spec.loader is None:
        raise SweepError(file.stem, [f"{file} cannot be imported; a sweep is a Python file"])
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where classes that are made in the file are looked up by name
    try:
        spec.loader.exec_module(module)
    except SweepError:
        raise
    except Exception as error:
        lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(file)]
        where = f" (line {lines[-1]})" if lines else ""
        said = _no_argument(error, vars(module)) or f"{type(error).__name__}: {error}"
        raise SweepError(file.stem, [f"{file} cannot be imported: {said}{where}"]) from error
    sweep = getattr(module, "sweep", None)
    if not isinstance(sweep, Sweep):
        raise SweepError(
            file.stem, [f"'sweep' of {file} is a {type(sweep).__name__}; write sweep = Sweep(params=..., ...)"]
        )
    return sweep


def _no_argument(error: Exception, names: Mapping[str, Any]) -> str | None:
    """The message where a class of ours was given an argument that it does not have; `names` are those of the sweep file."""
    match = _NO_ARGUMENT.match(str(error)) if isinstance(error, TypeError) else None
    if match is None or match[1] not in runmanager.__all__:
        return None
    kind, name = getattr(runmanager, match[1]), match[2]
    if names.get(match[1], kind) is not kind:
        return None  # it is another class of that name
    said = f"{match[1]} has no argument {name!r}"
    for other in {"Sweep", "Trainer"} - {match[1]}:
        if name in inspect.signature(getattr(runmanager, other)).parameters:
            return f"{said}; it is one of {other}"
    if match[1] == "Trainer":
        from runmanager.training.unused import other_argument

        return said + other_argument(name, inspect.signature(kind).parameters, names.values())
    return said + nearest(name, inspect.signature(kind).parameters)


def _names_sweep(file: Path) -> bool:
    """Whether the file has a `sweep` at all: a loop by hand would train all its runs while it is imported."""
    try:
        nodes = list(ast.walk(ast.parse(file.read_bytes())))
    except (SyntaxError, ValueError):
        return True  # importing it says what is wrong
    imported = {
        alias.asname or alias.name for node in nodes if isinstance(node, ast.ImportFrom) for alias in node.names
    }
    return "sweep" in imported | {node.id for node in nodes if isinstance(node, ast.Name)}
