"""The peak of a run is its own."""

import sys
from pathlib import Path

import pytest
import torch

from runmanager.tracking import memory
from runmanager.tracking.memory import MemoryPeak

on_linux = pytest.mark.skipif(sys.platform != "linux", reason="other systems do not tell")


def held(what="VmRSS:"):
    """MiB that this process holds, or with VmHWM the most that it ever did."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(what))


@on_linux
def test_the_peak_holds_what_was_taken_and_given_back():
    peak = MemoryPeak()
    peak.begin()
    before = held()
    taken = torch.ones(100 * 2**18)  # 100 MiB
    del taken
    assert held() < before + 50
    assert before + 90 < peak.mib() < before + 150


@on_linux
@pytest.mark.parametrize("may_clear", [True, False])
def test_what_an_earlier_run_took_is_not_this_ones_peak(monkeypatch, tmp_path, may_clear):
    if not may_clear:  # as in a container that forbids it
        monkeypatch.setattr(memory, "_CLEAR", tmp_path / "nowhere" / "clear_refs")
    earlier = torch.ones(150 * 2**18)
    del earlier
    peak = MemoryPeak()
    peak.begin()
    before = held()
    if may_clear:
        assert peak.mib() < before + 50
    else:
        assert peak.mib() is None  # it may be the earlier run's
    taken_earlier = held("VmHWM:") - held()  # by whatever this process has done
    more = torch.ones(int(taken_earlier + 300) * 2**18)
    assert peak.mib() > before + 250
    assert len(more)


def test_a_system_that_does_not_tell_gives_none(monkeypatch, tmp_path):
    monkeypatch.setattr(memory, "_STATUS", tmp_path / "nowhere")
    monkeypatch.setattr(memory, "_CLEAR", tmp_path / "nowhere" / "clear_refs")
    peak = MemoryPeak()
    peak.begin()
    assert peak.mib() is None


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
def test_on_a_gpu_it_is_the_peak_of_the_tensors():
    peak = MemoryPeak(torch.device("cuda"))
    before = torch.cuda.memory_allocated() / 2**20
    for mib in (100, 10):
        peak.begin()
        taken = torch.empty(mib * 2**18, device="cuda")
        del taken
        assert peak.mib() == pytest.approx(before + mib, abs=1)
