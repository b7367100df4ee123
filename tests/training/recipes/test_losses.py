"""A run's loss is what torch itself computes with the run's hyperparameters, and class weights are scikit-learn's."""

import warnings
from collections import namedtuple
from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from runmanager.training.reads import recorded
from runmanager.training.recipes.losses import balanced_weights, build_loss
from runmanager.training.settings import TrainerError
from runmanager.training.stacked_losses import CrossEntropy, stacked_loss

NUM_CLASSES = 4
DRAWS = torch.Generator().manual_seed(0)
PREDS = torch.randn(20, NUM_CLASSES, generator=DRAWS)
CLASSES = torch.randint(NUM_CLASSES, (20,), generator=DRAWS)
NUMBERS = torch.rand(20, NUM_CLASSES, generator=DRAWS)
WEIGHTS = [0.5, 2.0, 1.0, 0.25]


def run_of(**params):
    return namedtuple("Run", params)(**params)


def assert_same(loss, expected, targets=CLASSES):
    """To the last bit, and so are the gradients."""
    ours, theirs = (PREDS.clone().requires_grad_() for _ in range(2))
    values = loss(ours, targets), expected(theirs, targets)
    assert torch.equal(*values)
    for value in values:
        value.backward()
    assert torch.equal(ours.grad, theirs.grad)


class Focal(nn.Module):
    """A loss as users write them."""

    def __init__(self, gamma=2.0, weight=None):
        super().__init__()
        self.gamma = gamma
        self.register_buffer("weight", weight)

    def forward(self, preds, targets):
        each = F.cross_entropy(preds, targets, reduction="none")
        if self.weight is not None:
            each = each * self.weight[targets]
        return ((1 - torch.exp(-each)) ** self.gamma * each).mean()


def scaled(preds, targets, scale=1.0):
    return scale * F.cross_entropy(preds, targets)


class TestHyperparameters:
    @pytest.mark.parametrize(
        "loss",
        [
            "cross_entropy",
            "CrossEntropyLoss",
            "CROSSENTROPYLOSS",
            F.cross_entropy,
            nn.CrossEntropyLoss,
            partial(nn.CrossEntropyLoss, ignore_index=-1),
            partial(F.cross_entropy, ignore_index=-1),
        ],
    )
    def test_label_smoothing_of_the_run_goes_into_every_form_of_cross_entropy(self, loss):
        made = build_loss(loss, run_of(lr=0.1, label_smoothing=0.2))
        assert_same(made, lambda preds, targets: F.cross_entropy(preds, targets, label_smoothing=0.2))

    @pytest.mark.parametrize(
        ("name", "params", "expected"),
        [
            ("mse_loss", {}, F.mse_loss),
            ("MSELoss", {}, F.mse_loss),
            ("l1_loss", {}, F.l1_loss),
            ("huber_loss", {"delta": 0.3}, partial(F.huber_loss, delta=0.3)),
            ("HuberLoss", {"delta": 0.3}, partial(F.huber_loss, delta=0.3)),
            ("smooth_l1_loss", {"beta": 0.3}, partial(F.smooth_l1_loss, beta=0.3)),
            ("binary_cross_entropy_with_logits", {}, F.binary_cross_entropy_with_logits),
            (
                "bce_with_logits",
                {"pos_weight": 3},
                partial(F.binary_cross_entropy_with_logits, pos_weight=torch.tensor([3.0])),
            ),
            (
                "BCEWithLogitsLoss",
                {"pos_weight": WEIGHTS},
                partial(F.binary_cross_entropy_with_logits, pos_weight=torch.tensor(WEIGHTS)),
            ),
        ],
    )
    def test_losses_of_numbers_are_torchs_own_with_the_runs_arguments(self, name, params, expected):
        assert_same(build_loss(name, run_of(lr=0.1, **params)), expected, NUMBERS)

    @pytest.mark.parametrize("name", ["multi_margin_loss", "MultiMarginLoss"])
    def test_losses_of_classes_are_torchs_own_with_the_runs_arguments(self, name):
        made = build_loss(name, run_of(margin=0.5, p=2))
        assert_same(made, partial(F.multi_margin_loss, margin=0.5, p=2))

    def test_every_name_stands_for_a_loss_of_predictions_and_targets(self):
        with pytest.raises(TrainerError) as error:
            build_loss("nothing", run_of())
        names = str(error.value).partition("choose ")[2].partition("; did")[0].split(", ")
        assert {"cross_entropy", "CrossEntropyLoss", "mse_loss", "bce", "SoftMarginLoss"} <= set(names)
        shares, whole = PREDS.softmax(1), torch.ones(20, NUM_CLASSES, dtype=torch.int64)
        for name in names:
            loss = build_loss(name, run_of())
            results = [result_of(loss, targets) for targets in (CLASSES, NUMBERS, whole)]
            assert any(result is not None and result.shape == () for result in results), name
        assert torch.equal(build_loss("bce", run_of())(shares, NUMBERS), F.binary_cross_entropy(shares, NUMBERS))

    @pytest.mark.parametrize("loss", [F.cross_entropy, partial(scaled, scale=2), scaled])
    def test_a_function_that_the_run_says_nothing_about_is_left_as_it_is(self, loss):
        assert build_loss(loss, run_of(lr=0.1)) is loss

    @pytest.mark.parametrize(
        ("name", "params"),
        [("cross_entropy", {"label_smoothing": None}), (nn.CrossEntropyLoss, {"label_smoothing": None})],
    )
    def test_none_is_off(self, name, params):
        assert_same(build_loss(name, run_of(**params)), F.cross_entropy)

    def test_no_weight_of_positives_is_off(self):
        made = build_loss("bce_with_logits", run_of(pos_weight=None))
        assert_same(made, F.binary_cross_entropy_with_logits, NUMBERS)

    def test_a_partials_own_argument_goes_before_the_runs(self):
        made = build_loss(partial(F.cross_entropy, label_smoothing=0.3), run_of(label_smoothing=0.1))
        assert_same(made, partial(F.cross_entropy, label_smoothing=0.3))

    def test_ones_own_function_and_class_take_their_arguments_too(self):
        run = run_of(gamma=1.5, scale=3.0)
        assert_same(build_loss(Focal, run), Focal(1.5))
        assert_same(build_loss(partial(Focal, gamma=0.5), run), Focal(0.5))
        assert_same(build_loss(scaled, run), partial(scaled, scale=3.0))

    def test_only_what_the_loss_takes_is_read(self):
        reads = set()
        run = recorded(run_of(lr=0.1, delta=1.0, label_smoothing=0.1, reduction="sum", weight=2), reads)
        build_loss("cross_entropy", run)
        assert reads == {"label_smoothing"}

    def test_predictions_and_targets_are_never_taken_from_the_run(self):
        assert_same(build_loss("cross_entropy", run_of(input=3, target=4)), F.cross_entropy)
        assert_same(build_loss(lambda depth, width: F.cross_entropy(depth, width), run_of(depth=2)), F.cross_entropy)

    def test_smoothings_of_their_own_are_fused_as_one_cross_entropy(self):
        losses = [build_loss(F.cross_entropy, run_of(label_smoothing=one)) for one in (0.0, 0.1, 0.5)]
        together = stacked_loss(losses)
        assert isinstance(together, CrossEntropy)
        preds, targets = PREDS.expand(3, -1, -1), CLASSES.expand(3, -1)
        alone = torch.stack([loss(PREDS, CLASSES) for loss in losses])
        torch.testing.assert_close(together(preds, targets), alone)


def result_of(loss, targets):
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # some of the targets fit only some of the losses
            return loss(PREDS.softmax(1), targets)
    except (RuntimeError, ValueError):
        return None


class TestForms:
    def test_a_module_is_copied_for_each_run(self):
        loss = Focal(weight=torch.ones(NUM_CLASSES))
        made = build_loss(loss, run_of())
        made.weight.zero_()
        assert loss.weight.tolist() == [1.0] * NUM_CLASSES

    @pytest.mark.parametrize("make", [lambda run: Focal(run.gamma), lambda run: partial(scaled, scale=run.gamma)])
    def test_a_function_of_the_run_makes_the_loss(self, make):
        run = run_of(gamma=0.5, scale=7)
        assert_same(build_loss(make, run), make(run))

    def test_a_class_that_wants_the_run_gets_it(self):
        class Mine:
            def __init__(self, run, scale=1.0):
                self.by = run.gamma * scale

            def __call__(self, preds, targets):
                return F.cross_entropy(preds, targets) * self.by

        assert_same(build_loss(Mine, run_of(gamma=3, scale=2.0)), partial(scaled, scale=6.0))

    @pytest.mark.parametrize("name", ["cross_entropy", "CrossEntropyLoss"])
    def test_a_name_that_a_function_of_the_run_returns_means_what_it_means_anywhere(self, name):
        run = run_of(criterion=name, label_smoothing=0.3)
        assert_same(build_loss(lambda run: run.criterion, run), partial(F.cross_entropy, label_smoothing=0.3))
        weighted = build_loss(lambda run: run.criterion, run, class_weights=WEIGHTS)
        assert weighted.weight.tolist() == pytest.approx(WEIGHTS)

    def test_a_module_is_on_the_runs_device(self):
        made = build_loss("cross_entropy", run_of(), torch.device("meta"), class_weights=WEIGHTS)
        assert made.weight.device.type == "meta"

    @pytest.mark.parametrize(
        ("loss", "params", "message"),
        [
            (3, {}, "loss=an int is no function of predictions and targets; write loss=F.cross_entropy"),
            ("cross_entrpy", {}, "did you mean 'cross_entropy'?"),
            (lambda run: "cross_entrpy", {}, "did you mean 'cross_entropy'?"),
            (partial(F.cross_entropy, label_smothing=0.1), {}, "has no argument 'label_smothing'; it has input, "),
            ("huber_loss", {"delta": "0.5"}, "delta='0.5' is a string, and huber_loss takes a number"),
            (lambda run: 3, {}, "the loss function of the run returned an int, which cannot be called"),
            ("cross_entropy", {"label_smoothing": 1.5}, "label_smoothing=1.5 is no share; give a number from 0 to 1"),
            ("cross_entropy", {"label_smoothing": True}, "label_smoothing=True is no share"),
            ("multi_margin_loss", {"p": 3}, "loss=MultiMarginLoss cannot be made with p=3: "),
            ("bce_with_logits", {"pos_weight": "a"}, "pos_weight='a' is neither a number nor a list of them"),
            (lambda preds, targets, gamma, tau: 0, {"tau": 1}, "wants gamma, not in the grid; add gamma=[...]"),
        ],
    )
    def test_what_makes_no_loss_is_refused(self, loss, params, message):
        with pytest.raises(TrainerError) as error:
            build_loss(loss, run_of(**params))
        assert message in str(error.value)


class TestClassWeights:
    def test_balanced_weights_are_scikit_learns(self):
        from sklearn.utils.class_weight import compute_class_weight

        targets = torch.randint(10, (1000,), generator=torch.Generator().manual_seed(1)) ** 2 // 9
        present = np.unique(targets)
        expected = compute_class_weight("balanced", classes=present, y=targets.numpy())
        weights = balanced_weights(targets)
        assert len(present) < len(weights) == 10  # some classes are missing
        assert weights[present].tolist() == expected.astype(np.float32).tolist()
        assert weights.sum().item() == pytest.approx(expected.sum())

    def test_a_class_without_samples_weighs_nothing(self):
        assert balanced_weights(torch.tensor([0, 0, 0, 2]), 4).tolist() == pytest.approx([4 / 6, 0, 4 / 2, 0])

    def test_balanced_weights_give_each_class_the_same_say(self):
        targets = torch.tensor([0] * 90 + [1] * 9 + [2])
        each = balanced_weights(targets)[targets]
        assert [each[targets == one].sum().item() for one in range(3)] == pytest.approx([100 / 3] * 3)

    @pytest.mark.parametrize(
        "loss", ["cross_entropy", nn.CrossEntropyLoss, nn.CrossEntropyLoss(), lambda run: F.cross_entropy]
    )
    @pytest.mark.parametrize("weights", [WEIGHTS, tuple(WEIGHTS), torch.tensor(WEIGHTS), np.array(WEIGHTS)])
    def test_weights_are_those_of_torchs_cross_entropy(self, loss, weights):
        made = build_loss(loss, run_of(), class_weights=weights)
        assert_same(made, partial(F.cross_entropy, weight=torch.tensor(WEIGHTS)))

    def test_weights_and_smoothing_go_together(self):
        made = build_loss(F.cross_entropy, run_of(label_smoothing=0.1), class_weights=WEIGHTS)
        assert_same(made, partial(F.cross_entropy, weight=torch.tensor(WEIGHTS), label_smoothing=0.1))

    def test_balanced_weights_are_of_the_training_targets(self):
        made = build_loss("cross_entropy", run_of(), class_weights="balanced", targets=lambda: CLASSES)
        counts = [(one == CLASSES).sum().item() for one in range(NUM_CLASSES)]
        expected = torch.tensor([20 / (NUM_CLASSES * count) for count in counts])
        assert_same(made, partial(F.cross_entropy, weight=expected))

    @pytest.mark.parametrize(
        ("loss", "expected"), [("multi_margin_loss", F.multi_margin_loss), (nn.NLLLoss, F.nll_loss)]
    )
    def test_other_losses_of_classes_take_weights(self, loss, expected):
        made = build_loss(loss, run_of(), class_weights=WEIGHTS)
        assert_same(made, partial(expected, weight=torch.tensor(WEIGHTS)))

    @pytest.mark.parametrize("loss", [Focal, Focal(), lambda run: Focal(run.gamma)])
    def test_a_loss_of_ones_own_with_an_argument_weight_takes_them(self, loss):
        made = build_loss(loss, run_of(gamma=2.0), class_weights=WEIGHTS)
        assert_same(made, Focal(2.0, torch.tensor(WEIGHTS)))

    def test_a_module_shared_by_all_runs_is_not_weighted_itself(self):
        shared = nn.CrossEntropyLoss()
        for _ in range(2):
            assert build_loss(lambda run: shared, run_of(), class_weights=WEIGHTS).weight.tolist() == WEIGHTS
        assert shared.weight is None

    def test_targets_are_not_asked_for_without_need(self):
        def targets():
            raise AssertionError

        build_loss("cross_entropy", run_of(), targets=targets)
        build_loss("cross_entropy", run_of(), targets=targets, class_weights=WEIGHTS, num_classes=NUM_CLASSES)

    @pytest.mark.parametrize("loss", ["mse_loss", F.mse_loss, nn.HuberLoss, nn.BCEWithLogitsLoss(), "bce", scaled])
    def test_a_loss_without_class_weights_is_refused_with_those_that_have(self, loss):
        with pytest.raises(TrainerError, match="choose CrossEntropyLoss, NLLLoss, MultiMarginLoss"):
            build_loss(loss, run_of(), class_weights=WEIGHTS)

    @pytest.mark.parametrize(
        "loss", [nn.CrossEntropyLoss(weight=torch.ones(4)), partial(F.cross_entropy, weight=torch.ones(4))]
    )
    def test_weights_twice_are_refused(self, loss):
        with pytest.raises(TrainerError, match="has a weight of its own"):
            build_loss(loss, run_of(), class_weights=WEIGHTS)

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"class_weights": "balancd"}, "class_weights='balancd' is unknown; choose 'balanced'"),
            ({"class_weights": "balanced"}, "needs the training targets"),
            ({"class_weights": [1, -1]}, "is neither 'balanced' nor a list"),
            ({"class_weights": [1, float("nan")]}, "is neither 'balanced' nor a list"),
            ({"class_weights": [0, 0]}, "is neither 'balanced' nor a list"),
            ({"class_weights": []}, "is neither 'balanced' nor a list"),
            ({"class_weights": 3}, "is neither 'balanced' nor a list"),
            ({"class_weights": ["a"]}, "is neither 'balanced' nor a list"),
            ({"class_weights": [1, 2], "num_classes": 3}, "has 2 numbers, but there are 3 classes; give one each"),
            (
                {"class_weights": [1, 2], "targets": lambda: torch.tensor([0, 2])},
                "has 2 numbers, but the targets go up to 2; give 3",
            ),
            ({"class_weights": "balanced", "targets": lambda: torch.tensor([0, -1])}, "the target -1 is not a class"),
            (
                {"class_weights": "balanced", "targets": lambda: torch.tensor([0, 3]), "num_classes": 3},
                "the target 3 is not one of the 3 classes 0 to 2",
            ),
        ],
    )
    def test_weights_that_stand_for_nothing_are_refused(self, options, message):
        with pytest.raises(TrainerError) as error:
            build_loss("cross_entropy", run_of(), **options)
        assert message in str(error.value)
