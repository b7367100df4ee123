"""Mixed batches are torchvision's own, drawn from the global generator alone."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torchvision.transforms import v2

from runmanager.data.splits import DataError
from runmanager.training.recipes.mixing import Mixing
from runmanager.training.settings import TrainerError

NUM_CLASSES = 5
DRAWS = torch.Generator().manual_seed(0)
PICTURES = torch.rand(12, 3, 8, 8, generator=DRAWS)
VECTORS = torch.rand(12, 7, generator=DRAWS)
CLASSES = torch.randint(NUM_CLASSES, (12,), generator=DRAWS)
WAYS = {"mixup": {"mixup": 0.4}, "cutmix": {"cutmix": 1.0}, "both": {"mixup": 0.4, "cutmix": 1.0}}


def of_torchvision(way):
    mixup, cutmix = v2.MixUp(alpha=0.4, num_classes=NUM_CLASSES), v2.CutMix(alpha=1.0, num_classes=NUM_CLASSES)
    return {"mixup": mixup, "cutmix": cutmix, "both": v2.RandomChoice([mixup, cutmix])}[way]


@pytest.mark.parametrize("way", WAYS)
def test_batches_are_mixed_as_torchvision_mixes_them(way):
    mixing, theirs = Mixing(NUM_CLASSES, **WAYS[way]), of_torchvision(way)
    for seed in range(10):
        torch.manual_seed(seed)
        inputs, shares = mixing(PICTURES, CLASSES)
        state = torch.get_rng_state()
        torch.manual_seed(seed)
        expected = theirs(PICTURES, CLASSES)
        assert torch.equal(inputs, expected[0]) and torch.equal(shares, expected[1])
        assert torch.equal(state, torch.get_rng_state())


def test_mixup_is_the_papers_formula():
    torch.manual_seed(3)
    inputs, shares = Mixing(NUM_CLASSES, mixup=0.4)(PICTURES, CLASSES)
    torch.manual_seed(3)
    share = torch.distributions.Beta(0.4, 0.4).sample((1,)).item()
    torch.testing.assert_close(inputs, share * PICTURES + (1 - share) * PICTURES.roll(1, 0))
    hot = F.one_hot(CLASSES, NUM_CLASSES).float()
    torch.testing.assert_close(shares, share * hot + (1 - share) * hot.roll(1, 0))


def test_both_means_one_of_them_for_each_batch():
    mixing, kinds = Mixing(NUM_CLASSES, mixup=1.0, cutmix=1.0), set()
    torch.manual_seed(0)
    for _ in range(20):
        inputs, _ = mixing(PICTURES, CLASSES)
        is_cut = ((inputs == PICTURES) | (inputs == PICTURES.roll(1, 0))).all()
        kinds.add(bool(is_cut))
    assert kinds == {True, False}


@pytest.mark.parametrize("way", WAYS)
def test_the_state_of_the_global_generator_is_all_that_decides(way):
    mixing = Mixing(NUM_CLASSES, **WAYS[way])
    torch.manual_seed(1)
    mixing(PICTURES, CLASSES)
    state = torch.get_rng_state()
    expected = [mixing(PICTURES, CLASSES) for _ in range(3)]
    torch.set_rng_state(state)
    resumed = Mixing(NUM_CLASSES, **WAYS[way])  # as after a restart
    for inputs, shares in expected:
        again = resumed(PICTURES, CLASSES)
        assert torch.equal(again[0], inputs) and torch.equal(again[1], shares)
    assert not torch.equal(expected[0][0], expected[1][0])


@pytest.mark.parametrize("shape", [(12, 7), (12,), (12, 4, 5), (12, 2, 3, 4, 5)])
def test_mixup_mixes_inputs_of_any_shape(shape):
    inputs = torch.rand(shape, generator=torch.Generator().manual_seed(2))
    torch.manual_seed(4)
    mixed, shares = Mixing(NUM_CLASSES, mixup=0.4)(inputs, CLASSES)
    torch.manual_seed(4)
    share = torch.distributions.Beta(0.4, 0.4).sample((1,)).item()
    torch.testing.assert_close(mixed, share * inputs + (1 - share) * inputs.roll(1, 0))
    torch.testing.assert_close(shares.sum(1), torch.ones(12))


@pytest.mark.parametrize("way", WAYS)
def test_the_batch_itself_is_left_as_it_is(way):
    inputs, targets = PICTURES.clone(), CLASSES.clone()
    Mixing(NUM_CLASSES, **WAYS[way])(inputs, targets)
    assert torch.equal(inputs, PICTURES) and torch.equal(targets, CLASSES)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32, torch.bool])
def test_classes_may_be_of_any_whole_type(dtype):
    targets = CLASSES.clamp(max=1)
    torch.manual_seed(0)
    expected = Mixing(2, mixup=1.0)(PICTURES, targets)
    torch.manual_seed(0)
    assert torch.equal(Mixing(2, mixup=1.0)(PICTURES, targets.to(dtype))[1], expected[1])


def test_channels_last_stays():
    mixed, _ = Mixing(NUM_CLASSES, mixup=1.0)(PICTURES.to(memory_format=torch.channels_last), CLASSES)
    assert mixed.is_contiguous(memory_format=torch.channels_last)


def test_accuracy_counts_the_class_with_the_larger_share():
    shares = torch.tensor([[0.7, 0.3, 0.0], [0.2, 0.0, 0.8], [0.0, 1.0, 0.0], [0.0, 0.5, 0.5]])
    hard = Mixing(3, mixup=1.0).hard(shares)
    assert hard.dtype == torch.int64 and hard.tolist() == [0, 2, 1, 1]


def test_three_epochs_are_those_of_a_plain_loop_to_the_last_bit():
    def train(mix, loss):
        torch.manual_seed(0)
        network = nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, NUM_CLASSES))
        optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
        for _ in range(3):
            inputs, targets = mix(PICTURES, CLASSES)
            optimizer.zero_grad()
            loss(network(inputs), targets).backward()
            optimizer.step()
        return torch.cat([param.detach().reshape(-1) for param in network.parameters()])

    mixing = Mixing(NUM_CLASSES, mixup=0.4, cutmix=1.0)
    ours = train(mixing, mixing.soft_loss(nn.CrossEntropyLoss(label_smoothing=0.1)))
    theirs = train(of_torchvision("both"), nn.CrossEntropyLoss(label_smoothing=0.1))
    assert torch.equal(ours, theirs)


@pytest.mark.parametrize("bad", [-1, NUM_CLASSES])
def test_a_target_outside_the_classes_is_refused_with_the_value_and_the_shape(bad):
    mixing, targets = Mixing(NUM_CLASSES, mixup=0.4), CLASSES.clone()
    mixing(PICTURES, targets)
    targets[3] = bad
    with pytest.raises(DataError) as error:
        mixing(PICTURES, targets)
    assert f"the target {bad} is outside the classes 0 to 4" in str(error.value)
    assert "inputs [12, 3, 8, 8] of float32 and targets [12] of int64" in str(error.value)


@pytest.mark.parametrize(
    ("options", "inputs", "targets", "message"),
    [
        (
            {"mixup": 0.4},
            PICTURES,
            CLASSES.float(),
            "mixup=0.4 mixes classes, one whole number [N] for each sample; the batch",
        ),
        ({"mixup": 0.4}, PICTURES, F.one_hot(CLASSES), "targets [12, 5] of int64"),
        ({"mixup": 0.4}, PICTURES, CLASSES[:3], "targets [3] of int64"),
        (
            {"mixup": 0.4},
            (PICTURES * 255).byte(),
            CLASSES,
            "mixes inputs of floats; the batch has inputs [12, 3, 8, 8] of uint8",
        ),
        (
            {"cutmix": 1.0},
            VECTORS,
            CLASSES,
            "cutmix cuts pictures [N, C, H, W]; the batch has inputs [12, 7] of float32",
        ),
        ({"mixup": 0.4, "cutmix": 1.0}, VECTORS, CLASSES, "mixup=0.4, cutmix=1.0: cutmix cuts pictures"),
    ],
)
def test_what_cannot_be_mixed_is_refused_with_the_shape_of_the_batch(options, inputs, targets, message):
    with pytest.raises(TrainerError) as error:
        Mixing(NUM_CLASSES, **options)(inputs, targets)
    assert message in str(error.value)


@pytest.mark.parametrize("alpha", [0, -0.2, float("nan"), float("inf"), True, "0.2"])
@pytest.mark.parametrize("name", ["mixup", "cutmix"])
def test_what_is_no_alpha_is_refused(name, alpha):
    with pytest.raises(TrainerError) as error:
        Mixing(NUM_CLASSES, **{name: alpha})
    assert str(error.value).startswith(f"{name}={alpha!r} is no alpha of a Beta distribution; give a number above 0")


def test_mixing_by_nothing_is_refused():
    with pytest.raises(TrainerError, match="neither mixup nor cutmix is given"):
        Mixing(NUM_CLASSES)


@pytest.mark.parametrize("loss", [nn.NLLLoss(), F.multi_margin_loss, nn.CrossEntropyLoss(weight=torch.ones(3))])
def test_a_loss_that_takes_no_shares_is_refused_at_the_first_batch(loss):
    mixing = Mixing(NUM_CLASSES, mixup=0.4)
    _, shares = mixing(VECTORS, CLASSES)
    with pytest.raises(TrainerError) as error:
        mixing.soft_loss(loss)(torch.zeros(12, NUM_CLASSES), shares)
    assert "mixup=0.4 gives targets [12, 5] of float32, the shares of the classes, for predictions [12, 5]" in str(
        error.value
    )
    assert "use CrossEntropyLoss" in str(error.value)


def test_more_outputs_than_the_training_data_has_classes_are_told():
    mixing = Mixing(NUM_CLASSES, mixup=0.4)
    _, shares = mixing(VECTORS, CLASSES)
    with pytest.raises(
        TrainerError, match=f"{NUM_CLASSES} classes, and the network 7 outputs: give it {NUM_CLASSES}, or"
    ):
        mixing.soft_loss(nn.CrossEntropyLoss())(torch.zeros(12, 7), shares)


def test_what_a_loss_raises_later_is_its_own():
    def once(preds, targets, calls=[]):  # noqa: B006 (it counts)
        calls.append(1)
        if len(calls) == 2:
            raise RuntimeError("of the loss")
        return F.cross_entropy(preds, targets)

    loss = Mixing(NUM_CLASSES, mixup=0.4).soft_loss(once)
    preds, shares = torch.zeros(12, NUM_CLASSES), torch.full((12, NUM_CLASSES), 0.2)
    assert torch.equal(loss(preds, shares), F.cross_entropy(preds, shares))
    with pytest.raises(RuntimeError, match="of the loss"):
        loss(preds, shares)
