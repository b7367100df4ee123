"""CIFAR-10 from files of the true format: Python and binary, unpacked and in the archive."""

import functools
import hashlib
import http.server
import os
import pickle
import tarfile
import threading
import urllib.request

import numpy as np
import pytest
import torch
from torchvision import transforms
from torchvision.datasets import CIFAR10

from runmanager.data.cifar10 import CIFAR10_SET
from runmanager.data.known import DataNotFoundError
from runmanager.data.making import is_quick
from runmanager.data.sources import splits_of
from tests.data.cifar_files import CLASSES, SIZE, batches, binary_files, put, put_archive, python_files
from tests.data.kept import assert_like_a_dataloader, keep
from tests.data.offline import PROXIES

PYTHON, BINARY = "cifar-10-batches-py", "cifar-10-batches-bin"
LAYOUTS = {
    "python folder": lambda root: put(root / PYTHON, python_files()),
    "python folder, newer pickles": lambda root: put(root / PYTHON, python_files(4)),
    "the files themselves": lambda root: put(root, python_files()),
    "python archive": lambda root: put_archive(root / "cifar-10-python.tar.gz", PYTHON, python_files()),
    "binary folder": lambda root: put(root / BINARY, binary_files()),
    "binary archive": lambda root: put_archive(root / "cifar-10-binary.tar.gz", BINARY, binary_files()),
}


@pytest.fixture(autouse=True)
def nowhere_else(share, offline):
    """Nothing is found but what a test puts there."""


def find(root, project=None):
    return CIFAR10_SET.find(root, project or root.parent / "project")


@pytest.mark.parametrize("layout", LAYOUTS)
def test_each_layout_gives_the_pictures_and_classes_of_its_files(layout, tmp_path):
    LAYOUTS[layout](tmp_path / "root")
    before = sorted(path.name for path in (tmp_path / "root").rglob("*"))
    splits = find(tmp_path / "root")
    *train, (pixels, labels) = batches()
    assert [len(splits.train), len(splits.test)] == [5 * SIZE, SIZE]
    image, label = splits.test[7]
    assert torch.equal(image, torch.tensor(pixels[7].reshape(3, 32, 32)).float() / 255)
    assert label == labels[7]
    assert splits.train.targets == [one for _, labels in train for one in labels]
    assert splits.classes == tuple(CLASSES)
    assert splits.num_classes == 10
    assert splits.source == str(tmp_path / "root")
    assert sorted(path.name for path in (tmp_path / "root").rglob("*")) == before


def test_the_pictures_are_those_that_torchvision_reads(tmp_path, monkeypatch):
    """With the check sums that these files have, its own class reads them."""
    LAYOUTS["python folder"](tmp_path)
    sums = {name: hashlib.md5(content).hexdigest() for name, content in python_files().items()}
    monkeypatch.setattr(CIFAR10, "train_list", [[f"data_batch_{n}", sums[f"data_batch_{n}"]] for n in range(1, 6)])
    monkeypatch.setattr(CIFAR10, "test_list", [["test_batch", sums["test_batch"]]])
    monkeypatch.setattr(CIFAR10, "meta", {**CIFAR10.meta, "md5": sums["batches.meta"]})
    for ours, is_train in ((find(tmp_path).train, True), (find(tmp_path).test, False)):
        theirs = CIFAR10(tmp_path, train=is_train, transform=transforms.ToTensor())
        assert type(ours) is CIFAR10
        assert ours.data.strides == theirs.data.strides
        assert np.array_equal(ours.data, theirs.data)
        assert (ours.targets, ours.classes, ours.class_to_idx) == (theirs.targets, theirs.classes, theirs.class_to_idx)
        assert str(ours) == str(theirs)


def test_its_batches_are_those_of_a_dataloader_and_are_not_read_one_by_one(tmp_path):
    LAYOUTS["python folder"](tmp_path)
    train = find(tmp_path).train
    assert is_quick(train)
    kept = keep(train, budget=0)  # nothing is copied
    assert_like_a_dataloader(train, kept)


def test_it_is_known_by_its_name(tmp_path):
    LAYOUTS["python archive"](tmp_path / "data")
    assert len(splits_of("cifar10", None, tmp_path).train) == 5 * SIZE


def test_places_are_looked_in_from_the_nearest_to_the_farthest(tmp_path):
    root, project = tmp_path / "root", tmp_path / "project"
    for place in (tmp_path / "share" / "datasets" / "cifar-10", project / "data", root):
        LAYOUTS["binary folder"](place)
        assert find(root, project).source == str(place)


def test_when_it_is_nowhere_every_place_and_every_remedy_is_named(tmp_path):
    root, project = tmp_path / "root", tmp_path / "project"
    with pytest.raises(DataNotFoundError) as caught:
        find(root, project)
    message = str(caught.value)
    for place in (root, project / "data", tmp_path / "share" / "datasets" / "cifar-10"):
        assert f"- {place}\n" in message
    for part in (
        "cannot be downloaded",
        "cifar-10-python.tar.gz",
        PYTHON,
        "connect to the network",
        str(root),
        "[1, 28, 28]",
    ):
        assert part in message
    assert not root.exists()
    assert not project.exists()


def test_at_last_it_is_downloaded_checked_and_unpacked_into_the_projects_data(tmp_path, monkeypatch):
    monkeypatch.setattr(urllib.request, "_opener", None)
    for name in PROXIES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    archive = tmp_path / "site" / "cifar-10-python.tar.gz"
    put_archive(archive, PYTHON, python_files())
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(archive.parent))
    monkeypatch.setattr(http.server.SimpleHTTPRequestHandler, "log_message", lambda *_: None)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as site:
        threading.Thread(target=site.serve_forever, daemon=True).start()
        monkeypatch.setattr(CIFAR10, "url", f"http://127.0.0.1:{site.server_port}/{archive.name}")
        with pytest.raises(DataNotFoundError, match="cannot be downloaded"):  # its sum is not that of the true one
            CIFAR10_SET.find(None, tmp_path / "project")
        assert not (tmp_path / "project").exists()
        monkeypatch.setattr(CIFAR10, "tgz_md5", hashlib.md5(archive.read_bytes()).hexdigest())
        splits = CIFAR10_SET.find(None, tmp_path / "project")
        site.shutdown()
    assert len(splits.train) == 5 * SIZE
    assert [path.name for path in (tmp_path / "project" / "data").iterdir()] == [PYTHON]
    assert len(CIFAR10_SET.find(None, tmp_path / "project").train) == 5 * SIZE  # the next time it is there


# -- files that are not what they should be


class Harm:
    """Makes a folder when it is unpickled."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


def test_a_file_that_would_run_something_is_refused_and_runs_nothing(tmp_path):
    files = python_files() | {"data_batch_3": pickle.dumps({"data": Harm(tmp_path / "harm"), "labels": []}, 2)}
    put(tmp_path / "root" / PYTHON, files)
    with pytest.raises(DataNotFoundError, match=r"data_batch_3: it names 'posix\.mkdir'"):
        find(tmp_path / "root")
    assert not (tmp_path / "harm").exists()


def entry(pixels=None, labels=None, **others):
    true_pixels, true_labels = batches()[0]
    return pickle.dumps(
        {
            "data": true_pixels if pixels is None else pixels,
            "labels": true_labels if labels is None else labels,
            **others,
        },
        2,
    )


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("data_batch_2", entry(labels=[1] * (SIZE - 1)), "12 pictures but 11 labels"),
        ("data_batch_2", entry(labels=[1] * (SIZE - 1) + [10]), "class 10 for picture 11, of 10 classes"),
        ("data_batch_2", entry(labels=[-1] * SIZE), "class -1 for picture 0"),
        ("data_batch_2", entry(labels=["cat"] * SIZE), "labels is no list of whole numbers"),
        ("data_batch_2", entry(pixels=np.zeros((SIZE, 3000), np.uint8)), r"data is \(12, 3000\), not \[N, 3072\]"),
        ("data_batch_2", entry(pixels=np.zeros((SIZE, 3072))), "other numbers than bytes"),
        ("data_batch_2", pickle.dumps({"labels": []}, 2), "it lacks 'data'"),
        ("data_batch_2", pickle.dumps([1, 2], 2), "it holds a list, not a dictionary"),
        ("data_batch_2", entry()[:-500], "no whole pickle"),
        ("data_batch_2", b"", "no whole pickle"),
        ("data_batch_2", entry(pixels=np.zeros((0, 3072), np.uint8), labels=[]), "has no pictures"),
        ("data_batch_2", python_files()["data_batch_1"], "has the same pictures as data_batch_1"),
        ("test_batch", python_files()["data_batch_4"], "has the same pictures as data_batch_4"),
        ("test_batch", entry(batch_label=b"training batch 1 of 5"), "it calls itself 'training batch 1 of 5'"),
        ("data_batch_2", entry(batch_label=b"testing batch 1 of 1"), "it calls itself 'testing batch 1 of 1'"),
        ("batches.meta", pickle.dumps({"label_names": []}, 2), "has no names of classes"),
        ("batches.meta", pickle.dumps({"label_names": ["cat"] * 10}, 2), "has the class 'cat' twice"),
    ],
)
def test_a_damaged_file_is_named_with_what_is_wrong(name, content, reason, tmp_path):
    put(tmp_path / PYTHON, python_files() | {name: content})
    with pytest.raises(
        DataNotFoundError, match=f"CIFAR-10 in {tmp_path} is damaged .*{name}.*{reason}.*get them again"
    ):
        find(tmp_path)


def test_a_binary_file_that_ends_early_is_named(tmp_path):
    files = binary_files()
    put(tmp_path / BINARY, files | {"test_batch.bin": files["test_batch.bin"][:-1]})
    with pytest.raises(DataNotFoundError, match=r"test_batch.bin: it has 36,875 bytes.* of 3,073 bytes"):
        find(tmp_path)


def test_an_archive_writes_nothing_wherever_its_members_say_they_belong(tmp_path):
    members = {"../escaped": b"x", f"{tmp_path}/absolute": b"x", f"{PYTHON}/../../up": b"x"}
    put_archive(tmp_path / "root" / "cifar-10-python.tar.gz", PYTHON, python_files(), **members)
    assert len(find(tmp_path / "root").train) == 5 * SIZE
    assert [path.name for path in tmp_path.iterdir()] == ["root"]
    assert [path.name for path in (tmp_path / "root").iterdir()] == ["cifar-10-python.tar.gz"]


def test_a_link_in_an_archive_is_no_file_of_the_set(tmp_path):
    files = python_files()
    del files["test_batch"]
    path = tmp_path / "cifar-10-python.tar.gz"
    put_archive(path, PYTHON, files)
    with tarfile.open(path) as tar, tarfile.open(tmp_path / "linked", "w:gz") as other:
        for member in tar:
            other.addfile(member, tar.extractfile(member))
        link = tarfile.TarInfo(f"{PYTHON}/test_batch")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        other.addfile(link)
    (tmp_path / "linked").rename(path)
    with pytest.raises(DataNotFoundError, match="lacks test_batch"):
        find(tmp_path)


@pytest.mark.parametrize("cut", [10, 1000, -20_000])
def test_an_archive_that_ends_early_is_damaged(cut, tmp_path):
    path = tmp_path / "cifar-10-python.tar.gz"
    put_archive(path, PYTHON, python_files())
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(DataNotFoundError, match=r"CIFAR-10 in .* is damaged .*cifar-10-python\.tar\.gz (cannot|lacks)"):
        find(tmp_path)


def test_a_folder_that_lacks_a_file_is_damaged_unless_there_is_another_whole_one(tmp_path):
    put(tmp_path / PYTHON, {name: content for name, content in python_files().items() if name != "data_batch_3"})
    with pytest.raises(DataNotFoundError, match=rf"{PYTHON} lacks data_batch_3\); delete its files there"):
        find(tmp_path)
    put(tmp_path / BINARY, binary_files())
    assert len(find(tmp_path).train) == 5 * SIZE
