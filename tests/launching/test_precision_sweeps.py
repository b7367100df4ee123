"""Precision, speed and the strict mode in a sweep: what is refused before epoch 1, said at launch, and recorded."""

import json

import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from runmanager import RunBuilder, Trainer


def refused(project, command, **parts):
    project.sweep(**parts)
    said = command("launch", "tiny", "--no-tensorboard")
    assert said.status == 2
    assert not (project.root / "runs").exists()
    return said.err


def notes(project, number=1):
    """What the run's journal has noted."""
    text = (project.folders()[number - 1] / "journal.jsonl").read_text()
    records = [json.loads(line[line.index("{") :]) for line in text.splitlines()]
    return [record["text"] for record in records if record["kind"] == "note"]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("amp='fp61'", "amp='fp61' is not one of 'fp16', 'bf16'; did you mean 'fp16'?"),
        ("compile='max-autotun'", "compile='max-autotun' is unknown; choose default, reduce-overhead, max-autotune"),
        ("accumulate=0", "accumulate=0 is not a whole number of 1 or more"),
        ("accumulate=11", "accumulate=11 is more pieces than a batch of 10 has samples; choose 10 or less"),
        ("channels_last='yes'", "channels_last='yes' is not True or False"),
        ("deterministic=1", "deterministic=1 is not True or False"),
        ("deterministic=True, cudnn_benchmark=True", "deterministic=True and cudnn_benchmark=True cannot both be"),
    ],
)
def test_what_cannot_be_is_refused_before_any_run(given, said, project, command):
    assert said in refused(project, command, epochs=f"2, {given}")


def test_a_precision_that_the_device_has_not_is_refused_by_the_check(project, command):
    said = refused(project, command, device="'meta'", epochs="2, amp='fp16'")
    assert "amp='fp16' cannot be had on meta; choose None" in said


def test_without_a_compiler_on_the_machine_the_check_refuses_to_compile(project, command, monkeypatch, tmp_path):
    monkeypatch.setenv("CXX", str(tmp_path / "my-c++"))
    assert "my-c++' is not on this machine; install" in refused(project, command, epochs="2, compile=True")


@pytest.fixture
def any_compiler(monkeypatch, tmp_path):
    """One that is only found, never asked."""
    (tmp_path / "my-c++").touch(mode=0o755)
    monkeypatch.setenv("CXX", str(tmp_path / "my-c++"))
    torch.compiler.reset()
    yield
    torch.compiler.reset()


def num_compiled():
    return torch._dynamo.utils.counters["frames"]["total"]


def test_nothing_is_compiled_before_the_first_batch(project, command, any_compiler):
    """A compiler that cannot compile would fail."""
    before = num_compiled()
    project.sweep(epochs="2, compile=True, accumulate=2, mixup=0.2", params="lr=[0.1, 0.01], batch_size=[10]")
    said = command("launch", "tiny", "--dry-run")
    assert (said.status, said.err) == (0, "")
    assert command("summary", "tiny").status == 0
    assert num_compiled() == before
    torch.compile(lambda inputs: inputs + 1, backend="eager")(torch.ones(1))
    assert num_compiled() == before + 1


def test_a_compiled_run_goes_the_same_way_as_a_plain_one(project, any_compiler):
    """With the compiler's work left out, by torch's own switch: the numbers are those of the plain network, to the bit."""
    project.sweep(name="plain")
    project.launch("plain")
    project.sweep(epochs="2, compile=True")
    with torch.compiler.set_stance("force_eager"):
        project.launch()
    assert project.losses() == project.losses("plain")


def test_a_run_is_trained_compiled_and_looked_at_as_it_is(any_compiler, tmp_path):
    data = torch.rand(20, 4), torch.arange(20) % 2
    trainer = Trainer(lambda: nn.Linear(4, 2), data, "SGD", F.cross_entropy, epochs=1, batch_size=5, compile=True)
    (run,) = RunBuilder.get_runs({"lr": [0.1]})
    splits = trainer.splits(run, 0, tmp_path)
    assert trainer.build(run, splits, tmp_path).network._compiled_call_impl is not None
    looked_at = trainer.build(run, splits, tmp_path, compiles=False)
    assert looked_at.network._compiled_call_impl is None
    assert looked_at.recipe.refusal() == "its network is compiled"


def test_steps_that_float16_skips_are_counted_per_epoch_and_over_a_resume(project):
    """The gradients are above 1, so that a loss scaled by 65536 has infinite ones in float16 at first."""
    large = "lambda preds, targets: 100 * F.cross_entropy(preds, targets)"
    hidden = "lambda: nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 2))"
    parts = {"network": hidden, "loss": large, "params": "lr=[1e-6], batch_size=[5]"}
    project.sweep(epochs="3, amp='fp16'", name="whole", **parts)
    project.launch("whole")
    whole = pd.read_csv(project.root / "results" / "whole.csv")["skipped steps"].tolist()
    assert whole[0] > 0
    assert whole[-1] == 0
    project.sweep(epochs="3, amp='fp16'", name="tiny", **parts)
    project.launch(epochs=1)
    assert pd.read_csv(project.root / "results" / "tiny.csv")["skipped steps"].tolist() == whole[:1]
    project.sweep(epochs="3, amp='bf16'", name="other", **parts)
    project.launch("other")
    assert "skipped steps" not in pd.read_csv(project.root / "results" / "other.csv")


def test_what_the_strict_mode_cannot_see_to_is_said_at_launch_and_noted(project, command):
    project.sweep(epochs="1, deterministic=True", params="lr=[0.1], batch_size=[10]")
    said = command("launch", "tiny", "--no-tensorboard")
    assert said.status == 0
    line = "deterministic: the same bits come with the same version of torch and"
    assert said.out.index(line) < said.out.index("run 1")
    assert any(one.startswith(line) for one in notes(project))


PUTS = """
class Puts(nn.Linear):
    def forward(self, inputs):
        rows = torch.zeros(len(inputs)).put_(torch.arange(len(inputs)), inputs.sum(1))
        return super().forward(inputs) + rows[:, None]
"""


def test_what_cannot_be_deterministic_is_named_before_epoch_1_and_trains_without_the_mode(project, command):
    said = refused(project, command, epochs="1, deterministic=True", network="lambda: Puts(4, 2)", before=PUTS)
    assert "deterministic: put_ has no deterministic algorithm in torch here; use scatter_ or index_put_" in said
    project.sweep(epochs="1", network="lambda: Puts(4, 2)", before=PUTS)
    assert command("launch", "tiny", "--no-tensorboard").status == 0
    assert not torch.are_deterministic_algorithms_enabled()


SEES = """
class Net(nn.Linear):
    def forward(self, inputs):
        if self.training and torch.is_grad_enabled():
            open("modes", "a").write(f"{torch.are_deterministic_algorithms_enabled()} ")
        return super().forward(inputs)
"""


def test_only_the_run_that_asks_for_it_is_strict(project):
    params = "lr=[0.1], batch_size=[60], deterministic=[True, False]"
    project.sweep(params=params, network="lambda: Net(4, 2)", before=SEES, sweep="", validation="0")
    project.launch(fuse="off")
    assert (project.root / "modes").read_text().split()[-4:] == ["True", "True", "False", "False"]
    assert not torch.are_deterministic_algorithms_enabled()


def test_settings_that_do_nothing_here_are_noted(project):
    project.sweep(epochs="1, channels_last=True, cudnn_benchmark=True", params="lr=[0.1], batch_size=[10]")
    project.launch()
    assert "channels_last does nothing for Linear, which has no Conv2d" in notes(project)
    assert "cudnn_benchmark does nothing on cpu" in notes(project)
