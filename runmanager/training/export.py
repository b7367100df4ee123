"""A trained network in files that need nothing of this tool: a state dict, and a program of torch.export."""

import io
import warnings
from collections import OrderedDict
from collections.abc import Callable, Mapping
from contextlib import redirect_stderr, suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import Module

from runmanager.tracking.faults import one_line
from runmanager.tracking.journal import storage_error
from runmanager.tracking.temporaries import temporary_for


class NotExportable(Exception):  # noqa: N818 - a reason, which is told; the state dict is there all the same
    """Why torch.export makes no program of a network; one line."""


def write_state(state: Mapping[str, Tensor], file: Path) -> None:
    """Writes a state dict, its tensors on the CPU, so that `torch.load(file, weights_only=True)` gives it back anywhere.

    Raises:
        StorageError: it cannot be written; a file that was there is kept.
    """
    on_cpu = OrderedDict((name, _plain(value)) for name, value in state.items())
    if hasattr(state, "_metadata"):  # the versions of the network's modules
        on_cpu._metadata = state._metadata  # type: ignore[attr-defined]
    _replace(file, lambda stream: torch.save(on_cpu, stream))


def _plain(value: Any) -> Any:
    return (
        value.detach().cpu().clone() if isinstance(value, Tensor) else value
    )  # a view would save all that it is a part of


def write_program(network: Module, inputs: Tensor, file: Path) -> None:
    """Writes a network, in eval mode and on the CPU, as a program of torch.export that takes batches of any size.

    `torch.export.load(file).module()` gives it back, where the network's own code is not needed. The network given stays on
    the CPU, in eval mode.

    Args:
        network: the network.
        inputs: a batch of two samples or more, [N, ...].
        file: where.

    Raises:
        NotExportable: its code, or the size of the batch in it, is more than torch.export can follow.
        StorageError: it cannot be written; a file that was there is kept.
    """
    from torch.export import Dim, export, save

    network.cpu().eval()
    try:
        with warnings.catch_warnings(), redirect_stderr(io.StringIO()), torch.no_grad():
            warnings.simplefilter("ignore")  # of torch's own workings, as is what it prints where it fails
            program = export(network, (inputs.cpu(),), dynamic_shapes=({0: Dim.DYNAMIC},))
    except Exception as error:  # whatever the network's code does
        raise NotExportable(one_line(error)[:300]) from error  # torch's messages may go on for pages
    _replace(file, lambda stream: save(program, stream))


def _replace(file: Path, write: Callable[[io.BytesIO], None]) -> None:
    """Puts what `write` writes in the place of a file, as a whole."""
    stream = io.BytesIO()
    write(stream)
    temporary = temporary_for(file)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(stream.getbuffer())
        temporary.replace(file)
    except OSError as error:
        with suppress(OSError):  # of two errors the first is told
            temporary.unlink()
        raise storage_error(file, error) from error
