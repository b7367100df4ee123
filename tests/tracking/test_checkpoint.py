"""Saved states under attack: killed while saved, damaged, swapped, malicious; and everything in them comes back."""

import errno
import hashlib
import math
import os
import pickle
import random
import resource
import signal
import stat
import subprocess
import sys
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from runmanager import RunBuilder, RunManager
from runmanager.tracking import checkpoint
from runmanager.tracking.checkpoint import Checkpoints, generators, put_back
from runmanager.tracking.errors import CheckpointError, StorageError
from runmanager.tracking.journal import Journal
from runmanager.tracking.resuming import Keeper
from tests.processes import in_child

STATE = {"weights": torch.arange(6.0).reshape(2, 3), "epoch": 3, "name": "adam", "lrs": [0.1, None], "flag": True}


@pytest.fixture
def checkpoints(tmp_path: Path) -> Checkpoints:
    return Checkpoints(tmp_path / "checkpoints")


def same(a: Any, b: Any) -> bool:
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return isinstance(b, dict) and list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return type(a) is type(b) and len(a) == len(b) and all(map(same, a, b))
    return type(a) is type(b) and repr(a) == repr(b)


def test_a_state_comes_back_as_it_was(checkpoints: Checkpoints) -> None:
    network = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4))
    optimizer = torch.optim.Adam(network.parameters(), lr=0.1)
    network(torch.rand(5, 3)).sum().backward()
    optimizer.step()
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 10)
    state = {
        **STATE,
        "network": network.state_dict(),
        "optimizer": optimizer.state_dict(),
        "schedule": schedule.state_dict(),
        "odd": [math.nan, -0.0, math.inf, 2**70, "", "ünï", (1, 2), {"a": {}}, {1: 2.0}, OrderedDict(b=1), b"\0"],
        "types": [torch.zeros(0), torch.tensor(1, dtype=torch.int8), torch.tensor([1.5], dtype=torch.bfloat16)],
    }
    assert same(checkpoints.load(checkpoints.save(3, state)), state)


def test_a_saved_tensor_is_that_of_then_and_not_of_now(checkpoints: Checkpoints) -> None:
    weights = torch.zeros(3)
    record = checkpoints.save(1, {"weights": weights})
    weights += 1
    assert checkpoints.load(record)["weights"].tolist() == [0, 0, 0]


def test_the_record_names_the_file_its_size_and_its_checksum(checkpoints: Checkpoints) -> None:
    record = checkpoints.save(12, STATE)
    data = (checkpoints.folder / record["file"]).read_bytes()
    assert record == {
        "epoch": 12,
        "file": "epoch-0012.pt",
        "size": len(data),
        "sha256": hashlib.sha256(data).hexdigest(),
    }


def test_saved_states_are_their_owners_alone(checkpoints: Checkpoints) -> None:
    record = checkpoints.save(1, STATE)
    assert stat.S_IMODE(checkpoints.folder.stat().st_mode) == 0o700
    assert stat.S_IMODE((checkpoints.folder / record["file"]).stat().st_mode) == 0o600


def drawn() -> list[Any]:
    return [random.random(), random.gauss(0, 1), np.random.rand(), float(np.random.randn()), torch.rand(3).tolist()]


@pytest.mark.parametrize("draws_before", [0, 1, 2])
def test_the_generators_go_on_where_they_were(checkpoints: Checkpoints, draws_before: int) -> None:
    for _ in range(draws_before):
        drawn()
    record = checkpoints.save(1, STATE)
    expected = [drawn() for _ in range(3)]
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    checkpoints.load(record)
    assert [drawn() for _ in range(3)] == expected


def test_saving_and_loading_draw_no_random_number(checkpoints: Checkpoints) -> None:
    before = generators()
    checkpoints.load(checkpoints.save(1, STATE))
    assert same(generators(), before)


def test_a_process_without_numpy_or_torch_has_only_pythons_generator() -> None:
    script = "import sys\nfrom runmanager.tracking.checkpoint import generators\nprint(list(generators()), 'torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "['python'] False"


def test_a_state_of_a_machine_with_a_gpu_loads_on_one_without(checkpoints: Checkpoints, monkeypatch) -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has one")
    states = generators()
    put_back({**states, "cuda": [torch.get_rng_state()]})


def test_a_file_damaged_at_any_byte_is_refused(checkpoints: Checkpoints) -> None:
    record = checkpoints.save(1, {"weights": torch.zeros(2)})
    file = checkpoints.folder / record["file"]
    whole = file.read_bytes()
    for at in range(0, len(whole), max(1, len(whole) // 150)):
        file.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        with pytest.raises(CheckpointError, match=r"epoch-0001\.pt"):
            checkpoints.load(record)
        file.write_bytes(whole[:at])
        with pytest.raises(CheckpointError, match=r"epoch-0001\.pt"):
            checkpoints.load(record)
    file.write_bytes(whole)
    checkpoints.load(record)


def test_a_file_that_is_gone_or_a_folder_is_refused_by_name(checkpoints: Checkpoints) -> None:
    record = checkpoints.save(1, STATE)
    (checkpoints.folder / record["file"]).unlink()
    with pytest.raises(CheckpointError, match=r"epoch-0001\.pt cannot be read"):
        checkpoints.load(record)
    (checkpoints.folder / record["file"]).mkdir()
    with pytest.raises(CheckpointError, match=r"epoch-0001\.pt cannot be read"):
        checkpoints.load(record)


class Evil:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


def as_torch(content: Any, path: Path) -> None:
    torch.save(content, path)


def as_old_torch(content: Any, path: Path) -> None:
    torch.save(content, path, _use_new_zipfile_serialization=False)


def as_bare_pickle(content: Any, path: Path) -> None:
    path.write_bytes(pickle.dumps(content))


def as_swapped_zip(content: Any, path: Path) -> None:
    """A sound file of torch's with another pickle in it."""
    torch.save({"state": {}, "generators": generators()}, path)
    with zipfile.ZipFile(path) as file:
        members = {name: file.read(name) for name in file.namelist()}
    with zipfile.ZipFile(path, "w") as file:
        for name, data in members.items():
            file.writestr(name, pickle.dumps(content, 2) if name.endswith("data.pkl") else data)


@pytest.mark.parametrize("put", [as_torch, as_old_torch, as_bare_pickle, as_swapped_zip])
@pytest.mark.parametrize("checksum", ["old", "right"])
def test_a_malicious_pickle_is_not_run_even_when_its_checksum_is_right(
    checkpoints: Checkpoints, tmp_path: Path, put: Any, checksum: str
) -> None:
    record = checkpoints.save(1, STATE)
    file = checkpoints.folder / record["file"]
    file.unlink()
    put({"state": Evil(tmp_path / "owned"), "generators": generators()}, file)
    if checksum == "right":
        data = file.read_bytes()
        record = {**record, "size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    with pytest.raises(CheckpointError, match=r"epoch-0001\.pt"):
        checkpoints.load(record)
    assert not (tmp_path / "owned").exists()


@pytest.mark.parametrize(
    "content",
    [[], {}, {"state": {}}, {"state": [1], "generators": None}, {"state": {}, "generators": {"python": 3}}, 3],
)
def test_plain_data_that_is_no_state_is_refused(checkpoints: Checkpoints, content: Any) -> None:
    record = checkpoints.save(1, STATE)
    file = checkpoints.folder / record["file"]
    if isinstance(content, dict) and "generators" in content and content["generators"] is None:
        content = {**content, "generators": generators()}
    torch.save(content, file)
    data = file.read_bytes()
    with pytest.raises(CheckpointError, match=r"epoch-0001\.pt"):
        checkpoints.load({**record, "size": len(data), "sha256": hashlib.sha256(data).hexdigest()})


class Thing:
    pass


NOT_PLAIN = {
    "an object": Thing(),
    "a class": Thing,
    "a function": math.sin,
    "a network": torch.nn.Linear(1, 1),
    "an array": np.zeros(3),
    "a number of numpy": np.float64(1.0),
    "a set": {1, 2},
    "a path": Path("x"),
    "a generator": np.random.default_rng(0),
    "a generator's state": random.Random(0).getstate(),
}


@pytest.mark.parametrize("kind", NOT_PLAIN)
def test_what_could_not_be_loaded_again_is_refused_when_it_is_saved(checkpoints: Checkpoints, kind: str) -> None:
    """Or comes back; but it is never found out only when the run has to go on."""
    try:
        record = checkpoints.save(1, {"fine": 1, "thing": NOT_PLAIN[kind]})
    except (CheckpointError, StorageError, TypeError, ValueError) as error:
        assert "thing" in str(error) or type(NOT_PLAIN[kind]).__name__ in str(error)
        assert not checkpoints.folder.exists() or os.listdir(checkpoints.folder) == []
        return
    assert set(checkpoints.load(record)) == {"fine", "thing"}


def test_keeping_some_drops_the_others_and_what_a_killed_process_left(checkpoints: Checkpoints) -> None:
    names = [checkpoints.save(epoch, STATE)["file"] for epoch in (1, 2, 3)]
    (checkpoints.folder / f".epoch-0004.pt.{2**22 - 3}.tmp").write_text("half")
    checkpoints.keep({names[0], names[2]})
    assert sorted(os.listdir(checkpoints.folder)) == [names[0], names[2]]
    checkpoints.drop()
    assert not checkpoints.folder.exists()
    checkpoints.drop()
    checkpoints.keep({"none"})


def test_files_of_the_users_own_beside_the_states_are_left_alone(checkpoints: Checkpoints) -> None:
    names = [checkpoints.save(epoch, STATE)["file"] for epoch in (1, 2)]
    (checkpoints.folder / "my best.pt").write_text("mine")
    (checkpoints.folder / "notes").mkdir()
    checkpoints.keep({names[1]})
    assert sorted(os.listdir(checkpoints.folder)) == sorted(["my best.pt", "notes", names[1]])


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO, errno.EROFS])
@pytest.mark.parametrize("step", ["open", "fsync", "replace"])
def test_a_state_that_cannot_be_written_is_told_and_the_one_before_stays(
    checkpoints: Checkpoints, monkeypatch: pytest.MonkeyPatch, step: str, number: int
) -> None:
    before = checkpoints.save(1, STATE)

    def fail(*arguments: Any, **keywords: Any) -> Any:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patched:
        if step == "replace":
            patched.setattr(Path, "replace", fail)
        else:
            patched.setattr(os, step, fail)
        with pytest.raises(StorageError, match=r"epoch-0002\.pt"):
            checkpoints.save(2, STATE)
    assert os.listdir(checkpoints.folder) == [before["file"]]
    assert same(checkpoints.load(before), STATE)


def test_a_disk_that_fills_while_a_state_is_saved_leaves_nothing_of_it(checkpoints: Checkpoints) -> None:
    before = checkpoints.save(1, {"weights": torch.zeros(10)})

    def fill() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, resource.RLIM_INFINITY))
        with pytest.raises(StorageError, match=r"epoch-0002\.pt"):
            checkpoints.save(2, {"weights": torch.zeros(20_000)})

    assert in_child(fill) == 0
    assert os.listdir(checkpoints.folder) == [before["file"]]
    checkpoints.load(before)


def dying(call: Any, when: str) -> Any:
    """`call`, in a process that is killed before or after it."""

    def called(*arguments: Any, **keywords: Any) -> None:
        if when == "after":
            call(*arguments, **keywords)
        os.kill(os.getpid(), signal.SIGKILL)

    return called


(RUN,) = RunBuilder.get_runs({"lr": [0.1]})


def epoch(m: RunManager, number: int) -> None:
    m.begin_epoch()
    m.log(x=float(number))
    m.end_epoch(checkpoint={"epoch": number, "weights": torch.full((1000,), float(number))})


STEPS = {
    "open": os,
    "write": checkpoint._Hashing,
    "fsync": os,
    "replace": Path,
    "sync_folder": checkpoint,
    "append": Journal,
    "thin": Keeper,
    "unlink": Path,
}


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("step", STEPS)
def test_a_process_killed_at_any_step_of_a_save_leaves_a_state_that_loads(tmp_path: Path, step: str, when: str) -> None:
    def train() -> None:
        m = RunManager("sweep", root=tmp_path, tensorboard=False, quiet=True)
        m.begin_run(RUN)
        for number in (1, 2, 3):
            epoch(m, number)
        m.begin_epoch()
        m.log(x=4.0)
        setattr(STEPS[step], step, dying(getattr(STEPS[step], step), when))
        m.end_epoch(checkpoint={"epoch": 4, "weights": torch.full((1000,), 4.0)})

    assert in_child(train) == -signal.SIGKILL
    m = RunManager("sweep", root=tmp_path, tensorboard=False, quiet=True)
    m.begin_run(RUN)
    state = m.load_checkpoint()
    assert state is not None
    assert state["epoch"] == m.num_epochs >= 3
    assert state["weights"].tolist() == [float(m.num_epochs)] * 1000
    assert [row["epoch"] for row in m.run_data] == list(range(1, m.num_epochs + 1))
    epoch(m, m.num_epochs + 1)
    m.end_run()
    m.close()
    (folder,) = tmp_path.glob("runs/sweep/*/checkpoints")
    assert not [name for name in os.listdir(folder) if name.startswith(".")]
