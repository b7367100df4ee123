"""Looking into a sweep's networks: the table of layers, the range test, and what is exported of trained runs."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from runmanager.launching.export_sweep import export_model
from runmanager.launching.saved import find_saved
from runmanager.launching.sweep import SweepError
from runmanager.tracking.errors import CheckpointError
from runmanager.tracking.run_dir import SweepDir
from tests.launching.launch_options import WAYS, each_way

NET = """
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.hidden, self.norm, self.out = nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 2)

    def forward(self, inputs):
        return self.out(F.relu(self.norm(self.hidden(inputs))))

held_out = torch.rand(20, 4, generator=torch.Generator().manual_seed(9))
"""
EXPLODES = "lambda run, optimizer: torch.optim.lr_scheduler.LambdaLR(optimizer, lambda epoch: 1 if epoch < 2 else 3000)"
"""The second epoch of four is the best."""
PARTS = {
    "network": "Net",
    "data": "((inputs, targets), (held_out, (held_out.sum(1) > 2).long()))",
    "scheduler": EXPLODES,
    "epochs": "4",
}
HAND = """
torch.manual_seed(0)
network = nn.Linear(4, 2)
for epoch in range(3):
    m.begin_epoch()
    with torch.no_grad():
        network.weight += run.lr
    m.log(val_loss=abs(epoch - 1.0))
    m.end_epoch(checkpoint=%s)
"""


class Net(nn.Module):
    """The sweep file's network, once more."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden, self.norm, self.out = nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 2)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return self.out(F.relu(self.norm(self.hidden(inputs))))


def sweep(project, **options):
    project.sweep(before=NET, **{**PARTS, "sweep": "objective='val_loss'", **options})


def by_hand(folder: Path, epoch: int) -> Net:
    """The network of a checkpoint, restored without the tool."""
    network = Net()
    file = folder / "checkpoints" / f"epoch-{epoch:04d}.pt"
    network.load_state_dict(torch.load(file, weights_only=True)["state"]["network"])
    return network.eval()


def loss_on_held_out(network: nn.Module) -> float:
    inputs = torch.rand(20, 4, generator=torch.Generator().manual_seed(9))
    with torch.no_grad():
        return F.cross_entropy(network(inputs), (inputs.sum(1) > 2).long()).item()


def test_the_summary_is_of_the_runs_own_network(project, command):
    widths = "lambda run: nn.Sequential(nn.Linear(4, run.width), nn.ReLU(), nn.Linear(run.width, 2))"
    project.sweep(params="width=[3, 5], lr=[0.1], batch_size=[10]", network=widths)
    first, second = command("summary", "tiny"), command("summary", "tiny", "--only", "width=5")
    assert (first.status, first.err) == (0, "")
    assert "tiny: run 1 (width=3, lr=0.1, batch_size=10)\nSequential, inputs [N, 4] float32" in first.out
    assert f"parameters {4 * 3 + 3 + 3 * 2 + 2}: " in first.out
    assert "run 2 (width=5" in second.out
    assert f"parameters {4 * 5 + 5 + 5 * 2 + 2}: " in second.out


def test_looking_touches_no_run_and_no_random_number(project, command):
    sweep(project)
    project.launch(only="1", epochs=2)
    before, state = project.files(), torch.get_rng_state()
    assert command("summary", "tiny").status == 0
    assert command("lr-range", "tiny", "--steps", "12").status == 0
    after = project.files()
    assert after.pop("results/tiny.lr-range.csv")
    assert after == before
    assert torch.equal(torch.get_rng_state(), state)
    project.launch(only="1", epochs=2)
    assert project.statuses() == {1: "completed"}


FIXED = """
class Fixed(nn.Linear):
    def reset_parameters(self):
        self.weight.data.fill_(0.5)
"""


def test_the_range_test_trains_the_runs_own_network_on_its_own_batches(project, command):
    momentum = "lambda run, network: torch.optim.SGD(network.parameters(), lr=run.lr, momentum=run.momentum)"
    project.sweep(
        params="batch_size=[10], shuffle=[False], momentum=[0.9], lr=[123.0]",
        optimizer=momentum,
        network="lambda: Fixed(4, 2, bias=False)",
        before=FIXED,
        data="((inputs, targets), (inputs, targets))",
    )
    said = command("lr-range", "tiny", "--from", "1e-3", "--to", "0.1", "--steps", "15")
    assert said.status == 0
    table = pd.read_csv(project.root / "results" / "tiny.lr-range.csv")
    assert table["rate"].iloc[[0, -1]].tolist() == pytest.approx([1e-3, 0.1])
    inputs = torch.rand(60, 4, generator=torch.Generator().manual_seed(0))
    targets = (inputs.sum(1) > 2).long()
    weight = torch.full((2, 4), 0.5, requires_grad=True)
    optimizer = torch.optim.SGD([weight], lr=1.0, momentum=0.9)
    for step, (rate, loss) in enumerate(zip(table["rate"], table["loss"], strict=True)):
        rows = slice(step % 6 * 10, step % 6 * 10 + 10)  # six batches in an epoch, and then from the start again
        optimizer.param_groups[0]["lr"] = rate
        optimizer.zero_grad()
        own = F.cross_entropy(F.linear(inputs[rows], weight), targets[rows])
        own.backward()
        optimizer.step()
        assert own.item() == loss
    assert len(table) == 15


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["summary", "tiny", "--only", "9"], "SweepError: sweep 'tiny' cannot be looked into:\n  - --only 9"),
        (["summary", "nothing"], "sweeps/tiny.py"),
        (
            ["lr-range", "tiny", "--from", "1", "--to", "0.1"],
            "SweepError: sweep 'tiny' cannot be tested:\n  - --from 1 --to 0.1",
        ),
        (["lr-range", "tiny", "--steps", "3"], "3 steps are too few"),
        (
            ["export-model", "tiny", "7"],
            "SweepError: sweep 'tiny' cannot be exported:\n  - run 7: there is no such run; those that were tried are 1, 2",
        ),
        (["export-model", "tiny", "--epoch", "first"], "first"),
        (["features", "tiny", "--layer", "hiden"], "did you mean 'hidden'?"),
        (
            ["features", "tiny"],
            "SweepError: sweep 'tiny' cannot give features:\n  - no layer is given; add --layer, one of hidden, norm, out\n",
        ),
    ],
)
def test_a_mistake_is_one_clean_message(arguments, said, project, command):
    sweep(project)
    if arguments[0] not in ("summary", "lr-range"):  # which need no run
        project.launch(only="1-2", epochs=1, fuse="off")
    before = project.files()
    answer = command(*arguments)
    assert answer.status == 2
    assert said in answer.err
    assert "Traceback" not in answer.err
    assert project.files() == before


def test_the_best_epoch_of_the_best_run_is_exported_and_is_what_its_metrics_say(project, command):
    sweep(project)
    history = project.launch(fuse="off")
    best = history.best
    assert best.best["val_loss"].epoch == 2 and len(best.rows) == 4
    said = command("export-model", "tiny")
    assert (said.status, said.err) == (0, "")
    stem = project.root / "results" / f"tiny-run{best.number}"
    network = Net()
    network.load_state_dict(torch.load(f"{stem}.pt", weights_only=True), strict=True)
    assert loss_on_held_out(network.eval()) == pytest.approx(best.best["val_loss"].value, rel=1e-6)
    about = json.loads(Path(f"{stem}.pt.json").read_text())
    assert (about["run"], about["epoch"], about["is"], about["objective"]) == (best.number, 2, "best", "val_loss")
    assert about["params"] == best.params
    assert about["metrics"] == best.rows[1].values()
    assert about["inputs"] == {"shape": ["N", 4], "dtype": "float32"}
    assert about["files"] == [f"tiny-run{best.number}.pt", f"tiny-run{best.number}.pt2"]


def test_both_files_give_in_a_fresh_process_the_bits_of_the_network_restored_by_hand(project, command):
    sweep(project)
    project.launch(only="2")
    assert command("export-model", "tiny", "2", "--epoch", "last", "-o", "out/net.pt").status == 0
    inputs = torch.rand(7, 4)
    with torch.no_grad():
        torch.save([inputs, by_hand(project.folders()[0], 4)(inputs)], project.root / "expected")
    code = (
        "import sys, torch\n"
        f"sys.path.insert(0, {str(Path(__file__).parents[2])!r})\n"
        "inputs, expected = torch.load('expected', weights_only=True)\n"
        "assert torch.equal(torch.export.load('out/net.pt2').module()(inputs), expected)\n"
        "assert 'runmanager' not in sys.modules\n"
        "from tests.launching.test_inspect import Net\n"
        "network = Net().eval()\n"
        "network.load_state_dict(torch.load('out/net.pt', weights_only=True), strict=True)\n"
        "assert torch.equal(network(inputs), expected)\n"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd=project.root, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


def test_a_network_that_torch_cannot_follow_leaves_its_state_dict_and_exit_status_one(project, command):
    branching = (
        "\nforward = Net.forward\nNet.forward = lambda net, x: forward(net, x) if x.sum().item() > -1e9 else x\n"
    )
    project.sweep(before=NET + branching, **PARTS, sweep="objective='val_loss'")
    project.launch(only="1", epochs=1)
    (project.root / "results" / "tiny-run1.pt2").write_text("of an earlier export")
    said = command("export-model", "tiny")
    assert said.status == 1
    assert len(said.err.splitlines()) == 1 and "torch.export cannot follow the network" in said.err
    assert (project.root / "results" / "tiny-run1.pt").is_file()
    assert not (project.root / "results" / "tiny-run1.pt2").exists()
    assert json.loads((project.root / "results" / "tiny-run1.pt.json").read_text())["files"] == ["tiny-run1.pt"]


def test_of_a_function_of_the_users_own_its_network_is_exported(project, command):
    project.by_function(
        HAND % "{'network': network.state_dict()}",
        before="import torch\nfrom torch import nn",
        sweep="objective='val_loss'",
        params="{'lr': [0.5]}",
    )
    project.launch()
    said = command("export-model", "tiny")
    assert (said.status, said.err) == (0, "")
    torch.manual_seed(0)
    expected = nn.Linear(4, 2).weight + 0.5 + 0.5  # after the second epoch, the best
    state = torch.load(project.root / "results" / "tiny-run1.pt", weights_only=True)
    assert torch.equal(state["weight"], expected)
    assert not (project.root / "results" / "tiny-run1.pt2").exists()


def test_a_loop_by_hand_needs_no_sweep_file(project, command):
    from runmanager import RunBuilder, RunManager

    m = RunManager("loop", tensorboard=False, quiet=True)
    for run in RunBuilder.get_runs({"lr": [0.1, 0.2]}):
        m.begin_run(run)
        m.begin_epoch()
        m.log(val_loss=run.lr)
        m.end_epoch(checkpoint={"network": {"weight": torch.full((2,), run.lr)}})
        m.end_run()
    assert "there are: loop; did you mean 'loop'?" in command("export-model", "lop").err
    assert "name one by number" in command("export-model", "loop").err
    assert command("export-model", "loop", "2").status == 0
    state = torch.load(project.root / "results" / "loop-run2.pt", weights_only=True)
    assert torch.equal(state["weight"], torch.tensor([0.2, 0.2]))
    assert "no epoch is best; use --epoch last" in command("export-model", "loop", "2", "--epoch", "best").err


def test_a_function_that_saves_no_network_is_told_what_to_save(project, command):
    project.by_function(HAND % "{'weights': 3}", before="import torch\nfrom torch import nn", params="{'lr': [0.5]}")
    project.launch()
    said = command("export-model", "tiny")
    assert said.status == 2
    assert "has saved weights, and no state dict as 'network'" in said.err


def test_what_was_not_saved_or_is_damaged_is_told(project, command):
    sweep(project)
    said = command("export-model", "tiny")
    assert "sweep 'tiny' cannot be exported:\n  - it has no runs; train them with `runmanager launch tiny`" in said.err
    project.launch(only="1", epochs=1, checkpoint_every=0)
    assert "run 1 has saved no state; launch with --checkpoint-every 1" in command("export-model", "tiny").err
    project.launch(only="2", epochs=1)
    (file,) = (project.folders()[1] / "checkpoints").iterdir()
    file.write_bytes(b"x" * file.stat().st_size)
    with pytest.raises(CheckpointError, match="checksum"):
        export_model("tiny", 2)
    assert not (project.root / "results" / "tiny-run2.pt").exists()


def test_a_run_whose_values_were_given_at_its_launch_is_exported_with_them(project, command):
    sweep(project)
    project.launch(params={"lr": [0.3], "batch_size": [12]}, epochs=1)
    assert command("export-model", "tiny", "-o", "net").status == 0
    about = json.loads((project.root / "net.pt.json").read_text())
    assert about["params"] == {"lr": 0.3, "batch_size": 12}
    assert (project.root / "net.pt2").is_file()


def test_features_are_what_the_layer_gives_for_each_sample_in_order(project, command):
    sweep(project)
    project.launch(only="1")
    said = command("features", "tiny", "--layer", "hidden", "--split", "train", "--epoch", "last", "-o", "f.npz")
    assert (said.status, said.err) == (0, "")
    network = by_hand(project.folders()[0], 4)
    inputs = torch.rand(60, 4, generator=torch.Generator().manual_seed(0))
    found = np.load(project.root / "f.npz")
    with torch.no_grad():
        assert np.allclose(found["features"], network.hidden(inputs).numpy(), atol=1e-6)
    assert found["targets"].tolist() == (inputs.sum(1) > 2).long().tolist()
    assert command("features", "tiny", "1", "--layer", "out").status == 0
    assert np.load(project.root / "results" / "tiny-run1-out-validation.npz")["features"].shape == (20, 2)


@pytest.mark.parametrize(("kind", "told"), [("ema", "ema_decay=0.9"), ("swa", "swa_start=3")])
def test_of_an_average_of_the_weights_the_average_is_exported_and_that_is_said(kind, told, project, command):
    sweep(project, epochs=f"4, average='{kind}', {told}", scheduler=None)
    project.launch(only="1", checkpoint_every=1)
    said = command("export-model", "tiny", "1", "--epoch", "last", "-o", "net")
    assert (said.status, said.err) == (0, "")
    assert f"the average of its weights ({kind})" in said.out
    about = json.loads((project.root / "net.pt.json").read_text())
    assert about["weights"] == kind
    averaged, trained = Net().eval(), by_hand(project.folders()[0], 4)
    averaged.load_state_dict(torch.load(project.root / "net.pt", weights_only=True))
    assert not torch.equal(averaged.hidden.weight, trained.hidden.weight)
    row = project.history().runs[0].rows[-1].metrics
    assert loss_on_held_out(averaged) == pytest.approx(row["average val_loss"], rel=1e-5)
    assert loss_on_held_out(trained) == pytest.approx(row["val_loss"], rel=1e-5)
    assert about["metrics"]["average val_loss"] == row["average val_loss"]

    assert command("features", "tiny", "1", "--layer", "hidden", "--epoch", "last", "-o", "f.npz").status == 0
    inputs = torch.rand(20, 4, generator=torch.Generator().manual_seed(9))
    with torch.no_grad():
        assert np.allclose(np.load(project.root / "f.npz")["features"], averaged.hidden(inputs).numpy(), atol=1e-6)


def test_before_an_average_has_begun_the_trained_weights_are_exported_and_that_is_said(project, command):
    sweep(project, epochs="4, average='swa', swa_start=4")  # the second epoch is the best
    project.launch(only="1")
    said = command("export-model", "tiny", "1", "-o", "net")
    assert "the trained weights: their average (swa) had not begun" in said.out
    assert json.loads((project.root / "net.pt.json").read_text())["weights"] == "trained"
    state = torch.load(project.root / "net.pt", weights_only=True)
    assert torch.equal(state["hidden.weight"], by_hand(project.folders()[0], 2).hidden.weight)


def test_an_average_is_measured_for_export_without_validation_too(project, command):
    sweep(
        project,
        epochs="3, average='swa', swa_start=2, validation=0",
        sweep="",
        scheduler=None,
        data="(inputs, targets)",
    )
    project.launch(only="1")
    assert command("export-model", "tiny", "1", "-o", "net").status == 0
    averaged = Net()
    averaged.load_state_dict(torch.load(project.root / "net.pt", weights_only=True))
    inputs = torch.rand(60, 4, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.allclose(averaged.norm.running_mean, averaged.hidden(inputs).mean(0), atol=1e-5)


def test_a_sweep_by_function_has_no_network_to_look_into(project, command):
    project.by_function("m.log(value=1)")
    for name in ("summary", "lr-range"):
        said = command(name, "tiny")
        assert said.status == 2
        assert "only a Trainer's network can be looked into" in said.err


@each_way
@pytest.mark.usefixtures("forked_workers")
def test_the_best_and_the_last_state_are_kept_and_are_those_of_their_epochs(way, project):
    sweep(project)
    history = project.launch(**WAYS[way])
    assert {row.group_size for run in history.runs for row in run.rows} == {2 if "fused" in way else 1}
    assert [run.status for run in history.runs] == ["completed"] * 4
    for run, folder in zip(history.runs, project.folders(), strict=True):
        best = min(run.rows, key=lambda row: row.metrics["val_loss"]).epoch
        assert best < 3  # since the loss explodes then
        names = [file.name for file in sorted((folder / "checkpoints").iterdir())]
        assert names == [f"epoch-{best:04d}.pt", "epoch-0004.pt"]
        for epoch in (best, 4):
            expected = run.rows[epoch - 1].metrics["val_loss"]
            assert loss_on_held_out(by_hand(folder, epoch)) == pytest.approx(expected, rel=1e-5)
        sweep_dir = SweepDir(project.root, "tiny")
        assert [find_saved(sweep_dir, run.number, which).epoch for which in ("best", "last")] == [best, 4]


def test_the_best_is_the_best_of_those_that_were_saved(project):
    sweep(project, epochs="5", scheduler=EXPLODES.replace("< 2", "< 3"))
    history = project.launch(only="1", checkpoint_every=2)
    assert history.runs[0].best["val_loss"].epoch == 3
    assert find_saved(SweepDir(project.root, "tiny"), 1, "best").epoch == 2
    assert find_saved(SweepDir(project.root, "tiny"), 1, "last").epoch == 5


def test_a_state_that_was_dropped_is_told(project):
    sweep(project)
    project.launch(keep=1, fuse="off")
    dropped = [run.number for run in project.history().ranked("val_loss")][1:]
    with pytest.raises(SweepError, match="--keep all"):
        export_model("tiny", dropped[0])
