"""What the machine has: cores and memory, as the container allows them."""

import math
import os
import subprocess
import sys

import pytest

from runmanager.machine import memory, num_cores

GIB = 2**30


@pytest.fixture
def system(tmp_path):
    """The system's own files, with 8 GiB of which 6 are free, and what the control groups say."""

    def make(**limits):
        (tmp_path / "proc/self").mkdir(parents=True)
        (tmp_path / "proc/meminfo").write_text("MemTotal: 8388608 kB\nMemFree: 1 kB\nMemAvailable: 6291456 kB\n")
        (tmp_path / "proc/self/cgroup").write_text("4:memory:/other\n0::/user/job\n")
        for place, text in limits.items():
            file = tmp_path / "sys/fs/cgroup" / place.replace("__", "/").replace("_max", ".max")
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(f"{text}\n")
        return tmp_path

    return make


def test_memory_is_what_the_system_has_and_what_of_it_is_free(system):
    assert memory(system()) == (8 * GIB, 6 * GIB)


@pytest.mark.parametrize("place", ["memory_max", "user__memory_max", "user__job__memory_max"])
def test_a_container_at_any_level_bounds_the_memory(system, place):
    assert memory(system(**{place: 2 * GIB})) == (2 * GIB, 2 * GIB)


def test_a_container_without_a_bound_has_all(system):
    assert memory(system(user__memory_max="max")) == (8 * GIB, 6 * GIB)


def test_a_system_that_tells_nothing_has_no_bound(tmp_path):
    assert memory(tmp_path) == (math.inf, math.inf)


def test_this_machine_has_free_memory_and_a_core():
    everything, free = memory()
    assert 0 < free <= everything
    assert num_cores() >= 1


@pytest.mark.parametrize(("text", "expected"), [("max 100000", None), ("100000 100000", 1), ("50000 100000", 1)])
def test_a_container_bounds_the_cores_by_the_time_they_get(system, text, expected):
    assert num_cores(system(user__job__cpu_max=text)) == (expected or len(os.sched_getaffinity(0)))


def test_asking_the_machine_is_cheap_before_the_first_worker_starts():
    code = (
        "import sys, math, os, pathlib, collections.abc, runmanager; before = set(sys.modules); "
        "import runmanager.machine; print(sorted(set(sys.modules) - before))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "['runmanager.machine']"
