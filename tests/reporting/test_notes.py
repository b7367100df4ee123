"""What was said of runs stands below the results, each note once."""

import io
from pathlib import Path

from rich.console import Console

from runmanager import RunBuilder, RunManager
from runmanager.reporting.notes import note_lines, print_notes
from runmanager.tracking.history import SweepHistory, read_sweep
from runmanager.tracking.run_dir import SweepDir


def history(root: Path, *notes: list[str], attempts: int = 1) -> SweepHistory:
    """A sweep whose runs have these notes."""
    for _ in range(attempts):
        manager = RunManager("toy", root=root, tensorboard=False, quiet=True)
        for run, texts in zip(RunBuilder.get_runs({"k": list(range(len(notes)))}), notes, strict=True):
            manager.begin_run(run)
            for text in texts:
                manager.note(text)
            manager.begin_epoch()
            manager.log(val_loss=1.0)
            manager.end_epoch()
            manager.end_run()
        manager.close()
    return read_sweep(SweepDir(root, "toy"))


def printed(history: SweepHistory, *, width: int | None = None) -> list[str]:
    stream = io.StringIO()
    print_notes(history.runs, Console(file=stream, force_terminal=width is not None, no_color=True, width=width))
    return stream.getvalue().splitlines()


def test_a_note_that_all_runs_have_is_one_line_and_others_name_their_runs(tmp_path: Path) -> None:
    runs = history(tmp_path, ["new head", "first"], ["new head", "odd"], ["new head", "first"]).runs
    assert note_lines(runs) == ["all runs: new head", "runs 1, 3: first", "run 2: odd"]


def test_a_run_that_was_begun_anew_has_the_notes_of_its_last_attempt_alone(tmp_path: Path) -> None:
    found = history(tmp_path, ["a head"], attempts=2).runs[0]
    assert found.attempts == 2
    assert found.notes == ["a head"]


def test_a_pipe_gets_whole_lines_and_a_terminal_as_much_as_it_has_room_for(tmp_path: Path) -> None:
    sweep = history(tmp_path, ["x" * 300])
    assert printed(sweep) == ["run 1: " + "x" * 300]
    (line,) = printed(sweep, width=40)
    assert "…" in line
    assert "x" * 40 not in line


def test_many_notes_are_cut_and_nothing_is_interpreted(tmp_path: Path) -> None:
    lines = printed(history(tmp_path, [f"[bold]{number}" for number in range(13)]))
    assert lines[0] == "run 1: [bold]0"
    assert lines[10:] == ["and 3 other notes; --json has them all"]


def test_a_sweep_without_notes_has_no_line_for_them(tmp_path: Path) -> None:
    assert printed(history(tmp_path, [])) == []
