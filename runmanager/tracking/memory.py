"""The most memory that was held while a run was trained."""

import sys
from pathlib import Path

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
_CLEAR_PEAK = "5"


class MemoryPeak:
    """The peak between `begin` and `mib`, in MiB, with all that was there before.

    Where a GPU is used these are the tensors of this process on it; else it is the process itself, with Python, its libraries
    and the data. Runs that are trained at once in one process have one peak together.
    """

    def __init__(self) -> None:
        self._before: int | None = None

    def begin(self) -> None:
        """Begins anew; what was held earlier does not count."""
        for device in _gpus():
            sys.modules["torch"].cuda.reset_peak_memory_stats(device)
        self._before = None if _cleared() else _peak()

    def mib(self) -> float | None:
        """The peak since `begin`, in MiB; None where the system does not tell."""
        on_gpus = sum(sys.modules["torch"].cuda.max_memory_allocated(device) for device in _gpus())
        if on_gpus:
            return float(on_gpus / 2**20)
        now = _peak()
        if now is None or (self._before is not None and now <= self._before):
            return None  # the peak may be that of an earlier run
        return now / 2**20


def _gpus() -> range:
    """Those that this process has used, by number."""
    torch = sys.modules.get("torch")
    return range(torch.cuda.device_count()) if torch is not None and torch.cuda.is_initialized() else range(0)


def _peak() -> int | None:
    """The most bytes that this process has held, since it began or since that was cleared."""
    try:
        lines = _STATUS.read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:")), None)


def _cleared() -> bool:
    """Makes what the process holds now its peak; whether the system lets it."""
    try:
        _CLEAR.write_text(_CLEAR_PEAK)
    except OSError:
        return False
    return True
