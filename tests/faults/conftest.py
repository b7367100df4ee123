"""The fault suite's long loops run when RUNMANAGER_LONG=1 is set; their small twins run always."""

import os

import pytest
from killer import Toy, Zygote


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if os.environ.get("RUNMANAGER_LONG") == "1":
        return
    reason = "a long loop; set RUNMANAGER_LONG=1 to run it (its small twin has run)"
    for item in items:
        if item.get_closest_marker("long"):
            item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(scope="module")
def zygote():
    process = Zygote()
    yield process
    process.close()


@pytest.fixture(scope="module")
def torch_zygote():
    process = Zygote("--torch")
    yield process
    process.close()


@pytest.fixture
def toy(tmp_path):
    """Three runs of two epochs that take no time."""
    return Toy.make(tmp_path / "project")
