"""What a sweep's results rest on beside its parameters: the project's own code, its data, the devices."""

import ast
import hashlib
import platform
import re
import symtable
import sys
from collections.abc import Iterator
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any

from runmanager.tracking.untouched import SAMPLE_SIZE, frozen_rng
from runmanager.training.seeding import seeded

_PACKAGE = Path(__file__).resolve().parents[1]
_FOREIGN = {"site-packages", "dist-packages"}
_NOT_DECISIVE = ("params", "objective", "mode", "name")  # of a Sweep: they choose among runs, and change none
_MAIN = ("__name__ == '__main__'", "'__main__' == __name__")
_DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


def code_of(file: Path | None, project: Path) -> dict[str, str]:
    """The files of the project that a sweep's results rest on, each with the SHA-256 of what it says.

    They are the sweep file, what it imports, inside functions too, and what that imports. They are found by reading, so what
    else was imported into this process plays no part. Only where a file imports by a name that it works out, or where there
    is no sweep file, every loaded module of the project counts. Comments, docstrings and formatting say nothing; nor does
    the grid of the sweep file.
    """
    project, found = project.resolve(), dict[str, str]()
    waiting = [file] if file is not None else list(_loaded(project))
    while waiting:
        path = waiting.pop()
        name = path.relative_to(project).as_posix() if path.is_relative_to(project) else path.name
        if name in found or not path.is_file():
            continue
        text = path.read_bytes()
        try:
            tree = ast.parse(text)
            waiting += _imports(tree, path, project)
            waiting += _loaded(project) if b"import_module" in text or b"__import__" in text else []
            said = repr(_said(_without_grid(tree) if path == file else tree)).encode()
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            said = text  # no Python, none that this version reads, or an expression of a thousand terms
        found[name] = hashlib.sha256(said).hexdigest()
    return dict(sorted(found.items()))


def _said(node: Any) -> Any:
    """A tree as plain values, without its places and docstrings, and without empty fields, which each Python has others of."""
    if isinstance(node, list):
        return [_said(one) for one in node]
    if not isinstance(node, ast.AST):
        return repr(node)
    fields = dict(ast.iter_fields(node))
    if isinstance(node, _DOCUMENTED) and ast.get_docstring(node, clean=False) is not None:
        fields["body"] = node.body[1:]
    return type(node).__name__, [(name, _said(value)) for name, value in fields.items() if value not in (None, [])]


def _own(file: str, project: Path) -> Path | None:
    """The path of a file of the project; None for a library, a hidden file, and this package where the project is its checkout."""
    path = Path(file) if Path(file).is_relative_to(project) else Path(file).resolve()
    if not path.is_relative_to(project) or path.is_relative_to(_PACKAGE):
        return None
    folders = path.relative_to(project).parts[:-1]
    if any(folder.startswith(".") or folder in _FOREIGN for folder in folders):
        return None
    depths = range(1, len(folders) + 1)
    return None if any((project.joinpath(*folders[:depth]) / "pyvenv.cfg").exists() for depth in depths) else path


def _loaded(project: Path) -> Iterator[Path]:
    """The project's files among the loaded modules; a script that launches is none of them."""
    for name, module in list(sys.modules.items()):
        file = getattr(module, "__dict__", {}).get("__file__")
        path = _own(file, project) if isinstance(file, str) and name not in ("__main__", "__mp_main__") else None
        if path is not None:
            yield path


def _imports(tree: ast.Module, file: Path, project: Path) -> Iterator[Path]:
    """The project's files that are imported somewhere in a file."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield from _locate(alias.name, None, project)
        elif isinstance(node, ast.ImportFrom):
            search = [str(file.parents[min(node.level, len(file.parents)) - 1])] if node.level else None
            for alias in node.names:
                yield from _locate(f"{node.module}.{alias.name}" if node.module else alias.name, search, project)


def _locate(dotted: str, search: list[str] | None, project: Path) -> Iterator[Path]:
    """The files of a module and of the packages round it, as importing would find them; nothing is imported."""
    for part in dotted.split("."):
        spec = PathFinder.find_spec(part, search)
        path = _own(spec.origin, project) if spec is not None and spec.origin else None
        if path is not None:
            yield path
        if spec is None or not spec.submodule_search_locations or (spec.origin and path is None):
            return
        search = list(spec.submodule_search_locations)


def _without_grid(tree: ast.Module) -> ast.Module:
    """A sweep file without its grid, and without the assignments and imports that nothing else in the file reads."""
    body = [part for statement in tree.body for part in _imported_parts(statement)]
    left_out: list[ast.AST] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and getattr(node.func, "id", getattr(node.func, "attr", None)) == "Sweep":
            left_out += node.args[:1] + [word.value for word in node.keywords if word.arg in _NOT_DECISIVE]
            node.args, node.keywords = node.args[1:], [word for word in node.keywords if word.arg not in _NOT_DECISIVE]
    while left_out:
        for name in {node.id for node in ast.walk(left_out.pop()) if isinstance(node, ast.Name)}:
            makers = [statement for statement in body if name in _made(statement)]
            rest = [statement for statement in body if statement not in makers]
            if makers and not _is_read(name, rest):
                body, left_out = rest, [*left_out, *makers]
    return ast.Module(body, [])


def _imported_parts(statement: ast.stmt) -> list[ast.stmt]:
    """What of a statement is carried out when the file is imported; of an import of several names, one each."""
    if isinstance(statement, ast.If) and ast.unparse(statement.test) in _MAIN:
        return statement.orelse
    if isinstance(statement, ast.Import):
        return [ast.Import([alias]) for alias in statement.names]
    if isinstance(statement, ast.ImportFrom):
        return [ast.ImportFrom(statement.module, [alias], statement.level) for alias in statement.names]
    return [statement]


def _made(statement: ast.stmt) -> set[str | None]:
    """The one name that a statement assigns to or imports."""
    if isinstance(statement, (ast.Import, ast.ImportFrom)):
        return {alias.asname or alias.name.split(".")[0] for alias in statement.names}
    if not isinstance(statement, (ast.Assign, ast.AnnAssign, ast.AugAssign)):
        return set()
    targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
    names = {_root(target) for target in targets}
    return names if len(names) == 1 else set()


def _root(target: ast.expr) -> str | None:
    while isinstance(target, (ast.Subscript, ast.Attribute)):
        target = target.value
    return target.id if isinstance(target, ast.Name) else None


def _is_read(name: str, body: list[ast.stmt]) -> bool:
    """Whether statements read a name of the module; a function's own variable of that name is another."""
    tables = [symtable.symtable(ast.unparse(ast.Module(body, [])), "sweep", "exec")]
    for table in tables:
        tables += table.get_children()
        symbol = table.lookup(name) if name in table.get_identifiers() else None
        if symbol and (table.get_type() == "module" or symbol.is_global()):
            return True
    return False


def data_fingerprint(splits: Any) -> dict[str, Any]:
    """Where the data comes from, how much there is, and a SHA-256 over some training samples, spread evenly.

    The samples are drawn with fixed seeds, so augmentation does not change them, and no random number is used up. Data that
    comes out otherwise when it is drawn again has no `sha256`; data without a length has its source alone. Inputs count as they
    were before they were normalised, which a run's settings tell.
    """
    data: Any = splits.train.dataset if hasattr(splits.train, "normalization") else splits.train
    validation: Any = splits.validation
    try:
        num_train, num_validation = len(data), 0 if validation is None else len(validation)
        num_samples = min(SAMPLE_SIZE, num_train)
        indices = [place * (num_train - 1) // max(num_samples - 1, 1) for place in range(num_samples)]
        with frozen_rng(data):
            looks = {_look(data, indices) for _ in range(2)}
    except Exception:  # noqa: BLE001 (a data set may raise anything; training it will say what is wrong)
        return {"source": splits.source}
    about = {"source": splits.source, "num_train": num_train, "num_validation": num_validation}
    return about | ({"sha256": looks.pop()} if len(looks) == 1 else {})


def _look(data: Any, indices: list[int]) -> str:
    digest = hashlib.sha256()
    with seeded(0):
        for index in indices:
            for part in _bytes_of(data[index]):
                digest.update(part)
    return digest.hexdigest()


def _bytes_of(value: Any) -> Iterator[bytes]:
    """A sample as bytes that are the same in every process."""
    import torch

    if isinstance(value, torch.Tensor):
        yield f"{value.dtype}{tuple(value.shape)}".encode()
        value = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
    if isinstance(value, (set, frozenset)):
        value = sorted(value, key=repr)
    if isinstance(value, (list, tuple, dict)):
        yield f"{type(value).__name__}{len(value)}".encode()
        for one in value.items() if isinstance(value, dict) else value:
            yield from _bytes_of(one)
    elif hasattr(value, "tobytes") and not getattr(getattr(value, "dtype", None), "hasobject", False):
        # an array, an image
        about = [getattr(value, name, None) for name in ("dtype", "shape", "mode", "size")]
        yield repr(about).encode()
        yield value.tobytes()
    else:
        yield re.sub(r" at 0x[0-9a-fA-F]+", "", repr(value)).encode() + b"\0"


def device_names() -> list[str]:
    """The processor and, where torch is loaded, the GPUs."""
    torch: Any = sys.modules.get("torch")
    num_gpus = torch.cuda.device_count() if torch and torch.cuda.is_available() else 0
    return [_processor(), *map(torch.cuda.get_device_name, range(num_gpus))] if num_gpus else [_processor()]


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
