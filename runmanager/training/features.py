"""What a layer of a trained network makes of a data set, for whatever is done with it next."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import Module

from runmanager.nearest import nearest
from runmanager.tracking.temporaries import temporary_for
from runmanager.training.settings import TrainerError


def write_features(network: Module, layer: str, batches: Iterable[Any], file: str | Path) -> tuple[int, ...]:
    """Writes a layer's output for every sample, in eval mode and without gradients, to an .npz file.

    The file has `features` [N, ...], `targets` [N] and `layer`; `numpy.load(file)["features"]` reads them. A file that was there
    is replaced as a whole. The network is left in the mode in which it was. All features are in memory at once.

    Args:
        network: on any device.
        layer: its name as in `network.named_modules()`: "avgpool", "layer4.1". Of a layer that is used several times the last
            output counts, and of one that returns several tensors the first.
        batches: (inputs, targets) pairs of tensors.
        file: where; its folder is made where there is none.

    Returns:
        The shape of the features.

    Raises:
        TrainerError: there is no such layer, it is not used, or its output is not one row for each sample.
        OSError: the file cannot be written; the old one is untouched.
    """
    module = _layer(network, layer)
    with _in_eval_mode(network), torch.no_grad(), _Watched(module) as watched:
        pairs = [_of_batch(network, watched, layer, batch) for batch in batches]
    if not pairs:
        raise TrainerError(f"layer={layer!r}: there is no batch to take features of")
    if len({tuple(features.shape[1:]) for features, _ in pairs}) > 1:
        shapes = " and ".join(sorted({str(list(features.shape[1:])) for features, _ in pairs}))
        raise TrainerError(f"layer={layer!r} gives rows of different shapes, {shapes}; choose one behind the pooling")
    features, targets = (torch.cat(parts).numpy() for parts in zip(*pairs, strict=True))
    _write(Path(file), features=features, targets=targets, layer=np.array(layer))
    shape: tuple[int, ...] = features.shape
    return shape


def _layer(network: Module, name: str) -> Module:
    layers: dict[str, Module] = {path: module for path, module in network.named_modules() if path}
    if name in layers:
        return layers[name]
    raise TrainerError(f"layer={name!r} is unknown; choose {layer_names(network)}{nearest(name, layers)}")


def layer_names(network: Module) -> str:
    """The layers of a network that features can be taken of, for people: `conv1, layer1, fc, or one inside them`."""
    names = [name for name, _ in network.named_modules() if name]
    outer = ", ".join(name for name in names if "." not in name) or "none, since the network is one layer"
    return outer + (", or one inside them" if any("." in name for name in names) else "")


class _Watched:
    """Keeps what a module returned last."""

    def __init__(self, module: Module) -> None:
        self._module = module
        self.output: Any = None

    def __enter__(self) -> "_Watched":
        self._handle = self._module.register_forward_hook(self._keep)
        return self

    def __exit__(self, *_: object) -> None:
        self._handle.remove()

    def _keep(self, module: Module, inputs: Any, output: Any) -> None:
        first = output[0] if isinstance(output, (tuple, list)) and output else output
        # copied, since the next layer may write into it
        self.output = first.detach().to("cpu", copy=True) if isinstance(first, Tensor) else first


@contextmanager
def _in_eval_mode(network: Module) -> Iterator[None]:
    modes = {module: module.training for module in network.modules()}
    network.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


def _of_batch(network: Module, watched: _Watched, layer: str, batch: Any) -> tuple[Tensor, Tensor]:
    """A batch's features [B, ...] and targets [B], in main memory."""
    if not isinstance(batch, (tuple, list)) or len(batch) != 2 or not all(isinstance(one, Tensor) for one in batch):
        raise TrainerError(
            f"layer={layer!r}: a batch is no (inputs, targets) pair of tensors, but a {type(batch).__name__}"
        )
    inputs, targets = batch
    device = next((one.device for one in (*network.parameters(), *network.buffers())), inputs.device)
    watched.output = None
    network(inputs.to(device))
    features = watched.output
    if features is None:
        raise TrainerError(f"layer={layer!r} is not used when the network is called; choose one that is")
    if not isinstance(features, Tensor) or features.ndim == 0 or len(features) != len(targets):
        got = f"shape {list(features.shape)}" if isinstance(features, Tensor) else f"a {type(features).__name__}"
        raise TrainerError(
            f"layer={layer!r} gives {got} for a batch of {len(targets)}; choose one that gives a row for each sample"
        )
    return features.float() if features.dtype == torch.bfloat16 else features, targets.detach().cpu()


def _write(file: Path, **arrays: Any) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_for(file)
    try:
        with temporary.open("wb") as stream:
            np.savez(stream, **arrays)
        temporary.replace(file)
    except BaseException:
        with suppress(OSError):  # what went wrong is told, and not that there is nothing to drop
            temporary.unlink()
        raise
