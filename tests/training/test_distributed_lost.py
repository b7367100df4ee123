"""A rank that is lost, or does not go on, is told with its reason; and no process is left."""

import pytest
import torch
from distributed_cases import do
from distributed_ranks import ranks_of, start_ranks

from runmanager.training.distributed_team import Meeting, leading
from runmanager.training.settings import TrainerError

pytestmark = pytest.mark.usefixtures("no_process_is_left")


def lost(name, *, seconds=60.0):
    """What is said where a rank of two does not go on."""
    with (
        pytest.raises(TrainerError) as caught,
        leading(start_ranks, Meeting("", 2, "cpu", seconds=seconds)) as join,
        join() as team,
    ):
        team.say(name)
        do(name, team)
    assert not torch.distributed.is_initialized()
    return str(caught.value)


def test_a_rank_that_dies_is_told_with_what_it_had_printed():
    message = lost("die")
    assert message.startswith("rank 1 of 2 is lost: the worker process exited with status 7")
    assert "the device is on fire" in message


def test_a_rank_that_fails_is_told_with_its_error_and_where_it_came_from():
    message = lost("fail")
    assert message.startswith("rank 1 of 2 failed: OverflowError: too much for rank 1")
    assert "in fail" in message


def test_a_rank_that_hangs_is_told_when_its_time_is_over():
    assert lost("hang", seconds=3.0) == "another of the 2 ranks has not answered within 3 s"


def test_a_rank_that_never_comes_is_told_at_once():
    with pytest.raises(TrainerError, match="rank 1 of 2 failed: FileNotFoundError: rank 1 has no data"):
        meeting = Meeting("", 2, "cpu", seconds=60)
        with leading(lambda one: ranks_of("distributed_cases:never_come", one), meeting) as join, join():
            pass


def test_an_error_of_rank_0_is_its_own():
    with pytest.raises(RuntimeError, match="of my own"), leading(start_ranks, Meeting("", 2, "cpu")) as join, join():
        raise RuntimeError("of my own")
