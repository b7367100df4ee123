"""Places without a network and without data sets of the system."""

import urllib.request

import pytest

from tests.data.offline import PROXIES, closed_port


@pytest.fixture
def offline(monkeypatch):
    """No download can succeed: every proxy is a closed port."""
    monkeypatch.setattr(urllib.request, "_opener", None)  # it would remember the proxies of an earlier call
    for name in PROXIES:
        monkeypatch.setenv(name, f"http://127.0.0.1:{closed_port()}")
        monkeypatch.setenv(name.upper(), f"http://127.0.0.1:{closed_port()}")
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def share(tmp_path, monkeypatch):
    """The system's folder for shared data, empty."""
    monkeypatch.setenv("XDG_DATA_DIRS", str(tmp_path / "share"))
    return tmp_path / "share"
