"""What recipes that are off add to a step.

Measured: the step of a run whose Trainer asks for no recipe. Against: the step as it was before there were recipes, which is
written out here: zero_grad, forward, loss, backward, optimizer step. Target: at most 1.02 times.
A step of next to nothing (a linear layer 4 to 2, batch 2), where every call shows; a network 64-32-10 with batches of 32; the
classroom's CNN with batches of 100. SGD with momentum, the same networks and batches on both sides.
Device: CPU, one thread, seconds of the process. Rounds of as many steps as take 50 ms, interleaved, after one that is not counted.
"""

import copy
import sys
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from measure import ROOT, against, interleaved, machine, report
from torch import Tensor, nn

from runmanager.training.parts import Parts
from runmanager.training.steppers import Outcome, SingleStepper

sys.path.append(str(ROOT))
from networks.fashion_cnn import FashionCNN

ROUNDS, ROUND_SECONDS = 60, 0.05

torch.set_num_threads(1)
torch.manual_seed(0)
print(machine())

CASES: dict[str, tuple[nn.Module, Tensor]] = {
    "linear 4-2, batch 2": (nn.Linear(4, 2), torch.rand(2, 4)),
    "64-32-10, batch 32": (nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10)), torch.rand(32, 64)),
    "classroom CNN, batch 100": (FashionCNN(), torch.rand(100, 1, 28, 28)),
}


def sgd(network: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(network.parameters(), lr=1e-4, momentum=0.9)


def step_before(network: nn.Module, optimizer: torch.optim.Optimizer, inputs: Tensor, targets: Tensor) -> Outcome:
    optimizer.zero_grad(set_to_none=True)
    preds = network(inputs)
    loss = F.cross_entropy(preds, targets)
    loss.backward()
    optimizer.step()
    return Outcome(loss.detach(), preds.detach(), targets)


def seconds_of_a_step(step: Callable[[], object], num_steps: int) -> float:
    began = time.process_time()
    for _ in range(num_steps):
        step()
    return (time.process_time() - began) / num_steps


def measure(name: str, network: nn.Module, inputs: Tensor) -> None:
    targets = torch.randint(0, 2, (len(inputs),))
    before = copy.deepcopy(network)
    optimizer, optimizer_before = sgd(network), sgd(before)
    stepper = SingleStepper(Parts(network, optimizer, F.cross_entropy))

    def now(num_steps: int) -> float:
        return seconds_of_a_step(lambda: stepper.step(inputs, targets), num_steps)

    def as_before(num_steps: int) -> float:
        return seconds_of_a_step(lambda: step_before(before, optimizer_before, inputs, targets), num_steps)

    num_steps = max(1, round(ROUND_SECONDS / now(3)))
    found = interleaved(ROUNDS, {"now": lambda: now(num_steps), "before": lambda: as_before(num_steps)})
    report(f"a step, {name}", found["now"], "µs", versus=against("before", found["now"], found["before"], "µs"))


for name, (network, inputs) in CASES.items():
    measure(name, network, inputs)
