"""`runmanager doctor`: whether this machine and this project are well, a line for each thing."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from rich.console import Console

from runmanager.reporting.findings import OK, WARN, Finding, print_findings
from runmanager.reporting.libraries import TorchProbe, check_python, check_tensorboard
from runmanager.reporting.machine import check_machine
from runmanager.reporting.repair import check_sweeps
from runmanager.reporting.selftest import check_by_killing


def run_doctor(root: Path, *, repair: bool, fault_selftest: bool, console: Console | None = None) -> int:
    """Checks and prints; returns the exit status: 1 when something fails.

    Args:
        root: the project.
        repair: mend what a crash has left.
        fault_selftest: kill a toy sweep on the project's disk, and look what is left.
        console: where to.
    """
    findings = _findings(root, repair=repair, fault_selftest=fault_selftest)
    return 0 if print_findings(findings, console or Console()) else 1


def _findings(root: Path, *, repair: bool, fault_selftest: bool) -> Iterator[Finding]:
    yield check_python()
    yield _project(root)
    yield from check_machine(root)
    yield from _libraries()
    yield from check_sweeps(root, repair=repair)
    if fault_selftest:
        yield check_by_killing(root)


def _project(root: Path) -> Finding:
    if (root / "runs").is_dir() or (root / "sweeps").is_dir():
        return Finding(OK, "project", str(root))
    step = "cd into a project, or make one: runmanager init my_project"
    return Finding(WARN, "project", f"{root} has neither runs/ nor sweeps/", step)


def _libraries() -> Iterator[Finding]:
    """Torch is tried in a process of its own, and TensorBoard is started meanwhile."""
    with ThreadPoolExecutor(1) as pool:
        board = pool.submit(check_tensorboard)
        yield from TorchProbe().findings()
        yield board.result()
