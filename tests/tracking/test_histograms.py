"""Histograms are those that torch's SummaryWriter makes, byte for byte, and count what it leaves out."""

import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.tensorboard import SummaryWriter
from torch.utils.tensorboard.summary import histogram as summary_of

from runmanager.tracking.histograms import EDGES, histogram, histograms
from runmanager.tracking.tensorboard import _histogram_value

Message = Callable[[torch.Tensor], bytes]
LAST = float(EDGES[-2])  # torch's SummaryWriter has no bin for what is farther from zero
TYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16]
NUMPY_TYPES = [np.float32, np.float64]


@pytest.fixture(autouse=True)
def no_warnings() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.simplefilter("ignore", ResourceWarning)  # of what an earlier test has left open, at any time
        yield


@pytest.fixture(scope="module")
def theirs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Message]:
    """What torch's SummaryWriter makes of a tensor, by its default bins."""
    with SummaryWriter(str(tmp_path_factory.mktemp("torch"))) as writer:
        yield lambda tensor: summary_of("tag", tensor, writer.default_bins).value[0].SerializeToString()


def ours(tensor: torch.Tensor) -> bytes:
    found, num_not_finite = histograms({"tag": tensor})
    assert num_not_finite == {}
    return _histogram_value("tag", found["tag"]).SerializeToString()


def close_to_edges(dtype: Any) -> np.ndarray:
    """Every edge of torch's bins as a float of this type, and the floats before and after it; the outermost left out."""
    edges = EDGES[1:-1].astype(dtype)
    near = np.concatenate([edges, np.nextafter(edges, dtype(-np.inf)), np.nextafter(edges, dtype(np.inf))])
    return near[np.abs(near.astype(np.float64)) < LAST]


SPECIAL = [0.0, -0.0, 1.4e-45, -1.4e-45, 1e-40, -1e-40, 5e-324, -5e-324, 1e-12, -1e-12, 1.0, -1.0, 65504.0, 9e19, -9e19]
NUMBERS = st.one_of(
    st.sampled_from(SPECIAL),
    st.sampled_from(close_to_edges(np.float64).tolist()),
    st.floats(-9e19, 9e19),
    st.floats(-1.0, 1.0),
)


@settings(max_examples=300, deadline=None)
@given(numbers=st.lists(NUMBERS, min_size=1, max_size=60), dtype=st.sampled_from([torch.float32, torch.float64]))
def test_any_finite_values_give_torchs_bytes(theirs: Message, numbers: list[float], dtype: torch.dtype) -> None:
    values = torch.tensor(numbers, dtype=torch.float64).to(dtype)
    assert ours(values) == theirs(values)


@pytest.mark.parametrize(
    "size", [1, 2, 7, 8, 9, 127, 129, 1000, 23_040, 2**15 - 1, 2**15, 2**15 + 1, 2**16 + 1, 100_003]
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_tensors_of_any_size_give_torchs_bytes(theirs: Message, size: int, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(size)
    for scale in (0.05, 1e-13, 1e17):
        values = scale * torch.randn(size, generator=generator, dtype=dtype)
        assert ours(values) == theirs(values)


@pytest.mark.parametrize("number", [*SPECIAL, 0.1, -0.1])
@pytest.mark.parametrize("size", [1, 5000])
def test_values_that_are_all_equal_give_torchs_bytes(theirs: Message, number: float, size: int) -> None:
    for dtype in (torch.float32, torch.float64):
        values = torch.full((size,), number, dtype=dtype)
        assert ours(values) == theirs(values)


@pytest.mark.parametrize("zeros", [[0.0, -0.0], [-0.0, 0.0], [-0.0], [0.0, -1.0], [-0.0, 1.0], [-0.0] * 40 + [0.0]])
def test_both_zeros_give_torchs_bytes(theirs: Message, zeros: list[float]) -> None:
    assert ours(torch.tensor(zeros)) == theirs(torch.tensor(zeros))


@pytest.mark.parametrize("dtype", NUMPY_TYPES)
def test_values_at_every_edge_and_beside_it_give_torchs_bytes(theirs: Message, dtype: Any) -> None:
    values = torch.from_numpy(close_to_edges(dtype))
    assert ours(values) == theirs(values)
    for value in values[::7]:
        assert ours(value) == theirs(value)


def ends_of_each_16_bits(dtype: Any) -> np.ndarray:
    """The first and the last float of each run of floats whose upper 16 bits are the same: what the search relies on."""
    bits = np.dtype(f"u{np.dtype(dtype).itemsize}").type
    shift = bits(8 * np.dtype(dtype).itemsize - 16)
    first = np.arange(2**16, dtype=bits) << shift
    ends = np.concatenate([first, first | ((bits(1) << shift) - bits(1))]).view(dtype)
    return ends[np.isfinite(ends)]


@pytest.mark.parametrize("dtype", NUMPY_TYPES)
def test_every_part_of_a_types_range_is_counted_as_numpy_counts_it(dtype: Any) -> None:
    values = ends_of_each_16_bits(dtype)
    with np.errstate(over="ignore", invalid="ignore"):
        found = histogram(values)
    counts, _ = np.histogram(values.astype(np.float64), EDGES)
    filled = np.flatnonzero(counts)
    assert found.counts.tolist() == [0, *counts[filled[0] : filled[-1] + 1]]
    assert found.limits.tolist() == EDGES[filled[0] : filled[-1] + 2].tolist()
    assert found.counts.sum() == found.num == len(values)


def test_half_precision_gives_torchs_bytes(theirs: Message) -> None:
    values = torch.randn(5000, generator=torch.Generator().manual_seed(0)).half()
    assert ours(values) == theirs(values)


def test_bfloat16_is_counted_as_the_numbers_that_it_holds(theirs: Message) -> None:
    """Torch's SummaryWriter makes float16 of it first, which loses what is small and what is large."""
    values = (torch.randn(5000, generator=torch.Generator().manual_seed(0)) * 1e10).bfloat16()
    assert ours(values) == theirs(values.float())
    fitting = torch.tensor([0.5, -0.25, 1.0]).bfloat16()
    assert ours(fitting) == theirs(fitting)


IMAGES = torch.randn(4, 3, 5, 7, generator=torch.Generator().manual_seed(0))
LAYOUTS = {
    "four dimensions": IMAGES,
    "channels last": IMAGES.to(memory_format=torch.channels_last),
    "transposed": IMAGES[0, 0].T,
    "every second": IMAGES.reshape(-1)[::2],
    "from the middle": IMAGES.reshape(-1)[3:],
    "expanded": torch.tensor(0.3).expand(50),
    "one number": torch.tensor(-0.7),
    "double, every third": IMAGES.double().reshape(-1)[1::3],
    "needs a gradient": IMAGES.clone().requires_grad_(),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_tensors_of_any_layout_give_torchs_bytes(theirs: Message, layout: str) -> None:
    assert ours(LAYOUTS[layout]) == theirs(LAYOUTS[layout].detach().clone())


def test_tensors_of_many_types_and_sizes_keep_their_own_values(theirs: Message) -> None:
    generator = torch.Generator().manual_seed(0)
    sizes = [3, 70_000, 1, 500, 65_536, 12]
    tensors = {
        f"{number} {dtype}": torch.randn(size, generator=generator).to(dtype) + number
        for number, size in enumerate(sizes)
        for dtype in TYPES
    }
    found, _ = histograms(tensors)
    assert list(found) == list(tensors)
    for tag, tensor in tensors.items():
        exact = tensor.float() if tensor.dtype == torch.bfloat16 else tensor
        message = _histogram_value("tag", found[tag]).SerializeToString()
        assert message == theirs(exact), tag


def test_more_tensors_than_one_copy_brings_keep_their_own_values() -> None:
    sizes = [400_000, 400_000, 400_000, 1, 1_100_000, 2, 3, 1_048_576, 5]
    tensors = {str(number): torch.full((size,), 1.5**number) for number, size in enumerate(sizes)}
    found, _ = histograms(tensors)
    assert [(tag, one.num, one.min, one.max) for tag, one in found.items()] == [
        (tag, len(tensor), tensor[0].item(), tensor[0].item()) for tag, tensor in tensors.items()
    ]


@pytest.mark.parametrize("dtype", NUMPY_TYPES)
def test_values_beyond_torchs_last_bin_are_counted_in_the_outermost(dtype: Any) -> None:
    largest = np.finfo(dtype).max
    with np.errstate(over="ignore", invalid="ignore"):
        found = histogram(np.array([largest, -largest, 1e25, -1e25, 0.5], dtype))
    assert found.counts.sum() == found.num == 5
    assert (found.counts[1], found.counts[-1]) == (2, 2)
    assert found.limits[[0, -1]].tolist() == EDGES[[0, -1]].tolist()


def test_values_that_are_not_finite_are_counted_apart() -> None:
    values = torch.tensor([1.0, float("nan"), 2.0, float("inf"), float("-inf")])
    found, num_not_finite = histograms({"a": values, "b": values[:1], "c": values[3:].double()})
    assert num_not_finite == {"a.non_finite": 3, "c.non_finite": 2}
    assert list(found) == ["a", "b"]
    assert (found["a"].num, found["a"].min, found["a"].max) == (2, 1.0, 2.0)


def test_what_is_left_of_values_that_are_not_all_finite_gives_torchs_bytes(theirs: Message) -> None:
    values = torch.randn(5000, generator=torch.Generator().manual_seed(0))
    values[::3] = float("nan")
    found, _ = histograms({"tag": values})
    assert _histogram_value("tag", found["tag"]).SerializeToString() == theirs(values[values.isfinite()])


def test_a_tensor_without_values_has_no_histogram() -> None:
    found, num_not_finite = histograms({"empty": torch.empty(0, 3), "full": torch.ones(1)})
    assert (list(found), num_not_finite) == (["full"], {})
    assert histograms({}) == ({}, {})


def test_a_sparse_tensor_shows_the_values_that_it_stores(theirs: Message) -> None:
    values = torch.sparse_coo_tensor(
        torch.tensor([[1, 1, 4]]), torch.tensor([1.0, 2.0, 5.0]), (9,), check_invariants=True
    )
    assert ours(values) == theirs(torch.tensor([3.0, 5.0]))


def test_a_complex_tensor_shows_both_its_parts(theirs: Message) -> None:
    values = torch.tensor([1 + 2j, 3 - 4j])
    assert ours(values) == theirs(torch.tensor([1.0, 2.0, 3.0, -4.0]))
    assert ours(values.conj()) == theirs(torch.tensor([1.0, -2.0, 3.0, 4.0]))


def test_counting_changes_no_value() -> None:
    values = torch.randn(1000, generator=torch.Generator().manual_seed(0))
    before = values.clone()
    histograms({"a": values, "b": values[3:]})
    assert torch.equal(values, before)


def test_a_file_of_torchs_writer_has_the_same_histograms(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_file_loader import RawEventFileLoader
    from tensorboard.compat.proto.event_pb2 import Event

    generator = torch.Generator().manual_seed(0)
    tensors = {f"layer{number}": torch.randn(10**number, generator=generator) for number in range(5)}
    with SummaryWriter(str(tmp_path)) as writer:
        for tag, tensor in tensors.items():
            writer.add_histogram(tag, tensor)
    (file,) = tmp_path.iterdir()
    events = [Event.FromString(record) for record in RawEventFileLoader(str(file)).Load()]
    written = {value.tag: value.histo.SerializeToString() for event in events for value in event.summary.value}
    found, _ = histograms(tensors)
    assert {tag: _histogram_value(tag, one).histo.SerializeToString() for tag, one in found.items()} == written
