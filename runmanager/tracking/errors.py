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
