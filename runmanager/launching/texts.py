"""Values of parameters as the command line writes them."""

from collections.abc import Mapping, Sequence
from typing import Any

from runmanager.parameters import ParameterError


def parse_value(text: str, like: Sequence[Any]) -> Any:
    """A value from the command line, of the type that the grid's own values have where it fits one.

    True, False and None are themselves, numbers are numbers, all else is text. A whole number becomes a float among floats.
    """
    if any(isinstance(value, str) for value in like):
        return text
    constants = {"true": True, "false": False, "none": None}
    if text.lower() in constants:
        return constants[text.lower()]
    kinds = (float,) if like and all(isinstance(value, float) for value in like) else (int, float)
    for kind in kinds:
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def parse_set(settings: Sequence[str], params: Mapping[str, Sequence[Any]]) -> dict[str, list[Any]]:
    """`name=v1,v2` from the command line as lists of values.

    Raises:
        ParameterError: one is not of that form, names a parameter twice, or gives text to a parameter that has none.
    """
    parsed: dict[str, list[Any]] = {}
    for setting in settings:
        name, equals, texts = setting.partition("=")
        if not equals or not name:
            raise ParameterError(f"--set {setting}: write --set name=value or --set name=value,value")
        if name in parsed:
            raise ParameterError(f"--set {name} is given twice; list its values in one: --set {name}=v1,v2")
        like = list(params.get(name, ()))
        parsed[name] = [parse_value(text, like) for text in texts.split(",")]
        for value in parsed[name]:
            if isinstance(value, str) and like and not any(isinstance(one, str) for one in like):
                raise ParameterError(f"--set {name}={value}: the grid has {name}={like!r:.100}; give values like those")
    return parsed
