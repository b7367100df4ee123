"""Several ranks train a run as one process does; each test's ranks are processes on the CPU, which talk by gloo."""

from contextlib import contextmanager

import pytest
import torch
from distributed_cases import CASES, do
from distributed_ranks import start_ranks

from runmanager.training.distributed import devices_fault
from runmanager.training.distributed_network import data_parallel
from runmanager.training.distributed_team import Meeting, leading, shares

torch.set_num_threads(1)
CLOSE = {torch.float32: 2e-5, torch.float64: 1e-11}  # relative; rounding grows with each step


@contextmanager
def team_of(size):
    with leading(start_ranks, Meeting("", size, "cpu", seconds=60)) as join, join() as team:
        yield team


@pytest.fixture(scope="module", params=[2, 3])
def team(request):
    with team_of(request.param) as team:
        yield team


def together(team, name):
    """What the ranks come to, each with its share."""
    team.say(name)
    return do(name, team)


@pytest.mark.parametrize("name", [name for name in CASES if name != "dropout"])
def test_ranks_come_to_the_losses_and_weights_of_one_process(team, name):
    case = CASES[name]
    losses, val_losses, state = together(team, name)
    losses_alone, val_losses_alone, state_alone = case.train()
    close = {"rtol": CLOSE[case.dtype], "atol": CLOSE[case.dtype]}
    assert losses == pytest.approx(losses_alone, rel=CLOSE[case.dtype])
    assert val_losses == pytest.approx(val_losses_alone, rel=CLOSE[case.dtype])
    assert state.keys() == state_alone.keys()
    for key, value in state.items():
        torch.testing.assert_close(value, state_alone[key], **close)
    assert len(set(losses)) > 3  # it has learned something


def test_norms_that_are_not_synchronised_take_the_statistics_of_each_share(team):
    losses, _, state = together(team, "separate cnn with norms in double")
    losses_alone, _, state_alone = CASES["cnn with norms in double"].train()
    assert losses[0] != pytest.approx(losses_alone[0], rel=1e-6)
    assert losses[0] == pytest.approx(losses_alone[0], rel=0.2)
    assert state["1.num_batches_tracked"] == state_alone["1.num_batches_tracked"]


def test_a_batch_that_is_too_short_to_be_cut_is_normalised_as_in_one_process(team):
    losses, _, state = together(team, "separate norms in short batches")
    losses_alone, _, state_alone = CASES["norms in short batches"].train()
    assert losses == pytest.approx(losses_alone, rel=1e-11)
    for key, value in state.items():
        torch.testing.assert_close(value, state_alone[key], rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("name", ["dropout's states", "states with norms", "separate states with norms"])
def test_all_ranks_have_the_same_state_bit_for_bit(team, name):
    """Validation, which came last, has brought rank 0's statistics to the others."""
    assert together(team, name) == [0] * team.size


def test_dropout_draws_other_masks_on_each_rank_and_in_each_step(team):
    first, second = together(team, "masks")
    own = [first[3 * rank : 3 * rank + 3] for rank in range(team.size)]
    assert all(own[0] != other for other in own[1:])
    assert first != second
    assert together(team, "masks") == [first, second]


def test_a_batch_that_each_rank_takes_whole_has_the_same_masks_on_all(team):
    assert together(team, "masks of a short batch") == [1] * team.size


@pytest.mark.parametrize("name", ["a pair", "a scalar for each sample's half"])
def test_predictions_that_cannot_be_put_together_are_refused(team, name):
    assert "whose first dimension is the batch" in together(team, name)


def test_another_number_on_a_rank_is_told_and_rounding_is_not(team):
    assert "rank 1 has 1.001 as the loss, and rank 0 1;" in together(team, "another number")
    assert together(team, "another rounding") == "nothing"
    assert "rank 1 has nan" in together(team, "no number")


def test_shares_differ_by_one_at_most_and_leave_nothing_out():
    assert [shares(num, 3) for num in (0, 1, 2, 3, 10)] == [[0, 0, 0], [1, 0, 0], [1, 1, 0], [1, 1, 1], [4, 3, 3]]


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"devices": 0}, "devices=0 is not a whole number of 1 or more"),
        ({"devices": True}, "devices=True is not"),
        ({"devices": 2, "parallel": "dpp"}, "parallel='dpp' is unknown; choose 'ddp' or 'dp'"),
        ({"devices": 2, "sync_batchnorm": "yes"}, "sync_batchnorm='yes' is neither True nor False"),
        ({"devices": 2, "parallel": "dp", "sync_batchnorm": True}, "sync_batchnorm=True is of parallel='ddp'"),
        ({"devices": 2, "device": "mps"}, "device is 'mps'; choose 'cuda' or 'cpu'"),
        ({"devices": 2, "parallel": "dp", "how_compiled": True}, "compile and parallel='dp' cannot both be"),
        ({"devices": 2, "device": "cuda:1"}, "device='cuda:1' is a single one; write device='cuda'"),
        ({"devices": 99, "device": "cuda"}, "devices=99, but this process sees "),
    ],
)
def test_devices_that_make_no_sense_are_refused(said, message):
    assert message in devices_fault(**said)


def test_a_mac_is_told_to_use_its_cpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert devices_fault(2) == (
        "devices=2 is for GPUs of CUDA or for the CPU, and device is 'mps'; choose 'cuda' or 'cpu'"
    )


def test_one_device_and_several_processes_on_the_cpu_are_fine():
    assert devices_fault(1) is devices_fault(2, device="cpu") is devices_fault(2, "dp", device="cpu") is None


def test_data_parallel_on_the_cpu_is_the_network_itself():
    network = torch.nn.Linear(2, 2)
    assert data_parallel(network, 2) is network
