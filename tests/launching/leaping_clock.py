"""A driver's clock for tests of limits: no limit is reached on a slow machine, and none is waited for."""

import time
from pathlib import Path
from types import SimpleNamespace

HANGS = "Path('hangs').write_text(str(os.getpid()))"
"""What a run does just before it hangs; it needs os and Path."""

_AHEAD = 1_000  # seconds
_LOOKS = 20  # enough for the driver to have read, before it reads the clock, what was written before the run hung


class LeapingClock:
    """Real time, but far ahead as long as a run's process hangs."""

    def __init__(self, project: Path) -> None:
        self._mark, self._looks = project / "hangs", 0

    def monotonic(self) -> float:
        self._looks = self._looks + 1 if self._hangs() else 0
        return time.monotonic() + (_AHEAD if self._looks > _LOOKS else 0)

    def _hangs(self) -> bool:
        try:
            return Path("/proc", str(int(self._mark.read_text()))).exists()
        except (OSError, ValueError):  # none has hung, or it is just saying so
            return False


def leap(project: Path, monkeypatch) -> None:
    """Gives the driver of the launches to come, in this process and in its forks, such a clock."""
    clock = LeapingClock(project)
    monkeypatch.setattr("runmanager.launching.driver.time", SimpleNamespace(monotonic=clock.monotonic))
