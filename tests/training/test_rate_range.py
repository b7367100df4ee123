"""The learning-rate range test, against a plain loop and against rates that are known to work."""

import io
import math
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from runmanager.training.parts import Parts
from runmanager.training.rate_range import RateRange, rate_range
from runmanager.training.settings import TrainerError
from runmanager.training.steppers import SingleStepper

CURVATURE = 10.0


class Bowl(nn.Module):
    """Its loss is 5 w², which gradient descent makes smaller with any rate below 2 / 10."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.tensor([3.0]))

    def forward(self, inputs: Tensor) -> Tensor:
        return self.w.expand(len(inputs))


def bowl_loss(preds: Tensor, targets: Tensor) -> Tensor:
    return (0.5 * CURVATURE * preds**2).mean()


def bowl(**options: Any) -> RateRange:
    network = Bowl()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    batches = [(torch.zeros(1), torch.zeros(1))] * 1000
    return rate_range(SingleStepper(Parts(network, optimizer, bowl_loss)), batches, optimizer, **options)


def digits(seed: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches of three classes that a line separates."""
    generator = torch.Generator().manual_seed(seed)
    while True:
        targets = torch.randint(0, 3, (20,), generator=generator)
        yield torch.randn(20, 8, generator=generator) + 2 * F.one_hot(targets, 8), targets


def classifier() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 3))


def test_on_a_quadratic_the_suggestion_is_below_the_largest_rate_that_works_and_not_far_below() -> None:
    found = bowl(low=1e-6, high=10.0)
    assert found.suggestion is not None
    assert 0.01 * 2 / CURVATURE < found.suggestion < 2 / CURVATURE


def test_a_classifier_learns_quickly_with_the_suggestion_and_not_with_a_hundredth_of_it() -> None:
    network = classifier()
    optimizer = torch.optim.Adam(network.parameters(), lr=1.0)
    suggestion = rate_range(SingleStepper(Parts(network, optimizer, F.cross_entropy)), digits(), optimizer).suggestion
    assert suggestion is not None

    def after(rate: float) -> float:
        network = classifier()
        stepper = SingleStepper(Parts(network, torch.optim.Adam(network.parameters(), lr=rate), F.cross_entropy))
        losses = [stepper.step(*batch).loss.item() for batch, _ in zip(digits(1), range(60), strict=False)]
        return sum(losses[-10:]) / 10

    assert after(suggestion) < 0.7
    assert after(suggestion / 100) > 0.95


def test_the_losses_are_to_the_last_bit_those_of_a_plain_loop_with_the_same_rates() -> None:
    network = classifier()
    optimizer = torch.optim.SGD(network.parameters(), lr=1.0, momentum=0.9)
    found = rate_range(SingleStepper(Parts(network, optimizer, F.cross_entropy)), digits(), optimizer, steps=50)
    plain = classifier()
    its_optimizer = torch.optim.SGD(plain.parameters(), lr=1.0, momentum=0.9)
    for point, (inputs, targets) in zip(found.points, digits(), strict=False):
        its_optimizer.param_groups[0]["lr"] = point.rate
        its_optimizer.zero_grad()
        loss = F.cross_entropy(plain(inputs), targets)
        loss.backward()
        its_optimizer.step()
        assert point.loss == loss.item()
    assert len(found.points) > 20
    assert all(torch.equal(a, b) for a, b in zip(network.parameters(), plain.parameters(), strict=True))


def test_the_rates_rise_by_the_same_factor_from_the_first_to_the_last() -> None:
    rates = [point.rate for point in bowl(low=1e-5, high=1e-2, steps=31).points]
    assert (rates[0], rates[-1]) == (1e-5, pytest.approx(1e-2))
    assert [b / a for a, b in pairwise(rates)] == pytest.approx([10**0.1] * 30)


def test_it_stops_when_the_loss_is_four_times_its_best() -> None:
    found = bowl(low=1e-4, high=1e3)
    assert len(found.points) < 100
    assert "above 4 times the best" in found.stopped
    assert found.points[-1].loss > 4 * min(point.loss for point in found.points)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_it_stops_when_the_loss_is_not_finite(value: float) -> None:
    network = classifier()
    optimizer = torch.optim.SGD(network.parameters(), lr=1.0)
    num_calls = [0]

    def loss(preds: Tensor, targets: Tensor) -> Tensor:
        num_calls[0] += 1
        return F.cross_entropy(preds, targets) * (value if num_calls[0] == 7 else 1)

    found = rate_range(SingleStepper(Parts(network, optimizer, loss)), digits(), optimizer)
    assert len(found.points) == num_calls[0] == 7
    assert found.stopped == f"stopped after 7 of 100 steps: the loss is {value}"
    assert found.lines()


def test_a_loss_below_zero_does_not_stop_it() -> None:
    network = nn.Linear(3, 1)
    optimizer = torch.optim.SGD(network.parameters(), lr=1.0)
    stepper = SingleStepper(Parts(network, optimizer, lambda preds, targets: -10 - 0 * preds.mean()))
    found = rate_range(stepper, [(torch.zeros(2, 3), torch.zeros(2))] * 100, optimizer)
    assert len(found.points) == 100
    assert found.suggestion is None


def test_a_loss_that_is_only_noise_gets_no_suggestion() -> None:
    network = nn.Linear(1, 1)
    optimizer = torch.optim.SGD(network.parameters(), lr=1.0)
    noise = 1 + torch.rand(100, generator=torch.Generator().manual_seed(3)) / 10
    batches = [(one.reshape(1, 1), torch.zeros(1)) for one in noise]
    values = noise.tolist()
    stepper = SingleStepper(Parts(network, optimizer, lambda preds, targets: 0 * preds.mean() + values.pop()))
    found = rate_range(stepper, batches, optimizer)
    assert found.suggestion is None
    assert "no more than its noise" in found.lines()[-1]


def test_groups_of_parameters_keep_their_rates_in_proportion() -> None:
    network = classifier()
    groups = [{"params": network[0].parameters(), "lr": 0.002}, {"params": network[2].parameters(), "lr": 0.02}]
    optimizer = torch.optim.SGD(groups)
    found = rate_range(SingleStepper(Parts(network, optimizer, F.cross_entropy)), digits(), optimizer, high=1e-3)
    small, large = (group["lr"] for group in optimizer.param_groups)
    assert large == found.points[-1].rate
    assert small == pytest.approx(large / 10)


def test_a_rate_that_is_a_tensor_is_set_too() -> None:
    network = classifier()
    optimizer = torch.optim.Adam(network.parameters(), lr=torch.tensor(0.5), foreach=False)
    found = rate_range(SingleStepper(Parts(network, optimizer, F.cross_entropy)), digits(), optimizer, high=1e-2)
    assert optimizer.param_groups[0]["lr"].item() == pytest.approx(found.points[-1].rate)


def test_the_table_marks_the_suggestion_and_the_csv_has_every_step() -> None:
    found = bowl(low=1e-6, high=10.0)
    lines = found.lines()
    assert sum("falls fastest" in line for line in lines[:-1]) == 1
    assert lines[-1].startswith(f"suggestion: lr={found.suggestion:.1e}")
    assert len(lines) <= 26
    table = pd.read_csv(io.StringIO(found.csv()))
    assert list(table.columns) == ["step", "rate", "loss", "smoothed loss"]
    assert table["rate"].tolist() == [point.rate for point in found.points]
    assert table["loss"].tolist() == [point.loss for point in found.points]
    around = [table["loss"][max(0, index - 5) : index + 6].mean() for index in range(len(table))]
    assert table["smoothed loss"].tolist() == pytest.approx(around)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"low": 0.0}, "the rates go from 0 to 1"),
        ({"low": 1.0, "high": 0.1}, "the rates go from 1 to 0.1"),
        ({"high": math.inf}, "the rates go from 1e-07 to inf"),
        ({"high": math.nan}, "the rates go from 1e-07 to nan"),
        ({"steps": 9}, "9 steps are too few"),
    ],
)
def test_rates_that_make_no_sense_are_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(TrainerError, match=said):
        bowl(**options)


def test_an_optimizer_without_a_rate_is_refused() -> None:
    network = Bowl()

    class Fixed(torch.optim.Optimizer):
        pass

    optimizer = Fixed(network.parameters(), {})
    with pytest.raises(TrainerError, match="Fixed has no learning rate"):
        rate_range(SingleStepper(Parts(network, optimizer, bowl_loss)), [], optimizer)
