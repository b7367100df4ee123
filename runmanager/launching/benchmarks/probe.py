"""What a bench has to know of this machine before it begins: `python -m runmanager.launching.benchmarks.probe DATA_ROOT WANTED`.

It is a process of its own, so that the bench itself imports no torch.
"""

import json
import os
import sys
from collections import namedtuple
from pathlib import Path
from typing import Any

import torch

from runmanager.launching.benchmarks.families import has_real_digits
from runmanager.launching.benchmarks.tracking_cost import step_seconds
from runmanager.launching.code import device_names
from runmanager.training.settings import choose_device
from runmanager.training.trainer import Trainer

SAMPLE, FULL = "fashion_mnist_sample", "fashion_mnist"
_Run = namedtuple("_Run", "lr")


def look(data_root: Path, wanted: str) -> dict[str, Any]:
    """The device, the data set that can be had, and how long a step of batch 100 takes with one thread."""
    device = choose_device(None)
    data, source = _data(data_root, wanted)
    torch.set_num_threads(1)
    return {
        "device": device.type,
        "names": device_names(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        "data": data,
        "source": source,
        "digits": has_real_digits(),
        "step": step_seconds(100, torch.device("cpu")),
    }


def _data(data_root: Path, wanted: str) -> tuple[str, str]:
    """The data set that was wanted, or the sample where it cannot be had; and where it is."""
    for name in (wanted, SAMPLE):
        trainer = Trainer(data=name, data_root=data_root)
        try:
            return name, trainer.splits(_Run(0.01), 0, Path.cwd()).source
        except FileNotFoundError as error:
            print(error, file=sys.stderr)
    raise AssertionError("the sample is part of the package")


if __name__ == "__main__":
    sys.path.insert(0, str(Path.cwd()))  # where networks/ is
    print(json.dumps(look(Path(sys.argv[1]), sys.argv[2])))
