"""What runs have to agree in to be trained in one step: whatever a network does by, but for its values and dropout rates."""

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.optim import SGD, Adam

from runmanager.training.alike import NotFusable, group_key
from runmanager.training.parts import Parts
from tests.training.fused_networks import NETWORKS, Embedded, Lstm


def key(network, loss=F.cross_entropy, optimizer=None, others=None):
    trained = [param for param in network.parameters() if param.requires_grad]
    return group_key(Parts(network, optimizer or SGD(trained, lr=0.1), loss), others)


class Acting(nn.Module):
    """It keeps whatever it is given, and calls it."""

    def __init__(self, act):
        super().__init__()
        self.layer, self.act = nn.Linear(4, 3), act

    def forward(self, inputs):
        return self.act(self.layer(inputs))


class Scaling:
    """A function that keeps a number."""

    def __init__(self, by):
        self.by = by

    def __call__(self, inputs):
        return inputs * self.by

    def apply(self, inputs):
        return inputs * self.by


def closing_over(by):
    return lambda inputs: inputs * by


def calling(function):
    return lambda inputs: function(inputs)


def of_local_class(by):
    class Local(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(4, 3)

        def forward(self, inputs):
            return self.layer(inputs) * by

    return Local()


def with_forward(by):
    network = nn.Linear(4, 3)
    network.forward = lambda inputs: F.linear(inputs, network.weight) * by
    return network


def tied(name):
    network = nn.ModuleDict({part: nn.Linear(4, 4) for part in "abc"})
    network[name].weight = network["a"].weight
    return network


DIFFERENT = {
    "a number": (nn.LeakyReLU(0.1), nn.LeakyReLU(0.2)),
    "a flag": (nn.BatchNorm1d(3), nn.BatchNorm1d(3, track_running_stats=False)),
    "a momentum": (nn.BatchNorm1d(3, momentum=0.1), nn.BatchNorm1d(3, momentum=0.2)),
    "a class": (nn.ReLU(), nn.Tanh()),
    "a function": (F.relu, F.gelu),
    "a number in a lambda": (lambda x: x * 2, lambda x: x * 3),
    "a name in a lambda": (lambda x: F.relu(x), lambda x: F.gelu(x)),
    "a method in a lambda": (lambda x: x.relu(), lambda x: x.tanh()),
    "a lambda's default": (lambda x, by=2: x * by, lambda x, by=3: x * by),
    "a lambda's keyword": (lambda x, *, by=2: x * by, lambda x, *, by=3: x * by),
    "what a lambda closes over": (closing_over(2), closing_over(3)),
    "a function that a lambda closes over": (calling(closing_over(2)), calling(closing_over(3))),
    "a lambda in a lambda": (lambda x: (lambda y: y * 2)(x), lambda x: (lambda y: y * 3)(x)),
    "a partial": (partial(F.leaky_relu, negative_slope=0.1), partial(F.leaky_relu, negative_slope=0.2)),
    "an object": (Scaling(2), Scaling(3)),
    "a method's object": (Scaling(2).apply, Scaling(3).apply),
    "a tensor": (torch.tensor(1.0), torch.tensor(2.0)),
    "a list": ([1, 2], [1, 3]),
    "a deep number": ({"scales": [(1, 2.0)]}, {"scales": [(1, 2.5)]}),
}


@pytest.mark.parametrize("name", DIFFERENT)
def test_networks_that_differ_in_what_they_keep_are_not_trained_together(name):
    one, other = DIFFERENT[name]
    assert key(Acting(one)) != key(Acting(other))


@pytest.mark.parametrize("make", [of_local_class, with_forward, tied], ids=lambda make: make.__name__)
def test_networks_that_are_built_differently_are_not_trained_together(make):
    one, other = ("b", "c") if make is tied else (2, 3)
    assert key(make(one)) != key(make(other))


@pytest.mark.parametrize("name", NETWORKS)
def test_networks_of_one_kind_are_trained_together_whatever_their_values(name):
    network, _ = NETWORKS[name]
    assert key(network(0)) == key(network(1))


@pytest.mark.parametrize(
    "make",
    [
        lambda: Acting(closing_over(2)),
        lambda: Acting(partial(F.leaky_relu, negative_slope=0.1)),
        lambda: Acting(Scaling(2)),
        lambda: Acting(F.relu),
    ],
)
def test_networks_that_keep_the_same_are_trained_together(make):
    assert key(make()) == key(make())


@pytest.mark.parametrize("kind", [nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d])
def test_dropout_rates_may_differ(kind):
    one, other = (nn.Sequential(nn.Linear(4, 3), kind(rate)) for rate in (0.1, 0.5))
    assert key(one) == key(other)


def test_rates_and_decays_and_smoothings_may_differ():
    network = nn.Linear(4, 3)
    one = key(network, nn.CrossEntropyLoss(), SGD(network.parameters(), lr=0.1))
    loss = nn.CrossEntropyLoss(label_smoothing=0.1)
    assert one == key(network, loss, SGD(network.parameters(), lr=0.2, momentum=0.9, weight_decay=0.1))


def test_shapes_optimizers_losses_and_what_the_caller_names_have_to_agree():
    network = nn.Linear(4, 3)
    others = [
        key(nn.Linear(4, 3, bias=False)),
        key(nn.Linear(5, 3)),
        key(nn.Linear(4, 3, dtype=torch.float64)),
        key(network, optimizer=Adam(network.parameters())),
        key(network, optimizer=SGD(network.parameters(), lr=0.1, momentum=0.9, nesterov=True)),
        key(network, optimizer=SGD([network.bias, network.weight], lr=0.1)),
        key(network, loss=F.mse_loss),
        key(network, others=[32]),
    ]
    assert len({key(network), *others}) == len(others) + 1


def test_what_is_frozen_has_to_agree():
    frozen = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 3))
    frozen[0].requires_grad_(False)
    assert key(frozen) != key(nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 3)))


def test_a_network_that_leads_back_to_itself_has_a_key():
    def looping():
        network = Acting(F.relu)
        network.layer.owners = [network]
        return network

    assert key(looping()) == key(looping())


# what keeps a network from it


def hooked(register, *hook):
    network = nn.Sequential(nn.Linear(4, 3))
    getattr(network[0], register)(*hook or [lambda *arguments: None])
    return network


def param_hooked(register):
    network = nn.Linear(4, 3)
    getattr(network.weight, register)(lambda grad: None)
    return network


def trained_without(name):
    network = nn.Linear(4, 3)
    others = [param for key, param in network.named_parameters() if key != name]
    return Parts(network, SGD(others, lr=0.1), F.cross_entropy)


def with_types(*dtypes):
    return nn.Sequential(*(nn.Linear(3, 3, dtype=dtype) for dtype in dtypes))


REFUSED = {
    "hook on 0": [
        lambda: hooked("register_forward_hook"),
        lambda: hooked("register_forward_pre_hook"),
        lambda: hooked("register_full_backward_hook"),
        lambda: hooked("register_full_backward_pre_hook"),
    ],
    "hook on weight": [
        lambda: param_hooked("register_hook"),
        lambda: param_hooked("register_post_accumulate_grad_hook"),
    ],
    "hook on itself": [lambda: torch.nn.utils.weight_norm(nn.Linear(4, 3))],
    "shape with the first batch": [lambda: nn.Sequential(nn.LazyLinear(3))],
    "several dtypes": [lambda: with_types(torch.float32, torch.float64)],
    "float16": [lambda: with_types(torch.float16)],
    "LSTM": [Lstm],
    "padding_idx": [lambda: Embedded(padding_idx=0)],
    "sparse": [lambda: Embedded(sparse=True)],
    "max_norm": [lambda: Embedded(max_norm=1.0)],
}


@pytest.mark.parametrize(("reason", "make"), [(reason, make) for reason, makers in REFUSED.items() for make in makers])
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_what_cannot_be_stacked_is_refused_by_its_cause(reason, make):
    with pytest.raises(NotFusable, match=reason):
        key(make())


def test_a_hook_of_all_modules_is_refused():
    handle = nn.modules.module.register_module_forward_hook(lambda *arguments: None)
    try:
        with pytest.raises(NotFusable, match="hooks are registered for all modules"):
            key(nn.Linear(4, 3))
    finally:
        handle.remove()
    key(nn.Linear(4, 3))


def test_an_optimizer_has_to_train_all_that_is_not_frozen_and_nothing_else():
    with pytest.raises(NotFusable, match="leaves out weight, which is not frozen"):
        group_key(trained_without("weight"), None)
    network, other = nn.Linear(4, 3), nn.Linear(4, 3)
    with pytest.raises(NotFusable, match="no parameter of its network"):
        key(network, optimizer=SGD([*network.parameters(), *other.parameters()], lr=0.1))


def test_an_optimizer_without_a_batched_form_is_refused():
    network = nn.Linear(4, 3)
    with pytest.raises(NotFusable, match="Adadelta has no batched form"):
        key(network, optimizer=torch.optim.Adadelta(network.parameters()))
