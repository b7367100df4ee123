"""What the tests of faults share."""

import pytest
from killer import Toy, Zygote


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
