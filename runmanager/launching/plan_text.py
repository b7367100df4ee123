"""A plan, as people read it."""

import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

from runmanager.launching.outlook import Failure, Outlook, Part, ranges_text
from runmanager.machine import memory
from runmanager.parameters import params_text
from runmanager.tracking.progress import number_text, seconds_text, visible

_MOST_FAILURES = 20

_HEADER = ["runs", "number", "trained", "step", "steps", "validation", "tracking", "epoch", "why"]


def plan_lines(outlook: Outlook, num_due: int, project: Path) -> Iterator[str]:
    """All lines of a plan, but for its first."""
    yield from _looked_at(outlook, num_due)
    if outlook.parts:
        yield ""
        yield from table_lines([_HEADER, *map(_row, outlook.parts)])
        yield "times are of one run: of a group's step its part"
    yield ""
    yield from _failure_lines(outlook.failures, num_due)
    if outlook.parts:
        yield _memory_line(outlook)
        yield _disk_line(outlook, project)
        yield from _time_lines(outlook)


def _looked_at(outlook: Outlook, num_due: int) -> Iterator[str]:
    answer = outlook.answer
    data = answer["data"]
    sizes = [f"{size:,} to {verb}" for size, verb in zip(data["sizes"], ("train", "validate"), strict=True) if size]
    where = f"read by a DataLoader, because {data['streamed']}" if data["streamed"] else f"resident on {data['device']}"
    yield f"data: {data['source']}, {' and '.join(sizes)}, {where}"
    built = answer["num_built"]
    yield (
        f"built {'all' if built == num_due else f'{built} of {num_due}, for want of time'}, "
        f"rehearsed {answer['num_rehearsed']}: of each kind one, and of each value; nothing was trained"
    )


def _row(part: Part) -> list[str]:
    costs, kind = part.costs, part.kind
    how = f"groups of {part.size}, {kind.arithmetic}" if kind and part.size > 1 else "one by one"
    why = kind.reason if kind else "nothing to be trained together with, or --fuse off"
    why += " (as an earlier launch has found)" if part.is_recorded else ""
    first = [ranges_text([one.number for one in part.runs]), str(len(part.runs)), how]
    if costs is None:
        return [*first, "", "", "", "", "not measured, for want of time", why]
    times = [costs["validation_seconds"], costs["tracking_seconds"], part.epoch_seconds]
    step = f"{number_text(1000 * part.step_seconds)} ms"
    return [*first, step, str(costs["num_steps"]), *map(seconds_text, times), why]


def table_lines(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Rows of cells, each as wide as its column; the last is left as it is."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = [f"{cell:<{width}}" for cell, width in zip(row[:-1], widths, strict=False)]
        yield visible("  ".join([*cells, row[-1]]).rstrip())


def _failure_lines(failures: Sequence[Failure], num_due: int) -> Iterator[str]:
    if not failures:
        yield "errors: none was found"
        return
    number = len({one.run.number for one in failures} | {other for one in failures for other in one.alike})
    yield f"errors: {number} of {num_due} runs would fail; times and sizes leave them out"
    for one in failures[:_MOST_FAILURES]:
        alike = f"; so would {ranges_text(one.alike)}, which {'is' if len(one.alike) == 1 else 'are'} alike"
        params = params_text(one.run.run._asdict())
        yield visible(f"  run {one.run.number} ({params}): {one.error}{alike if one.alike else ''}")
    if len(failures) > _MOST_FAILURES:
        yield f"  and {len(failures) - _MOST_FAILURES} more"


def _memory_line(outlook: Outlook) -> str:
    largest, whole = outlook.largest(), outlook.worker_bytes()
    if largest is None or largest.costs is None:
        return "memory: nothing was measured"
    costs, size = largest.costs, largest.size
    parts = [
        f"data {size_text(costs['resident_bytes'])}",
        f"networks, gradients and optimizers {size_text(size * costs['state_bytes'])}",
        f"activations of a step {size_text(size * costs['activation_bytes'])}",
    ]
    if outlook.device_bytes():
        return (
            f"memory: {size_text(outlook.device_bytes())} of the GPU for each worker ({', '.join(parts)}), beside CUDA's own; "
            f"{size_text(whole)} of the machine's"
        )
    if not whole:
        return f"memory of a worker, beside Python and torch: {', '.join(parts)}"
    rest = max(0, whole - costs["resident_bytes"] - size * (costs["state_bytes"] + costs["activation_bytes"]))
    free = memory()[1]
    is_much = outlook.num_workers * whole > free
    return (
        f"memory: {size_text(whole)} for each worker ({', '.join(parts)}; Python, torch and what is freed between {size_text(rest)}); "
        f"{size_text(free)} are free{': that is not enough' if is_much else ''}"
    )


def _disk_line(outlook: Outlook, project: Path) -> str:
    logs, states = outlook.disk_bytes()
    free = shutil.disk_usage(project).free
    return (
        f"disk: {size_text(logs + states)} (TensorBoard, journals and tables {size_text(logs)}, "
        f"saved states {size_text(states)}); {size_text(free)} are free{': that is not enough' if logs + states > free else ''}"
    )


def _time_lines(outlook: Outlook) -> Iterator[str]:
    start, training = outlook.start_seconds, outlook.training_seconds()
    workers = f"{outlook.num_workers} worker{'s' if outlook.num_workers > 1 else ''}"
    yield (
        f"ETA: {seconds_text(start + training)} with {workers}: {seconds_text(start)} until the first run begins (measured), "
        f"{seconds_text(training)} for the runs (steps measured, the longest first)"
    )
    if outlook.num_unknown:
        yield f"  and {outlook.num_unknown} runs that there was no time to measure"


def size_text(num_bytes: float) -> str:
    """`12.3 KiB`, `512 MiB`, `7.5 GiB`."""
    for unit, size in (("GiB", 2**30), ("MiB", 2**20)):
        if num_bytes >= size:
            return f"{num_bytes / size:.{0 if num_bytes >= 100 * size else 1}f} {unit}"
    return f"{num_bytes / 1024:.1f} KiB"
