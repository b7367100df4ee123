"""Tries torch, torchvision and the devices, and prints a line of JSON for each.

It is run as a script in a process of its own, by its path: a broken library may take that down, and nothing else.
"""

import json
import os
from collections.abc import Callable
from importlib import metadata
from typing import Any


def probe_torch() -> dict[str, Any]:
    """Imports torch."""
    import torch

    return {"version": torch.__version__, "cuda": torch.version.cuda}


def probe_torchvision() -> dict[str, Any]:
    """Imports torchvision, and calls an operator of its own library."""
    import torch
    import torchvision

    torchvision.ops.nms(torch.zeros(1, 4), torch.zeros(1), 0.5)
    return {"version": torchvision.__version__}


def probe_devices() -> dict[str, Any]:
    """Looks at each device, and computes on it."""
    import torch

    devices = [_cuda(index) for index in range(torch.cuda.device_count())] if torch.cuda.is_available() else []
    if torch.backends.mps.is_available():
        devices.append({"device": "mps", "name": "Apple GPU", "error": _try("mps")})
    return {"devices": devices, "threads": torch.get_num_threads()}


def _cuda(index: int) -> dict[str, Any]:
    import torch

    found: dict[str, Any] = {"device": f"cuda:{index}", "name": torch.cuda.get_device_name(index)}
    try:
        found["free"], found["total"] = torch.cuda.mem_get_info(index)
    except RuntimeError as error:
        return {**found, "error": _one_line(error)}
    return {**found, "error": _try(f"cuda:{index}")}


def _try(device: str) -> str | None:
    """Why a device cannot compute; None when it can."""
    import torch

    try:
        total = float((torch.ones(8, device=device) + 1).sum())
    except RuntimeError as error:
        return _one_line(error)
    return None if total == 16 else f"1 + 1 is {total / 8} on it"


def _one_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:300]


def _requirement() -> str:
    """The torch that the torchvision which is installed was built for, as its package says."""
    try:
        required = metadata.requires("torchvision") or []
    except metadata.PackageNotFoundError:
        return ""
    return next(
        (text.split(";")[0].strip() for text in required if text.startswith("torch") and text[5:6] in " (=<>!~"), ""
    )


def main() -> None:
    """Tries one after another; what was tried before a crash is printed already."""
    probes: dict[str, Callable[[], dict[str, Any]]] = {
        "torch": probe_torch,
        "torchvision": probe_torchvision,
        "devices": probe_devices,
    }
    for name, probe in probes.items():
        try:
            found = probe()
        except Exception as error:  # noqa: BLE001 (whatever a library raises is what is to be told)
            found = {"error": _one_line(error), "requires": _requirement()}
        print(json.dumps({"probe": name, **found}), flush=True)
    os._exit(0)  # a library that crashes at exit has been tried all the same


if __name__ == "__main__":
    main()
