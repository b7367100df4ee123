"""What counts as a change of the code or of the data, and what does not."""

import json
import os
import random
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import Dataset, IterableDataset, TensorDataset

from runmanager.data.measuring import normalised
from runmanager.data.splits import Splits
from runmanager.launching.code import code_of, data_fingerprint, device_names
from runmanager.launching.code_changes import code_changes

SWEEP = """\
from collections import OrderedDict

import torch

from networks.small import Small
from runmanager import Sweep, Trainer

lrs = [0.1, 0.01]
params = OrderedDict(lr=lrs, batch_size=[10, 20])
width = 4

def make(run):
    return Small(width)

sweep = Sweep(params=params, trainer=Trainer(network=make, epochs=3), objective="val_loss", seed=1)
"""
SMALL = '''\
from networks.layers import linear

class Small:
    """A small one."""

    def __init__(self, width):
        self.out = linear(width, 2)  # two classes
'''


@pytest.fixture
def files(project, monkeypatch):
    """Writes files of a project; their names may lead into folders."""
    monkeypatch.syspath_prepend(str(project.root))

    def write(**texts: str) -> None:
        for name, text in texts.items():
            path = project.root / f"{name.replace('__', '/', 1)}.py"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)

    write(
        sweeps__tiny=SWEEP,
        networks__small=SMALL,
        networks__layers="def linear(a, b):\n    return a * b\n",
        other="x = 1",
    )
    return write


@pytest.fixture
def code(project):
    """The code of the sweep as it stands."""
    return lambda: code_of(project.root / "sweeps" / "tiny.py", project.root)


@pytest.fixture
def changed(files, code):
    """What counts as changed after a text in the sweep file was replaced by another."""

    def change(old: str, new: str) -> list[str]:
        before = code()
        assert SWEEP.count(old) == 1
        files(sweeps__tiny=SWEEP.replace(old, new))
        return code_changes(before, code())

    return change


def test_the_code_is_the_sweep_file_and_what_it_leads_to(files, code):
    assert list(code()) == ["networks/layers.py", "networks/small.py", "sweeps/tiny.py"]
    assert code() == code()
    assert "networks.small" not in sys.modules  # nothing was imported to find out


def test_what_is_imported_while_a_run_is_trained_counts_from_the_start(files, code):
    files(sweeps__tiny="def train(run, m):\n    import networks.small as small\n")
    assert list(code()) == ["networks/layers.py", "networks/small.py", "sweeps/tiny.py"]


def test_packages_and_relative_imports_are_followed(files, code):
    files(
        parts____init__="from . import one\n", parts__one="from .two import x\n", parts__two="x = 1\n", parts__three=""
    )
    files(sweeps__tiny="from parts import one\nfrom runmanager import Sweep\nfrom .nowhere import x\n")
    assert list(code()) == ["parts/__init__.py", "parts/one.py", "parts/two.py", "sweeps/tiny.py"]


def test_files_that_import_each_other_are_all_found(files, code):
    files(networks__layers="from networks.small import Small\n")
    assert "networks/layers.py" in code()


def test_what_else_this_process_has_imported_plays_no_part(files, code):
    before = code()
    __import__("other")
    try:
        assert code() == before
    finally:
        del sys.modules["other"]


def test_imports_by_a_name_that_is_worked_out_are_taken_from_what_is_loaded(files, code, project):
    text = "from importlib import import_module\nmodule = import_module('ot' + 'her')\n"
    files(sweeps__tiny=text)
    __import__("other")
    try:
        assert list(code()) == ["other.py", "sweeps/tiny.py"]
        assert list(code_of(None, project.root)) == ["other.py"]
    finally:
        del sys.modules["other"]


def test_libraries_and_hidden_files_in_the_project_are_not_its_code(files, code, project, monkeypatch):
    for folder in ("env/lib", ".hidden", "lib/site-packages"):
        name = "of_" + folder.split("/")[-1].strip(".").replace("-", "_")
        (project.root / folder).mkdir(parents=True)
        (project.root / folder / f"{name}.py").write_text("")
        monkeypatch.syspath_prepend(str(project.root / folder))
    (project.root / "env" / "pyvenv.cfg").write_text("")
    files(sweeps__tiny="import of_lib, of_hidden, of_site_packages, networks.layers\n")
    assert list(code()) == ["networks/layers.py", "sweeps/tiny.py"]


def test_runmanager_itself_is_not_the_projects_code_in_a_checkout():
    root = Path(__file__).parents[2]
    found = code_of(root / "sweeps" / "quickstart.py", root)
    assert list(found) in (["networks/fashion_cnn.py", "sweeps/quickstart.py"], ["sweeps/quickstart.py"])
    assert not any(name.startswith("runmanager/") for name in code_of(None, root))


def test_changes_are_named_file_by_file(files, code, project):
    before = code()
    files(networks__layers="def linear(a, b):\n    return a + b\n", networks__small="import networks.layers, other\n")
    changed = code_changes(before, code())
    assert changed == ["networks/layers.py has changed", "networks/small.py has changed", "other.py is new"]
    (project.root / "networks" / "layers.py").unlink()
    assert code_changes(before, code())[0] == "networks/layers.py is gone"


def test_comments_docstrings_and_formatting_change_nothing(files, code):
    before = code()
    files(
        networks__small=SMALL.replace('"A small one."', '"Still small."').replace(
            "(width, 2)  # two", "(\n width, 2)  #"
        )
    )
    files(networks__layers='"""Layers."""\ndef linear(a, b):\n    "Multiplies."\n    return (a*b)  # fast\n')
    assert code_changes(before, code()) == []


def test_numbers_names_and_texts_change_what_a_file_says(files, code):
    for text in (
        "x = 1",
        "x = 1.0",
        "x = True",
        "x = None",
        "x = '1'",
        "x = b'1'",
        "y = 1",
        "x = [1]",
        "x = (1,)",
        "x = -1",
    ):
        before = code()
        files(networks__layers=text)
        assert code_changes(before, code()) == ["networks/layers.py has changed"], text


def test_a_file_that_is_no_python_counts_by_its_bytes(files, code):
    files(networks__layers="print 'old'")
    before = code()
    assert code() == before
    files(networks__layers="print 'older'")
    assert code_changes(before, code()) == ["networks/layers.py has changed"]
    files(networks__layers="x = " + "+".join(["1"] * 5_000))
    before = code()
    files(networks__layers="x = " + "+".join(["1"] * 5_001))
    assert code_changes(before, code()) == ["networks/layers.py has changed"]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("lrs = [0.1, 0.01]", "lrs = [0.1, 0.01, 0.001]"),
        ("lrs = [0.1, 0.01]", "lrs = [0.1]\nlrs += [0.01]"),
        ("batch_size=[10, 20])", "batch_size=[10, 20], momentum=[0.9])\nparams['dropout'] = [0.1]"),
        ("params=params", "params"),
        ("params=params", "params={**params, 'x': [1]}"),
        ("import torch\n", "import torch\nimport numpy as np\n\nmore = np.logspace(-3, -1, 3).tolist()\nlrs = more\n"),
        ('objective="val_loss"', 'objective="val_accuracy", mode="max", name="other"'),
        ("seed=1)", "seed=1)\n\nif __name__ == '__main__':\n    print(params, width)\n"),
    ],
)
def test_growing_the_grid_is_no_change_of_the_code(changed, old, new):
    assert changed(old, new) == []


def test_a_grid_may_move_into_the_sweep(files, code):
    before = code()
    begin, _, end = SWEEP.partition("lrs =")
    inline = begin.replace("from collections import OrderedDict\n", "") + end[end.index("width") :]
    files(sweeps__tiny=inline.replace("params=params", "params={'lr': [0.5]}"))
    assert "lrs" not in inline and code_changes(before, code()) == []


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("width = 4", "width = 5"),
        ("epochs=3", "epochs=4"),
        ("seed=1", "seed=2"),
        ("return Small(width)", "return Small(width + 1)"),
        ("seed=1)", "seed=1)\ntorch.set_num_threads(1)"),
    ],
)
def test_what_decides_what_a_run_reaches_is_a_change(changed, old, new):
    assert changed(old, new) == ["sweeps/tiny.py has changed"]


def test_a_part_of_the_grid_that_something_else_reads_is_code(files, code):
    reads = SWEEP.replace("Small(width)", "Small(len(lrs))")
    files(sweeps__tiny=reads)
    before = code()
    files(sweeps__tiny=reads.replace("batch_size=[10, 20]", "batch_size=[10]"))
    assert code_changes(before, code()) == []
    files(sweeps__tiny=reads.replace("lrs = [0.1, 0.01]", "lrs = [0.1]"))
    assert code_changes(before, code()) == ["sweeps/tiny.py has changed"]


def test_a_functions_own_variable_does_not_make_the_grid_code(files, code):
    local = SWEEP.replace("    return Small", "    params = [width]\n    return Small")
    files(sweeps__tiny=local)
    before = code()
    files(sweeps__tiny=local.replace("lr=lrs", "lr=lrs, momentum=[0.9]"))
    assert code_changes(before, code()) == []


def test_a_network_that_is_only_in_the_grid_is_code_all_the_same(files, code):
    files(sweeps__tiny=SWEEP.replace("lr=lrs", "network=[Small]").replace("Small(width)", "run.network(width)"))
    before = code()
    files(networks__small=SMALL.replace("(width, 2)", "(width, 3)"))
    assert code_changes(before, code()) == ["networks/small.py has changed"]


class Noisy(Dataset):
    """Samples with noise from one of the generators that there are."""

    def __init__(self, noise):
        self.noise = noise

    def __len__(self):
        return 100

    def __getitem__(self, index):
        return torch.full((3,), index) + self.noise(), index % 2


def fingerprint(train, **others):
    return data_fingerprint(Splits(train, source="here", **others))


def test_the_data_is_told_by_its_size_and_its_samples():
    inputs, targets = torch.rand(100, 4), torch.arange(100)
    about = fingerprint(TensorDataset(inputs, targets), validation=TensorDataset(inputs[:10]))
    assert json.loads(json.dumps(about)) == about
    assert (about["source"], about["num_train"], about["num_validation"]) == ("here", 100, 10)
    assert about == fingerprint(TensorDataset(inputs.clone(), targets.clone()), validation=TensorDataset(inputs[:10]))
    shas = {about["sha256"]}
    for other in (inputs + 0.1, inputs.double(), inputs.reshape(100, 2, 2), inputs.flip(0)):
        shas.add(fingerprint(TensorDataset(other, targets))["sha256"])
    shas.add(fingerprint(TensorDataset(inputs, targets + 1))["sha256"])
    assert len(shas) == 6


def test_the_fingerprint_is_of_the_data_as_it_was_before_it_was_normalised():
    splits = Splits(TensorDataset(torch.rand(100, 4), torch.arange(100)), source="here")
    for one in (splits, splits.with_validation(0.2, 0)):
        assert data_fingerprint(normalised(one, "measured")) == data_fingerprint(one)
        assert "sha256" in data_fingerprint(one)


@pytest.mark.parametrize(
    "noise", [lambda: torch.rand(3), lambda: random.random(), lambda: torch.from_numpy(np.random.rand(3))]
)
def test_augmentation_neither_changes_the_fingerprint_nor_is_changed_by_it(noise):
    before = noise()
    states = random.getstate(), torch.get_rng_state(), np.random.get_state()[1].tolist()
    first = fingerprint(Noisy(noise))
    assert states[0] == random.getstate() and torch.equal(states[1], torch.get_rng_state())
    assert states[2] == np.random.get_state()[1].tolist()
    noise()
    assert "sha256" in first and fingerprint(Noisy(noise)) == first
    assert not torch.equal(torch.as_tensor(before), torch.as_tensor(noise()))


def test_data_that_keeps_its_own_generator_has_no_digest_and_is_left_as_it_was():
    own = np.random.default_rng(0)
    data = Noisy(own.random)
    data.generator = own
    state = own.bit_generator.state
    assert fingerprint(data) == {"source": "here", "num_train": 100, "num_validation": 0}
    assert own.bit_generator.state == state


class Endless(IterableDataset):
    def __iter__(self):
        yield 1


class Broken(Noisy):
    def __getitem__(self, index):
        raise OSError("the disk is gone")


@pytest.mark.parametrize("data", [Endless(), Broken(None), object()])
def test_data_without_a_length_or_without_samples_has_its_source_alone(data):
    assert fingerprint(data) == {"source": "here"}


def test_any_kind_of_sample_has_the_same_digest_in_another_process(tmp_path, capsys):
    """Addresses and the order of sets differ from process to process."""
    script = tmp_path / "kinds.py"
    script.write_text(
        "import numpy as np, torch\nfrom PIL import Image\nfrom runmanager.data.splits import Splits\n"
        "from runmanager.launching.code import data_fingerprint\n"
        "class Thing: pass\n"
        "kinds = [Image.new('RGB', (4, 3), 'red'), 3, 2.5, 'text', None, Thing(), {'a': torch.ones(2).bfloat16()},\n"
        "    np.arange(3), np.array([Thing(), 'x'], dtype=object), {'some', 'of', 'these', 'words'}, (1, [True]),\n"
        "    torch.ones(()), torch.ones(2, dtype=torch.complex64), lambda: 1, np.float32(2)]\n"
        "print(*[data_fingerprint(Splits([(kind, 0)]))['sha256'] for kind in kinds])\n"
    )
    environment = {**os.environ, "PYTHONHASHSEED": "2" if os.environ.get("PYTHONHASHSEED") == "1" else "1"}
    there = subprocess.run([sys.executable, script], env=environment, capture_output=True, text=True, check=True).stdout
    runpy.run_path(str(script), run_name="__main__")
    assert capsys.readouterr().out == there
    assert len(set(there.split())) == 15


def test_images_are_told_apart_by_their_pixels():
    pictures = [Image.new("L", (4, 3), grey) for grey in (1, 2)]
    assert len({fingerprint([(picture, 0)])["sha256"] for picture in [*pictures, pictures[0].convert("RGB")]}) == 3


def test_the_devices_begin_with_the_processor():
    names = device_names()
    assert names[0] and len(names) == 1 + torch.cuda.device_count()
