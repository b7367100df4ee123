"""A real TensorBoard on loopback, for tests to ask over HTTP."""

import json
import re
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

Answer = TypeVar("Answer")

DEADLINE_SECONDS = 120
ADDRESS = re.compile(r"http://(?:127\.0\.0\.1|localhost):\d+")
ANY_STATUS = ["STATUS_UNKNOWN", "STATUS_SUCCESS", "STATUS_FAILURE", "STATUS_RUNNING"]

_NO_PROXY = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class TensorBoard:
    """TensorBoard on a log folder, from `with` until it is left, however it is left."""

    def __init__(self, log_dir: Path, *, load_fast: bool = True) -> None:
        self.log_dir, self.load_fast = log_dir, load_fast
        self.address = ""

    def __enter__(self) -> "TensorBoard":
        # To a file and not a pipe, which nobody would empty.
        self._said = tempfile.TemporaryFile("w+")
        command = [
            sys.executable,
            "-m",
            "tensorboard.main",
            f"--logdir={self.log_dir}",
            f"--load_fast={str(self.load_fast).lower()}",
            "--host=127.0.0.1",
            "--port=0",
            "--reload_interval=1",
            "--samples_per_plugin=scalars=5000,images=50,histograms=200",
        ]
        self._process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=self._said, stderr=subprocess.STDOUT, text=True
        )
        try:
            self.address = until(self._find_address)
        except BaseException:
            self.stop()
            raise
        return self

    def _find_address(self) -> str | None:
        self._said.seek(0)
        said = self._said.read()
        assert self._process.poll() is None, f"TensorBoard ended:\n{said}"
        found = ADDRESS.search(said)
        return found[0] if found else None

    def __exit__(self, *error: object) -> None:
        self.stop()

    def stop(self) -> None:
        self._process.terminate()
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._said.close()

    def get(self, path: str, **query: str) -> Any:
        return json.loads(self.get_bytes(path, **query))

    def get_bytes(self, path: str, **query: str) -> bytes:
        return _open(f"{self.address}{path}{'?' if query else ''}{urllib.parse.urlencode(query)}")

    def post(self, path: str, body: Any) -> Any:
        request = urllib.request.Request(
            self.address + path, json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        return json.loads(_open(request))

    def runs(self) -> list[str]:
        return self.get("/data/runs")

    def scalars(self, run: str, tag: str) -> list[tuple[int, float]]:
        """Steps and values."""
        points = self.get("/data/plugin/scalars/scalars", run=run, tag=tag)
        return [(step, value) for _, step, value in points]

    def tags(self, plugin: str) -> dict[str, list[str]]:
        """The tags that a plugin has, by run."""
        return {run: sorted(tags) for run, tags in self.get(f"/data/plugin/{plugin}/tags").items() if tags}

    def experiment(self) -> Any:
        return self.post("/data/plugin/hparams/experiment", {"experimentName": ""})

    def session_groups(self) -> list[Any]:
        body = {
            "experimentName": "",
            "allowedStatuses": ANY_STATUS,
            "colParams": [],
            "startIndex": 0,
            "sliceSize": 10_000,
        }
        return self.post("/data/plugin/hparams/session_groups", body).get("sessionGroups", [])

    def sessions(self) -> dict[str, Any]:
        """The sessions of all groups, by run, each with its group's hyperparameters."""
        return {
            session["name"]: {**session, "hparams": group.get("hparams", {})}
            for group in self.session_groups()
            for session in group["sessions"]
        }

    def wait_for_ends(self, num_runs: int) -> None:
        """Waits until so many runs are loaded to their end."""
        until(lambda: len(self.runs()) >= num_runs)
        until(lambda: sum(one.get("endTimeSecs", 0) > 0 for one in self.sessions().values()) >= num_runs)


def until(ask: Callable[[], Answer | None], seconds: float = DEADLINE_SECONDS) -> Answer:
    """Asks until the answer is true, and returns it."""
    deadline = time.monotonic() + seconds
    error: Exception | None = None
    while True:
        try:
            answer = ask()
            if answer:
                return answer
        except (urllib.error.URLError, ConnectionError) as not_yet:
            error = not_yet
        assert time.monotonic() < deadline, f"nothing within {seconds} s; last error: {error}"
        time.sleep(0.05)


def _open(request: str | urllib.request.Request) -> bytes:
    with _NO_PROXY.open(request, timeout=30) as answer:
        return answer.read()
