"""Starting from a file and from another run, new heads, models of torchvision by name, frozen and thawed parameters."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.data import TensorDataset

from runmanager import RunBuilder, launch
from runmanager.data.splits import Splits
from tests.conformance.recipes.cases import NUM_CLASSES, NUM_EPOCHS, Case, Plain, network, sweep_of

HEAD = ("5.weight", "5.bias")
RATES = [0.1, 0.3]


def trained(plain: Plain, before_epoch: Callable[[int], None] = lambda epoch: None) -> Plain:
    for epoch in range(1, NUM_EPOCHS + 1):
        before_epoch(epoch)
        plain.rows.append({"loss": plain.train(), **plain.validate()})
    return plain


def write_files(project: Path) -> None:
    """What a plain loop would have saved: a bare state dict, and one of DataParallel in a checkpoint of somebody's own."""
    torch.save(state_of(1), project / "first.pt")
    parallel = {f"module.{name}": value for name, value in state_of(2).items()}
    torch.save({"epoch": 7, "model_state_dict": parallel}, project / "second.pth")


def state_of(seed: int) -> dict[str, torch.Tensor]:
    """The weights in the files."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return network().state_dict()


def from_file(run: Any) -> Plain:
    def make() -> nn.Module:
        made = network()
        made.load_state_dict(state_of({"first.pt": 1, "second.pth": 2}[run.start_from]))
        return made

    return trained(Plain.begin(run, make))


def launch_source(project: Path) -> None:
    """The sweep that the runs start from."""
    sweep = sweep_of(Case({"lr": RATES}, lambda project: {}), project)
    sweep.name = "source"
    launch(sweep, quiet=True, tensorboard=False, fuse="off")


def source(number: int) -> dict[str, torch.Tensor]:
    """What a run of that sweep has at its end, by a plain loop."""
    run = RunBuilder.get_runs({"lr": [RATES[number - 1]]})[0]
    return trained(Plain.begin(run)).network.state_dict()


def from_run(run: Any) -> Plain:
    state = source(int(run.start_from.split("/")[1]))

    def make() -> nn.Module:
        made = network()
        made.load_state_dict(state)
        return made

    return trained(Plain.begin(run, make))


def with_new_head(run: Any) -> Plain:
    """The body of a run under five new outputs, and trained alone."""
    body = {name: value for name, value in source(1).items() if name not in HEAD}

    def make() -> nn.Module:
        made = network()
        made[5] = nn.Linear(16, run.head)
        made.load_state_dict(body, strict=False)
        for name, param in made.named_parameters():
            param.requires_grad_(name in HEAD)
        return made

    return trained(Plain.begin(run, make))


def thawed(run: Any) -> Plain:
    """Weight and bias of the convolution are trained from other epochs on; neither has a momentum before."""
    plain = Plain.begin(run)
    convolution = plain.network[0]

    def before_epoch(epoch: int) -> None:
        convolution.weight.requires_grad_(epoch >= 3)
        convolution.bias.requires_grad_(epoch >= 2)

    return trained(plain, before_epoch)


def colours(number: int = 20) -> TensorDataset:
    """Pictures [N, 3, 32, 32], as small as the model takes them."""
    generator = torch.Generator().manual_seed(1)
    return TensorDataset(torch.rand(number, 3, 32, 32, generator=generator), torch.arange(number) % NUM_CLASSES)


def of_torchvision(run: Any) -> Plain:
    from torchvision.models import squeezenet1_1

    def make() -> nn.Module:
        made = squeezenet1_1()
        made.classifier[1] = nn.Conv2d(512, NUM_CLASSES, 1)
        for param in made.features.parameters():
            param.requires_grad_(False)
        return made

    return trained(Plain.begin(run, make, data=colours()))


CASES = {
    "start from a file": Case(
        {"lr": [0.1], "start_from": ["first.pt", "second.pth"]}, lambda project: {}, from_file, prepare=write_files
    ),
    "start from a run": Case(
        {"lr": [0.1], "start_from": ["source/1/last", "source/2/last"]},
        lambda project: {},
        from_run,
        prepare=launch_source,
    ),
    "a new head on the frozen body of a run": Case(
        {"lr": RATES, "head": [5], "freeze": [("0.*", "1.*")]},
        lambda project: {"start_from": "source/1/last", "start_strict": False},
        with_new_head,
        prepare=launch_source,
    ),
    "unfreeze": Case(
        {"lr": [0.1, 0.01], "unfreeze": [{"2": "0.bias", "3": ["0.weight"]}]},
        lambda project: {"freeze": "0.*"},
        thawed,
    ),
    "a model of torchvision": Case(
        {"lr": [0.01, 0.001], "network": ["squeezenet1_1"], "head": ["classes"], "freeze": ["features.*"]},
        lambda project: {"network": None, "data": Splits(colours())},
        of_torchvision,
    ),
}
