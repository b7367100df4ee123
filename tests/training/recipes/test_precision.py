"""Precision and speed: each recipe is the loop that one would write by hand, to the bit."""

import copy
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import clip_grad_norm_

from runmanager import RunBuilder, Trainer
from runmanager.tracking.tensorboard import _trace
from runmanager.training.recipes.precision import (
    channels_last,
    compile_fault,
    compiled,
    cudnn_benchmark,
    inputs_channels_last,
    pieces,
    precision_of,
)
from runmanager.training.settings import TrainerError

SUM = nn.CrossEntropyLoss(reduction="sum")

CPU = torch.device("cpu")
DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16}


class Small(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.norm, self.head = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Linear(4 * 6 * 6, 5)

    def forward(self, inputs):
        return self.head(F.relu(self.norm(self.conv(inputs))).flatten(1))


def network():
    torch.manual_seed(0)
    return Small()


def batches(count=6, size=8):
    draws = torch.Generator().manual_seed(1)
    for _ in range(count):
        yield torch.randn(size, 3, 8, 8, generator=draws), torch.randint(5, (size,), generator=draws)


def sgd(network):
    return torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9)


def train(network, optimizer, precision, data, clip_norm=None, spoil=None):
    """With our precision, None for the network's own; the gradients of step number `spoil` are made infinite."""
    for step, (inputs, targets) in enumerate(data):
        optimizer.zero_grad()
        if precision is None:
            F.cross_entropy(network(inputs), targets).backward()
            optimizer.step()
            continue
        with precision.autocast():
            loss = F.cross_entropy(network(inputs), targets)
        precision.backward(loss)
        if step == spoil:
            network.head.bias.grad[0] = torch.inf
        if clip_norm:
            precision.before_clip(optimizer)
            clip_grad_norm_(network.parameters(), clip_norm)
        precision.step(optimizer)


def same(one, other):
    mine, theirs = one.state_dict(), other.state_dict()
    return mine.keys() == theirs.keys() and all(torch.equal(mine[name], theirs[name]) for name in mine)


@pytest.mark.parametrize("clip_norm", [None, 0.5])
def test_without_a_scaler_the_steps_are_those_by_hand(clip_norm):
    ours, by_hand = network(), network()
    train(ours, sgd(ours), precision_of("bf16", CPU), batches(), clip_norm)
    optimizer = sgd(by_hand)
    for inputs, targets in batches():
        optimizer.zero_grad()
        with torch.amp.autocast("cpu", torch.bfloat16):
            loss = F.cross_entropy(by_hand(inputs), targets)
        loss.backward()
        if clip_norm:
            clip_grad_norm_(by_hand.parameters(), clip_norm)
        optimizer.step()
    assert same(ours, by_hand)


@pytest.mark.parametrize("clip_norm", [None, 0.5])
def test_scaled_steps_in_float16_are_those_by_hand(clip_norm):
    ours, by_hand = network(), network()
    train(ours, sgd(ours), precision_of("fp16", CPU), batches(), clip_norm)
    optimizer, scaler = sgd(by_hand), torch.amp.GradScaler("cpu")
    for inputs, targets in batches():
        optimizer.zero_grad()
        with torch.amp.autocast("cpu", torch.float16):
            loss = F.cross_entropy(by_hand(inputs), targets)
        scaler.scale(loss).backward()
        if clip_norm:
            scaler.unscale_(optimizer)
            clip_grad_norm_(by_hand.parameters(), clip_norm)
        scaler.step(optimizer)
        scaler.update()
    assert same(ours, by_hand)


def test_half_precision_computes_in_that_type_and_its_numbers_differ():
    for amp, dtype in DTYPES.items():
        ours, plain = network(), network()
        with precision_of(amp, CPU).autocast():
            assert ours(torch.rand(2, 3, 8, 8)).dtype == dtype
        assert ours.conv.weight.dtype == torch.float32  # the weights keep theirs
        train(ours, sgd(ours), precision_of(amp, CPU), batches())
        train(plain, sgd(plain), None, batches())
        assert not same(ours, plain)
        assert torch.allclose(ours.head.weight, plain.head.weight, atol=0.05)


def test_a_step_with_infinite_gradients_is_skipped_counted_and_scaled_less():
    ours, precision = network(), precision_of("fp16", CPU)
    optimizer = sgd(ours)
    train(ours, optimizer, precision, batches(3))
    before, scale = copy.deepcopy(dict(ours.named_parameters())), precision.state_dict()["scaler"]["scale"]
    train(ours, optimizer, precision, batches(1), spoil=0)
    assert all(torch.equal(before[name], param) for name, param in ours.named_parameters())
    assert precision.num_skipped == 1
    assert precision.state_dict()["scaler"]["scale"] == scale / 2
    train(ours, optimizer, precision, batches(2))
    assert precision.num_skipped == 1
    assert not torch.equal(before["head.weight"], ours.head.weight)


def test_a_scaler_goes_on_from_its_state_to_the_bit(tmp_path):
    whole, precision = network(), precision_of("fp16", CPU)
    optimizer = sgd(whole)
    train(whole, optimizer, precision, batches(3), spoil=1)
    torch.save([whole.state_dict(), optimizer.state_dict(), precision.state_dict()], tmp_path / "saved")
    train(whole, optimizer, precision, batches(5))

    resumed, later = network(), precision_of("fp16", CPU)
    its_optimizer = sgd(resumed)
    saved = torch.load(tmp_path / "saved", weights_only=True)
    for part, state in zip((resumed, its_optimizer, later), saved, strict=True):
        part.load_state_dict(state)
    train(resumed, its_optimizer, later, batches(5))
    assert same(resumed, whole)
    assert later.state_dict() == precision.state_dict()
    assert later.num_skipped == 1


def test_a_precision_that_changed_since_the_checkpoint_is_refused():
    scaled = precision_of("fp16", CPU)
    assert precision_of("bf16", CPU).state_dict() == {}
    precision_of("bf16", CPU).load_state_dict({})
    with pytest.raises(TrainerError, match="put amp='fp16' back"):
        precision_of("bf16", CPU).load_state_dict(scaled.state_dict())
    with pytest.raises(TrainerError, match="has no gradient scaler"):
        scaled.load_state_dict({})


@pytest.mark.parametrize("amp", ["fp_16", "float32", True, 16])
def test_an_unknown_precision_is_refused_with_the_choices(amp):
    with pytest.raises(TrainerError, match="is unknown; choose fp16, bf16"):
        precision_of(amp, CPU)


def test_a_device_that_cannot_is_refused_with_what_it_can():
    with pytest.raises(TrainerError, match="amp='fp16' cannot be had on meta; choose None"):
        precision_of("fp16", torch.device("meta"))


def test_channels_last_is_the_layout_by_hand_and_keeps_names_and_values():
    ours, by_hand = network(), network()
    assert channels_last(ours) is None
    by_hand.to(memory_format=torch.channels_last)
    assert ours.conv.weight.is_contiguous(memory_format=torch.channels_last)
    assert not network().conv.weight.is_contiguous(memory_format=torch.channels_last)
    assert same(ours, network())
    optimizers = sgd(ours), sgd(by_hand)
    for inputs, targets in batches():
        laid_out = inputs_channels_last(inputs)
        assert laid_out.is_contiguous(memory_format=torch.channels_last)
        assert torch.equal(laid_out, inputs)
        for one, optimizer, its in zip(
            (ours, by_hand), optimizers, (laid_out, inputs.to(memory_format=torch.channels_last)), strict=True
        ):
            optimizer.zero_grad()
            F.cross_entropy(one(its), targets).backward()
            optimizer.step()
    assert same(ours, by_hand)


def test_channels_last_says_where_it_does_nothing_and_breaks_nothing():
    table = torch.rand(4, 3)
    assert channels_last(nn.Linear(3, 2)) == "channels_last does nothing for Linear, which has no Conv2d"
    assert inputs_channels_last(table) is table
    mixed = nn.ModuleList([nn.Conv3d(1, 2, 3), nn.LazyConv2d(2, 3), nn.Conv2d(2, 2, 3)])
    assert channels_last(mixed) is None
    assert mixed[2].weight.is_contiguous(memory_format=torch.channels_last)
    assert mixed[1](torch.rand(1, 2, 4, 4)).shape == (1, 2, 2, 2)


@pytest.mark.parametrize("size", [1, 3, 7, 8])
@pytest.mark.parametrize("accumulate", [1, 2, 3, 8, 20])
def test_pieces_are_the_whole_batch_and_their_gradients_add_up_to_its(accumulate, size):
    torch.manual_seed(0)
    weight = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    inputs, targets = torch.randn(size, 4, dtype=torch.float64), torch.randint(3, (size,))
    parts = list(pieces(inputs, targets, accumulate))
    assert torch.equal(torch.cat([part[0] for part in parts]), inputs)
    assert torch.equal(torch.cat([part[1] for part in parts]), targets)
    lengths = [len(part[1]) for part in parts]
    assert min(lengths) >= 1
    assert max(lengths) - min(lengths) <= 1
    assert len(parts) == min(accumulate, size)
    for some_inputs, some_targets, share in parts:
        (share * F.cross_entropy(some_inputs @ weight, some_targets)).backward()
    summed, weight.grad = weight.grad, None
    F.cross_entropy(inputs @ weight, targets).backward()
    assert torch.allclose(summed, weight.grad, rtol=1e-12, atol=1e-15)


def test_class_weights_are_shared_out_within_each_piece():
    """As the docstring says: the pieces' mean losses are then not the batch's."""
    preds, targets = torch.randn(4, 2), torch.tensor([0, 0, 0, 1])
    weights = torch.tensor([1.0, 9.0])
    whole = F.cross_entropy(preds, targets, weight=weights)
    split = sum(share * F.cross_entropy(p, t, weight=weights) for p, t, share in pieces(preds, targets, 2))
    assert not torch.isclose(split, whole)


@pytest.mark.parametrize(
    "loss", [nn.CrossEntropyLoss(reduction="sum"), partial(F.cross_entropy, reduction="sum"), lambda run: SUM]
)
def test_pieces_of_a_loss_that_is_a_sum_are_refused(loss, tmp_path):
    data = torch.rand(20, 4), torch.tensor([0, 1] * 10)
    usual = {"network": lambda: nn.Linear(4, 2), "data": data, "loss": loss, "epochs": 1, "batch_size": 5}
    training = Trainer(**usual, optimizer="SGD", device="cpu", accumulate=2)
    (run,) = RunBuilder.get_runs({"lr": [0.1]})
    (fault,) = training.faults([run], 0, tmp_path)
    assert fault.startswith("accumulate needs a loss that is the mean over its samples, and this one is their sum")
    assert Trainer(**usual, optimizer="SGD", device="cpu").faults([run], 0, tmp_path) == []


def test_the_benchmark_switch_is_put_back_even_when_the_run_fails():
    before = torch.backends.cudnn.benchmark
    for is_on in (True, False):
        with pytest.raises(KeyError), cudnn_benchmark(is_on):
            assert torch.backends.cudnn.benchmark is is_on
            raise KeyError
        assert torch.backends.cudnn.benchmark is before


@pytest.mark.parametrize("how", ["fast", "reduce_overhead", 3])
def test_an_unknown_way_to_compile_is_refused_with_the_choices(how):
    with pytest.raises(
        TrainerError, match=f"compile={how!r} is unknown; choose default, reduce-overhead, max-autotune"
    ):
        compiled(network(), how, CPU)


def test_without_a_compiler_on_the_machine_compiling_is_refused(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.delenv("CC", raising=False)
    with pytest.raises(TrainerError, match=r"needs a compiler, and '(g|clang)\+\+' is not on this machine; install"):
        compiled(network(), True, CPU)
    assert "'gcc' or 'clang' or 'cc'" in compile_fault("default", torch.device("cuda"))
    monkeypatch.setenv("CXX", str(tmp_path / "my-c++"))
    assert "my-c++' is not on this machine" in compile_fault("default", CPU)
    assert compile_fault(False, CPU) is None
    (tmp_path / "my-c++").touch(mode=0o755)
    assert compile_fault("default", CPU) is None


def test_compiling_that_is_off_leaves_the_network_alone():
    ours = network()
    compiled(ours, False, CPU)
    assert ours._compiled_call_impl is None


@pytest.mark.slow
def test_a_compiled_network_trains_as_one_compiled_by_hand_and_keeps_names_hooks_and_copies():
    if compile_fault(True, CPU):
        pytest.skip("there is no compiler here")
    ours, by_hand, seen = network(), network(), []
    names = list(ours.state_dict())
    ours.register_forward_hook(lambda *_: seen.append(1))
    compiled(ours, "default", CPU)
    train(ours, sgd(ours), None, [*batches(3), *batches(1, size=5), *batches(1)])
    assert list(ours.state_dict()) == names
    assert len(seen) == 5

    by_hand.compile(dynamic=False)
    train(by_hand, sgd(by_hand), None, [*batches(3), *batches(1, size=5), *batches(1)])
    assert same(ours, by_hand)

    twin = copy.deepcopy(ours)
    assert twin._compiled_call_impl is None
    inputs = next(batches())[0]
    assert torch.allclose(twin.eval()(inputs), ours.eval()(inputs), atol=1e-5)
    assert b"Conv" in _trace(ours, inputs)  # TensorBoard's graph is that of the copy


@pytest.mark.slow
def test_a_compiled_run_does_not_depend_on_those_before_it():
    if compile_fault(True, CPU):
        pytest.skip("there is no compiler here")

    def reached(sizes):
        for size in sizes:
            ours = network()
            compiled(ours, True, CPU)
            train(ours, sgd(ours), None, batches(2, size))
        return ours

    assert same(reached([8]), reached([5, 7, 8]))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
@pytest.mark.parametrize("amp", ["fp16", "bf16"])
def test_on_a_gpu_half_precision_trains_and_is_near_to_the_whole(amp):
    device = torch.device("cuda")
    data = [(inputs.to(device), targets.to(device)) for inputs, targets in batches()]
    ours, plain = network().to(device), network().to(device)
    train(ours, sgd(ours), precision_of(amp, device), data)
    train(plain, sgd(plain), None, data)
    assert torch.allclose(ours.head.weight, plain.head.weight, atol=0.05)
