"""What a bench has found: samples, their median and spread, what they should be, and how that is shown."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

WIDTHS = (50, 22, 22, 10)
"""Of the columns measure, CPU, GPU and target."""

NO_GPU, NOT_THIS = "no GPU here", "not measured"
"""What stands in the other column."""
REACHED, MISSED, NOT_JUDGED, FAILED = "reached", "MISSED", "not judged", "failed"


@dataclass(frozen=True)
class Target:
    """What a measure should be; None where nothing is aimed at."""

    value: float | None = None
    at_least: bool = True

    def text(self, unit: str) -> str:
        """For people."""
        return "" if self.value is None else f"{'≥' if self.at_least else '≤'} {self.value:g}{unit}"

    def verdict(self, value: float) -> str:
        """Whether a value is what it should be."""
        if self.value is None:
            return ""
        return REACHED if (value >= self.value if self.at_least else value <= self.value) else MISSED


@dataclass(frozen=True)
class Line:
    """One measure: a sample a round, in `unit`."""

    title: str
    samples: Sequence[float]
    unit: str = "×"
    cpu: Target = field(default_factory=Target)
    gpu: Target = field(default_factory=Target)
    note: str = ""

    @property
    def median(self) -> float:
        """Of the samples."""
        return statistics.median(self.samples)

    def spread(self) -> tuple[float, float]:
        """From the tenth to the ninetieth of a hundred samples."""
        ordered = sorted(self.samples)
        low, high = (ordered[round(share * (len(ordered) - 1))] for share in (0.1, 0.9))
        return low, high

    def found(self) -> str:
        """Median and spread, for people."""
        if len(self.samples) == 1:
            return f"{short(self.median)}{self.unit}"
        low, high = self.spread()
        return f"{short(self.median)}{self.unit} ({short(low)}..{short(high)})"

    def target(self, device: str) -> Target:
        """What it should be on this kind of device."""
        return self.cpu if device == "cpu" else self.gpu

    def verdict(self, device: str, *, is_quick: bool) -> str:
        """Whether it is what it should be; small data and few rounds cannot tell."""
        verdict = self.target(device).verdict(self.median)
        return NOT_JUDGED if verdict and is_quick else verdict

    def as_text(self, device: str, *, is_quick: bool) -> str:
        """A line of the table, and its note below it."""
        columns = [self.found(), NO_GPU] if device == "cpu" else [NOT_THIS, self.found()]
        cells = [self.title, *columns, self.target(device).text(self.unit)]
        text = f"{row_of(cells)}{self.verdict(device, is_quick=is_quick)}".rstrip()
        return f"{text}\n    {self.note}" if self.note else text

    def as_json(self, device: str, *, is_quick: bool) -> dict[str, Any]:
        """The same for programs."""
        low, high = self.spread()
        target = self.target(device)
        return {
            "measure": self.title,
            "device": device,
            "median": self.median,
            "p10": low,
            "p90": high,
            "n": len(self.samples),
            "unit": self.unit,
            "samples": list(self.samples),
            "target": target.value,
            "at_least": target.at_least if target.value is not None else None,
            "verdict": self.verdict(device, is_quick=is_quick),
            "note": self.note,
        }


def row_of(cells: Sequence[str]) -> str:
    """Cells beneath those of the row above."""
    return "".join(f"{cell:<{width}}  " for cell, width in zip(cells, WIDTHS, strict=True))


def short(value: float) -> str:
    """Three digits."""
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"


def seconds_text(samples: Sequence[float]) -> str:
    """The median of some durations."""
    return f"{short(statistics.median(samples))} s"
