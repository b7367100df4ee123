"""Mends what a crash has left in a project's sweeps. No record that can be read is ever touched."""

import shutil
from collections.abc import Iterator
from pathlib import Path

from runmanager.reporting.findings import FAIL, OK, WARN, Finding
from runmanager.reporting.leftovers import old_scratch
from runmanager.reporting.sweep_check import REPAIR, SweepCheck, runs_text
from runmanager.reporting.tables import plural
from runmanager.tracking.errors import RunInUseError, SweepNameError
from runmanager.tracking.results import rebuild
from runmanager.tracking.run_dir import RunDir, SweepDir, sweep_names


def check_sweeps(root: Path, *, repair: bool) -> Iterator[Finding]:
    """What is wrong with the sweeps of a project; what can be mended is mended before, where that was asked for."""
    yield from _scratch(root, repair=repair)
    names = sweep_names(root)
    if not names:
        yield Finding(OK, "sweeps", f"none yet in {root / 'runs'}")
    for name in names:
        try:
            sweep_dir = SweepDir(root, name)
            if repair:
                yield from repair_sweep(sweep_dir)
            yield from SweepCheck(sweep_dir).findings()
        except (SweepNameError, OSError) as error:  # one sweep hides no other
            yield Finding(FAIL, f"sweep {name}", str(error))


def _scratch(root: Path, *, repair: bool) -> Iterator[Finding]:
    paths = old_scratch(root)
    if not paths:
        return
    text = f"{len(paths)} folder{plural(len(paths))} of a doctor that was killed"
    if not repair:
        yield Finding(WARN, "leftovers", text, REPAIR)
        return
    for path in paths:
        shutil.rmtree(path, ignore_errors=True)
    yield Finding(OK, "repaired", f"dropped {text}")


def repair_sweep(sweep_dir: SweepDir) -> Iterator[Finding]:
    """Mends a sweep, and says what it mended. What somebody trains is left alone.

    Raises:
        OSError: the disk is full, say.
    """
    check = SweepCheck(sweep_dir)
    mended = {number: run_dir for number, run_dir in check.torn().items() if _mend(run_dir)}
    if mended:
        yield Finding(
            OK, check.about, f"repaired: half a record closed at the end of the journal of {runs_text(mended)}"
        )
    paths = check.left_over()
    for path in paths:
        path.unlink(missing_ok=True)
    if paths:
        text = f"repaired: dropped {len(paths)} file{plural(len(paths))} of processes that are gone"
        yield Finding(OK, check.about, text)
    if check.may_rebuild:
        sweep_dir.make()
        rebuild(sweep_dir)
        yield Finding(
            OK, check.about, f"repaired: made results/{sweep_dir.epochs_csv.name} and its others from the run folders"
        )


def _mend(run_dir: RunDir) -> bool:
    """Closes half a record; False where somebody has the journal open after all."""
    try:
        run_dir.open_journal().close()
    except RunInUseError:
        return False
    return True
