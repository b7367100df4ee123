"""`runmanager verify-fusion`: how far runs that are trained together are from what each is alone."""

from pathlib import Path

from runmanager.launching.find_fusion import Finder
from runmanager.launching.load_sweep import find_sweep_file, load_sweep, project_of
from runmanager.launching.sweep import SweepError, cannot
from runmanager.training.alike import NotFusable
from runmanager.training.choice import Trial
from runmanager.training.loaders import NotResident
from runmanager.training.verify import Differences, verify


@cannot("be compared")
def verify_fusion(sweep: str | Path, *, num_steps: int = 10, size: int = 8) -> bool:
    """Prints the largest differences for each kind of runs; whether there were any, and all are as small as rounding makes them.

    Args:
        sweep: the path or the name of a sweep file.
        num_steps: how many steps are compared.
        size: how many runs are trained together, where a kind has so many.

    Raises:
        SweepError: the sweep cannot be used, or has no trainer.
    """
    if num_steps < 1 or size < 2:
        given = f"--steps {num_steps}: give 1 step or more" if num_steps < 1 else f"--runs {size}: give 2 runs or more"
        raise SweepError(str(sweep), [given])
    loaded = load_sweep(find_sweep_file(sweep))
    if loaded.trainer is None:
        raise SweepError(
            loaded.name, ["its runs are trained by a function, and so one by one; only a Trainer's can be fused"]
        )
    project, runs = project_of(find_sweep_file(sweep)), loaded.runs()
    kinds, reasons = Finder(loaded.trainer, runs, loaded.seed, project).sort(range(len(runs)))
    print(
        f"{loaded.name}: {len(runs)} run{'s' if len(runs) != 1 else ''} of {len(kinds)} kind{'s' if len(kinds) != 1 else ''}"
    )
    is_within, num_compared = True, 0
    for key, indices in kinds.items():
        numbers = f"{len(indices)} run{'s' if len(indices) != 1 else ''} like {runs[indices[0]]!r}"
        if key in reasons or len(indices) < 2:
            print(f"{numbers}: one by one, {reasons.get(key, 'there is no other of its kind')}")
            continue
        try:
            trial = Trial(loaded.trainer, [runs[index] for index in indices[:size]], loaded.seed, project)
            found = verify(trial, min(size, len(indices)), num_steps)
        except (NotFusable, NotResident) as reason:
            print(f"{numbers}: one by one, {reason}")
            continue
        num_compared += 1
        print(f"{numbers}, {found[0].size} in one step, largest differences from alone:")
        print("\n".join(["  type     loss, step 1   loss, all steps   weights   arithmetic", *map(_line, found)]))
        is_within &= all(one.is_within for one in found)
    if not num_compared:
        print("there is nothing to compare")
        return False
    print("all as small as rounding makes them" if is_within else "some are larger than rounding makes them")
    return is_within


def _line(one: Differences) -> str:
    name = str(one.dtype).removeprefix("torch.")
    mark = "" if one.is_within else "   <- too large"
    numbers = f"{one.first_loss:12.1e}   {one.losses:15.1e}   {one.weights:7.1e}"
    return f"  {name}  {numbers}   {one.arithmetic}, {one.num_steps} step{'s' if one.num_steps != 1 else ''}{mark}"
