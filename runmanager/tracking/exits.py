"""How an open run learns that its loop died: by the interpreter's hooks, since a hand-written loop has no `with` to tell it."""

import atexit
import os
import sys
from types import TracebackType
from typing import Any, Protocol


class Abandonable(Protocol):
    """Something with an open run that has to be told when the program fails or ends."""

    def abandon(self, error: BaseException | None) -> None:
        """The program failed by `error`, or ended."""


_watched: set[Any] = set()
_installed: set[str] = set()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_watched.clear)  # the runs are the parent's to end


def watch(manager: Abandonable) -> None:
    """Tells `manager` from now on when an exception reaches the top, a notebook's cell fails, or the program ends."""
    _watched.add(manager)
    if "hooks" not in _installed:
        _installed.add("hooks")
        _chain_excepthook()
        atexit.register(_abandon_all, None)
    notebook = notebook_shell()
    if notebook is not None and "cells" not in _installed:
        _installed.add("cells")
        notebook.events.register("post_run_cell", _after_cell)


def unwatch(manager: Abandonable) -> None:
    """The manager's run has ended."""
    _watched.discard(manager)


def notebook_shell() -> Any:
    """The running notebook's IPython shell, or None. IPython is not imported for the asking."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None and hasattr(ipython, "get_ipython") else None
    return shell if shell is not None and hasattr(shell, "kernel") else None


def _chain_excepthook() -> None:
    previous = sys.excepthook

    def excepthook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        _abandon_all(error)
        previous(kind, error, trace)

    sys.excepthook = excepthook


def _after_cell(result: Any) -> None:
    if result.error_in_exec is not None:
        _abandon_all(result.error_in_exec)


def _abandon_all(error: BaseException | None) -> None:
    for manager in list(_watched):
        manager.abandon(error)
