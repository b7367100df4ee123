"""Groups that are stopped, killed, too slow or too large: no run is lost, and each goes on where it was."""

import os
import re
import signal
import subprocess
from contextlib import ExitStack
from types import MappingProxyType

import pytest

from runmanager import RunBuilder, RunManager
from runmanager.launching.signals import SweepStopped
from tests.launching.grouped import all_completed, attempts, ends, mend, sizes, whole, write
from tests.launching.leaping_clock import HANGS, leap

FOURS = {number: [4] * 3 for number in (1, 2, 3, 4)}
WAITS = """
def wait_to_be_stopped():
    from runmanager.launching.worker import in_worker, stop_asked

    while not (stop_asked() if in_worker() else (ROOT / "told").exists()):
        time.sleep(0.01)


def epochs_of(run):
    (journal,) = ROOT.glob(f"runs/tiny/*lr={run.lr}*/journal.jsonl")
    return journal.read_text().count('"epoch_seconds"')
"""
pytestmark = pytest.mark.usefixtures("forked_workers")
IN_BOTH_WAYS = pytest.mark.parametrize("workers", [0, 1])


def launched(project, workers, *options, fuse=4, name="tiny"):
    command = ("launch", name, "--no-tensorboard", "--workers", str(workers), "--fuse", str(fuse), *options)
    return project.forked(*command)


def whole_losses(project, **parts):
    """The losses of the same sweep that nothing befell."""
    return {number: [loss for loss, *_ in rows] for number, rows in whole(project, **parts).items()}


def under_way(project, epoch=1):
    """Whether all four runs have recorded this epoch."""
    if not (project.root / "runs" / "tiny").is_dir():
        return False
    runs = project.history().runs
    return len(runs) == 4 and all(len(run.rows) >= epoch for run in runs)


@pytest.mark.parametrize(("workers", "number"), [(0, signal.SIGTERM), (1, signal.SIGINT)])
def test_a_group_that_is_stopped_ends_with_its_epoch_and_goes_on_together(workers, number, project):
    write(project, "wait_to_be_stopped()", more=WAITS)
    with launched(project, workers) as process:
        project.wait_for(lambda: under_way(project))
        process.send_signal(number)
        project.wait_for(lambda: "once more stops now" in process.printed()[1])
        (project.root / "told").touch()
        said = project.said(process)
    assert said.status == {signal.SIGINT: 130, signal.SIGTERM: 143}[number], said.err
    assert "Traceback" not in said.out + said.err
    assert project.statuses() == dict.fromkeys((1, 2, 3, 4), "interrupted")
    assert {len(run.rows) for run in project.history().runs} == {2}
    mend(project)
    project.launch(fuse=4)
    assert all_completed(project)
    assert attempts(project) == [2] * 4
    assert sizes(project) == FOURS
    assert project.losses() == whole_losses(project)


def test_a_group_that_is_stopped_at_once_goes_on_after_the_epoch_before(project):
    write(project, "time.sleep(60)")
    with launched(project, 1) as process:
        project.wait_for(lambda: under_way(project))
        process.send_signal(signal.SIGINT)
        project.wait_for(lambda: "once more stops now" in process.printed()[1])  # two at once would be one
        process.send_signal(signal.SIGINT)
        assert project.said(process).status == 130
    assert project.statuses() == dict.fromkeys((1, 2, 3, 4), "interrupted")
    mend(project)
    project.launch(fuse=4)
    assert all_completed(project)
    assert project.losses() == whole_losses(project)


def test_a_group_whose_states_are_saved_now_and_then_goes_on_after_what_was_saved(project):
    parts = {"epochs": "5"}
    write(project, "epochs_of(self.run) < 3 or time.sleep(60)", more=WAITS, **parts)
    with launched(project, 0, "--checkpoint-every", "2") as process:
        project.wait_for(lambda: under_way(project, 3))
        process.kill()
        process.communicate()
    mend(project)
    assert project.launch(fuse=4, checkpoint_every=2).trained == [1, 2, 3, 4]
    assert all_completed(project)
    assert project.losses() == whole_losses(project, **parts)


def test_a_group_without_saved_states_begins_anew(project):
    interrupted(project, options={"checkpoint_every": 0})
    assert project.statuses() == dict.fromkeys((1, 2, 3, 4), "interrupted")
    assert not any((folder / "checkpoints").exists() for folder in project.folders())
    project.launch(fuse=4, checkpoint_every=0)
    assert all_completed(project)
    assert project.losses() == whole_losses(project)


DIES = "os.kill(os.getpid(), signal.SIGKILL)"


GO_ON_ALONE = "in a group of 4 runs, which go on alone"


def test_the_runs_of_a_worker_that_is_killed_go_on_alone(project):
    write(project, f"(ROOT / 'mended').touch(); {DIES}")
    history = project.launch(fuse=4, workers=1)
    assert all_completed(project)
    assert history.unrecorded == []
    assert attempts(project) == [2] * 4
    assert sizes(project) == {number: [4, 1, 1] for number in (1, 2, 3, 4)}
    reason = f"the worker process was killed by SIGKILL, {GO_ON_ALONE}"
    assert [ends(project, number)[0] for number in (1, 2, 3, 4)] == [("interrupted", reason)] * 4


def test_a_run_that_kills_its_worker_each_time_takes_nobody_with_it_twice(project):
    write(project, "os._exit(1)")
    project.launch(fuse=4, workers=1, retries=1)
    assert project.statuses() == {1: "completed", 2: "killed", 3: "completed", 4: "completed"}
    assert attempts(project) == [2, 3, 2, 2]  # in the group, alone, and once more because that was asked for
    assert sizes(project)[1] == [4, 1, 1]


@pytest.mark.parametrize(
    ("limit", "reason"),
    [
        ({"epoch_timeout": 50}, "epoch 2 took longer than 50.0 s (--epoch-timeout)"),
        pytest.param({"run_timeout": 50}, "the run took longer than 50.0 s (--run-timeout)", marks=pytest.mark.long),
    ],
    ids=["epoch", "run"],
)
def test_of_a_group_that_hangs_only_the_run_that_hangs_alone_as_well_times_out(limit, reason, project, monkeypatch):
    leap(project.root, monkeypatch)
    write(project, f"{HANGS}; time.sleep(60)")
    project.launch(fuse=4, workers=1, **limit)
    assert project.statuses() == {1: "completed", 2: "timed out", 3: "completed", 4: "completed"}
    assert ends(project, 1)[0] == ("interrupted", f"{reason}, {GO_ON_ALONE}")
    assert ends(project, 2) == [("interrupted", f"{reason}, {GO_ON_ALONE}"), ("timed out", reason)]
    assert re.search(r'File ".*tiny\.py", line \d+ in forward', (project.folders()[1] / "log.txt").read_text())
    mend(project)
    project.launch(fuse=4, retry_failed=True)
    assert all_completed(project)


def test_launches_that_share_a_sweep_train_each_run_once(project):
    rates = ", ".join(str(round(0.01 * number, 2)) for number in range(1, 25))
    write(project, params=f"lr=[{rates}]")
    with ExitStack() as stack:
        processes = [stack.enter_context(launched(project, 0, fuse=3)) for _ in range(2)]
        answers = [project.said(process) for process in processes]
    assert [answer.status for answer in answers] == [0, 0], [answer.err for answer in answers]
    assert all_completed(project)
    assert attempts(project) == [1] * 24
    assert all("cannot be recorded" not in answer.err for answer in answers)


def test_a_group_goes_without_a_member_that_another_launch_has(project):
    write(project)
    project.launch(fuse=4, only="1")
    other = RunManager("tiny", root=project.root, tensorboard=False, quiet=True)
    other.begin_run(RunBuilder.get_runs({"lr": [0.2]})[0])
    with launched(project, 0) as process:
        project.wait_for(lambda: project.statuses().get(4) == "completed")
        with pytest.raises(subprocess.TimeoutExpired):  # it waits for run 2
            process.wait(0.3)
        other.end_run()
        assert project.said(process).status == 0
    other.close()
    assert attempts(project) == [1] * 4
    assert sizes(project)[3] == [2] * 3


GREEDY = """
class Greedy(nn.Linear):
    def forward(self, inputs):
        together = torch._C._functorch.get_unwrapped(self.weight) if torch._C._functorch.is_batchedtensor(self.weight) else None
        if together is not None and len(together) > MOST and self.training and not (ROOT / "mended").exists():
            if any(is_under_way("tiny", Rate(lr)) for lr in (0.1, 0.2, 0.3, 0.4)):
                raise RAISES
        return super().forward(inputs)


class Rate:
    def __init__(self, lr):
        self.lr = lr
"""
MEMORY = "torch.OutOfMemoryError('no more memory')"


def greedy(project, most, raises=MEMORY):
    more = GREEDY.replace("MOST", str(most)).replace("RAISES", raises)
    return write(project, more=more, network="lambda: Greedy(4, 2)")


@IN_BOTH_WAYS
def test_a_group_that_does_not_fit_goes_on_in_halves(workers, project):
    greedy(project, 3)
    history = project.launch(fuse=4, workers=workers)
    assert all_completed(project)
    assert history.unrecorded == []
    assert attempts(project) == [2] * 4
    assert sizes(project) == {number: [4, 2, 2] for number in (1, 2, 3, 4)}
    reason = "out of memory with 4 runs in one step; in groups of up to 2 from here on"
    assert [ends(project, number)[0] for number in (1, 2, 3, 4)] == [("interrupted", reason)] * 4
    write(project, name="whole", network="lambda: nn.Linear(4, 2)")
    project.launch("whole", fuse="off")
    for number, losses in project.losses("whole").items():
        assert project.losses()[number] == pytest.approx(losses, rel=1e-5)


def test_a_group_of_which_no_two_fit_goes_on_one_by_one(project):
    greedy(project, 1)
    project.launch(fuse=4)
    assert all_completed(project)
    assert attempts(project) == [3] * 4
    assert sizes(project) == {number: [4, 1, 1] for number in (1, 2, 3, 4)}


@IN_BOTH_WAYS
def test_a_group_that_cannot_go_on_at_all_goes_on_one_by_one(workers, project):
    greedy(project, 1, "RuntimeError('not like this')")
    project.launch(fuse=4, workers=workers)
    assert all_completed(project)
    assert attempts(project) == [2] * 4
    assert sizes(project) == {number: [4, 1, 1] for number in (1, 2, 3, 4)}
    reason = "the group's step failed (RuntimeError: not like this); alone from here on"
    assert ends(project, 1)[0] == ("interrupted", reason)


@pytest.mark.parametrize("error", [MEMORY, "RuntimeError('not like this')"])
def test_a_group_that_breaks_is_no_failure(error, project):
    greedy(project, 3, error)
    history = project.launch(fuse=4, on_error="stop", retries=0)
    assert history.stopped is None
    assert all_completed(project)


STOPS = "(ROOT / 'mended').touch(); os.kill(os.getpid(), signal.SIGTERM)"


def interrupted(project, *, fuse=4, options=MappingProxyType({}), **parts):
    """A launch that was stopped when its runs had done two epochs."""
    write(project, STOPS, **parts)
    with pytest.raises(SweepStopped):
        project.launch(fuse=fuse, **options)
    assert (project.root / "mended").exists()


def newest_state(folder):
    return max((folder / "checkpoints").glob("*.pt"))


def test_a_run_whose_newest_state_is_damaged_goes_on_from_the_one_before_and_nobody_is_lost(project):
    parts = {"epochs": "5"}
    interrupted(project, **parts)
    newest_state(project.folders()[1]).write_bytes(b"nonsense")
    project.launch(fuse=4)
    assert all_completed(project)
    losses = whole_losses(project, **parts)
    for number, own in project.losses().items():
        assert own == pytest.approx(losses[number], rel=1e-5)


def test_a_run_without_any_sound_state_fails_alone(project):
    interrupted(project, epochs="5")
    for path in (project.folders()[1] / "checkpoints").glob("*.pt"):
        path.write_bytes(b"nonsense")
    project.launch(fuse=4)
    assert project.statuses() == {1: "completed", 2: "failed", 3: "completed", 4: "completed"}
    assert "checksum" in project.history().runs[1].error


def test_runs_that_were_trained_alone_so_far_go_on_with_those_that_are_as_far(project):
    for number in (1, 2):
        interrupted(project, fuse="off", options={"only": number}, rates="(0.1, 0.2)")
        (project.root / "mended").unlink()
    mend(project)
    assert project.statuses() == {1: "interrupted", 2: "interrupted"}
    project.launch(fuse=4)
    assert all_completed(project)
    assert attempts(project) == [2, 2, 1, 1]
    assert sizes(project) == {1: [1, 1, 2], 2: [1, 1, 2], 3: [2] * 3, 4: [2] * 3}


def test_a_group_that_is_fresh_leaves_what_was_there_as_it_was(project):
    write(project)
    project.launch(fuse=4)
    before = project.losses()
    project.launch(fuse=4, fresh=True)
    assert project.losses() == before
    (kept,) = [name for name in os.listdir(project.root / "runs") if name != "tiny" and not name.startswith(".")]
    assert project.losses(kept) == before
