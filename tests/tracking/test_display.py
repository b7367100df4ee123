"""What is shown while runs are trained: real notebooks, real terminals, real pipes."""

import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

LOOP = """
from runmanager import RunBuilder, RunManager
m = RunManager("shown", tensorboard=False{options})
for run in RunBuilder.get_runs({{"lr": [0.1, 0.2]}}):
    m.begin_run(run)
    for epoch in range(2):
        m.begin_epoch()
        print("my own print", run.lr, epoch)
        m.log(score=epoch + run.lr)
        m.end_epoch()
    m.end_run()
"""


def script(folder: Path, options: str = "") -> list[str]:
    (folder / "runs").mkdir(exist_ok=True)
    file = folder / "loop.py"
    file.write_text(LOOP.format(options=options))
    return [sys.executable, str(file)]


def in_terminal(command: list[str], folder: Path) -> str:
    """What a command writes to a terminal of 120 columns."""
    leader, follower = pty.openpty()
    environment = {**os.environ, "COLUMNS": "120", "LINES": "40", "TERM": "xterm-256color"}
    process = subprocess.Popen(command, cwd=folder, stdout=follower, stderr=follower, stdin=follower, env=environment)
    os.close(follower)
    written = b""
    try:
        while chunk := os.read(leader, 65536):
            written += chunk
    except OSError:  # the other end is closed
        pass
    os.close(leader)
    assert process.wait(60) == 0, written.decode()
    return written.decode()


def test_a_pipe_gets_plain_lines(tmp_path: Path) -> None:
    result = subprocess.run(script(tmp_path), cwd=tmp_path, capture_output=True, text=True, check=True)
    lines = result.stdout.splitlines()
    assert lines[0] == "run 1: lr=0.1"
    assert "  epoch 2  score 1.1" in result.stdout
    assert sum(line.startswith("run 2 completed in") for line in lines) == 1
    assert sum(line.startswith("my own print") for line in lines) == 4
    assert "\x1b" not in result.stdout and result.stderr == ""


def test_quiet_is_silent(tmp_path: Path) -> None:
    result = subprocess.run(script(tmp_path, ", quiet=True"), cwd=tmp_path, capture_output=True, text=True, check=True)
    assert set(result.stdout.splitlines()) == {f"my own print {lr} {epoch}" for lr in (0.1, 0.2) for epoch in (0, 1)}
    assert result.stderr == ""


def test_a_terminal_gets_a_live_table_and_keeps_the_users_prints(tmp_path: Path) -> None:
    written = in_terminal(script(tmp_path), tmp_path)
    assert "score" in written and "status" in written  # the table's header
    assert all(f"my own print {lr} {epoch}" in written for lr in (0.1, 0.2) for epoch in (0, 1))
    assert "run 2 completed in" in written
    assert written.count("\x1b[?25l") == written.count("\x1b[?25h")  # the cursor is given back


SWEEP = """
from runmanager import Sweep, launch

def train(run, m):
    for epoch in range(2):
        m.begin_epoch()
        m.log(val_loss=run.x / (epoch + 1))
        m.end_epoch()
    print("trained", run.x)

launch(Sweep({"x": [3.0, 2.0, 1.0]}, train=train, objective="val_loss", name="live"), tensorboard=False)
"""


def test_a_sweep_in_a_terminal_shows_progress_and_the_best_so_far(tmp_path: Path) -> None:
    (tmp_path / "sweep.py").write_text(SWEEP)
    written = in_terminal([sys.executable, "sweep.py"], tmp_path)
    assert "3/3 runs" in written and "best val_loss 0.5 (run 3)" in written
    assert all(f"trained {x}" in written for x in (3.0, 2.0, 1.0))


TRAINED = """
import torch
from runmanager import Sweep, Trainer, launch

torch.set_num_threads(1)
data = (torch.rand(60, 4, generator=torch.Generator().manual_seed(0)), torch.arange(60) % 3)
trainer = Trainer(
    network=lambda: torch.nn.Sequential(torch.nn.Dropout(0.5), torch.nn.Linear(4, 3)),
    data=data,
    optimizer=lambda run, network: torch.optim.SGD(network.parameters(), lr=run.lr),
    loss=torch.nn.CrossEntropyLoss(),
    epochs=3,
    batch_size=8,
)
launch(Sweep({{"lr": [0.1, 0.01]}}, trainer=trainer, name="{name}"), tensorboard={logged}, quiet={quiet})
"""


def test_losses_are_bit_equal_with_the_live_table_and_tensorboard_and_without(tmp_path: Path) -> None:
    from runmanager.tracking.history import read_sweep
    from runmanager.tracking.run_dir import find_sweep

    (tmp_path / "shown.py").write_text(TRAINED.format(name="shown", logged=True, quiet=False))
    (tmp_path / "silent.py").write_text(TRAINED.format(name="silent", logged=False, quiet=True))
    assert "2/2 runs" in in_terminal([sys.executable, "shown.py"], tmp_path)
    subprocess.run([sys.executable, "silent.py"], cwd=tmp_path, check=True)
    shown, silent = (
        [
            (row.loss, row.accuracy, row.metrics)
            for run in read_sweep(find_sweep(name, tmp_path)).runs
            for row in run.rows
        ]
        for name in ("shown", "silent")
    )
    assert len(shown) == 6 and shown == silent


def test_a_loop_that_raises_gives_the_terminal_back(tmp_path: Path) -> None:
    command = script(tmp_path)
    (tmp_path / "loop.py").write_text((tmp_path / "loop.py").read_text().replace("m.end_run()", "raise SystemExit(0)"))
    written = in_terminal(command, tmp_path)
    assert written.count("\x1b[?25l") == written.count("\x1b[?25h") > 0


@pytest.mark.slow
def test_a_notebook_updates_its_table_in_place_and_leaves_the_users_prints(tmp_path: Path) -> None:
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    (tmp_path / "runs").mkdir()
    loop = LOOP.format(options="")
    failing = "\n".join(
        [
            "m.begin_run(RunBuilder.get_runs({'lr': [0.3]})[0])",
            "m.begin_epoch()",
            "raise ValueError('a bad cell')",
        ]
    )
    after = "m.begin_run(RunBuilder.get_runs({'lr': [0.4]})[0])\nm.begin_epoch()\nm.log(score=9.0)\nm.end_epoch()\nm.end_run()"
    cells = [nbformat.v4.new_code_cell(code) for code in (loop, failing, after)]
    cells[1].metadata["tags"] = ["raises-exception"]
    notebook = nbformat.v4.new_notebook(cells=cells)
    nbclient.NotebookClient(notebook, timeout=120, resources={"metadata": {"path": str(tmp_path)}}).execute()

    first, _, last = (cell.outputs for cell in notebook.cells)
    printed = "".join(output.text for output in first if output.output_type == "stream")
    assert printed.splitlines() == [f"my own print {lr} {epoch}" for lr in (0.1, 0.2) for epoch in (0, 1)]
    (table,) = [output.data["text/html"] for output in first if output.output_type == "display_data"]
    assert table.count("completed") == 2 and "<td>1.2</td>" in table
    assert any("<td>9</td>" in output.data["text/html"] for output in last if output.output_type == "display_data")

    from runmanager.tracking.history import read_sweep
    from runmanager.tracking.run_dir import find_sweep

    runs = read_sweep(find_sweep("shown", tmp_path)).runs
    assert [run.status for run in runs] == ["completed", "completed", "failed", "completed"]
    assert runs[2].error == "ValueError: a bad cell"
    assert runs[2].traceback is not None and "a bad cell" in runs[2].traceback


def test_ipython_is_not_imported_for_the_live_table(tmp_path: Path) -> None:
    command = script(tmp_path)
    (tmp_path / "loop.py").write_text(
        (tmp_path / "loop.py").read_text() + "\nimport sys; assert 'IPython' not in sys.modules\n"
    )
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
