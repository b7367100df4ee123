"""What the doctor says of libraries that are there, old, broken, crashing or hanging; each is tried in a real process."""

import pytest

from runmanager.reporting.libraries import TorchProbe, check_python, check_tensorboard

TORCH = """
__version__ = "2.12.1+cu130"
class version: cuda = "13.0"
def get_num_threads(): return 4
def zeros(*shape): return shape
class backends:
    class mps:
        is_available = staticmethod(lambda: False)
class cuda:
    is_available = staticmethod(lambda: False)
"""
CUDA = """
class Numbers:
    def __add__(self, other): return self
    def sum(self): return {total}
def ones(n, device): return Numbers()
class cuda:
    is_available = staticmethod(lambda: True)
    device_count = staticmethod(lambda: 1)
    get_device_name = staticmethod(lambda index: "Some GPU")
    mem_get_info = staticmethod(lambda index: (3 * 2**30, 8 * 2**30))
"""
TORCHVISION = """
__version__ = "0.27.1"
class ops:
    nms = staticmethod(lambda *arguments: None)
"""


@pytest.fixture
def libraries(tmp_path, monkeypatch):
    """Puts packages of these sources before those that are installed."""

    def put(**sources):
        for name, source in {"torch": TORCH, "torchvision": TORCHVISION, **sources}.items():
            (tmp_path / name).mkdir()
            (tmp_path / name / "__init__.py").write_text(source)
        monkeypatch.setenv("PYTHONPATH", str(tmp_path))
        return tmp_path

    return put


def findings(seconds=60.0):
    return {one.about: one for one in TorchProbe(seconds).findings()}


def test_libraries_that_fit_are_well(libraries):
    libraries()
    found = findings()
    assert [(one.about, one.level) for one in found.values()][:2] == [("torch", "ok"), ("torchvision", "ok")]
    assert (found["torch"].text, found["torchvision"].text) == ("2.12.1+cu130", "0.27.1")
    assert "4 torch threads" in found["cpu"].text and "core" in found["cpu"].text


@pytest.mark.parametrize("version", ["2.9.1", "1.13.0+cpu"])
def test_a_torch_that_is_too_old_fails_and_the_command_to_mend_it_is_told(version, libraries):
    libraries(torch=TORCH.replace("2.12.1+cu130", version))
    torch = findings()["torch"]
    assert torch.level == "FAIL"
    assert torch.text == f"{version}; runmanager needs 2.10 or later"
    assert "pip install --upgrade torch torchvision" in torch.next_step


@pytest.mark.parametrize("version", ["2.10.0", "2.100.0", "3.0.0a1"])
def test_a_torch_that_is_new_enough_is_well(version, libraries):
    libraries(torch=TORCH.replace("2.12.1+cu130", version))
    assert findings()["torch"].level == "ok"


def test_a_torchvision_that_was_built_for_another_torch_fails_and_both_are_named(libraries):
    libraries(torchvision="raise RuntimeError('operator torchvision::nms does not exist')")
    found = findings()
    assert found["torchvision"].level == "FAIL"
    assert "operator torchvision::nms does not exist" in found["torchvision"].text
    assert "built for torch" in found["torchvision"].text and "torch 2.12.1+cu130 is here" in found["torchvision"].text
    assert "pip install --upgrade torch torchvision" in found["torchvision"].next_step
    assert found["cpu"].level == "ok"  # what comes after is tried all the same


def test_a_torch_that_cannot_be_imported_fails_with_its_error(libraries):
    libraries(torch="raise ImportError('libcudart.so.13: cannot open shared object file')")
    found = findings()
    assert list(found) == ["torch"]
    assert found["torch"].level == "FAIL" and "libcudart.so.13" in found["torch"].text


def test_a_torch_that_crashes_takes_nothing_else_down(libraries):
    libraries(torch="import os, signal; os.kill(os.getpid(), signal.SIGSEGV)")
    torch = findings()["torch"]
    assert torch.level == "FAIL" and "SIGSEGV" in torch.text


def test_a_torchvision_that_ends_the_process_is_told_apart_from_torch(libraries):
    libraries(torchvision="import os, sys; print('bad wheel', file=sys.stderr); sys.stderr.flush(); os._exit(3)")
    found = findings()
    assert found["torch"].level == "ok"
    assert found["torchvision"].level == "FAIL" and "exit status 3: bad wheel" in found["torchvision"].text


def test_a_torch_that_hangs_is_given_up(libraries):
    libraries(torchvision="import time; time.sleep(600)")
    found = findings(seconds=3)  # in which torch has to be found well
    assert found["torch"].level == "ok"
    assert found["torchvision"].level == "FAIL" and "took longer than 3 s" in found["torchvision"].text


def test_what_libraries_print_when_they_are_imported_disturbs_nothing(libraries):
    libraries(torch=TORCH + "\nprint('welcome'); print('[1, 2]')")
    assert findings()["torch"].level == "ok"


def test_a_gpu_is_named_with_its_memory(libraries):
    libraries(torch=TORCH + CUDA.format(total=16.0))
    gpu = findings()["cuda:0"]
    assert (gpu.level, gpu.text) == ("ok", "Some GPU, 3.0 GiB of 8.0 GiB free")


def test_a_gpu_that_cannot_add_fails(libraries):
    libraries(torch=TORCH + CUDA.format(total=0.0))
    gpu = findings()["cuda:0"]
    assert gpu.level == "FAIL" and "Some GPU: 1 + 1 is 0.0 on it" in gpu.text


def test_a_tensorboard_that_does_not_start_fails_with_what_it_said(libraries):
    root = libraries(tensorboard="")
    (root / "tensorboard" / "main.py").write_text("import pkg_resources_of_old")
    found = check_tensorboard()
    assert found.level == "FAIL"
    assert "does not start: ModuleNotFoundError: No module named 'pkg_resources_of_old'" in found.text


def test_a_tensorboard_that_never_answers_is_given_up(libraries):
    root = libraries(tensorboard="")
    (root / "tensorboard" / "main.py").write_text("import time; time.sleep(600)")
    found = check_tensorboard(seconds=1.0)
    assert found.level == "FAIL" and "no address after 1 s" in found.text


def test_python_is_named():
    assert check_python().level == "ok" and check_python().text.startswith("3.")
