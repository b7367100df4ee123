"""`runmanager summary` and `runmanager lr-range`: a look into a run's network before it is trained. No run is touched."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from runmanager.launching.one_run import OneRun, built, choose_run, two_samples
from runmanager.launching.sweep import SweepError, cannot
from runmanager.tracking.files import replace_text
from runmanager.tracking.run_dir import SweepDir

if TYPE_CHECKING:
    from runmanager.training.alone import Alone
    from runmanager.training.loaders import Batch
    from runmanager.training.rate_range import RateRange


@cannot("be looked into")
def summary(sweep: str | Path, *, only: str | None = None) -> None:
    """Prints the layers of a run's network, with the shapes that two samples of its data get.

    Args:
        sweep: the path or the name of a sweep file.
        only: which run, by number or value; by default the first.

    Raises:
        SweepError: the sweep cannot be used, or has no Trainer.
        TrainerError: the network cannot be built, or the samples do not go through it.
    """
    from runmanager.training.summary import summarize

    one = choose_run(sweep, only)
    with built(one) as (parts, splits):
        inputs = two_samples(splits).to(parts.device)
        found = summarize(parts.network, inputs)
    shape = ", ".join(["N", *map(str, inputs.shape[1:])])
    print(f"{one.title}\n{type(parts.network).__name__}, inputs [{shape}] {str(inputs.dtype).removeprefix('torch.')}\n")
    print("\n".join(found.lines()))


@cannot("be tested")
def lr_range(
    sweep: str | Path, *, only: str | None = None, low: float = 1e-7, high: float = 1.0, steps: int = 100
) -> None:
    """Prints which learning rates suit a run, by the range test, and writes each step into the sweep's results.

    Args:
        sweep: the path or the name of a sweep file.
        only: which run, by number or value; by default the first.
        low: the first rate.
        high: the last.
        steps: how many steps are taken.

    Raises:
        SweepError: the sweep cannot be used, has no Trainer, or the rates make no sense.
        TrainerError: the run cannot be built.
    """
    from runmanager.training.rate_range import rates_fault

    fault = rates_fault(low, high, steps)
    if fault:
        raise SweepError(str(sweep), [f"--from {low:g} --to {high:g} --steps {steps}: {fault}"])
    one = choose_run(sweep, only)
    print(f"{one.title}: {steps} steps from {low:g} to {high:g}", flush=True)
    found = _test(one, low, high, steps)
    print("\n".join(found.lines()))
    file = SweepDir(one.project, str(one.sweep.name)).lr_range_csv
    file.parent.mkdir(exist_ok=True)
    replace_text(file, found.csv())
    print(f"every step: {file}")


def _test(one: OneRun, low: float, high: float, steps: int) -> "RateRange":
    from runmanager.training.rate_range import rate_range

    with one.trainer.ready(one.run, one.splits(), one.seed, one.project) as alone:
        alone.parts.recipe.schedule = None  # the test sets the rates
        return rate_range(alone.stepper, _endless(alone), alone.parts.optimizer, low=low, high=high, steps=steps)


def _endless(alone: "Alone") -> "Iterator[Batch]":
    while True:
        yield from alone.batches.train()
