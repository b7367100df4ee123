"""The steps of K stacked optimizers are those of the K ordinary ones alone, and depend on no neighbour."""

import copy
import warnings

import pytest
import torch
from torch import nn
from torch.optim import SGD, Adam, AdamW
from torch.optim.lr_scheduler import LambdaLR, OneCycleLR, StepLR
from torch.utils._python_dispatch import TorchDispatchMode

from runmanager.training.stacked_optimizers import stacked
from tests.training.stacked_twins import (
    CASES,
    DECAYS,
    RATES,
    SIZES,
    Twins,
    assert_same_state,
    each_case,
    each_dtype,
    optimizer_of,
    row_of,
    saved_and_loaded,
    settings_of,
    step_alone,
)

# the numbers


@each_case
def test_the_first_step_is_that_of_the_members_alone(case):
    twins, short = Twins(case), Twins(case, torch.float32)
    twins.step()
    short.step()
    assert twins.apart() <= 4e-16
    assert short.apart() <= 2e-7


@each_case
@each_dtype
@pytest.mark.parametrize("before", [0, 3], ids=["new", "resumed"])
def test_twenty_steps_are_those_of_the_members_alone(case, dtype, before):
    twins = Twins(case, dtype, before=before)
    twins.step(20)
    assert twins.apart() <= (1e-14 if dtype == torch.float64 else 2e-6)


@pytest.mark.parametrize(
    "name", [name for name, (kind, lists, _) in CASES.items() if kind is not SGD and "lr" in lists]
)
def test_each_param_group_has_its_own_numbers(name):
    twins = Twins(CASES[name], groups=2)
    twins.step(20)
    assert twins.apart() <= 1e-14
    twins.stack.write_back()
    for one, member in zip(twins.alone, twins.members, strict=True):
        assert_same_state(one, member)


def test_a_group_may_be_smaller_than_a_block_and_of_one_member():
    values = torch.randn(1, 3, dtype=torch.float64)
    alone, member = (Adam([nn.Parameter(row)], lr=0.1) for row in (values[0].clone(), values[0]))
    grads = torch.randn_like(values)
    stacked([member], values, grads).step()
    step_alone(alone, grads[0])
    assert torch.allclose(values[0], row_of(alone), rtol=1e-15)


@pytest.mark.parametrize("name", ["adam", "adam, betas", "sgd, mixed momentum", "rmsprop", "adagrad, all"])
def test_schedules_reach_the_stack_when_it_reads(name):
    twins = Twins(CASES[name])
    schedules = [
        StepLR(one, step_size=1, gamma=gamma)
        for members in (twins.alone, twins.members)
        for one, gamma in zip(members, (0.5, 0.9, 1.0, 2.0), strict=True)
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # such as that a schedule went on before its optimizer
        for _ in range(4):
            twins.step(3)
            for one in schedules:
                one.step()
            twins.stack.read()
    assert twins.apart() <= 1e-14
    assert not twins.stack.read()


def test_a_warmup_from_a_rate_of_zero_leaves_finite_numbers():
    twins = Twins(CASES["adam, one rate"], torch.float32)
    schedules = [LambdaLR(one, lambda epoch: epoch / 4) for one in twins.alone + twins.members]
    twins.stack.read()
    start = twins.values.clone()
    twins.grads.zero_()
    twins.stack.step()
    assert torch.equal(twins.values, start)
    twins.step_alone(twins.grads)
    for one in schedules:
        one.step()
    twins.stack.read()
    twins.step(5)
    assert twins.apart() <= 2e-6


@pytest.mark.parametrize("case", [CASES["adam, one rate"], (AdamW, RATES | DECAYS, {}), CASES["sgd, one rate"]])
def test_a_schedule_may_move_the_momentum_too(case):
    twins = Twins(case)
    schedules = [
        OneCycleLR(one, max_lr=0.1 + 0.01 * row, total_steps=12, max_momentum=0.9 + 0.01 * row)
        for members in (twins.alone, twins.members)
        for row, one in enumerate(members)
    ]
    twins.stack.read()
    for _ in range(10):
        twins.step()
        for one in schedules:
            one.step()
        twins.stack.read()
    assert twins.apart() <= 1e-14


def test_a_buffer_rests_while_the_momentum_is_zero():
    twins = Twins(CASES["sgd, mixed momentum"])
    for momentum in (0.9, 0.0, 0.5, 0.0, 0.3):
        for one in (twins.alone[1], twins.members[1], twins.alone[2], twins.members[2]):
            one.param_groups[0]["momentum"] = momentum
        twins.stack.read()
        twins.step(2)
        twins.stack.write_back()
        for one, member in zip(twins.alone, twins.members, strict=True):
            assert_same_state(one, member)
    assert twins.apart() <= 1e-14


def test_a_rate_may_be_a_tensor():
    twins = Twins(
        (
            Adam,
            {"lr": [torch.tensor(0.1).double(), torch.tensor([0.2]).double(), 0.3, torch.tensor(0.0)]},
            {"foreach": False},
        )
    )
    twins.step(3)
    assert twins.apart() <= 1e-14


# the state


@each_case
@pytest.mark.parametrize("before", [0, 2], ids=["new", "resumed"])
def test_the_state_written_back_is_that_of_the_members_alone(case, before):
    twins = Twins(case, before=before)
    for _ in range(2):
        twins.step(3)
        twins.stack.write_back()
        for one, member in zip(twins.alone, twins.members, strict=True):
            assert_same_state(one, member)


@each_case
def test_before_the_first_step_there_is_no_more_state_than_alone(case):
    twins = Twins(case)
    twins.stack.write_back()
    for one, member in zip(twins.alone, twins.members, strict=True):
        assert_same_state(one, member)


@each_case
def test_a_member_goes_on_alone_from_its_saved_state(case):
    twins = Twins(case)
    twins.step(3)
    twins.stack.write_back()
    kind, settings = settings_of(case)
    for row, one in enumerate(twins.alone):
        fresh = optimizer_of(kind, twins.values[row].clone(), settings[row])
        fresh.load_state_dict(saved_and_loaded(twins.members[row].state_dict()))
        for grads in torch.randn(3, sum(SIZES), dtype=torch.float64):
            step_alone(fresh, grads)
            step_alone(one, grads)
        assert torch.allclose(row_of(fresh), row_of(one), rtol=1e-13, atol=1e-14)


def test_the_state_written_back_is_not_changed_by_later_steps_and_is_saved_without_the_others():
    twins = Twins(CASES["adam"])
    twins.step()
    twins.stack.write_back([1])
    before = copy.deepcopy(twins.members[1].state_dict())
    twins.step()
    assert_same_state_dicts(before, twins.members[1].state_dict())
    assert not twins.members[0].state
    assert twins.members[1].state_dict()["state"][0]["exp_avg"].untyped_storage().nbytes() == sum(SIZES) * 8


def assert_same_state_dicts(one, other):
    for index, state in one["state"].items():
        for name, tensor in state.items():
            assert torch.equal(tensor, other["state"][index][name])


def test_steps_are_counted_in_float64_where_that_is_the_default():
    torch.set_default_dtype(torch.float64)
    try:
        twins = Twins(CASES["adam"])
        twins.step(2)
        twins.stack.write_back()
        assert_same_state(twins.alone[0], twins.members[0])
    finally:
        torch.set_default_dtype(torch.float32)


def test_members_at_different_steps_are_refused():
    twins = Twins(CASES["adam"], before=2)
    step_alone(twins.members[1], torch.ones(sum(SIZES), dtype=torch.float64))
    with pytest.raises(ValueError, match=r"have done \[2, 3\] steps; put only runs of the same epoch into a group"):
        stacked(twins.members, twins.values, twins.grads)


# independence


@each_case
@each_dtype
def test_those_who_stay_are_not_changed_by_one_bit_when_others_leave(case, dtype):
    whole, shrinking = Twins(case, dtype), Twins(case, dtype)
    whole.step(3)
    shrinking.step(3)
    rows = [1, 3]
    values, grads = shrinking.values[rows].clone(), shrinking.grads[rows].clone()
    shrinking.stack.keep(rows, values, grads)
    assert len(shrinking.stack) == 2
    for _ in range(3):
        for members in (whole.members, shrinking.members):
            members[3].param_groups[0]["lr"] = members[1].param_groups[0]["lr"]  # now those who stay agree in more
        whole.stack.read()
        shrinking.stack.read()
        whole.step()
        grads.copy_(whole.grads[rows])
        shrinking.stack.step()
        assert torch.equal(values, whole.values[rows])
    shrinking.stack.write_back()
    whole.stack.write_back()
    for row, member in zip(rows, [shrinking.members[row] for row in rows], strict=True):
        assert_same_state_dicts(whole.members[row].state_dict(), member.state_dict())


@each_case
def test_a_member_with_nan_changes_no_other_by_one_bit(case):
    healthy, sick = Twins(case, torch.float32), Twins(case, torch.float32)
    for step in range(4):
        grads = healthy.draw()
        healthy.grads.copy_(grads)
        sick.grads.copy_(grads)
        sick.grads[2] = torch.nan if step else torch.inf
        healthy.stack.step()
        sick.stack.step()
    others = [0, 1, 3]
    assert not sick.values[2].isfinite().any()
    assert torch.equal(sick.values[others], healthy.values[others])
    for name in ("sgd", "adam"):
        assert healthy.values.isfinite().all(), name


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if "betas" not in case[1]])
def test_a_member_takes_the_same_bits_whatever_rates_are_beside_it(name):
    kind, lists, flags = CASES[name]
    among_others = Twins((kind, RATES | lists, {k: v for k, v in flags.items() if k != "lr"}), torch.float32)
    first = {key: [numbers[0]] * 4 for key, numbers in (RATES | lists).items()}
    among_its_like = Twins((kind, first, {k: v for k, v in flags.items() if k != "lr"}), torch.float32)
    among_others.step(5)
    among_its_like.step(5)
    assert torch.equal(among_others.values[0], among_its_like.values[0])


@each_case
def test_a_member_takes_the_same_bits_in_whichever_row_it_is(case):
    twins = Twins(case, torch.float32, rows=[0] * 41)
    for _ in range(20):
        twins.grads.copy_(twins.draw()[:1].expand_as(twins.grads))
        twins.stack.step()
    assert torch.equal(twins.values, twins.values[:1].expand_as(twins.values))


# what a step runs


class Ops(TorchDispatchMode):
    """The names of the operations that ran."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.append(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


@each_case
def test_a_step_is_a_few_operations_and_reads_nothing_back_from_the_device(case):
    twins = Twins(case)
    with Ops() as ops:
        twins.stack.step()
    assert len(ops.names) <= 26
    assert not {"_local_scalar_dense", "item", "equal", "nonzero"} & set(ops.names)


def test_a_step_finds_new_numbers_in_the_tensors_that_a_captured_graph_knows():
    twins = Twins(CASES["adamw, betas, amsgrad"])
    part = twins.stack._parts[0]
    before = {name: tensor.data_ptr() for name, tensor in part.numbers.items()}
    twins.members[0].param_groups[0].update(lr=7.0, weight_decay=0.5)
    assert not twins.stack.read()
    assert {name: tensor.data_ptr() for name, tensor in part.numbers.items()} == before
    assert part.numbers["lr"][0] == 7.0


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("sgd", {"weight_decay": 0.1}),
        ("sgd", {"momentum": 0.9}),
        ("sgd, nesterov", {"dampening": 0.1}),
        ("adam", {"betas": (0.5, 0.9)}),
        ("adamw", {"eps": 1e-3}),
        ("adagrad", {"lr_decay": 0.1}),
    ],
)
def test_read_tells_when_a_captured_step_is_no_longer_the_same(name, change):
    twins = Twins(CASES[name])
    for one in (twins.alone[0], twins.members[0]):
        one.param_groups[0].update(change)
    assert twins.stack.read()
    assert not twins.stack.read()
    twins.step(3)
    assert twins.apart() <= 1e-14


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@each_case
def test_a_step_captured_as_a_cuda_graph_is_that_of_the_members_alone(case):
    twins = Twins(case)
    kind, settings = settings_of(case)
    values, grads = twins.values.cuda(), twins.grads.cuda()
    members = [optimizer_of(kind, row, one) for row, one in zip(values, settings, strict=True)]
    stack, graph = stacked(members, values, grads), torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        stack.step()
    for rate in (1.0, 0.5):
        for one in twins.alone + members:
            one.param_groups[0]["lr"] *= rate
        assert not stack.read()
        for _ in range(3):
            drawn = twins.draw()
            twins.step_alone(drawn)
            grads.copy_(drawn)
            graph.replay()
    assert torch.allclose(values.cpu(), torch.stack([row_of(one) for one in twins.alone]), rtol=1e-13, atol=1e-13)
    stack.write_back()
    assert members[0].state_dict()["state"].keys() == twins.alone[0].state_dict()["state"].keys()
