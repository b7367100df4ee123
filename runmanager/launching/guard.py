"""Ends the workers of a driver that is gone: a script of its own, which holds one pipe and imports next to nothing.

A line `+123` puts process group 123 into its care, `-123` takes it out. The pipe ends when the driver does, however it
died; then every group that is left is killed. A worker dies with the driver by itself, but not so its children.
"""

# Importing signal, which makes enums of its numbers, or typing would double the time to start.
import _signal as signal  # type: ignore[import-not-found]
import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    import subprocess


class Guard:
    """The driver's end of the pipe."""

    def __init__(self) -> None:
        self._groups: set[int] = set()
        self._process: subprocess.Popen[bytes] | None = None

    def add(self, group: int) -> None:
        """Takes a group into its care."""
        self._groups.add(group)
        self._tell(f"+{group}\n")

    def remove(self, group: int) -> None:
        """The group is gone; its number may be another's from here on."""
        self._groups.discard(group)
        self._tell(f"-{group}\n")

    def close(self) -> None:
        """Ends the script, which kills what is still in its care."""
        if self._process:
            os.close(self._pipe)
            self._process.wait()
        self._process = None

    def _tell(self, line: str) -> None:
        try:
            if self._process and self._process.poll() is None:
                os.write(self._pipe, line.encode())
            else:
                self._start()  # for the first time, or since somebody has killed it
        except OSError:
            pass  # nothing can be started; the workers themselves still die with this process

    def _start(self) -> None:
        """In a session of its own, where no Ctrl-C and no closing terminal reaches it."""
        import subprocess

        self.close()
        end, self._pipe = os.pipe()
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-S", __file__],
                cwd="/",
                stdin=end,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
        except OSError:
            os.close(self._pipe)
            raise
        finally:
            os.close(end)
        os.write(self._pipe, "".join(f"+{group}\n" for group in self._groups).encode())


def guard() -> None:
    """Reads lines until the pipe ends, then kills every group that is left."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    groups: set[int] = set()
    for line in sys.stdin.buffer:
        change = groups.add if line.startswith(b"+") else groups.discard
        change(int(line[1:]))
    for group in groups:
        try:
            os.killpg(group, signal.SIGKILL)
        except OSError:  # gone already
            pass


if __name__ == "__main__":
    guard()
