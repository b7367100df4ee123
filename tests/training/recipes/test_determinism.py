"""The strict mode: what it sets and puts back, and what it names of a step that no seed can repeat."""

import os
import warnings

import pytest
import torch
from torch import nn

from runmanager.training.recipes.determinism import _fault, faults, not_seen, strict


def switches():
    return (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
        torch.backends.cudnn.deterministic,
        torch.backends.cudnn.benchmark,
        torch.utils.deterministic.fill_uninitialized_memory,
        os.environ.get("CUBLAS_WORKSPACE_CONFIG"),
    )


def put():
    torch.zeros(4).put_(torch.tensor([0, 1]), torch.ones(2))


def unpool():
    nn.functional.max_unpool2d(torch.rand(1, 1, 2, 2), torch.tensor([[[[0, 1], [2, 3]]]]), 2)


@pytest.fixture(autouse=True)
def without_a_workspace(monkeypatch):
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)


def test_the_strict_mode_sets_every_switch_and_puts_it_back_when_a_run_fails():
    before = switches()
    with pytest.raises(KeyError), strict():
        assert switches() == (True, False, True, False, True, ":4096:8")
        raise KeyError
    assert switches() == before


def test_what_somebody_set_before_is_what_is_put_back(monkeypatch):
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":16:8")
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.backends.cudnn.benchmark = True
    torch.utils.deterministic.fill_uninitialized_memory = False
    try:
        before = switches()
        with strict():
            assert switches() == (True, False, True, False, True, ":16:8")
        assert switches() == before == (True, True, False, True, False, ":16:8")
        faults(put)
        assert switches() == before
    finally:
        torch.use_deterministic_algorithms(False)
        torch.backends.cudnn.benchmark = False
        torch.utils.deterministic.fill_uninitialized_memory = True


def test_off_it_changes_nothing():
    before = switches()
    with strict(False) as lines:
        assert switches() == before
    assert lines == []


def test_an_operation_without_a_deterministic_algorithm_raises_in_the_strict_mode_alone():
    put()
    with strict(), pytest.raises(RuntimeError, match="put_ does not have a deterministic implementation"):
        put()
    put()


def test_all_such_operations_of_a_step_are_named_once_with_what_to_use_instead():
    def step():
        for _ in range(3):
            put()
            unpool()

    assert faults(step) == [
        "deterministic: put_ has no deterministic algorithm in torch here; "
        "use scatter_ or index_put_, or leave deterministic out",
        "deterministic: max_unpooling2d_forward_out has no deterministic algorithm in torch here; "
        "use ConvTranspose2d or interpolate, or leave deterministic out",
    ]


def test_they_are_named_even_where_warnings_are_ignored():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert "put_" in faults(put)[0]


def test_one_in_the_backward_pass_is_named_too():
    class Puts(torch.autograd.Function):
        @staticmethod
        def forward(ctx, inputs):
            return inputs * 2

        @staticmethod
        def backward(ctx, grad):
            put()
            return grad * 2

    assert "put_" in faults(lambda: Puts.apply(torch.ones(2, requires_grad=True)).sum().backward())[0]


def test_an_ordinary_step_has_no_fault_and_really_is_taken():
    network = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(18, 2))
    optimizer = torch.optim.Adam(network.parameters())
    before = network[0].weight.clone()

    def step():
        nn.functional.cross_entropy(network(torch.rand(4, 1, 8, 8)), torch.tensor([0, 1, 0, 1])).backward()
        optimizer.step()

    assert faults(step) == []
    assert not torch.equal(before, network[0].weight)


def test_other_errors_and_warnings_of_a_step_are_no_faults_of_determinism():
    assert faults(lambda: warnings.warn("something else", stacklevel=1)) == []
    with pytest.raises(ZeroDivisionError):
        faults(lambda: 1 / 0)


def test_a_fault_of_a_gpu_says_that_the_cpu_has_none():
    """As torch words them; these operations are deterministic here."""
    text = "upsample_bilinear2d_backward_out_cuda does not have a deterministic implementation, but you set"
    assert "use ConvTranspose2d or interpolate(mode='nearest'), train on the CPU, or leave" in _fault(text)
    assert "use another operation, train on the CPU, or leave" in _fault(text.replace("upsample", "new"))
    assert "set CUBLAS_WORKSPACE_CONFIG=:4096:8 before Python starts" in _fault(
        "Deterministic behavior was enabled, but this operation is not deterministic because it uses CuBLAS and you have "
        "CUDA >= 10.2. To enable deterministic behavior you must set CUBLAS_WORKSPACE_CONFIG=:4096:8"
    )


def test_a_gpu_that_was_in_use_before_is_told(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)  # there need not be a GPU here
    with strict() as lines:
        assert "set CUBLAS_WORKSPACE_CONFIG=:4096:8 before Python starts" in lines[0]
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    with strict() as lines:
        assert lines == []


@pytest.mark.parametrize(("number", "said"), [(1, "and 1 thread only"), (4, "and 4 threads only")])
def test_what_the_mode_cannot_see_to_is_said(number, said, monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: number)
    assert said in not_seen(torch.device("cpu"))[0]
    assert "the same kind of cuda device" in not_seen(torch.device("cuda"))[0]
