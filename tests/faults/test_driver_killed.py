"""The driver killed with SIGKILL at random moments, and the same command given again until the sweep is done."""

import os
import random
import time
from contextlib import contextmanager

import pytest
import torch  # noqa: F401 (so that the forks have it)
from forked import fork_command
from killer import (
    TRAINED,
    Toy,
    broken_promises,
    completed,
    difference,
    kill_after,
    once_each,
    outcome,
    reference,
    timed,
)


class Killing:
    """Sweep after sweep, each launched and killed until it is done, until there were enough kills."""

    def __init__(self, toy, wanted, launch):
        """`launch(seconds)` launches, kills after that time, and tells how the launch ended, or None where it was killed."""
        self.toy, self.wanted, self.launch = toy, wanted, launch
        self.faults: list[str] = []
        self.num_kills = self.num_sweeps = 0
        self.draw = random.Random(1)

    def go_on(self, num_kills, longest):
        """Kills so often, at moments from the start to `longest`, and finishes the last sweep."""
        while self.num_kills < num_kills:
            self.toy.reset()
            self.num_sweeps += 1
            num_tries = next((number for number in range(1, 60) if self.ends(num_kills, longest)), 60)
            self.faults += ["60 launches did not finish it"] if num_tries == 60 else []
            self.check()
        return self.faults

    def ends(self, num_kills, longest):
        """Whether a launch ended before it was killed."""
        done, num_begun = completed(self.toy), len(self.toy.begun())
        ended = self.launch(self.draw.uniform(0.0, longest) if self.num_kills < num_kills else 60.0)
        self.num_kills += ended is None
        again = done & set(self.toy.begun()[num_begun:])
        self.say([f"trained again: {again}"] if again else [])
        self.say(broken_promises(self.toy))
        self.say([f"exit status {ended.status}: {ended.out[-300:]}"] if ended is not None and ended.status else [])
        return ended is not None

    def check(self):
        """What has to hold once the sweep is done."""
        got = outcome(self.toy)
        self.say([difference(got, self.wanted)] if got != self.wanted else [])
        self.say(once_each(self.toy))

    def say(self, faults):
        self.faults += [f"kill {self.num_kills}, sweep {self.num_sweeps}: {fault}" for fault in faults]


def seconds_of(toy, launch):
    """What an undisturbed launch takes on this machine, at this hour."""
    toy.reset()
    began = time.monotonic()
    assert launch(60.0).status == 0
    return time.monotonic() - began


@contextmanager
def launched(toy, workers):
    """A launch in a fork of this process."""
    words = toy.command("--workers", str(workers))
    process = fork_command(words[words.index("launch") :], toy.root, {**os.environ, "OMP_NUM_THREADS": "1"})
    try:
        yield process
    finally:
        process.close()


@pytest.mark.slow
@pytest.mark.parametrize("num_kills", [20, pytest.param(300, marks=pytest.mark.long)])
@pytest.mark.parametrize("workers", [pytest.param(0, marks=pytest.mark.long), 2])
def test_a_driver_killed_at_random_moments_loses_nothing(tmp_path, zygote, workers, num_kills):
    toy = Toy.make(tmp_path / "project", num_runs=6, num_epochs=4, seconds=0.012)
    wanted = reference(toy, zygote)

    def launch(seconds):
        with launched(toy, workers) as process:
            return kill_after(process, seconds)

    killing = Killing(toy, wanted, launch)
    with timed(f"{num_kills} kills with {workers} workers"):
        faults = killing.go_on(num_kills, seconds_of(toy, launch))
    print(f"{killing.num_kills} kills in {killing.num_sweeps} sweeps")
    assert faults == []


def epochs_lost(toy, num_epochs):
    """What is wrong with the epochs of runs that can be resumed: each is recorded once, and attempts go on after the last."""
    faults = []
    for number, records in toy.journals().items():
        epochs = [record["epoch"] for record in records if record["kind"] == "epoch"]
        if epochs != list(range(1, num_epochs + 1)):
            faults.append(f"run {number} has recorded the epochs {epochs}")
        faults += lost_at_resume(number, records)
    return faults


def lost_at_resume(number, records):
    faults, last = [], 0
    for record in records:
        if record["kind"] == "resume" and record["epoch"] != last:
            faults.append(f"run {number} went on after epoch {record['epoch']} of {last}")
        last = record["epoch"] if record["kind"] == "epoch" else last
    return faults


class KillingTrainers(Killing):
    """The same with runs that save their state after every epoch."""

    num_epochs = 0  # of a run

    def check(self):
        super().check()
        self.say(epochs_lost(self.toy, self.num_epochs))


@pytest.mark.slow
@pytest.mark.parametrize("num_kills", [12, pytest.param(300, marks=pytest.mark.long)])
def test_a_trainer_killed_at_random_moments_loses_only_the_epoch_under_way(tmp_path, torch_zygote, num_kills):
    toy = Toy.make(tmp_path / "project", num_runs=2, num_epochs=6, text=TRAINED)

    def launch(seconds):
        ended = torch_zygote.launch(toy, seconds=seconds)
        return None if ended.status == -9 else ended

    killing = KillingTrainers(toy, reference(toy, torch_zygote), launch)
    killing.num_epochs = 6
    with timed(f"{num_kills} kills of a trainer"):
        faults = killing.go_on(num_kills, seconds_of(toy, launch))
    print(f"{killing.num_kills} kills in {killing.num_sweeps} sweeps")
    assert faults == []


def num_epochs_recorded(toy):
    return sum(record["kind"] == "epoch" for records in toy.journals().values() for record in records)


def killed_soon_after_another_epoch(toy, seconds):
    """Launches in workers, and kills the driver some time after the next epoch."""
    before = num_epochs_recorded(toy)
    with launched(toy, 2) as process:
        while num_epochs_recorded(toy) == before and process.poll() is None:
            time.sleep(0.002)
        return kill_after(process, seconds)


@pytest.mark.slow
@pytest.mark.parametrize("num_kills", [2, pytest.param(60, marks=pytest.mark.long)])
def test_workers_of_a_killed_driver_leave_runs_that_go_on_after_their_last_epoch(
    tmp_path, torch_zygote, num_kills, forked_workers
):
    toy = Toy.make(tmp_path / "project", num_runs=3, num_epochs=30, text=TRAINED)

    def launch(seconds):
        return killed_soon_after_another_epoch(toy, seconds) if seconds < 1 else torch_zygote.launch(toy)

    killing = KillingTrainers(toy, reference(toy, torch_zygote), launch)
    killing.num_epochs = 30
    with timed(f"{num_kills} kills of a driver of trainers"):
        faults = killing.go_on(num_kills, 0.2)
    print(f"{killing.num_kills} kills in {killing.num_sweeps} sweeps")
    assert faults == []
