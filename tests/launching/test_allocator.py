"""Workers keep the memory that they free: a step fetches none from the system, and no number changes."""

import ctypes
import os
import shutil
import statistics
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from runmanager.launching import allocator
from runmanager.launching.allocator import keep_memory

NETWORKS = Path(__file__).parents[2] / "networks"
PAGES = Path("/sys/kernel/mm/transparent_hugepage/enabled")
COUNTED = """\
import resource
from pathlib import Path

import torch
import torch.nn.functional as F

torch.manual_seed(0)
images, labels = torch.rand(3_000, 1, 28, 28), torch.arange(3_000) % 10

from networks.fashion_cnn import FashionCNN
from runmanager import Sweep, Trainer


class CountingAdam(torch.optim.Adam):
    def step(self, closure=None):
        super().step(closure)
        with Path("faults").open("a") as file:
            file.write(f"{resource.getrusage(resource.RUSAGE_SELF).ru_minflt}\\n")


sweep = Sweep(
    params=dict(lr=[0.01], batch_size=[1000]),
    trainer=Trainer(
        data=((images, labels), (images[:500], labels[:500])),
        network=FashionCNN,
        optimizer=lambda run, network: CountingAdam(network.parameters(), lr=run.lr),
        loss=F.cross_entropy,
        epochs=3,
        device="cpu",
    ),
)
"""
STEPS = 3  # of an epoch
HELD = """\
import os
from pathlib import Path

from runmanager.launching import allocator

allocator._MAX_GROWTH = {growth} << 20


def held():
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE") >> 20


before = held()
"""
BIG_AND_SMALL = """\
if run.size == "small":
    return {"megabytes": held() - before}
blocks = [bytearray(10 << 20) for _ in range(20)]
"""
AGAIN = """\
import resource

from runmanager.launching.allocator import keep_memory

why = keep_memory()
bytearray(64 << 20)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
bytearray(64 << 20)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before, why)
"""

on_glibc = pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "gnu_get_libc_version"), reason="the recipe is glibc's")
with_small_pages = pytest.mark.skipif(
    PAGES.is_file() and "[always]" in PAGES.read_text(), reason="a fault brings 2 MiB here, so there are few"
)


def faults_per_step(project) -> list[int]:
    """Of the steps of all epochs but the first, without what lies between two epochs."""
    counts = [int(line) for line in (project.root / "faults").read_text().split()]
    assert len(counts) == 1 + 3 * STEPS  # the check takes a step too
    counts = counts[1:]
    return [counts[step] - counts[step - 1] for step in range(STEPS, len(counts)) if step % STEPS]


@on_glibc
@with_small_pages
def test_a_steady_step_fetches_no_memory_from_the_system_and_the_losses_are_the_same(project, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    shutil.copytree(NETWORKS, project.root / "networks")
    project.write(COUNTED, "kept")
    project.write(COUNTED, "given_back")
    said = project.process("launch", "kept", "--workers", "1", "--quiet", "--no-tensorboard")
    assert said.status == 0, said
    assert statistics.median(faults_per_step(project)) < 10
    (project.root / "faults").unlink()
    project.launch("given_back", workers=1, keep_memory=False)
    assert statistics.mean(faults_per_step(project)) > 1_000  # by bins that happen to be free, some steps have none
    assert project.losses("kept") == project.losses("given_back") != {}


@on_glibc
@pytest.mark.parametrize(
    ("options", "growth", "stays"),
    [({}, 100, False), ({}, 1_000, True), ({"keep_memory": False}, 1_000, False)],
    ids=["more than a run may leave", "less", "nothing is kept"],
)
def test_a_small_run_holds_no_more_of_what_a_big_one_freed_than_it_may(options, growth, stays, project):
    sweep, before = "objective='megabytes', mode='min'", HELD.format(growth=growth)
    project.by_function(BIG_AND_SMALL, params="{'size': ['big', 'small']}", before=before, sweep=sweep)
    project.launch(workers=1, **options)
    megabytes = project.history().runs[1].last["megabytes"]
    assert megabytes > 180 if stays else megabytes < 40


@on_glibc
@with_small_pages
@pytest.mark.parametrize(
    ("environ", "is_kept"),
    [
        ({}, True),
        ({"MALLOC_ARENA_MAX": "2", "GLIBC_TUNABLES": "glibc.malloc.arena_max=2"}, True),
        ({"MALLOC_TOP_PAD_": "65536"}, False),
        ({"GLIBC_TUNABLES": "glibc.malloc.trim_threshold=65536"}, False),
    ],
)
def test_what_the_user_has_told_glibc_is_left_as_it_is(environ, is_kept):
    done = subprocess.run(
        [sys.executable, "-c", AGAIN], env={**os.environ, **environ}, capture_output=True, text=True, check=True
    )
    faults, why = done.stdout.strip().split(maxsplit=1)
    assert (int(faults) < 10) == is_kept
    assert why == ("None" if is_kept else f"{next(iter(environ))} in the environment is left to decide")


@on_glibc
@with_small_pages
def test_the_users_own_process_is_left_as_it_is(project):
    import resource

    project.by_function("return {'val_loss': 1.0}", params="{'lr': [0.1]}", sweep="objective='val_loss'")
    project.launch(workers=0)
    bytearray(64 << 20)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    bytearray(64 << 20)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before > 10_000
    assert not allocator.give_back_memory()


@pytest.mark.parametrize("system", ["darwin", "win32"])
def test_another_system_is_left_as_it_is(system, monkeypatch):
    monkeypatch.setattr(sys, "platform", system)
    assert keep_memory() == f"the allocator of {system} is left as it is; the recipe is for glibc's"


def test_another_c_library_is_left_as_it_is(monkeypatch):
    monkeypatch.setattr(ctypes, "CDLL", lambda name: SimpleNamespace())
    assert keep_memory() == "the C library is not glibc, and its allocator is left as it is"


def test_what_glibc_refuses_is_told(monkeypatch):
    libc = SimpleNamespace(gnu_get_libc_version=None, mallopt=lambda parameter, value: int(parameter == -4))
    monkeypatch.setattr(ctypes, "CDLL", lambda name: libc)
    assert keep_memory() == "glibc refused to set M_TRIM_THRESHOLD"
