"""Precision and speed of a step: half precision, channels last, compiled networks, batches gone through in pieces."""

import os
import shutil
import sys
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn import Conv2d, ConvTranspose2d, Module
from torch.nn.parameter import is_lazy
from torch.optim import Optimizer

from runmanager.training.recipes.naming import unknown
from runmanager.training.settings import TrainerError

_DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16}
_MODES = ("default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs")


class Precision:
    """Forward and loss in bfloat16, where torch holds it safe; it has the range of float32 and needs no scaler."""

    skips_steps = False
    """Whether a step may not be taken, for gradients that are too large for the precision."""

    def __init__(self, device: torch.device, dtype: torch.dtype = torch.bfloat16) -> None:
        self._device, self.dtype = device, dtype

    def autocast(self) -> AbstractContextManager[Any]:
        """Where forward and loss are computed."""
        return torch.amp.autocast(self._device.type, self.dtype)

    def backward(self, loss: Tensor) -> None:
        """The gradients of a loss, added to those that are there."""
        loss.backward()

    def before_clip(self, optimizer: Optimizer) -> None:
        """Makes the gradients those of the loss itself; call it once, after the last `backward`, where gradients are looked at."""

    def step(self, optimizer: Optimizer) -> None:
        """The optimizer's step."""
        optimizer.step()

    @property
    def num_skipped(self) -> int:
        """Steps that were not taken, for gradients that were too large for the precision; waits for the device."""
        return 0

    def skipped_steps(self) -> dict[str, float]:
        """`skipped steps`, counted since this was asked last; nothing, where no step can be skipped. Waits for the device."""
        return {}

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs of it; nothing, where there is no scaler."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Puts back what `state_dict` returned.

        Raises:
            TrainerError: it is the state of another precision.
        """
        if state:
            raise TrainerError("the checkpoint has a gradient scaler, and the run has none now; put amp='fp16' back")


class ScaledPrecision(Precision):
    """Forward and loss in float16. The loss is scaled up, so that small gradients are not lost.

    A step whose gradients are infinite or NaN is skipped, and the next loss is scaled up less: the first steps of a run
    often are. On a GPU torch waits for the gradients of each step to see whether it has to be skipped.
    """

    skips_steps = True

    def __init__(self, device: torch.device) -> None:
        super().__init__(device, torch.float16)
        self._scaler = torch.amp.GradScaler(device.type)
        self._num_skipped = torch.zeros((), device=device)  # there, so that counting does not wait
        self._num_told = 0

    def backward(self, loss: Tensor) -> None:
        """See `Precision`."""
        self._scaler.scale(loss).backward()

    def before_clip(self, optimizer: Optimizer) -> None:
        """See `Precision`."""
        self._scaler.unscale_(optimizer)

    def step(self, optimizer: Optimizer) -> None:
        """See `Precision`."""
        self._scaler.step(optimizer)
        for is_infinite in self._scaler._found_inf_per_device(optimizer).values():  # 0 or 1, on the device
            self._num_skipped += is_infinite
        self._scaler.update()

    @property
    def num_skipped(self) -> int:
        """See `Precision`."""
        return int(self._num_skipped.item())

    def skipped_steps(self) -> dict[str, float]:
        """See `Precision`."""
        before, self._num_told = self._num_told, self.num_skipped
        return {"skipped steps": self._num_told - before}

    def state_dict(self) -> dict[str, Any]:
        """See `Precision`."""
        return {"scaler": self._scaler.state_dict(), "num_skipped": self.num_skipped}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """See `Precision`."""
        if not state:
            raise TrainerError("amp='fp16' is set, but the checkpoint has no gradient scaler; put amp back as it was")
        self._scaler.load_state_dict(dict(state["scaler"]))
        self._num_skipped.fill_(state["num_skipped"])
        self._num_told = state["num_skipped"]


def precision_of(amp: str, device: torch.device) -> Precision:
    """The precision of a run's steps.

    Args:
        amp: "fp16" or "bf16".
        device: where the run is trained.

    Raises:
        TrainerError: there is none of that name, or the device cannot do it.
    """
    fault = amp_fault(amp, device)
    if fault:
        raise TrainerError(fault)
    return ScaledPrecision(device) if amp == "fp16" else Precision(device)


def amp_fault(amp: Any, device: torch.device) -> str | None:
    """What is wrong with a precision on a device, or None."""
    if amp is None:
        return None
    if amp not in _DTYPES:
        return unknown("amp", amp, _DTYPES) + "; None is the network's own precision"
    if _can(device, _DTYPES[amp]):
        return None
    choices = [repr(name) for name, dtype in _DTYPES.items() if _can(device, dtype)]
    return f"amp={amp!r} cannot be had on {device.type}; choose {' or '.join([*choices, 'None'])}"


def _can(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether autocast computes in this type there; it is tried, for that depends on device, driver and system."""
    try:
        ones = torch.ones(2, 2, device=device)
        with torch.amp.autocast(device.type, dtype):
            return (ones @ ones).dtype == dtype
    except (RuntimeError, TypeError, AssertionError):  # the last where torch was built without the device
        return False


def channels_last(network: Module) -> str | None:
    """Lays the weights of two-dimensional convolutions out with the channels last, in place.

    Names, values and shapes stay as they are. Its inputs are to be given by `inputs_channels_last`.

    Returns:
        A line to show where this does nothing.
    """
    layers = [layer for layer in network.modules() if isinstance(layer, (Conv2d, ConvTranspose2d))]
    for layer in layers:
        if not is_lazy(layer.weight):  # it takes the layout of its first inputs
            layer.to(memory_format=torch.channels_last)
    return None if layers else f"channels_last does nothing for {type(network).__name__}, which has no Conv2d"


def inputs_channels_last(inputs: Tensor) -> Tensor:
    """Inputs [N, C, H, W] with the channels last in memory; others as they are."""
    return inputs.to(memory_format=torch.channels_last) if inputs.ndim == 4 else inputs


def compiled(network: Module, how: bool | str, device: torch.device) -> None:
    """Compiles a network's forward in place; what it calls, its names, hooks and copies stay those of the network.

    The compiler is at work in the first batches. Each shape of a batch is compiled for itself and what other runs left in the
    process is forgotten: the numbers of a run then depend neither on the runs before it nor on where it is resumed. After
    some eight shapes torch goes on without compiling. A copy of the network is not compiled.

    Args:
        network: what is trained.
        how: True or a mode of torch.compile; False for not at all.
        device: where it is trained.

    Raises:
        TrainerError: there is no such mode, or no compiler on this machine.
    """
    check_compiler(network, how, device)
    if how:
        torch.compiler.reset()
        network.compile(mode="default" if how is True else how, dynamic=False)


def check_compiler(network: Module, how: Any, device: torch.device) -> None:
    """Does all of `compiled` but compiling: refuses what cannot be.

    Raises:
        TrainerError: there is no such mode, or no compiler on this machine.
    """
    fault = compile_fault(how, device)
    if fault:
        raise TrainerError(fault)


def compile_fault(how: Any, device: torch.device) -> str | None:
    """What is wrong with a way to compile on a device, or None. Nothing is compiled to find out."""
    if how is None or isinstance(how, bool):
        return _no_compiler(device) if how else None
    if how not in _MODES:
        return unknown("compile", how, _MODES) + "; or True, which is 'default'"
    return _no_compiler(device)


def _no_compiler(device: torch.device) -> str | None:
    """What is missing of the compiler that torch.compile has its code for a CPU or a GPU built by."""
    if sys.platform == "win32":
        return None  # there it is found by the registry
    variable, usual = ("CC", ["gcc", "clang", "cc"]) if device.type == "cuda" else ("CXX", [_usual_cxx()])
    names = [os.environ[variable]] if variable in os.environ else usual
    if any(name and shutil.which(name) for name in names):
        return None
    return (
        f"compile needs a compiler, and {' or '.join(map(repr, names))} is not on this machine; "
        f"install {usual[0]}, let {variable} name one, or leave compile out"
    )


def _usual_cxx() -> str:
    return "clang++" if sys.platform == "darwin" else "g++"


def pieces(inputs: Tensor, targets: Tensor, accumulate: int, dim: int = 0) -> Iterator[tuple[Tensor, Tensor, float]]:
    """A batch in pieces of nearly the same size, none of them empty, each with its share of the batch.

    Where the loss is a mean over samples, the gradients of `share * loss` of all pieces add up to those of the whole
    batch. They do not where samples meet: BatchNorm normalises, and counts, each piece for itself; a loss with class
    weights is divided by the weights in the piece instead of those in the batch; and so with targets that are ignored.

    Args:
        inputs: those of a batch, [N, ...].
        targets: theirs, [N, ...].
        accumulate: how many pieces; a batch of fewer samples has one for each.
        dim: that of the samples; 1 for the batches [K, N, ...] of a group.
    """
    size = targets.shape[dim]
    num_pieces = max(1, min(accumulate, size))
    parts = zip(inputs.tensor_split(num_pieces, dim), targets.tensor_split(num_pieces, dim), strict=True)
    for some_inputs, some_targets in parts:
        yield some_inputs, some_targets, some_targets.shape[dim] / max(1, size)


@contextmanager
def cudnn_benchmark(is_on: bool) -> Iterator[None]:
    """Whether cuDNN tries its algorithms on the first batch of each shape and keeps the fastest; put back at the end."""
    before = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = is_on
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = before
