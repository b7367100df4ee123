"""The rows of `runmanager bench`: what each compares, on which sweep, and what it should reach."""

import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeVar

from runmanager.launching.benchmarks.arms import Done, largest_difference, launched, looped
from runmanager.launching.benchmarks.lines import Line, Target, seconds_text
from runmanager.launching.benchmarks.processes import output_of, run
from runmanager.launching.benchmarks.projects import FAMILIES, SweepFile, Workplace

_Found = TypeVar("_Found")
_BATCH_100 = "batch_size=100"
_NONE = Target()


@dataclass(frozen=True)
class Setting:
    """What a row is measured with."""

    place: Workplace
    rounds: int
    is_quick: bool
    device: str  # 'cpu', 'cuda' or 'mps'
    cores: int

    @property
    def on_cpu(self) -> bool:
        """Whether steps are taken by the cores."""
        return self.device == "cpu"


@dataclass(frozen=True)
class Row:
    """One row: a few lines that are measured together."""

    name: str
    title: str
    seconds: float  # roughly, of a round on two cores of a machine where a batch-100 step takes 5 ms
    quick_seconds: float
    measure: Callable[[Setting], Iterator[Line]]


def interleaved(rounds: int, arms: Mapping[str, Callable[[], _Found]]) -> dict[str, list[_Found]]:
    """What each arm finds, once a round, so that a slow moment falls on all of them; every second round goes backwards."""
    found: dict[str, list[_Found]] = {name: [] for name in arms}
    for index in range(rounds):
        for name in list(arms) if index % 2 == 0 else reversed(list(arms)):
            found[name].append(arms[name]())
    return found


def one_run(batch_size: int, setting: Setting) -> Iterator[Line]:
    """One run with one core: ours against the loop, both with TensorBoard, table and saved states."""
    params = f"lr=[0.001], batch_size=[{batch_size}], shuffle=[True]"
    sweep = SweepFile(params, epochs=1 if setting.is_quick else 3, given="pictures")
    arms = {
        "ours": partial(launched, setting.place, sweep, one_core=setting.on_cpu),
        "loop": partial(looped, setting.place, sweep, one_core=setting.on_cpu),
    }
    found = interleaved(setting.rounds, arms)
    ours, loop = found["ours"], found["loop"]
    note = f"{_versus(ours, loop, 'run')}; {_losses_text(ours, loop)}"
    gpu = Target(10 if batch_size == 100 else 8)
    title = f"one run{', one core' if setting.on_cpu else ''}, batch {batch_size:,}"
    yield Line(title, _ratios(ours, loop, "run"), cpu=Target(2), gpu=gpu, note=note)
    whole = _ratios(ours, loop, "whole")
    yield Line("  its whole command, imports too", whole, note=_versus(ours, loop, "whole"))


def grid(setting: Setting) -> Iterator[Line]:
    """The classroom's eight runs, as whole commands. On a CPU the loop has one thread: two are slower for this network."""
    params = "lr=[0.01, 0.001], batch_size=[100, 1000], shuffle=[True, False]"
    sweep = SweepFile(params, epochs=1 if setting.is_quick else 3, given="pictures")
    workers: int | str = 2 if setting.on_cpu else "auto"
    arms = {
        "ours": partial(launched, setting.place, sweep, workers=workers),
        "loop": partial(looped, setting.place, sweep, one_thread=setting.on_cpu),
    }
    found = interleaved(setting.rounds, arms)
    ratios = _ratios(found["ours"], found["loop"], "whole")
    title = f"the 8-run grid, whole command{', 2 workers' if setting.on_cpu else ''}"
    yield Line(title, ratios, cpu=Target(3.5), gpu=Target(40), note=_versus(found["ours"], found["loop"], "whole"))


def many_cnns(setting: Setting) -> Iterator[Line]:
    """64 classroom CNNs, a few steps each: fused as the tool chooses, against unfused, and fused at all costs."""
    num_seeds, num_runs = (1, 16) if setting.is_quick else (4, 64)
    params = f"lr=[0.01, 0.003, 0.001, 0.0003], weight_decay=[0.0, 1e-5, 1e-4, 1e-3], seed={list(range(num_seeds))}"
    adam = "torch.optim.Adam(network.parameters(), lr=run.lr, weight_decay=run.weight_decay)"
    samples = 500 if setting.is_quick else 2000
    sweep = SweepFile(params, epochs=2, samples=samples, optimizer=adam, settings=_BATCH_100)
    workers = setting.cores if setting.on_cpu else 1
    launch = partial(launched, setting.place, sweep, bare=True)
    arms = {
        "auto": partial(launch, workers=workers, fuse="auto"),
        "off": partial(launch, workers=workers, fuse="off"),
        "fused": partial(launch, workers=workers, fuse=max(1, num_runs // workers)),
    }
    if not setting.on_cpu:
        arms["off, 4 workers"] = partial(launch, workers=4, fuse="off")
        arms["loop"] = partial(looped, setting.place, sweep, bare=True)
    found = interleaved(setting.rounds, arms)
    best = _best([found[name] for name in arms if name.startswith("off")])
    title = f"{num_runs} classroom CNNs"
    auto, bound = found["auto"], Target(0.97)
    yield _per_run(f"{title}, fuse=auto to the best unfused", auto, best, num_runs, bound, bound)
    yield _per_run("  fused at all costs", found["fused"], best, num_runs)
    if "loop" in found:
        yield _per_run(f"{title}, to the loop", auto, found["loop"], num_runs, gpu=Target(100))


def many_digits(num_lrs: int, num_decays: int, setting: Setting) -> Iterator[Line]:
    """Networks that are small enough for steps to be overhead: fused against one at a time, with one core."""
    num_runs = num_lrs * num_decays
    params = f"lr={_spread(num_lrs, 1e-4)}, weight_decay={_spread(num_decays, 1e-6)}"
    sweep = SweepFile(
        params,
        epochs=2 if setting.is_quick else 10,
        given="families.digits()",
        network="families.digits_network",
        optimizer="torch.optim.Adam(network.parameters(), lr=run.lr, weight_decay=run.weight_decay)",
        settings="batch_size=32",
    )
    launch = partial(launched, setting.place, sweep, one_core=setting.on_cpu)
    arms = {
        "fused": partial(launch, fuse=num_runs, bare=True),
        "alone": partial(launch, fuse="off", bare=True),
        "fused, usual": partial(launch, fuse=num_runs),
        "alone, usual": partial(launch, fuse="off"),
    }
    found = interleaved(setting.rounds, arms)
    cpu, gpu = Target(8 if num_runs >= 128 else 6), Target(50 if num_runs >= 128 else None)
    title = f"{num_runs} runs of 64-32-10 on digits, batch 32"
    yield _per_run(title, found["fused"], found["alone"], num_runs, cpu=cpu, gpu=gpu)
    yield _per_run("  with TensorBoard and saved states", found["fused, usual"], found["alone, usual"], num_runs)


def auto_choice(setting: Setting) -> Iterator[Line]:
    """Whether measuring a few steps finds the better of fused and unfused, for each family of networks.

    The steps are tried before the first run begins, so what that takes is told apart.
    """
    num_runs = 4 if setting.is_quick else 16
    params = f"lr={_spread(num_runs, 1e-4)}"
    samples = 500 if setting.is_quick else 5000
    for family, network in FAMILIES.items():
        sweep = SweepFile(params, epochs=2, samples=samples, network=network, settings=_BATCH_100)
        launch = partial(launched, setting.place, sweep, bare=True, one_core=setting.on_cpu)
        fuses: dict[str, int | str] = {"auto": "auto", "off": "off", "fused": num_runs}
        found = interleaved(setting.rounds, {name: partial(launch, fuse=fuse) for name, fuse in fuses.items()})
        fused = _median(_ratios(found["fused"], found["off"], "training"))
        choosing = _median(_times(found["auto"], "lead")) - _median(_times(found["off"], "lead"))
        best, bound = _best([found["off"], found["fused"]]), Target(0.95)
        line = _per_run(f"fuse=auto to the better, {family}", found["auto"], best, num_runs, bound, bound)
        note = f"{line.note}; fused at all costs {fused:.3g}×; choosing took about {max(0.0, choosing):.1f} s before"
        yield replace(line, note=note)


def differences(setting: Setting) -> Iterator[Line]:
    """The largest difference between the losses of eight CNNs trained fused and alone. One batch is an epoch here."""
    for dtype, first, ten in (("float32", 1e-6, 1e-5), ("float64", None, 1e-12)):
        sweep = SweepFile(
            f"lr={_spread(8, 1e-4)}",
            epochs=11,  # the loss after ten steps is that of the eleventh
            given=f"one_batch(torch.{dtype})",
            samples=100,
            network=f"lambda: FashionCNN().to(torch.{dtype})",
            settings=f"{_BATCH_100}, validation=0, shuffle=False",
        )
        fused, alone = (launched(setting.place, sweep, fuse=fuse, one_core=setting.on_cpu) for fuse in (8, "off"))
        note = "" if fused.group_size > 1 else "the launch did not fuse: these are the same arithmetic twice"
        for steps, bound in ((1, first), (10, ten)):
            found = largest_difference(*([one[: steps + 1] for one in done.losses] for done in (fused, alone)))
            target = Target(bound, at_least=False)
            title = f"fused to alone, {steps} step{'s'[: steps > 1]}, {dtype}"
            yield Line(title, [found], unit="", cpu=target, gpu=target, note=note)


def tensorboard(setting: Setting) -> Iterator[Line]:
    """What TensorBoard costs a run at equal content, against SummaryWriter."""
    found = _repeated(setting, "board_cost", 100)
    ours, others = _column(found, "ours"), _column(found, "others")
    ratios = [mine / other for mine, other in zip(ours, others, strict=True)]
    target = Target(0.6, at_least=False)
    note = f"{1e3 * _median(ours):.1f} ms against {1e3 * _median(others):.1f} ms a run of 3 epochs, not the first of its process"
    yield Line("TensorBoard, ours to SummaryWriter", ratios, cpu=target, gpu=target, note=note)


def tracking(setting: Setting) -> Iterator[Line]:
    """What tracking adds to a step beyond the same sums written by hand."""
    bound, share = Target(15, at_least=False), Target(2, at_least=False)
    for batch_size in (100, 1000):
        found = _repeated(setting, "tracking_cost", batch_size)
        beyond, steps = _column(found, "beyond"), _column(found, "step")
        micro = [1e6 * value for value in beyond]
        title = f"tracking a step beyond the sums, batch {batch_size:,}"
        yield Line(title, micro, " µs", cpu=bound, gpu=bound)
        shares = [100 * value / step for value, step in zip(beyond, steps, strict=True)]
        note = f"a bare step over tensors takes {1e3 * _median(steps):.3g} ms"
        limit = share if batch_size == 100 else _NONE
        yield Line("  of a bare step", shares, " %", cpu=limit, gpu=limit, note=note)


ROWS = [
    Row("one-100", "one run, one core, batch 100", 45, 20, partial(one_run, 100)),
    Row("one-1000", "one run, one core, batch 1,000", 50, 20, partial(one_run, 1000)),
    Row("grid", "the 8-run grid, whole command", 250, 30, grid),
    Row("cnn-64", "64 runs of the classroom CNN", 60, 35, many_cnns),
    Row("digits-128", "128 runs of 64-32-10 on digits", 80, 60, partial(many_digits, 16, 8)),
    Row("digits-32", "32 runs of 64-32-10 on digits", 50, 35, partial(many_digits, 8, 4)),
    Row("auto", "fuse=auto against the better of both", 300, 150, auto_choice),
    Row("differences", "fused against alone", 8, 30, differences),
    Row("tensorboard", "TensorBoard cost", 12, 10, tensorboard),
    Row("tracking", "tracking a step", 30, 25, tracking),
]


def _repeated(setting: Setting, module: str, batch_size: int) -> list[dict[str, float]]:
    """What a module of this package prints in fresh processes."""
    words = [sys.executable, "-m", f"runmanager.launching.benchmarks.{module}", str(batch_size)]
    found = []
    for _ in range(setting.rounds):
        with setting.place.project(SweepFile("lr=[0.1]", epochs=1)) as project:
            run(words, project, one_core=setting.on_cpu)
            found.append(json.loads(output_of(project).splitlines()[-1]))
    return found


def _column(found: Sequence[Mapping[str, float]], name: str) -> list[float]:
    return [one[name] for one in found]


def _times(found: Sequence[Done], part: str) -> list[float]:
    return [getattr(done, part) for done in found]


def _ratios(ours: Sequence[Done], others: Sequence[Done], part: str) -> list[float]:
    """How often ours goes into theirs, round by round."""
    return [other / mine for mine, other in zip(_times(ours, part), _times(others, part), strict=True)]


def _versus(ours: Sequence[Done], others: Sequence[Done], part: str) -> str:
    return f"{seconds_text(_times(ours, part))} against {seconds_text(_times(others, part))}"


def _per_run(
    title: str, ours: Sequence[Done], others: Sequence[Done], num_runs: int, cpu: Target = _NONE, gpu: Target = _NONE
) -> Line:
    """A line on what training takes a run; the ratio is that of all runs together."""
    each, theirs = ([1e3 * done.training / num_runs for done in side] for side in (ours, others))
    note = f"{_median(each):.3g} ms against {_median(theirs):.3g} ms a run; groups of {ours[-1].group_size}"
    return Line(title, _ratios(ours, others, "training"), cpu=cpu, gpu=gpu, note=note)


def _best(sides: Sequence[list[Done]]) -> list[Done]:
    """Of several sides, the one whose median is the smallest."""
    return min(sides, key=lambda side: _median(_times(side, "training")))


def _losses_text(ours: Sequence[Done], loop: Sequence[Done]) -> str:
    worst = max(largest_difference(mine.losses, other.losses) for mine, other in zip(ours, loop, strict=True))
    return "losses equal to the last bit" if worst == 0 else f"LOSSES DIFFER by {worst:.1g}"


def _median(values: Sequence[float]) -> float:
    return Line("", values).median


def _spread(number: int, least: float) -> list[float]:
    """So many rates, each 1.3 times the one before."""
    return [round(least * 1.3**index, 9) for index in range(number)]


def choose_rows(names: Sequence[str]) -> list[Row]:
    """The rows of these names, in the table's order; all of them where none is named.

    Raises:
        BenchError: there is no row of that name.
    """
    unknown = [name for name in names if name not in {row.name for row in ROWS}]
    if unknown:
        raise BenchError(f"--only {unknown[0]}: choose {', '.join(row.name for row in ROWS)}")
    return [row for row in ROWS if row.name in names or not names]


class BenchError(ValueError):
    """A bench that cannot begin."""
