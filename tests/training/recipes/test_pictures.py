"""Pictures of predictions and of confusion matrices, by their pixels."""

import pytest
import torch

from runmanager.tracking.errors import MetricError
from runmanager.training.recipes.pictures import confusion_picture, predictions_picture

GREEN, RED = torch.tensor([0, 128, 0]), torch.tensor([200, 0, 0])


def has(picture, colour):
    """How many pixels have just this colour."""
    return (picture == colour[:, None, None]).all(0).sum().item()


def scores(*predicted, num_classes=3):
    return torch.eye(num_classes)[torch.tensor(predicted)]


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [28, 32])
def test_a_sample_is_shown_whole_and_enlarged_by_a_whole_factor(channels, size):
    inputs = torch.rand(1, channels, size, size, generator=torch.Generator().manual_seed(0))
    picture = predictions_picture(inputs, scores(1), torch.tensor([1]))
    factor = -(-96 // size)
    large = (inputs[0] * 255).round().byte().expand(3, -1, -1).repeat_interleave(factor, 1).repeat_interleave(factor, 2)
    top = left = 6 + 3  # the gap and the frame
    assert picture.dtype == torch.uint8
    assert torch.equal(picture[:, top : top + large.shape[1], left : left + large.shape[2]], large)


def test_right_ones_are_framed_in_green_and_wrong_ones_in_red():
    inputs = torch.full((2, 1, 32, 32), 0.5)
    picture = predictions_picture(inputs, scores(1, 2), torch.tensor([1, 0]), ["cat", "dog", "cow"])
    middle = picture.shape[2] // 2
    left, right = picture[:, :, :middle], picture[:, :, middle:]
    assert has(left, GREEN) > 1000 > has(left, RED) == 0
    assert has(right, RED) > 1000 > has(right, GREEN) == 0


def test_the_names_of_both_classes_are_written():
    inputs = torch.full((1, 1, 32, 32), 0.5)

    def written(predicted, true, classes):
        return predictions_picture(inputs, scores(predicted), torch.tensor([true]), classes)[:, 112:]

    pictures = [
        written(0, 1, ["cat", "dog", "cow"]),
        written(2, 1, ["cat", "dog", "cow"]),
        written(0, 2, ["cat", "dog", "cow"]),
    ]
    assert not torch.equal(pictures[0], pictures[1])
    assert not torch.equal(pictures[0], pictures[2])
    assert torch.equal(written(0, 1, None), written(0, 1, ["0", "1", "2"]))


def test_classes_may_come_in_the_place_of_scores():
    inputs, targets = torch.rand(5, 3, 8, 8), torch.tensor([0, 1, 2, 0, 1])
    predicted = torch.tensor([0, 2, 2, 1, 1])
    assert torch.equal(
        predictions_picture(inputs, predicted, targets),
        predictions_picture(inputs, scores(*predicted.tolist()), targets),
    )


def test_a_name_that_is_too_long_leaves_the_picture_as_wide_as_it_is():
    inputs, targets = torch.rand(1, 1, 28, 28), torch.tensor([0])
    short, long = (predictions_picture(inputs, scores(0), targets, [name, "b", "c"]) for name in ("a", "name " * 50))
    assert short.shape == long.shape


def test_values_beyond_0_and_1_are_stretched_so_that_all_can_be_seen():
    inputs = torch.rand(2, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    inputs.view(-1)[:2] = torch.tensor([0.0, 1.0])
    targets = torch.tensor([0, 1])
    normalised = (inputs - 0.5) / 0.25
    seen, expected = (
        predictions_picture(normalised, scores(0, 1), targets),
        predictions_picture(inputs, scores(0, 1), targets),
    )
    assert (seen.int() - expected.int()).abs().max() <= 1


def test_bytes_are_shown_as_they_are():
    inputs = torch.randint(256, (1, 3, 32, 32), dtype=torch.uint8)
    assert torch.equal(
        predictions_picture(inputs, scores(0), torch.tensor([0])),
        predictions_picture(inputs / 255, scores(0), torch.tensor([0])),
    )


def test_values_that_are_not_finite_cost_no_picture():
    inputs = torch.tensor([float("nan"), float("inf"), 0.5, -float("inf")]).reshape(1, 1, 2, 2)
    assert predictions_picture(inputs, scores(0), torch.tensor([0])).dtype == torch.uint8


@pytest.mark.parametrize(
    ("inputs", "preds", "targets"),
    [
        ((4, 2, 8, 8), (4, 3), (4,)),
        ((4, 8), (4, 3), (4,)),
        ((4, 3, 8, 8), (3, 3), (4,)),
        ((4, 3, 8, 8), (4, 3), (4, 2)),
    ],
)
def test_what_cannot_be_shown_is_refused_with_its_shapes(inputs, preds, targets):
    with pytest.raises(MetricError) as refused:
        predictions_picture(torch.zeros(inputs), torch.zeros(preds), torch.zeros(targets))
    assert all(str(list(shape)) in str(refused.value) for shape in (inputs, preds, targets))


def test_no_samples_are_refused():
    with pytest.raises(MetricError, match=r"\[0, 1, 8, 8\]"):
        predictions_picture(torch.zeros(0, 1, 8, 8), torch.zeros(0, 3), torch.zeros(0))


def cells(picture, num_classes, size):
    """A corner of each cell [C, C, 3], where no number stands: the grid begins at a margin that is found by its colours."""
    top, left = 12, _left(picture)
    places = range(num_classes)
    return torch.stack(
        [
            torch.stack([picture[:, top + row * size + 1, left + column * size + 1] for column in places])
            for row in places
        ]
    )


def _left(picture):
    """Where the first row of cells begins: the grid's frame is the only line of its colour above it."""
    return int((picture[:, 11] == 225).all(0).nonzero()[0]) + 1


def test_rows_are_true_classes_and_columns_predicted_ones_the_darker_the_more_of_a_row():
    found = cells(confusion_picture(torch.tensor([[9, 0, 0], [0, 0, 50], [1, 1, 2]])), 3, 56).float().mean(2)
    assert found[0, 0] == found[1, 2] == found.min()  # all of a row, however many that is
    assert (found[0, 1], found[1, 1]) == (255, 255)
    assert 255 > found[2, 0] == found[2, 1] > found[2, 2] > found[0, 0]


def test_numbers_stand_in_the_cells_where_there_is_room_for_them():
    two, hundred = torch.eye(2, dtype=torch.int64), torch.eye(100, dtype=torch.int64)
    assert not torch.equal(confusion_picture(two), confusion_picture(two * 7))
    assert torch.equal(confusion_picture(hundred), confusion_picture(hundred * 7))


def test_the_names_stand_at_both_axes():
    counts = torch.ones(2, 2, dtype=torch.int64)
    plain, named = confusion_picture(counts), confusion_picture(counts, ["airplane", "automobile"])
    assert named.shape[1] > plain.shape[1]
    assert named.shape[2] > plain.shape[2]
    assert torch.equal(plain, confusion_picture(counts, ["0", "1"]))


@pytest.mark.parametrize("num_classes", [1, 2, 10, 37, 100, 1000, 1500])
def test_a_picture_of_any_number_of_classes_can_be_looked_at(num_classes):
    counts = torch.arange(num_classes * num_classes).reshape(num_classes, num_classes)
    picture = confusion_picture(counts, [f"a class with a long name, number {index}" for index in range(num_classes)])
    assert picture.dtype == torch.uint8
    assert max(picture.shape[1:]) < 1300


def test_a_class_that_there_is_no_sample_of_has_a_white_row():
    found = cells(confusion_picture([[0, 0], [1, 1]], ["Ångström", "日本語"]), 2, 56)
    assert (found[0] == 255).all()


def test_what_are_no_counts_is_refused():
    with pytest.raises(MetricError, match=r"shape \[2, 3\]"):
        confusion_picture(torch.zeros(2, 3))
    with pytest.raises(MetricError, match="3 classes"):
        confusion_picture(torch.zeros(2, 2), ["a", "b", "c"])
