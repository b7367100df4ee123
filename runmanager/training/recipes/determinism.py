"""The strict mode: the same bits each time, and what stands in their way."""

import os
import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch

_WORKSPACE = "CUBLAS_WORKSPACE_CONFIG"
_FIXED = ":4096:8"  # as cuBLAS's manual has it for the same results in several streams

_INSTEAD = {  # how torch's operations begin, and what has no such fault
    "put_": "scatter_ or index_put_",
    "max_unpool": "ConvTranspose2d or interpolate",
    "adaptive_avg_pool": "AvgPool2d with a kernel of fixed size, or mean((-2, -1))",
    "adaptive_max_pool": "MaxPool2d with a kernel of fixed size, or amax((-2, -1))",
    "fractional_max_pool": "MaxPool2d",
    "avg_pool3d": "a strided Conv3d",
    "upsample_": "ConvTranspose2d or interpolate(mode='nearest')",
    "reflection_pad": "zero padding",
    "grid_sampler": "another sampling",
    "histc": "counts from the CPU",
    "bincount": "a sum over one_hot",
    "kthvalue": "sort",
    "median": "sort or quantile",
    "embedding_bag": "Embedding and amax",
}
_is_fixed = False  # whether cuBLAS can only have started with its workspace fixed
_NAMED = re.compile(r"(\S+) does not have a deterministic implementation")


@contextmanager
def strict(is_on: bool = True) -> Iterator[list[str]]:
    """Has torch choose deterministic algorithms and raise where there is none; all is put back at the end.

    Memory that nobody has written is filled, too, and cuDNN tries nothing out, whatever cudnn_benchmark says. cuBLAS reads
    its own variable when it starts, so begin before the first operation on a GPU.

    Yields:
        Lines to show about what this came too late for.
    """
    if not is_on:
        yield []
        return
    with _deterministic(warn_only=False), workspace() as late:
        yield late


@contextmanager
def _deterministic(warn_only: bool) -> Iterator[None]:
    cudnn, memory = torch.backends.cudnn, cast(Any, torch.utils.deterministic)
    mode, warned = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    flags = cudnn.deterministic, cudnn.benchmark, memory.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True, warn_only=warn_only)
    cudnn.deterministic, cudnn.benchmark, memory.fill_uninitialized_memory = True, False, True
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(mode, warn_only=warned)
        cudnn.deterministic, cudnn.benchmark, memory.fill_uninitialized_memory = flags


@contextmanager
def workspace() -> Iterator[list[str]]:
    """Sets cuBLAS's variable where nobody has; it has to be set when cuBLAS starts, at the first operation on a GPU.

    Yields:
        Lines to show where it may have started before that.
    """
    global _is_fixed
    if _WORKSPACE in os.environ:
        yield []
        return
    _is_fixed = _is_fixed or not torch.cuda.is_initialized()
    os.environ[_WORKSPACE] = _FIXED
    try:
        yield [] if _is_fixed else [_too_late()]
    finally:
        os.environ.pop(_WORKSPACE, None)
        _is_fixed = _is_fixed and torch.cuda.is_initialized()  # else it starts later, without


def _too_late() -> str:
    return (
        "deterministic: the GPU was in use before this run, and cuBLAS may have started without its fixed workspace; "
        f"set {_WORKSPACE}={_FIXED} before Python starts"
    )


def faults(step: Callable[[], object]) -> list[str]:
    """The operations of a training step that have no deterministic algorithm, a line for each.

    Args:
        step: takes one step, on a network that may be changed by it.
    """
    with _deterministic(warn_only=True), workspace(), warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        step()
    found = {_fault(str(warning.message)): None for warning in caught}
    return [fault for fault in found if fault]


def _fault(text: str) -> str | None:
    """What one of torch's warnings says, in a line; None where it is about something else."""
    named = _NAMED.search(text)
    if named:
        return f"deterministic: {named[1]} has no deterministic algorithm in torch here; {_way_out(named[1])}"
    if _WORKSPACE in text:
        return f"deterministic: cuBLAS has no fixed workspace; set {_WORKSPACE}={_FIXED} before Python starts"
    return None


def _way_out(operation: str) -> str:
    instead = next((instead for name, instead in _INSTEAD.items() if operation.startswith(name)), None)
    device = "" if "cuda" not in operation and "mps" not in operation else ", train on the CPU"
    return f"use {instead or 'another operation'}{device}, or leave deterministic out"


def not_seen(device: torch.device) -> list[str]:
    """What the strict mode cannot see to, a line for each."""
    number = torch.get_num_threads()
    threads = f"{number} thread{'s' * (number != 1)}"
    own = threads if device.type == "cpu" else f"the same kind of {device.type} device"
    return [
        f"deterministic: the same bits come with the same version of torch and {own} only",
        "deterministic: extensions that are not torch's own are not checked, nor is writing to memory that overlaps",
    ]
