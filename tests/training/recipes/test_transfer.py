"""A network starts from what a run, or a file, has; and what did not come along is told."""

import random
import shutil
from collections import OrderedDict

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from runmanager import RunBuilder, RunManager, Trainer
from runmanager.tracking.run_dir import SweepDir
from runmanager.training.recipes.transfer import load_start
from runmanager.training.trainer import TrainerError


def small_network(num_classes=2, seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(OrderedDict(body=nn.Linear(4, 3), norm=nn.BatchNorm1d(3), fc=nn.Linear(3, num_classes)))


def of_epoch(number, epoch):
    """The network that run `number` of `project` had after that epoch."""
    return small_network(seed=100 * number + epoch)


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A project whose sweep 'base' has three runs of five epochs: run 2 is the best, at epoch 2; run 3 has no states."""
    root = tmp_path_factory.mktemp("project")
    sweep_dir = SweepDir(root, "base")
    sweep_dir.make()
    sweep_dir.write_plan({"name": "base", "objective": "val_loss", "mode": "min", "numbers": {}})
    losses = {1: [5, 4, 3, 2, 1], 2: [5, 0.5, 3, 4, 6], 3: [9] * 5}
    for number, run in enumerate(RunBuilder.get_runs({"lr": [0.1, 0.2, 0.3]}), 1):
        every = 0 if number == 3 else 1
        manager = RunManager("base", root=root, tensorboard=False, quiet=True, checkpoint_every=every)
        with manager.tracking(run):
            for epoch in range(1, 6):
                manager.begin_epoch()
                manager.log(val_loss=losses[number][epoch - 1])
                manager.end_epoch(checkpoint={"network": of_epoch(number, epoch).state_dict(), "optimizer": {}})
        manager.close()
    return root


def one_run():
    return RunBuilder.get_runs({"lr": [0.1]})[0]


def same(one, other):
    ours, theirs = one.state_dict(), other.state_dict()
    return all(torch.equal(ours[name], theirs[name]) for name in ours)


@pytest.mark.parametrize(
    ("start_from", "number", "epoch"),
    [
        ("base/1", 1, 5),
        ("base/2", 2, 2),
        ("base/best", 2, 2),
        ("base/2/best", 2, 2),
        ("base/2/last", 2, 5),
        ("base/2/2", 2, 2),
        ("base/best/last", 2, 5),
    ],
)
def test_a_run_is_taken_as_it_was_after_its_best_epoch_or_the_one_that_is_named(start_from, number, epoch, project):
    network = small_network()
    report = load_start(network, start_from, strict=True, project=project)
    assert same(network, of_epoch(number, epoch))
    assert str(report) == f"started from base/{number}, epoch {epoch}: 9 of 9 tensors"


def test_a_run_is_found_by_its_folder_too(project):
    folder = next((project / "runs" / "base").glob("0002-*"))
    for start_from in (folder, str(folder), f"runs/base/{folder.name}", f"base/{folder.name}"):
        network = small_network()
        load_start(network, start_from, strict=True, project=project)
        assert same(network, of_epoch(2, 2))


def test_a_folder_that_was_taken_elsewhere_gives_its_last_epoch(project, tmp_path):
    folder = next((project / "runs" / "base").glob("0002-*"))
    shutil.copytree(folder, tmp_path / "taken")
    network = small_network()
    assert "started from taken, epoch 5" in str(load_start(network, "taken", strict=True, project=tmp_path))
    assert same(network, of_epoch(2, 5))


def test_no_random_number_is_drawn_or_put_back(project):
    network = small_network()
    torch.manual_seed(7)
    random.seed(7)
    np.random.seed(7)
    load_start(network, "base/1", strict=True, project=project)
    drawn = torch.rand(1), random.random(), np.random.random()
    torch.manual_seed(7)
    random.seed(7)
    np.random.seed(7)
    assert drawn == (torch.rand(1), random.random(), np.random.random())


def test_what_fits_is_loaded_and_the_rest_is_left_and_told(project):
    network = small_network(num_classes=5, seed=3)
    network.add_module("more", nn.Linear(5, 5))
    del network.norm.bias
    before = {name: value.clone() for name, value in network.state_dict().items()}
    report = load_start(network, "base/1", strict=False, project=project)
    state, there = network.state_dict(), of_epoch(1, 5).state_dict()
    loaded = [name for name in state if name.startswith(("body", "norm"))]
    assert report.loaded == tuple(loaded)
    assert all(torch.equal(state[name], (there if name in loaded else before)[name]) for name in state)
    assert report.missing == ("more.weight", "more.bias")
    assert report.unexpected == ("norm.bias",)
    assert report.other_shape == {"fc.weight": ([5, 3], [2, 3]), "fc.bias": ([5], [2])}
    assert str(report) == (
        "started from base/1, epoch 5: 6 of 10 tensors; not loaded: fc.weight [5, 3] is [2, 3] there, fc.bias [5] is [2] there, "
        "more.weight is not there and 1 more; not used: norm.bias"
    )


def test_where_all_has_to_fit_nothing_is_loaded_and_the_lists_are_told(project):
    network = small_network(num_classes=5, seed=3)
    with pytest.raises(TrainerError) as caught:
        load_start(network, "base/1", strict=True, project=project)
    assert str(caught.value) == (
        "start_from='base/1' does not fit the network: of another shape: fc.weight [5, 3] is [2, 3] there, "
        "fc.bias [5] is [2] there; start_strict=False loads the 7 that fit"
    )
    assert same(network, small_network(num_classes=5, seed=3))


def test_where_nothing_fits_nothing_is_taken_for_a_start(project):
    with pytest.raises(TrainerError, match="nothing in base/1, epoch 5 fits the network by name and shape"):
        load_start(nn.Linear(4, 2), "base/1", strict=False, project=project)


@pytest.mark.parametrize(
    ("start_from", "said"),
    [
        ("bse/1", r"no sweep 'bse' in .*; there are: base; did you mean 'base'\?"),
        ("base/7", r"sweep 'base' has no run '7'; it has 'best' and 1, 2, 3"),
        ("base/3", r"base/3 has no saved state; these runs of the sweep have one: 1, 2"),
        ("base/1/3", r"base/1 has no saved epoch '3'; it has 'best', 'last' and 5"),
        (
            "base",
            r"start_from='base' is no run's folder .*; write 'sweep/3' or 'sweep/best', with one of the sweeps base",
        ),
        ("base/1/2/3", "does not name a run"),
        ("../base/1", r"no sweep '\.\.'|does not name a run"),
        (3, "start_from=3 is no start"),
        ("weights/resnet.pt", r"there is no file .*weights/resnet.pt; there is no folder .* either"),
    ],
)
def test_a_start_that_is_not_there_is_refused_with_the_choices(start_from, said, project):
    with pytest.raises(TrainerError, match=said):
        load_start(small_network(), start_from, strict=True, project=project)


def test_where_nothing_was_launched_no_start_is_offered(tmp_path):
    with pytest.raises(TrainerError, match=r"with the name of a sweep; none has been launched yet$"):
        load_start(small_network(), "quickstart", strict=True, project=tmp_path)


def test_a_sweep_without_an_objective_has_no_best_run(tmp_path):
    manager = RunManager("hand", root=tmp_path, tensorboard=False, quiet=True)
    with manager.tracking(one_run()):
        for epoch in (1, 2):
            manager.begin_epoch()
            manager.log(val_loss=epoch)
            manager.end_epoch(checkpoint={"model": of_epoch(1, epoch).state_dict()})
    manager.close()
    with pytest.raises(
        TrainerError, match=r"hand/best is no run, since the sweep has no objective; .*by its number: 1$"
    ):
        load_start(small_network(), "hand/best", strict=True, project=tmp_path)
    network = small_network()
    load_start(network, "hand/1", strict=True, project=tmp_path)
    assert same(network, of_epoch(1, 2))


def test_a_damaged_state_is_refused_with_the_other_epochs(tmp_path):
    manager = RunManager("hand", root=tmp_path, tensorboard=False, quiet=True)
    with manager.tracking(one_run()):
        for epoch in (1, 2):
            manager.begin_epoch()
            manager.log(val_loss=epoch)
            manager.end_epoch(checkpoint={"network": of_epoch(1, epoch).state_dict()})
        (newest,) = tmp_path.glob("runs/hand/*/checkpoints/epoch-0002.pt")
        data = bytearray(newest.read_bytes())
        data[len(data) // 2] ^= 1
        newest.write_bytes(data)
        with pytest.raises(TrainerError, match=r"checksum is another one; other epochs that hand/1 has: 1$"):
            load_start(small_network(), "hand/1", strict=True, project=tmp_path)
        network = small_network()
        load_start(network, "hand/1/1", strict=True, project=tmp_path)
        assert same(network, of_epoch(1, 1))
    manager.close()


TRAINED = small_network(seed=5)


@pytest.mark.parametrize(
    "content",
    [
        TRAINED.state_dict(),
        {"state_dict": TRAINED.state_dict(), "epoch": 3},
        {"network": TRAINED.state_dict(), "optimizer": {"state": {}}},
        {"model": dict(TRAINED.state_dict())},
        {f"module.{name}": value for name, value in TRAINED.state_dict().items()},
        {f"_orig_mod.{name}": value.double() for name, value in TRAINED.state_dict().items()},
    ],
)
def test_a_file_with_a_state_dict_is_a_start(content, tmp_path):
    torch.save(content, tmp_path / "trained.pth")
    network = small_network()
    report = load_start(network, "trained.pth", strict=True, project=tmp_path)
    assert same(network, TRAINED)
    assert str(report) == "started from trained.pth: 9 of 9 tensors"


def test_a_network_whose_shapes_are_known_at_the_first_batch_takes_those_of_the_file(tmp_path):
    torch.save(nn.Sequential(nn.Linear(4, 2)).state_dict(), tmp_path / "trained.pt")
    network = nn.Sequential(nn.LazyLinear(2))
    load_start(network, "trained.pt", strict=True, project=tmp_path)
    assert torch.equal(network[0].weight, torch.load(tmp_path / "trained.pt")["0.weight"])


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (
            small_network(),
            r"holds more than tensors and plain data, and is not loaded .*torch.save\(network.state_dict\(\)",
        ),
        ({"epoch": 3, "loss": 0.1}, r"has epoch, loss, and no state dict of a network"),
        ([torch.rand(2)], "is a list, and no state dict of a network"),
    ],
)
def test_a_file_with_something_else_is_refused(content, said, tmp_path):
    torch.save(content, tmp_path / "trained.pt")
    with pytest.raises(TrainerError, match=said):
        load_start(small_network(), "trained.pt", strict=False, project=tmp_path)


def test_a_file_that_is_damaged_or_not_there_is_refused(tmp_path):
    torch.save(TRAINED.state_dict(), tmp_path / "trained.pt")
    with pytest.raises(TrainerError, match=r"that folder has trained.pt; did you mean 'trained.pt'\?"):
        load_start(small_network(), "traind.pt", strict=True, project=tmp_path)
    data = (tmp_path / "trained.pt").read_bytes()
    (tmp_path / "trained.pt").write_bytes(data[: len(data) // 2])
    with pytest.raises(TrainerError, match="is damaged, or holds more"):
        load_start(small_network(), "trained.pt", strict=True, project=tmp_path)


def test_a_runs_checkpoint_is_not_read_past_its_checksum(project):
    file = next(project.glob("runs/base/0001-*/checkpoints/epoch-0005.pt"))
    with pytest.raises(TrainerError, match="is a checkpoint of a run; name the run instead"):
        load_start(small_network(), file, strict=True, project=project)


def test_what_the_trainer_saved_is_a_start(tmp_path):
    inputs = torch.rand(30, 4, generator=torch.Generator().manual_seed(0))
    networks = []

    def made():
        networks.append(small_network())
        return networks[-1]

    trainer = Trainer(
        network=made,
        data=(inputs, (inputs.sum(1) > 2).long()),
        optimizer=lambda run, network: torch.optim.SGD(network.parameters(), lr=run.lr),
        loss=F.cross_entropy,
        epochs=2,
        batch_size=10,
        device="cpu",
    )
    manager, run = RunManager("trained", root=tmp_path, tensorboard=False, quiet=True), one_run()
    with manager.tracking(run):
        trainer.train(run, manager, seed=1, split_seed=1, project=tmp_path)
    manager.close()
    network = small_network(seed=9)
    load_start(network, "trained/1", strict=True, project=tmp_path)
    assert same(network, networks[-1])
    assert not same(network, small_network())
