"""What kind of failure an exception is, told by names and texts: the library that raised it need not be imported."""

import errno
import re
import traceback
from collections.abc import Iterator

_MAX_PART, _MAX_TRACEBACK = 10_000, 100_000  # characters of a message, and of all
_TEXTS = re.compile(
    r"(CUDA|HIP|XPU|MPS backend) out of memory"
    r"|(CUDA|HIP|cuda) ?(error|runtime error).{0,20}out of memory"
    r"|DefaultCPUAllocator: (can't allocate memory|not enough memory)"
    r"|unable to allocate shared memory\(shm\)"
    r"|unable to mmap .*Cannot allocate memory"
    r"|CU[A-Z]+_STATUS_(INTERNAL_ERROR_\w+_ALLOCATION_FAILED|ALLOC_FAILED)"
    r"|cudaErrorMemoryAllocation|hipErrorOutOfMemory"
)
_NAMES = {"OutOfMemoryError"}  # torch.OutOfMemoryError, and torch.cuda's, which is the same


def is_quit(error: BaseException) -> bool:
    """Whether it is the debugger's `quit`, which means the program and no run."""
    return type(error).__name__ == "BdbQuit"


def one_line(error: BaseException) -> str:
    """The exception's name and its message, on one line."""
    try:
        text = " ".join(str(error).split())
    except Exception:  # noqa: BLE001 (the user's own exception, whose text raises)
        text = ""
    return f"{type(error).__name__}: {text[:1000]}" if text else type(error).__name__


def traceback_text(error: BaseException) -> str:
    """The traceback, without the middle of a message that is longer than one can read."""
    try:
        parts = traceback.format_exception(error)
    except Exception:  # noqa: BLE001 (the user's own exception, whose text raises)
        parts = [*traceback.format_tb(error.__traceback__), type(error).__name__ + "\n"]
    short = [part if len(part) <= _MAX_PART else f"{part[:_MAX_PART]} …\n" for part in parts]
    return "".join(short)[-_MAX_TRACEBACK:]


def signature(error: str | None, traceback: str | None) -> str:
    """What two failures have in common that are alike: the exception's name and the places that it came through.

    Messages and values play no part. Without a traceback, the error's first words do.
    """
    name = re.sub(r"epoch \d+", "epoch N", (error or "").split(":")[0])  # epoch 3 took too long, as epoch 4 did
    places = [line.strip() for line in (traceback or "").splitlines() if line.lstrip().startswith('File "')]
    return "\n".join([name, *places])


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception says that the machine or the device had no memory left, or was raised from one that does."""
    return any(map(_says_so, _with_causes(error)))


def _says_so(error: BaseException) -> bool:
    if isinstance(error, MemoryError) or type(error).__name__ in _NAMES:
        return True
    if isinstance(error, OSError) and error.errno == errno.ENOMEM:
        return True
    return isinstance(error, RuntimeError) and _TEXTS.search(str(error)) is not None


def _with_causes(error: BaseException) -> Iterator[BaseException]:
    seen: list[BaseException] = []
    cause: BaseException | None = error
    while cause is not None and cause not in seen:
        yield cause
        seen.append(cause)
        cause = cause.__cause__
