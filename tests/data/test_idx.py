"""idx files: read and written as torchvision reads them, exported to pictures and packed again to the same bytes."""

import gzip
import struct

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image
from torchvision.datasets import ImageFolder
from torchvision.datasets.mnist import read_sn3_pascalvincent_tensor

from runmanager.data.idx import IdxError, export_images, pack_images, read_idx, write_idx

TYPES = ["uint8", "int8", "int16", "int32", "float32", "float64"]
PIXELS = np.random.default_rng(0).integers(0, 256, (23, 5, 4), dtype=np.uint8)
LABELS = np.random.default_rng(1).integers(0, 4, 23).astype(np.uint8)


@pytest.fixture
def files(tmp_path):
    write_idx(tmp_path / "images", PIXELS)
    write_idx(tmp_path / "labels", LABELS)
    return tmp_path / "images", tmp_path / "labels"


@pytest.mark.parametrize("name", ["numbers", "numbers.gz"])
@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("shape", [(7,), (3, 4), (2, 3, 4), (0, 28, 28)])
def test_every_type_of_number_is_written_and_read(kind, shape, name, tmp_path):
    array = (np.random.default_rng(0).random(shape) * 200 - 50).astype(kind)
    write_idx(tmp_path / name, array)
    found = read_idx(tmp_path / name)
    assert found.dtype == array.dtype
    assert found.shape == shape
    assert found.tobytes() == array.tobytes()
    assert found.flags.writeable


@pytest.mark.parametrize("kind", TYPES)
def test_what_is_written_is_what_torchvision_reads(kind, tmp_path):
    array = np.arange(-12, 12).reshape(2, 3, 4).astype(kind)
    write_idx(tmp_path / "numbers", array)
    theirs = read_sn3_pascalvincent_tensor(str(tmp_path / "numbers"))
    assert torch.equal(theirs, torch.tensor(array))


def test_the_same_array_gives_the_same_bytes_and_nothing_is_left_beside_them(tmp_path):
    for _ in range(2):
        write_idx(tmp_path / "numbers.gz", PIXELS)
    header = struct.pack(">HBBIII", 0, 8, 3, *PIXELS.shape)
    content = (tmp_path / "numbers.gz").read_bytes()
    assert gzip.decompress(content) == header + PIXELS.tobytes()
    write_idx(tmp_path / "numbers.gz", PIXELS)
    assert (tmp_path / "numbers.gz").read_bytes() == content
    assert [path.name for path in tmp_path.iterdir()] == ["numbers.gz"]


@pytest.mark.parametrize("array", [np.zeros(3, np.int64), np.zeros(3, bool), np.array(3, np.uint8), np.array(["a"])])
def test_what_the_format_does_not_have_is_not_written(array, tmp_path):
    with pytest.raises(IdxError, match=r"idx has no arrays .* it has uint8 \(0x08\), int8"):
        write_idx(tmp_path / "numbers", array)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "begins with nothing, and an idx file with 00 00"),
        (b"\0\0\x08", "begins with 00 00 08"),
        (b"\x89PNG....", "begins with 89 50 4e 47"),
        (b"\0\0\x0a\x01\0\0\0\0", "numbers of type 0x0a, and idx has uint8"),
        (b"\0\0\x08\0", "no dimensions"),
        (b"\0\0\x08\x03\0\0\0\x01\0", "ends after 9 bytes, and the header of 3 dimensions has 16"),
        (b"\0\0\x08\x01\0\0\0\x05abc", r"has 3 bytes behind its header, and \[5\] numbers of 1 bytes are 5"),
        (b"\0\0\x08\x01\0\0\0\x02abc", "has more bytes behind its header"),
        (b"\0\0\x0d\x01\0\0\0\x02abcdefg", r"has 7 bytes .* \[2\] numbers of 4 bytes are 8"),
        (b"\0\0\x08\x03" + b"\xff" * 12 + b"abc", "has 3 bytes"),
        (b"\0\0\x08\xff" + b"\xff" * 1020, "has 0 bytes"),
    ],
)
@pytest.mark.parametrize("is_packed", [False, True])
def test_a_damaged_file_is_told_with_what_was_found_and_expected(content, reason, is_packed, tmp_path):
    (tmp_path / "numbers").write_bytes(gzip.compress(content) if is_packed else content)
    with pytest.raises(IdxError, match=reason) as caught:
        read_idx(tmp_path / "numbers")
    assert str(tmp_path / "numbers") in str(caught.value)


@pytest.mark.parametrize("cut", [5, 20, -4])
def test_a_packed_file_that_ends_early_is_damaged(cut, tmp_path):
    write_idx(tmp_path / "numbers.gz", PIXELS)
    whole = (tmp_path / "numbers.gz").read_bytes()
    (tmp_path / "numbers.gz").write_bytes(whole[:cut])
    with pytest.raises(IdxError, match="packed, and damaged"):
        read_idx(tmp_path / "numbers.gz")


def test_a_small_file_that_unpacks_to_very_much_is_not_unpacked_whole(tmp_path):
    header = struct.pack(">HBBI", 0, 8, 1, 10)
    (tmp_path / "bomb").write_bytes(gzip.compress(header + bytes(300_000_000), 9))
    import tracemalloc

    tracemalloc.start()
    with pytest.raises(IdxError, match="more bytes"):
        read_idx(tmp_path / "bomb")
    assert tracemalloc.get_traced_memory()[1] < 20_000_000
    tracemalloc.stop()


@settings(deadline=None, max_examples=100)
@given(
    content=st.binary(max_size=60), start=st.sampled_from([b"", b"\0\0\x08\x01", b"\0\0\x0e\x02", b"\x1f\x8b\x08\0"])
)
def test_any_bytes_are_an_array_or_refused(content, start, tmp_path_factory):
    path = tmp_path_factory.getbasetemp() / "any"
    path.write_bytes(start + content)
    try:
        array = read_idx(path)
    except IdxError:
        return
    write_idx(path.with_name("again"), array)
    assert read_idx(path.with_name("again")).tobytes() == array.tobytes()


# -- pictures


@settings(deadline=None, max_examples=25)
@given(st.data())
def test_pictures_come_back_as_the_bytes_they_were(tmp_path_factory, data):
    root = tmp_path_factory.mktemp("trip")
    number, colour = data.draw(st.integers(1, 12)), data.draw(st.booleans())
    sides = data.draw(st.tuples(st.integers(1, 6), st.integers(1, 6)))
    pixels = data.draw(arrays.arrays(np.uint8, (number, *sides, *((3,) if colour else ()))))
    classes = data.draw(st.none() | st.permutations(["cat", "Ankle boot", "7", "éléphant", "a.b"]))
    labels = data.draw(arrays.arrays(np.uint8, number, elements=st.integers(0, 255 if classes is None else 4)))
    write_idx(root / "images.gz", pixels)
    write_idx(root / "labels", labels)
    assert export_images(root / "images.gz", root / "labels", root / "pictures", classes) == number
    pack_images(root / "pictures", root / "images-2.gz", root / "labels-2")
    for name in ("images{}.gz", "labels{}"):
        assert (root / name.format("")).read_bytes() == (root / name.format("-2")).read_bytes()


def test_each_class_is_a_folder_of_pictures_named_by_their_place(files, tmp_path):
    export_images(*files, tmp_path / "pictures", ["cat", "dog", "emu", "fox", "gnu"])
    names = ["cat", "dog", "emu", "fox"]  # gnu has no picture
    assert sorted(path.name for path in (tmp_path / "pictures").iterdir() if path.is_dir()) == names
    for place, (pixels, label) in enumerate(zip(PIXELS, LABELS, strict=True)):
        with Image.open(tmp_path / "pictures" / names[label] / f"{place:05d}.png") as picture:
            assert np.array_equal(np.array(picture), pixels)
    assert ImageFolder(tmp_path / "pictures").classes == names
    packed = pack_images(tmp_path / "pictures", tmp_path / "images-2", tmp_path / "labels-2")
    assert packed == tuple(names)


def test_exported_pictures_can_be_trained_on(files, tmp_path):
    from runmanager.data.sources import splits_of

    export_images(*files, tmp_path / "data" / "image_folder" / "train")
    splits = splits_of("image_folder", None, tmp_path)
    assert (len(splits.train), splits.classes) == (23, ("0", "1", "2", "3"))


@pytest.mark.parametrize(
    "name",
    ["../up", "/etc", "a/b", "a\\b", "", ".", "..", ".hidden", "a\0b", "a\nb", " a", "x" * 300, "T-shirt/top", "C:", 7],
)
def test_a_class_name_that_leads_elsewhere_is_refused_and_nothing_is_written(name, files, tmp_path):
    with pytest.raises(IdxError, match="cannot be a folder's name"):
        export_images(*files, tmp_path / "pictures", ["cat", "dog", "emu", name])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["images", "labels"]


@pytest.mark.parametrize(
    ("classes", "reason"),
    [
        (["cat", "dog", "Cat", "emu"], "two classes are named 'cat'"),
        (["cat", "dog"], r"picture \d+ has label [23], but"),
    ],
)
def test_names_that_do_not_suit_the_labels_are_refused(classes, reason, files, tmp_path):
    with pytest.raises(IdxError, match=reason):
        export_images(*files, tmp_path / "pictures", classes)
    assert not (tmp_path / "pictures").exists()


def test_files_that_do_not_go_together_are_refused(files, tmp_path):
    images, labels = files
    write_idx(tmp_path / "fewer", LABELS[:-1])
    for pair, reason in (
        ((images, tmp_path / "fewer"), "pictures and labels are not as many, 23 and 22"),
        ((labels, images), r"labels is \[23\] of uint8, and pictures are"),
        ((images, images), r"images is \[23, 5, 4\] of uint8, and labels are"),
    ):
        with pytest.raises(IdxError, match=reason):
            export_images(*pair, tmp_path / "pictures")


def test_a_folder_with_something_in_it_is_left_alone(files, tmp_path):
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "mine").write_text("x")
    with pytest.raises(IdxError, match="not empty"):
        export_images(*files, tmp_path / "pictures")
    assert [path.name for path in (tmp_path / "pictures").iterdir()] == ["mine"]


def grey(path, size=(4, 5), mode="L"):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size).save(path, "png")


@pytest.mark.parametrize(
    ("extra", "reason"),
    [
        (lambda root: grey(root / "cat" / "00003.png"), "has no picture with place 2 among its 3"),
        (lambda root: grey(root / "dog" / "1.png"), "the same place"),
        (lambda root: (root / "cat" / "notes.txt").write_text("x"), r"notes\.txt is no picture's file"),
        (lambda root: (root / "cat" / "00002.png").symlink_to("/etc/passwd"), "is no picture's file"),
        (lambda root: grey(root / "cat" / "00002.png", (5, 5)), r"is \[5, 5\], and the pictures before it \[5, 4\]"),
        (lambda root: grey(root / "cat" / "00002.png", mode="RGB"), r"is \[5, 4, 3\]"),
        (lambda root: grey(root / "cat" / "00002.png", mode="1"), "of mode 1"),
        (lambda root: (root / "cat" / "00002.png").write_bytes(b"GIF89a"), "cannot be read as a PNG"),
        (
            lambda root: (root / "classes.txt").write_text("dog\n"),
            r"class 'cat', which is not in its classes.txt \(dog\)",
        ),
    ],
)
def test_a_folder_that_makes_no_set_is_refused_and_nothing_is_written(extra, reason, tmp_path):
    root = tmp_path / "pictures"
    for place in (0, 1):
        grey(root / "cat" / f"{place:05d}.png")
    (root / "dog").mkdir(exist_ok=True)
    extra(root)
    with pytest.raises(IdxError, match=reason):
        pack_images(root, tmp_path / "images", tmp_path / "labels")
    assert [path.name for path in tmp_path.iterdir()] == ["pictures"]


def test_a_folder_without_classes_or_pictures_is_told(tmp_path):
    with pytest.raises(IdxError, match="has no folders"):
        pack_images(tmp_path, tmp_path / "images", tmp_path / "labels")
    (tmp_path / "pictures" / "cat").mkdir(parents=True)
    with pytest.raises(IdxError, match="has no pictures"):
        pack_images(tmp_path / "pictures", tmp_path / "images", tmp_path / "labels")
