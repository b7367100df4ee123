"""What each run of a launch is trained with, beside what the sweep says."""

from typing import NamedTuple


class TrainOptions(NamedTuple):
    """Plain values, since they travel to workers."""

    tensorboard: bool = True
    histograms_every: int = 1
    checkpoint_every: int = 1
    stop_diverged: bool = False
    keep_memory: bool = True
    fuse: str | int = "auto"
