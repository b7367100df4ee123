"""Values as a checkpoint can hold them: only what `torch.load(weights_only=True)` reads back."""

from collections import Counter, OrderedDict, defaultdict
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from runmanager.training.settings import TrainerError

_AS_THEY_ARE = (bool, float, complex, str, bytes, type(None), torch.dtype, torch.device, torch.Size)
_MAX_BITS = 2000  # of a whole number that a checkpoint can hold
_NUMPY = "$numpy"  # marks an array, or a number of numpy


def to_plain(value: Any, where: str) -> Any:
    """The value from tensors, numbers, strings, lists and dicts; tensors are not copied unless they are a part of a
    larger one, numpy is marked.

    Args:
        value: what is to be saved.
        where: its name, for the message.

    Raises:
        TrainerError: something in it cannot be loaded again; the message says where it is.
    """
    kind = type(value)
    if kind in (Tensor, torch.nn.Parameter):
        return _alone(value)
    if kind in _AS_THEY_ARE or (kind is int and value.bit_length() < _MAX_BITS):
        return value
    if kind in (list, tuple):
        return kind(to_plain(one, f"{where}[{index}]") for index, one in enumerate(value))
    if kind in (dict, defaultdict, Counter, OrderedDict):
        return _plain_dict(value, where)
    if kind in (set, frozenset):
        return {to_plain(one, f"an item of {where}") for one in value}
    if isinstance(value, (np.ndarray, np.generic)):
        return {_NUMPY: _tensor_of(value, where)}
    raise TrainerError(_refusal(value, where))


def _plain_dict(value: Any, where: str) -> Any:
    plain: Any = type(value)() if isinstance(value, (Counter, OrderedDict)) else {}
    for key, one in value.items():
        plain[to_plain(key, f"a key of {where}")] = to_plain(one, f"{where}.{key}")
    if getattr(value, "_metadata", None) is not None:  # the versions of a network's modules
        plain._metadata = to_plain(value._metadata, f"{where}._metadata")
    return plain


def _alone(tensor: Tensor) -> Tensor:
    """A tensor that is saved without the rest of what it is a part of, as it is in a group of runs."""
    if tensor.layout != torch.strided or tensor.untyped_storage().nbytes() <= tensor.nbytes:
        return tensor
    return tensor.detach().clone()


def _tensor_of(value: Any, where: str) -> Tensor:
    try:
        return torch.from_numpy(np.array(value))
    except (TypeError, ValueError):
        raise TrainerError(_refusal(value, where)) from None


def _refusal(value: Any, where: str) -> str:
    return (
        f"{where} is {value!r:.80} ({type(value).__qualname__}), which a checkpoint cannot hold; keep tensors, numbers, "
        "strings, lists and dicts there, or launch with --checkpoint-every 0"
    )


def from_plain(value: Any) -> Any:
    """What `to_plain` was given."""
    kind = type(value)
    if kind in (list, tuple):
        return kind(map(from_plain, value))
    if kind in (dict, Counter, OrderedDict):
        if value.keys() == {_NUMPY}:
            return value[_NUMPY].cpu().numpy()[()]
        whole: Any = kind()
        for key, one in value.items():
            whole[key] = from_plain(one)
        if hasattr(value, "_metadata"):
            whole._metadata = value._metadata
        return whole
    return value


def differences(saved: Any, now: Any, where: str) -> Iterator[str]:
    """Where two plain values are not the same to the last bit; what only `now` has is no difference."""
    if isinstance(saved, dict) and isinstance(now, dict):
        for key, one in saved.items():
            yield from differences(one, now.get(key), f"{where}.{key}" if where else str(key))
    elif isinstance(saved, (list, tuple)) and isinstance(now, (list, tuple)) and len(saved) == len(now):
        for index, pair in enumerate(zip(saved, now, strict=True)):
            yield from differences(*pair, f"{where}[{index}]")
    elif not _same(saved, now):
        yield where


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        return one.dtype == other.dtype and one.shape == other.shape and torch.equal(_bits(one), _bits(other))
    return type(one) is type(other) and (one == other or (one != one and other != other))


def _bits(tensor: Tensor) -> Tensor:
    """Its bytes, so that NaN equals NaN."""
    whole = tensor.detach().cpu()
    return whole.to_dense() if whole.is_sparse else whole.contiguous().reshape(-1).view(torch.uint8)
