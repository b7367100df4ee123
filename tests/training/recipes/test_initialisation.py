"""Weights begin as torch.nn.init makes them when it is called by hand."""

from functools import partial

import pytest
import torch
from torch import nn

from runmanager import RunBuilder, Sweep, Trainer, launch
from runmanager.launching.sweep import SweepError
from runmanager.training.recipes.initialisation import initialise
from runmanager.training.trainer import TrainerError


def small_network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(16, 8),
        nn.LayerNorm(8),
        nn.Linear(8, 3),
    )


def both(init, by_hand, network=small_network, run=None):
    """What was done, after it was seen that every parameter is as after `by_hand` under the same seed."""
    ours, theirs = network(), network()
    torch.manual_seed(1)
    done = initialise(ours, init, run)
    torch.manual_seed(1)
    with torch.no_grad():
        by_hand(theirs)
    for (name, param), other in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        assert torch.equal(param, other), name
    return done


WEIGHTS = ("0.weight", "4.weight", "6.weight")


@pytest.mark.parametrize(
    ("name", "fill"),
    [
        ("kaiming_normal", nn.init.kaiming_normal_),
        ("kaiming", nn.init.kaiming_normal_),
        ("Kaiming_Uniform_", nn.init.kaiming_uniform_),
        ("xavier_uniform", nn.init.xavier_uniform_),
        ("xavier", nn.init.xavier_uniform_),
        ("xavier_normal", nn.init.xavier_normal_),
        ("orthogonal", nn.init.orthogonal_),
        ("trunc_normal", nn.init.trunc_normal_),
        ("normal", nn.init.normal_),
        ("uniform", nn.init.uniform_),
        ("zeros", nn.init.zeros_),
        (0.25, partial(nn.init.constant_, val=0.25)),
        (partial(nn.init.kaiming_normal_, nonlinearity="relu", mode="fan_out"),) * 2,
        (lambda tensor: tensor.normal_(0, 0.02),) * 2,
    ],
)
def test_one_name_fills_the_weights_of_conv_and_linear_and_nothing_else(name, fill):
    def by_hand(network):
        for index in (0, 4, 6):
            fill(network[index].weight)

    done = both(name, by_hand)
    assert tuple(done) == WEIGHTS


def test_each_kind_has_its_own_and_the_parameters_are_gone_through_in_their_order():
    def by_hand(network):
        nn.init.kaiming_normal_(network[0].weight, nonlinearity="relu")
        nn.init.zeros_(network[0].bias)
        nn.init.ones_(network[1].weight)
        nn.init.zeros_(network[1].bias)
        nn.init.xavier_uniform_(network[4].weight, gain=2)
        nn.init.zeros_(network[4].bias)
        nn.init.ones_(network[5].weight)
        nn.init.zeros_(network[5].bias)
        nn.init.xavier_uniform_(network[6].weight, gain=2)
        nn.init.zeros_(network[6].bias)

    init = {
        "bias": "zeros",
        "norm": 1,
        "linear": partial(nn.init.xavier_uniform_, gain=2),
        "conv": partial(nn.init.kaiming_normal_, nonlinearity="relu"),
    }
    done = both(init, by_hand)
    assert done["0.weight"] == "kaiming_normal(nonlinearity='relu')"
    assert done["1.weight"] == "constant(1)"
    assert done["6.bias"] == "zeros"
    assert len(done) == 10


def test_a_pattern_goes_before_a_kind_and_a_later_pattern_before_an_earlier_one():
    def by_hand(network):
        nn.init.zeros_(network[4].weight)
        nn.init.ones_(network[6].weight)
        nn.init.zeros_(network[6].bias)

    done = both({"4.*t": "zeros", "6.*": "zeros", "6.weight": "ones", "linear": "normal"}, by_hand)
    assert done == {"4.weight": "zeros", "6.weight": "ones", "6.bias": "zeros"}


def test_the_arguments_of_a_name_are_hyperparameters():
    (run,) = RunBuilder.get_runs({"std": [0.02], "lr": [0.1]})

    def by_hand(network):
        for index in (0, 4, 6):
            nn.init.normal_(network[index].weight, std=0.02)

    assert both("normal", by_hand, run=run)["0.weight"] == "normal(std=0.02)"


def test_embeddings_and_the_biases_of_recurrent_layers_have_their_kinds():
    def network():
        torch.manual_seed(0)
        return nn.ModuleList([nn.Embedding(5, 4), nn.LSTM(4, 3), nn.MultiheadAttention(4, 1)])

    def by_hand(network):
        nn.init.normal_(network[0].weight)
        for bias in (network[1].bias_ih_l0, network[1].bias_hh_l0, network[2].in_proj_bias, network[2].out_proj.bias):
            bias.fill_(1)

    assert len(both({"embedding": "normal", "bias": 1.0}, by_hand, network)) == 5


def test_a_parameter_that_two_layers_share_is_filled_once():
    def network():
        torch.manual_seed(0)
        made = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
        made[1].weight = made[0].weight
        return made

    assert both("normal", lambda network: nn.init.normal_(network[0].weight), network) == {"0.weight": "normal"}


@pytest.mark.parametrize(
    ("init", "said"),
    [
        ("kaming_normal", "init='kaming_normal' is unknown; choose .*did you mean 'kaiming_normal'"),
        ({"conv": True}, "init=True is no initialiser; give a name like 'kaiming_normal', a number"),
        (nn.Linear, "is no initialiser"),
        (
            {"embedding": "normal"},
            "init has 'embedding', but the network has no embedding; it has conv, linear, norm, bias",
        ),
        (
            {"7.weight": "normal"},
            "init: '7.weight' fits no parameter .* did you mean '6.weight'.*choose a kind: conv, ",
        ),
        ({"6": "normal"}, r"'6' is a layer, and '6\.\*' its parameters"),
        ({"bias": "xavier"}, r"init=xavier_uniform cannot fill 0.bias \[4\]: .*; 'zeros', .* or a number can fill it"),
        ({"norm": "orthogonal"}, r"init=orthogonal cannot fill 1.weight \[4\]"),
        ({"linear": "dirac"}, r"init=dirac cannot fill 4.weight \[8, 16\]"),
        ("constant", r"init='constant' needs val; add val=\[...\] .*; a number alone is a constant"),
        ("sparse", r"'sparse' needs sparsity; .*partial\(torch.nn.init.sparse_, sparsity=...\)"),
        (torch.zeros_like, r"init=zeros_like returned a new tensor for 0.weight \[4, 1, 3, 3\]; let it change the one"),
    ],
)
def test_what_cannot_be_done_is_refused_with_the_choices(init, said):
    with pytest.raises(TrainerError, match=said):
        initialise(small_network(), init)


def test_a_network_without_such_layers_and_one_without_shapes_are_refused():
    with pytest.raises(TrainerError, match="no conv or linear layer"):
        initialise(nn.Embedding(3, 4), "normal")
    with pytest.raises(TrainerError, match=r"0\.weight, whose shape is known at the first batch"):
        initialise(nn.Sequential(nn.LazyLinear(3)), "normal")


def sweep_of(folder, params, **parts):
    data = torch.utils.data.TensorDataset(torch.rand(8, 1, 4, 4), torch.tensor([0, 1] * 4))
    usual = {"network": lambda run: small_network(), "data": (data, data), "loss": "cross_entropy", "optimizer": "SGD"}
    sweep = Sweep(params, trainer=Trainer(**usual, epochs=1, batch_size=4, device="cpu", **parts), name="initialised")
    sweep.file = folder / "sweeps" / "initialised.py"
    return sweep


@pytest.mark.parametrize(
    ("init", "said"),
    [
        ("kaming", "init='kaming' is unknown; choose .*did you mean 'kaiming_normal'"),
        ({"embedding": "zeros"}, "the network has no embedding; it has conv, linear, norm, bias"),
        ({"5.*": "orthogonal"}, r"init=orthogonal cannot fill 5.weight \[8\]"),
    ],
)
def test_a_sweep_says_before_it_starts_what_is_wrong_with_its_first_weights(init, said, tmp_path):
    with pytest.raises(SweepError, match=said):
        sweep_of(tmp_path, {"lr": [0.1]}, init=init).check(tmp_path)


def test_what_the_weights_began_as_is_kept_with_each_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    init = {"linear": "normal", "[46].bias": "zeros"}
    sweep = sweep_of(tmp_path, {"lr": [0.1], "std": [0.02, 0.1]}, init=init)
    first, second = launch(sweep, fuse=2, quiet=True, tensorboard=False).runs
    assert first.notes == ["first weights: normal(std=0.02) for 4.weight, 6.weight; zeros for 4.bias, 6.bias"]
    assert "normal(std=0.1) for 4.weight, 6.weight" in second.notes[0]
