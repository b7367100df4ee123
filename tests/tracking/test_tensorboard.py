"""What a run shows in TensorBoard: asked of a real one over HTTP, and read from the event files."""

import io
import os
import random
import resource
import warnings
from collections import OrderedDict, namedtuple
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from tensorboard.backend.event_processing.event_file_loader import RawEventFileLoader
from tensorboard.compat.proto.event_pb2 import Event
from torch import nn
from torch.utils.data import DataLoader, Dataset, Subset, TensorDataset
from torch.utils.tensorboard import SummaryWriter

from runmanager import RunBuilder, RunManager
from runmanager.data.fashion_mnist import fashion_mnist_sample
from runmanager.tracking.errors import RunStopped
from runmanager.tracking.writers import Writer
from tests.classroom import train_epoch
from tests.tensorboard_server import TensorBoard, until

pytestmark = pytest.mark.usefixtures("one_thread")

NUM_EPOCHS = 2
NUM_IMAGES = 200
GRID = OrderedDict(lr=[0.01, 0.001], batch_size=[50, 80], shuffle=[True, False], act=["relu", "tanh"])
FAILED_RUN = 3  # its loop raises in its second epoch

Run = namedtuple("Run", ["lr", "batch_size", "shuffle"])
RUN = Run(0.01, 50, True)


class TinyCNN(nn.Module):
    def __init__(self, act: str = "relu") -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 2, kernel_size=5)
        self.norm = nn.BatchNorm2d(2)
        self.drop = nn.Dropout(0.2)
        self.out = nn.Linear(2 * 6 * 6, 10)
        self.act = {"relu": torch.relu, "tanh": torch.tanh}[act]

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        x = F.max_pool2d(self.act(self.norm(self.conv(images))), 4)
        return self.out(self.drop(x.flatten(1)))


_managers: list[RunManager] = []


def new_manager(root: Path, name: str = "sweep", **options: Any) -> RunManager:
    """A silent manager that the fixture below closes."""
    _managers.append(RunManager(name, root=root, quiet=True, **options))
    return _managers[-1]


@pytest.fixture(autouse=True)
def managers_are_closed() -> Iterator[None]:
    yield
    while _managers:
        _managers.pop().close()


@pytest.fixture(scope="module")
def images() -> Subset:
    return Subset(fashion_mnist_sample().train, range(NUM_IMAGES))


def train(m: RunManager, run: Any, network: nn.Module, data: Dataset, num_epochs: int = NUM_EPOCHS) -> list[float]:
    loader = DataLoader(data, batch_size=run.batch_size, shuffle=run.shuffle)
    m.begin_run(run, network, loader)
    losses = []
    for epoch in range(num_epochs):
        m.begin_epoch()
        optimizer = torch.optim.SGD([p for p in network.parameters() if p.requires_grad], lr=run.lr)
        losses += train_epoch(m, network, loader, optimizer)
        m.log(val_loss=1.0 / (1 + epoch) + run.lr)
        if epoch == 1 and getattr(run, "boom", False):
            raise ValueError("the loop broke")
        m.end_epoch()
    m.end_run()
    return losses


def one_batch(m: RunManager, network: nn.Module, loss: torch.Tensor) -> None:
    """An epoch of one backward pass, for networks that images do not fit."""
    m.begin_epoch()
    network.zero_grad()
    loss.backward()
    m.track_loss(loss, [0])
    m.end_epoch()


def run_folders(root: Path, name: str = "sweep") -> list[Path]:
    return sorted(path for path in (root / "runs" / name).iterdir() if path.is_dir())


def read_events(folder: Path) -> list[Event]:
    """All events of a run, file by file."""
    files = sorted(folder.glob("events.out.tfevents.*"))
    return [Event.FromString(record) for file in files for record in RawEventFileLoader(str(file)).Load()]


def read_values(folder: Path) -> dict[str, list[tuple[int, Any]]]:
    """Each tag's steps and values."""
    values: dict[str, list[tuple[int, Any]]] = {}
    for event in read_events(folder):
        for value in event.summary.value:
            values.setdefault(value.tag, []).append((event.step, value))
    return values


def scalars_of(folder: Path, tag: str) -> list[tuple[int, float]]:
    return [(step, value.simple_value) for step, value in read_values(folder).get(tag, [])]


def journal_epochs(folder: Path) -> int:
    return sum('"kind":"epoch"' in line for line in (folder / "journal.jsonl").read_text().splitlines())


@contextmanager
def no_warnings() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


# A sweep, as TensorBoard serves it


class Served:
    """A TensorBoard on a sweep, and the manager that tracked it."""

    def __init__(self, board: TensorBoard, manager: RunManager, folders: list[Path]) -> None:
        self.board, self.manager = board, manager
        self.names = [folder.name for folder in folders]
        self.params = [run._asdict() for run in RunBuilder.get_runs(GRID)]

    def rows(self, number: int) -> list[Any]:
        return [row for row in self.manager.run_data if row["run"] == number]


@pytest.fixture(scope="module")
def tracked_sweep(tmp_path_factory: pytest.TempPathFactory, images: Subset) -> tuple[Path, RunManager]:
    root = tmp_path_factory.mktemp("project")
    m = new_manager(root)
    for number, run in enumerate(RunBuilder.get_runs(GRID), 1):
        loader = DataLoader(images, batch_size=run.batch_size, shuffle=run.shuffle)
        network = TinyCNN(run.act)
        m.begin_run(run, network, loader)
        for epoch in range(NUM_EPOCHS):
            m.begin_epoch()
            train_epoch(m, network, loader, torch.optim.SGD(network.parameters(), lr=run.lr))
            if number == FAILED_RUN and epoch == 1:
                break  # out of the epoch, as an exception that a notebook's user caught would leave it
            m.log(val_loss=[0.5, 0.75][epoch] + run.lr)
            m.end_epoch()
        else:
            m.end_run()
    return root, m


@pytest.fixture(scope="module", params=[True, False], ids=["load_fast", "load_slow"])
def served(request: pytest.FixtureRequest, tracked_sweep: tuple[Path, RunManager]) -> Iterator[Served]:
    root, manager = tracked_sweep
    with TensorBoard(root / "runs" / "sweep", load_fast=request.param) as board:
        board.wait_for_ends(len(RunBuilder.get_runs(GRID)))
        yield Served(board, manager, run_folders(root))


def test_the_runs_are_exactly_those_of_the_sweep(served: Served) -> None:
    assert sorted(served.board.runs()) == served.names
    assert len(served.names) == len(RunBuilder.get_runs(GRID))


def test_every_parameter_has_a_column_of_its_type(served: Served) -> None:
    types = {info["name"]: info["type"] for info in served.board.experiment()["hparamInfos"]}
    assert types == {
        "lr": "DATA_TYPE_FLOAT64",
        "batch_size": "DATA_TYPE_FLOAT64",
        "shuffle": "DATA_TYPE_BOOL",
        "act": "DATA_TYPE_STRING",
    }


def test_every_run_has_its_own_parameters(served: Served) -> None:
    sessions = served.board.sessions()
    assert [sessions[name]["hparams"] for name in served.names] == served.params
    assert all(type(sessions[name]["hparams"]["shuffle"]) is bool for name in served.names)


def test_every_metric_has_a_column_and_the_best_of_each_too(served: Served) -> None:
    metrics = {info["name"]["tag"] for info in served.board.experiment()["metricInfos"]}
    shown = {"Loss", "Accuracy", "val_loss", "best/loss", "best/accuracy", "best/val_loss"}
    assert metrics == shown | {"step/step_loss"}


def test_the_table_shows_the_last_and_the_best_value(served: Served) -> None:
    session = served.board.sessions()[served.names[0]]
    values = {metric["name"]["tag"]: metric["value"] for metric in session["metricValues"]}
    rows = served.rows(1)
    assert values["val_loss"] == pytest.approx(0.76)
    assert values["best/val_loss"] == pytest.approx(0.51)
    assert values["Loss"] == pytest.approx(rows[-1]["loss"], rel=1e-6)
    assert values["best/loss"] == pytest.approx(min(row["loss"] for row in rows), rel=1e-6)
    assert values["best/accuracy"] == pytest.approx(max(row["accuracy"] for row in rows), rel=1e-6)


def test_a_run_that_failed_says_so_and_the_others_succeeded(served: Served) -> None:
    sessions = served.board.sessions()
    expected = ["STATUS_FAILURE" if number == FAILED_RUN else "STATUS_SUCCESS" for number in range(1, 17)]
    assert [sessions[name]["status"] for name in served.names] == expected


def test_each_run_is_a_row_of_its_own(served: Served) -> None:
    assert sorted(len(group["sessions"]) for group in served.board.session_groups()) == [1] * len(served.names)


@pytest.mark.parametrize(
    ("tag", "column"), [("Loss", "loss"), ("Accuracy", "accuracy"), ("val_loss", "val_loss")], ids=lambda name: name
)
def test_scalars_are_the_rows(served: Served, tag: str, column: str) -> None:
    for number, name in enumerate(served.names, 1):
        points = served.board.scalars(name, tag)
        rows = served.rows(number)
        assert [step for step, _ in points] == [row["epoch"] for row in rows]
        assert [value for _, value in points] == pytest.approx([row[column] for row in rows], rel=1e-6)
    assert len(served.rows(1)) == NUM_EPOCHS
    assert len(served.rows(FAILED_RUN)) == 1


def test_scalars_of_steps_are_kept_apart_from_those_of_epochs(served: Served) -> None:
    points = served.board.scalars(served.names[0], "step/step_loss")
    assert [step for step, _ in points] == list(range(1, NUM_EPOCHS * NUM_IMAGES // 50 + 1))
    first_epoch = [value for _, value in points[:4]]
    assert np.mean(first_epoch) == pytest.approx(served.rows(1)[0]["loss"], rel=1e-5)


def test_every_run_has_its_images(served: Served) -> None:
    assert set(served.board.tags("images")) == set(served.names)
    for name in served.names[:2]:
        (image,) = served.board.get("/data/plugin/images/images", run=name, tag="images", sample="0")
        png = served.board.get_bytes(f"/data/plugin/images/individualImage?{image['query']}")
        with Image.open(io.BytesIO(png)) as grid:
            assert grid.size == (242, 122)  # 32 images of 28 pixels, eight in a row, with 2 around each
            assert len(set(grid.convert("L").tobytes())) > 50  # pictures, not one grey


def test_every_run_has_its_graph(served: Served) -> None:
    info = served.board.get("/data/plugin/graphs/info")
    assert {run for run, about in info.items() if about.get("run_graph")} == set(served.names)
    graph = served.board.get_bytes("/data/plugin/graphs/graph", run=served.names[0]).decode()
    assert "TinyCNN/Conv2d[conv]" in graph
    assert "TinyCNN/Linear[out]" in graph


def test_every_run_has_histograms_of_parameters_and_gradients(served: Served) -> None:
    names = [name for name, _ in TinyCNN().named_parameters()]
    tags = sorted([*names, *(f"{name}.grad" for name in names)])
    assert served.board.tags("histograms") == dict.fromkeys(served.names, tags)
    drawn = served.board.get("/data/plugin/histograms/histograms", run=served.names[0], tag="out.weight")
    assert [step for _, step, _ in drawn] == [1, 2]
    assert sum(bucket[2] for bucket in drawn[0][2]) == 720


# What one logdir of several sweeps shows


@pytest.mark.parametrize("load_fast", [True, False], ids=["load_fast", "load_slow"])
def test_sweeps_side_by_side_keep_all_their_columns(tmp_path: Path, load_fast: bool) -> None:
    for name, param in [("one", "width"), ("two", "depth")]:
        m = new_manager(tmp_path, name)
        m.begin_run(namedtuple("Run", [param])(3))
        m.log(score=1.0)
        m.end_run()
    with TensorBoard(tmp_path / "runs", load_fast=load_fast) as board:
        board.wait_for_ends(2)
        assert {info["name"] for info in board.experiment()["hparamInfos"]} == {"width", "depth"}
        assert sorted(run.split("/")[0] for run in board.runs()) == ["one", "two"]


def test_runs_that_differ_in_seed_alone_share_a_row_with_the_mean_of_their_metrics(tmp_path: Path) -> None:
    m = new_manager(tmp_path)
    for run in RunBuilder.get_runs(OrderedDict(lr=[0.1, 0.2], seed=[1, 2, 3])):
        m.begin_run(run)
        m.log(score=run.lr * run.seed)
        m.end_run()
    with TensorBoard(tmp_path / "runs" / "sweep") as board:
        board.wait_for_ends(6)
        groups = sorted(board.session_groups(), key=lambda group: group["hparams"]["lr"])
        assert [len(group["sessions"]) for group in groups] == [3, 3]
        means = [metric["value"] for group in groups for metric in group["metricValues"]]
        assert means == pytest.approx([0.2, 0.4])


@pytest.mark.parametrize("load_fast", [True, False], ids=["load_fast", "load_slow"])
def test_a_run_trained_again_shows_its_last_attempt_and_keeps_the_first(tmp_path: Path, load_fast: bool) -> None:
    for attempt, scores in enumerate([[9.0, 9.0, 9.0], [1.0]], 1):
        m = new_manager(tmp_path)
        m.begin_run(RUN)
        for score in scores:
            m.begin_epoch()
            m.log(score=score)
            m.end_epoch()
        if attempt == 1:
            m.abandon(ValueError("the first attempt failed"))
        else:
            m.end_run()
    (folder,) = run_folders(tmp_path)
    assert len(list(folder.glob("*tfevents*"))) == 2  # events and end of the second
    kept = [path for path in folder.iterdir() if path.name.startswith("earlier-attempt")]
    assert len(kept) == 2
    assert any(b"score" in path.read_bytes() for path in kept)
    with TensorBoard(tmp_path / "runs" / "sweep", load_fast=load_fast) as board:
        board.wait_for_ends(1)
        assert board.scalars(folder.name, "score") == [(1, 1.0)]
        assert board.sessions()[folder.name]["status"] == "STATUS_SUCCESS"


# Parameters of any kind


def hparams_of(folder: Path) -> dict[str, Any]:
    from tensorboard.plugins.hparams import metadata

    ((_, value),) = read_values(folder)[metadata.SESSION_START_INFO_TAG]
    info = metadata.parse_session_start_info_plugin_data(value.metadata.plugin_data.content)
    return {name: getattr(field, field.WhichOneof("kind")) for name, field in info.hparams.items()}


AWKWARD = {
    "flag": (True, True),
    "whole": (3, 3.0),
    "from_numpy": (np.float32(0.5), 0.5),
    "numpy_flag": (np.bool_(True), True),
    "from_torch": (torch.tensor(2.0), 2.0),
    "none": (None, "None"),
    "sizes": ([8, 16], "[8, 16]"),
    "class_": (nn.ReLU, "ReLU"),
    "empty": ("", ""),
    "text": ("a/b,'c'", "a/b,'c'"),
}


@pytest.mark.parametrize("name", AWKWARD)
def test_a_parameter_of_any_kind_is_shown_as_number_boolean_or_short_text(tmp_path: Path, name: str) -> None:
    value, shown = AWKWARD[name]
    m = new_manager(tmp_path)
    with no_warnings():
        m.begin_run(namedtuple("Run", [name])(value))
        m.end_run()
    (found,) = hparams_of(run_folders(tmp_path)[0]).values()
    assert (found, type(found)) == (shown, type(shown))


@pytest.mark.parametrize(
    "value",
    [10**400, float("nan"), "x" * 10_000, "two\nlines", "\ud800", {"a": [1]}],
    ids=lambda value: repr(value)[:20],
)
def test_no_parameter_keeps_a_run_out_of_tensorboard(tmp_path: Path, value: Any) -> None:
    m = new_manager(tmp_path)
    with no_warnings():
        m.begin_run(namedtuple("Run", ["odd"])(value))
        m.log(score=0.5)
        m.end_run()
    (folder,) = run_folders(tmp_path)
    assert len(str(hparams_of(folder)["odd"])) <= 500
    assert scalars_of(folder, "score") == [(0, 0.5)]


# Histograms


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_histograms_are_those_of_torchs_own_writer(tmp_path: Path, images: Subset, dtype: torch.dtype) -> None:
    network = TinyCNN().to(dtype)
    data = [(image.to(dtype), label) for image, label in images]
    train(new_manager(tmp_path), RUN, network, data, num_epochs=1)
    with SummaryWriter(str(tmp_path / "torch")) as writer:
        for name, param in network.named_parameters():
            writer.add_histogram(name, param, 1)
            writer.add_histogram(f"{name}.grad", param.grad, 1)
    ours, theirs = read_values(run_folders(tmp_path)[0]), read_values(tmp_path / "torch")
    assert len(theirs) == 2 * 6
    for tag, [(step, value)] in theirs.items():
        ((our_step, our_value),) = ours[tag]
        assert (our_step, our_value.SerializeToString()) == (step, value.SerializeToString()), tag


def test_histograms_come_as_often_as_asked(tmp_path: Path, images: Subset) -> None:
    m = new_manager(tmp_path, histograms_every=2)
    train(m, RUN, TinyCNN(), images, num_epochs=3)
    assert [step for step, _ in read_values(run_folders(tmp_path)[0])["out.weight"]] == [1, 3]
    m = new_manager(tmp_path, "none", histograms_every=0)
    train(m, RUN, TinyCNN(), images, num_epochs=3)
    values = read_values(run_folders(tmp_path, "none")[0])
    assert "out.weight" not in values
    assert len(values["Loss"]) == 3


def test_frozen_parameters_and_missing_gradients_have_no_histogram(tmp_path: Path, images: Subset) -> None:
    network = TinyCNN()
    network.conv.weight.requires_grad_(False)
    network.unused = nn.Linear(2, 2)
    with no_warnings():
        train(new_manager(tmp_path), RUN, network, images)
    tags = set(read_values(run_folders(tmp_path)[0]))
    assert {"out.weight", "out.weight.grad", "conv.bias", "conv.bias.grad", "unused.weight"} <= tags
    assert not tags & {"conv.weight", "conv.weight.grad", "unused.weight.grad"}


def broken_weights(network: nn.Linear, *values: float) -> None:
    with torch.no_grad():
        network.weight.view(-1)[: len(values)] = torch.tensor(values, dtype=network.weight.dtype)


def track_linear(tmp_path: Path, network: nn.Module, inputs: torch.Tensor) -> Path:
    m = new_manager(tmp_path)
    m.begin_run(RUN, network)
    one_batch(m, network, network(inputs).sum())
    m.end_run()
    return run_folders(tmp_path)[0]


def test_values_that_are_not_finite_are_counted_and_the_others_drawn(tmp_path: Path) -> None:
    network = nn.Linear(4, 4)
    broken_weights(network, float("nan"), float("inf"), float("-inf"))
    with no_warnings():
        values = read_values(track_linear(tmp_path, network, torch.ones(1, 4)))
    ((step, counted),) = values["weight.non_finite"]
    assert (step, counted.simple_value) == (1, 3.0)
    assert values["weight"][0][1].histo.num == 13
    assert "bias.non_finite" not in values


def test_a_parameter_without_any_finite_value_is_counted_alone(tmp_path: Path) -> None:
    network = nn.Linear(4, 4)
    with torch.no_grad():
        network.weight.fill_(float("nan"))
    with no_warnings():
        values = read_values(track_linear(tmp_path, network, torch.ones(1, 4)))
    assert values["weight.non_finite"][0][1].simple_value == 16.0
    assert "weight" not in values
    assert values["bias"][0][1].histo.num == 4


def test_a_parameter_of_huge_values_costs_no_scalar(tmp_path: Path) -> None:
    network = nn.Linear(4, 4)
    with torch.no_grad():
        network.weight.fill_(1e25)  # finite, as a diverging run has it before it overflows
    with no_warnings():
        folder = track_linear(tmp_path, network, torch.ones(1, 4))
    values = read_values(folder)
    assert "Loss" in values and "bias" in values
    assert values["weight"][0][1].histo.num == 16


def test_a_sparse_gradient_costs_no_scalar(tmp_path: Path) -> None:
    with no_warnings():
        values = read_values(track_linear(tmp_path, nn.Embedding(5, 2, sparse=True), torch.tensor([1, 3])))
    assert {"Loss", "weight", "weight.grad"} <= set(values)


def test_finite_doubles_are_not_counted_as_infinite(tmp_path: Path) -> None:
    network = nn.Linear(4, 4).double()
    broken_weights(network, 1e200)
    values = read_values(track_linear(tmp_path, network, torch.ones(1, 4, dtype=torch.float64)))
    assert "weight.non_finite" not in values


# The graph


class Undecided(nn.Module):
    """Its path depends on its data in a way that no tracer can follow."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Linear(784, 10)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        if torch.jit.is_tracing():
            raise RuntimeError("this network has to see its data")
        x = self.stem(images.flatten(1))
        return x if x.sum().item() > 0 else x + 1


class TakesDict(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Linear(784, 10)

    def forward(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        return self.stem(batch["pixels"].flatten(1))


class AsDict(Dataset):
    def __init__(self, data: Subset) -> None:
        self.data = data

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> Any:
        image, label = self.data[index]
        return {"pixels": image}, label


def text_of(folder: Path) -> str:
    values = [value for event in read_events(folder) for value in event.summary.value]
    (text,) = [value for value in values if value.metadata.plugin_data.plugin_name == "text"]
    return text.tensor.string_val[0].decode()


@pytest.mark.parametrize("kind", [Undecided, TakesDict])
def test_a_network_that_cannot_be_traced_is_one_warning_and_a_tree_of_modules(
    tmp_path: Path, images: Subset, kind: type[nn.Module], capfd: pytest.CaptureFixture[str]
) -> None:
    data = AsDict(images) if kind is TakesDict else images
    m = new_manager(tmp_path)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for run in [RUN, RUN._replace(lr=0.1)]:  # one shape, one warning
            train_with_dicts(m, run, kind(), DataLoader(data, batch_size=50))
    assert [
        kind.__name__ in str(warning.message) and "cannot be traced" in str(warning.message) for warning in caught
    ] == [True]
    assert capfd.readouterr() == ("", "")
    for folder in run_folders(tmp_path):
        assert "stem: Linear" in text_of(folder) and "7,850 parameters" in text_of(folder)
        assert not any(event.graph_def for event in read_events(folder))
        assert len(scalars_of(folder, "Loss")) == journal_epochs(folder) == 1


def train_with_dicts(m: RunManager, run: Any, network: nn.Module, loader: DataLoader) -> None:
    m.begin_run(run, network, loader)
    m.begin_epoch()
    for inputs, labels in loader:
        m.track_loss(F.cross_entropy(network(inputs), labels))
    m.end_epoch()
    m.end_run()


def test_the_tree_of_modules_is_on_the_text_page(tmp_path: Path, images: Subset) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        train(new_manager(tmp_path), RUN, Undecided(), images, num_epochs=1)
    with TensorBoard(tmp_path / "runs" / "sweep") as board:
        board.wait_for_ends(1)
        ((run, (tag,)),) = board.tags("text").items()
        (shown,) = board.get("/data/plugin/text/text", run=run, tag=tag)
        assert "stem: Linear" in shown["text"]


def test_layers_without_a_shape_yet_cost_no_scalar(tmp_path: Path, images: Subset) -> None:
    network = nn.Sequential(nn.Flatten(), nn.LazyLinear(10))
    m = new_manager(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        train_with_dicts(m, RUN, network, DataLoader(images, batch_size=50))
    assert len(scalars_of(run_folders(tmp_path)[0], "Loss")) == 1


def test_tracing_says_nothing(tmp_path: Path, images: Subset, capfd: pytest.CaptureFixture[str]) -> None:
    with no_warnings():
        train(new_manager(tmp_path), RUN, TinyCNN(), images)
    assert any(event.graph_def for event in read_events(run_folders(tmp_path)[0]))
    assert capfd.readouterr() == ("", "")


def test_networks_that_differ_only_in_what_forward_does_have_their_own_graphs(tmp_path: Path, images: Subset) -> None:
    m = new_manager(tmp_path)
    for act in ["relu", "tanh"]:
        train(m, namedtuple("Run", [*RUN._fields, "act"])(*RUN, act), TinyCNN(act), images, num_epochs=1)
    graphs = [next(e.graph_def for e in read_events(folder) if e.graph_def) for folder in run_folders(tmp_path)]
    assert [(b"aten::relu" in graph, b"aten::tanh" in graph) for graph in graphs] == [(True, False), (False, True)]


def test_the_graph_is_the_one_that_torchs_own_writer_makes_of_one_row(tmp_path: Path, images: Subset) -> None:
    network, loader = TinyCNN(), DataLoader(images, batch_size=50)
    m = new_manager(tmp_path)
    m.begin_run(RUN, network, loader)
    m.end_run()
    with warnings.catch_warnings(), SummaryWriter(str(tmp_path / "torch")) as writer:
        warnings.simplefilter("ignore")
        writer.add_graph(network, images[0][0][None])
    assert graphs_of(run_folders(tmp_path)[0]) == graphs_of(tmp_path / "torch")


def graphs_of(folder: Path) -> list[bytes]:
    return [event.graph_def for event in read_events(folder) if event.graph_def]


# What is made once for many runs


def begin_and_end(m: RunManager, lr: float, loader: DataLoader, network: nn.Module | None = None) -> None:
    m.begin_run(RUN._replace(lr=lr), network, loader)
    m.end_run()


def grids(root: Path) -> list[bytes]:
    return [read_values(folder)["images"][0][1].image.encoded_image_string for folder in run_folders(root)]


def calls_of(monkeypatch: pytest.MonkeyPatch, name: str) -> list[str]:
    """A list that gets an item with each call of a function of the module."""
    from runmanager.tracking import tensorboard

    calls: list[str] = []
    function = getattr(tensorboard, name)
    monkeypatch.setattr(tensorboard, name, lambda *arguments: (calls.append(name), function(*arguments))[1])
    return calls


def test_runs_that_are_shown_the_same_samples_share_one_grid(
    tmp_path: Path, images: Subset, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = calls_of(monkeypatch, "_image_grid")
    m = new_manager(tmp_path)
    for lr in (0.1, 0.2, 0.3):
        begin_and_end(m, lr, DataLoader(images, batch_size=round(500 * lr), shuffle=True))
    assert len(set(grids(tmp_path))) == len(made) == 1
    assert len(grids(tmp_path)) == 3


def test_networks_of_one_shape_are_traced_once(tmp_path: Path, images: Subset, monkeypatch: pytest.MonkeyPatch) -> None:
    traced = calls_of(monkeypatch, "_trace")
    m = new_manager(tmp_path)
    for lr in (0.1, 0.2, 0.3):
        begin_and_end(m, lr, DataLoader(images, batch_size=round(500 * lr)), TinyCNN())
    assert len(traced) == 1
    assert [len(graphs_of(folder)) for folder in run_folders(tmp_path)] == [1, 1, 1]


def test_each_run_is_shown_its_own_samples(tmp_path: Path) -> None:
    """Though the data set is the same object, or the tensor lies where another lay."""
    pixels = torch.rand(40, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    loader = DataLoader([(pixels[index], 0) for index in range(40)])  # views, so that they change with it
    m = new_manager(tmp_path)
    begin_and_end(m, 0.1, loader)
    before = pixels[31, 0, 7, 7].item()
    pixels[31, 0, 7, 7] = 1 - before  # the last pixel that is shown
    begin_and_end(m, 0.2, loader)
    pixels[31, 0, 7, 7] = before
    begin_and_end(m, 0.3, loader)
    begin_and_end(m, 0.4, DataLoader(TensorDataset(pixels.reshape(40, 1, 4, 16))))
    first, changed, again, other_shape = grids(tmp_path)
    assert first == again
    assert len({first, changed, other_shape}) == 3


def test_many_sets_of_samples_keep_their_own_grids(tmp_path: Path) -> None:
    m = new_manager(tmp_path)
    sets = [torch.full((4, 3, 8, 8), number / 20) for number in range(20)]
    for number, pixels in enumerate([*sets, *sets]):
        begin_and_end(m, float(number), DataLoader(TensorDataset(pixels)))
    found = grids(tmp_path)
    assert found[:20] == found[20:]
    assert len(set(found)) == 20


def test_only_the_last_few_things_are_kept() -> None:
    from runmanager.tracking.tensorboard import _Kept

    made: list[str] = []
    kept = _Kept[str](2)
    for key in ["a", "b", "a", "c", "b", "a"]:
        assert kept.get(key, lambda key=key: (made.append(key), key.upper())[1]) == key.upper()
    assert made == ["a", "b", "c", "a"]


# Logging changes nothing


class Augmented(Dataset):
    """Draws from the global generators of torch, numpy and Python for every sample."""

    def __init__(self, data: Subset) -> None:
        self.data = data

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> Any:
        image, label = self.data[index]
        noise = float(torch.rand(())) + np.random.rand() + random.random()
        return image + 0.1 * noise, label


class OwnGenerators(Augmented):
    """Draws from generators that it holds itself."""

    def __init__(self, data: Subset) -> None:
        super().__init__(data)
        self.numpy, self.python = np.random.default_rng(0), random.Random(0)
        self.torch = torch.Generator().manual_seed(0)

    def __getitem__(self, index: int) -> Any:
        image, label = self.data[index]
        noise = float(torch.rand((), generator=self.torch)) + self.numpy.random() + self.python.random()
        return image + 0.1 * noise, label


def seeded_losses(root: Path, data: Dataset, *, tensorboard: bool) -> list[float]:
    torch.manual_seed(1)
    np.random.seed(2)
    random.seed(3)
    m = new_manager(root, tensorboard=tensorboard)
    return [loss for lr in [0.1, 0.01] for loss in train(m, RUN._replace(lr=lr), TinyCNN(), data)]


@pytest.mark.parametrize("kind", [Augmented, OwnGenerators])
def test_losses_are_bit_equal_with_tensorboard_on_and_off(
    tmp_path: Path, images: Subset, kind: type[Augmented]
) -> None:
    with_it = seeded_losses(tmp_path / "on", kind(images), tensorboard=True)
    without = seeded_losses(tmp_path / "off", kind(images), tensorboard=False)
    assert with_it == without
    assert list((tmp_path / "on").rglob("*tfevents*")) and not list((tmp_path / "off").rglob("*tfevents*"))


def test_watching_leaves_modes_statistics_and_gradients_alone(tmp_path: Path, images: Subset) -> None:
    network = TinyCNN().train()
    network.norm.eval()  # a mixed state, as fine-tuning has it
    before = {name: value.clone() for name, value in network.state_dict().items()}
    m = new_manager(tmp_path)
    m.begin_run(RUN, network, DataLoader(images, batch_size=50))
    assert any(event.graph_def for event in read_events(run_folders(tmp_path)[0]))
    assert (network.training, network.norm.training, network.drop.training) == (True, False, True)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert all(param.grad is None for param in network.parameters())
    m.end_run()


def test_watching_calls_no_hook_of_the_users(tmp_path: Path, images: Subset) -> None:
    network, calls = TinyCNN(), []
    network.conv.register_forward_hook(lambda module, inputs, output: calls.append(len(inputs[0])))
    m = new_manager(tmp_path)
    m.begin_run(RUN, network, DataLoader(images, batch_size=50))
    m.end_run()
    assert calls == []


# What goes wrong is one warning


class BreaksAtTheFirstEpoch(Writer):
    def epoch(self, member: Any, row: Any) -> None:
        raise OSError("the disk is gone")


def test_a_writer_that_raises_is_one_warning_and_the_run_completes(tmp_path: Path, images: Subset) -> None:
    m = new_manager(tmp_path, writers=[BreaksAtTheFirstEpoch()])
    with pytest.warns(RuntimeWarning) as caught:
        train(m, RUN, TinyCNN(), images, num_epochs=3)
    assert [("BreaksAtTheFirstEpoch" in str(one.message), "disk is gone" in str(one.message)) for one in caught] == [
        (True, True)
    ]
    (folder,) = run_folders(tmp_path)
    assert journal_epochs(folder) == len(scalars_of(folder, "Loss")) == 3


@contextmanager
def files_end_at(num_bytes: int) -> Iterator[None]:
    """No file grows beyond this: the system refuses the write, as a quota does."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_an_event_file_that_cannot_grow_is_one_warning_and_no_row_is_lost(tmp_path: Path, images: Subset) -> None:
    m = new_manager(tmp_path)
    with pytest.warns(RuntimeWarning, match="TensorBoardWriter") as caught, files_end_at(30_000):
        train(m, RUN, TinyCNN(), images, num_epochs=3)
    assert sum(one.category is RuntimeWarning for one in caught) == 1
    (folder,) = run_folders(tmp_path)
    assert journal_epochs(folder) == 3
    assert '"status":"completed"' in (folder / "journal.jsonl").read_text()


def test_an_event_file_that_cannot_grow_is_closed(tmp_path: Path, images: Subset) -> None:
    m = new_manager(tmp_path)
    with pytest.warns(RuntimeWarning, match="TensorBoardWriter"), files_end_at(30_000):
        train(m, RUN, TinyCNN(), images)
    still_open = [os.readlink(path) for path in Path("/proc/self/fd").iterdir() if path.is_symlink()]
    assert not [path for path in still_open if path.startswith(f"{tmp_path}/") and "tfevents" in path]


def test_the_run_after_one_whose_events_could_not_be_written_has_its_own(tmp_path: Path, images: Subset) -> None:
    m = new_manager(tmp_path)
    with pytest.warns(RuntimeWarning, match="TensorBoardWriter"), files_end_at(30_000):
        train(m, RUN, TinyCNN(), images)
    train(m, RUN._replace(lr=0.1), TinyCNN(), images)
    assert len(scalars_of(run_folders(tmp_path)[1], "Loss")) == NUM_EPOCHS


class NoFirstSample(AsDict):
    """Its keys are not 0 to N - 1, so that looking for a sample fails; its own sampler knows them."""

    def __getitem__(self, index: int) -> Any:
        if index < 100:
            raise KeyError(index)
        return self.data[index]


def test_data_that_cannot_be_looked_at_costs_no_scalar(tmp_path: Path, images: Subset) -> None:
    loader = DataLoader(NoFirstSample(images), batch_size=50, sampler=range(100, 200))
    m = new_manager(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        train_with_dicts(m, RUN, nn.Sequential(nn.Flatten(), nn.Linear(784, 10)), loader)
    assert len(scalars_of(run_folders(tmp_path)[0], "Loss")) == 1


def test_a_metric_named_like_a_tag_does_not_take_its_place(tmp_path: Path) -> None:
    m = new_manager(tmp_path)
    m.begin_run(RUN)
    m.begin_epoch()
    m.track_loss(0.25, [0])
    try:
        m.log(Loss=8.0)
    except ValueError:
        pass  # to refuse it by name is as good
    m.end_epoch()
    m.end_run()
    assert scalars_of(run_folders(tmp_path)[0], "Loss") == [(1, 0.25)]


def test_an_open_run_is_in_tensorboard_at_once(tmp_path: Path) -> None:
    m = new_manager(tmp_path)
    m.begin_run(RUN)
    m.begin_epoch()
    m.track_loss(0.25, [0])
    m.end_epoch()
    assert scalars_of(run_folders(tmp_path)[0], "Loss") == [(1, 0.25)]
    m.end_run()


def test_loss_that_is_not_finite_is_shown_and_never_best(tmp_path: Path) -> None:
    m = new_manager(tmp_path)
    m.begin_run(RUN)
    for loss in [0.5, float("nan"), float("-inf"), 1e300]:
        m.begin_epoch()
        m.track_loss(loss, [0])
        m.end_epoch()
    m.end_run()
    (folder,) = run_folders(tmp_path)
    assert [str(value) for _, value in scalars_of(folder, "Loss")] == ["0.5", "nan", "-inf", "inf"]
    assert {value for _, value in scalars_of(folder, "best/loss")} == {0.5}


def test_what_no_value_is_the_best_of_is_shown_without_a_best(tmp_path: Path) -> None:
    m = new_manager(tmp_path)
    m.begin_run(RUN)
    m.begin_epoch()
    m.log(**{"learning rate": 0.5, "learning rate/head": 0.5, "gradient norm": 0.5, "skipped steps": 1, "gain": 0.5})
    m.end_epoch()
    m.end_run()
    (folder,) = run_folders(tmp_path)
    assert scalars_of(folder, "learning rate") == scalars_of(folder, "gradient norm") == [(1, 0.5)]
    assert [tag for tag in read_values(folder) if tag.startswith("best/")] == ["best/gain"]


# A run that goes on from a saved state


def one_epoch(m: RunManager, value: float) -> None:
    """An epoch of two steps, whose state is saved."""
    m.begin_epoch()
    for _ in range(2):
        m.log_step(grad=value)
    m.track_loss(value, [0])
    m.end_epoch(checkpoint={"epoch": m.num_epochs + 1})


def cut_off_and_resumed(root: Path, *, network: nn.Module | None = None) -> RunManager:
    """A run that was cut off after a step in epoch 3 and went on from the state of epoch 2; its second epoch 3 is done."""
    m = new_manager(root)
    m.begin_run(RUN, network)
    for value in (1.0, 0.5):
        one_epoch(m, value)
    m.begin_epoch()
    m.log_step(grad=99.0)
    m.close()
    m = new_manager(root)
    m.begin_run(RUN, network)
    assert m.load_checkpoint() == {"epoch": 2}
    one_epoch(m, 0.25)
    return m


EXPECTED = {
    "Loss": [(1, 1.0), (2, 0.5), (3, 0.25)],
    "best/loss": [(1, 1.0), (2, 0.5), (3, 0.25)],
    "step/grad": [(1, 1.0), (2, 1.0), (3, 0.5), (4, 0.5), (5, 0.25), (6, 0.25)],
}


def shown(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """The scalars that TensorBoard's own reader has of a run; it is the one behind `--load_fast=false`."""
    from tensorboard.backend.event_processing.plugin_event_accumulator import EventAccumulator
    from tensorboard.util.tensor_util import make_ndarray

    accumulator = EventAccumulator(str(folder), tensor_size_guidance={"scalars": 0})
    accumulator.Reload()
    return {
        tag: [(event.step, float(make_ndarray(event.tensor_proto))) for event in accumulator.Tensors(tag)]
        for tag in EXPECTED.keys() & accumulator.Tags()["tensors"]
    }


def test_a_run_that_goes_on_shows_each_epoch_and_each_step_once(tmp_path: Path) -> None:
    m = cut_off_and_resumed(tmp_path)
    (folder,) = run_folders(tmp_path)
    assert list(folder.glob("*.end")) == []  # it is running
    assert shown(folder) == EXPECTED
    m.end_run()
    assert shown(folder) == EXPECTED
    assert len(list(folder.glob("*.end"))) == 1
    assert [path for path in folder.iterdir() if path.name.startswith("earlier")] == []


def test_a_run_that_went_on_many_times_shows_each_step_once(tmp_path: Path) -> None:
    for attempt in range(4):
        m = new_manager(tmp_path)
        m.begin_run(RUN)
        m.load_checkpoint()
        one_epoch(m, float(attempt))
        m.begin_epoch()
        m.log_step(grad=99.0)
        m.close()
    scalars = shown(run_folders(tmp_path)[0])
    assert scalars["Loss"] == [(1, 0.0), (2, 1.0), (3, 2.0), (4, 3.0)]
    assert scalars["step/grad"][:-1] == [(1, 0), (2, 0), (3, 1), (4, 1), (5, 2), (6, 2), (7, 3), (8, 3)]


@pytest.mark.parametrize("change", [-7200, 0], ids=["clock set back", "within one second"])
def test_a_run_that_goes_on_shows_each_step_once_whatever_the_clock_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: int
) -> None:
    """TensorBoard reads a run's files by their names, which begin with the time."""
    now = 1_700_000_000.0
    pid = 999
    monkeypatch.setattr("runmanager.tracking.run_dir.time", SimpleNamespace(time=lambda: now))
    fake = SimpleNamespace(**{name: getattr(os, name) for name in dir(os) if not name.startswith("_")})
    fake.getpid = lambda: pid
    monkeypatch.setattr("runmanager.tracking.run_dir.os", fake)
    m = new_manager(tmp_path)
    m.begin_run(RUN)
    for value in (1.0, 0.5, 7.0):
        one_epoch(m, value)
    (folder,) = run_folders(tmp_path)
    m.close()
    (folder / "checkpoints" / "epoch-0003.pt").unlink()
    now, pid = now + change, 1000
    m = new_manager(tmp_path)
    m.begin_run(RUN)
    with pytest.warns(RuntimeWarning, match="goes on from epoch 2"):
        m.load_checkpoint()
    one_epoch(m, 0.25)
    assert shown(folder) == EXPECTED


@pytest.mark.parametrize("load_fast", [True, False], ids=["load_fast", "load_slow"])
def test_a_tensorboard_that_was_open_all_the_while_shows_each_step_once(tmp_path: Path, load_fast: bool) -> None:
    m = new_manager(tmp_path)
    m.begin_run(RUN)
    for value in (1.0, 0.5):
        one_epoch(m, value)
    m.begin_epoch()
    m.log_step(grad=99.0)
    (folder,) = run_folders(tmp_path)
    with TensorBoard(tmp_path / "runs" / "sweep", load_fast=load_fast) as board:
        until(lambda: folder.name in board.runs() and len(board.scalars(folder.name, "step/grad")) == 5)
        m.close()
        m = new_manager(tmp_path)
        m.begin_run(RUN)
        m.load_checkpoint()
        one_epoch(m, 0.25)
        m.end_run()
        until(lambda: len(board.scalars(folder.name, "Loss")) >= 3)
        until(lambda: len(board.scalars(folder.name, "step/grad")) >= 6)
        assert {tag: board.scalars(folder.name, tag) for tag in EXPECTED} == EXPECTED
    with TensorBoard(tmp_path / "runs" / "sweep", load_fast=load_fast) as board:  # and one that is opened later
        board.wait_for_ends(1)
        assert {tag: board.scalars(folder.name, tag) for tag in EXPECTED} == EXPECTED
        assert board.sessions()[folder.name]["status"] == "STATUS_SUCCESS"


def test_a_run_that_goes_on_keeps_its_images_graph_and_histograms_once(tmp_path: Path, images: Subset) -> None:
    network = TinyCNN()
    loader = DataLoader(images, batch_size=50)
    for _ in range(2):
        m = new_manager(tmp_path)
        m.begin_run(RUN, network, loader)
        m.load_checkpoint()
        m.begin_epoch()
        train_epoch(m, network, loader, torch.optim.SGD(network.parameters(), lr=0.01))
        m.end_epoch(checkpoint=network.state_dict())
        m.close()
    (folder,) = run_folders(tmp_path)
    values = read_values(folder)
    assert len(values["images"]) == 1
    assert sum(event.HasField("graph_def") for event in read_events(folder)) == 1
    assert [step for step, _ in values["out.weight"]] == [1, 2]


def test_an_attempt_that_recorded_nothing_leaves_the_events_of_the_one_before(tmp_path: Path) -> None:
    m = new_manager(tmp_path)
    m.begin_run(RUN)
    one_epoch(m, 1.0)
    m.close()
    m = new_manager(tmp_path)
    m.begin_run(RUN)
    m.abandon(ValueError("no data"))
    (folder,) = run_folders(tmp_path)
    assert shown(folder)["Loss"] == [(1, 1.0)]
    assert len(list(folder.glob("*.end"))) == 1


def test_an_attempt_that_starts_from_nothing_shows_nothing_of_the_one_before(tmp_path: Path, images: Subset) -> None:
    network = TinyCNN()
    for value in (1.0, 2.0):
        m = new_manager(tmp_path)
        m.begin_run(RUN, network, DataLoader(images, batch_size=50))
        one_epoch(m, value)
        m.close()
    (folder,) = run_folders(tmp_path)
    assert shown(folder)["Loss"] == [(1, 2.0)]
    assert len(read_values(folder)["images"]) == 1
    assert [path for path in folder.iterdir() if path.name.startswith("earlier-attempt")]


@pytest.mark.parametrize(("loss", "stop"), [(float("nan"), None), (1.0, "val_loss has not been below 1")])
def test_a_run_that_diverged_or_was_stopped_ended_well(loss: float, stop: str | None, tmp_path: Path) -> None:
    from tensorboard.plugins.hparams import metadata
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

    m = new_manager(tmp_path)
    with suppress(RunStopped), m.tracking(RUN):
        m.begin_epoch()
        m.track_loss(loss, [0])
        m.end_epoch(stop=stop)
    ((_, value),) = read_values(run_folders(tmp_path)[0])[metadata.SESSION_END_INFO_TAG]
    about = HParamsPluginData.FromString(value.metadata.plugin_data.content)
    assert about.session_end_info.status == 1  # STATUS_SUCCESS


def test_the_records_for_the_hparams_tab_are_those_of_tensorboards_own_module() -> None:
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.plugins.hparams import api_pb2, metadata
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData, SessionEndInfo

    from runmanager.tracking import tensorboard as ours

    content = HParamsPluginData(session_end_info=SessionEndInfo(status=api_pb2.STATUS_SUCCESS, end_time_secs=1.5))
    (value,) = Event.FromString(ours._hparams_event(metadata.SESSION_END_INFO_TAG, content)).summary.value
    assert value.metadata == metadata.create_summary_metadata(content)
    assert value.tensor == metadata.NULL_TENSOR
    assert (ours._SESSION_START, ours._SESSION_END) == (metadata.SESSION_START_INFO_TAG, metadata.SESSION_END_INFO_TAG)
    assert content.version == metadata.PLUGIN_DATA_VERSION
