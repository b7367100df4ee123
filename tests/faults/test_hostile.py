"""Hostile names and values of parameters: they come back exactly as they were, or are refused when they are declared.

5,000 are drawn by hypothesis, always the same ones, or 2,000 unless RUNMANAGER_LONG=1 is set. Every value becomes a run on disk
and is read back in all the ways that there are.
"""

import csv
import json
import math
import os
import random
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from runmanager import RunBuilder, RunManager, load_results
from runmanager.parameters import ParameterError, decode, encode, identity
from runmanager.tracking.history import read_sweep
from runmanager.tracking.run_dir import SweepDir

NUM_VALUES, NUM_NAMES = (4_000, 1_000) if os.environ.get("RUNMANAGER_LONG") == "1" else (1_500, 500)
NUM_IN_SWEEP = 250
WORDS = [
    "", " ", "  x", "x ", "\t", "\n", "\r", "\r\n", "a\nb", "a\rb", "\0", "a\0b", "\x1b[31m", "\x7f", "\x85", "\xa0", "/", "\\",
    "..", ".", "../../etc/passwd", "/etc/passwd", "..\\..\\x", "a/b", "~", "~root", "$HOME", "$(touch canary)", "`touch canary`",
    ";touch canary", "-rf", "--fresh", "-", "--", "CON", "NUL", "aux", "com1.txt", ".hidden", ".lock", "sweep.json", "a,b", '"',
    "'", '""', "'\"", "''", '"a"', "'[1]", "[1]", "[1", "{}", '{"a": 1}', "=1+1", "=cmd|' /C calc'!A0", "+1", "@x", "-1", "1",
    "1.0", "01", "1_000", "1e5", "1e400", "-0.0", "0x10", "nan", "NaN", "inf", "-inf", "Infinity", "None", "none", "null", "NULL",
    "N/A", "NA", "n/a", "#N/A", "True", "true", "TRUE", "False", "false", "\u2028", "\u2029", "a\u2028b", "\ufeff",
    "\u202eevil\u202c", "\u200b", "e\u0301", "é", "ﬁ", "K", "\ud800", "a\udcffb", "\udfff\ud800",
    "😀", "👩‍👩‍👧", "\U0010ffff", "\ufffe",
    "١٢", "½", "＝1", "$name", "$float", "$dict", "lambda x: x", "%s", "{0}", "a" * 255, "ä" * 300, "x" * 1_000,
    "😀" * 300, "\0" * 300,
    "x,\n\"" * 100,
]  # fmt: skip
HUGE = ["y" * 1_000_000, "\u2028" * 300_000, ",\n'\"" * 250_000, "\ud800" * 200_000, "9" * 100_000]
NUMBERS = [
    0, 1, -1, 2**31, 2**53, 2**53 + 1, 2**63 - 1, 2**63, -(2**63) - 1, 2**64, 10**100, 10**4_000, 0.0, -0.0, 1.0, 0.1, 1e-5, 5e-324,
    1e308, 1e400, -1e400, math.nan, 2.0**53 + 2, 0.1 + 0.2, 1e22, 1e23, 123456789012345680.0, True, False, None,
]  # fmt: skip
REFUSED = [
    b"",
    b"bytes",
    {1, 2},
    frozenset(),
    1j,
    object(),
    lambda: 0,
    range(3),
    bytearray(b"x"),
    {1: 2},
    {None: 1},
    [b"x"],
    {"a": {2: 3}},
]


def strings(longest=30):
    return st.one_of(st.sampled_from(WORDS), st.text(st.characters(exclude_categories=()), max_size=longest))


scalars = st.one_of(
    strings(),
    st.sampled_from(NUMBERS),
    st.integers(),
    st.floats(width=64),
    st.floats(width=32),
    st.booleans(),
    st.none(),
)
nested = st.recursive(
    scalars,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4), st.dictionaries(strings(8), inner, max_size=4), st.tuples(inner, inner)
    ),
    max_leaves=6,
)


def draw(strategy, number):
    """So many different examples, always the same."""
    drawn = {}

    @settings(
        max_examples=4 * number, derandomize=True, database=None, phases=[Phase.generate], deadline=None,
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(st.lists(strategy, min_size=10, max_size=10, unique_by=key))
    def collect(examples):
        drawn.update((key(example), example) for example in examples)
        if len(drawn) >= number:
            raise KeyboardInterrupt  # which ends the drawing at once

    with pytest.raises(KeyboardInterrupt):
        collect()
    return list(drawn.values())[:number]


def plain(value):
    """What a value is once it was JSON: tuples are lists."""
    if isinstance(value, (list, tuple)):
        return [plain(one) for one in value]
    if isinstance(value, dict):
        return {key: plain(one) for key, one in value.items()}
    return value


def key(value):
    """Equal exactly when two values are the same configuration, apart from how `runmanager` tells: types and signs count."""
    value = plain(value)
    if isinstance(value, list):
        return ("list", *map(key, value))
    if isinstance(value, dict):
        return ("dict", *sorted(((name, key(one)) for name, one in value.items()), key=lambda item: item[0]))
    return (type(value).__name__, repr(value))


def same(got, wanted):
    """Whether they are the same, in a table of pandas too, where numbers of one column share a type."""
    return key(got) == key(wanted)


def listing(folder, leave_out=()):
    """All that is below a folder: names, sizes and modification times."""
    found = {}
    for path in Path(folder).rglob("*"):
        if not any(path == one or one in path.parents for one in leave_out):
            status = path.lstat()
            found[str(path)] = (status.st_mode, status.st_size, 0 if path.is_dir() else status.st_mtime_ns)
    return found


@pytest.fixture(scope="module")
def values():
    """So many different values, the huge ones among them, in an order that mixes them."""
    drawn = [*draw(scalars, 3 * NUM_VALUES // 4), *draw(nested, NUM_VALUES // 2)]
    found = {key(value): value for value in [*WORDS, *NUMBERS, *HUGE, *drawn]}
    mixed = list(found.values())[:NUM_VALUES]
    random.Random(0).shuffle(mixed)
    assert len(mixed) == NUM_VALUES
    return mixed


@pytest.fixture
def fenced(project):
    """A project among other things, none of which may change: its neighbours, its parent and the home folder."""
    around = project.root.parent
    (around / "secret").write_text("untouched")
    (around / "etc").mkdir()
    (around / "etc" / "passwd").write_text("untouched")
    (around / "home").mkdir()
    before = listing(around, [project.root])
    cwd = set(os.listdir(project.root))
    yield project
    assert listing(around, [project.root]) == before
    assert set(os.listdir(project.root)) - cwd <= {"runs", "results"}
    assert not list(around.rglob("canary"))


def rows_as_recorded(values):
    """What `runs` must hold: number and value."""
    return [(number, key(value)) for number, value in enumerate(values, start=1)]


def read_in_every_way(root, name):
    """The value of each run by its number, as each reader has it."""
    sweep = SweepDir(root, name)
    runs = read_sweep(sweep).runs
    for run in runs:
        assert (run.status, len(run.rows), run.num_bad_lines) == ("completed", 1, 0)
    yield "journal", [(run.number, run.params["value"]) for run in runs]
    yield "run.json", [(run_dir.number, run_dir.read_run()["params"]["value"]) for run_dir in sweep.runs()]
    rows = json.loads(sweep.epochs_json.read_text(), parse_constant=pytest.fail)
    yield "JSON", [(row["run"], decode(row["value"])) for row in rows]
    for runs_table in (False, True):
        frame = load_results(name, runs=runs_table)
        yield f"load_results(runs={runs_table})", list(zip(frame["run"].tolist(), list(frame["value"]), strict=True))
    from runmanager.tracking.cells import from_cell

    for table in (sweep.epochs_csv, sweep.runs_csv):
        with open(table, newline="", encoding="utf-8") as file:
            yield table.name, [(int(row["run"]), from_cell(row["value"])) for row in csv.DictReader(file)]


def wrong(root, name, values):
    """The first value that a reader has not as it was; None when all are right."""
    for reader, read in read_in_every_way(root, name):
        got = dict(read)
        assert len(read) == len(got) == len(values), reader
        for number, value in enumerate(values, start=1):
            if not same(got[number], value):
                return f"{reader}: {value!r:.200} came back as {got[number]!r:.200}"
    return None


def train(root, name, values):
    manager = RunManager(name, root=root, tensorboard=False, quiet=True)
    for run in RunBuilder.get_runs({"value": values}):
        manager.begin_run(run)
        manager.begin_epoch()
        manager.log(score=1.0)
        manager.end_epoch()
        manager.end_run()
        manager.forget()
    manager.close()


def test_thousands_of_values_come_back_exactly_from_every_file(fenced, values):
    csv.field_size_limit(1 << 24)
    ids = {}
    for start in range(0, NUM_VALUES, NUM_IN_SWEEP):
        part = values[start : start + NUM_IN_SWEEP]
        name = f"part_{start}"
        train(fenced.root, name, part)
        assert wrong(fenced.root, name, part) is None
        for run_dir in SweepDir(fenced.root, name).runs():
            assert len(run_dir.path.name) <= 64 and run_dir.path.name.isascii()
            ids[run_dir.path.name[-12:]] = run_dir
    assert len(ids) == NUM_VALUES  # even the first 12 digits are different


def test_values_of_one_kind_in_a_column_keep_their_kind(fenced, values):
    csv.field_size_limit(1 << 24)
    kinds = {
        "text": [value for value in values if type(value) is str],
        "ints": [value for value in values if type(value) is int],
        "floats": [value for value in values if type(value) is float],
        "flags": [True, False],
        "flags_and_numbers": [True, 1, "1", 1.0, False, 0, 0.0, -0.0, "True", None, "None", ""],
        "digits": ["1", "2", "03", "4.0", "nan", "True"],
        "lists": [value for value in values if type(value) is list],
        "dicts": [value for value in values if type(value) is dict],
    }
    for name, part in kinds.items():
        part = part[:150]
        assert part
        train(fenced.root, name, part)
        assert wrong(fenced.root, name, part) is None, name


def test_whole_and_broken_numbers_in_one_column_keep_their_worth(fenced):
    """pandas has one type for a column of numbers; the journal has each as it was."""
    part = [1, 2.5, 3, -0.0, 2**40]
    train(fenced.root, "numbers", part)
    runs = read_sweep(SweepDir(fenced.root, "numbers")).runs
    assert [key(run.params["value"]) for run in runs] == [key(value) for value in part]
    frame = load_results("numbers")
    assert [repr(float(value)) for value in frame["value"]] == [repr(float(value)) for value in part]


def test_different_configurations_have_different_identities_and_equal_ones_the_same(values):
    identities = {identity({"value": value}) for value in values}
    assert len(identities) == NUM_VALUES
    for value in values:
        assert identity({"value": plain(value)}) == identity({"value": value})
        assert identity({"value": decode(json.loads(json.dumps(encode(value))))}) == identity({"value": value})
        assert identity({"a": 1, "value": value}) == identity({"value": value, "a": 1})
        if isinstance(value, dict):
            assert identity({"value": dict(reversed(value.items()))}) == identity({"value": value}), value


def test_names_that_hold_nothing_else_are_identities_of_their_own():
    pairs = [
        {"a": 1, "b": 2},
        {"a": 2, "b": 1},
        {"ab": 12},
        {"a": '1,"b":2'},
        {"a": {"b": 2}},
        {"a": [1, 2]},
        {"a": [[1], 2]},
        {"a": "1"},
    ]
    assert len({identity(one) for one in pairs}) == len(pairs)


@pytest.mark.parametrize("value", REFUSED, ids=[repr(value)[:30] for value in REFUSED])
def test_what_cannot_be_written_down_is_refused_when_it_is_declared(fenced, value):
    with pytest.raises(ParameterError, match=r"^value"):
        RunBuilder.get_runs({"value": [1, value]})
    assert not (fenced.root / "runs").exists()


def deep(depth):
    value = []
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize("value", [10**5_000, deep(100_000), [10**5_000]], ids=["digits", "deep", "digits in a list"])
def test_what_no_reader_could_read_is_refused_when_it_is_declared(fenced, value):
    with pytest.raises(ParameterError, match=r"^value"):
        RunBuilder.get_runs({"value": [value]})
    assert not (fenced.root / "runs").exists()


@pytest.mark.parametrize("depth", [50, 200, 255, 300, 600, 900])
def test_a_deep_value_comes_back_or_is_refused(fenced, depth):
    try:
        RunBuilder.get_runs({"value": [deep(depth)]})
    except ParameterError:
        return
    train(fenced.root, "deep", [deep(depth)])
    assert [json.dumps(value) for _, read in read_in_every_way(fenced.root, "deep") for _, value in read] == [
        json.dumps(deep(depth))
    ] * 7


def test_a_thousand_names_are_columns_or_are_refused(fenced):
    names = [*WORDS, *REFUSED_NAMES, *draw(strings(12), NUM_NAMES // 2), *draw(identifiers, NUM_NAMES)]
    unique = list(dict.fromkeys(names))
    assert len(unique) >= NUM_NAMES
    good = []
    for name in unique:
        try:
            RunBuilder.get_runs({name: [1]})
        except ParameterError as error:
            assert repr(name) in str(error), name  # names lose nothing in the message that says what is wrong
        else:
            good.append(name)
    assert len(good) > NUM_NAMES / 2
    assert not (fenced.root / "runs").exists()
    assert [name for name in good if not name.isidentifier()] == []
    for start in range(0, len(good), 500):
        some = good[start : start + 500]
        (run,) = RunBuilder.get_runs({name: [place] for place, name in enumerate(some)})
        assert [getattr(run, name) for name in some] == list(range(len(some)))
        manager = RunManager(f"names_{start}", root=fenced.root, tensorboard=False, quiet=True)
        manager.begin_run(run)
        manager.begin_epoch()
        manager.log(score=1.0)
        manager.end_epoch()
        manager.end_run()
        manager.close()
        (read,) = read_sweep(SweepDir(fenced.root, f"names_{start}")).runs
        assert list(read.params.items()) == [(name, place) for place, name in enumerate(some)]
        frame = load_results(f"names_{start}")
        assert frame.iloc[0][some].tolist() == list(range(len(some)))
        assert list(frame.columns)[-len(some) :] == some


REFUSED_NAMES = [
    "run",
    "epoch",
    "loss",
    "accuracy",
    "status",
    "error",
    "class",
    "lambda",
    "None",
    "True",
    "_hidden",
    "__class__",
    "ﬁx",
]
identifiers = st.from_regex(r"[^\W\d_]\w{0,11}", fullmatch=True)


@pytest.mark.parametrize(
    "name",
    [
        "..",
        "a/b",
        "/tmp/x",
        "",
        ".",
        "-rf",
        "~",
        "a\0b",
        "a\nb",
        "\u202e",
        "x" * 300,
        ".hidden",
        "a.csv",
        "\ud800",
        "😀",
        "con/../x",
        3,
    ],
)
def test_a_sweep_that_has_the_name_of_no_folder_is_refused(fenced, name):
    with pytest.raises(ValueError, match="sweep name"):
        RunManager(name or "/", root=fenced.root, tensorboard=False, quiet=True)


SWEEP = """\
import json
from pathlib import Path
from runmanager import Sweep
from runmanager.parameters import decode

values = [decode(value) for value in json.loads(Path(__file__).with_name("values.json").read_text())]

def train(run, m):
    m.begin_epoch()
    m.log(score=1.0)
    m.end_epoch()

sweep = Sweep(params={"value": values}, train=train)
"""


def test_hostile_values_pass_through_a_launch_and_its_workers(fenced, values):
    csv.field_size_limit(1 << 24)
    part = [*WORDS, *NUMBERS, HUGE[0], HUGE[3], *[value for value in values if isinstance(value, (list, dict))][:80]]
    (fenced.root / "sweeps" / "values.json").write_text(json.dumps([encode(value) for value in part]))
    fenced.write(SWEEP)
    said = fenced.process("launch", "tiny", "--workers", "2", "--no-tensorboard")
    assert said.status == 0, said.err[-2_000:]
    assert "\x1b" not in said.out and "\0" not in said.out
    assert wrong(fenced.root, "tiny", part) is None
    again = fenced.launch(workers=0)  # which finds the same runs
    assert [run.attempts for run in again.runs] == [1] * len(part)


@pytest.mark.parametrize("text", ["../../x", "$(touch canary)", "-rf", "a\nb", "=1+1", "\u202e", "~", "'", "{}"])
def test_a_hostile_value_on_the_command_line_is_a_text_like_any_other(fenced, text, command):
    fenced.by_function("assert isinstance(run.k, str)\nreturn {'x': 1.0}", params="{'k': ['a']}")
    assert command("launch", "tiny", "--no-tensorboard", "-q", "--set", f"k={text}").status == 0
    (run,) = fenced.history().runs
    assert run.params == {"k": text}
