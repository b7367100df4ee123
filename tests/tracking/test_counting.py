"""Which records count when a run took several attempts: each epoch once, and nothing that was left behind."""

import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runmanager.tracking.counting import Counting, counted

Record = dict[str, Any]


def journal(*words: str) -> list[Record]:
    """Records from words: `begin`, `end`, `e3` an epoch, `s7` a step, `c3` a saved state, `log`, `resume<seq>`."""
    records: list[Record] = []
    for seq, word in enumerate(words, 1):
        kinds = {"e": "epoch", "s": "step", "c": "checkpoint"}
        if word.startswith("resume"):
            records.append({"seq": seq, "kind": "resume", "after": int(word.removeprefix("resume"))})
        elif word[0] in kinds and word[1:].isdigit():
            records.append({"seq": seq, "kind": kinds[word[0]], kinds[word[0]]: int(word[1:])})
        else:
            records.append({"seq": seq, "kind": word})
    return records


def seqs(*words: str) -> list[int]:
    return [record["seq"] for record in counted(journal(*words))]


def test_of_one_attempt_all_that_was_recorded_counts() -> None:
    assert seqs("begin", "log", "s1", "e1", "c1", "e2", "note", "end") == [2, 3, 4, 5, 6, 7]


def test_an_attempt_from_nothing_takes_the_place_of_the_one_before_with_its_first_record() -> None:
    assert seqs("begin", "e1", "e2", "begin") == [2, 3]
    assert seqs("begin", "e1", "e2", "begin", "end") == [2, 3]
    for first in ("log", "s1", "e1", "c1", "note"):
        assert seqs("begin", "e1", "e2", "begin", first) == [5]


def test_an_attempt_that_takes_up_a_state_keeps_what_came_before_it_and_drops_what_came_after() -> None:
    assert seqs("begin", "e1", "c1", "s9", "e2", "begin", "resume3", "e2", "c2") == [2, 3, 8, 9]


def test_several_resumes_leave_each_epoch_once() -> None:
    words = ["begin", "e1", "c1", "e2", "c2", "e3"]  # killed
    words += ["begin", "resume5", "e3", "c3", "s1"]
    words += ["begin", "resume10", "e4"]
    words += ["begin", "resume10", "e4", "c4", "end"]
    assert seqs(*words) == [2, 3, 4, 5, 9, 10, 17, 18]


def test_a_state_of_an_older_attempt_that_is_taken_up_after_a_damaged_one_cuts_back_to_itself() -> None:
    assert seqs("begin", "e1", "c1", "e2", "c2", "begin", "resume5", "e3", "c3", "begin", "resume3", "e2") == [2, 3, 12]


@pytest.mark.parametrize("first", ["log", "s1", "e1"])
def test_a_state_that_is_taken_up_counts_again_though_another_attempt_came_between(first: str) -> None:
    """A second attempt began from nothing and died before it saved a state; the third takes up the first's."""
    assert seqs("begin", "e1", "c1", "begin", first, "begin", "resume3", "e2") == [2, 3, 8]


def test_a_log_before_the_state_is_taken_up_does_not_hide_what_is_taken_up() -> None:
    assert seqs("begin", "e1", "c1", "begin", "log", "resume3", "e2")[:2] == [2, 3]


def test_what_no_reader_knows_is_left_out_and_harms_nothing() -> None:
    assert seqs("begin", "e1", "remark", "begin", "remark", "end") == [2]


def test_records_may_come_one_by_one() -> None:
    records = journal("begin", "e1", "c1", "e2", "begin", "resume3", "e2", "e3")
    counting = Counting()
    for number, record in enumerate(records, 1):
        counting.add(record)
        assert counting.records == counted(records[:number])


@st.composite
def histories(draw: st.DrawFn) -> tuple[list[Record], list[int]]:
    """A journal of attempts that each go on from a state that counted, or start over; and the epochs that should count."""
    records: list[Record] = []
    epochs: list[tuple[int, int]] = []  # epoch, seq of its checkpoint

    def add(**fields: Any) -> int:
        records.append({"seq": len(records) + 1, **fields})
        return len(records)

    for _ in range(draw(st.integers(1, 5))):
        add(kind="begin")
        resumes = bool(epochs) and draw(st.booleans())
        if resumes:
            epochs = epochs[: draw(st.integers(1, len(epochs)))]
            add(kind="resume", after=epochs[-1][1])
        for place in range(draw(st.integers(0, 4))):
            if place == 0 and not resumes:
                epochs = []
            add(kind="step", step=1)
            add(kind="epoch", epoch=len(epochs) + 1)
            epochs.append((len(epochs) + 1, add(kind="checkpoint", epoch=len(epochs) + 1)))
    return records, [epoch for epoch, _ in epochs]


@settings(max_examples=200, deadline=None)
@given(histories())
def test_whatever_the_attempts_each_epoch_counts_once_and_in_order(history: tuple[list[Record], list[int]]) -> None:
    records, epochs = history
    assert [record["epoch"] for record in counted(records) if record["kind"] == "epoch"] == epochs


def test_a_run_that_was_resumed_hundreds_of_times_is_counted_in_no_time() -> None:
    words: list[str] = []
    for attempt in range(1, 401):
        words += ["begin", *([f"resume{len(words)}"] if attempt > 1 else []), f"e{attempt}", f"c{attempt}"]
    began = time.process_time()  # other processes may have the machine meanwhile
    kept = counted(journal(*words))
    assert time.process_time() - began < 1
    assert [record["epoch"] for record in kept if record["kind"] == "epoch"] == list(range(1, 401))


def test_a_reader_that_needs_no_steps_keeps_none_and_counts_the_same() -> None:
    records = journal("begin", "e1", "c1", "s1", "begin", "s2", "e1", "begin", "resume3", "s3", "e2")
    counting = Counting(steps=False)
    for record in records:
        counting.add(record)
    assert counting.records == [record for record in counted(records) if record["kind"] != "step"]
