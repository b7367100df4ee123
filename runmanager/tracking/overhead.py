"""What tracking itself costs: the seconds spent in a RunManager's own calls, for each run its part."""

import time
from types import TracebackType


class Overhead:
    """A clock that runs inside its `with`; one inside another counts once. The time is divided among the group's members."""

    def __init__(self) -> None:
        self.seconds = 0.0
        """Of each member that is still there."""
        self.num_members = 1
        self._depth = 0
        self._began = 0.0

    def so_far(self) -> float:
        """The seconds of each member, those of a call under way too."""
        open_seconds = (time.perf_counter() - self._began) / self.num_members if self._depth else 0.0
        return self.seconds + open_seconds

    def begin(self, num_members: int) -> None:
        """A group begins; its clock starts from 0, or from the time that its begin has taken already."""
        self.seconds, self.num_members = 0.0, num_members

    def __enter__(self) -> None:
        if self._depth == 0:
            self._began = time.perf_counter()
        self._depth += 1

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._depth -= 1
        if self._depth == 0:
            self.seconds += (time.perf_counter() - self._began) / self.num_members
