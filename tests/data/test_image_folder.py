"""Pictures in folders, one for each class."""

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.datasets import ImageFolder
from torchvision.transforms import ToTensor

from runmanager.data.known import DataNotFoundError
from runmanager.data.sources import splits_of
from runmanager.data.splits import DataError


def put(folder, number=2, size=(6, 5), mode="RGB", suffix="png"):
    """Pictures that are all different."""
    folder.mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng(len(str(folder)))
    for index in range(number):
        pixels = generator.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
        Image.fromarray(pixels).convert(mode).save(folder / f"{index}.{suffix}")


def whole(root):
    for part in ("train", "val", "test"):
        for name in ("cat", "dog", "emu"):
            put(root / part / name)


def of(root, project):
    return splits_of("image_folder", root, project)


@pytest.fixture(autouse=True)
def nowhere_else(share):
    """Nothing is found but what a test puts there."""


def test_the_parts_are_those_that_torchvisions_class_reads(tmp_path):
    whole(tmp_path / "pets")
    splits = of(tmp_path / "pets", tmp_path / "project")
    for part, name in ((splits.train, "train"), (splits.validation, "val"), (splits.test, "test")):
        theirs = ImageFolder(tmp_path / "pets" / name, transform=ToTensor())
        assert isinstance(part, ImageFolder)
        assert part.samples == theirs.samples
        assert all(torch.equal(part[index][0], theirs[index][0]) for index in range(6))
    assert splits.train[0][0].shape == (3, 5, 6)
    assert splits.classes == ("cat", "dog", "emu")
    assert splits.source == str(tmp_path / "pets")


@pytest.mark.parametrize("name", ["val", "valid", "validation"])
def test_the_folder_to_validate_on_has_one_of_several_names(name, tmp_path):
    put(tmp_path / "train" / "cat")
    put(tmp_path / name / "cat", 1)
    splits = of(tmp_path, tmp_path / "project")
    assert (len(splits.train), len(splits.validation), splits.test) == (2, 1, None)


def test_the_folders_of_the_classes_may_stand_alone(tmp_path):
    put(tmp_path / "data" / "image_folder" / "cat", 3)
    put(tmp_path / "data" / "image_folder" / "dog", 3, suffix="jpg")
    splits = of(None, tmp_path)
    assert len(splits.train) == 6
    assert splits.classes == ("cat", "dog")
    cut = splits.with_validation(1 / 3, 0)
    assert (len(cut.train), len(cut.validation), cut.classes) == (4, 2, ("cat", "dog"))


def test_a_class_without_pictures_to_validate_on_does_not_shift_the_others(tmp_path):
    for name in ("cat", "dog", "emu"):
        put(tmp_path / "train" / name)
    put(tmp_path / "val" / "emu")
    (tmp_path / "val" / "dog").mkdir()
    validation = of(tmp_path, tmp_path / "project").validation
    assert [validation[index][1] for index in range(2)] == [2, 2]


def test_a_class_that_is_not_trained_is_refused(tmp_path):
    put(tmp_path / "train" / "cat")
    put(tmp_path / "val" / "gnu")
    with pytest.raises(DataError, match=r"val has the class 'gnu'.*\(cat\)"):
        of(tmp_path, tmp_path / "project")


@pytest.mark.parametrize("place", ["train/dog", "val/cat"])
def test_pictures_of_several_sizes_are_refused_with_a_way_out(place, tmp_path):
    put(tmp_path / "train" / "cat")
    put(tmp_path / "val" / "dog" / "..")
    put(tmp_path / "train" / "dog")
    put(tmp_path / place, size=(7, 5))
    with pytest.raises(DataError) as caught:
        of(tmp_path, tmp_path / "project")
    message = str(caught.value)
    for part in (str(tmp_path / place / "0.png"), "7×5", "6×5", "function with transforms", "ImageFolder", "Resize"):
        assert part in message


def test_a_file_that_is_no_picture_is_named(tmp_path):
    put(tmp_path / "train" / "cat")
    (tmp_path / "train" / "cat" / "7.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"7\.png cannot be read as a picture"):
        of(tmp_path, tmp_path / "project")


def test_a_class_without_a_picture_to_train_on_is_named(tmp_path):
    put(tmp_path / "train" / "cat")
    (tmp_path / "train" / "dog").mkdir()
    with pytest.raises(DataError, match=r"cannot be trained on .*classes dog.*at least one picture"):
        of(tmp_path, tmp_path / "project")


def test_an_empty_folder_to_train_in_is_told(tmp_path):
    (tmp_path / "train").mkdir()
    with pytest.raises(DataError, match="cannot be trained on"):
        of(tmp_path, tmp_path / "project")


def test_an_empty_folder_to_validate_in_is_told(tmp_path):
    put(tmp_path / "train" / "cat")
    (tmp_path / "val" / "cat").mkdir(parents=True)
    with pytest.raises(DataError, match="val has no pictures"):
        of(tmp_path, tmp_path / "project")


def test_grey_pictures_have_three_channels_too(tmp_path):
    put(tmp_path / "train" / "cat", mode="L")
    image, _ = of(tmp_path, tmp_path / "project").train[0]
    assert image.shape == (3, 5, 6)
    assert torch.equal(image[0], image[2])


def test_places_are_looked_in_from_the_nearest_to_the_farthest(tmp_path):
    root, project = tmp_path / "root", tmp_path / "project"
    for place in (tmp_path / "share" / "datasets" / "image_folder", project / "data", root):
        put(place / "train" / "cat")
        assert of(root, tmp_path / "project").source == str(place)
        splits_of.__globals__["_known"].cache_clear()


def test_when_they_are_nowhere_every_place_and_remedy_is_named(tmp_path):
    (tmp_path / "project" / "data" / "FashionMNIST" / "raw").mkdir(parents=True)  # another set is no class
    with pytest.raises(DataNotFoundError) as caught:
        of(tmp_path / "root", tmp_path / "project")
    message = str(caught.value)
    for part in (tmp_path / "root", tmp_path / "project" / "data", tmp_path / "share", "data_root", "for each class"):
        assert str(part) in message
    assert "download" not in message


@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_a_picture_whose_end_is_missing_is_named_when_it_is_read(suffix, tmp_path):
    put(tmp_path / "train" / "cat", size=(60, 50), suffix=suffix)
    broken = tmp_path / "train" / "cat" / f"1.{suffix}"
    broken.write_bytes(broken.read_bytes()[:-900])
    train = of(tmp_path, tmp_path / "project").train
    with pytest.raises(
        DataError, match=rf"cat/1\.{suffix} cannot be read as a picture .*truncated.*mend it or take it away"
    ):
        train[1]


@pytest.mark.parametrize(
    ("place", "target"), [("cat/again", "."), ("cat/up", ".."), ("me", "."), ("kitty", "cat"), ("kitty", "dog/pups")]
)
def test_a_link_by_which_pictures_would_come_twice_is_named(place, target, tmp_path):
    train = tmp_path / "train"
    for name in ("cat", "dog", "dog/pups"):
        put(train / name)
    (train / place).symlink_to(target)
    with pytest.raises(DataError, match="once more, by a link, so its pictures would come twice; take the link away"):
        of(tmp_path, tmp_path / "project")


@pytest.mark.parametrize("place", ["train/me", "val/me", "me"])
def test_a_link_to_itself_is_named(place, tmp_path):
    root = tmp_path / ("alone" if place == "me" else "parts")
    put(root / "train" / "cat" if place != "me" else root / "cat")
    (root / place).parent.mkdir(exist_ok=True)
    (root / place).symlink_to("me")
    with pytest.raises(DataError, match=f"{root / place} is a link to itself; take it away"):
        of(root, tmp_path / "project")


def test_a_linked_class_is_a_class(tmp_path):
    put(tmp_path / "elsewhere")
    put(tmp_path / "train" / "cat")
    (tmp_path / "train" / "dog").symlink_to(tmp_path / "elsewhere")
    assert of(tmp_path, tmp_path / "project").classes == ("cat", "dog")


def test_numbers_that_rgb_would_cut_off_are_refused(tmp_path):
    put(tmp_path / "train" / "cat")
    Image.fromarray(np.full((5, 6), 40_000, np.uint16)).save(tmp_path / "train" / "cat" / "1.png")
    with pytest.raises(DataError, match=r"1\.png has numbers of more than 8 bits \(mode I;16\).*save it with 8 bits"):
        of(tmp_path, tmp_path / "project")


def test_a_hidden_folder_is_no_class(tmp_path):
    put(tmp_path / "train" / "cat")
    put(tmp_path / "train" / ".ipynb_checkpoints")
    with pytest.raises(DataError, match=r"\.ipynb_checkpoints is hidden, .*take it away"):
        of(tmp_path, tmp_path / "project")


def test_names_of_classes_may_be_of_any_language(tmp_path):
    for name in ("São Paulo", "東京", "two words"):
        put(tmp_path / "train" / name)
    assert of(tmp_path, tmp_path / "project").classes == ("São Paulo", "two words", "東京")
