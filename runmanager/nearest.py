"""The name that was perhaps meant by one that stands for nothing."""

import difflib
from collections.abc import Iterable
from typing import Any

ALIKE = 0.75
"""How much alike two names are that differ in a letter or two, from 0 to 1."""


def nearest(name: Any, choices: Iterable[str]) -> str:
    """The end of a message about a name that is none of these: the one that was perhaps meant. Case does not matter.

    One with the same letters goes before all others. Of names that are not much alike, one that it begins with does: `per_class`
    for `per_class_accuracy`.
    """
    names, text = {choice.lower(): choice for choice in choices}, str(name).lower()
    begins = sorted((one for one in names if text.startswith(f"{one}_")), key=len)[-1:]
    near = [one for one in names if sorted(one) == sorted(text)]
    near = near or difflib.get_close_matches(text, names, n=1, cutoff=ALIKE) or begins
    near = near or difflib.get_close_matches(text, names, n=1)
    return f"; did you mean {names[near[0]]!r}?" if near else ""
