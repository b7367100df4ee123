"""Runs that remember which of their parameters were read. Imports nothing heavy."""

from typing import Any


def recorded(run: Any, reads: set[str]) -> Any:
    """The same run; whatever is read from it is added to `reads`. A run that is recorded already goes on being so."""

    class Recording(type(run)):  # type: ignore[misc]
        """A run that is being watched."""

        __slots__ = ()

        def __getattribute__(self, name: str) -> Any:
            if name in tuple.__getattribute__(self, "_fields"):
                reads.add(name)
            return super().__getattribute__(name)

    for name in _READ_ALL:
        setattr(Recording, name, _reading_all(Recording, name, reads))
    Recording.__name__ = Recording.__qualname__ = "Run"
    return Recording(*tuple.__iter__(run))


_READ_ALL = (
    "__iter__",
    "__getitem__",
    "__contains__",
    "__eq__",
    "__ne__",
    "__hash__",
    "__repr__",
    "_asdict",
    "_replace",
)


def _reading_all(kind: type, name: str, reads: set[str]) -> Any:
    """A method of a run that looks at every parameter."""

    def method(self: Any, *arguments: Any, **named: Any) -> Any:
        reads.update(tuple.__getattribute__(self, "_fields"))
        return getattr(super(kind, self), name)(*arguments, **named)

    return method


def values_of(run: Any) -> dict[str, Any]:
    """The parameters of a run, without recording that they were read."""
    return dict(zip(type(run)._fields, tuple.__iter__(run), strict=True))
