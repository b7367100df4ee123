"""Hyperparameter sweeps and experiment tracking for PyTorch."""

from importlib import import_module

TYPE_CHECKING = False  # type checkers know the name; importing it, and Any, would cost a tenth of a start

if TYPE_CHECKING:
    from runmanager.launching.launch import launch as launch
    from runmanager.launching.sweep import Sweep as Sweep
    from runmanager.space.grid import Run as Run
    from runmanager.space.grid import RunBuilder as RunBuilder
    from runmanager.tracking.load import load_results as load_results
    from runmanager.tracking.manager import RunManager as RunManager
    from runmanager.training.trainer import Trainer as Trainer

__version__ = "0.1.0"

# A name is imported when it is first asked for, so that `import runmanager` costs neither torch nor pandas.
_HOMES = {
    "Run": "runmanager.space.grid",
    "RunBuilder": "runmanager.space.grid",
    "RunManager": "runmanager.tracking.manager",
    "Sweep": "runmanager.launching.sweep",
    "Trainer": "runmanager.training.trainer",
    "launch": "runmanager.launching.launch",
    "load_results": "runmanager.tracking.load",
}

__all__ = ["Run", "RunBuilder", "RunManager", "Sweep", "Trainer", "launch", "load_results"]


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'runmanager' has no attribute {name!r}; its names are {', '.join(__all__)}")
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return [*globals(), *__all__]
