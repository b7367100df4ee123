"""A run's network comes from a class, a function, a Module or a name, and its last layer can be exchanged."""

from functools import partial

import pytest
import torch
from torch import nn
from torchvision import models

from runmanager import RunBuilder
from runmanager.training.recipes.networks import build_network, replace_head
from runmanager.training.trainer import TrainerError


def run_of(**params):
    return RunBuilder.get_runs({name: [value] for name, value in {"lr": 0.1, **params}.items()})[0]


def same(one, other):
    ours, theirs = one.state_dict(), other.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


class Wide(nn.Module):
    def __init__(self, width, num_classes=2, *, dropout=0.0):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(4, width), nn.Dropout(dropout))
        self.fc = nn.Linear(width, num_classes)


class OfRun(nn.Linear):
    def __init__(self, run, num_outputs=2):
        super().__init__(4, run.width * num_outputs)


def test_a_class_gets_its_arguments_from_the_hyperparameters_of_the_same_names():
    network = build_network(Wide, run_of(width=7, dropout=0.3))
    assert network.body[0].out_features == 7
    assert network.body[1].p == 0.3
    assert network.fc.out_features == 2


def test_what_a_partial_fixes_goes_before_the_hyperparameter():
    network = build_network(partial(Wide, width=5, num_classes=3), run_of(width=7, dropout=0.3))
    assert (network.fc.in_features, network.fc.out_features, network.body[1].p) == (5, 3, 0.3)


def test_a_class_that_wants_the_run_gets_it_whatever_it_calls_it():
    class Other(nn.Linear):
        def __init__(self, params):
            super().__init__(4, params.width)

    assert build_network(OfRun, run_of(width=3)).out_features == 6
    assert build_network(OfRun, run_of(width=3, num_outputs=5)).out_features == 15
    assert build_network(partial(OfRun, num_outputs=1), run_of(width=3)).out_features == 3
    assert build_network(Other, run_of(width=3)).out_features == 3


def test_a_function_of_the_run_gets_the_run_even_where_its_argument_bears_a_hyperparameters_name():
    assert build_network(lambda run: nn.Linear(4, run.width), run_of(width=3)).out_features == 3
    assert build_network(lambda width: nn.Linear(4, width.width), run_of(width=3)).out_features == 3
    assert build_network(lambda: nn.Linear(4, 2), run_of(width=3)).out_features == 2


def test_a_function_of_several_arguments_gets_them_by_name():
    assert build_network(lambda width, depth: nn.Linear(width, depth), run_of(depth=2, width=3)).in_features == 3
    assert build_network(lambda run, depth: nn.Linear(run.width, depth), run_of(depth=2, width=3)).out_features == 2


def test_a_module_is_copied_for_each_run():
    network = nn.Linear(4, 2)
    made = build_network(network, run_of())
    assert made is not network
    assert same(made, network)


@pytest.mark.parametrize(
    ("network", "said"),
    [
        (
            nn.Linear,
            r"network=Linear needs in_features and out_features, .* add in_features=\[...\].*partial\(Linear, ",
        ),
        (Wide, r"network=Wide needs width, which the grid has not; add width=\[...\] to it, or write network=partial"),
        (lambda: 3, r"<lambda> gives an int; give a Module class"),
        (partial(Wide, widht=3), "network=Wide has no argument 'widht'; .*did you mean 'width'"),
        (3, "network=an int gives an int; give a Module class"),
        ("resnet81", r"'resnet81' is unknown; choose one of the \d+ of .*; did you mean .*'resnet18'.*\?"),
    ],
)
def test_what_makes_no_network_is_refused_with_the_next_step(network, said):
    with pytest.raises(TrainerError, match=said) as caught:
        build_network(network, run_of())
    assert len(str(caught.value)) < 400


def test_a_name_is_torchvisions_model_with_random_weights():
    torch.manual_seed(1)
    made = build_network("squeezenet1_1", run_of(num_classes=4, dropout=0.25))
    torch.manual_seed(1)
    assert same(made, models.squeezenet1_1(num_classes=4))
    assert made.classifier[0].p == 0.25
    torch.manual_seed(1)
    assert same(build_network(lambda run: run.arch, run_of(arch="SqueezeNet1_1", num_classes=4)), made)


def test_options_that_torchvisions_functions_only_pass_on_are_hyperparameters_too():
    made = build_network("mobilenet_v3_small", run_of(num_classes=3, dropout=0.4))
    assert (made.classifier[-1].out_features, made.classifier[2].p) == (3, 0.4)
    assert build_network("efficientnet_b0", run_of(dropout=0.4)).classifier[0].p == 0.4
    assert build_network(partial(models.resnet18, num_classes=3), run_of(num_classes=9)).fc.out_features == 3


def test_an_option_that_the_model_sets_itself_is_refused_by_name():
    with pytest.raises(TrainerError, match=r"network='swin_t' with stochastic_depth_prob=0.3 cannot be built"):
        build_network("swin_t", run_of(stochastic_depth_prob=0.3))


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A folder for torchvision's weights that cannot be added to over the network."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    return folder


WEIGHTS = models.SqueezeNet1_1_Weights.DEFAULT.url.rpartition("/")[2]
ASKED_FOR = [
    ("squeezenet1_1", {"weights": "DEFAULT"}),
    ("squeezenet1_1", {"weights": "IMAGENET1K_V1"}),
    (partial(models.squeezenet1_1, weights="DEFAULT"), {}),
    (partial(models.squeezenet1_1, weights=models.SqueezeNet1_1_Weights.DEFAULT), {}),
]


@pytest.mark.parametrize(("network", "params"), ASKED_FOR)
def test_weights_that_are_asked_for_are_loaded(network, params, hub):
    torch.manual_seed(1)
    trained = models.squeezenet1_1()
    torch.save(trained.state_dict(), hub / WEIGHTS)
    assert same(build_network(network, run_of(**params)), trained)


@pytest.mark.parametrize(("network", "params"), ASKED_FOR)
def test_weights_that_cannot_be_had_are_named_with_the_place_where_they_may_be_put(network, params, hub):
    with pytest.raises(TrainerError, match="could not be downloaded") as caught:
        build_network(network, run_of(**params))
    assert f"the weights {WEIGHTS} are not in {hub}" in str(caught.value)
    assert f"fetch https://download.pytorch.org/models/{WEIGHTS}" in str(caught.value)


def test_weights_that_are_half_there_are_named(hub):
    (hub / WEIGHTS).write_bytes(b"PK\x03\x04 half")
    with pytest.raises(TrainerError, match=f"{WEIGHTS} cannot be loaded .*; delete that file"):
        build_network("squeezenet1_1", run_of(weights="DEFAULT"))


def test_no_weights_are_loaded_that_nobody_asked_for(hub):
    made = build_network("lraspp_mobilenet_v3_large", run_of(num_classes=3))  # torchvision would fetch its backbone's
    assert isinstance(made, nn.Module)


def test_weights_of_an_unknown_name_and_for_another_number_of_classes_are_refused():
    with pytest.raises(TrainerError, match=r"weights='DEFAULTS' is unknown; choose .*IMAGENET1K_V1.*mean 'DEFAULT'"):
        build_network("squeezenet1_1", run_of(weights="DEFAULTS"))
    with pytest.raises(TrainerError, match=r"expected value 1000 but got 10 .*; leave num_classes out and .*head="):
        build_network("squeezenet1_1", run_of(weights="DEFAULT", num_classes=10))


def test_the_last_linear_is_replaced_and_the_body_is_left():
    network = Wide(3).double().eval()
    network.fc = nn.Linear(3, 2, bias=False, dtype=torch.float64)
    body = {name: value.clone() for name, value in network.body.state_dict().items()}
    torch.manual_seed(1)
    assert replace_head(network, 5) == "fc"
    torch.manual_seed(1)
    assert torch.equal(network.fc.weight, nn.Linear(3, 5, bias=False, dtype=torch.float64).weight)
    assert network.fc.bias is None
    assert all(torch.equal(body[name], value) for name, value in network.body.state_dict().items())


def test_a_head_of_the_same_size_is_new_too():
    network = Wide(3)
    before = network.fc.weight
    replace_head(network, 2)
    assert not torch.equal(network.fc.weight, before)


@pytest.mark.parametrize(
    ("name", "head"),
    [
        ("squeezenet1_1", "classifier.1"),
        ("resnet18", "fc"),
        ("mobilenet_v3_small", "classifier.3"),
        ("shufflenet_v2_x0_5", "fc"),
        ("googlenet", "fc"),
        ("alexnet", "classifier.6"),
        ("vit_b_16", "heads.head"),
        ("swin_t", "head"),
        ("densenet121", "classifier"),
    ],
)
def test_the_head_of_torchvisions_models_is_found(name, head):
    with torch.device("meta"):
        network = models.get_model(name, weights=None, **({"init_weights": False} if name == "googlenet" else {}))
    assert replace_head(network, 7) == head


def test_a_network_with_a_new_head_gives_that_many_outputs():
    network = models.squeezenet1_1()
    replace_head(network, 7)
    assert network(torch.rand(2, 3, 64, 64)).shape == (2, 7)
    lazy = nn.Sequential(nn.Flatten(), nn.LazyLinear(10))
    assert replace_head(lazy, 3) == "1"
    assert lazy(torch.rand(2, 3, 4)).shape == (2, 3)


def test_the_projection_inside_attention_is_no_head():
    network = nn.Sequential(nn.Linear(4, 4), nn.MultiheadAttention(4, 1))
    assert replace_head(network, 3) == "0"


@pytest.mark.parametrize(
    ("network", "num_classes", "said"),
    [
        (nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten()), 3, "Sequential has no Linear and no 1x1 Conv2d to replace"),
        (nn.Linear(4, 2), 3, "the network is one Linear and has no body; make it with 3 outputs"),
        (Wide(3), 0, "head=0 is not a number of classes"),
        (Wide(3), True, "head=True is not a number of classes"),
        (Wide(3), "class", "head='class' is .*'classes' for those of the data; did you mean 'classes'"),
    ],
)
def test_a_head_that_cannot_be_replaced_is_refused(network, num_classes, said):
    with pytest.raises(TrainerError, match=said):
        replace_head(network, num_classes)
