"""What recipes do to the gradients of K networks between backward and step: penalties and clipping, each by its own limits."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from runmanager.tracking.meters import Mean
from runmanager.training.recipe import Recipe
from runmanager.training.recipes.penalties import add_gradients


class StackedGradients:
    """Adds the gradients of penalties, clips, and keeps the norms that there were before, as each run does alone."""

    def __init__(self, recipes: Sequence[Recipe], values: Tensor) -> None:
        """Takes the recipes of K members.

        Args:
            recipes: of the members.
            values: their parameters, whose dtype and device count.
        """
        self._size = len(recipes)

        def column(of: Callable[[Recipe], float | None], off: float) -> Tensor | None:
            numbers = [of(recipe) for recipe in recipes]
            if all(number is None for number in numbers):
                return None
            return values.new_tensor([off if one is None else one for one in numbers]).unsqueeze(1)  # [K, 1]

        self._l1 = column(lambda one: one.penalty.l1 if one.penalty else None, 0.0)
        self._l2 = column(lambda one: one.penalty.l2 if one.penalty else None, 0.0)
        self._largest = column(lambda one: one.clip.value if one.clip else None, torch.inf)
        self._limits = column(lambda one: one.clip.norm if one.clip else None, torch.inf)
        self._are_clipped = [one.clip is not None for one in recipes]
        self._norms = Mean(self._size)

    @property
    def is_clipped(self) -> bool:
        """Whether any member's gradient is, so that norms are kept."""
        return any(self._are_clipped)

    @torch.no_grad()
    def change(self, values: Tensor, grads: Tensor) -> None:
        """Changes the gradients [K, P] of the parameters [K, P], in place."""
        if self._l1 is not None or self._l2 is not None:
            none = values.new_zeros(self._size, 1)
            add_gradients(values, grads, none if self._l1 is None else self._l1, none if self._l2 is None else self._l2)
        if not self.is_clipped:
            return
        norms = grads.norm(dim=1, keepdim=True)
        self._norms.add(norms.squeeze(1), 1)
        if self._limits is not None:
            factors = self._limits / (norms + 1e-6)  # as torch.nn.utils.clip_grad_norm_ does for each network alone
            grads.mul_(torch.where(self._limits.isinf(), 1.0, factors.clamp(max=1.0)))
        if self._largest is not None:
            grads.clamp_(-self._largest, self._largest)

    def take_norms(self) -> list[float | None] | None:
        """The mean norm of each member's gradients since this was called last; None for those that are not clipped."""
        norms, self._norms = self._norms.compute(), Mean(self._size)
        if norms is None:
            return None
        return [norm if is_clipped else None for norm, is_clipped in zip(norms, self._are_clipped, strict=True)]

    def keep(self, indices: Sequence[int]) -> None:
        """Goes on with some of the members."""
        for index in sorted(set(range(self._size)) - set(indices), reverse=True):
            self._norms.drop(index)
        self._size = len(indices)
        self._are_clipped = [self._are_clipped[index] for index in indices]
        for name in ("_l1", "_l2", "_largest", "_limits"):
            column = getattr(self, name)
            if column is not None:
                setattr(self, name, column[list(indices)])
