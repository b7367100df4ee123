"""Fashion-MNIST: where it is looked for, what is said when it is nowhere, and the sample that is shipped."""

import functools
import gzip
import hashlib
import http.server
import importlib.util
import sys
import tempfile
import threading
import urllib.request
from pathlib import Path

import numpy as np
import pytest
import torch
from torchvision.datasets import FashionMNIST

from runmanager.data.fashion_mnist import FILES, DataNotFoundError, fashion_mnist, fashion_mnist_sample
from tests.data.offline import PROXIES

FULL_SET = Path("/usr/share/datasets/fashion-mnist")
SAMPLE = Path(sys.modules[fashion_mnist.__module__].__file__).with_name("fashion_mnist_sample")


def maker():
    """The script that makes the sample."""
    spec = importlib.util.spec_from_file_location("maker", Path(__file__).with_name("make_fashion_mnist_sample.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def tiny_set(num_images):
    """Files of the true format, by name, each packed; the training part has `num_images` images, the test part half."""
    generator = np.random.default_rng(num_images)
    files = {}
    for part, size in (("train", num_images), ("t10k", num_images // 2)):
        images = generator.integers(0, 256, (size, 28, 28), dtype=np.uint8)
        labels = np.arange(size, dtype=np.uint8) % 10
        files[f"{part}-images-idx3-ubyte.gz"] = maker().idx_bytes(images)
        files[f"{part}-labels-idx1-ubyte.gz"] = maker().idx_bytes(labels)
    return files


def put_packed(folder, num_images):
    """The four packed files, as Debian's package has them."""
    folder.mkdir(parents=True)
    for name, data in tiny_set(num_images).items():
        (folder / name).write_bytes(data)


def put_unpacked(folder, num_images):
    """The layout that torchvision leaves."""
    raw = folder / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    for name, data in tiny_set(num_images).items():
        (raw / name.removesuffix(".gz")).write_bytes(gzip.decompress(data))


@pytest.mark.parametrize("put", [put_packed, put_unpacked])
def test_each_layout_gives_the_same_images(put, tmp_path, share):
    put(tmp_path / "root", 20)
    splits = fashion_mnist(tmp_path / "root", tmp_path / "project")
    files = tiny_set(20)
    pixels = np.frombuffer(gzip.decompress(files["train-images-idx3-ubyte.gz"]), np.uint8, offset=16)
    image, label = splits.train[3]
    assert image.shape == (1, 28, 28)
    assert image.dtype == torch.float32
    assert torch.equal((image * 255).round().byte().flatten(), torch.tensor(pixels[3 * 784 : 4 * 784]))
    assert label == 3
    assert (len(splits.train), len(splits.test)) == (20, 10)
    assert splits.validation is None
    assert splits.source == str(tmp_path / "root")


@pytest.mark.parametrize("put", [put_packed, put_unpacked])
def test_places_are_looked_in_from_the_nearest_to_the_farthest(put, tmp_path, share, offline):
    root, project = tmp_path / "root", tmp_path / "project"
    put(share / "datasets" / "fashion-mnist", 10)
    assert len(fashion_mnist(root, project).train) == 10
    put(project / "data", 12)
    assert len(fashion_mnist(root, project).train) == 12
    put(root, 14)
    assert len(fashion_mnist(root, project).train) == 14
    assert len(fashion_mnist(None, project).train) == 12


def test_every_folder_of_the_system_is_looked_in_in_its_order(tmp_path, monkeypatch, offline):
    monkeypatch.setenv("XDG_DATA_DIRS", f"{tmp_path / 'a'}:{tmp_path / 'b'}")
    put_packed(tmp_path / "b" / "datasets" / "fashion-mnist", 10)
    assert len(fashion_mnist(None, tmp_path).train) == 10
    put_packed(tmp_path / "a" / "datasets" / "fashion-mnist", 12)
    assert len(fashion_mnist(None, tmp_path).train) == 12


def test_reading_packed_files_leaves_nothing_behind(tmp_path, share, monkeypatch):
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    put_packed(tmp_path / "root", 20)
    splits = fashion_mnist(tmp_path / "root", tmp_path)
    assert list(temporary.iterdir()) == []
    assert len([splits.train[index] for index in range(20)]) == 20
    assert sorted(path.name for path in (tmp_path / "root").iterdir()) == sorted(FILES)


def test_when_it_is_nowhere_every_place_and_every_remedy_is_named(tmp_path, share, offline):
    root, project = tmp_path / "root", tmp_path / "project"
    with pytest.raises(DataNotFoundError) as caught:
        fashion_mnist(root, project)
    message = str(caught.value)
    for place in (root, project / "data", share / "datasets" / "fashion-mnist"):
        assert f"- {place}\n" in message
    for remedy in ("apt-get install dataset-fashion-mnist", *FILES, "connect to the network", "'fashion_mnist_sample'"):
        assert remedy in message


def test_a_download_that_fails_leaves_no_folder(tmp_path, share, offline):
    with pytest.raises(DataNotFoundError):
        fashion_mnist(tmp_path / "root", tmp_path / "project")
    assert list(tmp_path.iterdir()) == []


def test_a_download_that_fails_prints_nothing_of_its_own(tmp_path, share, offline, capsys):
    with pytest.raises(DataNotFoundError):
        fashion_mnist(None, tmp_path)
    assert capsys.readouterr() == ("", "")


def test_putting_the_files_where_the_message_says_mends_it(tmp_path, share, offline):
    project = tmp_path / "project"
    with pytest.raises(DataNotFoundError, match=f"into {project / 'data'}"):
        fashion_mnist(None, project)
    (project / "data").mkdir(parents=True, exist_ok=True)
    for name, data in tiny_set(10).items():
        (project / "data" / name).write_bytes(data)
    assert len(fashion_mnist(None, project).train) == 10


def test_three_of_the_four_files_are_not_the_set(tmp_path, share, offline):
    put_packed(tmp_path / "data", 10)
    (tmp_path / "data" / FILES[2]).unlink()
    with pytest.raises(DataNotFoundError):
        fashion_mnist(None, tmp_path)


def test_a_damaged_file_is_named(tmp_path, share, offline):
    put_packed(tmp_path / "data", 10)
    damaged = tmp_path / "data" / FILES[0]
    damaged.write_bytes(damaged.read_bytes()[:-500])
    with pytest.raises((ValueError, OSError, EOFError), match=FILES[0]):
        fashion_mnist(None, tmp_path)


def test_at_last_it_is_downloaded_into_the_projects_data(tmp_path, share, monkeypatch):
    monkeypatch.setattr(urllib.request, "_opener", None)
    for name in PROXIES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    put_packed(tmp_path / "site", 10)
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(tmp_path / "site"))
    monkeypatch.setattr(http.server.SimpleHTTPRequestHandler, "log_message", lambda *_: None)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as site:
        threading.Thread(target=site.serve_forever, daemon=True).start()
        sums = [(name, hashlib.md5((tmp_path / "site" / name).read_bytes()).hexdigest()) for name in FILES]
        monkeypatch.setattr(FashionMNIST, "mirrors", [f"http://127.0.0.1:{site.server_port}/"])
        monkeypatch.setattr(FashionMNIST, "resources", sums)
        splits = fashion_mnist(None, tmp_path / "project")
        site.shutdown()
    assert (len(splits.train), len(splits.test)) == (10, 5)
    assert splits.source == str(tmp_path / "project" / "data")
    monkeypatch.setattr(FashionMNIST, "mirrors", [])
    assert len(fashion_mnist(None, tmp_path / "project").train) == 10  # the next time it is there


def test_a_sweep_on_the_full_set_never_trains_on_the_sample_instead(project, share, offline):
    from runmanager.launching.sweep import SweepError

    project.sweep(data="'fashion_mnist'", network="lambda: nn.Sequential(nn.Flatten(), nn.Linear(784, 10))")
    with pytest.raises(SweepError, match="Fashion-MNIST is in none of these folders"):
        project.launch()
    assert not (project.root / "runs").exists()


def test_the_trainers_own_root_is_looked_in_first(project, share, offline):
    put_packed(project.root / "elsewhere", 40)
    project.sweep(
        data="'fashion_mnist'",
        data_root="'elsewhere'",
        network="lambda: nn.Sequential(nn.Flatten(), nn.Linear(784, 10))",
    )
    assert project.launch(limit=1).count("completed") == 1


def test_the_sample_has_equally_many_real_images_of_each_class():
    splits = fashion_mnist_sample()
    assert torch.bincount(splits.train.targets).tolist() == [600] * 10
    assert torch.bincount(splits.test.targets).tolist() == [100] * 10
    image, label = splits.train[0]
    assert image.shape == (1, 28, 28)
    assert 0 < image.mean() < 1
    assert isinstance(label, int)


def test_the_sample_is_small_and_comes_with_its_notice():
    assert sum(path.stat().st_size for path in SAMPLE.iterdir()) < 4_000_000
    notice = (SAMPLE / "NOTICE").read_text()
    assert "MIT" in notice
    assert "Zalando" in notice


@pytest.mark.skipif(not FULL_SET.is_dir(), reason=f"the full set is not in {FULL_SET}")
def test_the_sample_is_what_its_script_makes_from_the_full_set():
    for name, content in maker().make(FULL_SET).items():
        assert gzip.decompress((SAMPLE / name).read_bytes()) == gzip.decompress(content)


@pytest.mark.skipif(not FULL_SET.is_dir(), reason=f"the full set is not in {FULL_SET}")
def test_the_full_set_is_found_where_the_system_has_it(tmp_path, monkeypatch, offline):
    monkeypatch.delenv("XDG_DATA_DIRS", raising=False)
    splits = fashion_mnist(None, tmp_path)
    assert (len(splits.train), len(splits.test)) == (60_000, 10_000)
    assert splits.source == str(FULL_SET)
