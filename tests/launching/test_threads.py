"""The threads that a worker is given are those that torch computes with in it."""

import pytest

from runmanager.launching.slots import make_slots

NUM_THREADS = "import torch\nreturn {'threads': torch.get_num_threads()}"


@pytest.mark.parametrize("workers", [pytest.param(1, marks=pytest.mark.long), 2])
def test_torch_computes_with_a_workers_share_of_the_cores(workers, project, monkeypatch):
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    project.by_function(NUM_THREADS)
    history = project.launch(workers=workers)
    (expected,) = {int(slot.environment["OMP_NUM_THREADS"]) for slot in make_slots(workers, 2)}
    assert [run.last["threads"] for run in history.runs] == [expected, expected]
