"""What is known of runs that may be trained together: it travels as JSON, is recorded, and is checked when it is read."""

import json
from dataclasses import asdict, replace

import pytest

from runmanager.launching.fusion import AUTO, OFF, Fusion, Kind, fuse_fault, known_kinds, parse_fuse

PAIRS = Kind("abc", 2, "vmap", "it is twice as fast", 0.25, True, 2)
ALONE = Kind("", 1, "one by one", "its optimizer is LBFGS", 0.0)


def recorded(**changes):
    """A choice as a record has it, with these changes."""
    return {**{name: value for name, value in asdict(PAIRS).items() if name != "key"}, **changes}


def test_it_comes_out_of_json_as_it_went_in():
    fusion = Fusion([PAIRS, ALONE], {3: 0, 0: 1, 7: 0}, ["a note"])
    assert Fusion.from_json(json.loads(json.dumps(fusion.to_json(), allow_nan=False))) == fusion


def test_a_run_is_of_the_kind_that_was_found_for_its_place_in_the_grid():
    fusion = Fusion([PAIRS, ALONE], {3: 0, 0: 1})
    assert (fusion.kind(3), fusion.kind(0), fusion.kind(1)) == (PAIRS, ALONE, None)


def test_only_what_was_measured_is_recorded_and_is_known_again():
    told = replace(PAIRS, key="told", is_measured=False)
    choices = json.loads(json.dumps(Fusion([PAIRS, ALONE, told]).choices()))
    assert known_kinds(choices) == {"abc": PAIRS}


DAMAGED = {
    "no dict": 7,
    "nothing": None,
    "a list": [],
    "empty": {},
    "an unknown field": recorded(color="red"),
    "a text for a size": recorded(size="8"),
    "no size": recorded(size=None),
    "size 0": recorded(size=0),
    "a size below 0": recorded(size=-2),
    "half a size": recorded(size=2.5),
    "a truth for a size": recorded(size=True),
    "a number for an arithmetic": recorded(arithmetic=3),
    "a number for a reason": recorded(reason=5),
    "a text for seconds": recorded(epoch_seconds="x"),
    "seconds below 0": recorded(epoch_seconds=-1.0),
    "a number for a truth": recorded(is_measured=1),
    "what was never measured": recorded(is_measured=False),
    "half a run": recorded(most=1.5),
    "NaN seconds": recorded(epoch_seconds=float("nan")),
}


@pytest.mark.parametrize("how", DAMAGED)
def test_a_damaged_record_is_not_believed_and_those_beside_it_are(how):
    assert known_kinds({"abc": recorded(), "bad": DAMAGED[how]}) == {"abc": PAIRS}


@pytest.mark.parametrize("choices", [None, 7, "text", [], [["abc", {}]]])
def test_a_record_that_is_no_dict_tells_nothing(choices):
    assert known_kinds(choices) == {}


@pytest.mark.parametrize("fuse", ["auto", "off", 1, 8, "8", "08", 10**6])
def test_what_can_be_asked_for(fuse):
    assert fuse_fault(fuse) is None


@pytest.mark.parametrize("fuse", [0, -1, True, 2.0, "0", "-3", "", "x", "AUTO", "²", "8 ", None, [], {}])
def test_anything_else_is_refused_with_the_choices(fuse):
    assert fuse_fault(fuse) == (
        f"fuse={fuse!r} is unknown; give auto, off, or how many runs are trained in one step, as in 8"
    )


def test_a_long_nonsense_is_cut_short():
    assert len(fuse_fault("x" * 10_000)) < 200


def test_what_was_asked_for_is_auto_off_or_a_number_and_one_run_in_a_step_is_off():
    assert [parse_fuse(one) for one in ("auto", "off", "8", 8, 1, "1")] == [AUTO, OFF, 8, 8, OFF, OFF]
