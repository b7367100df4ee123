"""The features of a layer are what the network before it, called by hand, gives."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from runmanager.training.features import write_features
from runmanager.training.trainer import TrainerError

INPUTS = torch.rand(11, 1, 6, 6, generator=torch.Generator().manual_seed(0))
TARGETS = torch.arange(11) % 3


def batches():
    return DataLoader(TensorDataset(INPUTS, TARGETS), batch_size=4)


def small_network():
    torch.manual_seed(0)
    body = nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU(inplace=True), nn.Dropout(0.5))
    return nn.Sequential(body, nn.Flatten(), nn.Linear(48, 2))


@pytest.mark.parametrize(("layer", "num_before"), [("0.0", 1), ("0.1", 2), ("0.2", 3), ("0.3", 4), ("0", 4)])
def test_the_file_has_what_the_network_up_to_there_gives(layer, num_before, tmp_path):
    network = small_network()
    network(INPUTS)  # so that its running statistics are not those at the beginning
    shape = write_features(network, layer, batches(), tmp_path / "new" / "features.npz")
    before = network[0][:num_before].eval()
    with torch.no_grad():
        expected = torch.cat([before(inputs).clone() for inputs, _ in batches()])
    with np.load(tmp_path / "new" / "features.npz", allow_pickle=False) as saved:
        assert torch.equal(torch.from_numpy(saved["features"]), expected)
        assert saved["targets"].tolist() == TARGETS.tolist()
        assert saved["layer"] == layer
    assert shape == expected.shape == (11, 3, 4, 4)


def test_the_network_is_left_as_it_was(tmp_path):
    network = small_network().train()
    network[0][1].eval()
    modes = [module.training for module in network.modules()]
    state = {name: value.clone() for name, value in network.state_dict().items()}
    write_features(network, "0", batches(), tmp_path / "features.npz")
    assert [module.training for module in network.modules()] == modes
    assert all(torch.equal(state[name], value) for name, value in network.state_dict().items())
    assert not any(module._forward_hooks for module in network.modules())
    assert network(INPUTS).requires_grad


class Shared(nn.Module):
    def __init__(self):
        super().__init__()
        self.flat, self.layer, self.lstm, self.unused = nn.Flatten(), nn.Linear(36, 36), nn.LSTM(36, 5), nn.Linear(2, 2)
        self.mean = nn.AdaptiveAvgPool1d(1)

    def forward(self, inputs):
        return self.mean(self.lstm(self.layer(self.layer(self.flat(inputs))))[0].T).sum()


def test_of_a_layer_that_is_used_twice_the_last_and_of_several_tensors_the_first_counts(tmp_path):
    torch.manual_seed(0)
    network = Shared()
    one_batch = [(INPUTS, TARGETS)]
    write_features(network, "layer", one_batch, tmp_path / "twice.npz")
    assert write_features(network, "lstm", one_batch, tmp_path / "lstm.npz") == (11, 5)
    with torch.no_grad():
        twice = network.layer(network.layer(INPUTS.flatten(1)))
        first = network.lstm(twice)[0]
    assert torch.equal(torch.from_numpy(np.load(tmp_path / "twice.npz")["features"]), twice)
    assert torch.equal(torch.from_numpy(np.load(tmp_path / "lstm.npz")["features"]), first)


def test_a_network_in_bfloat16_gives_features_that_numpy_can_hold(tmp_path):
    network = nn.Sequential(nn.Flatten(), nn.Linear(36, 2)).bfloat16()
    write_features(network, "1", [(INPUTS.bfloat16(), TARGETS)], tmp_path / "features.npz")
    with torch.no_grad():
        assert np.array_equal(
            np.load(tmp_path / "features.npz")["features"], network(INPUTS.bfloat16()).float().numpy()
        )


@pytest.mark.parametrize(
    ("network", "layer", "data", "said"),
    [
        (
            Shared,
            "lstn",
            batches,
            r"layer='lstn' is unknown; choose flat, layer, lstm, unused, mean; did you mean 'lstm'\?",
        ),
        (small_network, "", batches, "layer='' is unknown; choose 0, 1, 2"),
        (Shared, "unused", batches, "layer='unused' is not used when the network is called"),
        (
            Shared,
            "mean",
            batches,
            r"layer='mean' gives shape \[5, 1\] for a batch of 4; choose one that gives a row for each sample",
        ),
        (small_network, "0", list, "there is no batch"),
        (small_network, "0", lambda: [INPUTS], r"a batch is no \(inputs, targets\) pair of tensors, but a Tensor"),
        (
            lambda: nn.Sequential(nn.Conv2d(1, 1, 3), nn.AdaptiveAvgPool2d(1)),
            "0",
            lambda: [(INPUTS, TARGETS), (INPUTS[:, :, :4], TARGETS)],
            r"rows of different shapes, \[1, 2, 4\] and \[1, 4, 4\]; choose one behind the pooling",
        ),
    ],
)
def test_what_gives_no_features_is_refused_and_an_old_file_is_kept(network, layer, data, said, tmp_path):
    file = tmp_path / "features.npz"
    file.write_text("old")
    with pytest.raises(TrainerError, match=said):
        write_features(network(), layer, data(), file)
    assert file.read_text() == "old"
    assert [one.name for one in tmp_path.iterdir()] == ["features.npz"]


def test_a_file_that_cannot_be_put_in_place_leaves_nothing_beside_it(tmp_path):
    (tmp_path / "features.npz").mkdir()
    with pytest.raises(OSError, match=r"features\.npz"):
        write_features(small_network(), "0", batches(), tmp_path / "features.npz")
    assert [one.name for one in tmp_path.iterdir()] == ["features.npz"]


def test_a_folder_that_is_a_file_is_told(tmp_path):
    (tmp_path / "results").write_text("no folder")
    with pytest.raises(FileExistsError, match="results"):
        write_features(small_network(), "0", batches(), tmp_path / "results" / "features.npz")


def test_a_folder_that_nobody_may_write_is_told_as_itself(tmp_path, monkeypatch):
    """What is dropped after it is not there, and says nothing."""
    monkeypatch.setattr("runmanager.training.features.temporary_for", lambda file: tmp_path / "file" / "temporary")
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(NotADirectoryError) as told:
        write_features(small_network(), "0", batches(), tmp_path / "features.npz")
    assert told.value.__context__ is None
