"""Saved states that somebody replaced: nothing in them is run, the run says why it cannot go on, and the others do."""

import ast
import builtins
import functools
import hashlib
import io
import os
import pickle
import resource
import shutil
import signal
import tarfile
import zipfile
from contextlib import suppress
from pathlib import Path

import pytest
import torch

from runmanager.tracking.journal import decode_line, encode_line

pytestmark = [
    pytest.mark.filterwarnings("ignore:'torch.load' received a zip file:UserWarning"),
    pytest.mark.filterwarnings("ignore:Detected pickle protocol:UserWarning"),
]
RUNMANAGER = Path(__file__).parents[2] / "runmanager"
BODY = """\
state = m.load_checkpoint() or {"weights": torch.zeros(4), "seen": 0}
for epoch in range(m.num_epochs, 3):
    m.begin_epoch()
    state["seen"] += 1
    m.log(seen=state["seen"], k_seen=state["seen"] * run.k)
    m.end_epoch(checkpoint=state)
    if epoch == 1 and not Path("mended").exists():
        raise RuntimeError("stopped after epoch 2")
"""
NUM_RUNS = 4


class Touches:
    """What a malicious pickle does when it is loaded: makes a file."""

    def __init__(self, canary):
        self._canary = str(canary)

    def __reduce__(self):
        return builtins.open, (self._canary, "w")


class Commands(Touches):
    def __reduce__(self):
        return os.system, (f"touch {self._canary}",)


class Executes(Touches):
    def __reduce__(self):
        return builtins.exec, (f"open({self._canary!r}, 'w')",)


def zipped(thing):
    """As torch.save writes it."""
    buffer = io.BytesIO()
    torch.save({"state": thing, "generators": thing}, buffer)
    return buffer.getvalue()


def old_zipless(thing):
    buffer = io.BytesIO()
    torch.save({"state": thing}, buffer, _use_new_zipfile_serialization=False)
    return buffer.getvalue()


def plain_pickle(thing):
    return pickle.dumps(thing)


def old_tar(thing):
    """As torch wrote it before 0.1.10."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name in ("storages", "tensors", "pickle"):
            data = pickle.dumps(thing)
            about = tarfile.TarInfo(name)
            about.size = len(data)
            tar.addfile(about, io.BytesIO(data))
    return buffer.getvalue()


def script_module(thing):
    """A zip that looks like TorchScript's, which torch.load would hand on to another loader."""
    buffer = io.BytesIO(zipped(thing))
    with zipfile.ZipFile(buffer, "a") as archive:
        archive.writestr("archive/constants.pkl", pickle.dumps(thing))
        archive.writestr("archive/code/__torch__.py", "open('canary', 'w')")
    return buffer.getvalue()


def sound(state):
    """A plain state of torch's, which is not what the run has saved."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return buffer.getvalue()


@functools.cache
def bomb(thing):
    """200 KB that unfold to 200 MB of nothing."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/version", "3\n")
        archive.writestr("archive/data.pkl", b"\0" * 200_000_000)
    return buffer.getvalue()


LOADED = [zipped, old_zipless, plain_pickle]
MALICIOUS = [*LOADED, old_tar, script_module]


_failed = []  # a folder of runs that have failed as below


class Attacked:
    """A sweep of four runs that failed after two epochs, before whose retry somebody touches the saved states of run 2."""

    def __init__(self, project):
        self.project, self.canary = project, project.root / "canary"
        project.by_function(BODY, before="from pathlib import Path\nimport torch", params="{'k': [1, 2, 3, 4]}")
        if _failed:
            shutil.copytree(_failed[0] / "runs", project.root / "runs")
        else:
            project.launch()
            _failed.append(shutil.copytree(project.root, project.root.with_name("failed")))
        assert set(project.statuses().values()) == {"failed"} and len(project.folders()) == NUM_RUNS

    def folder(self, number=2):
        return self.project.folders()[number - 1]

    def states(self, number=2):
        """The files of a run's saved states, oldest first."""
        return sorted((self.folder(number) / "checkpoints").iterdir())

    def replace(self, data, *, forge=False, only_last=False):
        for file in self.states()[-1 if only_last else 0 :]:
            file.write_bytes(data)
            if forge:
                self._forge(file.name, data)

    def _forge(self, name, data):
        """Makes the journal's record of a saved state that of another content, its own checksum included."""
        journal = self.folder() / "journal.jsonl"
        records = [decode_line(line) for line in journal.read_bytes().splitlines()]
        for record in records:
            if record["kind"] == "checkpoint" and record["file"] == name:
                record.update(size=len(data), sha256=hashlib.sha256(data).hexdigest())
            del record["crc"]
        journal.write_bytes(b"".join(map(encode_line, records)))

    def retry(self):
        (self.project.root / "mended").touch()
        return self.project.launch(retry_failed=True).runs

    def refused(self):
        """Launches again: run 2 must fail and say why, the others complete. Returns its error."""
        runs = self.retry()
        assert not self.canary.exists()
        assert [run.status for run in runs] == ["completed", "failed", "completed", "completed"]
        assert [[row.metrics["seen"] for row in run.rows] for run in runs if run.number != 2] == [[1, 2, 3]] * 3
        error = runs[1].error
        assert error.startswith("CheckpointError: ")
        assert str(self.folder() / "checkpoints" / "epoch-0002.pt") in error
        assert "Delete its folder to train it from the start" in error
        assert [row.epoch for row in runs[1].rows] == [1, 2]  # what it had reached is still there to see
        return error


@pytest.fixture
def attacked(project):
    return Attacked(project)


@pytest.fixture
def little_memory():
    """Room for what is there and half a gigabyte more."""
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (used + (1 << 29), before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)


@pytest.mark.parametrize("make", LOADED, ids=lambda make: make.__name__)
@pytest.mark.parametrize("thing", [Touches, Commands, Executes], ids=lambda thing: thing.__name__)
def test_the_attack_works_where_nothing_is_checked(tmp_path, make, thing):
    """Or the tests below would prove nothing."""
    canary = tmp_path / "canary"
    with suppress(Exception):  # what it raises afterwards does not matter
        torch.load(io.BytesIO(make(thing(canary))), weights_only=False)
    assert canary.exists()


@pytest.mark.parametrize("make", MALICIOUS, ids=lambda make: make.__name__)
def test_a_malicious_file_is_known_by_its_checksum(attacked, make):
    attacked.replace(make(Touches(attacked.canary)))
    assert "is not what was saved: its checksum is another one" in attacked.refused()


@pytest.mark.parametrize(
    "thing",
    [Touches, *(pytest.param(thing, marks=pytest.mark.long) for thing in (Commands, Executes))],
    ids=lambda thing: thing.__name__,
)
@pytest.mark.parametrize("make", MALICIOUS, ids=lambda make: make.__name__)
def test_a_malicious_file_runs_nothing_even_if_the_journal_vouches_for_it(attacked, make, thing):
    attacked.replace(make(thing(attacked.canary)), forge=True)
    assert "holds more than plain data, and is not loaded" in attacked.refused()


def test_a_malicious_last_state_costs_one_epoch_when_the_one_before_is_sound(attacked):
    attacked.replace(zipped(Touches(attacked.canary)), forge=True, only_last=True)
    with pytest.warns(RuntimeWarning, match=r"epoch-0002\.pt holds more than plain data.*goes on from epoch 1"):
        runs = attacked.retry()
    assert not attacked.canary.exists()
    assert [run.status for run in runs] == ["completed"] * NUM_RUNS
    assert [row.metrics["seen"] for row in runs[1].rows] == [1, 2, 3]


@pytest.mark.parametrize("part", [0.0, 0.001, 0.5, 0.999], ids=["empty", "a few bytes", "half", "nearly all"])
def test_a_truncated_file_is_refused(attacked, part):
    data = attacked.states()[-1].read_bytes()
    attacked.replace(data[: int(part * len(data))])
    assert "its checksum is another one" in attacked.refused()


@pytest.mark.parametrize("part", [0.0, 0.001, 0.5, 0.999], ids=["empty", "a few bytes", "half", "nearly all"])
def test_a_truncated_file_is_refused_even_if_the_journal_vouches_for_it(attacked, part):
    data = attacked.states()[-1].read_bytes()
    attacked.replace(data[: int(part * len(data))], forge=True)
    attacked.refused()


def test_another_runs_state_is_not_taken_for_ones_own(attacked):
    attacked.replace(attacked.states(3)[-1].read_bytes())
    attacked.refused()


def test_the_states_of_two_runs_that_were_swapped_are_refused_in_both(attacked):
    swapped = {number: [file.read_bytes() for file in attacked.states(number)] for number in (2, 3)}
    assert swapped[2] != swapped[3]
    for number, other in ((2, 3), (3, 2)):
        for file, data in zip(attacked.states(number), swapped[other], strict=True):
            file.write_bytes(data)
    runs = attacked.retry()
    assert [run.status for run in runs] == ["completed", "failed", "failed", "completed"]
    assert all("its checksum is another one" in runs[number].error for number in (1, 2))


def test_an_older_state_of_the_same_run_is_not_taken_for_the_last(attacked):
    first, last = attacked.states()
    last.write_bytes(first.read_bytes())
    with pytest.warns(RuntimeWarning, match="goes on from epoch 1"):
        runs = attacked.retry()
    assert [row.metrics["seen"] for row in runs[1].rows] == [1, 2, 3]


@pytest.mark.parametrize("forge", [False, True], ids=["as it is", "with the journal forged"])
def test_a_small_file_that_unfolds_to_a_huge_one_fails_its_run_alone(attacked, little_memory, forge):
    data = bomb(None)
    assert len(data) < 1_000_000
    attacked.replace(data, forge=forge)
    attacked.refused()


@pytest.mark.parametrize(
    "content",
    [
        [1, 2],
        3,
        "text",
        {},
        {"state": {}},
        {"state": 5, "generators": {}},
        {"state": {}, "generators": {"python": [3, [1], None]}},
    ],
    ids=repr,
)
def test_plain_data_that_is_no_state_is_refused(attacked, content):
    attacked.replace(sound(content), forge=True)
    attacked.refused()


@pytest.mark.parametrize("what", ["missing", "folder", "dangling link", "unreadable link"])
def test_a_file_that_is_none_is_refused(attacked, what):
    for file in attacked.states():
        file.unlink()
        if what == "folder":
            file.mkdir()
        elif what == "dangling link":
            file.symlink_to("nowhere")
        elif what == "unreadable link":
            file.symlink_to(file.name)
    assert "cannot be read" in attacked.refused()


def test_a_named_pipe_in_place_of_a_file_is_refused_and_not_waited_for(attacked):
    for file in attacked.states():
        file.unlink()
        os.mkfifo(file)
    signal.setitimer(signal.ITIMER_REAL, 30)  # which interrupts the launch
    attacked.refused()
    signal.setitimer(signal.ITIMER_REAL, 0)


def test_a_run_whose_folder_is_deleted_as_it_says_is_trained_from_the_start(attacked):
    attacked.replace(zipped(Touches(attacked.canary)))
    attacked.refused()
    shutil.rmtree(attacked.folder())
    runs = attacked.project.launch().runs
    assert [run.status for run in runs] == ["completed"] * NUM_RUNS
    assert [row.metrics["seen"] for row in runs[1].rows] == [1, 2, 3]


@functools.cache
def nodes():
    """All that stands in the package: the file, and a node of its syntax tree."""
    return [(path, node) for path in sorted(RUNMANAGER.rglob("*.py")) for node in ast.walk(ast.parse(path.read_text()))]


def calls():
    """Every call in the package: its file and line, the function's name as it is written, its arguments by keyword."""
    for path, node in nodes():
        if isinstance(node, ast.Call):
            keywords = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
            yield f"{path.relative_to(RUNMANAGER)}:{node.lineno}", ast.unparse(node.func), keywords


def test_the_package_loads_no_pickle_and_executes_no_text():
    forbidden = {
        "eval", "exec", "compile", "os.system", "os.popen", "pickle.load", "pickle.loads", "pickle.Unpickler", "marshal.loads",
        "shelve.open", "yaml.load", "dill.load", "dill.loads", "cloudpickle.loads", "joblib.load", "torch.jit.load",
        "torch.hub.load", "pd.read_pickle", "pandas.read_pickle",
    }  # fmt: skip
    found = list(calls())
    assert len(found) > 1_000
    assert [(where, name) for where, name, _ in found if name in forbidden] == []
    assert [where for where, _, keywords in found if keywords.get("shell", "False") != "False"] == []
    assert [where for where, _, keywords in found if keywords.get("allow_pickle", "False") != "False"] == []
    loads = [keywords.get("weights_only") for _, name, keywords in found if name == "torch.load"]
    assert loads and set(loads) == {"True"}


def test_the_package_imports_nothing_that_loads_pickles():
    dangerous = {"pickle", "_pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal", "yaml"}
    found = []
    for path, node in nodes():
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        found += [(path.name, name) for name in names if name.split(".")[0] in dangerous]
    assert found == [("alike.py", "pickle")]  # which compares what it pickles, and loads nothing: see the test above
    assert not [path for path in RUNMANAGER.rglob("*.py") if "weights_only=False" in path.read_text()]
