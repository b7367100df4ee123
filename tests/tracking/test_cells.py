"""Cells under attack: every value comes back exactly, and a spreadsheet executes none."""

import csv
import io
import json
import math
from typing import Any

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runmanager.tracking.cells import csv_line, from_cell, to_cell
from tests.same_values import same

TRICKY = (
    "",
    " ",
    "'",
    "''",
    "'a",
    '"',
    '"a"',
    '\'"a"',
    "nan",
    "NaN",
    "-nan",
    "inf",
    "Infinity",
    "-inf",
    "None",
    "none",
    "null",
    "NA",
    "True",
    "true",
    "TRUE",
    "False",
    "0",
    "-0",
    "007",
    "1e5",
    "1_000",
    " 1",
    "1 ",
    ".5",
    "5.",
    "0x10",
    "١٢",
    "１",
    "=1+1",
    "-1",
    "-x",
    "+x",
    "@x",
    "\t=1",
    "\r=1",
    " =1+1",
    "\xa0=1",
    "＝1",
    "=cmd|' /C calc'!A0",
    "[",
    "[1]",
    "{",
    '{"a":1}',
    '{"$name":"x"}',
    "[NaN]",
    "a,b",
    'a"b',
    "a\nb",
    "a\rb",
    "a\r\nb",
    "\n",
    "\0",
    "a\0b",
    "\x1b[31m",
    "\x85",
    "\u2028",
    "\ufeff",
    "\ud800",
    "x\udfff",
    "😀",
    "../../etc/passwd",
    "a\\b",
    "x" * 10_000,
)
# What a reader may mistake for something else is far likelier from these letters than from all of Unicode.
LOOKALIKES = st.text("0123456789eE+-._xXnNaAiIfFtTrRuUlLsS '\"[]{}:,=@\t\n", max_size=8)
TEXT = LOOKALIKES | st.text(max_size=20) | st.sampled_from(TRICKY)
PLAIN = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | TEXT
VALUES = st.recursive(
    PLAIN, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3), max_leaves=6
)


@pytest.mark.parametrize("text", TRICKY)
def test_a_text_that_looks_like_something_else_comes_back_as_itself(text: str) -> None:
    assert same(from_cell(to_cell(text)), text)


@settings(max_examples=500, deadline=None)
@given(VALUES)
def test_any_value_comes_back_exactly_from_its_cell(value: Any) -> None:
    assert same(from_cell(to_cell(value)), value)


@settings(max_examples=300, deadline=None)
@given(VALUES)
def test_a_cell_is_one_line_of_text_that_utf8_holds_and_is_never_empty(value: Any) -> None:
    cell = to_cell(value)
    assert cell
    assert len(cell.splitlines()) == 1
    cell.encode("utf-8")


@settings(max_examples=300, deadline=None)
@given(st.lists(TEXT, min_size=1, max_size=5))
def test_cells_come_back_from_a_csv_line_by_any_reader(texts: list[str]) -> None:
    cells = ["1", *map(to_cell, texts)]  # a table's rows begin with the run's number
    line = csv_line(cells)
    assert next(csv.reader(io.StringIO(line, newline=""))) == cells
    frame = pd.read_csv(io.StringIO(line), header=None, dtype=str, keep_default_na=False)
    assert [from_cell(cell) for cell in frame.iloc[0]] == [1, *texts]


@settings(max_examples=300, deadline=None)
@given(TEXT)
def test_no_text_reaches_a_spreadsheet_as_a_formula(text: str) -> None:
    assert to_cell(text).lstrip()[:1] not in ("=", "+", "-", "@", "\t", "\r", "＝", "＋", "－", "＠")


@pytest.mark.parametrize(
    ("number", "cell"),
    [(-1, "-1"), (-0.5, "-0.5"), (1e-05, "1e-05"), (0, "0"), (10**30, "1" + "0" * 30), (-math.inf, "-inf")],
)
def test_a_number_is_never_escaped(number: float, cell: str) -> None:
    assert to_cell(number) == cell


def test_plain_words_stand_as_they_are_for_other_readers() -> None:
    for word in ("adam", "relu6", "a b", "cosine/warm", "ünï", "3x3"):
        assert to_cell(word) == word


def test_lists_and_dicts_are_json_for_other_readers() -> None:
    assert json.loads(to_cell([1, "a", None])) == [1, "a", None]
    assert json.loads(to_cell({"b": [True]})) == {"b": [True]}


def test_nan_inside_a_list_is_strict_json_and_comes_back() -> None:
    cell = to_cell([math.nan, -math.inf])
    json.loads(cell, parse_constant=pytest.fail)
    assert same(from_cell(cell), [math.nan, -math.inf])


def test_a_dict_that_imitates_a_mark_comes_back_as_the_dict() -> None:
    for imitation in (
        {"$name": "x"},
        {"$float": "NaN"},
        {"$dict": []},
        {"$dict": [["a", 1]]},
        {"$name": 1, "a": 2},
        [{"$float": 3}],
    ):
        assert same(from_cell(to_cell(imitation)), imitation)
