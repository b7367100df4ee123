"""Ctrl-C, SIGTERM and SIGHUP as requests: the first one to stop at the end of the epoch, the second one to stop now."""

import os
import signal
import threading
from contextlib import suppress
from types import FrameType, TracebackType
from typing import Any

_STOPPING = [signal.SIGINT, signal.SIGTERM, *([signal.SIGHUP] if hasattr(signal, "SIGHUP") else [])]


class StopRequest:
    """Whether somebody has asked this process to stop, and how often.

    While it is entered, the signals are counted and do nothing else, or nothing at first: see `interrupt_after`.
    """

    def __init__(self, interrupt_after: float | None = None) -> None:
        """Nothing is asked yet.

        Args:
            interrupt_after: raise KeyboardInterrupt at the second signal, and so many seconds after the first.
        """
        self._grace = interrupt_after
        self.number: int | None = None  # of the first signal
        self.reason = ""
        self.count = 0  # of signals
        self._is_asked = False
        self._previous: dict[int, Any] = {}

    @property
    def is_asked(self) -> bool:
        """Whether to stop at the end of the epoch."""
        return self._is_asked

    @property
    def is_urgent(self) -> bool:
        """Whether to stop now."""
        return self.count > 1

    def ask(self, reason: str) -> None:
        """Asks for a stop without a signal: a limit was reached, say."""
        if not self.is_asked:
            self.reason, self._is_asked = reason, True

    def __enter__(self) -> "StopRequest":
        if threading.current_thread() is threading.main_thread():
            for number in _STOPPING:
                if signal.getsignal(number) is not signal.SIG_IGN:  # nohup and background jobs mean it
                    self._previous[number] = signal.signal(number, self._take)
            if self._grace is not None and hasattr(signal, "SIGALRM"):
                self._previous[signal.SIGALRM] = signal.signal(signal.SIGALRM, _interrupt)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if signal.SIGALRM in self._previous if hasattr(signal, "SIGALRM") else False:
            signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous.clear()

    def _take(self, number: int, frame: FrameType | None) -> None:
        self.count += 1
        if self.number is None:
            self.number = number
            self.ask(signal.Signals(number).name)
        if self.count == 1:
            with suppress(OSError):  # the terminal is gone, or who read our output: that is no reason to lose an epoch
                os.write(2, b"\nstopping at the end of the epoch; once more stops now\n")
        if self._grace is None:
            return
        if self.count > 1:
            raise KeyboardInterrupt
        if hasattr(signal, "setitimer"):
            signal.setitimer(signal.ITIMER_REAL, self._grace)


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


class SweepStopped(KeyboardInterrupt):
    """A launch was stopped by a signal: what was under way is saved, and the same command goes on."""

    def __init__(self, number: int, history: Any) -> None:
        super().__init__(f"stopped by {signal.Signals(number).name}")
        self.number, self.history = number, history
