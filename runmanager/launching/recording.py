"""Runs that remember which of their parameters were read."""

from typing import Any

from runmanager.space.grid import Run


def recorded(run: Run, reads: set[str]) -> Run:
    """The same run; whatever is read from it is added to `reads`."""

    class Recording(type(run)):  # type: ignore[misc]
        """A run that is being watched."""

        __slots__ = ()

        def __getattribute__(self, name: str) -> Any:
            if name in tuple.__getattribute__(self, "_fields"):
                reads.add(name)
            elif name in ("_asdict", "_replace"):
                reads.update(tuple.__getattribute__(self, "_fields"))
            return super().__getattribute__(name)

        def __iter__(self) -> Any:
            reads.update(tuple.__getattribute__(self, "_fields"))
            return super().__iter__()

        def __getitem__(self, index: Any) -> Any:
            reads.update(tuple.__getattribute__(self, "_fields"))
            return super().__getitem__(index)

    Recording.__name__ = Recording.__qualname__ = "Run"
    return Recording(*tuple(run))


def covering(runs: list[Run]) -> tuple[list[Run], list[Run]]:
    """A few runs that show each value of each parameter, and the others; both in the runs' order."""
    seen: set[tuple[int, str]] = set()
    first: list[Run] = []
    rest: list[Run] = []
    for run in runs:
        values = {(place, repr(value)) for place, value in enumerate(run)}
        (rest if values <= seen else first).append(run)
        seen |= values
    return first, rest
