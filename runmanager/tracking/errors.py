"""What can go wrong while a run is tracked, named for the user's next step."""


class CallOrderError(RuntimeError):
    """A RunManager call came too early or too late; the message names the call that is missing."""


class UnknownBatchSizeError(RuntimeError):
    """`track_loss(loss)` cannot know how many samples the batch held; the message says to pass the batch."""


class EmptyEpochError(RuntimeError):
    """An epoch ended without a batch or a metric."""


class MetricError(ValueError):
    """A metric's name, shape or value cannot be recorded."""


class StorageError(OSError):
    """A record could not be written; the message names the file and what the system said. What was there is kept."""


class SweepNameError(ValueError):
    """A sweep's name cannot be a folder's in runs/."""


class RunInUseError(StorageError):
    """A run's journal has a living writer already; there can be only one."""


class ResultsNotFoundError(FileNotFoundError):
    """There are no results of that name; the message lists the names there are."""


class CheckpointError(ValueError):
    """A saved state cannot be loaded; the message says which file and why. Nothing in it was run."""


class RunStopped(BaseException):
    """Raised by `end_epoch` where a run has to stop: its loop is left, its status recorded.

    It is no Exception, so that a loop that catches its own errors does not go on.
    """

    def __init__(self, status: str, reason: str) -> None:
        super().__init__(reason)
        self.status = status
