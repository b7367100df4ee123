"""Recipes together: each pair of settings is in one of these sweeps, killed and resumed, and with two runs in a step."""

import random
from functools import partial
from itertools import combinations, product
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import TensorDataset

from runmanager import Sweep, Trainer, launch
from runmanager.data.splits import Splits
from runmanager.tracking.run_dir import SweepDir
from runmanager.training.plain import differences
from tests.conformance.left_behind import killed_in_second_epoch, state_of, table_of
from tests.conformance.recipes.cases import NUM_CLASSES, pictures

pytestmark = pytest.mark.usefixtures("one_thread")

FUSED: dict[str, list[Any]] = {
    "optimizer": [partial(torch.optim.SGD, momentum=0.9), "AdamW"],
    "scheduler": [None, "cosine", "plateau", "one_cycle"],
    "loss": [F.cross_entropy, partial(F.cross_entropy, label_smoothing=0.1)],
    "shuffle": [True, False],
    "validation": [0.2, 0],
    "batch_size": [8, 7],
    "normalize": [None, "measured"],
    "sampling": [None, "balanced"],
    "init": [None, "xavier_uniform"],
    "head": [None, "classes"],
    "freeze": [None, "0.*"],
    "param_groups": [None, {"4.*": {"lr_scale": 0.1}}],
    "no_decay": [None, True],
    "warmup": [None, 1],
    "class_weights": [None, "balanced"],
    "mixup": [None, 0.3],
    "cutmix": [None, 0.5],
    "l1": [None, 1e-3],
    "l2": [None, 1e-3],
    "clip_norm": [None, 0.5],
    "clip_value": [None, 0.05],
    "metrics": [None, ["f1", "confusion", "top_2"]],
    "log_every": [None, 2],
    "show_predictions": [None, 2],
    "patience": [None, 1],
    "unfreeze": [None, {2: "0.*"}],
    "average": [None, "ema", "swa"],
    "accumulate": [None, 3],
}
"""What goes on in a group."""
ALONE: dict[str, list[Any]] = {
    "amp": [None, "bf16"],
    "channels_last": [None, True],
    "deterministic": [None, True],
    "cudnn_benchmark": [None, True],
    "profile": [None, 2],
}
"""What does not; and half precision, which a group rounds in other places than alone, to 4e-3."""


def network() -> nn.Module:
    """No bias stands in front of BatchNorm: its gradient would be rounding alone, which Adam makes steps of."""
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, bias=False), nn.BatchNorm2d(4), nn.Sequential(nn.ReLU(), nn.Flatten()), nn.Dropout(0.2),
        nn.Linear(16, NUM_CLASSES),
    )  # fmt: skip


def covering(factors: dict[str, list[Any]], seed: int) -> list[dict[str, Any]]:
    """Rows of values, so that each pair of values of two factors is in a row: of some rows, the one with the most new pairs."""
    draws, names = random.Random(seed), list(factors)
    left = {
        ((one, i), (other, j))
        for one, other in combinations(names, 2)
        for i, j in product(range(len(factors[one])), range(len(factors[other])))
    }
    rows = []
    while left:
        wanted = draws.choice(sorted(left))
        best = max(
            (_drawn(factors, draws, dict(wanted), left) for _ in range(5)), key=lambda row: len(left & _pairs(row))
        )
        left -= {wanted, *_pairs(best)}  # what does not go together is in no row
        rows.append({name: factors[name][place] for name, place in best.items() if factors[name][place] is not None})
    return rows


def _drawn(
    factors: dict[str, list[Any]], draws: random.Random, wanted: dict[str, int], left: set[Any]
) -> dict[str, int]:
    """A row with the wanted pair, and without what is refused, which has tests of its own. Factor after factor, in a random
    order, takes the value that makes the most new pairs."""
    row, names = dict(wanted), list(factors)
    for name in draws.sample(names, len(names)):
        if name not in row:
            values = draws.sample(range(len(factors[name])), len(factors[name]))
            row[name] = max(
                values,
                key=lambda value, name=name: sum(
                    tuple(sorted(((name, value), one), key=lambda pair: names.index(pair[0]))) in left
                    for one in row.items()
                ),
            )
    one_cycle = FUSED["scheduler"].index("one_cycle")
    for one, other, wrong, right in (
        ("warmup", "scheduler", one_cycle, 1),
        ("metrics", "validation", 1, 0),
        ("unfreeze", "freeze", 0, 1),
        ("deterministic", "cudnn_benchmark", 1, 0),
    ):
        if row.get(one) and row[other] == wrong:
            row.update({one: 0} if other in wanted else {other: right})
    return {name: row[name] for name in names}


def _pairs(row: dict[str, int]) -> set[Any]:
    return set(combinations(row.items(), 2))


GROUPED = covering(FUSED, 0)
SINGLE = covering({**FUSED, **ALONE}, 0)


def sweep_of(settings: dict[str, Any], project: Path, lrs: list[float]) -> Sweep:
    data = Splits(TensorDataset(*pictures()))
    trainer = Trainer(network, data, epochs=3, device="cpu", **settings)
    sweep = Sweep({"lr": lrs, "weight_decay": [0.01]}, trainer=trainer, name="pair")
    sweep.file = project / "sweeps" / "pair.py"
    return sweep


def trained(settings: dict[str, Any], project: Path, *, lrs: list[float], **options: Any) -> pd.DataFrame:
    """The rows, without what time and place decide."""
    launch(sweep_of(settings, project, lrs), tensorboard=False, quiet=True, **{"fuse": "off", **options})
    return table_of(project, "pair")


def last_of(project: Path) -> Any:
    """What was saved last of the only run."""
    (run,) = SweepDir(project, "pair").runs()
    return state_of(run)


@pytest.mark.parametrize("settings", GROUPED, ids=range(len(GROUPED)))
def test_recipes_do_together_in_a_group_what_they_do_together_alone(settings: dict[str, Any], tmp_path: Path) -> None:
    lrs = [0.05, 0.02]
    alone, fused = trained(settings, tmp_path / "1", lrs=lrs), trained(settings, tmp_path / "2", lrs=lrs, fuse=2)
    assert set(fused.pop("group size")) <= ({1, 2} if "patience" in settings else {2})
    pd.testing.assert_frame_equal(alone.drop(columns="group size"), fused, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("settings", SINGLE, ids=range(len(SINGLE)))
def test_recipes_go_on_together_to_the_last_bit(settings: dict[str, Any], tmp_path: Path) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    table = trained(settings, whole, lrs=[0.05])
    killed_in_second_epoch(partial(trained, settings, killed, lrs=[0.05]))
    pd.testing.assert_frame_equal(trained(settings, killed, lrs=[0.05]), table, check_exact=True)
    assert list(differences(last_of(killed), last_of(whole), "")) == []


def test_each_pair_of_settings_is_in_a_sweep() -> None:
    """Where the two go together."""
    pairs = {pair for row in SINGLE for pair in combinations(sorted(row), 2)}
    never = {("cudnn_benchmark", "deterministic")}
    expected = set(combinations(sorted({**FUSED, **ALONE}), 2)) - never
    assert expected <= pairs
