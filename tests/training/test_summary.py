"""The table of a network's layers, against what torch itself says of them."""

import pytest
import torch
from torch import Tensor, nn

from networks.fashion_cnn import FashionCNN
from runmanager.training.settings import TrainerError
from runmanager.training.summary import Layer, Summary, summarize


def by_name(summary: Summary) -> dict[str, Layer]:
    return {layer.name: layer for layer in summary.layers}


def count(network: nn.Module) -> tuple[int, int, int]:
    params = list(network.parameters())
    trainable = sum(one.numel() for one in params if one.requires_grad)
    return sum(one.numel() for one in params), trainable, sum(one.numel() for one in network.buffers())


class Odd(nn.Module):
    """A layer that is called twice, one that never is, tied weights, and a parameter of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(11, 6)
        self.twice = nn.Linear(6, 6)
        self.again = self.twice
        self.never = nn.Linear(3, 5)
        self.out = nn.Linear(6, 11, bias=False)
        self.out.weight = self.embed.weight
        self.scale = nn.Parameter(torch.ones(6))

    def forward(self, words: Tensor) -> Tensor:
        return self.out(self.again(self.twice(self.embed(words))) * self.scale)


def test_the_classroom_network_has_the_shapes_and_parameters_that_it_says() -> None:
    network = FashionCNN()
    summary = summarize(network, torch.rand(2, 1, 28, 28))
    assert [(layer.name, layer.kind, layer.output, layer.num_params) for layer in summary.layers] == [
        ("conv1", "Conv2d", "[N, 6, 24, 24]", 6 * 25 + 6),
        ("conv2", "Conv2d", "[N, 12, 8, 8]", 12 * 6 * 25 + 12),
        ("fc1", "Linear", "[N, 120]", 120 * 192 + 120),
        ("fc2", "Linear", "[N, 60]", 60 * 120 + 60),
        ("out", "Linear", "[N, 10]", 10 * 60 + 10),
    ]
    assert (summary.num_params, summary.num_trainable, summary.num_buffers) == count(network) == (32998, 32998, 0)
    assert summary.num_bytes == 4 * 32998


def test_frozen_layers_and_buffers_are_told() -> None:
    network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Flatten(), nn.Linear(8 * 36, 2))
    network[0].requires_grad_(False)
    network[3].bias.requires_grad_(False)
    summary = summarize(network, torch.rand(2, 3, 8, 8))
    assert [layer.trainable for layer in summary.layers] == ["no", "yes", "", "576 of them"]
    assert (summary.num_params, summary.num_trainable, summary.num_buffers) == count(network)
    expected = sum(one.numel() * one.element_size() for one in network.state_dict().values())
    assert summary.num_bytes == expected


def test_what_stands_in_several_places_is_counted_once() -> None:
    network = Odd()
    summary = summarize(network, torch.zeros(3, 4, dtype=torch.long))
    layers = by_name(summary)
    assert sum(layer.num_params for layer in summary.layers) == summary.num_params == count(network)[0]
    assert "again" not in layers
    assert layers["twice"].num_calls == 2
    assert (layers["out"].num_params, layers["out"].trainable) == (0, "as embed")
    assert layers["(network)"].num_params == 6
    assert layers["embed"].output == "[N, 4, 6]"


def test_a_layer_that_is_never_called_has_no_shape() -> None:
    summary = summarize(Odd(), torch.zeros(3, 4, dtype=torch.long))
    never = by_name(summary)["never"]
    assert (never.output, never.num_params) == ("", 20)
    (line,) = [line for line in summary.lines() if line.startswith("never")]
    assert "not called" in line


def test_a_container_is_shown_by_what_it_holds() -> None:
    network = nn.Sequential(nn.Sequential(nn.Linear(2, 2), nn.ReLU()), nn.Linear(2, 1))
    assert list(by_name(summarize(network, torch.rand(2, 2)))) == ["0.0", "0.1", "1"]


def test_a_layer_that_gives_several_tensors_shows_all_their_shapes() -> None:
    class Recurrent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lstm = nn.LSTM(3, 5, batch_first=True)

        def forward(self, x: Tensor) -> Tensor:
            return self.lstm(x)[0][:, -1]

    (layer,) = summarize(Recurrent(), torch.rand(2, 7, 3)).layers
    assert layer.output == "[N, 7, 5], [1, 2, 5], [1, 2, 5]"


def test_a_lazy_layer_is_counted_as_what_it_becomes() -> None:
    network = nn.Sequential(nn.LazyLinear(4), nn.LazyBatchNorm1d())
    summary = summarize(network, torch.rand(2, 3))
    assert [(layer.kind, layer.num_params) for layer in summary.layers] == [("Linear", 16), ("BatchNorm1d", 8)]
    unused = nn.ModuleDict({"used": nn.Linear(3, 1), "unused": nn.LazyLinear(4)})
    unused.forward = lambda x: unused["used"](x)  # type: ignore[method-assign]
    assert by_name(summarize(unused, torch.rand(2, 3)))["unused"].num_params == 0


def test_the_network_is_left_as_it_was() -> None:
    network = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3), nn.Dropout(0.5))
    network[1].eval()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    state = torch.get_rng_state()
    summarize(network, torch.rand(2, 3, generator=torch.Generator().manual_seed(0)))
    assert [module.training for module in network.modules()] == [True, True, False, True]
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in network.modules())


def test_the_table_is_aligned_and_ends_with_the_totals() -> None:
    lines = summarize(FashionCNN(), torch.rand(2, 1, 28, 28)).lines()
    ends = [line.index(number) + len(number) for line, number in zip(lines[1:3], ("156", "1,812"), strict=True)]
    assert ends[0] == ends[1] == lines[0].index("parameters") + len("parameters")
    assert lines[-3:] == ["parameters 32,998: 32,998 trainable, 0 frozen", "buffers 0", "size 128.90 KiB"]
    assert summarize(nn.Linear(512, 513), torch.rand(2, 512)).lines()[-1] == "size 1.00 MiB"


def test_inputs_that_do_not_fit_are_told_with_the_layer_that_refused_them() -> None:
    with pytest.raises(
        TrainerError, match=r"inputs \[2, 1, 20, 20\] do not go through in fc1 \(Linear\): RuntimeError"
    ):
        summarize(FashionCNN(), torch.rand(2, 1, 20, 20))
    network = FashionCNN()
    with pytest.raises(TrainerError):
        summarize(network, torch.rand(2))
    assert network.training and not network.conv1._forward_hooks
