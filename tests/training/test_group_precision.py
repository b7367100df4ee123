"""bfloat16 in a group: each layer's type is the one that it has alone, so that its numbers are but for rounding."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tests.training.group_sweeps import (
    RUNS,
    Sweep,
    after,
    assert_close,
    mlp,
    network,
    runs_of,
    tiny,
    trainer,
    with_epochs,
)

EPSILON = 2**-8
"""To which bfloat16 rounds."""
NETWORKS = {
    "a multi-layer perceptron": mlp,
    "BatchNorm": lambda: nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3)
    ),
    "LayerNorm": lambda: nn.Sequential(nn.Flatten(), nn.Linear(36, 8), nn.LayerNorm(8), nn.GELU(), nn.Linear(8, 3)),
    "GroupNorm": lambda: nn.Sequential(nn.Conv2d(1, 4, 3), nn.GroupNorm(2, 4), nn.Flatten(), nn.Linear(64, 3)),
    "attention": lambda: nn.Sequential(
        nn.Flatten(2),
        nn.TransformerEncoderLayer(36, 4, 16, dropout=0.0, batch_first=True),
        nn.Flatten(),
        nn.Linear(36, 3),
    ),
}
LOSSES = {
    "smoothed": lambda run: nn.CrossEntropyLoss(label_smoothing=run.lr),
    "weighted": nn.CrossEntropyLoss(weight=torch.tensor([1.0, 2.0, 0.5])),
    "of log-probabilities": lambda preds, targets: F.nll_loss(F.log_softmax(preds, 1), targets),
    "of one-hot targets": lambda preds, targets: F.mse_loss(preds, F.one_hot(targets, 3).float()),
    "torch's own": nn.NLLLoss(),
}


TYPES: list[tuple[str, torch.dtype]] = []


class Typed(nn.Module):
    """Notes the type of what its layer makes of a batch in training."""

    def __init__(self, name, layer):
        super().__init__()
        self.name, self.layer = name, layer

    def forward(self, inputs):
        outputs = self.layer(inputs)
        if torch.is_grad_enabled():
            TYPES.append((self.name, outputs.dtype))
        return outputs


def typed(network):
    return nn.Sequential(*(Typed(f"{name} {type(layer).__name__}", layer) for name, layer in network.named_children()))


def types_of(way, folder, make):
    TYPES.clear()
    getattr(Sweep(folder, tiny(network=lambda run: typed(make()), epochs=1, amp="bf16"), runs_of()), way)()
    return set(TYPES)


def assert_near(found, expected):
    assert_close(found, expected, 4 * EPSILON)


@pytest.mark.parametrize("name", NETWORKS)
def test_each_layer_hands_on_the_type_that_it_does_alone(name, tmp_path):
    alone = types_of("alone", tmp_path / "alone", NETWORKS[name])
    assert torch.bfloat16 in {dtype for _, dtype in alone}
    assert types_of("together", tmp_path / "group", NETWORKS[name]) == alone


@pytest.mark.parametrize("name", NETWORKS)
def test_each_run_reaches_what_it_does_alone_but_for_rounding(name, tmp_path):
    training = tiny(network=lambda run: NETWORKS[name](), amp="bf16")
    group, alone = Sweep(tmp_path / "group", training, runs_of()), Sweep(tmp_path / "alone", training, runs_of())
    assert_near(group.together().losses(), alone.alone().losses())
    assert set(map(tuple, group.sizes().values())) == {(4, 4, 4)}


@pytest.mark.parametrize("name", LOSSES)
def test_losses_are_in_the_type_that_they_are_in_alone(name, tmp_path):
    training = tiny(loss=LOSSES[name] if name == "smoothed" else lambda run: LOSSES[name], amp="bf16", epochs=1)
    group, alone = Sweep(tmp_path / "group", training, runs_of()), Sweep(tmp_path / "alone", training, runs_of())
    assert_close(group.together().losses(), alone.alone().losses(), EPSILON / 4)


def test_all_that_goes_on_beside_the_step_goes_on(tmp_path):
    training = trainer(network=network, average="swa", swa_start=2, accumulate=2, mixup=0.2, amp="bf16")
    group, alone = Sweep(tmp_path / "group", training, RUNS), Sweep(tmp_path / "alone", training, RUNS)
    assert_near(group.together().losses(), alone.alone().losses())


def test_a_group_that_goes_on_reaches_the_same_bits(tmp_path):
    training = trainer(amp="bf16")
    at_once = Sweep(tmp_path / "a", training, RUNS).together()
    Sweep(tmp_path / "b", training, RUNS, stop_when=after(2)).together()
    assert Sweep(tmp_path / "b", training, RUNS).together().numbers() == at_once.numbers()


@pytest.mark.parametrize("name", NETWORKS)
def test_who_else_is_in_the_group_changes_no_bit(name, tmp_path):
    training = tiny(network=lambda run: NETWORKS[name](), amp="bf16")
    of_four = Sweep(tmp_path / "four", training, runs_of()).together().numbers()
    assert Sweep(tmp_path / "two", training, runs_of()).together(1, 2).numbers() == {1: of_four[1], 2: of_four[2]}


def test_those_who_stay_go_on_when_others_leave(tmp_path):
    training, runs = tiny(epochs=None, amp="bf16"), with_epochs(1, 3, 2, 3)
    group, alone = Sweep(tmp_path / "group", training, runs), Sweep(tmp_path / "alone", training, runs)
    assert_near(group.together().losses(), alone.alone().losses())
    assert group.sizes() == {1: [4], 2: [4, 3, 2], 3: [4, 3], 4: [4, 3, 2]}
