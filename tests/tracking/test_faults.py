"""Failures told apart without the library that raised them."""

import subprocess
import sys

import pytest

from runmanager.tracking.faults import is_out_of_memory, one_line


def test_an_error_is_one_line_of_its_name_and_its_message() -> None:
    assert one_line(ValueError("a\n  b\tc")) == "ValueError: a b c"
    assert one_line(KeyError("lr")) == "KeyError: 'lr'"
    assert one_line(AssertionError()) == "AssertionError"
    assert one_line(ValueError(" \n ")) == "ValueError"


def test_a_long_message_is_cut() -> None:
    assert len(one_line(ValueError("x" * 10_000_000))) < 1100


class UnprintableError(Exception):
    def __str__(self) -> str:
        raise RuntimeError("cannot say")


def test_an_error_that_cannot_be_printed_is_told_by_its_name() -> None:
    assert "Unprintable" in one_line(UnprintableError())


@pytest.mark.parametrize("line", ["[0] * 2**62", "bytearray(2**62)", "raise MemoryError"])
def test_memory_that_python_cannot_have_is_out_of_memory(line: str) -> None:
    with pytest.raises(MemoryError) as caught:
        exec(line)
    assert is_out_of_memory(caught.value)


def test_memory_that_torch_cannot_have_is_out_of_memory() -> None:
    torch = pytest.importorskip("torch")
    assert is_out_of_memory(torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"))
    with pytest.raises(RuntimeError) as caught:  # the CPU's allocator raises no kind of its own
        torch.empty(2**60, dtype=torch.uint8)
    assert is_out_of_memory(caught.value)


def test_other_errors_are_not_out_of_memory() -> None:
    for error in (
        ValueError("out of memory"),
        RuntimeError("shape mismatch"),
        KeyboardInterrupt(),
        OSError(28, "full"),
    ):
        assert not is_out_of_memory(error)


def test_telling_failures_apart_imports_no_torch() -> None:
    script = "import sys, runmanager.tracking.faults; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
