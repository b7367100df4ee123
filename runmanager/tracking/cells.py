"""CSV cells that hold any value: read back exactly here, as plain numbers and text elsewhere, and never run by a spreadsheet.

Numbers, True, False and None stand as they are, lists and dicts as JSON. A string stands as it is, unless it would be taken for
something else (a number, a formula, JSON); then an apostrophe goes before it, as spreadsheets do. A string that one line of text
cannot hold follows the apostrophe as JSON. An empty cell means that there is no value.
"""

import csv
import io
import json
import re
from collections.abc import Iterable
from typing import Any

from runmanager.parameters import decode, encode

_FORMULA = re.compile(r"\s*[=+\-@＝＋－＠]")  # what spreadsheets execute
_NEEDS_JSON = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
_CONSTANTS = {"None": None, "True": True, "False": False}
_READ_AS_CONSTANTS = {"none", "true", "false"}  # in any case, by pandas


def to_cell(value: object) -> str:
    """A value as a cell."""
    if isinstance(value, float):
        return repr(float(value))
    encoded = encode(value)
    if isinstance(encoded, str):
        return _text_cell(encoded)
    if isinstance(encoded, dict) and set(encoded) == {"$name"}:
        return _text_cell(encoded["$name"])
    if isinstance(encoded, (list, dict)):
        plain = decode(encoded)
        return repr(plain) if isinstance(plain, float) else json.dumps(encoded)
    return str(encoded)


def _text_cell(text: str) -> str:
    if text.startswith('"') or _NEEDS_JSON.search(text):
        return "'" + json.dumps(text)
    is_odd = text == "" or text[0] in "'[{" or text.lower() in _READ_AS_CONSTANTS
    if is_odd or _FORMULA.match(text) or not isinstance(_plain(text), str):
        return "'" + text
    return text


def from_cell(cell: str) -> Any:
    """The value of a cell that is not empty."""
    if cell.startswith("'"):
        return json.loads(cell[1:]) if cell.startswith("'\"") else cell[1:]
    return _plain(cell)


def _plain(cell: str) -> Any:
    if cell in _CONSTANTS:
        return _CONSTANTS[cell]
    for read in (int, float):
        try:
            return read(cell)
        except ValueError:
            continue
    if cell.startswith(("[", "{")):
        try:
            return decode(json.loads(cell))
        except ValueError:
            return cell
    return cell


def csv_line(cells: Iterable[str]) -> str:
    """Cells as one CSV line, with its line feed."""
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerow(cells)
    return buffer.getvalue()
