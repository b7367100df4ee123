"""The batches are those of a plain DataLoader, taken by index or loaded, and processes that load them end with their run."""

import multiprocessing
import os
import random
import select
import signal
import time
from collections import namedtuple

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_file_loader import RawEventFileLoader
from tensorboard.compat.proto.event_pb2 import Event
from torch.utils.data import DataLoader, Dataset, Subset, TensorDataset, WeightedRandomSampler

from runmanager import RunManager
from runmanager.data.measuring import normalised
from runmanager.data.splits import DataError, Splits
from runmanager.training.loaders import (
    LoadedBatches,
    NotResident,
    ResidentBatches,
    _begin_loading,
    resident_splits,
)

CPU = torch.device("cpu")


class Drawing(Dataset):
    """Samples of whatever the global generators give."""

    def __len__(self):
        return 12

    def __getitem__(self, index):
        return torch.tensor([index, random.random(), np.random.rand(), torch.rand(())]), 0


class Telling(Dataset):
    """Samples that tell which process loads them, and what it does at Ctrl-C."""

    def __len__(self):
        return 8

    def __getitem__(self, index):
        ignores = signal.getsignal(signal.SIGINT) is signal.SIG_IGN
        return torch.tensor([os.getpid(), ignores]), 0


def loaded(data, num_workers, seed=3):
    """The batches, and what draws their order."""
    order = torch.Generator().manual_seed(seed)
    splits = Splits(data, data)
    return LoadedBatches(splits, order, seed, CPU, batch_size=4, shuffle=True, num_workers=num_workers), order


def inputs_of(batches):
    return [inputs.tolist() for inputs, _ in batches]


@pytest.mark.parametrize("num_workers", [1, 2])
def test_the_batches_are_those_of_a_plain_loader(num_workers):
    batches, _ = loaded(Drawing(), num_workers)
    generator = torch.Generator().manual_seed(3)
    plain = DataLoader(Drawing(), batch_size=4, shuffle=True, num_workers=num_workers, generator=generator)
    first, second = inputs_of(plain), inputs_of(plain)
    assert inputs_of(batches.train()) == first
    assert inputs_of(batches.train()) == second
    assert first != second


@pytest.mark.parametrize("num_workers", [0, 2])
def test_from_where_the_order_stands_the_batches_go_on(num_workers):
    (batches, order), (other, other_order) = loaded(Drawing(), num_workers), loaded(Drawing(), num_workers, seed=4)
    inputs_of(batches.train())
    other_order.set_state(order.get_state())
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    expected = inputs_of(batches.train())
    random.setstate(states[0]), np.random.set_state(states[1]), torch.set_rng_state(states[2])
    assert inputs_of(other.train()) == expected


def test_validation_draws_the_same_each_time_and_changes_no_order():
    (batches, _), (alone, _) = loaded(Drawing(), 1), loaded(Drawing(), 1)
    seen = []
    for _ in range(2):
        seen.append(inputs_of(batches.validation()))
        assert inputs_of(batches.train()) == inputs_of(alone.train())
    assert seen[0] == seen[1]


def test_without_validation_data_there_is_none():
    settings = {"batch_size": 4, "shuffle": False, "num_workers": 0}
    assert LoadedBatches(Splits(Drawing()), torch.Generator(), 0, CPU, **settings).validation() is None


def test_ctrl_c_leaves_the_loading_processes_at_work():
    told = torch.cat([inputs for inputs, _ in loaded(Telling(), 2)[0].train()])
    assert os.getpid() not in told[:, 0].tolist()
    assert told[:, 1].all()


def test_no_process_is_left_when_an_epoch_is_over():
    inputs_of(loaded(Telling(), 2)[0].train())
    assert multiprocessing.active_children() == []


@pytest.mark.skipif(not os.path.exists("/proc"), reason="the system tells no process that its parent is gone")
def test_the_loading_processes_die_with_a_run_that_is_killed():
    alive, held = os.pipe()  # each of them holds one end open as long as it lives
    pid = os.fork()
    if pid == 0:
        try:
            next(loaded(Telling(), 2)[0].train())
            os.kill(os.getpid(), signal.SIGKILL)
        finally:
            os._exit(1)
    os.close(held)
    assert os.waitpid(pid, 0)[1] == signal.SIGKILL
    assert select.select([alive], [], [], 2)[0]
    os.close(alive)


@pytest.mark.skipif(not os.path.exists("/proc"), reason="the system tells no process that its parent is gone")
def test_a_loading_process_that_begins_when_its_run_is_dead_ends(tmp_path):
    """torch's own look at the parent begins with whoever is the parent then."""

    def load(parent):
        while os.getppid() == parent:
            time.sleep(0.01)
        (tmp_path / "is an orphan").touch()
        _begin_loading(0)
        (tmp_path / "goes on").touch()

    alive, held = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            multiprocessing.get_context("fork").Process(target=load, args=[os.getpid()]).start()
        finally:
            os._exit(0)
    os.close(held)
    os.waitpid(pid, 0)
    assert select.select([alive], [], [], 30)[0]
    os.close(alive)
    assert [path.name for path in tmp_path.iterdir()] == ["is an orphan"]


class Pictures(Dataset):
    """Samples that a function of whole numbers makes, as ToTensor does of a picture."""

    def __init__(self):
        self.bytes = torch.randint(256, (23, 2, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))

    def __len__(self):
        return len(self.bytes)

    def __getitem__(self, index):
        return self.bytes[index].float().div(255), index % 3


FLOATS = TensorDataset(torch.randn(23, 4, generator=torch.Generator().manual_seed(0)), torch.arange(23) % 3)
SETS = {
    "kept as bytes": Pictures(),
    "floats": FLOATS,
    "a part of bytes": Subset(Pictures(), [3, 1, 4, 15, 9, 2, 6, 5]),
    "a part of a part": Subset(Subset(FLOATS, range(2, 22)), list(range(0, 20, 2))),
}
each_set = pytest.mark.parametrize("data", SETS.values(), ids=SETS)


def taken(data, orders, shuffles, batch_size=5, **settings):
    splits = Splits(data, data)
    settings |= {"batch_size": batch_size, "shuffles": shuffles}
    return ResidentBatches(resident_splits(splits, CPU), orders, **settings)


def assert_equal(batches, others):
    for batch, other in zip(batches, others, strict=True):
        assert all(map(torch.equal, batch, other))
        assert [part.dtype for part in batch] == [part.dtype for part in other]


@each_set
@pytest.mark.parametrize("shuffle", [True, False])
def test_batches_by_index_are_those_of_a_plain_loader_in_every_epoch(data, shuffle):
    order, other = (torch.Generator().manual_seed(7) for _ in range(2))
    batches = taken(data, [order], [shuffle])
    plain = DataLoader(data, batch_size=5, shuffle=shuffle, generator=other)
    for _ in range(3):
        assert_equal(batches.train(), plain)
        assert torch.equal(order.get_state(), other.get_state())


@each_set
def test_the_validation_batches_by_index_are_those_of_a_plain_loader(data):
    order = torch.Generator()
    before = order.get_state()
    assert_equal(taken(data, [order], [True]).validation(), DataLoader(data, batch_size=5))
    assert torch.equal(order.get_state(), before)


def test_batches_by_index_go_on_from_where_the_order_stands():
    order, later = torch.Generator().manual_seed(7), torch.Generator()
    batches, others = taken(FLOATS, [order], [True]), taken(FLOATS, [later], [True])
    list(batches.train())
    later.set_state(order.get_state())
    assert_equal(others.train(), batches.train())


def test_each_member_of_a_group_has_the_batches_that_it_has_alone():
    shuffles = [True, False, True]
    batches = taken(FLOATS, [torch.Generator().manual_seed(seed) for seed in range(3)], shuffles)
    alone = [taken(FLOATS, [torch.Generator().manual_seed(seed)], [shuffles[seed]]) for seed in range(3)]
    assert not batches.are_shared
    for _ in range(2):
        for (inputs, targets), *each in zip(batches.train(), *(one.train() for one in alone), strict=True):
            assert torch.equal(inputs, torch.stack([its_inputs for its_inputs, _ in each]))
            assert torch.equal(targets, torch.stack([its_targets for _, its_targets in each]))


def test_members_that_are_not_shuffled_share_their_batches():
    batches = taken(FLOATS, [torch.Generator(), torch.Generator()], [False, False])
    assert batches.are_shared
    assert_equal(batches.train(), DataLoader(FLOATS, batch_size=5))


def test_a_member_that_leaves_in_the_middle_of_an_epoch_changes_no_batch_of_the_others():
    def group():
        return taken(FLOATS, [torch.Generator().manual_seed(seed) for seed in range(3)], [True] * 3)

    untouched, batches = group(), group()
    for number, (batch, other) in enumerate(zip(batches.train(), untouched.train(), strict=True)):
        kept = [0, 1, 2] if number < 2 else [0, 2]
        assert_equal([batch], [[part[kept] for part in other]])
        if number == 1:
            batches.keep([0, 2])
    assert_equal(batches.train(), ([part[[0, 2]] for part in batch] for batch in untouched.train()))


def test_those_who_show_samples_see_what_the_data_set_has():
    shown = taken(SETS["a part of bytes"], [torch.Generator()], [True]).shown
    data = SETS["a part of bytes"]
    assert len(shown.dataset) == len(data)
    assert all(torch.equal(shown.dataset[index][0], data[index][0]) for index in range(len(data)))


def test_data_that_draws_is_not_resident():
    with pytest.raises(NotResident):
        resident_splits(Splits(Drawing()), CPU)


# -- samples that are drawn so that all classes come equally often

UNEQUAL = TensorDataset(torch.arange(60.0)[:, None], torch.tensor([0] * 48 + [1] * 9 + [2] * 3))


def weighted(data, targets, generator, **settings):
    """torch's own way, by hand."""
    weights = [1 / targets.count(target) for target in targets]
    sampler = WeightedRandomSampler(weights, len(targets), replacement=True, generator=generator)
    return DataLoader(data, sampler=sampler, generator=generator, **settings)


@pytest.mark.parametrize("shuffle", [True, False])
def test_balanced_batches_are_those_of_a_weighted_sampler_in_every_epoch(shuffle):
    generators = [torch.Generator().manual_seed(7) for _ in range(4)]
    batches = taken(UNEQUAL, generators[:1], [shuffle], samplings=["balanced"])
    settings = {"batch_size": 5, "shuffle": shuffle, "sampling": "balanced"}
    read = LoadedBatches(Splits(UNEQUAL), generators[1], 0, CPU, num_workers=0, **settings)
    processes = LoadedBatches(Splits(UNEQUAL), generators[2], 0, CPU, num_workers=1, **settings)
    plain = weighted(UNEQUAL, UNEQUAL.tensors[1].tolist(), generators[3], batch_size=5)
    for _ in range(2):
        expected = list(plain)
        for one in (batches, read, processes):
            assert_equal(one.train(), expected)
        assert len({generator.get_state().numpy().tobytes() for generator in generators}) == 1


def test_balanced_batches_have_all_classes_alike():
    batches = taken(UNEQUAL, [torch.Generator().manual_seed(1)], [True], samplings=["balanced"])
    drawn = torch.cat([targets for _ in range(50) for _, targets in batches.train()])
    assert torch.bincount(drawn) / len(drawn) == pytest.approx([1 / 3] * 3, abs=0.03)


def test_a_part_is_balanced_by_its_own_samples():
    part = Subset(UNEQUAL, [0, 1, 2, 50, 59, 58])
    batches = taken(part, [torch.Generator().manual_seed(3)], [True], samplings=["balanced"])
    plain = weighted(part, [0, 0, 0, 1, 2, 2], torch.Generator().manual_seed(3), batch_size=5)
    assert_equal(batches.train(), plain)


def test_each_member_of_a_group_draws_its_samples_as_it_does_alone():
    ways = [("balanced", True), (None, True), ("balanced", False), (None, False)]

    def group(numbers):
        generators = [torch.Generator().manual_seed(number) for number in numbers]
        samplings, shuffles = zip(*[ways[number] for number in numbers], strict=True)
        return taken(UNEQUAL, generators, shuffles, samplings=samplings)

    together, alone = group(range(4)), [group([number]) for number in range(4)]
    for (inputs, targets), *each in zip(together.train(), *(one.train() for one in alone), strict=True):
        assert torch.equal(inputs, torch.stack([its_inputs for its_inputs, _ in each]))
        assert torch.equal(targets, torch.stack([its_targets for _, its_targets in each]))
    together.keep([1, 2])
    for (inputs, _), *each in zip(together.train(), *(alone[number].train() for number in (1, 2)), strict=True):
        assert torch.equal(inputs, torch.stack([its_inputs for its_inputs, _ in each]))


def test_members_that_draw_their_samples_do_not_share_batches():
    assert not taken(UNEQUAL, [torch.Generator()] * 2, [False] * 2, samplings=["balanced"] * 2).are_shared
    assert taken(UNEQUAL, [torch.Generator()] * 2, [False] * 2, samplings=[None] * 2).are_shared


def test_an_unknown_sampling_or_targets_that_are_no_classes_are_told():
    numbers = TensorDataset(torch.zeros(4, 1), torch.rand(4))
    settings = {"batch_size": 2, "shuffle": True, "num_workers": 0}
    for data, sampling, reason in ((UNEQUAL, "even", "sampling='even' is unknown"), (numbers, "balanced", "classes")):
        with pytest.raises(DataError, match=reason):
            taken(data, [torch.Generator()], [True], samplings=[sampling])
        with pytest.raises(DataError, match=reason):
            LoadedBatches(Splits(data), torch.Generator(), 0, CPU, sampling=sampling, **settings)


# -- what people are shown of normalised inputs


def pictures_shown(root, shown):
    """The image grid and the graph that a run has in TensorBoard."""
    Run = namedtuple("Run", ["lr"])
    m = RunManager("sweep", root=root, quiet=True)
    m.begin_run(Run(0.1), torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 6 * 6, 2)), shown)
    m.begin_epoch()
    m.track_loss(torch.tensor(1.0), [0])
    m.end_epoch()
    m.end_run()
    m.close()
    (file,) = (path for path in root.rglob("events.out.tfevents*") if not path.name.endswith(".end"))
    events = [Event.FromString(data) for data in RawEventFileLoader(str(file)).Load()]
    values = [value for event in events for value in event.summary.value if value.tag == "images"]
    assert any(event.graph_def for event in events)
    return values[0].image.encoded_image_string


def test_tensorboard_shows_normalised_pictures_as_they_were(tmp_path):
    colours = torch.randint(20, 200, (40, 3, 6, 6), generator=torch.Generator().manual_seed(0)).float() / 255
    data = TensorDataset(colours, torch.arange(40) % 2)
    plain, splits = Splits(data, data), normalised(Splits(data, data), ((0.5, 0.4, 0.3), (0.2, 0.1, 0.3)))
    settings = {"batch_size": 4, "shuffle": False, "num_workers": 0}
    expected = pictures_shown(tmp_path / "plain", LoadedBatches(plain, torch.Generator(), 0, CPU, **settings).shown)
    kept = ResidentBatches(resident_splits(splits, CPU), [torch.Generator()], batch_size=4, shuffles=[False])
    read = LoadedBatches(splits, torch.Generator(), 0, CPU, **settings)
    assert torch.equal(next(kept.train())[0], next(read.train())[0])
    assert not torch.equal(next(kept.train())[0], colours[:4])
    assert torch.equal(kept.shown.dataset[3][0], splits.train[3][0])  # the graph is traced with what the network gets
    assert pictures_shown(tmp_path / "kept", kept.shown) == expected
    assert pictures_shown(tmp_path / "read", read.shown) == expected
