"""Data is loaded once for all runs that need the same, and is the same for each of them."""

import random
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import Dataset, Subset, TensorDataset

from runmanager import RunBuilder
from runmanager.data.resident import resident
from runmanager.data.splits import DataError, Splits
from runmanager.training.loaded import LoadedData
from runmanager.training.reads import recorded
from runmanager.training.rehearsal import whole

HERE = Path()


class Noisy(Dataset):
    """Adds noise from its own generators; its classes are found by reading it, which draws."""

    def __init__(self, size=20, scale=1.0):
        self.size, self.scale = size, scale
        self.numpy, self.torch, self.python = (
            np.random.default_rng(1),
            torch.Generator().manual_seed(2),
            random.Random(3),
        )

    def __len__(self):
        return self.size

    def __getitem__(self, index):
        noise = self.numpy.random() + torch.rand((), generator=self.torch).item() + self.python.random()
        return torch.tensor([index + self.scale * noise]), index % 2


class Late(Noisy):
    """Makes its generator when it is first read."""

    def __init__(self):
        super().__init__()
        self.rng = None

    def __getitem__(self, index):
        self.rng = self.rng or np.random.default_rng(7)
        return torch.tensor([self.rng.random()]), index % 2


def runs(**params):
    return RunBuilder.get_runs({name: list(values) for name, values in params.items()})


def counting(make):
    """A loader of splits, and how often it was called."""
    calls = []

    def load(run):
        calls.append(1)
        return Splits(make(run))

    return load, calls


def get(data, load, run, *, validation=0.2, seed=0, place=HERE, **options):
    return data.splits(load, run, place, validation=validation, seed=seed, **options)


def read(splits):
    return [splits.train[index][0].item() for index in range(len(splits.train))]


def test_runs_that_differ_in_what_is_not_read_share_one_data_set():
    data, (load, calls) = LoadedData(), counting(lambda run: Noisy(run.size))
    first, *others = [get(data, load, run) for run in runs(size=[20], lr=[1, 2, 3])]
    assert len(calls) == 1
    assert all(other is first for other in others)  # the cut is kept too


def test_a_run_that_differs_in_what_is_read_gets_its_own():
    data, (load, calls) = LoadedData(), counting(lambda run: Noisy(run.size))
    sizes = [len(get(data, load, run, validation=0).train) for run in runs(size=[20, 30], lr=[1, 2])]
    assert sizes == [20, 20, 30, 30]
    assert len(calls) == 2


def test_what_is_read_may_depend_on_what_was_read():
    def make(run):
        return Noisy(run.size) if run.kind == "small" else Noisy(50)

    data, (load, calls) = LoadedData(), counting(make)
    every = runs(kind=["small", "large"], size=[10, 20])
    assert [len(get(data, load, run, validation=0).train) for run in every] == [10, 20, 50, 50]
    assert len(calls) == 3


def test_true_and_one_are_not_the_same():
    data, (load, _) = LoadedData(), counting(lambda run: Noisy(20 if run.flag is True else 30))
    assert [len(get(data, load, run, validation=0).train) for run in runs(flag=[True, 1])] == [20, 30]


def test_no_more_than_two_are_kept_and_the_one_not_used_for_longest_goes():
    data, (load, calls) = LoadedData(), counting(lambda run: Noisy(run.size))
    ten, twenty, thirty = runs(size=[10, 20, 30])
    for run in (ten, twenty, ten, thirty, ten):
        get(data, load, run)
    assert len(calls) == 3
    get(data, load, twenty)
    assert len(calls) == 4


def test_there_are_never_more_than_two_in_memory():
    alive = set()

    class Counted(Noisy):
        def __init__(self, size):
            super().__init__(size)
            alive.add(size)
            assert len(alive) <= 2

        def __del__(self):
            alive.discard(self.size)

    data, (load, _) = LoadedData(), counting(lambda run: Counted(run.size))
    for run in runs(size=[10, 20, 30, 40]):
        get(data, load, run)


def test_a_data_set_that_keeps_the_run_is_not_shared_since_it_may_read_more_of_it_later():
    class Keeping(Noisy):
        def __init__(self, run):
            super().__init__()
            self.run = run

        def __getitem__(self, index):
            return torch.tensor([self.run.shift]), index % 2

    data, (load, calls) = LoadedData(), counting(Keeping)
    shifts = [get(data, load, run).train[0][0].item() for run in runs(shift=[1.0, 2.0], lr=[1, 2])]
    assert shifts == [1.0, 1.0, 2.0, 2.0]
    assert len(calls) == 4


def test_each_share_of_validation_has_its_own_cut_of_the_same_data():
    data, (load, calls) = LoadedData(), counting(lambda run: Noisy())
    (run,) = runs(lr=[1])
    sizes = [len(get(data, load, run, validation=share).validation) for share in (0.1, 0.5, 0.1)]
    assert sizes == [2, 10, 2]
    assert len(calls) == 1


def test_another_seed_or_another_place_is_other_data(tmp_path):
    data, (load, calls) = LoadedData(), counting(lambda run: Noisy())
    (run,) = runs(lr=[1])
    for seed, place in ((0, HERE), (1, HERE), (1, tmp_path), (1, tmp_path)):
        get(data, load, run, seed=seed, place=place)
    assert len(calls) == 3


def test_each_run_reads_the_same_alone_and_after_others():
    every = runs(size=[20], share=[0.2, 0.4])

    def first_read(order):
        data, (load, _) = LoadedData(), counting(lambda run: Noisy(run.size))
        return {run: read(get(data, load, run, validation=run.share)) for run in order}

    forward, backward = first_read(every), first_read(every[::-1])
    alone = {run: first_read([run])[run] for run in every}
    assert forward == backward == alone


def test_data_sets_that_share_a_generator_are_put_back_together():
    whole = Noisy(60)
    every = runs(size=[10, 20, 30, 40])

    def first_read(order):
        data, (load, _) = LoadedData(), counting(lambda run: Subset(whole, range(run.size)))
        found = {run: read(get(data, load, run)) for run in order}
        get(data, load, order[0])  # the next one begins where this one did
        return found

    assert first_read(every) == first_read(every[::-1])


def test_what_the_check_has_drawn_does_not_reach_a_run():
    data, (load, _) = LoadedData(), counting(lambda run: Noisy())
    (run,) = runs(lr=[1])
    once = read(get(data, load, run))
    get(data, load, run).train[3]
    assert read(get(data, load, run)) == once


def test_a_generator_that_is_made_late_begins_anew_with_each_run():
    data, (load, _) = LoadedData(), counting(lambda run: Late())
    first, second = (read(get(data, load, run)) for run in runs(lr=[1, 2]))
    assert first == second


def test_what_a_function_draws_is_the_same_for_each_run():
    data, (load, _) = LoadedData(), counting(lambda run: Noisy(size=20, scale=run.n + torch.rand(()).item()))
    scales = [get(data, load, run).train.dataset.scale - run.n for run in runs(n=[0, 1])]
    assert scales[0] == pytest.approx(scales[1], rel=1e-6)


def test_the_generators_of_all_are_left_alone():
    before = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()
    data, (load, _) = LoadedData(), counting(lambda run: Noisy(scale=torch.rand(()).item() + random.random()))
    for run in runs(lr=[1, 2]):
        get(data, load, run)
    assert torch.equal(before[0], torch.get_rng_state())
    assert (np.random.get_state()[1].tolist(), random.getstate()) == before[1:]


def test_who_watches_a_run_is_told_what_its_data_reads_even_where_it_is_there_already():
    data, (load, _) = LoadedData(), counting(lambda run: Noisy(run.size))
    for run in runs(size=[20], lr=[1, 2]):
        reads = set()
        get(data, load, recorded(run, reads))
        assert reads == {"size"}


def test_after_a_load_that_failed_the_next_one_goes_well():
    def make(run):
        if run.lr == 2:
            raise OSError("gone")
        return Noisy()

    data, (load, _) = LoadedData(), counting(make)
    one, two, three = runs(lr=[1, 2, 3])
    once = read(get(data, load, one))
    with pytest.raises(OSError, match="gone"):
        get(data, load, two)
    assert read(get(data, load, three)) == once


def test_runs_of_one_normalisation_share_their_splits_and_those_of_others_share_the_data():
    data, (load, calls) = LoadedData(), counting(lambda run: TensorDataset(torch.randn(20, 3), torch.arange(20) % 2))
    (run,) = runs(lr=[1])
    ways = ["measured", None, (0.5, 0.2), [[0.5], [0.2]], "measured", None]
    first, plain, given, same, *again = [get(data, load, run, normalize=how) for how in ways]
    assert again == [first, plain]
    assert all(one is other for one, other in zip([first, plain, given], [*again, same], strict=True))
    assert len(calls) == 1
    kept = [resident(one.train, "cpu", budget=2**20) for one in (first, plain, given)]
    assert len({one._inputs._values.data_ptr() for one in kept}) == 1
    assert plain.normalization is None


def test_what_is_measured_is_of_the_training_part_of_each_cut():
    inputs = torch.randn(20, 1, generator=torch.Generator().manual_seed(0))
    data, (load, _) = LoadedData(), counting(lambda run: TensorDataset(inputs, torch.arange(20) % 2))
    (run,) = runs(lr=[1])
    for share in (0.2, 0.5):
        splits, cut = (get(data, load, run, validation=share, normalize=how) for how in ("measured", None))
        rows = cut.train.indices
        assert splits.normalization.means == pytest.approx([inputs[rows].double().mean().item()])
        assert torch.equal(splits.validation[0][0], (cut.validation[0][0] - splits.normalization.means[0]).div(
            torch.tensor(splits.normalization.stds)
        ))  # fmt: skip


def test_measuring_changes_no_random_number_of_a_run():
    every = runs(size=[20, 30], share=[0.2, 0.4])

    def read_as_it_was(order):
        data, (load, _) = LoadedData(), counting(lambda run: Noisy(run.size))
        return {run: read(get(data, load, run, validation=run.share, normalize="measured")) for run in order}

    before = torch.get_rng_state(), random.getstate()
    forward, backward = read_as_it_was(every), read_as_it_was(every[::-1])
    assert forward == backward == {run: read_as_it_was([run])[run] for run in every}
    assert torch.equal(before[0], torch.get_rng_state())
    assert random.getstate() == before[1]


def test_after_a_normalisation_that_makes_no_sense_the_next_run_goes_well():
    data, (load, _) = LoadedData(), counting(lambda run: Noisy())
    (run,) = runs(lr=[1])
    once = read(get(data, load, run, normalize="measured"))
    with pytest.raises(DataError, match="3 means"):
        get(data, load, run, normalize=((0.5,) * 3, (0.5,) * 3))
    assert read(get(data, load, run, normalize="measured")) == once


def test_parts_of_normalised_data_are_parts_of_one_data_set():
    data = TensorDataset(torch.rand(20, 2), torch.arange(20) % 2)
    splits = get(LoadedData(), lambda run: Splits(data), runs(lr=[1])[0], normalize="measured")
    assert whole(splits.train) is whole(splits.validation) is data
