"""An optimizer that is said in one line does what one that was written by hand does."""

import io
from collections import namedtuple
from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn

from runmanager import Sweep, Trainer, launch, load_results
from runmanager.data.splits import Splits
from runmanager.launching.sweep import SweepError
from runmanager.tracking.rows import check_metric_names
from runmanager.training.checkpoints import TrainingState
from runmanager.training.parts import Parts
from runmanager.training.recipes.optimizers import build_optimizer, learning_rates
from runmanager.training.settings import TrainerError
from runmanager.training.stacked_optimizers import refusal, stacked, structure

INPUTS = torch.rand(8, 4, generator=torch.Generator().manual_seed(0))
TARGETS = torch.tensor([0, 1] * 4)


class Net(nn.Module):
    """A body with norm layers, and a head."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.ReLU(), nn.LayerNorm(3))
        self.head = nn.Linear(3, 2)

    def forward(self, inputs):
        return self.head(self.body(inputs))


def net(seed=0):
    torch.manual_seed(seed)
    return Net()


def run_of(**params):
    return namedtuple("Run", params)(**params)


def train(network, optimizer, steps=3):
    for _ in range(steps):
        optimizer.zero_grad()
        F.cross_entropy(network(INPUTS), TARGETS).backward()
        optimizer.step()


def same(one, other):
    """Whether two networks have the same bits."""
    pairs = zip(one.parameters(), other.parameters(), strict=True)
    return all(torch.equal(mine, theirs) for mine, theirs in pairs)


def names_of(network, group):
    """The names of a group's parameters, in its order."""
    names = {id(param): name for name, param in network.named_parameters()}
    return [names[id(param)] for param in group["params"]]


def check_trains_like(optimizer, by_hand, run, **settings):
    """Bit-equal weights after some steps; `by_hand` makes torch's own from a network."""
    ours, theirs = net(), net()
    made = build_optimizer(optimizer, run, ours, **settings)
    train(ours, made)
    train(theirs, by_hand(theirs))
    assert same(ours, theirs)
    assert not same(ours, net())
    return made


DENSE = [
    "ASGD",
    "Adadelta",
    "Adafactor",
    "Adagrad",
    "Adam",
    "AdamW",
    "Adamax",
    "NAdam",
    "RAdam",
    "RMSprop",
    "Rprop",
    "SGD",
]


@pytest.mark.parametrize("name", DENSE)
def test_a_name_trains_as_the_class_does(name):
    kind = getattr(torch.optim, name)
    made = check_trains_like(name.lower(), lambda network: kind(network.parameters(), lr=0.03), run_of(lr=0.03))
    assert type(made) is kind
    assert len(made.param_groups) == 1
    assert "name" not in made.param_groups[0]


def test_the_hyperparameters_of_the_same_names_are_the_arguments():
    run = run_of(lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.01, batch_size=4)

    def by_hand(network):
        return torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.01)

    check_trains_like("SGD", by_hand, run)
    check_trains_like(torch.optim.SGD, by_hand, run)


def test_what_a_partial_fixes_goes_before_the_run():
    fixed = partial(torch.optim.SGD, momentum=0.5)
    made = check_trains_like(
        fixed,
        lambda network: torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.5),
        run_of(lr=0.1, momentum=0.9),
    )
    assert made.param_groups[0]["momentum"] == 0.5


def test_a_function_makes_what_it_likes():
    def make(run, network):
        return torch.optim.Adam([{"params": network.head.parameters(), "lr": 1.0}], lr=run.lr)

    made = build_optimizer(make, run_of(lr=0.1), net())
    assert learning_rates(made) == {"learning rate": 1.0}


class Own(torch.optim.SGD):
    """Of the user's own, with a first argument of another name and one that must be given."""

    def __init__(self, weights, rate, **others):
        super().__init__(weights, lr=rate, **others)


def test_a_class_of_ones_own_gets_its_own_arguments():
    made = build_optimizer(Own, run_of(rate=0.2, lr=0.1), net(), param_groups={"head.*": {"momentum": 0.5}})
    assert [(group["lr"], group["momentum"]) for group in made.param_groups] == [(0.2, 0), (0.2, 0.5)]
    with pytest.raises(TrainerError, match=r"optimizer=Own needs rate, and the grid has lr; add rate=\[\.\.\.\]"):
        build_optimizer(Own, run_of(lr=0.1), net())


def test_patterns_make_groups_with_options_of_their_own():
    groups = {"body.*": {"lr_scale": 0.1, "momentum": 0.5}, "*.bias": {"weight_decay": 0.0}}

    def by_hand(network):
        (first, norm, _, layer), head = network.body, network.head
        weights, biases = [first.weight, norm.weight, layer.weight], [first.bias, norm.bias, layer.bias]
        return torch.optim.SGD(
            [
                {"params": weights, "lr": 0.3 * 0.1, "momentum": 0.5},
                {"params": biases, "lr": 0.3 * 0.1, "momentum": 0.5, "weight_decay": 0.0},
                {"params": [head.weight]},
                {"params": [head.bias], "weight_decay": 0.0},
            ],
            lr=0.3,
            weight_decay=0.1,
        )

    run = run_of(lr=0.3, weight_decay=0.1)
    made = check_trains_like("sgd", by_hand, run, param_groups=groups)
    assert learning_rates(made) == {
        "learning rate/body.*": 0.03,
        "learning rate/body.*+*.bias": 0.03,
        "learning rate/rest": 0.3,
        "learning rate/*.bias": 0.3,
    }
    check_metric_names("log", learning_rates(made), run._asdict())


def test_the_later_of_two_patterns_goes_before_and_a_rate_is_a_rate():
    network = net()
    groups = {"*": {"lr_scale": 0.5, "momentum": 0.1}, "head.*": {"lr": 0.7}, "head.bias": {"lr_scale": 2}}
    made = build_optimizer("SGD", run_of(lr=0.1), network, param_groups=groups)
    found = {name: (group["lr"], group["momentum"]) for group in made.param_groups for name in names_of(network, group)}
    assert found["body.0.weight"] == (0.05, 0.1)
    assert found["head.weight"] == (0.7, 0.1)
    assert found["head.bias"] == (0.2, 0.1)


def test_patterns_that_say_the_same_make_one_group_in_the_order_of_the_network():
    network = net()
    groups = {"head.*": {"lr_scale": 0.5}, "body.0.*": {"lr_scale": 0.5}}
    made = build_optimizer("Adam", run_of(), network, param_groups=groups)
    assert [group["name"] for group in made.param_groups] == ["head.*+body.0.*", "rest"]
    first, rest = [names_of(network, group) for group in made.param_groups]
    assert first == ["body.0.weight", "body.0.bias", "head.weight", "head.bias"]
    assert rest == ["body.1.weight", "body.1.bias", "body.3.weight", "body.3.bias"]
    assert learning_rates(made) == {"learning rate/head.*+body.0.*": 0.0005, "learning rate/rest": 0.001}


def test_a_single_group_has_no_name():
    scale = np.float32(0.5)  # as a grid out of numpy has it
    made = build_optimizer("SGD", run_of(lr=0.1), net(), param_groups={"*": {"lr_scale": scale}})
    assert [("name" in group, group["lr"]) for group in made.param_groups] == [(False, 0.05)]
    assert learning_rates(made) == {"learning rate": 0.05}


def test_biases_and_norms_do_not_decay():
    def by_hand(network):
        decayed = [network.body[0].weight, network.head.weight]
        rest = [one for one in network.parameters() if all(one is not other for other in decayed)]
        return torch.optim.AdamW([{"params": decayed}, {"params": rest, "weight_decay": 0.0}], lr=0.1, weight_decay=0.5)

    made = check_trains_like("AdamW", by_hand, run_of(lr=0.1, weight_decay=0.5), no_decay=True)
    assert [(group["name"], group["weight_decay"]) for group in made.param_groups] == [("rest", 0.5), ("no_decay", 0.0)]


class LlamaRMSNorm(nn.Module):
    """A norm layer of the user's own."""

    def __init__(self):
        super().__init__()
        self.gain = nn.Parameter(torch.ones(3))


NORMS = [
    lambda: nn.BatchNorm2d(3),
    lambda: nn.SyncBatchNorm(3),
    lambda: nn.GroupNorm(1, 3),
    lambda: nn.InstanceNorm1d(3, affine=True),
    lambda: nn.RMSNorm(3),
    lambda: type("Mine", (nn.LayerNorm,), {})(3),
    LlamaRMSNorm,
]


@pytest.mark.parametrize("norm", NORMS)
def test_every_norm_layer_is_known(norm):
    network = nn.ModuleDict({"inner": norm(), "last": nn.Linear(3, 2)})
    made = build_optimizer("AdamW", run_of(), network, no_decay=True)
    decayed = [name for group in made.param_groups if group["weight_decay"] for name in names_of(network, group)]
    assert decayed == ["last.weight"]


def test_the_biases_of_recurrent_and_attention_layers_do_not_decay():
    network = nn.ModuleList([nn.LSTM(2, 3), nn.MultiheadAttention(4, 2)])
    made = build_optimizer("SGD", run_of(weight_decay=0.1), network, no_decay=True)
    decayed = {name for group in made.param_groups if group["weight_decay"] for name in names_of(network, group)}
    assert decayed == {"0.weight_ih_l0", "0.weight_hh_l0", "1.in_proj_weight", "1.out_proj.weight"}


def test_no_decay_goes_before_every_pattern():
    network = net()
    made = build_optimizer(
        "SGD", run_of(lr=0.1), network, param_groups={"body.*": {"weight_decay": 0.2}}, no_decay=True
    )
    decays = {name: group["weight_decay"] for group in made.param_groups for name in names_of(network, group)}
    assert {name for name, decay in decays.items() if decay == 0.2} == {"body.0.weight"}
    assert decays["body.0.bias"] == 0.0


def test_the_groups_do_not_depend_on_the_values_of_the_run():
    """So that runs which differ in a value can be trained together, and have the same columns."""
    made = [build_optimizer("SGD", run_of(weight_decay=one), net(), no_decay=True) for one in (0.0, 0.1)]
    assert structure(made[0]) == structure(made[1])
    assert learning_rates(made[0]).keys() == learning_rates(made[1]).keys()


def test_a_pattern_finds_a_tied_parameter_by_each_of_its_names():
    network = nn.ModuleDict({"embed": nn.Embedding(4, 3), "head": nn.Linear(3, 4, bias=False)})
    network["head"].weight = network["embed"].weight
    made = build_optimizer("SGD", run_of(lr=0.1), network, param_groups={"head.*": {"lr": 0.5}})
    assert learning_rates(made) == {"learning rate": 0.5}
    assert len(made.param_groups[0]["params"]) == 1


def test_a_frozen_parameter_waits_in_its_group_until_it_is_unfrozen():
    network, plain = net(), net()
    for one in (network, plain):
        one.body.requires_grad_(False)
    made = build_optimizer("SGD", run_of(lr=0.1, momentum=0.9, weight_decay=0.1), network)
    by_hand = torch.optim.SGD(plain.parameters(), lr=0.1, momentum=0.9, weight_decay=0.1)
    for one, optimizer in ((network, made), (plain, by_hand)):
        train(one, optimizer)
    assert torch.equal(network.body[0].weight, net().body[0].weight)
    for one, optimizer in ((network, made), (plain, by_hand)):
        one.body.requires_grad_(True)
        train(one, optimizer)
    assert not torch.equal(network.body[0].weight, net().body[0].weight)
    assert same(network, plain)


def test_a_group_of_a_function_without_a_name_goes_by_its_number():
    network = net()
    groups = [
        {"params": network.body[0].parameters(), "name": "first"},
        {"params": network.body[1].parameters(), "lr": torch.tensor(0.5)},
        {"params": network.body[3].parameters(), "name": "twice"},
        {"params": network.head.parameters(), "name": "twice", "lr": 0.25},
    ]
    made = build_optimizer(lambda run, network: torch.optim.SGD(groups, lr=run.lr), run_of(lr=0.125), network)
    assert learning_rates(made) == {
        "learning rate/first": 0.125,
        "learning rate/1": 0.5,
        "learning rate/2": 0.125,
        "learning rate/3": 0.25,
    }


@pytest.mark.parametrize("name", ["SGD", "AdamW", "RMSprop", "Adagrad"])
def test_the_state_of_several_groups_comes_back_for_new_parameters(name):
    run = run_of(lr=0.05, momentum=0.9, weight_decay=0.1)
    settings = {"param_groups": {"body.*": {"lr_scale": 0.1}}, "no_decay": True}

    def built(seed):
        network = net(seed)
        optimizer = build_optimizer(name, run, network, **settings)
        data = Splits(torch.utils.data.TensorDataset(INPUTS, TARGETS))
        parts = Parts(network, optimizer, F.cross_entropy)
        return parts, TrainingState(parts, torch.Generator(), data)

    whole, _ = built(0)
    train(whole.network, whole.optimizer, 6)
    parts, state = built(0)
    train(parts.network, parts.optimizer, 3)
    file = io.BytesIO()
    torch.save(state.capture(), file)
    file.seek(0)
    parts, state = built(1)  # other first weights, which must not matter
    state.restore(torch.load(file, weights_only=True))
    assert len(parts.optimizer.param_groups) == 4
    train(parts.network, parts.optimizer, 3)
    assert same(parts.network, whole.network)
    assert learning_rates(parts.optimizer) == learning_rates(whole.optimizer)


def test_named_groups_take_their_steps_in_a_stack():
    """The fused steps of two members with groups are those that each takes alone, to within rounding."""
    settings = {"param_groups": {"head.*": {"lr_scale": 2}}, "no_decay": True}
    runs = [run_of(lr=0.1, weight_decay=0.5), run_of(lr=0.02, weight_decay=0.1)]
    networks, alone = [net(0), net(1)], [net(0), net(1)]
    optimizers = [build_optimizer("AdamW", run, one, **settings) for run, one in zip(runs, networks, strict=True)]
    assert [refusal(one) for one in optimizers] == [None, None]
    assert structure(optimizers[0]) == structure(optimizers[1])
    rows = [[param for group in one.param_groups for param in group["params"]] for one in optimizers]
    values = torch.stack([torch.cat([param.detach().reshape(-1) for param in row]) for row in rows])
    grads = torch.ones_like(values)
    stack = stacked(optimizers, values, grads)
    for _ in range(3):
        stack.step()
    for row, (run, network) in enumerate(zip(runs, alone, strict=True)):
        optimizer = build_optimizer("AdamW", run, network, **settings)
        for param in network.parameters():
            param.grad = torch.ones_like(param)
        for _ in range(3):
            optimizer.step()
        by_itself = torch.cat(
            [param.detach().reshape(-1) for group in optimizer.param_groups for param in group["params"]]
        )
        assert torch.allclose(values[row], by_itself, atol=1e-6)


def frozen():
    return net().requires_grad_(False)


REFUSED = [
    ({"optimizer": "SDG"}, "optimizer='SDG' is unknown; choose "),
    ({"optimizer": "SDG"}, "did you mean 'SGD'?"),
    ({"optimizer": "Optimizer"}, "optimizer='Optimizer' is unknown"),
    ({"optimizer": "lbfgs"}, "optimizer=LBFGS computes the loss several times in a step, by a closure"),
    ({"optimizer": torch.optim.LBFGS}, "the Trainer's step has none; choose another"),
    (
        {"optimizer": lambda run, network: torch.optim.LBFGS(network.parameters())},
        "LBFGS computes the loss several times",
    ),
    ({"optimizer": 3}, "optimizer=an int has to be a name like 'SGD'"),
    ({"optimizer": nn.Linear}, "write optimizer=lambda run, network: torch.optim.Adam("),
    ({"optimizer": lambda run, network: None}, "the optimizer function returned a NoneType"),
    ({"optimizer": "Muon"}, "Muon with lr=0.1: Muon only supports 2D parameters"),
    ({"optimizer": partial(torch.optim.SGD, lr=-1)}, "optimizer=SGD with lr=-1: Invalid learning rate: -1"),
    ({"optimizer": "SparseAdam"}, "trains sparse gradients alone, and that of body.0.weight is dense"),
    ({"network": frozen()}, "a frozen network has nothing to train; let freeze leave something out"),
    ({"network": nn.Flatten()}, "the network, Flatten, has no parameters"),
    ({"param_groups": ["body.*"]}, "param_groups=['body.*'] is no dict of options by pattern; write param_groups={"),
    ({"param_groups": {"body.*": 0.1}}, "'body.*': 0.1, which is no pattern with a dict of options"),
    ({"param_groups": {"bdy.*": {"lr": 1}}}, "'bdy.*' matches no parameter; the network has body.0.weight, "),
    ({"param_groups": {"bdy.*": {"lr": 1}}}, "did you mean 'body.*'?"),
    ({"param_groups": {"head": {"lr": 1}}}, "did you mean 'head.*'?"),
    ({"param_groups": {"Head.*": {"lr": 1}}}, "did you mean 'head.*'?"),
    (
        {"param_groups": {"body.*": {"momentun": 1}}},
        "param_groups 'body.*': option='momentun' is unknown; choose lr, lr_scale, ",
    ),
    ({"param_groups": {"body.*": {"momentun": 1}}}, "did you mean 'momentum'?"),
    ({"param_groups": {"body.*": {"betas": (0, 0)}}}, "option='betas' is unknown"),
    ({"param_groups": {"body.*": {"lr": 1, "lr_scale": 1}}}, "has both lr and lr_scale"),
    ({"param_groups": {"body.*": {"lr_scale": "half"}}}, "lr_scale='half', which is no number of 0 or more"),
    ({"param_groups": {"body.*": {"lr_scale": -1}}}, "lr_scale=-1, which is no number of 0 or more"),
    ({"param_groups": {"body.*": {"momentum": -1}}}, "SGD with lr=0.1, momentum=-1: Invalid momentum value: -1"),
    ({"optimizer": "Rprop", "no_decay": True}, "no_decay is given, but Rprop has no weight_decay"),
    ({"no_decay": "yes"}, "no_decay='yes' is neither True nor False"),
    (
        {"optimizer": lambda run, network: torch.optim.SGD(network.parameters()), "no_decay": True},
        "no_decay is given, but optimizer=<lambda> is a function, which makes its own groups",
    ),
    (
        {"optimizer": lambda run, network: torch.optim.SGD(network.parameters()), "param_groups": {"*": {"lr": 1}}},
        "param_groups is given, but optimizer=<lambda> is a function",
    ),
]


@pytest.mark.parametrize(("settings", "said"), REFUSED)
def test_what_does_not_go_is_refused_with_what_to_write(settings, said):
    settings = {"optimizer": "SGD", "network": net(), **settings}
    with pytest.raises(TrainerError) as caught:
        build_optimizer(settings.pop("optimizer"), run_of(lr=0.1), settings.pop("network"), **settings)
    assert said in str(caught.value)


def test_the_unknown_name_does_not_offer_what_would_be_refused():
    with pytest.raises(TrainerError) as caught:
        build_optimizer("lbgfs", run_of(), net())
    assert "AdamW" in str(caught.value)
    assert "LBFGS" not in str(caught.value)


def test_sparse_embeddings_are_trained_by_sparse_adam():
    network = nn.Embedding(4, 2, sparse=True)
    optimizer = build_optimizer("sparseadam", run_of(lr=0.1), network)
    before = network.weight.detach().clone()
    network(torch.tensor([1])).sum().backward()
    optimizer.step()
    assert torch.equal((network.weight != before).any(1), torch.tensor([False, True, False, False]))


def test_muon_trains_a_network_of_matrices():
    network = nn.Linear(4, 2, bias=False)
    assert type(build_optimizer("muon", run_of(lr=0.1), network)) is torch.optim.Muon


def sweep_of(folder, params, **parts):
    """A sweep of the usual small trainer with these parts."""
    data = torch.utils.data.TensorDataset(INPUTS, TARGETS)
    usual = {"network": lambda run: net(), "data": (data, data), "loss": "cross_entropy", "optimizer": "SGD"}
    trainer = Trainer(**{**usual, "epochs": 2, "batch_size": 4, "device": "cpu", **parts})
    sweep = Sweep(params, trainer=trainer, name="optimized")
    sweep.file = folder / "sweeps" / "optimized.py"
    return sweep


FAULTS = [
    ({"optimizer": ["Adma"]}, {"optimizer": None}, r"optimizer='Adma' is unknown; .*did you mean 'Adam'\?"),
    ({"optimizer": ["SDG"]}, {"optimizer": None}, "optimizer='SDG' is unknown; .*did you mean 'SGD'"),
    ({"lr": [0.1]}, {"optimizer": Own}, r"optimizer=Own needs rate, and the grid has lr; add rate=\[\.\.\.\]"),
    ({"lr": [-1.0]}, {}, "optimizer=SGD with lr=-1.0: Invalid learning rate"),
    ({"lr": ["0.1"]}, {}, "lr='0.1' is a string, and SGD takes a number, without quotes, for lr"),
    ({"lr": [0.1, None]}, {}, "lr=None, and SGD takes a number for lr; give one, or leave it out"),
    ({"momentum": ["0.9"]}, {}, "momentum='0.9' is a string, and SGD takes a number"),
    ({"nesterov": ["False"]}, {}, "nesterov='False' is a string, and SGD takes True or False"),
    (
        {"lr": [0.1]},
        {"optimizer": partial(torch.optim.SGD, nesterof=True)},
        "SGD has no argument 'nesterof'; .*'nesterov'",
    ),
    (
        {"lr": [0.1]},
        {"optimizer": lambda network: torch.optim.Adam(network.parameters())},
        "gets the run, and this one takes it for the network .*; write optimizer=lambda run, network: ",
    ),
    ({"lr": [0.1], "momentum": [0.9]}, {"optimizer": "Adagrad"}, "momentum is in the grid, but nothing uses it"),
    (
        {"lr": [0.1]},
        {"param_groups": {"bdy.*": {"lr_scale": 0.1}}},
        "'bdy.*' matches no parameter; .*did you mean 'body.*'",
    ),
    ({"lr": [0.1], "no_decay": ["yes"]}, {}, "no_decay='yes' is not True or False"),
]


@pytest.mark.parametrize(("params", "parts", "said"), FAULTS)
def test_a_sweep_says_before_it_starts_what_is_wrong_with_its_optimizer(params, parts, said, tmp_path):
    with pytest.raises(SweepError, match=said):
        sweep_of(tmp_path, params, **parts).check(tmp_path)


def test_the_rates_of_the_groups_are_columns_and_tags(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    launch(sweep_of(tmp_path, {"lr": [0.1]}, param_groups={"body.*": {"lr_scale": 0.5}}), quiet=True)
    table = load_results("optimized")
    assert table["learning rate/body.*"].tolist() == [0.05, 0.05]
    assert table["learning rate/rest"].tolist() == [0.1, 0.1]
    (folder,) = (one for one in (tmp_path / "runs" / "optimized").iterdir() if one.is_dir())
    events = EventAccumulator(str(folder)).Reload()
    assert [one.value for one in events.Scalars("learning rate/body.*")] == pytest.approx([0.05, 0.05])
