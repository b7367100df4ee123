"""Running out of memory is told from everything else."""

import errno
import subprocess
import sys

import numpy as np
import pytest
import torch

from runmanager.tracking.faults import is_out_of_memory

HUGE = 2**55


def raised_by(function):
    with pytest.raises(BaseException) as caught:
        function()
    return caught.value


@pytest.mark.parametrize(
    "ask",
    [
        lambda: torch.empty(HUGE, dtype=torch.uint8),
        lambda: torch.zeros(HUGE // 8),
        lambda: np.zeros(HUGE, dtype=np.uint8),
        lambda: bytearray(HUGE),
    ],
)
def test_asking_for_more_than_there_is_is_out_of_memory(ask):
    assert is_out_of_memory(raised_by(ask))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_asking_a_gpu_for_more_than_it_has_is_out_of_memory():
    assert is_out_of_memory(raised_by(lambda: torch.empty(2**45, dtype=torch.uint8, device="cuda")))


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB."),
        torch.cuda.OutOfMemoryError("anything"),
        RuntimeError("CUDA out of memory. Tried to allocate 20.00 MiB (GPU 0; 7.80 GiB total capacity)"),
        RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported"),
        RuntimeError("cuda runtime error (2) : out of memory at /pytorch/THCStorage.cu:58"),
        RuntimeError("HIP out of memory. Tried to allocate 2.00 GiB"),
        RuntimeError("MPS backend out of memory (MPS allocated: 18.00 GB, other allocations: 384.00 KB)"),
        RuntimeError(
            "[enforce fail at alloc_cpu.cpp:114] data. DefaultCPUAllocator: can't allocate memory: you tried to"
        ),
        RuntimeError(
            "[enforce fail at alloc_cpu.cpp:80] . DefaultCPUAllocator: not enough memory: you tried to allocate"
        ),
        RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
        RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("cusolver error: CUSOLVER_STATUS_ALLOC_FAILED, when calling `cusolverDnCreate(handle)`"),
        RuntimeError("unable to mmap 4096 bytes from file </torch_1>: Cannot allocate memory (12)"),
        RuntimeError("unable to allocate shared memory(shm) for file </torch_1>: No space left on device (28)"),
        OSError(errno.ENOMEM, "Cannot allocate memory"),
        MemoryError(),
    ],
    ids=str,
)
def test_each_way_of_saying_so_is_known(error):
    assert is_out_of_memory(error)


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("mat1 and mat2 shapes cannot be multiplied (2x4 and 5x2)"),
        RuntimeError("CUDA error: device-side assert triggered"),
        RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"),
        RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed."),
        RuntimeError("this model is out of memory cells"),
        ValueError("CUDA out of memory"),
        OSError(errno.ENOSPC, "No space left on device"),
        KeyboardInterrupt(),
    ],
    ids=repr,
)
def test_nothing_else_is(error):
    assert not is_out_of_memory(error)


def test_an_error_that_was_raised_from_it_is_and_one_that_came_while_it_was_handled_is_not():
    def wrapped():
        try:
            raise MemoryError
        except MemoryError as error:
            raise ValueError("the batch is too large") from error

    def handled():
        try:
            raise MemoryError
        except MemoryError:
            raise ValueError("another thing")  # noqa: B904

    assert is_out_of_memory(raised_by(wrapped))
    assert not is_out_of_memory(raised_by(handled))


def test_causes_that_go_in_a_circle_have_an_end():
    one, other = ValueError(), KeyError()
    one.__cause__, other.__cause__ = other, one
    assert not is_out_of_memory(one)


def test_it_is_told_without_torch():
    code = "import sys, runmanager.tracking.faults; print({'torch', 'numpy'} & set(sys.modules))"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "set()"
