"""Sweeps of four small runs that are trained in groups, one of which may be told to do something odd in its second epoch."""

import json

ODD = """\
import os
import signal
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]


def is_under_way(name, run):
    # has the run recorded an epoch, and not ended since?
    for journal in ROOT.glob(f"runs/{name}/*lr={run.lr}*/journal.jsonl"):
        lines = journal.read_text().splitlines()
        return '"kind":"end"' not in lines[-1] and any('"epoch_seconds"' in line for line in lines)
    return False


def is_odd(run):
    return run.lr in ODD_RATES and not (ROOT / "mended").exists() and is_under_way("NAME", run)


class Odd(nn.CrossEntropyLoss):
    def __init__(self, run):
        super().__init__()
        self.run = run

    def forward(self, preds, targets):
        if torch.is_grad_enabled() is IN_TRAINING and is_odd(self.run):
            DOES
        return super().forward(preds, targets)
"""
FOUR = "lr=[0.1, 0.2, 0.3, 0.4]"
NETWORK = "lambda: nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Dropout(0.2), nn.Linear(8, 2))"
RATES = "(0.2,)"


def write(project, does="pass", *, name="tiny", rates=RATES, in_training=True, more="", **parts):
    """Writes a sweep of four runs of 3 epochs; from its second epoch on, that with rate 0.2 does what `does` says."""
    before = ODD.replace("DOES", does).replace("ODD_RATES", rates).replace("IN_TRAINING", str(in_training))
    given = {"params": FOUR, "batch_size": "10", "epochs": "3", "network": NETWORK, "loss": "lambda run: Odd(run)"}
    return project.sweep(name=name, before=before.replace("NAME", name) + more, **{**given, **parts})


_whole = {}


def whole(project, **parts):
    """What is measured of each run of the sweep that nothing befalls; all tests share what the first of them trains."""
    if str(parts) not in _whole:
        write(project, name="whole", **parts)
        project.launch("whole", fuse=4)
        _whole[str(parts)] = measured(project, "whole")
    return _whole[str(parts)]


def measured(project, name="tiny"):
    """All that an epoch measures, by the runs' numbers."""
    runs = project.history(name).runs
    return {run.number: [(row.loss, row.accuracy, row.metrics) for row in run.rows] for run in runs}


def mend(project):
    """Nothing is odd any more."""
    (project.root / "mended").touch()


def sizes(project, name="tiny"):
    """The group sizes of each run's epochs, by number."""
    return {run.number: [row.group_size for row in run.rows] for run in project.history(name).runs}


def attempts(project, name="tiny"):
    """How often each run was begun."""
    return [run.attempts for run in project.history(name).runs]


def ends(project, number, name="tiny"):
    """Status and reason of each end that a run's journal has."""
    text = (project.folders(name)[number - 1] / "journal.jsonl").read_text()
    records = [json.loads(line) for line in text.splitlines()]
    return [(record["status"], record.get("error")) for record in records if record["kind"] == "end"]


def all_completed(project, name="tiny"):
    """Whether all runs are complete, and have each epoch once."""
    history = project.history(name)
    return all(
        run.status == "completed" and [row.epoch for row in run.rows] == list(range(1, len(run.rows) + 1))
        for run in history.runs
    )
