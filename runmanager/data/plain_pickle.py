"""The plain values in a pickled file, read without unpickling: no word in the file calls or imports anything.

A pickle is a program for a small machine. This one knows the words that make numbers, texts, lists, tuples, dictionaries and
numpy's arrays of bytes, all as values of its own, and refuses the others.
"""

import pickletools
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

_ARRAY, _KIND, _ENCODE, _EMPTY = "array", "kind", "encode", "empty"
_KNOWN = {
    **{f"{module} _reconstruct": _ARRAY for module in ("numpy.core.multiarray", "numpy._core.multiarray")},
    "numpy ndarray": "ndarray",
    "numpy dtype": _KIND,
    "_codecs encode": _ENCODE,  # how newer Pythons put bytes into old pickles
    "__builtin__ bytes": _EMPTY,  # and how they put none
}
_VALUES = {
    *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
    *("STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"),
    *("BINBYTES", "SHORT_BINBYTES", "BINBYTES8"),
}
_CONSTANTS: dict[str, Any] = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_MARK = object()


class NotPlainError(ValueError):
    """A pickled file holds what is no plain value, or is damaged."""


class _Word:
    """One of the few names that a file may mention."""

    def __init__(self, name: str) -> None:
        self.name = name


class _Made:
    """An array, or the kind of its numbers, before and after it is filled."""

    def __init__(self, kind: str, arguments: tuple[Any, ...]) -> None:
        self.kind, self.arguments = kind, arguments
        self.state: tuple[Any, ...] = ()


def plain_values(data: bytes) -> Any:
    """The one value that a pickle makes; texts of Python 2 become str, arrays of bytes (uint8) become arrays.

    Raises:
        NotPlainError: it is something else, or is damaged.
    """
    machine = _Machine()
    try:
        for opcode, argument, _ in pickletools.genops(data):
            machine.do(opcode.name, argument)
        (value,) = machine.stack
        return _finished(value)
    except NotPlainError:
        raise
    except (ValueError, IndexError, KeyError, TypeError, AttributeError, RecursionError, MemoryError) as error:
        raise NotPlainError(
            f"it is no whole pickle of plain values ({type(error).__name__}: {error!s:.100})"
        ) from error


class _Machine:
    """The stack of values, and those that were put aside."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self._aside: dict[int, Any] = {}

    def do(self, name: str, argument: Any) -> None:
        """Does one word."""
        if name in _VALUES:
            self.stack.append(argument)
        elif name in _CONSTANTS:
            self.stack.append(_CONSTANTS[name])
        elif name in ("PUT", "BINPUT", "LONG_BINPUT"):
            self._aside[argument] = self.stack[-1]
        elif name in ("GET", "BINGET", "LONG_BINGET"):
            self.stack.append(self._aside[argument])
        elif name not in ("PROTO", "FRAME", "STOP"):
            self._other(name, argument)

    def _other(self, name: str, argument: Any) -> None:
        if name == "GLOBAL":
            self.stack.append(_word(argument))
        elif name in _WORDS:
            _WORDS[name](self)
        else:
            raise NotPlainError(f"it has the word {name}, which makes no plain value")

    def _marked(self) -> list[Any]:
        """What came since the last mark."""
        place = len(self.stack) - 1
        while self.stack[place] is not _MARK:
            place -= 1
            if place < 0:
                raise IndexError("a mark is missing")
        found = self.stack[place + 1 :]
        del self.stack[place:]
        return found

    def mark(self) -> None:
        """Begins a list of values."""
        self.stack.append(_MARK)

    def memoize(self) -> None:
        """Puts the last value aside under the next number."""
        self._aside[len(self._aside)] = self.stack[-1]

    def make_list(self) -> None:
        """Makes a list of what was marked."""
        self.stack.append(self._marked())

    def make_tuple(self) -> None:
        """Makes a tuple of what was marked."""
        self.stack.append(tuple(self._marked()))

    def make_dict(self) -> None:
        """Makes a dictionary of what was marked."""
        self.stack.append(_pairs(self._marked()))

    def last_as_tuple(self, size: int) -> None:
        """Makes a tuple of the last few values."""
        last = tuple(self.stack[-size:])
        if len(last) != size:
            raise IndexError("a tuple lacks a value")
        self.stack[-size:] = [last]

    def append(self, values: list[Any]) -> None:
        """Adds to the list that is now last."""
        if type(self.stack[-1]) is not list:
            raise NotPlainError(f"it adds to a {type(self.stack[-1]).__name__} as to a list")
        self.stack[-1].extend(values)

    def set_items(self, values: list[Any]) -> None:
        """Adds to the dictionary that is now last."""
        if type(self.stack[-1]) is not dict:
            raise NotPlainError(f"it adds to a {type(self.stack[-1]).__name__} as to a dictionary")
        self.stack[-1].update(_pairs(values))

    def stack_global(self) -> None:
        """A name whose parts are the last two texts."""
        name, module = self.stack.pop(), self.stack.pop()
        self.stack.append(_word(f"{module} {name}"))

    def reduce(self) -> None:
        """What a call would make; nothing is called."""
        arguments, word = self.stack.pop(), self.stack.pop()
        if not isinstance(word, _Word) or type(arguments) is not tuple:
            raise NotPlainError("it calls what is no name")
        if word.name == _ENCODE:
            text, encoding = arguments
            if type(text) is not str or encoding not in ("latin1", "latin-1"):
                raise NotPlainError(f"it encodes a {type(text).__name__} as {encoding!r:.20}")
            self.stack.append(text.encode("latin-1"))
        elif word.name == _EMPTY:
            self.stack.append(b"")
        else:
            self.stack.append(_Made(word.name, arguments))

    def build(self) -> None:
        """Gives an array, or the kind of its numbers, its state."""
        state, made = self.stack.pop(), self.stack[-1]
        if not isinstance(made, _Made) or type(state) is not tuple:
            raise NotPlainError("it fills what is no array")
        made.state = state


_WORDS: dict[str, Callable[[_Machine], None]] = {
    "MARK": _Machine.mark,
    "MEMOIZE": _Machine.memoize,
    "EMPTY_LIST": lambda machine: machine.stack.append([]),
    "EMPTY_DICT": lambda machine: machine.stack.append({}),
    "EMPTY_TUPLE": lambda machine: machine.stack.append(()),
    "LIST": _Machine.make_list,
    "TUPLE": _Machine.make_tuple,
    "DICT": _Machine.make_dict,
    "TUPLE1": lambda machine: machine.last_as_tuple(1),
    "TUPLE2": lambda machine: machine.last_as_tuple(2),
    "TUPLE3": lambda machine: machine.last_as_tuple(3),
    "APPEND": lambda machine: machine.append([machine.stack.pop()]),
    "APPENDS": lambda machine: machine.append(machine._marked()),
    "SETITEM": lambda machine: machine.set_items([machine.stack.pop(), machine.stack.pop()][::-1]),
    "SETITEMS": lambda machine: machine.set_items(machine._marked()),
    "STACK_GLOBAL": _Machine.stack_global,
    "REDUCE": _Machine.reduce,
    "BUILD": _Machine.build,
}


def _word(name: str) -> _Word:
    if name not in _KNOWN:
        raise NotPlainError(f"it names {name.replace(' ', '.')!r:.80}, which is not read from a file")
    return _Word(_KNOWN[name])


def _pairs(values: list[Any]) -> dict[Any, Any]:
    keys = values[::2]
    if len(values) % 2 or not all(isinstance(key, (str, bytes, int)) for key in keys):
        raise NotPlainError("it has a dictionary whose keys are no texts or numbers")
    return dict(zip(keys, values[1::2], strict=True))


def _finished(value: Any) -> Any:
    """A dictionary with its arrays made, or any other value that holds none."""
    if isinstance(value, _Word) or value is _MARK:
        raise NotPlainError("it has a name that stands for no value")
    if isinstance(value, dict):
        return {key: one if isinstance(one, dict) else _finished(one) for key, one in value.items()}
    return _array(value) if isinstance(value, _Made) else value


def _array(made: _Made) -> NDArray[np.uint8]:
    """The array that a file describes by its version, shape, kind, order and bytes."""
    if made.kind != _ARRAY or len(made.state) != 5:
        raise NotPlainError("it has an array that is not filled")
    _, shape, kind, is_by_column, raw = made.state
    if not isinstance(kind, _Made) or kind.kind != _KIND or kind.arguments[0] not in ("u1", b"u1"):
        raise NotPlainError("it has an array of other numbers than bytes")
    if type(shape) is not tuple or not all(type(size) is int and size >= 0 for size in shape):
        raise NotPlainError(f"it has an array of the shape {shape!r:.60}")
    content = raw.encode("latin-1") if isinstance(raw, str) else bytes(raw)
    if len(content) != int(np.prod(shape, dtype=object)):
        raise NotPlainError(f"it has an array {list(shape)} of {len(content):,} bytes")
    return np.frombuffer(content, np.uint8).reshape(shape, order="F" if is_by_column else "C")
