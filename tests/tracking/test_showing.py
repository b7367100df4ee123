"""Pictures and confusion matrices of a run: what TensorBoard shows, what its folder keeps, and what is refused."""

import io
import json
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from runmanager import RunBuilder, RunManager
from runmanager.tracking.confusion_files import ConfusionFiles
from runmanager.tracking.errors import CallOrderError, EmptyEpochError, MetricError
from runmanager.tracking.history import read_sweep
from runmanager.tracking.manager import Entry
from runmanager.tracking.run_dir import find_sweep
from runmanager.tracking.writers import Writer

RUNS = RunBuilder.get_runs({"lr": [0.1, 0.2, 0.3]})
BATCH = torch.zeros(4, 2)
COUNTS = [[5, 1], [2, 8]]


@pytest.fixture
def make(tmp_path: Path):
    """A manager of the same sweep, as often as it is called; all are closed."""
    made = []

    def new(**options) -> RunManager:
        made.append(RunManager("mine", root=tmp_path, quiet=True, tables=False, **options))
        return made[-1]

    yield new
    for m in made:
        m.close()


@pytest.fixture
def folder(tmp_path: Path):
    """A run's folder, by its number."""
    return lambda number=1: next((tmp_path / "runs" / "mine").glob(f"{number:04d}-*"))


def shown(folder: Path) -> dict[str, list[tuple[int, np.ndarray]]]:
    """The pictures that TensorBoard has of a run, by tag: at which epoch, and the pixels [H, W, 3]."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    board = EventAccumulator(str(folder), {"images": 0, "scalars": 0, "tensors": 0})
    board.Reload()
    return {
        tag: [
            (event.step, np.asarray(Image.open(io.BytesIO(event.encoded_image_string)))) for event in board.Images(tag)
        ]
        for tag in board.Tags()["images"]
    }


def matrices(folder: Path, name: str = "confusion") -> dict[int, list[list[int]]]:
    """The counts that a run's folder keeps, by epoch."""
    files = ConfusionFiles(folder / "confusion")
    return {epoch: files.read(epoch, name)["counts"] for epoch in files.epochs(name)}


def one_epoch(m: RunManager, work=lambda: None, states=None) -> None:
    m.begin_epoch()
    m.track_loss(torch.ones(len(m.numbers)) if len(m.numbers) > 1 else torch.tensor(1.0), BATCH)
    work()
    m.end_epoch(states)


@pytest.mark.parametrize(
    "kind", ["tensor", "array", "grey", "one channel", "channels last", "floats", "pil", "bfloat16", "bool"]
)
def test_a_picture_of_any_usual_kind_is_shown_pixel_by_pixel(make, folder, kind):
    colours = torch.randint(256, (3, 5, 7), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    grey = colours[:1].expand(3, -1, -1)
    image, expected = {
        "tensor": (colours, colours),
        "array": (colours.numpy(), colours),
        "grey": (colours[0], grey),
        "one channel": (colours[:1], grey),
        "channels last": (colours.permute(1, 2, 0).numpy(), colours),
        "floats": (colours.double() / 255, colours),
        "pil": (Image.fromarray(colours.permute(1, 2, 0).numpy()), colours),
        "bfloat16": (torch.ones(3, 5, 7, dtype=torch.bfloat16, requires_grad=True), torch.full((3, 5, 7), 255)),
        "bool": (colours[0] > 100, (colours[:1] > 100).expand(3, -1, -1) * 255),
    }[kind]
    m = make().begin_run(RUNS[0])
    one_epoch(m, lambda: m.log_image("sample", image))
    m.end_run()
    ((step, pixels),) = shown(folder())["sample"]
    assert step == 1
    assert pixels.tolist() == expected.permute(1, 2, 0).tolist()


def test_a_picture_stands_at_the_epoch_under_way_or_the_last(make, folder):
    m = make().begin_run(RUNS[0])
    m.log_image("before", torch.zeros(4, 4))
    for _ in range(2):
        one_epoch(m, lambda: m.log_image("in", torch.zeros(4, 4)))
    m.log_image("after", torch.zeros(4, 4))
    m.end_run()
    assert {tag: [step for step, _ in events] for tag, events in shown(folder()).items()} == {
        "before": [0],
        "in": [1, 2],
        "after": [2],
    }


def test_pictures_leave_the_journal_and_the_rows_as_they_are(make, folder, tmp_path):
    m = make()
    for run, is_shown in zip(RUNS, (True, False), strict=False):
        m.begin_run(run)
        m.begin_epoch()
        m.track_loss(1.0, BATCH)
        if is_shown:
            m.log_image("x", torch.zeros(4, 4))
            m.log_confusion(COUNTS)
        m.end_epoch()
        m.end_run()
    kinds = [
        [json.loads(line)["kind"] for line in (folder(n) / "journal.jsonl").read_text().splitlines()] for n in (1, 2)
    ]
    assert kinds[0] == kinds[1]


def test_each_member_of_a_group_is_shown_its_own(make, folder):
    m = make()
    with m.tracking_group([Entry(run, number, 1, 0) for number, run in enumerate(RUNS, 1)]):
        pictures = [torch.full((4, 4), number * 50, dtype=torch.uint8) for number in m.numbers]
        one_epoch(
            m,
            lambda: (
                m.log_image("own", pictures),
                m.log_confusion([np.array(COUNTS) * n for n in m.numbers], ["a", "b"]),
            ),
        )
        m.leave(2)
        one_epoch(m, lambda: (m.log_image("own", pictures[::2]), m.log_image("all", pictures[0])))
        with pytest.raises(MetricError, match="got 3 values, but the group has 2 members"):
            m.log_image("own", pictures)
    for number, steps in ((1, [1, 2]), (2, [1]), (3, [1, 2])):
        own = shown(folder(number))["own"]
        assert [step for step, _ in own] == steps
        assert {int(value) for _, pixels in own for value in pixels.flatten()} == {number * 50}
        assert matrices(folder(number)) == {1: (np.array(COUNTS) * number).tolist()}
    assert [step for step, _ in shown(folder(3))["all"]] == [2]


@pytest.mark.parametrize(
    ("image", "says"),
    [
        (torch.zeros(2, 4, 4), r"shape \[2, 4, 4\]; give \[H, W\]"),
        (torch.zeros(1, 3, 4, 4), r"shape \[1, 3, 4, 4\]"),
        (torch.zeros(7), r"shape \[7\]"),
        (torch.zeros(3, 0, 4), r"shape \[3, 0, 4\]"),
        (torch.randn(3, 4, 4) * 5, "undo its normalisation"),
        (torch.full((4, 4), float("nan")), "values go from nan"),
        (torch.zeros(4, 4, dtype=torch.int64), "int64 from 0 to 0; give uint8"),
        ("picture.png", "got a str"),
        (None, "got a NoneType"),
    ],
)
def test_what_is_no_picture_is_refused_and_the_run_goes_on(make, image, says):
    m = make().begin_run(RUNS[0])
    with pytest.raises(MetricError, match=says):
        m.log_image("x", image)
    one_epoch(m)
    m.end_run()
    assert len(m.run_data) == 1


@pytest.mark.parametrize(
    ("counts", "classes", "says"),
    [
        ([[1, 2]], None, r"shape \[1, 2\]; give counts \[C, C\]"),
        ([[1, 2], [3]], None, "not equally long"),
        ([], None, r"shape \[0\]"),
        ([[1, -2], [0, 1]], None, "has -2 in row 0, column 1"),
        ([[1, 0], [0.5, 1]], None, "has 0.5 in row 1, column 0"),
        (torch.full((2, 2), float("nan")), None, "has nan in row 0, column 0"),
        ([["a"]], None, "give whole numbers"),
        (COUNTS, ["a", "b", "c"], r"shape \[2, 2\], but there are 3 classes"),
    ],
)
def test_what_are_no_counts_is_refused_and_nothing_is_kept(make, folder, counts, classes, says):
    m = make().begin_run(RUNS[0])
    with pytest.raises(MetricError, match=says):
        m.log_confusion(counts, classes)
    assert not (folder() / "confusion").exists()


@pytest.mark.parametrize("name", ["../up", "a/b", "", ".hidden", "x" * 65, "a\nb", 3])
def test_a_matrix_whose_name_cannot_be_a_files_is_refused(make, folder, name):
    m = make().begin_run(RUNS[0])
    with pytest.raises(MetricError, match="cannot be a file's"):
        m.log_confusion(COUNTS, name=name)
    assert not (folder() / "confusion").exists()


def test_before_a_run_the_missing_call_is_named(make):
    for call in (lambda m: m.log_image("x", torch.zeros(4, 4)), lambda m: m.log_confusion(COUNTS)):
        with pytest.raises(CallOrderError, match="begin_run"):
            call(make())


def test_a_picture_alone_makes_no_epoch(make):
    m = make().begin_run(RUNS[0])
    m.begin_epoch()
    m.log_image("x", torch.zeros(4, 4))
    with pytest.raises(EmptyEpochError):
        m.end_epoch()


@pytest.mark.parametrize("name", ["loss", "Loss", "f1", "images", ""])
def test_a_picture_takes_no_metrics_place(make, name):
    m = make().begin_run(RUNS[0])
    one_epoch(m, lambda: m.log(f1=0.5))
    with pytest.raises(MetricError, match=r"another name|call the picture"):
        m.log_image(name, torch.zeros(4, 4))


def test_a_metric_takes_no_pictures_place(make):
    m = make().begin_run(RUNS[0])
    m.begin_epoch()
    m.log_confusion(COUNTS)
    with pytest.raises(MetricError, match="'confusion' is a picture of this run already"):
        m.log(confusion=1)


def test_a_confusion_matrix_is_kept_as_numbers_and_shown_as_a_picture(make, folder):
    m = make().begin_run(RUNS[0])
    for factor in (1, 2, 3):
        one_epoch(m, lambda factor=factor: m.log_confusion(torch.tensor(COUNTS) * factor, ["cat", "dog"]))
    m.end_run()
    file = folder() / "confusion" / "epoch-0003.json"
    assert json.loads(file.read_text()) == {"epoch": 3, "classes": ["cat", "dog"], "counts": [[15, 3], [6, 24]]}
    assert list(matrices(folder())) == [1, 2, 3]
    pictures = shown(folder())["confusion"]
    assert [step for step, _ in pictures] == [1, 2, 3]
    assert not np.array_equal(pictures[0][1], pictures[2][1])  # the numbers in the cells


def test_matrices_of_several_names_stand_beside_each_other(make, folder):
    m = make().begin_run(RUNS[0])
    one_epoch(m, lambda: (m.log_confusion(COUNTS), m.log_confusion([[1.0]], name="epoch-train")))
    m.end_run()
    assert matrices(folder()) == {1: COUNTS}
    assert matrices(folder(), "epoch-train") == {1: [[1]]}
    assert ConfusionFiles(folder() / "confusion").read(1)["classes"] == ["0", "1"]
    assert set(shown(folder())) == {"confusion", "epoch-train"}


def test_a_run_that_goes_on_from_a_saved_state_has_no_matrices_of_what_it_has_to_do_again(make, folder):
    m = make(checkpoint_every=2).begin_run(RUNS[0])
    for factor in (1, 2, 3):
        one_epoch(m, lambda factor=factor: m.log_confusion(np.array(COUNTS) * factor), states={"w": 1})
    m.close()
    m = make(checkpoint_every=2).begin_run(RUNS[0])
    assert m.load_checkpoint() == {"w": 1}
    assert list(matrices(folder())) == [1, 2]
    one_epoch(m, lambda: m.log_confusion(np.array(COUNTS) * 7), states={"w": 2})
    m.end_run()
    assert matrices(folder()) == {
        epoch: (np.array(COUNTS) * factor).tolist() for epoch, factor in ((1, 1), (2, 2), (3, 7))
    }
    pictures = shown(folder())["confusion"]
    assert [step for step, _ in pictures] == [1, 2, 3]


def test_a_run_that_begins_anew_leaves_no_matrices_of_the_attempt_before(make, folder):
    m = make().begin_run(RUNS[0])
    for _ in range(3):
        one_epoch(m, lambda: m.log_confusion(COUNTS))
    m.close()
    m = make().begin_run(RUNS[0])
    one_epoch(m, lambda: m.log_confusion([[1]]))
    m.end_run()
    assert matrices(folder()) == {1: [[1]]}


def test_a_state_is_not_taken_up_after_something_was_shown(make):
    m = make().begin_run(RUNS[0])
    m.log_image("x", torch.zeros(4, 4))
    with pytest.raises(CallOrderError, match="something was logged already"):
        m.load_checkpoint()


def test_a_matrix_that_cannot_be_written_is_a_warning_and_the_run_goes_on(make, folder, tmp_path):
    m = make(tensorboard=False).begin_run(RUNS[0])
    (folder() / "confusion").write_text("in the way")
    with pytest.warns(RuntimeWarning, match="the confusion matrix cannot be kept"):
        one_epoch(m, lambda: m.log_confusion(COUNTS))
    m.end_run()
    (run,) = read_sweep(find_sweep("mine", tmp_path)).runs
    assert (run.status, len(run.rows)) == ("completed", 1)


def test_a_writer_that_fails_at_a_picture_fails_no_run(make, tmp_path):
    class Broken(Writer):
        def image(self, member, name, epoch, pixels):
            raise RuntimeError("no more ink")

    m = make(tensorboard=False, writers=[Broken()]).begin_run(RUNS[0])
    with pytest.warns(RuntimeWarning, match="no more ink"):
        one_epoch(m, lambda: m.log_image("x", torch.zeros(4, 4)))
    m.end_run()
    assert len(m.run_data) == 1


def test_a_writer_gets_pictures_as_bytes_and_matrices_as_numbers(make):
    class Kept(Writer):
        def __init__(self):
            self.seen = []

        def image(self, member, name, epoch, pixels):
            self.seen.append((member.number, name, epoch, pixels.shape, pixels.dtype))

        def confusion(self, member, confusion):
            self.seen.append((member.number, confusion.name, confusion.epoch, confusion.classes, confusion.counts))

    kept = Kept()
    m = make(tensorboard=False, writers=[kept]).begin_run(RUNS[0])
    one_epoch(m, lambda: (m.log_image("x", torch.zeros(4, 6)), m.log_confusion(COUNTS, ["a", "b"])))
    m.end_run()
    assert kept.seen == [(1, "x", 1, (4, 6, 3), np.uint8), (1, "confusion", 1, ["a", "b"], COUNTS)]


def test_without_tensorboard_the_numbers_are_kept_all_the_same(make, folder):
    m = make(tensorboard=False).begin_run(RUNS[0])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        one_epoch(m, lambda: (m.log_image("x", torch.zeros(4, 4)), m.log_confusion(COUNTS)))
    m.end_run()
    assert matrices(folder()) == {1: COUNTS}


def test_a_half_written_or_damaged_matrix_hides_only_itself(tmp_path):
    files = ConfusionFiles(tmp_path / "confusion")
    for epoch in (1, 2):
        files.write("confusion", {"epoch": epoch, "classes": ["a"], "counts": [[epoch]]})
    (tmp_path / "confusion" / "epoch-0001.json").write_text('{"epoch": 1, "clas')
    (tmp_path / "confusion" / "notes.txt").write_text("mine")
    assert files.read(1) is None
    assert files.read(2)["counts"] == [[2]]
    assert files.epochs() == [1, 2]
    files.drop(0)
    assert [path.name for path in (tmp_path / "confusion").iterdir()] == ["notes.txt"]


def test_what_a_killed_process_was_writing_is_dropped_with_the_next(tmp_path):
    import subprocess
    import sys

    gone = subprocess.run(
        [sys.executable, "-c", f"from pathlib import Path; from runmanager.tracking.temporaries import temporary_for as t; "
         f"p = Path({str(tmp_path)!r}) / 'confusion'; p.mkdir(); t(p / 'epoch-0001.json').write_text('half')"],
        check=True,
    )  # fmt: skip
    assert gone.returncode == 0
    assert len(list((tmp_path / "confusion").iterdir())) == 1
    ConfusionFiles(tmp_path / "confusion").write("confusion", {"epoch": 1, "classes": ["a"], "counts": [[1]]})
    assert [path.name for path in (tmp_path / "confusion").iterdir()] == ["epoch-0001.json"]
