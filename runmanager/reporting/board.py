"""Starts TensorBoard on runs, on loopback."""

import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

_FLAGS = (
    "--host=127.0.0.1",
    "--load_fast=auto",
    "--reload_interval=15",
    "--reload_multifile=true",
    "--samples_per_plugin=scalars=5000,images=50,histograms=200",
)
_ADDRESS = re.compile(r"at (http://\S+)")


class BoardError(ValueError):
    """TensorBoard cannot be started as asked."""


def run_board(log_dir: Path, title: str, port: int | None) -> int:
    """Runs TensorBoard until Ctrl-C and prints its address once it answers; returns its exit status.

    Without a port it takes 6006, or the next one that is free.
    """
    command = [sys.executable, "-m", "tensorboard.main", f"--logdir={log_dir}", f"--window_title={title}", *_FLAGS]
    if port is not None:
        _check_port(port)
        command.append(f"--port={port}")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that TensorBoard is ended too
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as board:
        try:
            return _relay(board, title)
        finally:
            board.terminate()


def _check_port(port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except (OSError, OverflowError) as error:
            raise BoardError(f"--port {port} cannot be had ({error}); choose another, or leave it out") from error


def _relay(board: "subprocess.Popen[str]", title: str) -> int:
    """Prints the address; when TensorBoard ends without one, what it said."""
    assert board.stdout is not None
    said: list[str] = []
    announced = False
    for line in board.stdout:
        said.append(line)
        address = None if announced else _ADDRESS.search(line)
        if address:
            announced = True
            print(f"TensorBoard shows {title} at {address[1]} (Ctrl-C stops it)", flush=True)
    status = board.wait()
    if not announced:
        print("".join(said), file=sys.stderr, end="")
    return status
