"""What stands between a test and the network."""

import socket

PROXIES = ("http_proxy", "https_proxy", "all_proxy")


def closed_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]
