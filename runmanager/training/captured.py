"""A training step as a CUDA graph: launched once as a whole, instead of kernel by kernel from Python."""

import warnings
from collections.abc import Callable, Sequence

import torch
from torch import Generator, Tensor

from runmanager.tracking.faults import one_line
from runmanager.training.steppers import Outcome

_NUM_WARM = 3  # steps on a stream of their own before one is captured, as CUDA asks for

Step = Callable[[Tensor, Tensor], Outcome]


class CapturedStep:
    """Takes steps by a graph for batches of the largest shape, and as they are for any other, as a short last batch is.

    What a step returns is overwritten by the next. A step that cannot be captured is taken as it is, with one warning.
    """

    def __init__(self, step: Step, generators: Callable[[], Sequence[Generator]]) -> None:
        """Captures nothing yet.

        Args:
            step: waits for nothing, and reads and writes the same tensors each time.
            generators: what it draws from.
        """
        self._step, self._generators = step, generators
        self._is_possible = True
        self.forget()

    def forget(self) -> None:
        """The step is another one from here on: it is captured anew."""
        self._graph: torch.cuda.CUDAGraph | None = None
        self._shape: torch.Size | None = None
        self._num_warm = 0

    def __call__(self, inputs: Tensor, targets: Tensor) -> Outcome:
        """One step, on a batch on the device."""
        with torch.cuda.device(inputs.device):
            return self._take(inputs, targets)

    def _take(self, inputs: Tensor, targets: Tensor) -> Outcome:
        if self._shape is None or inputs.numel() > self._shape.numel():  # the first was a short one
            self.forget()
            self._shape = inputs.shape
        if not self._is_possible or inputs.shape != self._shape:
            return self._step(inputs, targets)
        if self._graph is not None:
            self._inputs.copy_(inputs)
            self._targets.copy_(targets)
            self._graph.replay()
            return self._outcome
        if self._num_warm < _NUM_WARM:
            self._num_warm += 1
            return self._warm(inputs, targets)
        return self._capture(inputs, targets)

    def _warm(self, inputs: Tensor, targets: Tensor) -> Outcome:
        """A real step, on a stream of its own."""
        here, side = torch.cuda.current_stream(), torch.cuda.Stream()
        side.wait_stream(here)
        with torch.cuda.stream(side):
            outcome = self._step(inputs, targets)
        here.wait_stream(side)
        return outcome

    def _capture(self, inputs: Tensor, targets: Tensor) -> Outcome:
        """Captures the step and takes it: to capture alone does nothing."""
        self._inputs, self._targets = inputs.clone(), targets.clone()
        graph = torch.cuda.CUDAGraph()
        try:
            for generator in self._generators():
                graph.register_generator_state(generator)
            with torch.cuda.graph(graph):
                self._outcome = self._step(self._inputs, self._targets)
        except RuntimeError as error:
            self._is_possible = False
            del self._inputs, self._targets
            warnings.warn(f"the step cannot be captured as a CUDA graph ({one_line(error)[:200]})", stacklevel=2)
            return self._step(inputs, targets)
        self._graph = graph
        graph.replay()
        return self._outcome
