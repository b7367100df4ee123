"""Event files as TensorBoard's own loader reads them."""

import math
import os
import signal
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader, RawEventFileLoader
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary

from runmanager.tracking.event_file import EventFile, scalars_event
from runmanager.tracking.run_dir import RunDir

TAGS = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)


def events(folder: Path) -> list[Any]:
    """The events of the folder's only file, each checked against its checksums by the loader."""
    (name,) = os.listdir(folder)
    return [Event.FromString(raw) for raw in RawEventFileLoader(str(folder / name)).Load()]


def as_float32(value: float) -> float:
    try:
        return float(struct.unpack("<f", struct.pack("<f", value))[0])
    except OverflowError:
        return math.copysign(math.inf, value) if isinstance(value, float) else math.inf if value > 0 else -math.inf


def test_tensorboards_loader_finds_the_version_and_every_event(tmp_path: Path) -> None:
    file = EventFile(RunDir(tmp_path, 1).new_events_file())
    for step in range(3):
        file.write(scalars_event(step, {"Loss": step / 2, "Accuracy": 1.0}))
    file.close()
    version, *found = events(tmp_path)
    assert version.file_version == "brain.Event:2"
    assert [event.step for event in found] == [0, 1, 2]
    assert [[(value.tag, value.simple_value) for value in event.summary.value] for event in found] == [
        [("Loss", step / 2), ("Accuracy", 1.0)] for step in range(3)
    ]


def test_tensorboards_full_loader_shows_the_scalars_as_it_would_on_its_page(tmp_path: Path) -> None:
    file = EventFile(RunDir(tmp_path, 1).new_events_file())
    file.write(scalars_event(7, {"val/acc ü": 0.5}))
    (name,) = os.listdir(tmp_path)
    _, event = EventFileLoader(str(tmp_path / name)).Load()
    (value,) = event.summary.value
    assert (event.step, value.tag, list(value.tensor.float_val)) == (7, "val/acc ü", [0.5])
    assert value.metadata.plugin_data.plugin_name == "scalars"
    file.close()


def test_the_file_bears_a_name_that_tensorboard_takes_for_an_event_file(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.io_wrapper import IsTensorFlowEventsFile

    EventFile(RunDir(tmp_path, 1).new_events_file()).close()
    (name,) = os.listdir(tmp_path)
    assert IsTensorFlowEventsFile(name)
    assert name.isascii()


@settings(max_examples=300, deadline=None)
@given(
    st.integers(-(2**63), 2**63 - 1),
    st.dictionaries(TAGS, st.floats() | st.integers(-(2**63), 2**63 - 1), max_size=6),
)
def test_the_scalars_packed_by_hand_are_what_the_protocol_buffer_class_makes(
    step: int, scalars: dict[str, float]
) -> None:
    event = Event.FromString(scalars_event(step, scalars))
    rounded = {tag: as_float32(value) for tag, value in scalars.items()}
    values = [Summary.Value(tag=tag, simple_value=value) for tag, value in rounded.items()]
    made = Event(wall_time=event.wall_time, step=step, summary=Summary(value=values))
    # the class leaves out what is zero, so its own bytes are compared, which also makes NaN equal NaN
    assert event.SerializeToString(deterministic=True) == made.SerializeToString(deterministic=True)


@pytest.mark.parametrize("value", [1e39, -1e39, math.inf, -math.inf])
def test_a_scalar_beyond_float32_is_infinite(value: float) -> None:
    event = Event.FromString(scalars_event(1, {"x": value, "fine": 0.5}))
    assert [each.simple_value for each in event.summary.value] == [math.inf if value > 0 else -math.inf, 0.5]


def test_a_tag_with_a_lone_surrogate_hides_no_other_tag() -> None:
    event = Event.FromString(scalars_event(1, {"a\ud800": 1.0, "b": 2.0}))
    assert [value.simple_value for value in event.summary.value] == [1.0, 2.0]
    assert event.summary.value[1].tag == "b"


def test_tags_of_any_length_are_packed_right() -> None:
    for length in (0, 1, 126, 127, 128, 16_383, 16_384):
        event = Event.FromString(scalars_event(1, {"x" * length: 1.5}))
        assert (event.summary.value[0].tag, event.summary.value[0].simple_value) == ("x" * length, 1.5)


def test_many_files_of_one_folder_never_share_a_name(tmp_path: Path) -> None:
    for _ in range(20):
        EventFile(RunDir(tmp_path, 1).new_events_file()).close()
    assert len(os.listdir(tmp_path)) == 20


def test_an_event_is_in_the_file_when_the_call_returns(tmp_path: Path) -> None:
    file = EventFile(RunDir(tmp_path, 1).new_events_file())
    for step in range(5):
        file.write(scalars_event(step, {"Loss": 0.5}))
        assert len(events(tmp_path)) == step + 2
    file.close()


WRITER = """
import sys
from pathlib import Path
from runmanager.tracking.run_dir import RunDir
from runmanager.tracking.event_file import EventFile, scalars_event
file = EventFile(RunDir(Path(sys.argv[1]), 1).new_events_file())
step = 0
while True:
    file.write(scalars_event(step, {f"metric {i}": i / 3 for i in range(20)}))
    print(step, flush=True)
    step += 1
"""


def test_every_event_whose_call_returned_outlives_sigkill(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path)], stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        returned = [int(writer.stdout.readline()) for _ in range(100)]
        writer.send_signal(signal.SIGKILL)
        returned += [int(line) for line in writer.stdout if line.endswith("\n")]
    _, *found = events(tmp_path)
    assert [event.step for event in found][: len(returned)] == returned
