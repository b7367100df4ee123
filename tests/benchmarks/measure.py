"""What the benchmarks share: interleaved timing, median and spread, and one printed line per measure."""

import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
RECORDS = "RUNMANAGER_BENCHMARK_RECORDS"  # run_all.py names a file here, and makes its table from it
PER_SECOND = {"s": 1.0, "ms": 1e3, "µs": 1e6, "calls": 1.0}


def machine() -> str:
    """The device, and how busy it is."""
    cpu = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").is_file():
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        cpu = next((line.split(": ")[1] for line in lines if line.startswith("model name")), cpu)
    busy = f", load {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else ""
    return f"{cpu}, {os.cpu_count()} cores, {platform.system()}, Python {platform.python_version()}{busy}"


def seconds_of(work: Callable[[], object]) -> float:
    """How long `work` takes."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def interleaved(rounds: int, cases: dict[str, Callable[[], float]]) -> dict[str, list[float]]:
    """What each case returns, once a round, so that a slow moment of the machine falls on all of them.

    Every second round goes backwards, and one round before them is not counted.
    """
    samples: dict[str, list[float]] = {name: [] for name in cases}
    for index in range(-1, rounds):
        for name in list(cases) if index % 2 == 0 else reversed(list(cases)):
            value = cases[name]()
            if index >= 0:
                samples[name].append(value)
    return samples


def beyond(ours: Sequence[float], theirs: Sequence[float]) -> list[float]:
    """What ours costs more, round by round."""
    return [mine - other for mine, other in zip(ours, theirs, strict=True)]


def against(name: str, ours: Sequence[float], theirs: Sequence[float], unit: str) -> str:
    """A comparison: the other's median, and ours as a multiple of it, taken round by round."""
    ratio = statistics.median(mine / other for mine, other in zip(ours, theirs, strict=True))
    return f"{name} {_text(statistics.median(theirs) * PER_SECOND[unit])} {unit} (ours is {_text(ratio)}×)"


def report(name: str, samples: Sequence[float], unit: str, target: float | None = None, versus: str = "") -> None:
    """Prints a measure: median and spread of `samples` (in seconds, or counts), the target beside it."""
    values = sorted(value * PER_SECOND[unit] for value in samples)
    median = statistics.median(values)
    low, high = (values[round(share * (len(values) - 1))] for share in (0.1, 0.9))
    verdict = "for information" if target is None else "reached" if median <= target else "MISSED"
    aim = "none" if target is None else f"{target:g} {unit}"
    found, spread = f"{_text(median)} {unit}", f"{_text(low)}..{_text(high)}"
    print(f"{name}: {found} (p10..p90 {spread}, n={len(values)}); target {aim}: {verdict}", flush=True)
    if versus:
        print(f"    against {versus}", flush=True)
    if os.environ.get(RECORDS):
        with Path(os.environ[RECORDS]).open("a", encoding="utf-8") as file:
            file.write(json.dumps([name, aim, verdict, found, spread, versus]) + "\n")


def _text(value: float) -> str:
    return f"{value:.3g}" if abs(value) < 100 else f"{value:,.0f}"
