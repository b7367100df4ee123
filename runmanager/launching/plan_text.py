"""A plan, as people read it."""

import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

from runmanager.launching.outlook import Failure, Outlook, Part, ranges_text
from runmanager.machine import memory
from runmanager.parameters import params_text
from runmanager.tracking.progress import seconds_text, visible

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
    largest = outlook.largest()
    if largest is None:
        yield "time, memory and disk: nothing could be measured" if outlook.parts else "there is nothing else to tell"
    else:
        yield from _memory_lines(outlook, largest)
        yield _disk_line(outlook, project)
        yield from _time_lines(outlook)


def _looked_at(outlook: Outlook, num_due: int) -> Iterator[str]:
    answer = outlook.answer
    data = answer["data"]
    sizes = [f"{size:,} to {verb}" for size, verb in zip(data["sizes"], ("train", "validate"), strict=True) if size]
    where = f"read by a DataLoader, because {data['streamed']}" if data["streamed"] else f"resident on {data['device']}"
    yield ", ".join([f"data: {data['source']}", *([" and ".join(sizes)] if sizes else ["a stream"]), where])
    built = answer["num_built"]
    yield (
        f"built {'all' if built == num_due else f'{built} of {num_due}, for want of time'}, "
        f"rehearsed {answer['num_rehearsed']}: of each kind one, and of each value; nothing was trained"
    )


def _row(part: Part) -> list[str]:
    costs, kind = part.costs, part.kind
    how = f"groups of {part.size}, {kind.arithmetic}" if kind and part.size > 1 else "one by one"
    first = [ranges_text([one.number for one in part.runs]), str(len(part.runs)), how]
    if costs is None:
        return [*first, *["?"] * 5, f"{part.reason}; what they take could not be measured"]
    times = [costs["validation_seconds"], costs["tracking_seconds"], part.epoch_seconds]
    return [*first, _time_text(part.step_seconds), str(costs["num_steps"]), *map(_time_text, times), part.reason]


def _time_text(seconds: float) -> str:
    """`61.1 µs`, `12.3 ms`, `3.74 s`, `1:08`."""
    if seconds >= 1:
        return seconds_text(seconds)
    return f"{seconds * 1000:.3g} ms" if seconds >= 0.001 else f"{seconds * 1e6:.3g} µs"


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
    runs = f"run{'s' if num_due != 1 else ''}"
    yield f"errors: {number} of {num_due} {runs} would fail; times and sizes leave out what fails"
    for one in failures[:_MOST_FAILURES]:
        alike = f"; so would {ranges_text(one.alike)}, which {'is' if len(one.alike) == 1 else 'are'} alike"
        params = params_text(one.run.run._asdict())
        yield visible(f"  run {one.run.number} ({params}): {one.error}{alike if one.alike else ''}")
    if len(failures) > _MOST_FAILURES:
        yield f"  and {len(failures) - _MOST_FAILURES} more"


def _memory_lines(outlook: Outlook, part: Part) -> Iterator[str]:
    whole, on_device, costs = outlook.worker_bytes(), outlook.device_bytes(), part.costs or {}
    found = {
        "data": costs["resident_bytes"],
        "networks, gradients and optimizers": part.size * costs["state_bytes"],
        "activations of a step": part.size * costs["activation_bytes"],
    }
    if on_device:
        yield f"memory: each worker {size_text(on_device)} of its GPU, beside CUDA's own, and {size_text(whole)} here"
    else:
        needed, free = whole or sum(found.values()), memory()[1]
        found |= {"Python, torch and what is free in between": max(0, whole - sum(found.values()))} if whole else {}
        enough = "; that is not enough" if outlook.num_workers * needed > free else ""
        yield f"memory: each worker {size_text(needed)}; {size_text(free)} are free{enough}"
    yield "  " + ", ".join(f"{name} {size_text(size)}" for name, size in found.items())


def _disk_line(outlook: Outlook, project: Path) -> str:
    logs, states = outlook.disk_bytes()
    free = shutil.disk_usage(project).free
    enough = "; that is not enough" if logs + states > free else ""
    parts = f"TensorBoard, journals and tables {size_text(logs)}, saved states {size_text(states)}"
    return f"disk: {size_text(logs + states)} ({parts}); {size_text(free)} are free{enough}"


def _time_lines(outlook: Outlook) -> Iterator[str]:
    start, training = outlook.start_seconds, outlook.training_seconds()
    workers = f"{outlook.num_workers} worker{'s' if outlook.num_workers > 1 else ''}"
    yield f"ETA: {seconds_text(start + training)} with {workers}, the longest runs first"
    yield f"  {seconds_text(start)} until the first run begins (measured), then {seconds_text(training)} (from measured steps)"
    if outlook.slowdown > 1.02:
        yield f"  with {workers} at work a step takes {outlook.slowdown:.2f} times as long, which is reckoned in"
    if outlook.num_unknown:  # no time was left, or their data does not tell how much it is
        runs = f"run{'s' if outlook.num_unknown != 1 else ''}"
        yield f"  and {outlook.num_unknown} {runs} that could not be measured, left out"


def size_text(num_bytes: float) -> str:
    """`12.3 KiB`, `512 MiB`, `7.5 GiB`."""
    for unit, size in (("GiB", 2**30), ("MiB", 2**20)):
        if num_bytes >= size:
            return f"{num_bytes / size:.{0 if num_bytes >= 100 * size else 1}f} {unit}"
    return f"{num_bytes / 1024:.1f} KiB"
