"""K ordinary torch optimizers that take their steps at once, on one tensor with a row for each."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter
from torch.optim import SGD, Adagrad, Adam, AdamW, Optimizer, RMSprop
from torch.optim.optimizer import _global_optimizer_post_hooks, _global_optimizer_pre_hooks

from runmanager.training.stacked_parts import Part, cohorts, trained
from runmanager.training.stacked_updates import AdagradPart, AdamPart, RmspropPart, SgdPart

_PARTS: dict[type, type[Part]] = {
    SGD: SgdPart,
    Adam: AdamPart,
    AdamW: AdamPart,
    RMSprop: RmspropPart,
    Adagrad: AdagradPart,
}
_FLAGS = ("nesterov", "amsgrad", "centered", "maximize", "decoupled_weight_decay")  # each chooses other operations
_DTYPES = (torch.float32, torch.float64)
_HOOKS = (
    "_optimizer_step_pre_hooks",
    "_optimizer_step_post_hooks",
    "_optimizer_state_dict_pre_hooks",
    "_optimizer_state_dict_post_hooks",
)


def refusal(optimizer: Optimizer) -> str | None:
    """Why an optimizer cannot take its steps in a stack, in plain words; None where it can."""
    return next(_reasons(optimizer), None)


def _reasons(optimizer: Optimizer) -> Iterator[str]:
    kind = type(optimizer)
    if kind not in _PARTS:
        yield f"{kind.__name__} has no batched form; {', '.join(one.__name__ for one in _PARTS)} have one"
        return
    if any(getattr(optimizer, name, None) for name in _HOOKS):
        yield f"the {kind.__name__} optimizer has hooks"
    if _global_optimizer_pre_hooks or _global_optimizer_post_hooks:
        yield "hooks are registered for all optimizers"
    if "step" in vars(optimizer) and not hasattr(optimizer.step, "_wrapped_by_lr_sched"):
        yield f"the {kind.__name__} optimizer's step was replaced"
    for index, group in enumerate(optimizer.param_groups):
        yield from _group_reasons(group, trained(optimizer, index))
    yield from _parameter_reasons(trained_parameters(optimizer))


def _group_reasons(group: dict[str, Any], parameters: list[Parameter]) -> Iterator[str]:
    if group.get("differentiable"):
        yield "the optimizer has differentiable=True"
    if group.get("capturable") and any(one.device.type == "cpu" for one in parameters):
        yield "the optimizer has capturable=True, and its parameters are on the CPU"
    numbers = [*group.values(), *group.get("betas", ())]
    if any(isinstance(one, Tensor) and one.requires_grad for one in numbers):
        yield "a hyperparameter of the optimizer is trained itself"


def _parameter_reasons(parameters: list[Parameter]) -> Iterator[str]:
    if not parameters:
        yield "the optimizer has no parameter that is trained"
    for one in parameters:
        if one.layout != torch.strided or (one.grad is not None and one.grad.layout != torch.strided):
            yield "a parameter or its gradient is sparse"
        if one.dtype not in _DTYPES:
            yield f"a parameter is {_short(one.dtype)}; float32 and float64 have a batched form"
    if len({(one.dtype, one.device) for one in parameters}) > 1:
        yield "the optimizer's parameters have several dtypes or devices"


def trained_parameters(optimizer: Optimizer) -> list[Parameter]:
    """The parameters that a row of the stack holds, in its order: group after group, without those that are frozen."""
    return [one for index in range(len(optimizer.param_groups)) for one in trained(optimizer, index)]


def structure(optimizer: Optimizer) -> str:
    """What the optimizers of a stack have to agree in: class, groups, shapes, dtypes and flags. Rates and the like may differ."""
    groups = enumerate(optimizer.param_groups)
    return "; ".join(
        [type(optimizer).__name__, *(_group_structure(optimizer, index, group) for index, group in groups)]
    )


def _group_structure(optimizer: Optimizer, index: int, group: dict[str, Any]) -> str:
    flags = [f"{name}={bool(group[name])}" for name in _FLAGS if name in group]
    shapes = ["×".join(map(str, one.shape)) + f" {_short(one.dtype)}" for one in trained(optimizer, index)]
    return f"group {index} ({', '.join(flags)}): {', '.join(shapes)}"


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


class StackedOptimizer:
    """K optimizers that take their steps at once, in place on a tensor that holds the parameters of all.

    The hyperparameters are read from the members' own optimizers, which stay as they are until `write_back`. A step does not
    wait for the device. Where it is captured as a CUDA graph, `read` reaches the graph; capture it anew after `keep`, and
    whenever `read` returns True.
    """

    def __init__(self, optimizers: Sequence[Optimizer], values: Tensor, grads: Tensor) -> None:
        _check(optimizers, values, grads)
        part = _PARTS[type(optimizers[0])]
        places = list(_places(optimizers))
        self._columns = [columns for *_, columns in places]
        self._parts = [
            part(optimizers, group, cohort, values[:, columns], grads[:, columns]) for group, cohort, columns in places
        ]
        for one in optimizers:
            one._opt_called = True  # type: ignore[attr-defined]  # else its schedule warns that no step came before it
        self.read()

    def __len__(self) -> int:
        """K."""
        return len(self._parts[0].members)

    @torch.no_grad()
    def read(self) -> bool:
        """Reads each member's hyperparameters from its own optimizer; call it after the schedules of an epoch.

        Returns:
            whether a step now runs other operations than before, as when the first member begins to decay its weights.
        """
        changed = [part.read() for part in self._parts]  # all of them, also behind the first that changed
        return any(changed)

    @torch.no_grad()
    def step(self) -> None:
        """One step of all members, in place on the values, by the gradients."""
        for part in self._parts:
            part.step()

    @torch.no_grad()
    def write_back(self, indices: Iterable[int] | None = None) -> None:
        """Gives the members' optimizers (all, or those at `indices`) the state they would have, had they trained alone.

        It is a copy, which later steps do not change. Waits for the device.
        """
        rows = list(range(len(self)) if indices is None else indices)
        for part in self._parts:
            part.write_back(rows)

    @torch.no_grad()
    def keep(self, indices: list[int], values: Tensor, grads: Tensor) -> None:
        """Only the members at `indices` go on, in this order; `values` and `grads` are their rows.

        Those who leave get no state by this: call `write_back` before it. The numbers of those who stay are moved, not changed.
        """
        if len(indices) != len(values):
            raise ValueError(f"{len(indices)} members stay, but values has {len(values)} rows; give it one for each")
        for part, columns in zip(self._parts, self._columns, strict=True):
            part.keep(indices, values[:, columns], grads[:, columns])


def _places(optimizers: Sequence[Optimizer]) -> Iterator[tuple[int, slice, slice]]:
    """Each part of a stack: its group, which of that group's trained parameters, and their columns."""
    start = 0
    first = optimizers[0]
    for group in range(len(first.param_groups)):
        for cohort in cohorts(optimizers, group):
            stop = start + sum(one.numel() for one in trained(first, group)[cohort])
            yield group, cohort, slice(start, stop)
            start = stop


def stacked(optimizers: Sequence[Optimizer], values: Tensor, grads: Tensor) -> StackedOptimizer:
    """The optimizers of K members as one. A member may bring state along, as from a checkpoint; it is taken over.

    Args:
        optimizers: one for each member, all of the same `structure` and none with a `refusal`.
        values: [K, P], the members' parameters; a row holds `trained_parameters` one behind the other.
        grads: [K, P], where their gradients are.

    Raises:
        ValueError: the optimizers do not go together, or have done different numbers of steps.
    """
    return StackedOptimizer(optimizers, values, grads)


def _check(optimizers: Sequence[Optimizer], values: Tensor, grads: Tensor) -> None:
    for row, one in enumerate(optimizers):
        if reason := refusal(one):
            raise ValueError(f"optimizer {row} of the group cannot be stacked: {reason}; let its run train alone")
    first, *others = map(structure, optimizers)
    for row, other in enumerate(others, 1):
        if other != first:
            raise ValueError(
                f"optimizer {row} of the group is {other!r}, but optimizer 0 is {first!r}; put them into two groups"
            )
    parameters = trained_parameters(optimizers[0])
    shape, dtype = [len(optimizers), sum(one.numel() for one in parameters)], parameters[0].dtype
    for name, tensor in (("values", values), ("grads", grads)):
        if list(tensor.shape) != shape or tensor.dtype != dtype:
            found = f"{list(tensor.shape)} {_short(tensor.dtype)}"
            raise ValueError(f"{name} is {found}, but the optimizers' parameters take {shape} {_short(dtype)}")
