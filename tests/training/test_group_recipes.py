"""Averages, batches in pieces and thawed parameters in a group: what each run leaves alone, and its bits when it goes on."""

import pytest
import torch

from tests.training.group_sweeps import RUNS, Sweep, after, assert_close, runs_of, tiny, trainer, with_epochs

RECIPES = {
    "an exponential average": {"average": "ema", "ema_decay": lambda run: 0.9 if run.lr > 0.005 else 0.5},
    "a stochastic average": {"average": "swa", "swa_start": lambda run: 2 if run.lr > 0.005 else 3},
    "pieces": {"accumulate": 3},
    "thawed": {"freeze": ["0.*", "1.*", "5.bias"], "unfreeze": {2: ["0.weight", "5.bias"], 3: "1.*"}},
    "all of these": {
        "average": "swa",
        "swa_start": 2,
        "accumulate": 2,
        "freeze": ["0.*", "5.bias"],
        "unfreeze": {2: "0.*", 4: "5.bias"},
    },
}
each_recipe = pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
each_optimizer = pytest.mark.parametrize("kind", ["SGD", "Adam", "AdamW", "RMSprop", "Adagrad"])


def states(sweep):
    """What was saved last of each run."""
    found = {}
    for folder in sorted(sweep.folder.glob("runs/*/*/checkpoints")):
        found[folder.parent.name[:4]] = torch.load(sorted(folder.glob("epoch-*.pt"))[-1], weights_only=True)["state"]
    return found


@each_recipe
def test_each_run_reaches_and_saves_what_it_does_alone(recipe, tmp_path):
    group = Sweep(tmp_path / "group", trainer(**recipe), RUNS).together()
    alone = Sweep(tmp_path / "alone", trainer(**recipe), RUNS).alone()
    assert_close(group.numbers(), alone.numbers())
    assert list(group.sizes().values()) == [[4] * 4] * 4
    found = states(group)
    for name, state in states(alone).items():
        for part in ("network", "average"):
            assert found[name].get(part, {}).keys() == state.get(part, {}).keys()
        for part in ("network", *(["average"] if "average" in recipe else [])):
            torch.testing.assert_close(tensors(found[name][part]), tensors(state[part]), rtol=1e-4, atol=1e-5)
    assert group.bytes_of_states() == pytest.approx(alone.bytes_of_states(), rel=0.15)


def tensors(content):
    """The tensors of what was saved, by name."""
    flat = {}
    for name, one in content.items():
        flat.update({f"{name}.{key}": value for key, value in tensors(one).items()} if isinstance(one, dict) else {})
        flat.update({name: one} if isinstance(one, torch.Tensor) else {})
    return flat


@each_recipe
@pytest.mark.parametrize("epoch", [1, 2])
def test_a_group_that_goes_on_reaches_the_same_bits(recipe, epoch, tmp_path):
    at_once = Sweep(tmp_path / "a", trainer(**recipe), RUNS).together()
    Sweep(tmp_path / "b", trainer(**recipe), RUNS, stop_when=after(epoch)).together()
    later = Sweep(tmp_path / "b", trainer(**recipe), RUNS).together()
    assert later.numbers() == at_once.numbers()
    for name, state in states(at_once).items():
        found, expected = tensors(states(later)[name]), tensors(state)
        assert found.keys() == expected.keys()
        assert [key for key in expected if not torch.equal(found[key], expected[key])] == []


@each_recipe
def test_runs_go_on_from_either_side(recipe, tmp_path):
    expected = Sweep(tmp_path / "alone", trainer(**recipe), RUNS).alone().numbers()
    for first, second in (("alone", "together"), ("together", "alone")):
        folder = tmp_path / first / "first"
        getattr(Sweep(folder, trainer(**recipe), RUNS, stop_when=after(2)), first)()
        later = getattr(Sweep(folder, trainer(**recipe), RUNS), second)()
        assert_close(later.numbers(), expected)


@each_optimizer
def test_what_is_thawed_begins_with_no_state_of_the_optimizer(kind, tmp_path):
    def optimizer(run, network):
        momentum = {"momentum": 0.9} if kind in ("SGD", "RMSprop") else {}
        return getattr(torch.optim, kind)(network.parameters(), lr=run.lr / 10, weight_decay=0.1, **momentum)

    training = tiny(optimizer=optimizer, freeze=["1.weight", "3.bias"], unfreeze={2: "3.*", 3: "1.*"}, epochs=4)
    alone = Sweep(tmp_path / "alone", training, runs_of()).alone()
    group = Sweep(tmp_path / "group", training, runs_of()).together()
    assert_close(group.numbers(), alone.numbers())
    for name, state in states(alone).items():
        steps = [one.get("step") for one in state["optimizer"]["state"].values()]
        assert [one.get("step") for one in states(group)[name]["optimizer"]["state"].values()] == steps


@pytest.mark.parametrize("recipe", [{"average": "ema", "ema_decay": 0.8}, {"average": "swa", "swa_start": 1}])
def test_those_who_stay_keep_their_averages_when_others_leave(recipe, tmp_path):
    runs = with_epochs(1, 3, 2, 3)
    group = Sweep(tmp_path / "group", tiny(epochs=None, **recipe), runs).together()
    assert_close(group.numbers(), Sweep(tmp_path / "alone", tiny(epochs=None, **recipe), runs).alone().numbers())
    assert group.sizes() == {1: [4], 2: [4, 3, 2], 3: [4, 3], 4: [4, 3, 2]}
