"""What it brings to train runs together whose recipes do more than the plain step.

Measured: a launch of sixteen runs in one step: averages of the weights, batches in pieces, a body that is thawed in epoch 2,
bfloat16, and no recipe to compare with. Against: the same launch, one run after another. Three epochs of 1,600 samples,
batches of 32, a network 64-32-10 with BatchNorm, AdamW; rows, saved states and tables as ever, without TensorBoard. No target.
Device: CPU, one thread, seconds of the process. 5 rounds, interleaved; median and p10..p90, ratios round by round.
"""

import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from measure import against, interleaved, machine, report
from torch import nn

from runmanager import Sweep, Trainer, launch

ROUNDS, NUM_RUNS = 5, 16
RECIPES: dict[str, dict[str, Any]] = {
    "no recipe": {},
    "exponential average": {"average": "ema"},
    "stochastic average from epoch 1 on": {"average": "swa", "swa_start": 1},
    "batches in four pieces": {"accumulate": 4},
    "thawed in epoch 2": {"freeze": "0.*", "unfreeze": {2: "0.*"}},
    "bfloat16": {"amp": "bf16"},
}

torch.set_num_threads(1)
torch.manual_seed(0)
print(machine())
INPUTS = torch.rand(2000, 64)
TARGETS = (INPUTS.sum(1) * 3).long() % 10


def network() -> nn.Module:
    return nn.Sequential(nn.Linear(64, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 10))


def seconds(recipe: dict[str, Any], fuse: str | int) -> float:
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(
            network,
            (INPUTS, TARGETS),
            optimizer="AdamW",
            loss=F.cross_entropy,
            epochs=3,
            batch_size=32,
            validation=0.2,
            device="cpu",
            **recipe,
        )
        sweep = Sweep({"lr": [0.001 * (1 + index) for index in range(NUM_RUNS)]}, trainer=trainer, name="recipes")
        sweep.file = Path(folder, "sweeps", "recipes.py")
        began = time.process_time()
        launch(sweep, tensorboard=False, quiet=True, fuse=fuse)
        return time.process_time() - began


for name, recipe in RECIPES.items():
    ways = {way: partial(seconds, recipe, fuse) for way, fuse in {"together": NUM_RUNS, "one by one": "off"}.items()}
    found = interleaved(ROUNDS, ways)
    against_alone = against("one by one", found["together"], found["one by one"], "s")
    report(f"{NUM_RUNS} runs in one step, {name}", found["together"], "s", versus=against_alone)
