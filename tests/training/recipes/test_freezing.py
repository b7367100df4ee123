"""What is frozen stays as it is while the rest is trained, and what is thawed is trained from its epoch on."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from runmanager.training.recipes.freezing import Unfreezing, check_trainable, freeze, in_short
from runmanager.training.trainer import TrainerError
from tests.training.group_sweeps import Sweep, runs_of, tiny

INPUTS = torch.rand(12, 4, generator=torch.Generator().manual_seed(0))
TARGETS = (INPUTS.sum(1) > 2).long()


def small_network():
    torch.manual_seed(0)
    body = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Linear(6, 6))
    network = nn.Module()
    network.body, network.fc = body, nn.Linear(6, 2)
    network.forward = lambda inputs: network.fc(network.body(inputs))
    return network


def trained(network, epochs, before_epoch=lambda network, epoch: None, optimizer=None, first=1):
    """A plain loop of one batch an epoch."""
    optimizer = optimizer or torch.optim.Adam(network.parameters(), lr=0.1, weight_decay=0.1)
    network.train()
    for epoch in range(first, epochs + 1):
        before_epoch(network, epoch)
        optimizer.zero_grad()
        F.cross_entropy(network.forward(INPUTS), TARGETS).backward()
        optimizer.step()
    return network.state_dict(), optimizer


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_what_is_frozen_stays_and_the_rest_is_trained_as_where_only_that_is_optimized():
    network, twin = small_network(), small_network()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    assert freeze(network, "body.*") == [f"body.{layer}.{one}" for layer in range(3) for one in ("weight", "bias")]
    state, _ = trained(network, 3)
    optimizer = torch.optim.Adam(twin.fc.parameters(), lr=0.1, weight_decay=0.1)
    twin_state, _ = trained(twin, 3, optimizer=optimizer)
    assert same(state, twin_state)
    assert torch.equal(state["body.0.weight"], before["body.0.weight"])
    assert not torch.equal(state["fc.weight"], before["fc.weight"])
    assert not torch.equal(state["body.1.running_mean"], before["body.1.running_mean"])  # as a plain loop has it


def test_several_patterns_freeze_what_any_of_them_fits():
    network = small_network()
    assert freeze(network, ["fc.*", "*.0.bias"]) == ["body.0.bias", "fc.weight", "fc.bias"]
    assert [name for name, param in network.named_parameters() if not param.requires_grad] == [
        "body.0.bias",
        "fc.weight",
        "fc.bias",
    ]


def test_what_is_thawed_is_trained_from_its_epoch_on():
    def by_hand(network, epoch):
        for layer, since in ((network.body[2], 3), (network.body[1], 4), (network.body[0], 9)):
            layer.requires_grad_(epoch >= since)

    network = small_network()
    freeze(network, "body.*")
    unfreezing = Unfreezing(network, {4: ["body.1.*"], 3: "body.2.*"})
    state, _ = trained(network, 5, unfreezing.begin_epoch)
    assert same(state, trained(small_network(), 5, by_hand)[0])
    assert not torch.equal(state["body.1.weight"], small_network().state_dict()["body.1.weight"])
    assert list(unfreezing.due) == [3, 4]


def test_a_run_that_is_resumed_has_thawed_what_was_due_before():
    def frozen():
        network = small_network()
        freeze(network, "body.*")
        return network, Unfreezing(network, {2: "body.2.*", 3: "body.1.*"})

    network, unfreezing = frozen()
    whole, _ = trained(network, 6, unfreezing.begin_epoch)
    network, unfreezing = frozen()
    half, optimizer = trained(network, 4, unfreezing.begin_epoch)
    resumed, unfreezing = frozen()
    resumed.load_state_dict(half)
    other = torch.optim.Adam(resumed.parameters(), lr=0.1, weight_decay=0.1)
    other.load_state_dict(optimizer.state_dict())
    assert same(trained(resumed, 6, unfreezing.begin_epoch, other, first=5)[0], whole)


def test_each_epoch_tells_what_it_thawed():
    network = small_network()
    freeze(network, "body.*")
    unfreezing = Unfreezing(network, {2: "body.2.*", 4: "*"})
    told = [unfreezing.begin_epoch(network, epoch) for epoch in range(1, 6)]
    assert told[1] == ["body.2.weight", "body.2.bias"]
    assert told[3] == ["body.0.weight", "body.0.bias", "body.1.weight", "body.1.bias"]
    assert told[0] == told[2] == told[4] == []


@pytest.mark.parametrize(
    ("patterns", "said"),
    [
        (
            "boddy.*",
            r"freeze: 'boddy.\*' fits no parameter of the network, which has body.\*, fc.\*; did you mean 'body.\*'\?",
        ),
        (["fc.*", "fc.wieght"], r"freeze: 'fc.wieght' fits no parameter .*did you mean 'fc.weight'\?"),
        ("body", r"'body' is a layer, and 'body.\*' its parameters"),
        (3, "freeze: 3 fits no parameter"),
        ("body.1.running_mean", "fits no parameter"),
    ],
)
def test_a_pattern_that_fits_nothing_is_refused_with_the_nearest_name(patterns, said):
    network = small_network()
    with pytest.raises(TrainerError, match=said):
        freeze(network, patterns)
    assert all(param.requires_grad for param in network.parameters())


def test_a_network_of_many_layers_is_not_listed_whole():
    network = nn.ModuleList([nn.Linear(1, 1) for _ in range(100)])
    with pytest.raises(TrainerError) as caught:
        freeze(network, "layer*")
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize(
    ("due", "said"),
    [
        ({1: "body.*"}, "unfreeze has epoch 1; give a whole number of 2 or more"),
        ({2.5: "body.*"}, "unfreeze has epoch 2.5"),
        ({"three": "body.*"}, "unfreeze has epoch 'three'"),
        ({"1": "body.*"}, "unfreeze has epoch 1"),
        ({True: "body.*"}, "unfreeze has epoch True"),
        ({3: "bdy.*"}, r"unfreeze at epoch 3: 'bdy.\*' fits no parameter .*did you mean 'body.\*'"),
        ("body.*", r"unfreeze='body.\*' does not say when; write unfreeze=\{3: "),
    ],
)
def test_what_can_never_be_thawed_is_refused(due, said):
    with pytest.raises(TrainerError, match=said):
        Unfreezing(small_network(), due)


def test_a_network_with_nothing_to_train_is_refused():
    network = small_network()
    check_trainable(network)
    freeze(network, "*")
    with pytest.raises(TrainerError, match=r"all 8 parameters of the network are frozen, so .*all but 'fc.\*' say"):
        check_trainable(network)
    with pytest.raises(TrainerError, match="are frozen until epoch 3, so there is nothing to train"):
        check_trainable(network, Unfreezing(network, {3: "fc.*", 5: "*"}))
    network.fc.bias.requires_grad_(True)
    check_trainable(network)


def test_what_is_frozen_is_told_by_layers_where_it_is_all_of_them():
    network = small_network()
    assert in_short(network, freeze(network, "body.*")) == "body.*"
    assert in_short(network, ["body.0.bias", "fc.weight", "fc.bias"]) == "body.0.bias, fc.*"


def test_a_grid_has_the_epoch_as_a_string_or_as_a_number_of_numpys():
    network = small_network()
    freeze(network, "*")
    unfreezing = Unfreezing(network, {"3": "fc.*", np.int64(10): "body.*"})
    assert list(unfreezing.due) == [3, 10]
    assert unfreezing.begin_epoch(network, 2) == []
    assert unfreezing.begin_epoch(network, 3) == ["fc.weight", "fc.bias"]


def test_the_notes_of_a_run_say_what_is_trained_from_when_on(tmp_path):
    training = tiny(freeze=["1.*", "3.bias"], unfreeze={3: "1.*", 2: "3.bias"})
    (run,) = Sweep(tmp_path, training, runs_of()).alone(1).history().values()
    said = "frozen: 1.*, 3.bias; trained from epoch 2 on: 3.bias; trained from epoch 3 on: 1.*"
    assert run.notes == [said]
