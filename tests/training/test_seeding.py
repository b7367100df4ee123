"""A run's random numbers come from its sweep's seed and its parameters, and leave no trace outside."""

import os
import random
import subprocess
import sys

import numpy as np
import pytest
import torch

from runmanager.training.seeding import run_seed, seeded

PARAMS = {"lr": 0.1, "name": "a", "sizes": [1, 2], "flag": True}


def drawn():
    return random.random(), np.random.rand(3).tolist(), torch.rand(3).tolist()


def test_the_same_parameters_have_the_same_seed_in_whatever_order_they_stand():
    assert run_seed(0, PARAMS) == run_seed(0, dict(reversed(PARAMS.items())))


def test_another_sweep_seed_another_value_and_another_replicate_give_other_seeds():
    others = [run_seed(1, PARAMS), run_seed(0, {**PARAMS, "lr": 0.2}), run_seed(0, PARAMS, 2)]
    assert len({run_seed(0, PARAMS), *others}) == 4


def test_true_and_one_have_different_seeds():
    assert run_seed(0, {"flag": True}) != run_seed(0, {"flag": 1})


def test_a_seed_fits_every_generator():
    seeds = [run_seed(0, {"lr": index}) for index in range(200)]
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert len(set(seeds)) == 200


@pytest.mark.parametrize("hash_seed", ["1", "2"])
def test_another_process_has_the_same_seed_and_needs_no_torch_for_it(hash_seed):
    code = (
        "import sys; from runmanager.training.seeding import run_seed\n"
        f"print(run_seed(0, {PARAMS!r}), 'torch' in sys.modules, 'numpy' in sys.modules)"
    )
    environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
    said = subprocess.check_output([sys.executable, "-c", code], env=environment, text=True)
    assert said.split() == [str(run_seed(0, PARAMS)), "False", "False"]


def test_the_same_seed_draws_the_same_from_every_generator():
    with seeded(5):
        once = drawn()
    with seeded(5):
        again = drawn()
    with seeded(6):
        other = drawn()
    assert once == again
    assert all(one != two for one, two in zip(once, other, strict=True))


def test_torch_is_seeded_as_manual_seed_does_it():
    seed = 2**62 + 11
    with seeded(seed):
        inside = torch.rand(4)
    torch.manual_seed(seed)
    assert torch.equal(inside, torch.rand(4))


@pytest.mark.parametrize("fails", [False, True])
def test_the_generators_outside_go_on_as_if_nothing_had_been(fails):
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    expected = drawn()
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    try:
        with seeded(7):
            drawn()
            if fails:
                raise RuntimeError
    except RuntimeError:
        assert fails
    assert drawn() == expected
