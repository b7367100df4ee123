"""Parameters of one param group of K optimizers as one: their columns of the stack, their state and hyperparameters."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import Parameter
from torch.optim import Optimizer

# A fused kernel rounds what is left over behind the last full vector in another way. Blocks of this many numbers leave nothing
# over on any processor, so that a member's bits do not depend on its place in the stack.
BLOCK = 64


def trained(optimizer: Optimizer, group: int) -> list[Parameter]:
    """The parameters of a group that are trained, in the order in which a row of the stack holds them."""
    return [one for one in optimizer.param_groups[group]["params"] if one.requires_grad]


def zeros(like: Tensor) -> Tensor:
    """Zeros [K, P] in one piece, with room behind the last for the rest of a block."""
    return like.new_zeros((like.numel() // BLOCK + 1) * BLOCK)[: like.numel()].view(like.shape)


def blocks(tensor: Tensor) -> list[Tensor]:
    """What `zeros` made as flat tensors: its whole blocks, where there are any, and one block with the rest."""
    whole = tensor.numel() // BLOCK * BLOCK
    pieces = tensor.as_strided((whole + BLOCK,), (1,)).split([whole, BLOCK])
    return [one for one in pieces if len(one)]


def cohorts(optimizers: Sequence[Optimizer], group: int) -> Iterator[slice]:
    """Which of a group's trained parameters, one behind the other, have taken their first step together.

    What was thawed later has done fewer steps, or has no state yet.
    """
    each = zip(*(trained(one, group) for one in optimizers), strict=True)
    ages = [[_age(one.state.get(param, {})) for one, param in zip(optimizers, params, strict=True)] for params in each]
    start = 0
    for _, same in groupby(ages):
        stop = start + len(list(same))
        yield slice(start, stop)
        start = stop


def _age(state: dict[str, Any]) -> tuple[float, list[str]]:
    return float(state.get("step") or 0), sorted(name for name, value in state.items() if value is not None)


class Part:
    """Parameters of one param group of all K members, which have taken their first step together.

    All that a step changes is a tensor of the stack's device, so a step waits for nothing and can be captured as a CUDA graph.
    A member's hyperparameters are its own row of [K, 1] tensors whether or not the others have the same: its numbers do not
    depend, by one bit, on who is beside it.
    """

    names: ClassVar[tuple[str, ...]]  # of the hyperparameters; betas counts as beta1 and beta2
    counts_steps: ClassVar[bool] = True

    def __init__(self, members: Sequence[Optimizer], group: int, cohort: slice, values: Tensor, grads: Tensor) -> None:
        self.members, self.group = list(members), group
        self.parameters = [trained(one, group)[cohort] for one in members]
        self.flags = members[0].param_groups[group]
        self.maximize = bool(self.flags.get("maximize"))
        self.steps = torch.zeros((), device=values.device)  # float32, as torch has it
        self.state = {name: zeros(values) for name in self.state_names()}  # each [K, P]
        self.ops: set[str] = set()  # what a step does for any member; it never shrinks, so that no bit changes by it
        self.table: list[tuple[float, ...]] = []  # one row for each member, as last read
        self._attach(values, grads)
        self._load()

    def state_names(self) -> tuple[str, ...]:
        """What all members keep for each parameter, under torch's names."""
        raise NotImplementedError

    def step(self) -> None:
        """One step of all members, in place."""
        raise NotImplementedError

    def _derive(self, of: dict[str, Tensor]) -> dict[str, Tensor]:
        """From the hyperparameters, each float64 [K, 1] on the CPU, the numbers that a step takes, of the same shape."""
        raise NotImplementedError

    def _needs(self, of: dict[str, Tensor]) -> set[str]:
        """The ways of a step that these hyperparameters take."""
        return {"decay"} if of["weight_decay"].any() else set()

    def _attach(self, values: Tensor, grads: Tensor) -> None:
        """Takes the columns [K, P] of the stack that belong to this group, and makes room for what a step computes."""
        self.values, self.grads = values, grads
        self.room = zeros(values)
        self.gradient_room: Tensor | None = None
        if self.maximize or "decay" in self.ops:
            self._make_gradient_room()

    def _make_gradient_room(self) -> Tensor:
        self.gradient_room = zeros(self.values)
        return self.gradient_room

    # hyperparameters

    def read(self) -> bool:
        """Reads the hyperparameters anew; whether a step now runs other operations than before."""
        table = [self._row(one.param_groups[self.group]) for one in self.members]
        if table == self.table:
            return False
        before, self.table = self.table, table
        columns = torch.tensor(table, dtype=torch.float64).t()  # [names, K]
        of = {name: column[:, None] for name, column in zip(self.names, columns, strict=True)}
        self._changed(before, table)
        derived = self._derive(of)
        block = torch.stack(list(derived.values()))  # [n, K, 1]
        if not before:
            self._make_numbers(tuple(derived), block.shape)
        self._exact.copy_(block)
        self._rounded.copy_(block)
        return self._grow(self._needs(of))

    def _row(self, group: dict[str, Any]) -> tuple[float, ...]:
        betas = group.get("betas")
        whole = group if betas is None else {**group, "beta1": betas[0], "beta2": betas[1]}
        return tuple([float(whole[name]) for name in self.names])

    def _changed(self, before: list[tuple[float, ...]], now: list[tuple[float, ...]]) -> None:
        """Called with the rows of hyperparameters when they are other than before."""

    def _make_numbers(self, names: tuple[str, ...], shape: Sequence[int]) -> None:
        """The tensors that every `read` fills: a captured graph finds the new numbers in them."""
        self._exact = torch.zeros(shape, dtype=torch.float64, device=self.values.device)
        self._rounded = torch.zeros(shape, dtype=self.values.dtype, device=self.values.device)
        self.exact: dict[str, Tensor] = dict(zip(names, self._exact, strict=True))  # each [K, 1], float64
        self.numbers: dict[str, Tensor] = dict(zip(names, self._rounded, strict=True))  # the same as the values' dtype

    def _grow(self, needs: set[str]) -> bool:
        if needs <= self.ops:
            return False
        self.ops |= needs
        if "decay" in self.ops and self.gradient_room is None:
            self._make_gradient_room()
        return True

    # what the steps have in common

    def gradient(self) -> Tensor:
        """[K, P] what the update reads: the gradients, turned round by maximize, with the weight decay in them."""
        if self.gradient_room is None:
            return self.grads
        grads = torch.neg(self.grads, out=self.gradient_room) if self.maximize else self.grads
        if "decay" in self.ops:
            return torch.addcmul(grads, self.values, self.numbers["weight_decay"], out=self.gradient_room)
        return grads

    # state

    def _load(self) -> None:
        """Takes over what the members' optimizers bring along."""
        done = {steps for row in range(len(self.members)) for steps in self._steps_of(row)} or {0.0}
        if len(done) > 1:
            raise ValueError(
                f"the optimizers of a group have to be at the same step, but theirs have done {sorted(map(int, done))} steps; "
                "put only runs of the same epoch into a group"
            )
        self.steps.fill_(done.pop())
        for name in self.state:
            for row in range(len(self.members)):
                self._load_row(name, row)

    def _steps_of(self, row: int) -> set[float]:
        if not self.counts_steps:
            return set()
        return {float(steps or 0) for steps in self._found("step", row)}

    def _found(self, name: str, row: int) -> list[Any]:
        """What a member's optimizer has under this name for each parameter; None for those without."""
        state = self.members[row].state
        return [state.get(one, {}).get(name) for one in self.parameters[row]]

    def _load_row(self, name: str, row: int) -> bool:
        """Whether the member has the state; where it has none the row stays as it is."""
        found = self._found(name, row)
        if all(one is None for one in found):
            return False
        if any(one is None for one in found):
            raise ValueError(
                f"an optimizer has {name!r} for some parameters of group {self.group} only; it has to train alone"
            )
        self.state[name][row] = torch.cat([one.reshape(-1) for one in found])
        return True

    def write_back(self, rows: Iterable[int]) -> None:
        """Gives the members' optimizers the state that they would have, had they trained alone."""
        steps = self.steps.item()
        for row in rows:
            own = self.members[row].state
            for one, state in zip(self.parameters[row], self._pieces(row), strict=True):
                if self.counts_steps and (steps or one in own):
                    own[one].update(step=self._step_tensor(row, one, steps), **state)
                elif state and not self.counts_steps:
                    own[one].update(state)

    def _kept(self, row: int) -> dict[str, Tensor]:
        """The member's own row [P] of each state that it has."""
        return {name: state[row] for name, state in self.state.items()}

    def _pieces(self, row: int) -> list[dict[str, Tensor]]:
        """The state of each parameter of a member. They share a copy of its row: a checkpoint holds that, not the stack."""
        kept = {name: state.clone() for name, state in self._kept(row).items()}
        shapes = [one.shape for one in self.parameters[row]]
        cut = {name: state.split([shape.numel() for shape in shapes]) for name, state in kept.items()}
        return [{name: cut[name][i].view(shape) for name in cut} for i, shape in enumerate(shapes)]

    def _step_tensor(self, row: int, parameter: Parameter, steps: float) -> Tensor:
        """One of its own for each parameter, of the dtype and on the device where torch keeps it."""
        before = self.members[row].state[parameter].get("step")
        if isinstance(before, Tensor):
            return torch.full_like(before, steps)
        flags = self.members[row].param_groups[self.group]
        fused = bool(flags.get("fused"))
        on_device = fused or bool(flags.get("capturable"))
        double = torch.get_default_dtype() == torch.float64 and not fused
        dtype = torch.float64 if double else torch.float32
        return torch.tensor(steps, dtype=dtype, device=parameter.device if on_device else None)

    def keep(self, rows: list[int], values: Tensor, grads: Tensor) -> None:
        """The other members leave; the state and the numbers of those that stay are moved, not changed."""
        self.members = [self.members[row] for row in rows]
        self.flags = self.members[0].param_groups[self.group]
        self.parameters = [self.parameters[row] for row in rows]
        self.table = [self.table[row] for row in rows]
        for name, state in self.state.items():
            self.state[name] = zeros(values)
            self.state[name].copy_(state[rows])
        exact, rounded = self._exact[:, rows], self._rounded[:, rows]
        self._attach(values, grads)
        self._make_numbers(tuple(self.numbers), exact.shape)
        self._exact.copy_(exact)
        self._rounded.copy_(rounded)
