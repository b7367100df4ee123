"""How many workers a machine has room for, and what each may use."""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from runmanager.launching.early import with_source
from runmanager.machine import memory, num_cores

MAX_WORKERS = 1024
"""The most that can be asked for."""

_WORKER_BYTES = 1 << 30  # that a worker with torch and a small network is reckoned to need
_GPU = re.compile(r"\d+|(GPU|MIG)-.+")


class WorkersError(ValueError):
    """The number of workers is none."""


@dataclass(frozen=True)
class Slot:
    """Room for one worker; `environment` is what the worker's gets on top of the driver's."""

    index: int
    environment: dict[str, str]

    def whole_environment(self) -> dict[str, str]:
        """With the driver's."""
        return with_source({**os.environ, **self.environment})


def parse_workers(text: str | int) -> int | None:
    """The number of workers that was asked for; None for 'auto'.

    Raises:
        WorkersError: it is neither a number that can be had nor 'auto'.
    """
    if text == "auto":
        return None
    number = str(text)
    if not (number.isascii() and number.isdigit() and int(number[:9]) <= MAX_WORKERS):
        raise WorkersError(
            f"workers={text!r:.80} is no number of workers; give auto, 0 to train in this process, or up to {MAX_WORKERS}"
        )
    return int(number)


def make_slots(
    workers: int | None,
    num_due: int,
    *,
    environ: Mapping[str, str] | None = None,
    folder: Path = Path("/"),
    cores: int | None = None,
    devices: int = 1,
) -> list[Slot]:
    """The slots for so many runs that are due, at least one.

    The CPU threads of a worker depend on the machine and on what was asked for alone, not on how many runs are left or how
    much memory is free just now: a run that is resumed gets as many as it had, and so the same bits.

    Args:
        workers: how many were asked for; None for one per GPU, or else one per core as far as the memory goes; 0 for none.
            Where runs have several devices, that is one per so many.
        num_due: the number of runs.
        environ: the user's environment.
        folder: where the system's own files are.
        cores: how many may be used, if not as many as the system says.
        devices: how many GPUs, or processes of the CPU, a run has at most.
    """
    environ = os.environ if environ is None else environ
    cores = cores or num_cores(folder)
    gpus = _gpus(environ, folder)
    if workers == 0:
        return []
    all_memory, free_memory = memory(folder)
    most = workers or max(1, (len(gpus) or _at_most(cores, all_memory)) // devices)
    number = most if workers or gpus else _at_most(most, free_memory / devices)
    shared = _unless_set(environ, PYTHONHASHSEED="0", OMP_NUM_THREADS=str(max(1, cores // most)))
    shared["RUNMANAGER_WORKERS"] = str(most)  # a worker shares the machine's memory with so many
    return [Slot(index, {**shared, **_own_gpus(gpus, index, devices)}) for index in range(min(number, max(1, num_due)))]


def _at_most(number: int, num_bytes: float) -> int:
    return int(max(1, min(number, num_bytes // _WORKER_BYTES)))


def _unless_set(environ: Mapping[str, str], **values: str) -> dict[str, str]:
    return {name: value for name, value in values.items() if not environ.get(name)}


def _own_gpus(gpus: list[str], index: int, number: int) -> dict[str, str]:
    """So many for each worker, in turn; or all that there are."""
    own = [gpus[(index * number + place) % len(gpus)] for place in range(min(number, len(gpus)))]
    return {"CUDA_VISIBLE_DEVICES": ",".join(own)} if gpus else {}


def _gpus(environ: Mapping[str, str], folder: Path) -> list[str]:
    """The GPUs that may be used, by number or name. As CUDA has it, the first that is neither ends the list."""
    given = environ.get("CUDA_VISIBLE_DEVICES")
    if given is None:
        try:
            return [str(index) for index in range(len(os.listdir(folder / "proc/driver/nvidia/gpus")))]
        except OSError:
            return []
    gpus: list[str] = []
    for name in map(str.strip, given.split(",")):
        if not _GPU.fullmatch(name):
            break
        gpus.append(name)
    return gpus
