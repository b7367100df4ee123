"""The batches of a run, loaded here or by processes of their own."""

import ctypes
import signal
import sys
from typing import Any

import torch
from torch.utils.data import DataLoader

from runmanager.data.splits import Splits

_SET_PARENT_DEATH_SIGNAL = 1


class Batches:
    """The batches to train and to validate on.

    Each has a generator of its own, so neither changes what the network draws. Processes that load batches start anew in
    each epoch: one that lived on would have random numbers that nobody can save.
    """

    def __init__(self, splits: Splits, seed: int, *, batch_size: int, shuffle: bool, num_workers: int) -> None:
        self._seed = seed
        self.order, self._draws = torch.Generator().manual_seed(seed), torch.Generator()
        settings: dict[str, Any] = {"batch_size": batch_size, "num_workers": num_workers}
        if num_workers:
            settings["worker_init_fn"] = _begin_loading
        self.train: DataLoader[Any] = DataLoader(splits.train, shuffle=shuffle, generator=self.order, **settings)
        self._validation: DataLoader[Any] | None = None
        if splits.validation is not None:
            self._validation = DataLoader(splits.validation, generator=self._draws, **settings)

    def validation(self) -> "DataLoader[Any] | None":
        """The batches to validate on. What loads them draws the same in each epoch, so that nothing of it has to be saved."""
        self._draws.manual_seed(self._seed)
        return self._validation


def _begin_loading(number: int) -> None:
    """In a process that loads batches: it goes on at Ctrl-C, since the epoch may be ended yet, and dies with its parent."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_SET_PARENT_DEATH_SIGNAL, ctypes.c_ulong(signal.SIGKILL))
