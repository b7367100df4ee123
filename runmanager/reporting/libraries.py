"""Checks of what is installed: python, torch, torchvision, the devices that torch sees, TensorBoard."""

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from typing import Any

from runmanager.reporting.findings import FAIL, OK, WARN, Finding, size_text

_PROBE = Path(__file__).with_name("probe.py")
_TORCH, _TENSORBOARD = (2, 10), (2, 21)
_SECONDS = 180.0  # a first import from a cold network disk takes its time
_TOGETHER = "python -m pip install --upgrade torch torchvision, both in one command and from one index"


def check_python() -> Finding:
    """The interpreter that everything runs in."""
    return Finding(OK, "python", f"{sys.version.split()[0]}, {sys.executable}")


class TorchProbe:
    """Tries torch in a process of its own, while other things are checked."""

    def __init__(self, seconds: float = _SECONDS) -> None:
        """Starts it."""
        self._seconds, self._by = seconds, time.monotonic() + seconds
        self._process = subprocess.Popen(
            [sys.executable, "-P", str(_PROBE)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    def findings(self) -> Iterator[Finding]:
        """Waits for it, and says what it found."""
        out, end = self._result()
        found = {line["probe"]: line for line in map(_json, out.splitlines()) if "probe" in line}
        for name, check in {"torch": _torch, "torchvision": _torchvision, "devices": _devices}.items():
            if name not in found:
                yield Finding(FAIL, name, f"trying it {end}", _TOGETHER)
                return
            yield from check(found[name], found)
            if name == "torch" and "error" in found[name]:
                return

    def _result(self) -> tuple[str, str]:
        """What it printed, and how it ended."""
        try:
            out, err = self._process.communicate(timeout=max(0.1, self._by - time.monotonic()))
        except subprocess.TimeoutExpired as late:
            self._process.kill()
            self._process.communicate()
            return _text(late.stdout), f"took longer than {self._seconds:.0f} s"
        status = self._process.returncode
        how = signal.Signals(-status).name if status < 0 else f"exit status {status}"
        return out, f"ended its process by {how}: {_last_line(err)}"


def _text(output: Any) -> str:
    return output.decode(errors="replace") if isinstance(output, bytes) else output or ""


def _json(line: str) -> dict[str, Any]:
    try:
        value = json.loads(line)
    except ValueError:  # what a library prints when it is imported
        return {}
    return value if isinstance(value, dict) else {}


def _torch(torch: dict[str, Any], found: dict[str, Any]) -> Iterator[Finding]:
    if "error" in torch:
        yield Finding(FAIL, "torch", torch["error"], _TOGETHER)
    elif _version(torch["version"]) < _TORCH:
        yield Finding(FAIL, "torch", f"{torch['version']}; runmanager needs 2.10 or later", _TOGETHER)
    else:
        yield Finding(OK, "torch", torch["version"])


def _torchvision(torchvision: dict[str, Any], found: dict[str, Any]) -> Iterator[Finding]:
    if "error" not in torchvision:
        yield Finding(OK, "torchvision", torchvision["version"])
        return
    here = found["torch"].get("version", "?")
    wants = f"; it was built for {torchvision['requires']}, and torch {here} is here" if torchvision["requires"] else ""
    yield Finding(FAIL, "torchvision", f"{torchvision['error']}{wants}", _TOGETHER)


def _devices(devices: dict[str, Any], found: dict[str, Any]) -> Iterator[Finding]:
    if "error" in devices:
        yield Finding(FAIL, "devices", devices["error"], "mend the driver, or hide the GPUs: CUDA_VISIBLE_DEVICES=")
        return
    yield from map(_device, devices["devices"])
    if not devices["devices"] and Path("/proc/driver/nvidia/version").exists():
        built = f"built for CUDA {found['torch']['cuda']}" if found["torch"].get("cuda") else "built without CUDA"
        step = "see nvidia-smi, and https://pytorch.org for the torch that fits the driver"
        yield Finding(WARN, "cuda", f"there is an NVIDIA driver, but this torch, {built}, sees no GPU", step)
    yield Finding(OK, "cpu", _cpu_text(devices["threads"]))


def _device(one: dict[str, Any]) -> Finding:
    if one["error"]:
        step = "leave it out with CUDA_VISIBLE_DEVICES, or install a torch that is built for it"
        return Finding(FAIL, one["device"], f"{one['name']}: {one['error']}", step)
    room = f", {size_text(one['free'])} of {size_text(one['total'])} free" if "free" in one else ""
    return Finding(OK, one["device"], f"{one['name']}{room}")


def _cpu_text(num_threads: int) -> str:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    free = _free_memory()
    memory = f", {size_text(free)} of memory free" if free is not None else ""
    return (
        f"{cores} core{'' if cores == 1 else 's'}, {num_threads} torch thread{'' if num_threads == 1 else 's'}{memory}"
    )


def _free_memory() -> int | None:
    """What the machine, or the container that this runs in, has left; None where the system does not say."""
    with suppress(OSError, ValueError, IndexError):
        table = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
        free = int(table["MemAvailable"].split()[0]) * 1024
        group = Path("/sys/fs/cgroup")
        with suppress(OSError, ValueError):  # no container, or one without a limit
            used, most = ((group / name).read_text() for name in ("memory.current", "memory.max"))
            free = min(free, int(most) - int(used))
        return free
    return None


def check_tensorboard(seconds: float = 60.0) -> Finding:
    """Starts TensorBoard on an empty folder, on loopback, and waits for its address."""
    step = "python -m pip install --upgrade tensorboard"
    try:
        version = metadata.version("tensorboard")
    except metadata.PackageNotFoundError:
        return Finding(FAIL, "tensorboard", "it is not installed", step)
    if _version(version) < _TENSORBOARD:
        return Finding(FAIL, "tensorboard", f"{version}; runmanager needs 2.21 or later", step)
    began = time.monotonic()
    error = _start_tensorboard(seconds)
    if error:
        return Finding(FAIL, "tensorboard", f"{version} does not start: {error}", step)
    return Finding(OK, "tensorboard", f"{version}, starts in {time.monotonic() - began:.1f} s")


def _start_tensorboard(seconds: float) -> str | None:
    """What is wrong with it, or None."""
    with tempfile.TemporaryDirectory() as empty, tempfile.TemporaryFile("w+") as said:
        flags = [f"--logdir={empty}", "--host=127.0.0.1", "--port=0"]
        command = [sys.executable, "-m", "tensorboard.main", *flags]
        board = subprocess.Popen(command, stdout=said, stderr=subprocess.STDOUT, start_new_session=True)
        try:
            return _wait_for_address(board, said, seconds)
        finally:
            _kill(board)


def _kill(board: "subprocess.Popen[Any]") -> None:
    """Ends it, and the server that it has started."""
    if hasattr(os, "killpg"):
        with suppress(ProcessLookupError):
            os.killpg(board.pid, signal.SIGKILL)
    else:
        board.kill()
    board.wait()


def _wait_for_address(board: "subprocess.Popen[Any]", said: Any, seconds: float) -> str | None:
    by = time.monotonic() + seconds
    while time.monotonic() < by:
        has_ended = board.poll() is not None
        said.seek(0)
        text = said.read()
        if re.search(r"at http://\S+", text):
            return None
        if has_ended:
            return _last_line(text) or f"exit status {board.returncode}"
        time.sleep(0.05)
    return f"no address after {seconds:.0f} s"


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", text)[:2])


def _last_line(text: str) -> str:
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "")
