"""The command line: what it does, and what it says to a mistake."""

import json
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from runmanager import load_results


def is_clean(said, status=2):
    """One message on stderr, no traceback, and this exit status."""
    return said.status == status and "Traceback" not in said.err + said.out and said.err.strip() != ""


def test_launch_prints_the_results_and_where_to_go_on(project, command):
    project.sweep()
    said = command("launch", "tiny", "--no-tensorboard")
    assert (said.status, said.err) == (0, "")
    assert "tiny: 4 runs: 4 to train" in said.out
    assert "best val_accuracy first" in said.out
    assert "runmanager results tiny" in said.out
    assert len(load_results("tiny")) == 8


def test_a_quiet_launch_prints_nothing(project, command):
    project.sweep()
    said = command("launch", "sweeps/tiny.py", "--quiet", "--no-tensorboard")
    assert (said.status, said.out, said.err) == (0, "", "")


def test_a_launch_with_nothing_to_do_says_so(project, command):
    project.sweep()
    command("launch", "tiny", "-q", "--no-tensorboard")
    assert "4 runs: 0 to train, 4 completed" in command("launch", "tiny", "--no-tensorboard").out


def test_the_options_of_a_launch_reach_it(project, command):
    project.sweep()
    options = ["--only", "lr=0.01", "--limit", "1", "--epochs", "1", "--set", "batch_size=15,30", "--no-tensorboard"]
    assert command("launch", "tiny", *options).status == 0
    frame = load_results("tiny")
    assert frame[["run", "epoch", "lr", "batch_size"]].values.tolist() == [[3, 1, 0.01, 15]]


def test_values_from_the_command_line_have_the_grids_types(project, command):
    project.by_function(
        "m.log(value=1)",
        params="{'lr': [0.1], 'size': [1], 'flag': [True], 'name': ['x'], 'maybe': [None]}",
    )
    options = ["lr=1", "size=2", "flag=False", "name=3", "maybe=None"]
    assert command("launch", "tiny", *[part for option in options for part in ("--set", option)], "-q").status == 0
    (who,) = [json.loads((folder / "run.json").read_text()) for folder in project.folders()]
    values = who["params"]
    assert values == {"lr": 1.0, "size": 2, "flag": False, "name": "3", "maybe": None}
    assert isinstance(values["lr"], float)


def test_a_dry_run_writes_nothing(project, command):
    project.sweep()
    before = project.files()
    said = command("launch", "tiny", "--dry-run")
    assert said.status == 0
    assert said.out.count("Run(lr=") == 4
    assert project.files() == before


def test_fresh_keeps_the_old(project, command):
    project.sweep()
    command("launch", "tiny", "-q", "--no-tensorboard")
    assert "kept as tiny.1" in command("launch", "tiny", "--fresh", "--no-tensorboard").out
    assert command("results", "tiny.1").status == 0


def test_a_failed_run_makes_the_exit_status_one_and_names_the_error(project, command):
    project.by_function("if run.lr == 0.1:\n    raise ValueError('no good')\nm.log(value=1)")
    said = command("launch", "tiny", "--no-tensorboard")
    assert said.status == 1
    assert "run 1 failed: ValueError: no good" in said.out
    assert "completed" in said.out
    assert command("launch", "tiny", "-q", "--no-tensorboard").status == 0  # nothing was trained
    assert command("launch", "tiny", "-q", "--no-tensorboard", "--retry-failed").status == 1


def test_an_objective_that_was_never_logged_is_told_with_the_nearest(project, command):
    body = "m.begin_epoch()\nm.log(val_f1=run.lr)\nm.end_epoch()"
    project.by_function(body, params="{'lr': [0.1]}", sweep="objective='val_ff1', mode='max'")
    said = command("launch", "tiny", "--no-tensorboard")
    assert "'val_ff1' was never logged, so no run is best; logged: val_f1; did you mean 'val_f1'?" in said.out


def test_results_are_sorted_and_cut(project, command):
    project.by_function("m.begin_epoch()\nm.log(val_loss=run.lr)\nm.end_epoch()", params="{'lr': [0.3, 0.1, 0.2]}")
    command("launch", "tiny", "-q", "--no-tensorboard")
    runs = json.loads(command("results", "tiny", "--sort", "val_loss", "--top", "2", "--json").out)
    assert [run["params"]["lr"] for run in runs] == [0.1, 0.2]
    said = command("results", "tiny", "--sort", "val_loss", "--top", "1")
    assert "tiny: 3 runs, best val_loss first" in said.out


def test_status_shows_all_sweeps_or_one(project, command):
    for name in ("one", "two"):
        project.by_function("m.log(value=1)", name=name)
        command("launch", name, "-q", "--no-tensorboard")
    assert "one" in command("status").out
    assert "two" in command("status").out
    assert "two" not in command("status", "one").out


def test_status_shows_the_other_sweeps_beside_one_that_is_a_link(project, command):
    project.by_function("m.log(value=1)")
    command("launch", "tiny", "-q", "--no-tensorboard")
    (project.root / "elsewhere").mkdir()
    (project.root / "runs" / "linked").symlink_to(project.root / "elsewhere")
    said = command("status")
    assert said.status == 0
    assert "tiny" in said.out


def test_a_sweep_that_is_a_link_out_of_the_project_is_one_clean_message(project, command):
    (project.root / "runs").mkdir()
    (project.root / "elsewhere").mkdir()
    (project.root / "runs" / "linked").symlink_to(project.root / "elsewhere")
    assert is_clean(command("results", "linked"))


@pytest.mark.parametrize("name", ["three", "../one", "", "a" * 300, "x/y", "é"])
@pytest.mark.parametrize("asked", ["results", "status", "board"])
def test_an_unknown_sweep_lists_those_there_are(asked, name, project, command):
    (project.root / "runs" / "one").mkdir(parents=True)
    (project.root / "runs" / "two").mkdir()
    if name == "" and asked != "results":
        pytest.skip("an empty name means all")
    said = command(asked, name)
    assert is_clean(said)
    assert "there are: one, two" in said.err


@pytest.mark.parametrize("asked", ["results", "status", "board"])
def test_a_mistyped_sweep_is_told_the_nearest(asked, project, command):
    for name in ("clothes", "digits"):
        (project.root / "runs" / name).mkdir(parents=True)
    said = command(asked, "clothess")
    assert is_clean(said)
    assert said.err.endswith("there are: clothes, digits; did you mean 'clothes'?\n")


def test_results_before_the_first_launch_say_how_to_begin(command):
    said = command("results", "tiny")
    assert is_clean(said)
    assert "none yet; launch one with `runmanager launch sweeps/quickstart.py`" in said.err


@pytest.mark.parametrize(
    "asked", ["launch", "plan", "summary", "export-model", "features", "lr-range", "verify-fusion"]
)
def test_an_unknown_sweep_file_lists_those_there_are_and_the_nearest(asked, project, command):
    project.sweep(name="clothes")
    project.sweep(name="digits")
    said = command(asked, "sweeps/clothess.py")
    assert is_clean(said)
    assert "no file sweeps/clothess.py; did you mean 'clothes'? The sweeps of" in said.err
    assert "are: sweeps/clothes.py, sweeps/digits.py" in said.err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["launch", "tiny", "--only", "9"], "--only 9"),
        (["launch", "tiny", "--only", "²"], "--only ²"),
        (["launch", "tiny", "--limit", "0"], "--limit 0"),
        (["launch", "tiny", "--epochs", "0"], "epochs=0"),
        (["launch", "tiny", "--set", "lr"], "--set lr: write --set name=value"),
        (["launch", "tiny", "--set", "momentum=1"], "--set momentum: the grid has lr, batch_size"),
        (["launch", "tiny", "--set", "lr=0.1,0.1"], "lr lists 0.1 twice"),
        (["launch", "tiny", "--set", "lr=1", "--set", "lr=2"], "--set lr is given twice"),
        (["launch", "tiny", "--set", "lr=fast"], "fast"),
        (["launch", "tiny", "--limit", "many"], "--limit"),
        (["launch", "tiny", "--nonsense"], "--nonsense"),
        (["launch"], "Missing argument"),
        (["lunch"], "lunch"),
    ],
)
def test_a_mistake_is_one_clean_message_and_exit_status_two(arguments, said, project, command):
    project.sweep()
    before = project.files()
    answer = command(*arguments)
    assert is_clean(answer)
    assert said in answer.err
    assert project.files() == before


def test_a_faulty_sweep_is_one_clean_message_with_all_its_faults(project, command):
    project.sweep(batch_size="0", params="lr=[0.1]", data="'fashion'", loss="3")
    answer = command("launch", "tiny")
    assert is_clean(answer)
    assert answer.err.startswith("SweepError: sweep 'tiny' cannot start:\n  - ")
    assert "batch_size=0" in answer.err
    assert "data='fashion'" in answer.err
    assert not (project.root / "runs").exists()


@pytest.mark.parametrize(
    ("option", "said"),
    [
        (["--sort", "x"], "--sort x: sweep tiny has loss, accuracy, value\n"),
        (["--sort", "vallue"], "has loss, accuracy, value; did you mean 'value'?\n"),
        (["--top", "0"], "--top 0"),
    ],
)
def test_results_that_cannot_be_shown_say_why(option, said, project, command):
    project.by_function("m.log(value=1)")
    command("launch", "tiny", "-q", "--no-tensorboard")
    answer = command("results", "tiny", *option)
    assert is_clean(answer)
    assert said in answer.err


def test_init_lays_out_a_project_once(project, command):
    said = command("init", "new")
    assert said.status == 0
    assert (project.root / "new" / "sweeps" / "quickstart.py").is_file()
    again = command("init", "new")
    assert is_clean(again)
    assert "is there already" in again.err


def test_init_where_no_folder_can_be_made_is_one_clean_message(project, command):
    (project.root / "file").write_text("")
    assert is_clean(command("init", "file/new"))


def test_a_runs_folder_that_cannot_be_made_is_one_clean_message(project, command):
    project.sweep()
    (project.root / "runs").write_text("in the way")
    said = command("launch", "tiny", "--no-tensorboard")
    assert is_clean(said)
    assert str(project.root / "runs") in said.err


def test_idx_files_become_pictures_and_the_same_files_again(project, command):
    pixels = np.random.default_rng(0).integers(0, 256, (5, 4, 3), dtype=np.uint8)
    labels = np.array([1, 0, 1, 2, 0], np.uint8)
    Path("images").write_bytes(struct.pack(">HBBIII", 0, 8, 3, 5, 4, 3) + pixels.tobytes())
    Path("labels").write_bytes(struct.pack(">HBBI", 0, 8, 1, 5) + labels.tobytes())
    said = command("idx-export", "images", "labels", "pictures")
    assert (said.status, said.out) == (0, "pictures: 5 pictures\n")
    assert sorted(path.name for path in Path("pictures").iterdir() if path.is_dir()) == ["0", "1", "2"]
    said = command("idx-pack", "pictures", "images2", "labels2")
    assert (said.status, said.out) == (0, "images2, labels2: 3 classes: 0, 1, 2\n")
    assert Path("images2").read_bytes() == Path("images").read_bytes()
    assert Path("labels2").read_bytes() == Path("labels").read_bytes()
    said = command("idx-export", "images", "labels", "named", "--classes", "cat,dog,ant")
    assert (said.status, said.out) == (0, "named: 5 pictures\n")
    said = command("idx-pack", "named", "images3", "labels3")
    assert (said.status, said.out) == (0, "images3, labels3: 3 classes: cat, dog, ant\n")
    assert Path("labels3").read_bytes() == Path("labels").read_bytes()
    assert is_clean(command("idx-export", "images", "labels", "others", "--classes", "cat,dog"))  # label 2 has no name
    assert is_clean(command("idx-export", "images", "labels", "pictures"))  # something is in it
    assert is_clean(command("idx-export", "labels", "images", "others"))
    Path("one").write_bytes(struct.pack(">HBBIII", 0, 8, 3, 1, 4, 3) + bytes(12))
    Path("label").write_bytes(struct.pack(">HBBI", 0, 8, 1, 1) + bytes(1))
    assert command("idx-export", "one", "label", "alone").out == "alone: 1 picture\n"
    assert command("idx-pack", "alone", "new/one", "new/label").out == "new/one, new/label: 1 class: 0\n"
    assert Path("new/one").read_bytes() == Path("one").read_bytes()
    before = project.files()
    for arguments, reason in (
        (["idx-pack", "named", "images3", "labels4"], "images3 is there; give a new file"),
        (["idx-pack", "nmaed", "images4", "labels4"], "there is no folder nmaed; give one that has a folder of"),
        (["idx-export", "image", "labels", "others"], "there is no file image; give an idx file"),
        (["idx-export", "images", "nowhere/labels", "others"], "there is no file nowhere/labels; give an idx file"),
    ):
        said = command(*arguments)
        assert is_clean(said)
        assert reason in said.err
    assert project.files() == before


def test_a_network_is_looked_into_trained_and_exported_from_the_command_line(project, command):
    project.sweep()
    assert "Linear" in command("summary", "sweeps/tiny.py").out
    said = command("lr-range", "tiny", "--only", "lr=0.01", "--steps", "20", "--to", "10")
    assert (said.status, said.err) == (0, "")
    assert "tiny: run 3 (lr=0.01, batch_size=10): 20 steps from 1e-07 to 10" in said.out
    assert is_clean(command("export-model", "tiny"))  # nothing was trained
    command("launch", "tiny", "-q", "--no-tensorboard", "--only", "1")
    assert command("export-model", "tiny", "--output", "net").status == 0
    assert all((project.root / f"net{ending}").is_file() for ending in (".pt", ".pt2", ".pt.json"))


def test_of_one_run_there_is_nothing_to_compare(project, command):
    project.sweep(params="lr=[0.1]", batch_size="10")
    said = command("verify-fusion", "tiny")
    assert said.status == 1
    assert said.out == (
        "tiny: 1 run of 1 kind\n1 run like Run(lr=0.1): one by one, there is no other of its kind\nthere is nothing to compare\n"
    )


def test_the_version_and_the_help_are_there(command):
    from runmanager import __version__

    assert command("--version").out == f"runmanager {__version__}\n"
    said = command("--help")
    assert said.status == 0
    for name in ("launch", "results", "status", "board", "init", "summary", "lr-range", "export-model", "features"):
        assert name in said.out
        assert command(name, "--help").status == 0


@pytest.mark.slow
def test_python_dash_m_is_the_command(project):
    project.sweep()
    said = project.process("launch", "tiny", "--no-tensorboard", "--only", "1", "--workers", "0")
    assert (said.status, said.err) == (0, "")
    assert "completed" in said.out
    said = project.process("results", "nothing")
    assert said.status == 2
    assert said.err.startswith("ResultsNotFoundError: no sweep 'nothing'")
    assert said.err.rstrip().endswith("there are: tiny")
    assert len(said.err.splitlines()) == 1


def test_a_bad_launch_in_a_process_of_its_own_leaves_no_traceback(project):
    project.sweep(params="lr=0.1")
    said = project.process("launch", "tiny")
    assert is_clean(said)
    assert "lr=0.1 is not a list; write lr=[0.1]" in said.err


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["results", "tiny"], ["status"]])
def test_looking_needs_neither_torch_nor_pandas(arguments, project):
    (project.root / "runs" / "tiny").mkdir(parents=True)
    code = (
        "import sys; from runmanager.cli import main; sys.argv[1:] = " + repr(arguments) + "\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        "print(sorted({'torch', 'pandas', 'tensorboard'} & set(sys.modules)))"
    )
    said = subprocess.check_output([sys.executable, "-c", code], cwd=project.root, text=True)
    assert said.splitlines()[-1] == "[]"
