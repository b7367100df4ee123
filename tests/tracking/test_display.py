"""What is shown while runs are trained: real notebooks, real terminals, real pipes."""

import os
import pty
import subprocess
import sys
import time
import tracemalloc
from pathlib import Path

import pytest

from runmanager.tracking.display import NotebookDisplay, PlainDisplay, TerminalDisplay, table_of
from runmanager.tracking.progress import MAX_SHOWN, Progress
from runmanager.tracking.rows import EpochRow, RunEnd
from runmanager.tracking.run_dir import RunDir
from runmanager.tracking.writers import Member

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


def in_terminal(command: list[str], folder: Path, status: int = 0) -> str:
    """What a command writes to a terminal of 120 columns; it has to end with this exit status."""
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
    assert process.wait(60) == status, written.decode()
    return written.decode()


def test_a_pipe_gets_plain_lines(tmp_path: Path) -> None:
    result = subprocess.run(script(tmp_path), cwd=tmp_path, capture_output=True, text=True, check=True)
    lines = result.stdout.splitlines()
    assert lines[0] == "run 1: lr=0.1"
    assert any(line.startswith("run 1  epoch 2  score 1.1  ") for line in lines)
    assert any(line.startswith("run 2  epoch 1  score 0.2  ") for line in lines)
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
for name, is_shown in (("silent", False), ("shown", True)):
    launch(Sweep({"lr": [0.1, 0.01]}, trainer=trainer, name=name), tensorboard=is_shown, quiet=not is_shown)
"""


def test_losses_are_bit_equal_with_the_live_table_and_tensorboard_and_without(tmp_path: Path) -> None:
    from runmanager.tracking.history import read_sweep
    from runmanager.tracking.run_dir import find_sweep

    (tmp_path / "both.py").write_text(TRAINED)
    assert "2/2 runs" in in_terminal([sys.executable, "both.py"], tmp_path)
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


def member(number: int, attempt: int = 1) -> Member:
    return Member(number, {"lr": number / 10}, RunDir(Path("nowhere"), number), attempt)


def row(run: int, epoch: int, seconds: float = 1.0, **metrics: float) -> EpochRow:
    return EpochRow(run, epoch, None, None, seconds, epoch * seconds, metrics)


def shown_numbers(progress: Progress, height: int | None = None) -> list[int]:
    return [int(cells[0]) for cells in table_of(progress, height=height)[1]]


def test_a_run_that_goes_on_says_so_and_from_where(capsys: pytest.CaptureFixture[str]) -> None:
    display = PlainDisplay(Progress(2, 3, "val_loss"))
    one = member(3, attempt=2)
    display.begin(one)
    one.add(row(3, 1, val_loss=0.5), {})
    one.add(row(3, 2, val_loss=0.4), {})
    display.resume(one)
    display.epoch(one, row(3, 3, val_loss=0.3))
    display.end(one, RunEnd("completed", 3.0))
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "run 3: lr=0.3 (attempt 2)"
    assert lines[1] == "run 3: lr=0.3 (goes on after epoch 2)"
    assert lines[2] == "run 3  epoch 3/3  val_loss 0.3  1.00 s"
    assert lines[3].startswith("run 3 completed in 3.00 s · 1/2 runs · best val_loss 0.3 (run 3)")


@pytest.mark.parametrize(
    ("status", "said"),
    [
        ("failed", "run 1 failed after 2.00 s (lr=0.1): ·[31mno good"),
        ("out of memory", "run 1 ran out of memory after 2.00 s (lr=0.1): ·[31mno good"),
        ("killed", "run 1 was killed after 2.00 s (lr=0.1): ·[31mno good"),
        ("interrupted", "run 1 was interrupted after 2.00 s (lr=0.1): ·[31mno good"),
        ("timed out", "run 1 timed out after 2.00 s (lr=0.1): ·[31mno good"),
        ("diverged", "run 1 diverged after 2.00 s (lr=0.1): ·[31mno good"),
        ("stopped", "run 1 stopped after 2.00 s (lr=0.1): ·[31mno good"),
    ],
)
def test_a_run_that_did_not_complete_is_shown_when_it_ends(
    status: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    display = PlainDisplay(Progress(2))
    display.begin(member(1))
    display.end(member(1), RunEnd(status, 2.0, "\x1b[31mno good"))
    assert capsys.readouterr().out.splitlines()[1].startswith(f"{said} · ")


def test_a_run_that_is_tried_again_appears_again_and_counts_once(capsys: pytest.CaptureFixture[str]) -> None:
    progress = Progress(2)
    display = PlainDisplay(progress)
    for attempt, status in enumerate(["failed", "failed", "completed"], start=1):
        display.begin(member(1, attempt))
        display.end(member(1, attempt), RunEnd(status, 2.0, "why"))
    lines = capsys.readouterr().out.splitlines()
    assert lines[::2] == ["run 1: lr=0.1", "run 1: lr=0.1 (attempt 2)", "run 1: lr=0.1 (attempt 3)"]
    assert all("1/2 runs" in line for line in lines[1::2])
    assert shown_numbers(progress) == [1]


def test_a_run_that_was_interrupted_does_not_count_as_done() -> None:
    progress = Progress(2)
    progress.begin(member(1))
    progress.end(member(1), RunEnd("interrupted", 2.0))
    assert progress.summary().startswith("0/2 runs")


def test_running_runs_never_scroll_out_in_favour_of_finished_ones() -> None:
    progress = Progress(100)
    for number in (1, 2):
        progress.begin(member(number))
    for number in range(3, 50):
        progress.begin(member(number))
        progress.end(member(number), RunEnd("completed", 0.1))
    assert shown_numbers(progress) == [1, 2, *range(40, 50)]
    assert len(shown_numbers(progress)) == MAX_SHOWN
    progress.epoch(row(1, 1, val_loss=0.5))
    assert table_of(progress)[1][0][:3] == ["1", "running", "1"]


def test_all_that_run_at_once_are_shown_as_far_as_there_is_room() -> None:
    progress = Progress(100)
    for number in range(1, 31):
        progress.begin(member(number))
    assert shown_numbers(progress) == list(range(1, 31))
    progress.end(member(30), RunEnd("completed", 0.1))
    assert shown_numbers(progress, height=5) == [25, 26, 27, 28, 29]


def test_the_time_left_counts_what_the_running_runs_have_done() -> None:
    progress = Progress(4, num_epochs=10)
    progress._began = time.monotonic() - 10
    for number in (1, 2):
        progress.begin(member(number))
        progress.epoch(row(number, 5, seconds=2.0))
    assert progress.seconds_left() == pytest.approx(30, rel=0.05)  # one run's worth in 10 s, three are left


def test_what_an_earlier_launch_has_done_of_a_run_does_not_count_as_quick_work() -> None:
    progress = Progress(2, num_epochs=10)
    one = member(1, attempt=2)
    progress.begin(one)
    for epoch in range(1, 9):
        one.add(row(1, epoch, seconds=10.0), {})
    progress.resume(one)
    progress._began = time.monotonic() - 10
    progress.epoch(row(1, 9, seconds=10.0))
    assert progress.seconds_left() == pytest.approx(110, rel=0.05)  # 1 and 10 epochs of 10 s, not 2 s each


def test_the_time_left_is_never_less_than_that_of_the_longest_run() -> None:
    progress = Progress(21, num_epochs=10)
    progress._began = time.monotonic() - 10
    for number in range(1, 21):
        progress.begin(member(number))
        progress.end(member(number), RunEnd("completed", 0.5))
    progress.begin(member(21))
    progress.epoch(row(21, 1, seconds=10.0))
    assert progress.seconds_left() == pytest.approx(90, rel=0.05)


def test_without_epochs_a_running_run_is_expected_to_take_as_long_as_others_did() -> None:
    progress = Progress(2)
    progress.begin(member(1))
    progress.end(member(1), RunEnd("completed", 100.0))
    progress._began = time.monotonic() - 125
    progress.begin(member(2)).seen -= 25
    assert progress.seconds_left() == pytest.approx(75, rel=0.05)


def test_the_time_left_is_unknown_before_anything_was_done() -> None:
    progress = Progress(2, num_epochs=10)
    progress.begin(member(1))
    assert progress.seconds_left() is None and progress.summary() == "0/2 runs"


def test_what_is_kept_does_not_grow_with_the_number_of_runs(capsys: pytest.CaptureFixture[str]) -> None:
    display = PlainDisplay(Progress(10_000, 1, "val_loss"))

    def train(number: int) -> None:
        one = member(number)
        display.begin(one)
        display.epoch(one, row(number, 1, val_loss=1 / number))
        display.end(one, RunEnd("completed" if number % 10 else "failed", 1.0, "why"))

    for number in range(100):
        train(number + 1)
    capsys.readouterr()
    tracemalloc.start()
    try:
        for number in range(100, 2_000):
            train(number + 1)
            if number % 100 == 0:
                capsys.readouterr()
        capsys.readouterr()
        grown = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert grown < 60_000


SHARED = """
import sys, time
from pathlib import Path
from runmanager import Sweep

def train(run, m):
    Path(f"{__file__}.{run.x}").touch()
    while len(list(Path(__file__).parent.glob("shared.py.*"))) < 2:  # both workers have begun one
        time.sleep(0.01)
    for epoch in range(2):
        m.begin_epoch()
        time.sleep(0.3)
        m.log(val_loss=run.x / (epoch + 1))
        m.end_epoch()
    if run.x == 2:
        raise ValueError("no good")

sweep = Sweep({"x": [1, 2, 3, 4]}, train=train, objective="val_loss")
"""


def test_the_live_table_has_the_runs_of_all_workers_and_their_failures(tmp_path: Path) -> None:
    (tmp_path / "sweeps").mkdir()
    (tmp_path / "sweeps" / "shared.py").write_text(SHARED)
    command = [sys.executable, "-m", "runmanager", "launch", "shared", "--workers", "2", "--no-tensorboard"]
    written = in_terminal(command, tmp_path, status=1)
    frames = written.split("status")
    assert any(frame.count(" running ") == 2 for frame in frames)
    assert "4/4 runs" in written and "run 2 failed after" in written and "(x=2): ValueError: no good" in written
    assert written.count("\x1b[?25l") == written.count("\x1b[?25h") > 0


def test_in_a_pipe_every_line_names_its_run(tmp_path: Path) -> None:
    (tmp_path / "sweeps").mkdir()
    (tmp_path / "sweeps" / "shared.py").write_text(SHARED)
    command = [sys.executable, "-m", "runmanager", "launch", "shared", "--workers", "2", "--no-tensorboard"]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    lines = result.stdout.partition("shared: 4 runs, best")[0].splitlines()[1:]
    assert len(lines) == 4 * 4
    for number in (1, 2, 3, 4):
        own = [line for line in lines if line.startswith((f"run {number}:", f"run {number} "))]
        assert [line.split("  ")[1] for line in own if "  epoch " in line] == ["epoch 1", "epoch 2"]
        assert own[0] == f"run {number}: x={number}"


def test_values_of_single_classes_are_what_a_line_has_no_room_for(capsys: pytest.CaptureFixture[str]) -> None:
    display = PlainDisplay(Progress(1, 3, "val_accuracy"))
    one = member(1)
    display.begin(one)
    many = {f"val_accuracy/{name}": 0.5 for name in "abcdefghij"}
    display.epoch(one, row(1, 1, val_loss=0.5, val_accuracy=0.4, **many, **{"gradient norm": 2.0}))
    display.epoch(one, row(1, 2, val_loss=0.5, val_accuracy=0.4, **{"val_accuracy/a": 0.5, "val_accuracy/b": 0.25}))
    lines = capsys.readouterr().out.splitlines()
    few = "  ".join(f"val_accuracy/{name} 0.5" for name in "abcde")
    assert lines[1].startswith(f"run 1  epoch 1/3  val_loss 0.5  val_accuracy 0.4  {few}  gradient norm 2  ")
    assert lines[1].endswith("  (5 more of val_accuracy/*)  1.00 s")
    assert "val_accuracy/a 0.5  val_accuracy/b 0.25" in lines[2] and "more of" not in lines[2]


@pytest.mark.parametrize("kind", [TerminalDisplay, NotebookDisplay])
def test_the_live_duration_of_a_first_epoch_leaves_out_what_its_row_does(
    kind: type[TerminalDisplay] | type[NotebookDisplay],
) -> None:
    progress = Progress(1, 3)
    run = progress.begin(member(1))
    run.seen -= 25  # the network was built
    kind(progress).watch(member(1))
    assert run.seconds_now() < 10
    progress.epoch(row(1, 1, 2.0))
    run.seen -= 25
    kind(progress).watch(member(1))  # another network
    assert 27 <= run.seconds_now() < 37


def test_the_objective_has_room_on_a_line_even_where_it_is_of_a_single_class(
    capsys: pytest.CaptureFixture[str],
) -> None:
    display = PlainDisplay(Progress(1, 3, "val_recall/j"))
    display.begin(member(1))
    many = {f"val_{kind}/{name}": 0.5 for kind in ("accuracy", "recall") for name in "abcdefghij"}
    display.epoch(member(1), row(1, 1, **many, **{f"m{number}": 1.0 for number in range(9)}))
    line = capsys.readouterr().out.splitlines()[1]
    assert (
        line.count("/*") == 2
        and "val_recall/j 0.5  m0 1" in line
        and "m8 1  (19 more of val_accuracy/*, val_recall/*)" in line
    )


def test_a_narrow_table_keeps_the_loss_rather_than_those_of_single_classes() -> None:
    progress = Progress(1, 3, "val_accuracy")
    progress.begin(member(1))
    many = {f"val_accuracy/{name}": 0.5 for name in "abcdefghij"}
    progress.epoch(row(1, 1, val_loss=0.5, val_accuracy=0.4, **many))
    header, _ = table_of(progress, width=90)
    assert header[3:6] == ["val_loss", "val_accuracy", "val_accuracy/a"]
    assert "val_accuracy/j" not in header
