"""Every file of a sweep, cut at every byte of its last record: only that record is lost, and what is added later stays."""

import json
import shutil
import struct
from pathlib import Path

import pytest
from killer import NAME, TRAINED, Toy, Zygote, difference, journal_outcome, outcome, reference

from runmanager.tracking.attempt import begin_attempt
from runmanager.tracking.checkpoint import Checkpoints
from runmanager.tracking.errors import CheckpointError
from runmanager.tracking.history import read_run, read_sweep
from runmanager.tracking.journal import Journal, read_journal

EVERY_BYTE = [pytest.param(name, 1, marks=pytest.mark.long) for name in ("sweep.json", "run.json")]
TABLES = (f"results/{NAME}.csv", f"results/{NAME}.json", f"results/{NAME}.runs.csv")


def last_line(data):
    """Where the last line of a file begins."""
    return data.rindex(b"\n", 0, len(data) - 1) + 1 if b"\n" in data[:-1] else 0


@pytest.fixture
def done(toy, zygote):
    """A toy that has been trained, and what it reached."""
    return toy, reference(toy, zygote)


def first_run(toy):
    return next(iter(toy.sweep_dir.runs()))


def test_a_journal_cut_anywhere_in_its_last_record_keeps_all_others_and_what_is_added_later(done):
    toy, _ = done
    path = first_run(toy).path / "journal.jsonl"
    whole = path.read_bytes()
    kept = read_journal(path).records[:-1]
    for size in range(last_line(whole), len(whole) + 1):
        path.write_bytes(whole[:size])
        before = read_journal(path).records
        assert before == (kept if size < len(whole) else before) and before[: len(kept)] == kept
        written = []
        for _ in range(3):
            journal = Journal(path)
            journal.append(("log", {"epoch": None, "metrics": {"later": 1.0}}))
            journal.close()
            found = read_journal(path).records
            written.append(found[-1])
            assert found[: len(kept)] == kept and found[-len(written) :] == written
        assert read_run(first_run(toy), {}).metrics["later"] == 1.0


@pytest.mark.slow
def test_a_journal_cut_anywhere_in_its_last_record_is_completed_by_the_next_launch(done, zygote, tmp_path):
    toy, wanted = done
    whole = (first_run(toy).path / "journal.jsonl").read_bytes()
    saved, faults = Path(shutil.copytree(toy.root, tmp_path / "saved")), []
    for size in range(last_line(whole), len(whole), 17):
        toy.copy_from(saved)
        (first_run(toy).path / "journal.jsonl").write_bytes(whole[:size])
        faults += [f"cut to {size}: {fault}" for fault in launches_well(toy, zygote, wanted)]
    assert faults == []


def launches_well(toy, zygote, wanted):
    """What is wrong with the next three launches: nothing, it should be."""
    for _ in range(2):
        ended = zygote.launch(toy)
        got = outcome(toy)
        if ended.status or got != wanted:
            return [f"exit status {ended.status}: {ended.out[-300:]}; {difference(got, wanted)}"]
    return []


@pytest.mark.slow
@pytest.mark.parametrize("name", TABLES)
def test_a_table_cut_anywhere_in_its_last_record_is_whole_after_the_next_launch(done, zygote, name):
    toy, wanted = done
    table, faults = toy.root / name, []
    whole = table.read_bytes()
    sizes = range(last_line(whole.rstrip(b"]\n")), len(whole), 11)
    for size in sizes:
        table.write_bytes(whole[:size])
        faults += [f"cut to {size}: {fault}" for fault in launches_well(toy, zygote, wanted)]
    assert len(sizes) > 5
    assert faults == []


@pytest.mark.slow
@pytest.mark.parametrize(("name", "every"), [("sweep.json", 370), ("run.json", 60), *EVERY_BYTE])
def test_a_description_cut_anywhere_hides_no_run_and_is_whole_after_the_next_launch(done, zygote, name, every):
    toy, wanted = done
    path = toy.sweep_dir.path / name if name == "sweep.json" else first_run(toy).path / name
    whole, faults = path.read_bytes(), []
    for size in range(0, len(whole), every):
        path.write_bytes(whole[:size])
        before = [(run.number, run.params, run.status) for run in read_sweep(toy.sweep_dir).runs]
        faults += [] if before == [run[:3] for run in wanted["journals"]] else [f"cut to {size}: {before}"]
        faults += [f"cut to {size}: {fault}" for fault in launches_well(toy, zygote, wanted)]
    assert faults == []
    assert name != "sweep.json" or json.loads(path.read_bytes())["numbers"]


@pytest.mark.slow
def test_a_claim_cut_anywhere_keeps_nobody_from_the_run(toy, zygote, tmp_path):
    wanted = reference(toy, zygote)
    toy.reset()
    assert zygote.launch(toy, kind="kill", at=50).status == -9
    run_dir = first_run(toy)
    attempt = begin_attempt(run_dir)
    claim = attempt.claim
    whole = claim.read_bytes()
    attempt.close()
    saved, faults = Path(shutil.copytree(toy.root, tmp_path / "saved")), []
    for size in range(0, len(whole), 45):
        toy.copy_from(saved)
        claim.write_bytes(whole[:size])
        faults += [f"cut to {size}: {fault}" for fault in launches_well(toy, zygote, wanted)]
        faults += [f"cut to {size}: {path.name} is left" for path in run_dir.path.glob("claim-*")]
    assert faults == []


def test_an_empty_heartbeat_of_a_dead_process_keeps_nobody_from_the_run(toy, zygote):
    wanted = reference(toy, zygote)
    toy.reset()
    assert zygote.launch(toy, kind="kill", at=50).status == -9
    first_run(toy).heartbeat.touch()
    assert launches_well(toy, zygote, wanted) == []


@pytest.mark.slow
def test_a_saved_state_cut_anywhere_is_never_loaded_and_the_one_before_is(tmp_path, torch_zygote):
    toy = Toy.make(tmp_path / "project", num_runs=1, num_epochs=4, text=TRAINED)
    wanted = reference(toy, torch_zygote)["journals"]
    toy.reset()
    operations = torch_zygote.launch(toy).operations
    killed_at = max(number for number, name in enumerate(operations, start=1) if "epoch-0004" in name)
    toy.reset()
    assert torch_zygote.launch(toy, kind="kill", at=killed_at).status == -9
    run_dir = first_run(toy)
    record = [one for one in read_journal(run_dir.path / "journal.jsonl").records if one["kind"] == "checkpoint"][-1]
    path = run_dir.checkpoints / record["file"]
    whole = path.read_bytes()
    for size in [*range(0, len(whole), 500), *range(len(whole) - 200, len(whole), 7)]:
        path.write_bytes(whole[:size])
        with pytest.raises(CheckpointError, match=record["file"]):
            Checkpoints(run_dir.checkpoints).load(record)
    saved = Path(shutil.copytree(toy.root, tmp_path / "saved"))
    for size in (0, len(whole) // 2, len(whole) - 1):
        toy.copy_from(saved)
        path.write_bytes(whole[:size])
        ended = torch_zygote.launch(toy)
        assert ended.status == 0, ended.out
        assert "the run goes on from epoch 2" in ended.out
        assert journal_outcome(toy) == wanted


def events_in(path):
    """The records of a TensorBoard event file, as TensorBoard reads them."""
    from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

    return [event.SerializeToString() for event in EventFileLoader(str(path)).Load()]


def last_event(data):
    """Where the last record of an event file begins."""
    place = before = 0
    while place < len(data):
        before, place = place, place + 16 + struct.unpack("<Q", data[place : place + 8])[0]
    return before


@pytest.mark.slow
def test_an_event_file_cut_anywhere_in_its_last_record_keeps_all_others_and_hinders_nobody(toy, tmp_path):
    toy.options = ()
    zygote = Zygote("--tensorboard")
    wanted = reference(toy, zygote)
    toy.reset()
    assert zygote.launch(toy, kind="kill", at=60).status == -9
    (path,) = first_run(toy).path.glob("events.out.tfevents.*")
    whole, events = path.read_bytes(), events_in(path)
    assert len(events) > 2
    saved = Path(shutil.copytree(toy.root, tmp_path / "saved"))
    for size in range(last_event(whole), len(whole)):
        path.write_bytes(whole[:size])
        assert events_in(path) == events[:-1]
        if size % 60 == 0:
            assert launches_well(toy, zygote, wanted) == []
            toy.copy_from(saved)
    zygote.close()
