"""A profile of a run's first steps, as a trace that a browser shows."""

import os
import warnings
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import torch

from runmanager.tracking.faults import one_line
from runmanager.tracking.temporaries import temporary_for

if TYPE_CHECKING:
    from torch.profiler import profile, record_function

Item = TypeVar("Item")
RANGE = "step"
"""What a step is called in the trace."""


class Profile:
    """Profiles a few steps of a run, after one in which everything warms up, and is off from then on.

    What goes wrong with it is one warning; no number of the run changes. The trace is in Chrome's format, which
    chrome://tracing and ui.perfetto.dev show.
    """

    def __init__(self, steps: int, file: Path) -> None:
        """Nothing is measured before the second step.

        Args:
            steps: how many steps are profiled.
            file: where the trace is written; one that is there is replaced when the new one is whole.
        """
        self.steps, self.file = steps, file
        self._num_begun = 0
        self._num_profiled = 0
        self._is_off = False
        self._profiler: profile | None = None
        self._range: record_function | None = None

    def watched(self, batches: Iterable[Item]) -> Iterator[Item]:
        """The same batches: what is done with each, until the next is asked for, is a step."""
        for batch in batches:
            self.before_step()
            yield batch
            self.after_step()

    def before_step(self) -> None:
        """To be called before each step of training."""
        if self._is_off:
            return
        self._num_begun += 1
        if self._num_begun == 1:
            return
        try:
            self._begin()
        except Exception as error:  # noqa: BLE001 (a profile never fails a run)
            self._give_up(error)

    def _begin(self) -> None:
        from torch.profiler import profile, record_function

        if self._profiler is None:
            _check_that_no_other_is_on()
            os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # else it tells stderr of each start and stop
            profiler = profile(activities=_activities())
            profiler.start()
            self._profiler = profiler
        self._range = record_function(RANGE)
        self._range.__enter__()

    def after_step(self) -> None:
        """To be called after each step; after the last that is profiled, the trace is written."""
        if self._range is None:
            return
        try:
            self._end_range()
            self._num_profiled += 1
            if self._num_profiled == self.steps:
                self._write()
        except Exception as error:  # noqa: BLE001 (a profile never fails a run)
            self._give_up(error)

    def close(self) -> None:
        """To be called when the run ends, in whatever way: what was profiled by then is written."""
        if self._is_off:
            return
        try:
            self._end_range()  # the step has raised
            self._write()
        except Exception as error:  # noqa: BLE001 (a profile never fails a run)
            self._give_up(error)

    def _end_range(self) -> None:
        one, self._range = self._range, None
        if one is not None:
            one.__exit__(None, None, None)

    def _write(self) -> None:
        profiler, self._profiler, self._is_off = self._profiler, None, True
        if profiler is None:
            return
        profiler.stop()  # waits for the device
        temporary = temporary_for(self.file)
        try:
            profiler.export_chrome_trace(str(temporary))
            if not temporary.is_file() or not temporary.read_bytes().rstrip().endswith(
                b"}"
            ):  # a full disk raises nothing
                raise OSError(f"the trace could not be written to {self.file}")
            temporary.replace(self.file)
        finally:
            for path in (temporary, temporary.with_name(f"{temporary.name}.tmp")):  # the second is torch's own
                path.unlink(missing_ok=True)

    def _give_up(self, error: Exception) -> None:
        profiler, self._profiler, self._range, self._is_off = self._profiler, None, None, True
        if profiler is not None:
            with suppress(Exception):
                profiler.stop()
        warnings.warn(f"there is no profile of the run: {one_line(error)[:300]}", RuntimeWarning, stacklevel=3)


def _check_that_no_other_is_on() -> None:
    """The second profiler of a process would end the first without a word."""
    if torch._C._autograd._profiler_enabled():
        raise RuntimeError("another profiler is at work in this process; leave out one of the two")


def _activities() -> "list[torch.profiler.ProfilerActivity]":
    from torch.profiler import ProfilerActivity

    on_gpu = [ProfilerActivity.CUDA] if torch.cuda.is_available() else []
    return [ProfilerActivity.CPU, *on_gpu]
