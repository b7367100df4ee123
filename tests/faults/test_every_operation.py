"""A launch killed at its Nth write, fsync, rename, mkdir or new file, for every N: the same command again completes the sweep."""

import itertools
import random
import shutil

import pytest
from killer import NAME, Ended, broken_promises, completed, difference, once_each, outcome, reference, timed

CALLS = ("write", "fsync", "rename", "mkdir", "openat")


def what_is_wrong(toy, wanted, launch):
    """Launches again after a kill; what is not as it should be then, or was not before."""
    faults = broken_promises(toy)
    done, num_begun = completed(toy), len(toy.begun())
    ended = launch()
    if ended.status != 0:
        return [*faults, f"exit status {ended.status}: {ended.out[-300:]}"]
    got = outcome(toy)
    faults += [difference(got, wanted)] if got != wanted else []
    again = done & set(toy.begun()[num_begun:])
    return [*faults, *([f"trained again: {again}"] if again else []), *once_each(toy)]


def killed_everywhere(toy, zygote, wanted, kind, step):
    """Kills at every so many operations, or within as many writes; returns what was wrong, and how often it was killed."""
    toy.reset()
    operations = zygote.launch(toy).operations
    faults, num_kills = [], 0
    points = [point for point in enumerate(operations, start=1) if kind == "kill" or point[1].startswith("write")]
    for number, name in points[::step]:
        toy.reset()
        ended = zygote.launch(toy, kind=kind, at=number)
        num_kills += ended.status == -9
        wrong = what_is_wrong(toy, wanted, lambda: zygote.launch(toy)) if ended.status == -9 else []
        wrong += [f"exit status {ended.status}: {ended.out[-300:]}"] if ended.status > 0 else []
        faults += [f"{kind} at {name} ({number}): {one}" for one in wrong]
    return faults, num_kills


EVERY = [pytest.param("kill", 1, marks=pytest.mark.long), pytest.param("half", 1, marks=pytest.mark.long)]


@pytest.mark.parametrize(("kind", "step"), [("kill", 3), ("half", 4), *EVERY])
@pytest.mark.slow
def test_a_launch_killed_at_any_operation_is_completed_by_the_same_command(toy, zygote, kind, step):
    wanted = reference(toy, zygote)
    with timed(f"{kind} at every operation, or every {step}th"):
        faults, num_kills = killed_everywhere(toy, zygote, wanted, kind, step)
    assert num_kills * step > {"kill": 90, "half": 45}[kind]
    assert faults == []


def killed_twice(toy, zygote, draw):
    """A launch that is killed, and the next one too; the operations at which that was."""
    toy.reset()
    first, second = draw.randint(1, 110), draw.randint(1, 60)
    zygote.launch(toy, kind=draw.choice(["kill", "half"]), at=first)
    zygote.launch(toy, kind=draw.choice(["kill", "half"]), at=second)
    return f"killed at {first} and then at {second}"


@pytest.mark.parametrize("num_pairs", [12, pytest.param(600, marks=pytest.mark.long)])
def test_a_launch_that_goes_on_may_be_killed_as_well(toy, zygote, num_pairs):
    wanted, draw, faults = reference(toy, zygote), random.Random(3), []
    with timed(f"{num_pairs} launches killed twice"):
        for _ in range(num_pairs):
            point = killed_twice(toy, zygote, draw)
            faults += [f"{point}: {one}" for one in what_is_wrong(toy, wanted, lambda: zygote.launch(toy))]
    assert faults == []


def strace_works(toy):
    """Whether processes may be traced here."""
    if shutil.which("strace") is None:
        return False
    process = toy.process(
        "--dry-run", "--workers", "0", before=("strace", "-f", "-qq", "-o", "/dev/null", "-e", "trace=fsync")
    )
    process.communicate()
    return process.returncode == 0


def straced(toy, call, number):
    """A launch that is killed at its Nth call of the system, whoever makes it."""
    tracer = ("strace", "-f", "-qq", "-o", "/dev/null", "-e", f"trace={call}")
    kill = ("-e", f"inject={call}:signal=SIGKILL:when={number}")
    process = toy.process("--workers", "0", before=(*tracer, *kill))
    out, _ = process.communicate(timeout=60)
    return Ended(process.returncode, out)


def killed_by_the_system(toy, zygote, wanted, call, step):
    """Kills at every so many calls until the sweep ends unkilled; what was wrong, and how often it was killed."""
    faults = []
    for num_kills, number in enumerate(itertools.count(1, step)):
        toy.reset()
        ended = straced(toy, call, number)
        if ended.status == 0:
            return faults, num_kills
        wrong = what_is_wrong(toy, wanted, lambda: zygote.launch(toy))
        faults += [f"{call} {number}: {one}" for one in wrong]
    raise AssertionError


@pytest.mark.slow
@pytest.mark.parametrize(("call", "step"), [("write", 31), ("fsync", 5), ("rename", 9), ("mkdir", 5)])
def test_a_launch_killed_by_the_system_at_its_nth_call_is_completed_by_the_same_command(toy, zygote, call, step):
    straced_everywhere(toy, zygote, call, step)


@pytest.mark.long
@pytest.mark.parametrize("call", CALLS)
def test_a_launch_killed_by_the_system_at_every_call_is_completed_by_the_same_command(toy, zygote, call):
    straced_everywhere(toy, zygote, call, 1)


def straced_everywhere(toy, zygote, call, step):
    if not strace_works(toy):
        pytest.skip("no strace here, or processes may not be traced; the shim's variant has run")
    wanted = reference(toy, zygote)
    with timed(f"killed at {call}"):
        faults, num_kills = killed_by_the_system(toy, zygote, wanted, call, step)
    assert num_kills > 0
    assert faults == []


def test_temporary_files_of_killed_launches_do_not_pile_up(toy, zygote):
    operations = zygote.launch(toy).operations
    replaces = [number for number, name in enumerate(operations, start=1) if name.startswith("replace ")]
    toy.reset()
    for number in replaces * 2:
        zygote.launch(toy, kind="kill", at=number)
    assert zygote.launch(toy).status == 0
    assert [path.name for path in toy.root.rglob("*.tmp")] == []
    assert {path.name for path in (toy.root / "results").iterdir()} == {
        f"{NAME}{end}" for end in (".csv", ".json", ".runs.csv")
    }
