"""What metrics leave beside the tables, in every way: a confusion matrix for each epoch, and what was counted as 0."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import sklearn.metrics as sk
import torch.nn.functional as F

from runmanager import launch
from runmanager.tracking.history import read_sweep
from runmanager.tracking.run_dir import SweepDir
from tests.conformance.recipes.cases import NUM_CLASSES, NUM_EPOCHS, Plain, sweep_of
from tests.conformance.recipes.metrics import CASES, COLOURS, measured
from tests.conformance.test_every_recipe import launch_and_be_killed, launch_here, made, runs_of

pytestmark = pytest.mark.usefixtures("one_thread")
NAME = "metrics of named classes"
CASE = CASES[NAME]


def here(project: Path) -> None:
    launch_here(project, NAME)


def together(project: Path) -> None:
    launch_here(project, NAME, fuse=2)


def in_processes(project: Path) -> None:
    launch(project / "sweeps" / "recipe.py", workers=2, quiet=True, tensorboard=False, fuse="off")


def killed_and_resumed(project: Path) -> None:
    for number in (1, 2):
        launch_and_be_killed(project, NAME, number)
    launch_here(project, NAME)


def by_hand(project: Path) -> list[list[tuple[list[list[int]], list[str]]]]:
    """Of each run and epoch of the plain loop: scikit-learn's matrix, and the classes that were never predicted."""
    found = []
    for run in sweep_of(CASE, project).runs():
        epochs: list[tuple[list[list[int]], list[str]]] = []

        def note(scores, true, epochs=epochs):
            matrix = sk.confusion_matrix(true, scores.argmax(1), labels=range(NUM_CLASSES))
            epochs.append((matrix.tolist(), [COLOURS[index] for index in (matrix.sum(0) == 0).nonzero()[0]]))
            return {}

        measured(Plain.begin(run), F.cross_entropy, note)
        found.append(epochs)
    return found


@pytest.mark.parametrize(
    "way",
    [here, together, pytest.param(in_processes, marks=pytest.mark.long), killed_and_resumed],
    ids=lambda way: way.__name__,
)
def test_each_epoch_has_its_matrix_and_what_was_never_predicted_is_said_once(
    way: Callable[[Path], None], tmp_path: Path
) -> None:
    project = made(tmp_path, NAME)
    way(project)
    expected, histories = by_hand(project), read_sweep(SweepDir(project, "recipe")).runs
    for run_dir, history, epochs in zip(runs_of(project), histories, expected, strict=True):
        files = sorted((run_dir.path / "confusion").iterdir())
        assert [file.name for file in files] == [f"epoch-{epoch:04d}.json" for epoch in range(1, NUM_EPOCHS + 1)]
        records = [json.loads(file.read_text()) for file in files]
        assert [record["counts"] for record in records] == [matrix for matrix, _ in epochs]
        assert {(record["epoch"], *record["classes"]) for record in records} == {
            (epoch, *COLOURS) for epoch in range(1, NUM_EPOCHS + 1)
        }
        never = dict.fromkeys(", ".join(map(repr, names)) for _, names in epochs if names)
        assert history.notes == [f"precision of {names}: never predicted, counted as 0" for names in never]
    assert any(names for epochs in expected for _, names in epochs)
