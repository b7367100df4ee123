"""How many workers a machine gets, and what each may use."""

import os
from pathlib import Path

import pytest

from runmanager.launching.slots import Slot, WorkersError, make_slots, parse_workers


@pytest.fixture
def machine(tmp_path):
    """The system's own files of a machine with so much of everything, as keyword arguments."""

    def make(*, cores=4, gib=100, free_gib=None, gpus=None, cgroup=None, **environ):
        proc = tmp_path / "proc"
        (proc / "self").mkdir(parents=True)
        free_gib = gib if free_gib is None else free_gib
        lines = {"MemTotal": gib, "MemFree": 0, "MemAvailable": free_gib}
        text = "".join(f"{name + ':':15} {int(size * 1024 * 1024):8} kB\n" for name, size in lines.items())
        (proc / "meminfo").write_text(text + "HugePages_Total:       0\n")
        (proc / "self/cgroup").write_text("4:memory:/other\n0::/user/job\n")
        for name, text in (cgroup or {}).items():
            (tmp_path / "sys/fs/cgroup" / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / "sys/fs/cgroup" / name).write_text(text + "\n")
        for index in range(gpus or 0):
            (proc / f"driver/nvidia/gpus/0000:0{index}:00.0").mkdir(parents=True)
        return {"environ": environ, "folder": tmp_path, **({"cores": cores} if cores else {})}

    return make


def threads(slots: list[Slot]) -> list[str | None]:
    return [slot.environment.get("OMP_NUM_THREADS") for slot in slots]


def gpus(slots: list[Slot]) -> list[str | None]:
    return [slot.environment.get("CUDA_VISIBLE_DEVICES") for slot in slots]


@pytest.mark.parametrize(("text", "workers"), [("auto", None), ("0", 0), ("3", 3), (3, 3), (0, 0), ("1024", 1024)])
def test_a_number_of_workers_is_a_whole_number_or_auto(text, workers):
    assert parse_workers(text) == workers


@pytest.mark.parametrize("text", ["-1", -1, "many", "", "2.5", "1e3", 1025, "9" * 5000, "²", True, "Auto"])
def test_another_number_of_workers_is_refused_with_the_choices(text):
    with pytest.raises(WorkersError, match=r"is no number of workers; give auto, 0 .* up to 1024") as caught:
        parse_workers(text)
    assert len(str(caught.value)) < 250


def test_auto_is_one_worker_for_each_core_with_one_thread(machine):
    slots = make_slots(None, 100, **machine(cores=4))
    assert [slot.index for slot in slots] == [0, 1, 2, 3]
    assert threads(slots) == ["1"] * 4
    assert gpus(slots) == [None] * 4


def test_the_cores_are_divided_among_the_workers_that_were_asked_for(machine):
    machine = machine(cores=8)
    assert threads(make_slots(3, 100, **machine)) == ["2"] * 3
    assert threads(make_slots(1, 100, **machine)) == ["8"]
    assert threads(make_slots(20, 100, **machine)) == ["1"] * 20


@pytest.mark.parametrize(("workers", "expected"), [(None, "4"), (3, "3"), (9, "9")])
def test_a_worker_knows_how_many_share_the_machine_whatever_a_worker_above_it_knew(machine, workers, expected):
    machine = machine(cores=4, RUNMANAGER_WORKERS="77")
    assert [slot.environment["RUNMANAGER_WORKERS"] for slot in make_slots(workers, 1, **machine)] == [expected]


@pytest.mark.parametrize("workers", [None, 4, 2])
def test_the_last_run_has_as_many_threads_as_the_first(machine, workers):
    machine = machine(cores=4)
    assert threads(make_slots(workers, 1, **machine)) == threads(make_slots(workers, 100, **machine))[:1]
    assert len(make_slots(workers, 0, **machine)) == 1


def test_there_are_as_many_workers_as_the_free_memory_holds_but_their_threads_stay(machine):
    slots = make_slots(None, 100, **machine(cores=8, gib=64, free_gib=3.5))
    assert threads(slots) == ["1"] * 3


def test_a_machine_with_little_memory_shares_its_cores_among_fewer_workers(machine):
    assert threads(make_slots(None, 100, **machine(cores=8, gib=4.5))) == ["2"] * 4


def test_there_is_one_worker_at_least_and_as_many_as_asked_for_at_most(machine):
    machine = machine(cores=8, gib=4, free_gib=0.2)
    assert len(make_slots(None, 100, **machine)) == 1
    assert len(make_slots(6, 100, **machine)) == 6
    assert make_slots(0, 100, **machine) == []


def test_a_container_has_the_cores_and_the_memory_that_it_is_given(machine):
    limits = {"user/job/cpu.max": "max 100000", "user/cpu.max": "250000 100000", "user/memory.max": "max"}
    slots = make_slots(None, 100, **machine(cores=None, cgroup=limits))
    assert len(slots) == min(3, len(os.sched_getaffinity(0)))


def test_the_memory_of_a_container_bounds_its_workers(machine):
    limits = {"user/job/memory.max": str(2 << 30), "memory.max": "max"}
    assert threads(make_slots(None, 100, **machine(cores=6, cgroup=limits))) == ["3", "3"]


def test_a_system_that_tells_nothing_has_a_worker_for_each_core(tmp_path):
    assert len(make_slots(None, 100, environ={}, folder=tmp_path, cores=6)) == 6


def test_this_machine_has_room_for_a_worker():
    assert 1 <= len(make_slots(None, 1_000)) <= max(1, len(os.sched_getaffinity(0)), 8)


def test_a_users_own_settings_are_kept(machine):
    slots = make_slots(2, 2, **machine(OMP_NUM_THREADS="7", PYTHONHASHSEED="123"))
    assert [slot.environment for slot in slots] == [{"RUNMANAGER_WORKERS": "2"}] * 2


def test_the_order_of_sets_is_the_same_in_every_worker(machine):
    assert {slot.environment["PYTHONHASHSEED"] for slot in make_slots(2, 2, **machine())} == {"0"}


def test_auto_is_one_worker_for_each_gpu_that_sees_it_alone(machine):
    slots = make_slots(None, 100, **machine(cores=16, gpus=2, free_gib=0.5))
    assert gpus(slots) == ["0", "1"]
    assert threads(slots) == ["8", "8"]


def test_more_workers_share_the_gpus_in_turn(machine):
    assert gpus(make_slots(5, 100, **machine(gpus=2))) == ["0", "1", "0", "1", "0"]


@pytest.mark.parametrize(
    ("visible", "expected"),
    [
        ("3", ["3"]),
        ("2, 0", ["2", "0"]),
        ("GPU-8f2a,MIG-11-22", ["GPU-8f2a", "MIG-11-22"]),
        ("1,-1,0", ["1"]),
    ],
)
def test_only_the_gpus_that_the_user_shows_are_used(machine, visible, expected):
    assert gpus(make_slots(None, 100, **machine(gpus=4, CUDA_VISIBLE_DEVICES=visible))) == expected


@pytest.mark.parametrize("visible", ["", "-1", "NoDevFiles"])
def test_a_user_who_shows_no_gpu_has_none(machine, visible):
    slots = make_slots(None, 100, **machine(gpus=4, cores=3, CUDA_VISIBLE_DEVICES=visible))
    assert gpus(slots) == [None] * 3


def test_a_workers_environment_is_the_drivers_with_the_slots_over_it(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("OF_THE_USER", "kept")
    environment = Slot(0, {"OMP_NUM_THREADS": "3"}).whole_environment()
    assert (environment["OMP_NUM_THREADS"], environment["OF_THE_USER"]) == ("3", "kept")


@pytest.mark.parametrize("given", [None, "/of/the/user"])
def test_a_package_that_is_not_installed_is_found_where_it_stands(monkeypatch, given):
    monkeypatch.delenv("PYTHONPATH", raising=False)
    if given:
        monkeypatch.setenv("PYTHONPATH", given)
    source = str(Path(__file__).parents[2])
    expected = f"{source}{os.pathsep}{given}" if given else source
    assert Slot(0, {}).whole_environment()["PYTHONPATH"] == expected


def test_a_worker_sees_as_many_gpus_as_a_run_has(machine):
    machine = machine(cores=16, gpus=5)
    assert gpus(make_slots(None, 100, devices=2, **machine)) == ["0,1", "2,3"]
    assert threads(make_slots(None, 100, devices=2, **machine)) == ["8", "8"]
    assert gpus(make_slots(3, 100, devices=2, **machine)) == ["0,1", "2,3", "4,0"]


def test_a_machine_with_fewer_gpus_than_a_run_has_shows_all_to_one_worker(machine):
    assert gpus(make_slots(None, 100, devices=4, **machine(gpus=2))) == ["0,1"]


def test_the_gpus_that_the_user_shows_are_shared_out_by_runs(machine):
    machine = machine(gpus=4, CUDA_VISIBLE_DEVICES="3, GPU-8f2a,1,0")
    assert gpus(make_slots(None, 100, devices=2, **machine)) == ["3,GPU-8f2a", "1,0"]


def test_a_run_on_several_processes_takes_as_many_cores(machine):
    machine = machine(cores=8)
    assert threads(make_slots(None, 100, devices=2, **machine)) == ["2"] * 4
    assert threads(make_slots(None, 100, devices=3, **machine)) == ["4"] * 2
    assert threads(make_slots(None, 100, devices=99, **machine)) == ["8"]
    assert threads(make_slots(1, 100, devices=2, **machine)) == ["8"]


def test_each_process_of_a_run_needs_memory(machine):
    assert len(make_slots(None, 100, devices=2, **machine(cores=16, gib=64, free_gib=6.5))) == 3
