"""How many samples a batch holds, from the batch or from the loader that makes it."""

from collections.abc import Mapping, Sequence
from typing import Any

from runmanager.tracking.errors import UnknownBatchSizeError


def batch_length(batch: Any) -> int:
    """The number of samples in a batch: a tensor's first dimension, or that of the first tensor in it.

    Raises:
        UnknownBatchSizeError: nothing in the batch has a length.
    """
    first = batch[0] if type(batch) in (tuple, list) and len(batch) > 0 and hasattr(batch[0], "shape") else batch
    while (
        not hasattr(first, "shape")
        and isinstance(first, (Mapping, Sequence))
        and not isinstance(first, str)
        and len(first) > 0
    ):
        inner = next(iter(first.values())) if isinstance(first, Mapping) else first[0]
        if isinstance(inner, str) or not hasattr(inner, "__len__") or getattr(inner, "ndim", 1) == 0:
            break  # `first` is itself the list of samples
        first = inner
    shape = getattr(first, "shape", None)
    if shape is not None and len(shape) > 0:
        return int(shape[0])
    if hasattr(first, "__len__") and shape is None:
        return len(first)
    raise UnknownBatchSizeError(
        f"track_loss(loss, batch) got a {type(batch).__name__} without a length; pass what the loader gave, or its images"
    )


class BatchSizes:
    """The size of each batch of an epoch, worked out from the loader's own settings.

    Full batches have the loader's batch size and the last one what is left; `drop_last`, samplers and subsets are respected,
    because what is counted is the sampler.
    """

    def __init__(self, loader: Any) -> None:
        self._batch_size: int | None = None
        self._num_samples = 0
        self._drop_last = False
        source = _source(loader)
        if source is None:
            return
        try:
            self._num_samples = len(source.sampler)
        except (TypeError, NotImplementedError):  # a stream has no length
            return
        self._batch_size = source.batch_size
        self._drop_last = bool(source.drop_last)

    def size_of(self, index: int) -> int:
        """The number of samples in the epoch's batch `index`, counted from 0.

        Raises:
            UnknownBatchSizeError: the loader does not tell, or has no such batch.
        """
        if self._batch_size is None:
            raise UnknownBatchSizeError(
                "track_loss(loss) cannot know how many samples this batch holds: the loader's batch size, sampler or length "
                "is not known; pass the batch too: track_loss(loss, batch)"
            )
        full, rest = divmod(self._num_samples, self._batch_size)
        if index < full:
            return self._batch_size
        if index == full and rest and not self._drop_last:
            return rest
        num_batches = full + (rest > 0 and not self._drop_last)
        raise UnknownBatchSizeError(
            f"track_loss(loss) was called {index + 1} times in this epoch, but the loader has {num_batches} batches; "
            "pass the batch too: track_loss(loss, batch)"
        )


def _source(loader: Any) -> Any:
    """Where batch_size, sampler and drop_last stand: on the loader, or on the plain batch sampler it was given."""
    batch_sampler = getattr(loader, "batch_sampler", None)
    if getattr(loader, "batch_size", None) is not None:
        return loader if hasattr(loader, "sampler") and hasattr(loader, "drop_last") else None
    kind = type(batch_sampler)
    plain = kind.__module__ == "torch.utils.data.sampler" and kind.__name__ == "BatchSampler"
    return batch_sampler if plain else None
