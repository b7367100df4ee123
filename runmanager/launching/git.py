"""What git knows of a project: its revision, and on request what has changed since, without the secrets."""

import os
import signal
import subprocess
import threading
import time
from pathlib import Path
from typing import Any

_MAX_SECONDS = 2.0
_MAX_DIFF_SECONDS = 10.0
_MAX_BYTES = 1_000_000
_OF_ANOTHER_REPOSITORY = ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE")  # set where a hook has started this process
_QUIETLY = {"GIT_OPTIONAL_LOCKS": "0", "GIT_TERMINAL_PROMPT": "0", "GIT_NO_LAZY_FETCH": "1", "LC_ALL": "C"}
_OPTIONS = ("--no-pager", "-c", "core.fsmonitor=false", "-c", f"core.hooksPath={os.devnull}")
_STATUS = ("status", "--porcelain=v2", "--branch", "--no-ahead-behind", "--untracked-files=no")
_DIFF = ("diff", "--no-ext-diff", "--no-textconv", "--no-color", "HEAD", "--", ".")
_SECRET_FILES = (".env*", "*.pem", "*.key", "*.p12", "*.pfx", "id_rsa*", "id_ed25519*", ".netrc", ".npmrc", ".pypirc")


class GitQuery:
    """Asks git for the project's revision, while this process does something else.

    Git takes no lock, asks nobody and starts no hook and no monitor. Remotes are left alone: their addresses hold passwords.
    """

    def __init__(self, project: Path) -> None:
        self._deadline = time.monotonic() + _MAX_SECONDS
        self._process = _git(project, *_STATUS)
        self._result: dict[str, Any] | None = None

    def result(self) -> dict[str, Any]:
        """`revision`, `branch` (None where none is checked out) and `dirty`: a file that git keeps has changed.

        Empty where there is no git, no repository or no commit, and where git takes longer than two seconds.
        """
        if self._result is None:
            self._result = _read_status(_output(self._process, self._deadline - time.monotonic()))
        return self._result

    def close(self) -> None:
        """Leaves no process behind, also where nobody has asked for the result."""
        if self._process is not None:
            with self._process:
                _kill(self._process)


def redacted_diff(project: Path) -> str:
    """What of the project's files has changed since the last commit, with `<redacted>` for whatever looks like a secret.

    Files that are kept for secrets are left out. It is for people: secrets are told by their looks and by what they are
    assigned to, so a plain word in an odd place is not seen, and some lines lose more than they need.
    """
    without = (f":(exclude,glob)**/{name}" for name in _SECRET_FILES)
    diff = _output(_git(project, *_DIFF, *without), _MAX_DIFF_SECONDS)
    text, cut = diff[:_MAX_BYTES], len(diff) > _MAX_BYTES
    if cut:
        text = text[: text.rfind(b"\n") + 1]  # half a secret is not told
    from runmanager.launching.redaction import (
        redacted,  # whose expressions take longer to compile than git takes to answer
    )

    return redacted(text.decode(errors="replace")) + (f"(cut here: longer than {_MAX_BYTES} bytes)\n" if cut else "")


def _read_status(status: bytes) -> dict[str, Any]:
    lines = status.decode(errors="replace").splitlines()
    about = {line.split(" ", 2)[1]: line.split(" ", 2)[-1] for line in lines if line.startswith("# branch.")}
    revision, branch = about.get("branch.oid", "(initial)"), about.get("branch.head")
    if revision == "(initial)":
        return {}
    is_dirty = any(not line.startswith("#") for line in lines)
    return {"revision": revision, "branch": None if branch == "(detached)" else branch, "dirty": is_dirty}


def _git(project: Path, *arguments: str) -> "subprocess.Popen[bytes] | None":
    """Starts git in a process group of its own; None where there is none."""
    environment = {name: value for name, value in os.environ.items() if name not in _OF_ANOTHER_REPOSITORY}
    try:
        return subprocess.Popen(
            ["git", "-C", str(project), *_OPTIONS, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment | _QUIETLY,
            process_group=0,
        )
    except OSError:
        return None


def _output(process: "subprocess.Popen[bytes] | None", seconds: float) -> bytes:
    """What git prints, as far as one byte more than is kept; nothing when it fails, or is killed at the deadline."""
    if process is None or process.stdout is None:
        return b""
    timer = threading.Timer(max(seconds, 0.05), _kill, [process])
    timer.start()
    try:
        with process.stdout as stdout:
            printed = stdout.read(_MAX_BYTES + 1)
        if len(printed) > _MAX_BYTES:
            return printed
        return printed if process.wait() == 0 else b""
    finally:
        timer.cancel()
        _kill(process)
        process.wait()


def _kill(process: "subprocess.Popen[bytes]") -> None:
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
