"""What a hyperparameter may be called, what it may hold, and how that is written down.

This is the ground under every room: a grid is checked with it, a run is identified by it, a table is read back with it.
"""

import hashlib
import json
import keyword
import math
import unicodedata
from collections.abc import Mapping, Sequence
from enum import Enum
from typing import Any

ROW_COLUMNS = ("run", "epoch", "loss", "accuracy", "epoch duration", "run duration", "group size")
"""The first columns of a results table, in their order; metrics follow, then the parameters."""

_OF_RUNS = {"status", "error", "overhead_seconds", "peak_memory_mib"}
RESERVED_NAMES = frozenset(ROW_COLUMNS) | {"val_loss", "val_accuracy", "step"} | _OF_RUNS
"""Names that a results table needs for itself."""

# The names of a mark are not JSON keys that a user's dict is likely to have; one that has them all the same is marked itself.
_NAME, _FLOAT, _DICT = "$name", "$float", "$dict"
_NOT_FINITE = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}


class ParameterError(ValueError):
    """A grid, a parameter's name or a parameter's value cannot be used; the message names it."""


def name_fault(name: object) -> str | None:
    """What is wrong with a parameter's name, or None."""
    if not isinstance(name, str):
        return f"the parameter name {name!r} is not a string; write it as one, like 'lr'"
    if name == "loss":
        return (
            "the parameter name 'loss' is a column of the results (to sweep the loss, have criterion=[...] in the grid and "
            "loss=lambda run: run.criterion in the Trainer); use another, like 'criterion'"
        )
    if name in RESERVED_NAMES:
        return f"the parameter name {name!r} is a column of the results; use another, like {_identifier(name)!r}"
    if unicodedata.normalize("NFKC", name) != name:
        return f"the parameter name {name!r} reads as another name in Python; write {_identifier(name)!r}"
    if not name.isidentifier() or keyword.iskeyword(name) or name.startswith("_"):
        return f"the parameter name {name!r} cannot be read as run.{name}; write {_identifier(name)!r}"
    return None


def _identifier(name: str) -> str:
    """The nearest name that can be used."""
    plain = unicodedata.normalize("NFKC", name)
    cleaned = "".join(letter if letter.isalnum() and letter.isascii() else "_" for letter in plain).strip("_")
    if not cleaned.isidentifier():
        cleaned = f"p_{cleaned}".rstrip("_")
    if keyword.iskeyword(cleaned):
        return f"{cleaned}_"
    return f"{cleaned}_param" if cleaned in RESERVED_NAMES else cleaned


def encode(value: object) -> Any:
    """A parameter's value as strict JSON that `decode` turns back; classes, functions and devices by their name.

    Raises:
        ParameterError: the value is neither a JSON value nor something with a name.
    """
    if isinstance(value, Enum):
        return {_NAME: f"{type(value).__module__}.{type(value).__qualname__}.{value.name}"}
    if isinstance(value, Named):
        return {_NAME: str(value)}
    if value is None or isinstance(value, (bool, str)):
        return value if not isinstance(value, str) else str(value)
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else {_FLOAT: not_finite_name(value)}
    if isinstance(value, (list, tuple)):
        return [encode(item) for item in value]
    if isinstance(value, Mapping):
        return _encode_mapping(value)
    if getattr(value, "ndim", None) == 0 and hasattr(value, "item"):  # a numpy or torch scalar
        return encode(value.item())
    return {_NAME: _qualified_name(value)}


def _encode_mapping(value: Mapping[Any, Any]) -> Any:
    for key in value:
        if not isinstance(key, str):
            raise ParameterError(f"the dict {value!r:.200} has the key {key!r}; keys must be strings, as in JSON")
    if any(key.startswith("$") for key in value):
        return {_DICT: [[key, encode(item)] for key, item in value.items()]}
    return {key: encode(item) for key, item in value.items()}


def _qualified_name(value: object) -> str:
    kind = type(value)
    if kind.__module__ == "torch" and kind.__qualname__ in ("device", "dtype"):
        return str(value)
    name = getattr(value, "__qualname__", None)
    if name is None or not callable(value):
        raise ParameterError(
            f"{value!r:.200} ({kind.__qualname__}) cannot be written down; a parameter holds a JSON value, "
            "a class, a function or a device: pass its name and build the object from it in the run"
        )
    if "<lambda>" in name:
        raise ParameterError(f"{value!r} has no name to be recorded by; write a def and pass that")
    return f"{getattr(value, '__module__', None) or 'builtins'}.{name}"


class Named(str):
    """The name of a class, function or device that a parameter was: all that is left of it on disk."""

    __slots__ = ()


def decode(encoded: Any) -> Any:
    """The value behind `encode`; a class, function or device comes back as its name, a tuple as a list."""
    if isinstance(encoded, list):
        return [decode(item) for item in encoded]
    if not isinstance(encoded, dict):
        return encoded
    if len(encoded) == 1:
        ((mark, content),) = encoded.items()
        if mark == _NAME:
            return Named(content)
        if mark == _FLOAT:
            return _NOT_FINITE[content]
        if mark == _DICT:
            return {key: decode(item) for key, item in content}
    return {key: decode(item) for key, item in encoded.items()}


def not_finite_name(value: float) -> str:
    """How strict JSON spells a float that it has no literal for: 'NaN', 'Infinity' or '-Infinity'."""
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"


def number_from_json(value: float | str | None) -> float | None:
    """A recorded number as Python has it: the spellings of `not_finite_name` become floats again."""
    return _NOT_FINITE[value] if isinstance(value, str) else value


def number_to_json(value: float | None) -> float | str | None:
    """A number as strict JSON can hold it."""
    return not_finite_name(value) if isinstance(value, float) and not math.isfinite(value) else value


def params_of(run: object) -> dict[str, Any]:
    """A run's parameters by name; `run` is any named tuple.

    Raises:
        ParameterError: it is no named tuple, or a name or a value cannot be recorded.
    """
    if not isinstance(run, tuple) or not hasattr(run, "_fields"):
        raise ParameterError(f"{run!r:.200} is not a run; pass one of RunBuilder.get_runs(params)")
    params = dict(zip(run._fields, run, strict=True))
    faults = [fault for fault in map(name_fault, params) if fault]
    if faults:
        raise ParameterError("; ".join(faults))
    for name, value in params.items():
        check_value(name, value)
    return params


def check_value(name: str, value: object) -> None:
    """Raises ParameterError, naming the parameter, when its value cannot be recorded."""
    try:
        json.dumps(encode(value))
    except ParameterError as error:
        raise ParameterError(f"{name}: {error}") from None
    except (RecursionError, ValueError) as error:
        raise ParameterError(f"{name}: {type(value).__qualname__} cannot be written as JSON ({error})") from None


_canonical_text = json.JSONEncoder(sort_keys=True, separators=(",", ":"), allow_nan=False).encode


def canonical(params: Mapping[str, Any]) -> str:
    """The parameters as one ASCII string that is equal exactly when they are, whatever their order."""
    encoded = {name: encode(value) for name, value in params.items()}
    text = _canonical_text(encoded)
    return _canonical_text(_in_order(encoded)) if _DICT in text else text


def _in_order(encoded: Any) -> Any:
    """The same, with the pairs of dicts that have keys of ours in the order of their keys."""
    if isinstance(encoded, list):
        return [_in_order(item) for item in encoded]
    if not isinstance(encoded, dict):
        return encoded
    if set(encoded) == {_DICT}:
        return {_DICT: sorted([key, _in_order(item)] for key, item in encoded[_DICT])}
    return {key: _in_order(item) for key, item in encoded.items()}


def identity(params: Mapping[str, Any], replicate: int = 1) -> str:
    """What a run is: the SHA-256 of its parameters, as 64 hexadecimal digits."""
    text = canonical(params) if replicate == 1 else f"{canonical(params)}#{replicate}"
    return hashlib.sha256(text.encode("ascii")).hexdigest()


def varying(params: Sequence[Mapping[str, Any]]) -> list[str]:
    """The names whose value is not the same in all of `params`, in their first order."""
    names = list(dict.fromkeys(name for one in params for name in one))
    return [name for name in names if len({_comparable(one, name) for one in params}) > 1]


def _comparable(params: Mapping[str, Any], name: str) -> str:
    return json.dumps(encode(params[name]), sort_keys=True) if name in params else "absent"


def params_text(params: Mapping[str, Any], separator: str = ", ") -> str:
    """`lr=0.01, batch_size=100`, each value short."""
    return separator.join(f"{name}={short_text(value)}" for name, value in params.items())


def short_text(value: object) -> str:
    """A value for a narrow column: names lose their module, long strings their middle."""
    encoded = encode(value)
    if isinstance(encoded, dict) and _NAME in encoded:
        encoded = encoded[_NAME].rsplit(".", 1)[-1]
    text = encoded if isinstance(encoded, str) else repr(decode(encoded))
    text = "".join(letter if letter.isprintable() else "·" for letter in text)
    return text if len(text) <= 32 else f"{text[:20]}…{text[-10:]}"
