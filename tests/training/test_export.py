"""An exported network, read in a process that knows nothing of the tool or of the network's code."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from runmanager.tracking.errors import StorageError
from runmanager.training.export import NotExportable, write_program, write_state

READ = """
import sys
import torch
inputs, expected = torch.load(sys.argv[2], weights_only=True)
program = torch.export.load(sys.argv[1]).module()
assert "runmanager" not in sys.modules
for size in (len(inputs), 1, 3):
    assert torch.equal(program(inputs[:size]), expected[:size]) or size != len(inputs)
    assert torch.allclose(program(inputs[:size]), expected[:size], atol=1e-6)
"""


def network() -> nn.Module:
    torch.manual_seed(0)
    made = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Dropout(0.5), nn.Linear(144, 3)
    )
    for _ in range(3):
        made(torch.rand(10, 1, 8, 8))  # so that the running statistics are some
    return made


def test_the_state_dict_loads_strictly_and_without_pickle(tmp_path: Path) -> None:
    one, other = network(), network()
    write_state(one.state_dict(), tmp_path / "net.pt")
    with torch.no_grad():
        for value in other.state_dict().values():
            value.zero_()
    state = torch.load(tmp_path / "net.pt", weights_only=True)
    other.load_state_dict(state, strict=True)
    assert all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True))
    assert state._metadata == one.state_dict()._metadata


def test_a_weight_that_is_a_part_of_more_is_saved_without_the_rest(tmp_path: Path) -> None:
    many = torch.rand(1000, 10)
    write_state({"weight": many[3]}, tmp_path / "net.pt")
    assert (tmp_path / "net.pt").stat().st_size < many.nbytes / 10
    assert torch.equal(torch.load(tmp_path / "net.pt", weights_only=True)["weight"], many[3])


def test_the_program_gives_the_same_bits_elsewhere_for_batches_of_any_size(tmp_path: Path) -> None:
    made = network()
    inputs = torch.rand(7, 1, 8, 8)
    write_program(made, inputs[:2], tmp_path / "net.pt2")
    with torch.no_grad():
        torch.save([inputs, made.eval()(inputs)], tmp_path / "expected")
    words = [sys.executable, "-c", READ, str(tmp_path / "net.pt2"), str(tmp_path / "expected")]
    said = subprocess.run(words, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert said.returncode == 0, said.stderr


class ByValue(nn.Module):
    def forward(self, inputs: Tensor) -> Tensor:
        return inputs if inputs.sum().item() > 0 else -inputs


class OfTwo(nn.Module):
    def forward(self, inputs: Tensor) -> Tensor:
        return inputs.reshape(2, -1) if inputs.shape[0] == 2 else inputs[:1]


@pytest.mark.parametrize("broken", [ByValue, OfTwo])
def test_what_torch_cannot_follow_is_one_line_and_leaves_no_file(broken: type[nn.Module], tmp_path: Path) -> None:
    with pytest.raises(NotExportable) as reason:
        write_program(broken(), torch.rand(2, 3), tmp_path / "net.pt2")
    assert str(reason.value).strip() and "\n" not in str(reason.value) and len(str(reason.value)) <= 300
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_cannot_be_written_leaves_the_old_one(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StorageError, match=r"net\.pt"):
        write_state({}, tmp_path / "file" / "net.pt")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
