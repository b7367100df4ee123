"""What a check has found, and how it is said."""

from collections.abc import Iterable
from dataclasses import dataclass

from rich.console import Console
from rich.text import Text

OK, WARN, FAIL = "ok", "warn", "FAIL"
_COLOURS = {OK: "green", WARN: "yellow", FAIL: "bold red"}


@dataclass(frozen=True)
class Finding:
    """One line of the doctor's."""

    level: str
    about: str
    text: str
    next_step: str = ""

    def line(self) -> Text:
        """`warn  disk  0.4 GiB free. Next: free some space`."""
        line = Text(f"{self.level:<4}", style=_COLOURS[self.level])
        after = f". Next: {self.next_step}" if self.next_step else ""
        return line.append(f"  {self.about:<14}  {self.text}{after}", style="default")


def print_findings(findings: Iterable[Finding], console: Console) -> bool:
    """Prints each as soon as it is there; returns whether none is a failure."""
    is_well = True
    for finding in findings:
        console.print(finding.line(), soft_wrap=True)
        is_well = is_well and finding.level != FAIL
    return is_well


def size_text(num_bytes: float) -> str:
    """`512 MiB`, `7.5 GiB`."""
    gib = num_bytes / 2**30
    return f"{gib:.1f} GiB" if gib >= 1 else f"{num_bytes / 2**20:.0f} MiB"
