"""A disk that is full or broken, at every operation: it is said, nobody else's data is harmed, and launching again completes."""

import itertools
import os
import shutil
import subprocess

import pytest
from killer import NAME, TRAINED, Ended, Toy, broken_promises, difference, outcome, reference, timed

from runmanager.parameters import identity

BROKEN_FSYNC = """\
import errno
import os


def broken(descriptor):
    raise OSError(errno.EIO, os.strerror(errno.EIO))


os.fsync = broken
"""
FIRST = identity({"lr": 0.1})
RETRY = ("--retry-failed",)


@pytest.fixture
def crowded(toy, zygote):
    """A toy beside another sweep that is done, and what the toy reaches when nothing disturbs it."""
    wanted = reference(toy, zygote)
    toy.reset()
    return toy, wanted


def bystanders(toy):
    """Another sweep's files, made anew, with their content."""
    folder = toy.root / "runs" / "other" / "0001-lr=0.5-0123456789ab"
    folder.mkdir(parents=True)
    (toy.root / "results").mkdir(exist_ok=True)
    files = [
        folder / "journal.jsonl",
        folder / "run.json",
        *(toy.root / "results" / f"other{end}" for end in (".csv", ".json")),
    ]
    for file in files:
        file.write_text(f"what stands in {file.name}\n")
    return {file: file.read_bytes() for file in files}


def what_is_wrong(toy, ended, wanted, launch, others, failed=""):
    """After a launch whose disk failed, and after the next one whose disk does not."""
    faults = broken_promises(toy)
    if ended.status == 0 and outcome(toy) != wanted:
        faults.append(f"silent success: {difference(outcome(toy), wanted)}")
    if ended.status < 0 or ended.status > 2:
        faults.append(f"exit status {ended.status}: {ended.out[-300:]}")
    if ended.status == 0 and "fsync" in failed and not ended.out:
        faults.append("nobody was told")
    if ended.status and "Errno" not in ended.out and "Error" not in ended.out and "cannot" not in ended.out:
        faults.append(f"it does not say why: {ended.out[-300:]!r}")
    done = {run.number: run_bytes(toy, run.number) for run in toy.runs() if run.status == "completed"}
    again = launch()
    if again.status:
        faults.append(f"then exit status {again.status}: {again.out[-300:]}")
    elif outcome(toy) != wanted:
        faults.append(f"then {difference(outcome(toy), wanted)}")
    faults += [
        f"run {number}, completed, was changed" for number, data in done.items() if run_bytes(toy, number) != data
    ]
    return [
        *faults,
        *[f"{file.name} of another sweep was changed" for file, data in others.items() if file.read_bytes() != data],
    ]


def run_bytes(toy, number):
    """A run's journal."""
    return next(
        run_dir.path / "journal.jsonl" for run_dir in toy.sweep_dir.runs() if run_dir.number == number
    ).read_bytes()


def failing_everywhere(toy, zygote, wanted, kind, error, step=1):
    """Lets every operation fail, until the sweep ends before its turn; what was wrong, and at how many points it failed."""
    faults = []
    for number in itertools.count(1, step):
        toy.reset()
        others = bystanders(toy)
        ended = zygote.launch(toy, kind=kind, at=number, error=error)
        if number > len(ended.operations):
            return faults, number
        failed = ended.operations[number - 1] if kind != "short" else ""
        wrong = what_is_wrong(toy, ended, wanted, lambda: zygote.launch(toy, *RETRY), others, failed)
        where = f"{error} {kind} at {ended.operations[number - 1]} ({number})"
        faults += [f"{where}: {one}" for one in wrong]
    raise AssertionError


SOME = [("once", "ENOSPC", 6), ("for ever", "ENOSPC", 7), ("short", "ENOSPC", 9), ("once", "EIO", 11)]
ALL = [(kind, error, 1) for kind in ("once", "for ever", "short") for error in ("ENOSPC", "EIO", "EDQUOT")]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "error", "step"), [*SOME, *[pytest.param(*one, marks=pytest.mark.long) for one in ALL]]
)
def test_an_operation_that_fails_is_said_and_the_next_launch_completes(crowded, zygote, kind, error, step):
    toy, wanted = crowded
    with timed(f"{error} {kind}"):
        faults, num_points = failing_everywhere(toy, zygote, wanted, kind, error, step)
    assert num_points > 80
    assert faults == []


STATES = [pytest.param(kind, "ENOSPC", 1, marks=pytest.mark.long) for kind in ("once", "for ever", "short")]


@pytest.mark.slow
@pytest.mark.parametrize("step", [90, pytest.param(1, marks=pytest.mark.long)])
def test_files_that_may_not_grow_are_said_and_the_next_launch_completes(crowded, zygote, step):
    toy, wanted = crowded
    faults = []
    for size in range(0, 1300, step):
        toy.reset()
        others = bystanders(toy)
        ended = zygote.launch(toy, file_size=size)
        wrong = what_is_wrong(toy, ended, wanted, lambda: zygote.launch(toy, *RETRY), others)
        faults += [f"files of {size} bytes: {one}" for one in wrong]
    assert faults == []


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "error", "step"), [("once", "ENOSPC", 17), ("for ever", "ENOSPC", 23), *STATES])
def test_a_state_that_cannot_be_saved_costs_no_other_state(tmp_path, torch_zygote, kind, error, step):
    toy = Toy.make(tmp_path / "project", num_runs=1, num_epochs=3, text=TRAINED)
    wanted = reference(toy, torch_zygote)
    with timed(f"{error} {kind} with states"):
        faults, _ = failing_everywhere(toy, torch_zygote, wanted, kind, error, step)
    assert faults == []
    assert not [path for path in toy.root.rglob("checkpoints/*") if path.name.endswith(".tmp")]


FULL_DISK = """\
set -e
mount -t tmpfs -o size=$SIZE tmpfs "$MOUNT"
cp -r "$PROJECT/." "$MOUNT/"
cd "$MOUNT"
set +e
{command} > "$OUT/first.txt" 2>&1
echo $? > "$OUT/first"
cp -r "$MOUNT" "$OUT/after"
mount -o remount,size=50m "$MOUNT"
{command} --retry-failed > "$OUT/second.txt" 2>&1
echo $? > "$OUT/second"
cp -r "$MOUNT" "$OUT/done"
"""


def may_mount():
    """Whether a process may have a file system of its own here."""
    if shutil.which("unshare") is None:
        return False
    done = subprocess.run(["unshare", "-Urm", "mount", "-t", "tmpfs", "tmpfs", "/mnt"], capture_output=True)
    return done.returncode == 0


def on_a_disk_of(num_bytes, toy, folder, *options):
    """Launches on a small disk, and once more when it has grown; how both ended."""
    mount, out = folder / "mount", folder / "out"
    for made in (mount, out):
        shutil.rmtree(made, ignore_errors=True)
        made.mkdir()
    command = " ".join(toy.command(*options))
    environment = {**os.environ, "SIZE": str(num_bytes), "MOUNT": str(mount), "PROJECT": str(toy.root), "OUT": str(out)}
    environment |= {"OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    script = ["unshare", "-Urm", "sh", "-c", FULL_DISK.format(command=command)]
    subprocess.run(script, env=environment, timeout=120, check=True, capture_output=True)
    return [Ended(int((out / name).read_text()), (out / f"{name}.txt").read_text()) for name in ("first", "second")]


@pytest.mark.slow
@pytest.mark.parametrize("workers", ["0", "2"])
@pytest.mark.parametrize("sizes", [(20, 50, 80), pytest.param(range(8, 120, 4), marks=pytest.mark.long)])
def test_a_disk_that_fills_up_is_said_and_the_next_launch_completes(crowded, tmp_path, workers, sizes):
    if not may_mount():
        pytest.skip("no user namespaces here; the shim's variant has run")
    toy, wanted = crowded
    faults, statuses = [], set()
    for size in sizes:
        first, second = on_a_disk_of(size * 1024, toy, tmp_path, "--workers", workers)
        statuses.add(first.status)
        after, done = (Toy(tmp_path / "out" / name, "") for name in ("after", "done"))
        if first.status == 0 and outcome(after) != wanted:
            faults.append(f"{size} KiB: silent success: {difference(outcome(after), wanted)}")
        if first.status not in (0, 1, 2):
            faults.append(f"{size} KiB: exit status {first.status}: {first.out[-300:]}")
        if second.status or outcome(done) != wanted:
            faults.append(f"{size} KiB: then {second.status}: {second.out[-300:]} {difference(outcome(done), wanted)}")
    assert statuses >= {0, 1} or statuses >= {0, 2}
    assert faults == []


def test_a_worker_whose_records_do_not_reach_the_disk_is_no_silent_success(crowded):
    toy, _ = crowded
    path = toy.root / "sweeps" / f"{NAME}.py"
    path.write_text(f"{BROKEN_FSYNC}{toy.text}")  # only workers load it
    process = toy.process("--workers", "2")
    out, _ = process.communicate()
    assert process.returncode != 0, "every fsync of every journal failed"
    assert "Input/output error" in out


def test_a_run_whose_log_is_full_says_so_and_completes_when_it_is_retried(crowded):
    toy, wanted = crowded
    path = toy.root / "sweeps" / f"{NAME}.py"
    path.write_text(toy.text.replace('    said("begin"', '    print("x" * 10_000)\n    said("begin"'))
    (run_dir,) = [toy.sweep_dir.run_dir(1, {"lr": 0.1}, FIRST)]
    run_dir.path.mkdir(parents=True)
    run_dir.log_file.symlink_to("/dev/full")
    process = toy.process("--workers", "1")
    out, _ = process.communicate()
    assert [run.status for run in toy.runs()][1:] == ["completed", "completed"]
    assert process.returncode == 0 or "No space left" in out
    run_dir.log_file.unlink()
    process = toy.process("--workers", "1", "--retry-failed")
    out, _ = process.communicate()
    assert (process.returncode, out) == (0, "")
    assert outcome(toy) == wanted


def test_a_table_that_leads_to_a_full_device_is_no_silent_success(crowded, zygote):
    toy, wanted = crowded
    (toy.root / "results").mkdir()
    (toy.root / "results" / f"{NAME}.csv").symlink_to("/dev/full")
    ended = zygote.launch(toy)
    assert ended.status != 0 or outcome(toy) == wanted
    assert zygote.launch(toy).status == 0
    assert outcome(toy) == wanted
