"""A worker killed at every step of saving its state: the state before always loads, and the run goes on from it."""

import pytest
from killer import TRAINED, Toy, difference, journal_outcome, once_each, reference, timed

from runmanager.tracking.checkpoint import Checkpoints
from runmanager.tracking.journal import read_journal

NUM_EPOCHS = 3
EVERY_STEP = [pytest.param(kind, 1, marks=pytest.mark.long) for kind in ("kill", "half")]


def newest_states(toy):
    """The records of the saved states that each run's journal has, newest first, and where they are kept."""
    for run_dir in toy.sweep_dir.runs():
        records = read_journal(run_dir.path / "journal.jsonl").records
        yield Checkpoints(run_dir.checkpoints), [record for record in records if record["kind"] == "checkpoint"][::-1]


def states_that_do_not_load(toy):
    """The last state of each run, and the one before it while the run has not ended."""
    faults = []
    for checkpoints, records in newest_states(toy):
        for record in records[:1]:
            state = checkpoints.load(record)
            faults += [] if state else [f"{record['file']} is empty"]
    return faults


def goes_on(toy, zygote, wanted):
    """What is wrong with the next launch: it takes up the run after its last recorded epoch, and needs no older state for that."""
    last = {number: max([0, *epochs(records)]) for number, records in toy.journals().items()}
    ended = zygote.launch(toy)
    faults = [f"exit status {ended.status}: {ended.out[-300:]}"] if ended.status or "Warning" in ended.out else []
    for number, records in toy.journals().items():
        resumed = [record["epoch"] for record in records if record["kind"] == "resume"]
        if epochs(records) != list(range(1, NUM_EPOCHS + 1)) or resumed not in ([], [last.get(number)]):
            faults.append(
                f"run {number} had {last.get(number)} epochs, went on after {resumed}, and has {epochs(records)}"
            )
    got = journal_outcome(toy)
    return [*faults, *([difference(got, wanted)] if got != wanted else []), *once_each(toy)]


def epochs(records):
    return [record["epoch"] for record in records if record["kind"] == "epoch"]


def leftovers(toy):
    """Files beside the two states that a run keeps."""
    names = [path.name for path in toy.root.rglob("checkpoints/*")]
    return [f"left: {names}"] if len(names) > 2 or any(name.endswith(".tmp") for name in names) else []


def of_saving(operations, kind):
    """The numbers of the operations that save a state and make it count: those of the states' folder, and the journal's writes."""
    first = next(number for number, name in enumerate(operations) if "checkpoints" in name)
    return [
        number + 1
        for number, name in enumerate(operations)
        if number >= first
        and ("checkpoints" in name or (name.startswith("write") and "journal" in name))
        and (kind == "kill" or name.startswith("write"))
    ]


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "step"), [("kill", 5), ("half", 4), *EVERY_STEP])
def test_a_run_killed_anywhere_in_a_save_goes_on_from_the_state_before(tmp_path, torch_zygote, kind, step):
    toy = Toy.make(tmp_path / "project", num_runs=1, num_epochs=NUM_EPOCHS, text=TRAINED)
    wanted, faults = reference(toy, torch_zygote)["journals"], []
    toy.reset()
    operations = torch_zygote.launch(toy).operations
    numbers = of_saving(operations, kind)[::step]
    assert len(numbers) >= 5
    with timed(f"{kind} at {len(numbers)} of {len(operations)} operations"):
        for number in numbers:
            toy.reset()
            assert torch_zygote.launch(toy, kind=kind, at=number).status == -9
            wrong = [*states_that_do_not_load(toy), *goes_on(toy, torch_zygote, wanted), *leftovers(toy)]
            faults += [f"{kind} at {operations[number - 1]} ({number}): {one}" for one in wrong]
    assert faults == []
