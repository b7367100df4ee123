"""Which runs are found to go together, how that is chosen, and what people are told of it."""

from collections import OrderedDict
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.optim.lr_scheduler import StepLR
from torch.utils.data import Dataset, TensorDataset

from runmanager import RunBuilder, Trainer
from runmanager.launching import find_fusion
from runmanager.launching.find_fusion import Finder
from runmanager.launching.fusion import AUTO, OFF, Kind
from runmanager.training.arithmetics import ALONE
from runmanager.training.choice import Choice

torch.set_num_threads(1)
INPUTS = torch.rand(60, 4, generator=torch.Generator().manual_seed(0))
TARGETS = (INPUTS.sum(1) > 2).long()
RATES = {"lr": [0.1, 0.2, 0.3]}


class Noisy(Dataset):
    """Gives other samples each time that it is read."""

    def __len__(self):
        return 60

    def __getitem__(self, index):
        return INPUTS[index] + torch.rand(4), TARGETS[index]


def network(run):
    return nn.Sequential(nn.Linear(4, getattr(run, "width", 8)), nn.ReLU(), nn.Linear(getattr(run, "width", 8), 2))


def sgd(run, network):
    return torch.optim.SGD(network.parameters(), lr=run.lr, momentum=getattr(run, "momentum", 0.0))


def trainer(**parts):
    return Trainer(
        **{
            "network": network,
            "data": (INPUTS, TARGETS),
            "optimizer": sgd,
            "loss": F.cross_entropy,
            "epochs": 2,
            "device": "cpu",
            "batch_size": None if parts.pop("size_in_grid", False) else 10,
            **parts,
        }
    )


def found(params=RATES, fuse=8, *, num_workers=1, known=None, only=None, **parts):
    """What is found of a grid's runs."""
    runs = RunBuilder.get_runs(OrderedDict(params))
    finder = Finder(trainer(**parts), runs, 0, Path(), fuse, num_workers, known or {})
    return finder.find(range(len(runs)) if only is None else only)


def sorted_out(fusion):
    """The places of the runs of each kind, in the order of the first of each."""
    kinds = {}
    for index, place in sorted(fusion.kind_of.items()):
        kinds.setdefault(place, []).append(index)
    return list(kinds.values())


def test_runs_that_differ_in_rates_are_of_one_kind():
    fusion = found({**RATES, "momentum": [0.0, 0.9]})
    assert sorted_out(fusion) == [[0, 1, 2, 3, 4, 5]]
    assert [(kind.size, kind.arithmetic) for kind in fusion.kinds] == [(6, "vmap")]


def by_kind(run, network):
    kind = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[run.optimizer]
    return kind(network.parameters(), lr=run.lr)


APART = {
    "architecture": ({"width": [4, 8]}, {}),
    "batch size": ({"batch_size": [10, 20]}, {"size_in_grid": True}),
    "validation": ({"validation": [0.1, 0.2]}, {}),
    "data": ({"count": [40, 60]}, {"data": lambda run: (INPUTS[: run.count], TARGETS[: run.count])}),
    "optimizer": ({"optimizer": ["sgd", "adam"]}, {"optimizer": by_kind}),
    "loss": (
        {"kind": ["one", "other"]},
        {"loss": lambda run: nn.CrossEntropyLoss() if run.kind == "one" else F.nll_loss},
    ),
    "activation": (
        {"slope": [0.1, 0.2]},
        {"network": lambda run: nn.Sequential(nn.Linear(4, 4), nn.LeakyReLU(run.slope), nn.Linear(4, 2))},
    ),
}


@pytest.fixture
def untried(monkeypatch):
    """No steps are tried: each kind is trained one by one."""
    alone = Choice(1, ALONE, "nothing was tried", 0.0, 1)
    monkeypatch.setattr(find_fusion, "choose", lambda trial, most, forced: alone)


@pytest.mark.usefixtures("untried")
@pytest.mark.parametrize("what", APART)
def test_runs_that_differ_in_what_decides_a_step_are_of_different_kinds(what):
    params, parts = APART[what]
    fusion = found({**params, "lr": [0.1, 0.2]}, **parts)
    assert sorted_out(fusion) == [[0, 1], [2, 3]]
    assert len({kind.key for kind in fusion.kinds}) == 2


TOGETHER = {
    "weight decay": (
        {"decay": [0.0, 0.1]},
        {"optimizer": lambda run, network: torch.optim.SGD(network.parameters(), run.lr, weight_decay=run.decay)},
    ),
    "dropout": ({"p": [0.1, 0.5]}, {"network": lambda run: nn.Sequential(nn.Linear(4, 4), nn.Dropout(run.p), nn.Linear(4, 2))}),
    "smoothing": ({"smoothing": [0.0, 0.1]}, {"loss": lambda run: partial(F.cross_entropy, label_smoothing=run.smoothing)}),
    "schedule": ({"gamma": [0.5, 0.9]}, {"scheduler": lambda run, optimizer: StepLR(optimizer, 1, run.gamma)}),
    "clipping": ({"clip_norm": [0.1, 1.0]}, {}),
    "order": ({"shuffle": [True, False]}, {}),
    "epochs": ({"epochs": [1, 2]}, {"epochs": None}),
    "seed": ({"seed": [1, 2]}, {}),
}  # fmt: skip


@pytest.mark.parametrize("what", TOGETHER)
def test_runs_that_differ_in_what_each_has_for_itself_are_of_one_kind(what):
    params, parts = TOGETHER[what]
    fusion = found({**params, "lr": [0.1, 0.2]}, **parts)
    assert sorted_out(fusion) == [[0, 1, 2, 3]]
    assert fusion.kinds[0].size == 4, fusion.notes


REASONS = {
    "random data": ({"data": Noisy()}, "a group needs data that stays on the device (its samples draw random numbers of torch)"),
    "another optimizer": (
        {"optimizer": lambda run, network: torch.optim.LBFGS(network.parameters(), lr=run.lr)},
        "LBFGS",
    ),
    "a look at values": ({"network": lambda: Looks()}, "its forward looks at values"),
    "own random numbers": ({"network": lambda: Draws()}, "its forward draws random numbers outside of dropout layers"),
    "a hook": ({"network": lambda: hooked()}, "its network has a hook on 0"),
}  # fmt: skip


class Looks(nn.Linear):
    def __init__(self):
        super().__init__(4, 2)

    def forward(self, inputs):
        return super().forward(inputs * (2 if inputs.sum().item() > 0 and self.weight.sum() > 100 else 1))


class Draws(nn.Linear):
    def __init__(self):
        super().__init__(4, 2)

    def forward(self, inputs):
        return super().forward(inputs + 0.01 * torch.rand(4))


def hooked():
    network = nn.Sequential(nn.Linear(4, 2))
    network[0].register_forward_hook(lambda *_: None)
    return network


@pytest.mark.parametrize("fuse", [AUTO, 3])
@pytest.mark.parametrize("why", REASONS)
def test_runs_that_cannot_be_together_are_trained_one_by_one_and_the_note_says_why(why, fuse):
    parts, reason = REASONS[why]
    fusion = found(fuse=fuse, **parts)
    assert [kind.size for kind in fusion.kinds] == [1]
    (note,) = fusion.notes
    assert note.startswith("3 runs are trained one by one: ")
    assert reason in note


def test_a_run_that_cannot_be_built_is_left_to_say_so_itself_and_the_others_are_grouped():
    def build(run):
        if run.lr == 0.2:
            raise ValueError("no such width")
        return network(run)

    fusion = found({"lr": [0.1, 0.2, 0.3]}, network=build)
    assert sorted_out(fusion) == [[0, 2], [1]]
    assert [kind.size for kind in fusion.kinds] == [2, 1]
    assert any("it cannot be built (" in note and "no such width" in note for note in fusion.notes)


def test_one_run_is_tried_with_nobody():
    assert found({"lr": [0.1]}) == found(fuse=OFF)


def test_off_looks_at_nothing():
    def build(run):
        raise AssertionError("it was built")

    fusion = found(fuse=OFF, network=build)
    assert (fusion.kinds, dict(fusion.kind_of), fusion.notes) == ([], {}, [])


def test_only_the_runs_that_are_due_are_looked_at():
    built = []

    def build(run):
        built.append(run.lr)
        return network(run)

    assert sorted_out(found(only=[0, 2], network=build)) == [[0, 2]]
    assert set(built) == {0.1, 0.3}


@pytest.mark.parametrize(("num_workers", "most"), [(1, 6), (2, 3), (4, 2), (6, 1)])
def test_each_worker_has_its_share(num_workers, most):
    (kind,) = found({"lr": [0.1, 0.2, 0.3, 0.4, 0.5, 0.6]}, AUTO, num_workers=num_workers).kinds
    assert kind.most == most
    assert kind.size <= most


def test_where_each_worker_has_one_run_that_is_the_reason():
    fusion = found({"lr": [0.1, 0.2, 0.3]}, AUTO, num_workers=3)
    assert fusion.notes == ["3 runs are trained one by one: there is a worker for each of them"]


def test_what_was_measured_before_is_kept(monkeypatch):
    (key,) = {kind.key for kind in found().kinds}
    known = Kind(key, 3, "vmap", "it was so", 0.5, True, 3)
    monkeypatch.setattr(find_fusion, "choose", None)  # nothing is tried
    fusion = found(fuse=AUTO, known={key: known})
    assert fusion.kinds == [known]
    assert fusion.notes == ["3 runs are trained in groups of up to 3: it was so"]
    assert list(fusion.choices()) == [key]


def test_one_by_one_is_kept_too(monkeypatch):
    (key,) = {kind.key for kind in found().kinds}
    known = Kind(key, 1, "one by one", "it was slower", 0.5, True, 3)
    monkeypatch.setattr(find_fusion, "choose", None)
    assert found(fuse=AUTO, known={key: known}).notes == ["3 runs are trained one by one: it was slower"]


def test_a_choice_that_fewer_runs_gave_is_made_anew_where_larger_groups_may_be_better():
    (key,) = {kind.key for kind in found().kinds}
    of_two = Kind(key, 2, "vmap", "it was so", 0.5, True, 2)
    (kind,) = found(fuse=AUTO, known={key: of_two}).kinds
    assert kind.reason != "it was so"
    assert kind.most == 3
    past_its_best = replace(of_two, most=8)
    assert found(fuse=AUTO, known={key: past_its_best}).kinds == [past_its_best]


def test_a_number_that_is_told_goes_before_what_was_measured_and_is_not_recorded():
    (key,) = {kind.key for kind in found().kinds}
    fusion = found(fuse=2, known={key: Kind(key, 1, "one by one", "it was slower", 0.5, True, 3)})
    assert [kind.size for kind in fusion.kinds] == [2]
    assert fusion.choices() == {}


def test_a_number_is_the_most_that_a_group_may_have():
    assert [kind.size for kind in found(fuse=100).kinds] == [3]
    assert [kind.size for kind in found(fuse=2).kinds] == [2]


def test_where_building_takes_too_long_the_parameters_that_decide_tell_the_kind_of_the_rest(monkeypatch):
    built = []

    def build(run):
        built.append(run)
        return network(run)

    monkeypatch.setattr(find_fusion, "_BUILD_SECONDS", 0.0)
    monkeypatch.setattr(find_fusion, "time", SimpleNamespace(monotonic=Ticks(20)))
    grid = {"width": [4, 8, 16], "lr": [0.001 * rate for rate in range(1, 101)]}
    finder = Finder(trainer(network=build), RunBuilder.get_runs(OrderedDict(grid)), 0, Path(), 8, 1, {})
    kinds, reasons = finder.sort(range(300))
    assert list(kinds.values()) == [[*range(100)], [*range(100, 200)], [*range(200, 300)]]
    assert reasons == {}
    assert len(built) < 30


class Ticks:
    """A clock that stands still for some looks, and is late from then on."""

    def __init__(self, num_looks):
        self.num_looks = num_looks

    def __call__(self):
        self.num_looks -= 1
        return 0.0 if self.num_looks > 0 else 1.0


def test_random_numbers_outside_go_on_as_if_nothing_had_been_tried():
    def random_network():
        return nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.5), nn.Linear(8, 2))

    before = torch.get_rng_state()
    found(network=random_network)
    found(fuse=AUTO, network=random_network)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.usefixtures("untried")
def test_a_data_set_is_told_apart_by_what_its_function_reads_and_not_by_the_rates():
    calls = []

    def data(run):
        calls.append(run.count)
        return TensorDataset(INPUTS[: run.count], TARGETS[: run.count])

    fusion = found({"count": [40, 60], "lr": [0.1, 0.2]}, data=data)
    assert sorted_out(fusion) == [[0, 1], [2, 3]]
    assert sorted(calls) == [40, 60]  # once for each
