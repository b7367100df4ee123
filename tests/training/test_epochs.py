"""An epoch of one run or of a group: what is tracked of its batches, and the means over the validation data."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from runmanager import RunBuilder, RunManager
from runmanager.training.epochs import evaluate, track, train_epoch
from runmanager.training.parts import Parts
from runmanager.training.steppers import Outcome, SingleStepper
from tests.training.fused_networks import mlp
from tests.training.fused_twins import Member, fused_stepper, sgd

(RUN,) = RunBuilder.get_runs({"lr": [0.1]})


def batches(num_samples=10, batch_size=4):
    draws = torch.Generator().manual_seed(0)
    inputs, targets = torch.rand(num_samples, 16, generator=draws), torch.randint(3, (num_samples,), generator=draws)
    return list(zip(inputs.split(batch_size), targets.split(batch_size), strict=True))


def single(network, loss=F.cross_entropy):
    return SingleStepper(Parts(network, torch.optim.SGD(network.parameters(), lr=0.1), loss))


def group(size):
    members = [Member.build(i, mlp, sgd, lambda i: F.cross_entropy, lambda i: None) for i in range(size)]
    return members, fused_stepper(members, shared=True)


def expected(network):
    """Loss and accuracy over all samples at once."""
    inputs, targets = (torch.cat(parts) for parts in zip(*batches(), strict=True))
    preds = network.eval()(inputs)
    return F.cross_entropy(preds, targets).item(), (preds.argmax(1) == targets).double().mean().item()


def test_validation_gives_the_means_over_all_samples():
    network = mlp(0)
    found = evaluate(single(network), batches())
    loss, accuracy = expected(network)
    assert found == {"val_loss": [pytest.approx(loss, rel=1e-6)], "val_accuracy": [pytest.approx(accuracy)]}


def test_validation_of_a_group_gives_those_of_each_member():
    members, stepper = group(3)
    found = evaluate(stepper, batches())
    each = [expected(member.network) for member in members]
    assert found["val_loss"] == pytest.approx([loss for loss, _ in each], rel=1e-6)
    assert found["val_accuracy"] == pytest.approx([accuracy for _, accuracy in each])


def test_without_classes_there_is_no_accuracy():
    stepper = single(nn.Linear(16, 1), F.mse_loss)
    found = evaluate(stepper, [(inputs, targets[:, None].float()) for inputs, targets in batches()])
    assert found.keys() == {"val_loss"}


def test_validation_is_in_eval_mode_and_training_in_train_mode(tmp_path):
    network = nn.Sequential(nn.Linear(16, 3), nn.Dropout(0.9))
    evaluate(single(network), batches())
    assert not network.training
    manager = RunManager("test", root=tmp_path, tensorboard=False, quiet=True)
    manager.begin_run(RUN).begin_epoch()
    train_epoch(single(network), batches(), manager)
    assert network.training
    manager.end_epoch()
    manager.end_run()


def test_the_loss_goes_by_samples_where_predictions_begin_with_another_dimension(tmp_path):
    class TimeFirst(nn.Linear):
        def forward(self, inputs):
            return super().forward(inputs.view(-1, 4, 4).transpose(0, 1))  # [4, N, 3]

    def loss(preds, targets):
        return F.cross_entropy(preds.mean(0), targets)

    network = TimeFirst(4, 3)
    manager = RunManager("test", root=tmp_path, tensorboard=False, quiet=True)
    manager.begin_run(RUN).begin_epoch()
    stepper = SingleStepper(Parts(network, torch.optim.SGD(network.parameters(), lr=0.0), loss))
    train_epoch(stepper, batches(), manager)
    manager.end_epoch()
    manager.end_run()
    (whole,) = batches(batch_size=10)
    assert manager.run_data[0]["loss"] == pytest.approx(loss(network(whole[0]), whole[1]).item(), rel=1e-6)


def test_an_epoch_goes_through_each_batch_once_and_its_row_has_the_means(tmp_path):
    network = nn.Linear(16, 3)
    stepper = SingleStepper(Parts(network, torch.optim.SGD(network.parameters(), lr=0.0), F.cross_entropy))
    manager = RunManager("test", root=tmp_path, tensorboard=False, quiet=True)
    manager.begin_run(RUN).begin_epoch()
    train_epoch(stepper, batches(), manager)
    manager.end_epoch()
    manager.end_run()
    loss, accuracy = expected(network)
    (row,) = manager.run_data
    assert row["loss"] == pytest.approx(loss, rel=1e-6)
    assert row["accuracy"] == pytest.approx(accuracy)


def test_what_is_tracked_of_a_group_is_each_members_own(tmp_path):
    from runmanager.tracking.manager import Entry

    runs = RunBuilder.get_runs({"lr": [0.1, 0.2]})
    manager = RunManager("test", root=tmp_path, tensorboard=False, quiet=True)
    preds = torch.eye(3).expand(2, 3, 3)
    targets = torch.tensor([[0, 1, 2], [0, 0, 0]])
    with manager.tracking_group([Entry(run, number) for number, run in enumerate(runs, 1)]):
        manager.begin_epoch()
        track(manager, Outcome(torch.tensor([1.0, 2.0]), preds, targets), 2)
        track(manager, Outcome(torch.tensor([3.0, 4.0]), preds[:, :1], targets[:, :1]), 2)
        manager.end_epoch()
    rows = manager.run_data
    assert [row["loss"] for row in rows] == [1.5, 2.5]  # three samples, then one
    assert [row["accuracy"] for row in rows] == [1.0, 0.5]
