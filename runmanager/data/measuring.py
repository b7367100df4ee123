"""The mean and the standard deviation of each channel of a data set, in float64."""

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import IterableDataset

from runmanager.data.draws import Draws
from runmanager.data.normalised import pair, with_normalization
from runmanager.data.normalization import DataError, Normalization, num_channels, wanted
from runmanager.data.reading import NotResident
from runmanager.data.resident import memory_budget, resident
from runmanager.data.splits import Samples, Splits
from runmanager.data.targets import origin

_CHUNK = 2**22  # values that are added at once


def normalised(splits: Splits, how: Any) -> Splits:
    """The splits with normalised inputs; the validation split is to be cut before.

    Args:
        splits: the data.
        how: None; "measured": mean and std of each channel over the training part alone; or (means, stds), each one number
            for each channel or one for all.

    Raises:
        DataError: `how` says none of these, or does not suit the data.
    """
    what = wanted(how)
    if what is None:
        return splits
    if splits.normalization is not None:
        raise DataError("the data is normalised already; leave out normalize, or give the data as it was before")
    first = _first(splits.train)
    if isinstance(what, str):
        Normalization((0.0,), (1.0,)).apply(
            first, first.dim()
        )  # so that what cannot be normalised is told before it is read
        what = measured(splits.train)
    what.apply(first, first.dim())
    size = num_channels(first.shape)
    each = [numbers * size if len(numbers) == 1 else numbers for numbers in what]
    return with_normalization(splits, Normalization(*each))


def measured(dataset: Samples) -> Normalization:
    """Mean and standard deviation (of all values, not of a sample of them) of each channel, in float64.

    A channel that never varies gets a std of 1, and is 0 when it is normalised.

    Raises:
        DataError: there are no samples, they have several shapes of which channels are none, or values that are not finite.
    """
    moments, num_read = _Moments(), 0
    with Draws(lambda: None):
        for inputs in _chunks(dataset):
            _refuse_infinite(inputs, dataset, num_read)
            moments.add(inputs)
            num_read += len(inputs)
    return moments.normalization()


def _refuse_infinite(inputs: Tensor, dataset: Samples, num_before: int) -> None:
    """Names the first of samples [B, ...], with so many before them, that has a value that is not finite."""
    is_whole = inputs.isfinite().flatten(1).all(1) if inputs.dim() > 1 else inputs.isfinite()
    if not bool(is_whole.all()):
        row = origin(dataset, num_before + int((~is_whole).nonzero()[0]))
        raise DataError(
            f'normalize="measured" finds values that are not finite in sample {row} of the training data; mend them, or take it '
            "away"
        )


class _Moments:
    """Mean and squared deviations of each channel, joined chunk by chunk (Chan, Golub and LeVeque, 1979)."""

    def __init__(self) -> None:
        self._num, self._mean, self._squares = 0, torch.zeros(()), torch.zeros(())

    def add(self, inputs: Tensor) -> None:
        """Adds samples [B, ...]."""
        values = _by_channel(inputs)  # [C, values of each]
        num, mean = values.shape[1], values.mean(1)
        squares = (values - mean[:, None]).square_().sum(1)
        if self._num and self._mean.shape != mean.shape:
            raise DataError(
                f'normalize="measured" finds samples of {len(self._mean)} and of {len(mean)} channels; make them alike first'
            )
        total = self._num + num
        shift = mean - self._mean
        self._squares = self._squares + squares + shift.square() * (self._num * num / total)
        self._mean = self._mean + shift * (num / total)
        self._num = total

    def normalization(self) -> Normalization:
        """What they make together."""
        if not self._num:
            raise DataError('normalize="measured" finds no values in the training data; give data, or (means, stds)')
        stds = (self._squares / self._num).sqrt()
        for place, (mean, std) in enumerate(zip(self._mean.tolist(), stds.tolist(), strict=True)):
            if not (abs(mean) < float("inf") and std < float("inf")):
                raise DataError(
                    f'normalize="measured" finds values that are not finite in channel {place} of the training data; mend '
                    "them, or give (means, stds)"
                )
        is_varying = stds > 1e-12 * self._mean.abs()  # what is less is rounding
        return Normalization(tuple(self._mean.tolist()), tuple(torch.where(is_varying, stds, 1.0).tolist()))


def _by_channel(inputs: Tensor) -> Tensor:
    """The values of each channel in samples [B, ...], float64 [C, values]."""
    num_before = max(0, inputs.dim() - 4)  # dimensions of a sample before its channels
    values = inputs.double().flatten(0, num_before) if inputs.dim() > 1 else inputs.double()[:, None]  # [B, C, ...]
    return values.transpose(0, 1).flatten(1)


def _chunks(dataset: Samples) -> Iterator[Tensor]:
    """All inputs: of resident data by index, of other data as a DataLoader reads them."""
    try:
        data = resident(dataset, "cpu", budget=memory_budget("cpu"))
    except NotResident:
        yield from _read(dataset)
        return
    size = max(1, data.batch(torch.tensor([0]))[0].numel())
    for rows in torch.arange(len(data)).split(max(1, _CHUNK // size)):
        yield data.batch(rows)[0]


def _read(dataset: Samples) -> Iterator[Tensor]:
    """One sample at a time, so that they may differ in size."""
    is_stream = isinstance(dataset, IterableDataset)
    samples: Iterable[Any] = dataset if is_stream else map(dataset.__getitem__, range(len(dataset)))  # type: ignore[arg-type, assignment]
    for sample in samples:
        yield pair(sample)[0][None].as_subclass(Tensor)


def _first(dataset: Samples) -> Tensor:
    """The inputs of the first sample."""
    with Draws(lambda: None):
        try:
            sample = next(iter(dataset)) if isinstance(dataset, IterableDataset) else dataset[0]
        except (StopIteration, IndexError) as error:
            raise DataError("normalize finds no sample in the training data; give data") from error
        return pair(sample)[0]
