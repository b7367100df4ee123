"""Whether the system has just killed a process because it had no memory left."""

from pathlib import Path

_LOOK_SECONDS = 1.0


class OutOfMemoryKills:
    """Counts such kills, so that one can be told from a kill by somebody."""

    def __init__(self) -> None:
        self._file = _own_events() or Path("/proc/vmstat")
        self._before = self._now = self._count()
        self._looked = 0.0

    def look(self, now: float) -> None:
        """Notes the count, once a second; `now` is by the monotonic clock."""
        if now - self._looked > _LOOK_SECONDS:
            self._looked, self._before, self._now = now, self._now, self._count()

    def has_struck(self) -> bool:
        """Whether there was such a kill in the last second or two."""
        return self._count() > self._before

    def _count(self) -> int:
        try:
            lines = self._file.read_text().splitlines()
        except OSError:  # a system that does not say
            return 0
        return next((int(line.split()[1]) for line in lines if line.startswith("oom_kill ")), 0)


def _own_events() -> Path | None:
    """What the control group of this process counts, where it is in one."""
    try:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:
        return None
    own = [line.removeprefix("0::/") for line in lines if line.startswith("0::/")]
    events = [Path("/sys/fs/cgroup") / path / "memory.events" for path in own]
    return next((path for path in events if path.is_file()), None)
