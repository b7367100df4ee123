"""The losses of a group are those of each member alone, and one that raises ends its own member only."""

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from runmanager.training.stacked_losses import CrossEntropy, InOneCall, OneByOne, stacked_loss

SIZE, NUM_SAMPLES, NUM_CLASSES = 3, 6, 4


def drawn(dtype=torch.float64):
    draws = torch.Generator().manual_seed(0)
    preds = torch.randn(SIZE, NUM_SAMPLES, NUM_CLASSES, dtype=dtype, generator=draws)
    return preds, torch.randint(NUM_CLASSES, (SIZE, NUM_SAMPLES), generator=draws)


def my_loss(preds, targets):
    return F.cross_entropy(preds, targets) * 2


def of_float(kind, **settings):
    """For targets that are no classes."""
    return [kind(**settings) for _ in range(SIZE)]


WEIGHTS = [
    torch.rand(NUM_CLASSES, dtype=torch.float64, generator=torch.Generator().manual_seed(n)) for n in range(SIZE)
]
FOR_CLASSES = {
    "cross entropy": [F.cross_entropy] * SIZE,
    "as modules": [nn.CrossEntropyLoss() for _ in range(SIZE)],
    "smoothings of their own": [nn.CrossEntropyLoss(label_smoothing=one) for one in (0.0, 0.1, 0.5)],
    "in partials": [partial(F.cross_entropy, label_smoothing=one) for one in (0.0, 0.1, 0.5)],
    "of several makes": [F.cross_entropy, nn.CrossEntropyLoss(), partial(F.cross_entropy, label_smoothing=0.1)],
    "class weights of their own": [nn.CrossEntropyLoss(weight=weight) for weight in WEIGHTS],
    "class weights or none": [
        F.cross_entropy,
        nn.CrossEntropyLoss(WEIGHTS[1]),
        nn.CrossEntropyLoss(label_smoothing=0.1),
    ],
    "one class weight": [nn.CrossEntropyLoss(weight=WEIGHTS[0]) for _ in range(SIZE)],
    "class weights in partials": [partial(F.cross_entropy, weight=weight) for weight in WEIGHTS],
    "sums": [nn.CrossEntropyLoss(reduction="sum") for _ in range(SIZE)],
    "without a class": [nn.CrossEntropyLoss(ignore_index=index) for index in range(SIZE)],
    "margins of their own": [nn.MultiMarginLoss(margin=margin) for margin in (0.5, 1.0, 2.0)],
    "one's own function": [my_loss] * SIZE,
    "functions of their own": [lambda p, t, by=by: F.cross_entropy(p, t) * by for by in (1.0, 2.0, 3.0)],
}
FOR_NUMBERS = {
    "squares": [F.mse_loss] * SIZE,
    "squares as modules": of_float(nn.MSELoss),
    "huber": of_float(nn.HuberLoss, delta=0.3),
    "huber, each its own": [nn.HuberLoss(delta=delta) for delta in (0.1, 0.5, 2.0)],
    "binary": [nn.BCEWithLogitsLoss(pos_weight=weight) for weight in WEIGHTS],
    "soft classes and class weights": [nn.CrossEntropyLoss(WEIGHTS[n], label_smoothing=n / 10) for n in range(SIZE)],
    "soft classes": [nn.CrossEntropyLoss(label_smoothing=one) for one in (0.0, 0.1, 0.5)],
}


def assert_as_alone(losses, preds, targets):
    """The losses and their gradients."""
    ours, theirs = (preds.clone().requires_grad_() for _ in range(2))
    together = stacked_loss(losses)(ours, targets)
    alone = torch.stack([loss(*one) for loss, *one in zip(losses, theirs, targets, strict=True)])
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-14, equal_nan=True)
    grads = [torch.autograd.grad(values.sum(), of)[0] for values, of in ((together, ours), (alone, theirs))]
    torch.testing.assert_close(*grads, rtol=0, atol=1e-14, equal_nan=True)


@pytest.mark.parametrize("name", FOR_CLASSES)
def test_losses_of_classes_are_those_of_each_alone(name):
    assert_as_alone(FOR_CLASSES[name], *drawn())


@pytest.mark.parametrize("name", FOR_NUMBERS)
def test_losses_of_numbers_are_those_of_each_alone(name):
    preds, _ = drawn()
    assert_as_alone(FOR_NUMBERS[name], preds, torch.rand(preds.shape, dtype=preds.dtype))


@pytest.mark.parametrize("smoothings", [(0.0, 0.0, 0.0), (0.0, 0.1, 0.5)])
def test_targets_that_do_not_count_are_left_out_of_the_mean(smoothings):
    preds, targets = drawn()
    targets[0, :2] = targets[1, 3] = targets[2, :] = -100
    losses = [nn.CrossEntropyLoss(label_smoothing=one) for one in smoothings]
    assert_as_alone(losses, preds, targets)
    assert stacked_loss(losses)(preds, targets)[2].isnan()


def test_a_class_that_is_ruled_out_is_no_harm_to_one_without_smoothing():
    preds, targets = drawn()
    preds[:, :, 0] = float("-inf")
    targets.clamp_(min=1)
    assert_as_alone([F.cross_entropy] * SIZE, preds, targets)
    losses = [nn.CrossEntropyLoss(label_smoothing=one) for one in (0.0, 0.1, 0.0)]
    together = stacked_loss(losses)(preds.requires_grad_(), targets)
    expected = [F.cross_entropy(preds[index], targets[index]) for index in (0, 2)]
    torch.testing.assert_close(together[[0, 2]], torch.stack(expected), rtol=0, atol=1e-14)
    (grads,) = torch.autograd.grad(together.sum(), preds)
    (alone,) = torch.autograd.grad(sum(expected), preds)
    torch.testing.assert_close(grads[[0, 2]], alone[[0, 2]], rtol=0, atol=1e-14)


def test_targets_with_more_dimensions_are_right():
    preds = torch.randn(SIZE, NUM_SAMPLES, NUM_CLASSES, 5, dtype=torch.float64)
    targets = torch.randint(NUM_CLASSES, (SIZE, NUM_SAMPLES, 5))
    for name in ("cross entropy", "smoothings of their own", "class weights of their own"):
        assert_as_alone(FOR_CLASSES[name], preds, targets)


def test_float32_is_as_near_as_rounding_lets_it_be():
    preds, targets = drawn(torch.float32)
    losses = FOR_CLASSES["smoothings of their own"]
    alone = torch.stack([loss(*one) for loss, *one in zip(losses, preds, targets, strict=True)])
    torch.testing.assert_close(stacked_loss(losses)(preds, targets), alone, rtol=0, atol=5e-7)


def test_a_hook_of_a_loss_is_called():
    seen = []
    losses = [nn.MSELoss() for _ in range(2)]
    for loss in losses:
        loss.register_forward_hook(lambda module, inputs, output: seen.append(float(output)))
    stacked_loss(losses)(torch.zeros(2, 3), torch.ones(2, 3))
    assert seen == [1.0, 1.0]


@pytest.mark.parametrize(
    ("losses", "kind"),
    [
        (FOR_CLASSES["smoothings of their own"], CrossEntropy),
        (FOR_NUMBERS["squares"], InOneCall),
        (FOR_CLASSES["class weights of their own"], CrossEntropy),
        (FOR_CLASSES["class weights or none"], CrossEntropy),
        (FOR_CLASSES["one's own function"], OneByOne),
    ],
)
def test_losses_of_torch_are_worked_out_at_once_and_others_one_by_one(losses, kind):
    assert type(stacked_loss(losses)) is kind


# one that raises


def raising(preds, targets):
    raise ValueError("no loss today")


def test_a_loss_that_raises_is_known_by_its_place_and_leaves_the_others_as_they_are():
    preds, targets = drawn()
    preds.requires_grad_()
    stacked = stacked_loss([my_loss, raising, my_loss])
    losses = stacked(preds, targets)
    assert {place: str(error) for place, error in stacked.failures.items()} == {1: "no loss today"}
    assert torch.equal(losses[[0, 2]], torch.stack([my_loss(preds[i], targets[i]) for i in (0, 2)]))
    (grads,) = torch.autograd.grad(losses.sum(), preds)
    assert (grads[1] == 0).all()
    assert (grads[0] != 0).any()


def test_whoever_is_left_goes_on_with_its_own_loss():
    preds, targets = drawn()
    stacked = stacked_loss([my_loss, raising, F.cross_entropy])
    stacked(preds, targets)
    stacked.keep([0, 2])
    assert stacked.failures == {}
    expected = torch.stack([my_loss(preds[0], targets[0]), F.cross_entropy(preds[2], targets[2])])
    assert torch.equal(stacked(preds[[0, 2]], targets[[0, 2]]), expected)


@pytest.mark.parametrize("name", ["smoothings of their own", "cross entropy", "class weights of their own"])
def test_leaving_changes_no_bit_of_the_others(name):
    preds, targets = drawn(torch.float32)
    losses = FOR_CLASSES[name] if "weights" not in name else [nn.CrossEntropyLoss(weight=w.float()) for w in WEIGHTS]
    stacked = stacked_loss(losses)
    before = stacked(preds, targets)
    for kept in ([0, 2], [1]):
        stacked.keep(kept)
        preds, targets, before = preds[kept], targets[kept], before[kept]
        assert torch.equal(stacked(preds, targets), before)
