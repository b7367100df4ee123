"""The batches that processes load are those of a plain DataLoader, and the processes end with their run."""

import multiprocessing
import os
import random
import select
import signal

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from runmanager.data.splits import Splits
from runmanager.training.loaders import Batches


class Drawing(Dataset):
    """Samples of whatever the global generators give."""

    def __len__(self):
        return 12

    def __getitem__(self, index):
        return torch.tensor([index, random.random(), np.random.rand(), torch.rand(())]), 0


class Telling(Dataset):
    """Samples that tell which process loads them, and what it does at Ctrl-C."""

    def __len__(self):
        return 8

    def __getitem__(self, index):
        ignores = signal.getsignal(signal.SIGINT) is signal.SIG_IGN
        return torch.tensor([os.getpid(), ignores]), 0


def batches_of(data, num_workers, seed=3):
    return Batches(Splits(data, data), seed, batch_size=4, shuffle=True, num_workers=num_workers)


def inputs_of(loader):
    return [inputs.tolist() for inputs, _ in loader]


@pytest.mark.parametrize("num_workers", [1, 2])
def test_the_batches_are_those_of_a_plain_loader(num_workers):
    batches = batches_of(Drawing(), num_workers)
    generator = torch.Generator().manual_seed(3)
    plain = DataLoader(Drawing(), batch_size=4, shuffle=True, num_workers=num_workers, generator=generator)
    first, second = inputs_of(plain), inputs_of(plain)
    assert inputs_of(batches.train) == first
    assert inputs_of(batches.train) == second
    assert first != second


@pytest.mark.parametrize("num_workers", [0, 2])
def test_from_where_the_order_stands_the_batches_go_on(num_workers):
    batches, other = batches_of(Drawing(), num_workers), batches_of(Drawing(), num_workers, seed=4)
    inputs_of(batches.train)
    other.order.set_state(batches.order.get_state())
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    expected = inputs_of(batches.train)
    random.setstate(states[0]), np.random.set_state(states[1]), torch.set_rng_state(states[2])
    assert inputs_of(other.train) == expected


def test_validation_draws_the_same_each_time_and_changes_no_order():
    batches, alone = batches_of(Drawing(), 1), batches_of(Drawing(), 1)
    seen = []
    for _ in range(2):
        seen.append(inputs_of(batches.validation()))
        assert inputs_of(batches.train) == inputs_of(alone.train)
    assert seen[0] == seen[1]


def test_without_validation_data_there_is_none():
    assert Batches(Splits(Drawing()), 0, batch_size=4, shuffle=False, num_workers=0).validation() is None


def test_ctrl_c_leaves_the_loading_processes_at_work():
    loaded = torch.cat([inputs for inputs, _ in batches_of(Telling(), 2).train])
    assert os.getpid() not in loaded[:, 0].tolist()
    assert loaded[:, 1].all()


def test_no_process_is_left_when_an_epoch_is_over():
    inputs_of(batches_of(Telling(), 2).train)
    assert multiprocessing.active_children() == []


@pytest.mark.skipif(not os.path.exists("/proc"), reason="the system tells no process that its parent is gone")
def test_the_loading_processes_die_with_a_run_that_is_killed():
    alive, held = os.pipe()  # each of them holds one end open as long as it lives
    pid = os.fork()
    if pid == 0:
        try:
            next(iter(batches_of(Telling(), 2).train))
            os.kill(os.getpid(), signal.SIGKILL)
        finally:
            os._exit(1)
    os.close(held)
    assert os.waitpid(pid, 0)[1] == signal.SIGKILL
    assert select.select([alive], [], [], 2)[0]
    os.close(alive)
