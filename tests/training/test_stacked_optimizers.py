"""Which optimizers go into a stack together, and which are refused."""

import pytest
import torch
from torch import nn
from torch.optim import SGD, Adagrad, Adam, AdamW, RMSprop
from torch.optim.lr_scheduler import StepLR
from torch.optim.optimizer import register_optimizer_step_post_hook

from runmanager.training.stacked_optimizers import refusal, stacked, structure


def line(**settings):
    return nn.Linear(3, 2, **settings)


def hooked(register):
    optimizer = SGD(line().parameters(), lr=0.1)
    getattr(optimizer, register)(lambda *arguments: None)
    return optimizer


def test_what_has_a_batched_form_is_not_refused():
    for kind in (SGD, Adam, AdamW, RMSprop, Adagrad):
        optimizer = kind(line().parameters(), lr=0.1)
        StepLR(optimizer, step_size=1)
        assert refusal(optimizer) is None


class MyAdam(Adam):
    """Of the user's own."""


REFUSED = {
    "LBFGS has no batched form": lambda: torch.optim.LBFGS(line().parameters()),
    "MyAdam has no batched form": lambda: MyAdam(line().parameters()),
    "differentiable=True": lambda: SGD(line().parameters(), lr=0.1, differentiable=True),
    "capturable=True, and its parameters are on the CPU": lambda: Adam(line().parameters(), capturable=True),
    "complex64": lambda: Adam(line(dtype=torch.complex64).parameters()),
    "float16": lambda: Adam(line(dtype=torch.float16).parameters()),
    "several dtypes": lambda: Adam([*line().parameters(), *line(dtype=torch.float64).parameters()]),
    "no parameter that is trained": lambda: SGD(line().requires_grad_(False).parameters(), lr=0.1),
    "trained itself": lambda: SGD(line().parameters(), lr=torch.tensor(0.1, requires_grad=True)),
    "the SGD optimizer has hooks": lambda: hooked("register_step_pre_hook"),
}


@pytest.mark.parametrize("reason", REFUSED)
def test_what_cannot_be_stacked_is_refused_with_its_reason(reason):
    assert reason in refusal(REFUSED[reason]())


@pytest.mark.parametrize(
    "register", ["register_step_post_hook", "register_state_dict_pre_hook", "register_state_dict_post_hook"]
)
def test_every_hook_is_refused(register):
    assert "has hooks" in refusal(hooked(register))


def test_a_hook_of_all_optimizers_is_refused():
    handle = register_optimizer_step_post_hook(lambda *arguments: None)
    try:
        assert "hooks are registered for all optimizers" in refusal(SGD(line().parameters(), lr=0.1))
    finally:
        handle.remove()


def test_sparse_gradients_and_a_replaced_step_are_refused():
    table = nn.Embedding(4, 2, sparse=True)
    table(torch.tensor([1])).sum().backward()
    assert "sparse" in refusal(SGD(table.parameters(), lr=0.1))
    optimizer = SGD(line().parameters(), lr=0.1)
    optimizer.step = lambda: None
    assert "step was replaced" in refusal(optimizer)


def test_rates_may_differ_in_a_stack_and_what_chooses_other_operations_may_not():
    def same(one, other):
        return structure(one) == structure(other)

    network = line()
    adam = Adam(network.parameters(), lr=0.1)
    assert same(adam, Adam(network.parameters(), lr=0.2, betas=(0.5, 0.5), eps=1, weight_decay=1))
    assert same(SGD(network.parameters(), lr=1), SGD(network.parameters(), lr=2, momentum=0.9, dampening=0.1))
    assert not same(adam, AdamW(network.parameters()))
    assert not same(adam, Adam(nn.Linear(2, 3).parameters()))
    assert not same(adam, Adam([{"params": [one]} for one in network.parameters()]))
    for flag in ("amsgrad", "maximize", "decoupled_weight_decay"):
        assert not same(adam, Adam(network.parameters(), **{flag: True}))
    assert "group 0 (centered=True, maximize=False): 2×3 float32, 2 float32" in structure(
        RMSprop(network.parameters(), centered=True)
    )


def test_parameters_that_are_frozen_have_no_place_in_a_row():
    networks = [line(), line()]
    for one in networks:
        one.weight.requires_grad_(False)
    optimizers = [Adam(one.parameters(), lr=0.1) for one in networks]
    values, grads = torch.zeros(2, 2), torch.ones(2, 2)
    stack = stacked(optimizers, values, grads)
    stack.step()
    stack.write_back()
    assert torch.allclose(values, torch.full((2, 2), -0.1))
    assert list(optimizers[0].state) == [networks[0].bias]


def test_members_that_do_not_go_together_are_named():
    values, grads = torch.zeros(2, 8), torch.zeros(2, 8)
    one, other = SGD(line().parameters(), lr=0.1), SGD(line().parameters(), lr=0.1, nesterov=True, momentum=0.9)
    with pytest.raises(ValueError, match=r"optimizer 1 of the group is 'SGD; group 0 \(nesterov=True"):
        stacked([one, other], values, grads)
    with pytest.raises(ValueError, match=r"LBFGS has no batched form.*; let its run train alone"):
        stacked([one, torch.optim.LBFGS(line().parameters())], values, grads)
    with pytest.raises(
        ValueError, match=r"values is \[2, 7\] float32, but the optimizers' parameters take \[2, 8\] float32"
    ):
        stacked([one, one], values[:, 1:], grads)
    with pytest.raises(ValueError, match="1 members stay, but values has 2 rows"):
        stacked([one, one], values, grads).keep([0], values, grads)
