"""The averages of the weights of K networks, in tensors like those of their stack."""

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from runmanager.training.recipes.averages import Average, is_statistic
from runmanager.training.skeleton import Skeleton
from runmanager.training.stack import Stack, bind

_UNMEASURED = {"running_mean": 0, "running_var": 1, "num_batches_tracked": 0}


class StackedAverages:
    """Averages as each member does alone, with one operation for all.

    What holds a member's average, and is saved, has views of its row; it is made when the first weights are averaged.
    """

    def __init__(self, averages: Sequence[Average], stack: Stack) -> None:
        """Takes over what the members bring along.

        Args:
            averages: of the members, all of one kind.
            stack: their networks.
        """
        self._averages, self._stack = list(averages), stack
        self._is_exponential = averages[0].kind == "ema"
        self._values = stack.values.detach().clone()  # [K + spare, P]
        self._others = {name: one.clone() for name, one in stack.others.items()}
        self._counts = [one.num_averaged for one in averages]
        self._weights: tuple[float | None, ...] | None = None  # those in `_column`
        for row, average in enumerate(averages):
            if average.network is not None:
                self._load(row, average)
        self._bind()

    def _load(self, row: int, average: Average) -> None:
        """Takes a member's average over."""
        found = {**dict(average.begin().module.named_parameters()), **dict(average.begin().module.named_buffers())}
        for name, values in self.tensors().items():
            values[row] = found[name]

    def _bind(self) -> None:
        """Makes what holds the averages views of these tensors."""
        tensors = self.tensors()
        for row, (average, count) in enumerate(self._each()):
            if count:
                bind(average.begin().module, {name: values[row] for name, values in tensors.items()})

    def _each(self) -> Iterable[tuple[Average, int]]:
        return zip(self._averages, self._counts, strict=True)

    def tensors(self) -> dict[str, Tensor]:
        """The averaged parameters and buffers, [K + spare, ...] each, by name; a row without an average holds any numbers."""
        return {**self._stack.views_of(self._values), **self._others}

    @property
    def have_begun(self) -> list[bool]:
        """Whether each member has an average."""
        return [count > 0 for count in self._counts]

    def after_step(self) -> None:
        """See `Average`."""
        if self._is_exponential:
            self._update(tuple([1 - one.decay if count else 1.0 for one, count in self._each()]))

    def end_epoch(self, epoch: int) -> None:
        """See `Average`."""
        weights = tuple([1 / (count + 1) if one.is_due(epoch) else None for one, count in self._each()])
        if any(weight is not None for weight in weights):
            self._update(weights)

    @torch.no_grad()
    def _update(self, weights: tuple[float | None, ...]) -> None:
        """Moves each average that much of the way to the weights; None for those that are not due."""
        if weights != self._weights:
            spare = len(self._values) - len(weights)
            self._column = self._values.new_tensor([one or 0.0 for one in weights] + [0.0] * spare).unsqueeze(1)
            self._weights = weights
        self._values.lerp_(self._stack.values, self._column)
        for name, own in self._others.items():
            now = self._stack.others[name]
            if self._is_exponential and is_statistic(name, own):
                own.lerp_(now, self._column.view(-1, *(1 for _ in own.shape[1:])).to(own.dtype))
            else:
                own.copy_(now)
        before = self.have_begun
        self._counts = [count + (one is not None) for count, one in zip(self._counts, weights, strict=True)]
        if self.have_begun != before:
            self._bind()

    def refresh(
        self, skeleton: Skeleton, batches: Iterable[Tensor], forward: Callable[[dict[str, Tensor], Tensor], Tensor]
    ) -> None:
        """See `Average`.

        Args:
            skeleton: what is gone through; it is in train mode after that.
            batches: training inputs.
            forward: goes through it with these tensors and a batch.
        """
        if self._is_exponential or not any(self.have_begun):
            return
        skeleton.train(True)
        norms = {
            path: one for path, one in skeleton.module.named_modules() if isinstance(one, _BatchNorm) and one.training
        }
        if not norms:
            return
        tensors = self.tensors()
        for path in norms:
            for name in _UNMEASURED.keys() & norms[path]._buffers.keys():
                if f"{path}.{name}" in tensors:
                    tensors[f"{path}.{name}"].fill_(_UNMEASURED[name])
        momenta = {one: one.momentum for one in norms.values()}
        with torch.no_grad(), skeleton.same_draws():
            for count, inputs in enumerate(batches, 1):
                for one in momenta:
                    one.momentum = 1 / count  # so that all batches count the same
                forward(tensors, inputs)
        for one, momentum in momenta.items():
            one.momentum = momentum

    def write_back(self) -> None:
        """Tells what holds the averages how many weights are in them; the rest it has at any time."""
        for average, count in self._each():
            if count:
                average.begin().n_averaged.fill_(count)

    def keep(self, indices: Sequence[int]) -> None:
        """Goes on with some of the members, after their stack does; those that leave keep what they have."""
        rows = [*indices, *range(len(self._averages), len(self._values))]
        self._averages = [self._averages[index] for index in indices]
        self._counts = [self._counts[index] for index in indices]
        self._values, self._weights = self._values[rows], None
        self._others = {name: values[rows] for name, values in self._others.items()}
        self._bind()
