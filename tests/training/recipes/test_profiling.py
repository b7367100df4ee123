"""A profile of the first steps: what the trace holds, and that the run does not notice."""

import json
import resource
import warnings
from collections import Counter
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from runmanager.training.recipes.profiling import Profile


def losses(profile: Profile | None, num_steps: int = 6) -> tuple[list[float], list[Tensor]]:
    """The losses and the last weights of a loop written by hand, in which a profile may look on."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.5), nn.Linear(8, 2))
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    found = []
    for _ in range(num_steps):
        if profile:
            profile.before_step()
        loss = F.cross_entropy(network(torch.randn(5, 4)), torch.zeros(5, dtype=torch.long))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if profile:
            profile.after_step()
        found.append(loss.item())
    if profile:
        profile.close()
    return found, list(network.state_dict().values())


def events(file: Path) -> Counter[str]:
    return Counter(event["name"] for event in json.loads(file.read_text())["traceEvents"])


def test_the_trace_has_each_step_and_what_torch_did_in_it(tmp_path: Path) -> None:
    losses(Profile(3, tmp_path / "profile.json"))
    found = events(tmp_path / "profile.json")
    assert found["step"] == 3
    assert found["aten::linear"] == 3 * 2  # two layers in each, and nothing of the steps before and after
    assert found["Optimizer.step#SGD.step"] == 3
    assert [path.name for path in tmp_path.iterdir()] == ["profile.json"]


def test_no_number_of_the_run_changes(tmp_path: Path) -> None:
    found, weights = losses(Profile(2, tmp_path / "profile.json"))
    expected, its_weights = losses(None)
    assert found == expected
    assert all(torch.equal(one, other) for one, other in zip(weights, its_weights, strict=True))


def test_it_is_off_in_the_first_step_and_after_the_last(tmp_path: Path) -> None:
    profile = Profile(2, tmp_path / "profile.json")
    is_on = []
    for _ in range(5):
        profile.before_step()
        is_on.append(torch._C._autograd._profiler_enabled())
        profile.after_step()
    assert is_on == [False, True, True, False, False]
    assert (tmp_path / "profile.json").is_file()  # before anybody closes it
    profile.close()
    assert not torch._C._autograd._profiler_enabled()


def test_a_run_that_is_shorter_than_its_profile_leaves_the_steps_that_it_had(tmp_path: Path) -> None:
    losses(Profile(100, tmp_path / "profile.json"), num_steps=4)
    assert events(tmp_path / "profile.json")["step"] == 3
    losses(Profile(100, tmp_path / "none.json"), num_steps=1)
    assert not (tmp_path / "none.json").exists()


def test_a_step_that_raises_leaves_a_trace_and_no_profiler(tmp_path: Path) -> None:
    profile = Profile(5, tmp_path / "profile.json")
    with pytest.raises(ZeroDivisionError):
        try:
            for step in range(4):
                profile.before_step()
                torch.ones(3).sum()
                1 / (2 - step)
                profile.after_step()
        finally:
            profile.close()
    assert events(tmp_path / "profile.json")["step"] == 2
    assert not torch._C._autograd._profiler_enabled()


def test_a_trace_that_is_there_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "profile.json").write_text("old")
    losses(Profile(1, tmp_path / "profile.json"))
    assert events(tmp_path / "profile.json")["step"] == 1


def test_a_folder_that_is_not_there_is_one_warning_and_the_run_goes_on(tmp_path: Path) -> None:
    with pytest.warns(RuntimeWarning, match="there is no profile of the run") as told:
        found, _ = losses(Profile(2, tmp_path / "nowhere" / "profile.json"))
    assert len(told) == 1
    assert found == losses(None)[0]


def test_a_full_disk_is_one_warning_and_leaves_nothing(tmp_path: Path) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
    try:
        with pytest.warns(RuntimeWarning, match="could not be written") as told:
            found, _ = losses(Profile(3, tmp_path / "profile.json"))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert len(told) == 1
    assert found == losses(None)[0]
    assert list(tmp_path.iterdir()) == []


def test_a_profiler_of_the_users_own_is_left_alone(tmp_path: Path) -> None:
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as own:
        with pytest.warns(RuntimeWarning, match="another profiler is at work"):
            losses(Profile(2, tmp_path / "profile.json"))
        torch.ones(3).sum()
    assert sum(event.name == "aten::linear" for event in own.events()) == 6 * 2
    assert not (tmp_path / "profile.json").exists()


def test_a_profile_that_works_warns_of_nothing(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        losses(Profile(2, tmp_path / "profile.json"))
