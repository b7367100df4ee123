"""The classroom's loop does the same work as a launch, and reaches the same bits."""

import csv

import pandas as pd
import pytest
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

from runmanager.launching.classroom import TABLE, train_sweep
from runmanager.launching.load_sweep import load_sweep

CNN = """
class CNN(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.out = nn.Conv2d(1, 4, 5, stride=3), nn.Linear(4 * 8 * 8, 10)

    def forward(self, images):
        return self.out(F.relu(self.conv(images)).flatten(1))

noise = torch.rand(60, 1, 28, 28, generator=torch.Generator().manual_seed(0)), torch.arange(60) % 10
"""
ADAM = "lambda run, network: torch.optim.Adam(network.parameters(), lr=run.lr)"
PARTS = {"network": "CNN", "optimizer": ADAM, "before": CNN}


@pytest.fixture
def small(project):
    """Two runs on 60 images."""
    return project.sweep(params="lr=[0.01, 0.001], batch_size=[20]", data="noise", **PARTS)


def looped_rows(project):
    with (project.root / "results" / f"{TABLE}.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def assert_same_bits(project, sweep_file):
    """Two epochs by the loop, and by a launch that trains each run alone."""
    train_sweep(load_sweep(sweep_file), project.root, tensorboard=False)
    project.launch(fuse="off")
    launched = [row for run in project.history().runs for row in run.rows]
    looped = looped_rows(project)
    assert len(looped) == len(launched) > 0
    assert [row.loss for row in launched] == [float(row["loss"]) for row in looped]
    assert [row.accuracy for row in launched] == [float(row["accuracy"]) for row in looped]
    for name in ("val_loss", "val_accuracy"):
        assert [row.metrics[name] for row in launched] == [float(row[name]) for row in looped]


def test_its_losses_have_the_same_bits_as_those_of_a_launch(project):
    params = "lr=[0.01], batch_size=[500], shuffle=[True, False]"
    assert_same_bits(project, project.sweep(params=params, data="'fashion_mnist_sample'", **PARTS))


def test_its_losses_have_the_same_bits_where_the_network_draws(project):
    network = "lambda: nn.Sequential(CNN(), nn.Dropout(0.5), nn.Linear(10, 10))"
    params = "lr=[0.01], batch_size=[25]"
    assert_same_bits(project, project.sweep(params=params, data="noise", **{**PARTS, "network": network}))


def test_it_shows_what_a_launch_shows(project, small):
    train_sweep(load_sweep(small), project.root)
    project.launch(tensorboard=True)
    own = {"best/loss", "best/accuracy", "best/val_loss", "best/val_accuracy"}  # a launch shows these too
    by_hand = shown(project.root / "runs" / TABLE / "1")
    assert {"images", "graph", "Loss", "val_accuracy", "conv.weight", "conv.weight.grad"} <= by_hand
    assert shown(project.folders()[0]) - own == by_hand


def shown(folder):
    """What a run's event files have: tags, and whether there is a graph."""
    found = set()
    for path in folder.glob("events.out.tfevents.*"):
        for event in EventFileLoader(str(path)).Load():
            found |= {"graph"} if event.graph_def else set()
            found |= {value.tag for value in event.summary.value}
    return {tag for tag in found if not tag.startswith(("_", "step"))}


def test_it_keeps_a_table_and_a_saved_state(project, small):
    train_sweep(load_sweep(small), project.root)
    table = pd.read_json(project.root / "results" / f"{TABLE}.json")
    columns = ["run", "epoch", "loss", "accuracy", "epoch duration", "run duration", "val_loss", "val_accuracy"]
    assert [*table.columns] == [*columns, "lr", "batch_size"]
    assert table["run"].tolist() == [1, 1, 2, 2]
    assert (project.root / "runs" / TABLE / "2" / "checkpoint.pt").is_file()


def test_it_can_leave_out_tensorboard_and_saved_states(project, small):
    train_sweep(load_sweep(small), project.root, tensorboard=False, checkpoints=False)
    assert not [path for path in (project.root / "runs" / TABLE).rglob("*") if path.is_file()]
    assert len(looped_rows(project)) == 4
