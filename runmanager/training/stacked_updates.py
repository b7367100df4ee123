"""The updates of SGD, Adam, AdamW, RMSprop and Adagrad for K members at once.

Each follows torch's single-tensor implementation, with [K, 1] tensors where torch has numbers. In the formulas below a number
of the member is a row of such a tensor, and all else is [K, P].
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.optim import Optimizer

from runmanager.training.stacked_parts import BLOCK, Part, blocks

_BUFFER = "momentum_buffer"


class _WithMomentum(Part):
    """A part whose members may have a momentum of 0, and then no buffer.

    A buffer is at rest while a schedule has the momentum at 0: it is put aside, since the stack's row is overwritten.
    """

    def __init__(self, members: Sequence[Optimizer], group: int, cohort: slice, values: Tensor, grads: Tensor) -> None:
        self.aside: dict[int, Tensor] = {}  # row -> [P]
        self.fresh = torch.ones(len(members), 1, dtype=values.dtype, device=values.device)  # 1: there is no buffer yet
        super().__init__(members, group, cohort, values, grads)

    def _needs(self, of: dict[str, Tensor]) -> set[str]:
        return super()._needs(of) | ({"momentum"} if of["momentum"].any() else set())

    def _load(self) -> None:
        super()._load()
        for row in range(len(self.members)):
            if self._load_row(_BUFFER, row):
                self.fresh[row] = 0
                self.aside[row] = self.state[_BUFFER][row].clone()

    def _changed(self, before: list[tuple[float, ...]], now: list[tuple[float, ...]]) -> None:
        place = self.names.index("momentum")
        for row, numbers in enumerate(now):
            moved, moves = bool(before) and before[row][place] != 0, numbers[place] != 0
            if moved and not moves and not self.fresh[row]:
                self.aside[row] = self.state[_BUFFER][row].clone()
            elif moves and not moved:
                self.state[_BUFFER][row] = self.aside.pop(row, 0)

    def _kept(self, row: int) -> dict[str, Tensor]:
        kept = super()._kept(row)
        if row in self.aside:
            kept[_BUFFER] = self.aside[row]
        elif self.fresh[row]:
            del kept[_BUFFER]
        return kept

    def keep(self, rows: list[int], values: Tensor, grads: Tensor) -> None:
        """See `Part`."""
        self.aside = {new: self.aside[old] for new, old in enumerate(rows) if old in self.aside}
        self.fresh = self.fresh[rows]
        super().keep(rows, values, grads)


class SgdPart(_WithMomentum):
    """buffer = momentum · buffer + (1 - dampening) · grad, or grad the first time; values -= lr · buffer."""

    names = ("lr", "momentum", "dampening", "weight_decay")
    counts_steps = False

    def state_names(self) -> tuple[str, ...]:
        """See `Part`."""
        return (_BUFFER,)

    def _needs(self, of: dict[str, Tensor]) -> set[str]:
        return super()._needs(of) | ({"dampening"} if (of["dampening"] * of["momentum"]).any() else set())

    def _derive(self, of: dict[str, Tensor]) -> dict[str, Tensor]:
        dampening = torch.where(of["momentum"] == 0, 0, of["dampening"])
        return {
            "rate": -of["lr"],
            "weight_decay": of["weight_decay"],
            "momentum": of["momentum"],
            "dampening": dampening,
            "taken": 1 - dampening,
            "still": (of["momentum"] == 0).double(),
        }

    def step(self) -> None:
        """See `Part`."""
        grad = self.gradient()
        if "momentum" in self.ops:
            grad = self._moved(grad)
        self.values.addcmul_(grad, self.numbers["rate"])

    def _moved(self, grad: Tensor) -> Tensor:
        buffer, momentum = self.state[_BUFFER], self.numbers["momentum"]
        taken = grad
        if "dampening" in self.ops:  # a buffer that begins takes its first gradient whole
            share = torch.addcmul(self.numbers["taken"], self.numbers["dampening"], self.fresh)
            taken = torch.mul(grad, share, out=self.room)
        torch.addcmul(taken, buffer, momentum, out=buffer)
        self.fresh.mul_(self.numbers["still"])
        if self.flags["nesterov"]:
            return torch.addcmul(grad, buffer, momentum, out=self.room)
        return buffer


class AdamPart(Part):
    """Adam and AdamW: mean = lerp(mean, grad), square = lerp(square, grad²), values -= lr · corrected mean / (root + eps).

    Where the members agree in betas and eps, torch's fused kernel takes the step of all of them for a rate of 1, and the rates
    follow: half the passes over memory. A captured graph has the betas in it, so `read` tells when they change.
    """

    names = ("lr", "beta1", "beta2", "eps", "weight_decay")

    def state_names(self) -> tuple[str, ...]:
        """See `Part`."""
        return ("exp_avg", "exp_avg_sq", "max_exp_avg_sq") if self.flags["amsgrad"] else ("exp_avg", "exp_avg_sq")

    def read(self) -> bool:
        """See `Part`."""
        before, changed = self.table, super().read()
        in_graph = slice(1, 4)  # beta1, beta2, eps
        return changed or ("apart" not in self.ops and bool(before) and before[0][in_graph] != self.table[0][in_graph])

    def _needs(self, of: dict[str, Tensor]) -> set[str]:
        decays = bool(of["weight_decay"].any())
        needs = {"shrink" if self.flags["decoupled_weight_decay"] else "decay"} if decays else set()
        agree = all(of[name].eq(of[name][0]).all() for name in ("beta1", "beta2", "eps"))
        return needs if agree else needs | {"apart"}

    def _derive(self, of: dict[str, Tensor]) -> dict[str, Tensor]:
        return {
            "lr": of["lr"],
            "weight_decay": of["weight_decay"],
            "shrunk": 1 - of["lr"] * of["weight_decay"],
            "first": 1 - of["beta1"],
            "second": 1 - of["beta2"],
            "eps": of["eps"],  # from here on as `_corrected` takes them
            "rate": -of["lr"],
            "beta1": of["beta1"],
            "beta2": of["beta2"],
        }

    def step(self) -> None:
        """See `Part`."""
        self.steps.add_(1)
        grad = self.gradient()
        if "shrink" in self.ops:
            self.values.mul_(self.numbers["shrunk"])
        if "apart" in self.ops:
            self._step_apart(grad)
        else:
            self._step_fused()

    def _attach(self, values: Tensor, grads: Tensor) -> None:
        super()._attach(values, grads)
        if self.gradient_room is None and not grads.is_contiguous():
            self._make_gradient_room()  # the fused kernel takes what lies in one piece
        self.state_blocks = [blocks(self.state[name]) for name in self.state_names()]
        self.room_blocks = blocks(self.room)
        if self.gradient_room is None:
            self._cut_gradients(grads.view(-1))

    def _make_gradient_room(self) -> Tensor:
        room = super()._make_gradient_room()
        self.gradient_blocks = blocks(room)
        return room

    def _cut_gradients(self, flat: Tensor) -> None:
        """The gradients belong to the stack and have no room behind the last, so each step copies their rest to a block."""
        block = flat.new_zeros(BLOCK)
        whole, self.rest = flat.split([len(flat) // BLOCK * BLOCK, len(flat) % BLOCK])
        self.rest_in_block = block[: len(self.rest)]
        self.gradient_blocks = [whole, block] if len(whole) else [block]

    def gradient(self) -> Tensor:
        """See `Part`."""
        grad = super().gradient()
        if grad is not self.grads:
            return grad
        if self.gradient_room is not None:
            return self.gradient_room.copy_(grad)
        self.rest_in_block.copy_(self.rest)
        return grad

    def _step_fused(self) -> None:
        _, beta1, beta2, eps, _ = self.table[0]
        means, squares, *most = self.state_blocks
        self.room.zero_()
        torch._fused_adam_(
            self.room_blocks,
            self.gradient_blocks,
            means,
            squares,
            most[0] if most else [],
            [self.steps] * len(self.room_blocks),
            lr=1.0,
            beta1=beta1,
            beta2=beta2,
            weight_decay=0.0,
            eps=eps,
            amsgrad=bool(most),
            maximize=False,
        )
        self.values.addcmul_(self.room, self.numbers["lr"])

    def _step_apart(self, grad: Tensor) -> None:
        """With eps inside the corrected root: m / (√v / root + eps) = m · root / (√v + eps · root), a pass less."""
        mean, square, *most = self.state.values()
        mean.lerp_(grad, self.numbers["first"])
        square.lerp_(torch.mul(grad, grad, out=self.room), self.numbers["second"])
        if most:
            square = torch.maximum(most[0], square, out=most[0])
        offset, rate = self._corrected()
        torch.sqrt(square, out=self.room).add_(offset)
        self.values.addcmul_(torch.div(mean, self.room, out=self.room), rate)

    def _corrected(self) -> tuple[Tensor, Tensor]:
        """What is added to √v, and the rate, for the step that is being taken; each [K, 1]."""
        first, second = (1 - torch.pow(self._exact[-2:], self.steps)).unbind()  # of the betas
        scaled = self._exact[-4:-2] * second.sqrt_()  # eps and the rate
        scaled[1].div_(first)
        offset, rate = scaled.to(self.values.dtype).unbind()
        return offset, rate


class RmspropPart(_WithMomentum):
    """square = alpha · square + (1 - alpha) · grad²; values -= lr · grad / (root + eps), or by a buffer of these."""

    names = ("lr", "alpha", "eps", "weight_decay", "momentum")

    def state_names(self) -> tuple[str, ...]:
        """See `Part`."""
        return ("square_avg", _BUFFER, "grad_avg") if self.flags["centered"] else ("square_avg", _BUFFER)

    def _derive(self, of: dict[str, Tensor]) -> dict[str, Tensor]:
        return {
            "rate": -of["lr"],
            "weight_decay": of["weight_decay"],
            "alpha": of["alpha"],
            "new": 1 - of["alpha"],
            "eps": of["eps"],
            "momentum": of["momentum"],
            "still": (of["momentum"] == 0).double(),
        }

    def step(self) -> None:
        """See `Part`."""
        self.steps.add_(1)
        grad = self.gradient()
        step = torch.div(grad, self._root(grad).add_(self.numbers["eps"]), out=self.room)
        if "momentum" in self.ops:
            step = torch.addcmul(step, self.state[_BUFFER], self.numbers["momentum"], out=self.state[_BUFFER])
            self.fresh.mul_(self.numbers["still"])
        self.values.addcmul_(step, self.numbers["rate"])

    def _root(self, grad: Tensor) -> Tensor:
        """Rounded as torch rounds it: the variance is a small difference of large numbers."""
        square = self.state["square_avg"].mul_(self.numbers["alpha"])
        square.addcmul_(torch.mul(grad, self.numbers["new"], out=self.room), grad)
        if not self.flags["centered"]:
            return torch.sqrt(square, out=self.room)
        mean = self.state["grad_avg"].lerp_(grad, self.numbers["new"])
        return torch.addcmul(square, mean, mean, value=-1, out=self.room).sqrt_()


class AdagradPart(Part):
    """sum += grad²; values -= lr / (1 + lr_decay · steps before) · grad / (root + eps)."""

    names = ("lr", "lr_decay", "eps", "weight_decay")

    def state_names(self) -> tuple[str, ...]:
        """See `Part`."""
        return ("sum",)

    def _needs(self, of: dict[str, Tensor]) -> set[str]:
        return super()._needs(of) | ({"slowing"} if of["lr_decay"].any() else set())

    def _derive(self, of: dict[str, Tensor]) -> dict[str, Tensor]:
        return {"rate": -of["lr"], "weight_decay": of["weight_decay"], "eps": of["eps"], "lr_decay": of["lr_decay"]}

    def step(self) -> None:
        """See `Part`."""
        grad = self.gradient()
        total = self.state["sum"].addcmul_(grad, grad)
        root = torch.sqrt(total, out=self.room).add_(self.numbers["eps"])
        self.values.addcmul_(torch.div(grad, root, out=root), self._rate())
        self.steps.add_(1)

    def _rate(self) -> Tensor:
        if "slowing" not in self.ops:
            return self.numbers["rate"]
        slower = self.exact["lr_decay"].mul(self.steps).add_(1)
        return torch.div(self.exact["rate"], slower).to(self.values.dtype)
