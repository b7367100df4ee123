"""A journal damaged in thousands of ways: nothing crashes, no damage passes for a record, and no other run is hidden."""

import random
import shutil
from pathlib import Path

import orjson
import pytest
from killer import outcome, reference

from runmanager.tracking.history import read_run, read_sweep
from runmanager.tracking.journal import Journal, TailReader, last_record, read_journal

BAD_UTF8 = [b"\xff", b"\xc3(", b"\xed\xa0\x80", b"\xf0\x28\x8c\x28", b"\xe2\x80\xa8", b"\xc2\x85", b"\r"]


def flipped_bits(data, draw):
    for _ in range(draw.choice([1, 1, 2, 8])):
        place = draw.randrange(len(data))
        data = data[:place] + bytes([data[place] ^ 1 << draw.randrange(8)]) + data[place + 1 :]
    return data


def swapped_lines(data, draw):
    lines = data.splitlines(keepends=True)
    first, second = draw.sample(range(len(lines)), 2)
    lines[first], lines[second] = lines[second], lines[first]
    return b"".join(lines)


def doubled_lines(data, draw):
    lines = data.splitlines(keepends=True)
    lines.insert(draw.randrange(len(lines) + 1), draw.choice(lines))
    return b"".join(lines)


def spliced_lines(data, draw):
    """The head of one line and the tail of another."""
    lines = data.splitlines(keepends=True)
    head, tail = draw.sample(lines, 2)
    lines[lines.index(head)] = head[: draw.randrange(len(head))] + tail[draw.randrange(len(tail)) :]
    return b"".join(lines)


def nul_bytes(data, draw):
    place = draw.randrange(len(data))
    return data[:place] + b"\0" * draw.choice([1, 7, 4096]) + data[place:]


def bad_text(data, draw):
    place = draw.randrange(len(data))
    return data[:place] + draw.choice(BAD_UTF8) + data[place + draw.randrange(2) :]


def zeroed_block(data, draw):
    place, size = draw.randrange(len(data)), draw.choice([16, 512, 4096])
    block = data[place : place + size]
    return data[:place] + b"\0" * len(block) + data[place + len(block) :]


def giant_line(data, draw):
    place = draw.choice([0, len(data), data.index(b"\n") + 1])
    return (
        data[:place]
        + draw.choice([b"x", b"[", b'{"a":', b'"', b"9"]) * draw.choice([100_000, 1_000_000])
        + b"\n"
        + data[place:]
    )


def cut(data, draw):
    place = draw.randrange(len(data))
    return data[:place] + data[place + draw.randrange(1, 200) :]


def foreign_line(data, draw):
    line = draw.choice([b"null", b"[1]", b'{"seq":1}', b'{"seq":true,"kind":"end"}', b"1e999", b"{}", b'"', b"-"])
    place = draw.choice([place + 1 for place, byte in enumerate(data) if byte == 10])
    return data[:place] + line + b"\n" + data[place:]


MUTATIONS = [
    flipped_bits, swapped_lines, doubled_lines, spliced_lines, nul_bytes, bad_text, zeroed_block, giant_line, cut, foreign_line,
]  # fmt: skip
NEVER_HIDES_MORE = {flipped_bits: 16, swapped_lines: 0, doubled_lines: 0, nul_bytes: 1, bad_text: 2, foreign_line: 0}
"""How many records a mutation may cost at most: a bit that was a line feed costs the line after it as well."""


@pytest.fixture
def done(toy, zygote):
    """A toy that has been trained; its middle run took two attempts."""
    wanted = reference(toy, zygote)
    toy.reset()
    assert zygote.launch(toy, kind="kill", at=80).status == -9
    assert zygote.launch(toy).status == 0
    return toy, wanted


def mutants(data, number):
    draw = random.Random(7)
    for place in range(number):
        mutate = MUTATIONS[place % len(MUTATIONS)]
        mutant = mutate(data, draw)
        if mutant != data:
            yield mutate, mutant


@pytest.mark.parametrize("number", [1000, pytest.param(100_000, marks=pytest.mark.long)])
def test_no_mutant_of_a_journal_crashes_a_reader_or_passes_unseen_or_hides_another_run(done, number):
    toy, _ = done
    run_dir = next(run_dir for run_dir in toy.sweep_dir.runs() if run_dir.number == 2)
    path = run_dir.path / "journal.jsonl"
    whole, originals = path.read_bytes(), {record["seq"]: record for record in read_journal(path).records}
    lines = set(whole.splitlines())
    others = [run for run in read_sweep(toy.sweep_dir).runs if run.number != 2]
    num_mutants = 0
    for mutate, mutant in mutants(whole, number):
        path.write_bytes(mutant)
        content, what = read_journal(path), f"mutant {num_mutants}: {mutate.__name__}"
        assert all(orjson.dumps(record) in lines for record in content.records), what
        assert [record["seq"] for record in content.records] == sorted({record["seq"] for record in content.records}), (
            what
        )
        is_whole = content.records == list(originals.values())
        assert content.num_bad_lines or is_whole or mutate is cut, f"{what}: seen by nobody"
        assert len(originals) - len(content.records) <= NEVER_HIDES_MORE.get(mutate, len(originals)), what
        for record in [*TailReader(path).read(), last_record(path)]:
            assert record is None or orjson.dumps(record) in lines, what
        run = read_run(run_dir, {"score": "max"})
        assert run is None or run.params == {"lr": 0.2}, what
        if num_mutants % 50 == 0:
            assert [run for run in read_sweep(toy.sweep_dir).runs if run.number != 2] == others, what
        num_mutants += 1
    assert num_mutants > 0.95 * number


def test_what_is_appended_to_a_mutant_is_there_afterwards(done):
    toy, _ = done
    path = toy.root / "journal.jsonl"
    whole = next(iter(toy.sweep_dir.runs())).path / "journal.jsonl"
    for mutate, mutant in mutants(whole.read_bytes(), 200):
        path.write_bytes(mutant)
        kept = read_journal(path).records
        for value in (1.0, 2.0, 3.0):
            journal = Journal(path)
            journal.append(("log", {"epoch": None, "metrics": {"later": value}}))
            journal.close()
        found = read_journal(path).records
        later = [record["metrics"]["later"] for record in found if record.get("metrics", {}).get("later")]
        assert later == [1.0, 2.0, 3.0], mutate.__name__
        assert [record for record in kept if record not in found] == [], mutate.__name__


@pytest.mark.slow
@pytest.mark.parametrize("number", [20, pytest.param(1000, marks=pytest.mark.long)])
def test_a_sweep_with_a_mutant_can_be_launched_again(done, zygote, tmp_path, number):
    toy, wanted = done
    saved, faults = Path(shutil.copytree(toy.root, tmp_path / "saved")), []
    path = next(run_dir for run_dir in toy.sweep_dir.runs() if run_dir.number == 2).path / "journal.jsonl"
    for mutate, mutant in mutants(path.read_bytes(), number):
        toy.copy_from(saved)
        path.write_bytes(mutant)
        ended = zygote.launch(toy)
        faults += [f"{mutate.__name__}: {fault}" for fault in not_well(toy, ended, wanted)]
    assert faults == []


def not_well(toy, ended, wanted):
    """What is wrong after a launch of a sweep with a damaged run: damage may cost that run some rows, and no other anything."""
    if ended.status:
        return [f"exit status {ended.status}: {ended.out[-400:]}"]
    got = outcome(toy)
    (damaged,) = [run for run in toy.runs() if run.number == 2] or [None]
    others = [run for run in got["journals"] if run[0] != 2] == [run for run in wanted["journals"] if run[0] != 2]
    faults = [] if others else ["another run has changed"]
    if damaged is None or damaged.status != "completed":
        faults.append(f"the damaged run is {damaged and damaged.status}")
    elif not damaged.num_bad_lines and got != wanted:
        faults.append("the damage is not seen")
    rows = set(got["tables"]["csv"]) - set(wanted["tables"]["csv"])
    return [*faults, *([f"rows that nobody wrote: {rows}"] if rows else [])]
