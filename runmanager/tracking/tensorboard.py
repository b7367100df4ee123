"""What a run shows in TensorBoard. TensorBoard enters here alone; one event writer per run, in the run's own folder."""

import copy
import hashlib
import io
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.graph_pb2 import GraphDef
from tensorboard.compat.proto.summary_pb2 import HistogramProto, Summary, SummaryMetadata
from tensorboard.compat.proto.tensor_pb2 import TensorProto
from tensorboard.compat.proto.tensor_shape_pb2 import TensorShapeProto
from tensorboard.compat.proto.types_pb2 import DT_FLOAT
from tensorboard.compat.proto.versions_pb2 import VersionDef
from tensorboard.plugins.hparams import api_pb2
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData, SessionEndInfo, SessionStartInfo

from runmanager.parameters import encode, identity, short_text
from runmanager.tracking.event_file import EventFile, _varint, scalars_event
from runmanager.tracking.history import read_steps
from runmanager.tracking.rows import DONE, EpochRow, Metrics, RunEnd
from runmanager.tracking.run_dir import readable_name
from runmanager.tracking.untouched import SAMPLE_SIZE, frozen_rng, sample_batch
from runmanager.tracking.writers import Member, Writer

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray
    from torch.nn import Module

    from runmanager.tracking.confusion import Confusion
    from runmanager.tracking.histograms import Histogram

Thing = TypeVar("Thing")
_SESSION_START, _SESSION_END = "_hparams_/session_start_info", "_hparams_/session_end_info"
_BUCKET_LIMIT, _BUCKET = b"\x32", b"\x3a"  # the keys of a HistogramProto's fields 6 and 7, each a run of bytes
_TAGS = {"loss": "Loss", "accuracy": "Accuracy"}
"""The tags that the classroom knows; every other metric has its own name."""


class TensorBoardWriter(Writer):
    """Writes each run's scalars, images, graph, histograms and hyperparameters into the run's folder."""

    def __init__(self, histograms_every: int = 1) -> None:
        self._histograms_every = histograms_every
        self._files: dict[int, EventFile] = {}
        self._graphs = _Kept[bytes](8)  # traced once per network shape
        self._grids = _Kept[Summary.Image](8)  # made once for all runs that are shown the same samples

    def begin(self, member: Member) -> None:
        """Opens the run's event file, unless an earlier attempt may be taken up: that shows with the next call."""
        left = self._files.pop(member.number, None)  # of an attempt that could not be written to its end
        if left is not None:
            left.close()
        if member.attempt == 1:
            self._open(member)

    def resume(self, member: Member) -> None:
        """Goes on behind what TensorBoard has of the earlier attempt, which drops what comes after the saved state."""
        member.run_dir.remove_end_events()
        file = self._open(member, is_new=False)
        file.write(_start_event(member.epoch + 1))
        for step in read_steps(member.run_dir):
            if step.step > member.epoch:  # dropped too, since steps and epochs are counted on one axis
                file.write(scalars_event(step.step, step.scalars, "step/"))

    def _open(self, member: Member, *, is_new: bool = True) -> EventFile:
        """A new event file with the run's hyperparameters."""
        self._files[member.number] = file = EventFile(member.run_dir.new_events_file())
        # TensorBoard's own loader takes the first START that it meets for the run's beginning, whatever step it bears
        if is_new:
            file.write(_start_event(0))
        about = HParamsPluginData(session_start_info=_session_start(member))
        file.write(_hparams_event(_SESSION_START, about))
        return file

    def _file(self, member: Member) -> EventFile:
        """The run's event file. Where there is none yet, the attempt starts from nothing, and the earlier ones are set aside."""
        if member.number not in self._files:
            member.run_dir.set_events_aside()
            self._open(member)
            self.watch(member)
        return self._files[member.number]

    def watch(self, member: Member) -> None:
        """Shows the image grid and the graph, as far as the loader and the network have them."""
        if member.number not in self._files or member.rows:
            return  # not yet known whether an earlier attempt is taken up; or it is, and they are there
        file = self._files[member.number]
        try:
            batch = sample_batch(member.loader)
            inputs = batch[0] if isinstance(batch, (list, tuple)) else batch
            pictures = _pictures(_as_seen(member.loader, inputs))
        except Exception as error:  # noqa: BLE001 (a data set may raise anything, and the scalars do without its samples)
            warnings.warn(f"the loader's samples cannot be shown ({type(error).__name__}: {error})", stacklevel=2)
            return
        if pictures is not None:
            grid = self._grids.get(_digest(pictures), lambda: _image_grid(pictures))
            file.write(_event(Summary(value=[Summary.Value(tag="images", image=grid)])))
        if member.network is not None:
            file.write(_module_tree(member.network) if inputs is None else self._graph(member.network, inputs))

    def _graph(self, network: "Module", inputs: Any) -> bytes:
        key = f"{_architecture(network)} {getattr(inputs, 'shape', None)} {getattr(inputs, 'dtype', None)}"
        return self._graphs.get(key, lambda: _trace(network, inputs))

    def step(self, member: Member, step: int, scalars: Metrics) -> None:
        """Shows a step's scalars as `step/<name>`, away from the epochs' own."""
        self._file(member).write(scalars_event(step, scalars, "step/"))

    def log(self, member: Member, metrics: Metrics) -> None:
        """Shows the run's own metrics at its last epoch."""
        tags = {_TAGS.get(name, name): value for name, value in metrics.items()}
        self._file(member).write(scalars_event(member.epoch, tags))

    def image(self, member: Member, name: str, epoch: int, pixels: "NDArray[Any]") -> None:
        """Shows a picture under its name."""
        self._file(member).write(_event(Summary(value=[Summary.Value(tag=name, image=_png(pixels))]), epoch))

    def confusion(self, member: Member, confusion: "Confusion") -> None:
        """Shows a confusion matrix under its name."""
        from runmanager.tracking.confusion_picture import confusion_pixels

        self.image(member, confusion.name, confusion.epoch, confusion_pixels(confusion.counts, confusion.classes))

    def epoch(self, member: Member, row: EpochRow) -> None:
        """Shows all of the epoch's scalars in one event, then the histograms when they are due."""
        file = self._file(member)
        file.write(scalars_event(row.epoch, _tags(row, member)))
        if member.network is not None and self._histograms_every and (row.epoch - 1) % self._histograms_every == 0:
            for event in _histogram_events(member.network, row.epoch):
                file.write(event)

    def end(self, member: Member, end: RunEnd) -> None:
        """Writes how the run ended into a small file of its own, since TensorBoard keeps the first such record it finds."""
        if member.number in self._files:
            self._files.pop(member.number).close()
        else:  # it ended before it recorded anything: what the attempt before it left stays
            member.run_dir.remove_end_events()
        status = api_pb2.STATUS_SUCCESS if end.status in DONE else api_pb2.STATUS_FAILURE
        info = SessionEndInfo(status=status, end_time_secs=time.time())
        file = EventFile(member.run_dir.new_events_file(".end"))
        file.write(_hparams_event(_SESSION_END, HParamsPluginData(session_end_info=info)))
        file.close()


class _Kept(Generic[Thing]):
    """The last few things that were made, by all that went into them."""

    def __init__(self, max_things: int) -> None:
        self._max_things = max_things
        self._things: dict[str, Thing] = {}

    def get(self, key: str, make: Callable[[], Thing]) -> Thing:
        """What was made for this key; made now, where it is not there."""
        if key not in self._things:
            if len(self._things) == self._max_things:
                del self._things[next(iter(self._things))]
            self._things[key] = make()
        return self._things[key]


def _start_event(step: int) -> bytes:
    """Tells TensorBoard to drop what it has from this step on."""
    start = SessionLog(status=SessionLog.START)
    return Event(wall_time=time.time(), step=step, session_log=start).SerializeToString()  # type: ignore[no-any-return]


def _tags(row: EpochRow, member: Member) -> dict[str, float]:
    tags = {_TAGS.get(name, name): value for name, value in row.values().items()}
    return tags | {f"best/{name}": best.value for name, best in member.best.items()}


def _event(summary: Summary, step: int = 0) -> bytes:
    return Event(wall_time=time.time(), step=step, summary=summary).SerializeToString()  # type: ignore[no-any-return]


def _hparams_event(tag: str, content: HParamsPluginData) -> bytes:
    """A record for the HParams tab, as tensorboard.plugins.hparams.metadata makes it, which takes 0.15 s to import."""
    plugin = SummaryMetadata.PluginData(plugin_name="hparams", content=content.SerializeToString())
    nothing = TensorProto(dtype=DT_FLOAT, tensor_shape=TensorShapeProto(dim=[TensorShapeProto.Dim(size=0)]))
    return _event(Summary(value=[Summary.Value(tag=tag, metadata=SummaryMetadata(plugin_data=plugin), tensor=nothing)]))


def _session_start(member: Member) -> SessionStartInfo:
    """The run's hyperparameters. Runs that differ in `seed` alone share a group, which TensorBoard shows as one row."""
    configuration = {name: value for name, value in member.params.items() if name != "seed"}
    name = readable_name(configuration, 64)
    # TensorBoard shows the group's name as the trial's id
    group = "-".join(part for part in (name, identity(configuration)[:12]) if part)
    info = SessionStartInfo(group_name=group, start_time_secs=time.time())
    for name, value in configuration.items():
        plain = encode(value)
        field = info.hparams[name]
        if isinstance(plain, bool):  # before numbers: a bool is an int too
            field.bool_value = plain
        elif isinstance(plain, (int, float)) and abs(plain) <= sys.float_info.max:
            field.number_value = plain
        else:
            field.string_value = plain if isinstance(plain, str) and _fits(plain) else short_text(value)
    return info


def _fits(text: str) -> bool:
    return len(text) <= 256 and text.isprintable()


def _as_seen(loader: Any, inputs: Any) -> Any:
    """What people are shown of the inputs: of normalised ones, what they were before. The network is traced with the inputs."""
    as_seen = getattr(getattr(loader, "dataset", None), "as_seen", None)
    return inputs if as_seen is None else as_seen(inputs)


def _pictures(inputs: Any) -> "torch.Tensor | None":
    """The first of inputs [N, C, H, W] with C = 1 or 3, as float32 on the host; None for anything else."""
    import torch

    if not isinstance(inputs, torch.Tensor) or inputs.ndim != 4 or inputs.shape[1] not in (1, 3):
        return None
    return inputs[:SAMPLE_SIZE].detach().float().cpu().contiguous()


def _digest(pictures: "torch.Tensor") -> str:
    """What tells pictures from others: their values and their shape."""
    return f"{tuple(pictures.shape)} {hashlib.sha256(pictures.numpy().data).hexdigest()}"


def _image_grid(pictures: "torch.Tensor") -> Summary.Image:
    """A PNG of pictures [N, C, H, W]."""
    from torchvision.utils import make_grid

    grid = make_grid(pictures)  # [3, H, W]
    low, high = grid.amin(), grid.amax()
    if low < 0 or high > 1:  # normalised, or bytes: stretch to what can be seen
        grid = (grid - low) / (high - low).clamp(min=1e-12)
    return _png((grid.nan_to_num() * 255).round().byte().permute(1, 2, 0).numpy())


def _png(pixels: "NDArray[Any]") -> Summary.Image:
    """Bytes [H, W, 3] as a PNG."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "png", compress_level=1)  # a third of the time, and no larger here
    height, width, channels = pixels.shape
    return Summary.Image(height=height, width=width, colorspace=channels, encoded_image_string=buffer.getvalue())


def _trace(network: "Module", inputs: Any) -> bytes:
    """The network's graph as an event; where it cannot be traced, a tree of its modules as text.

    A copy is traced, in eval mode and with one row, so that neither the network nor any random number changes.
    """
    import torch

    try:
        probe = copy.deepcopy(network).eval()
        for module in probe.modules():  # a hook of the user's counts or keeps what it sees
            module._forward_hooks.clear()
            module._forward_pre_hooks.clear()
        device = next((param.device for param in probe.parameters()), torch.device("cpu"))
        row = inputs[:1].to(device)
        from torch.utils.tensorboard._pytorch_graph import parse

        quiet = io.StringIO()  # the tracer prints what fails, and that it is deprecated
        with warnings.catch_warnings(), frozen_rng(), torch.no_grad(), redirect_stdout(quiet), redirect_stderr(quiet):
            warnings.simplefilter("ignore")
            trace = torch.jit.trace(probe, (row,), check_trace=False)  # a check traces again, for twice the time
            graph = trace.graph
            torch._C._jit_pass_inline(graph)
            definition = GraphDef(node=parse(graph, trace, (row,)), versions=VersionDef(producer=22))
        return Event(wall_time=time.time(), graph_def=definition.SerializeToString()).SerializeToString()  # type: ignore[no-any-return]
    except Exception as error:  # noqa: BLE001 (networks fail to trace in many ways, and none may fail the run)
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        warnings.warn(
            f"{type(network).__name__} cannot be traced; its modules are shown as text ({reason})", stacklevel=2
        )
        return _module_tree(network)


def _module_tree(network: "Module") -> bytes:
    """The modules with their parameter counts, for TensorBoard's text page."""
    from torch.utils.tensorboard.summary import text

    lines = [
        f"    {'  ' * name.count('.')}{name or 'network'}: {type(module).__name__}, {_num_parameters(module):,} parameters"
        for name, module in network.named_modules()
    ]
    return _event(text("graph", "\n".join(lines)))


def _num_parameters(module: "Module") -> int:
    return sum(param.numel() for param in module.parameters() if _has_shape(param))


def _has_shape(param: Any) -> bool:
    """Whether a parameter has a shape; those of torch's lazy layers get theirs with the first batch."""
    return type(param).__name__ != "UninitializedParameter"


def _architecture(network: "Module") -> str:
    """What tells two networks apart whose graphs differ: modules, shapes, and what plain attributes `forward` may look at."""
    parts = [repr(network)]
    for name, module in network.named_modules():
        plain = {key: _plain_text(value) for key, value in vars(module).items() if not key.startswith("_")}
        parts.append(f"{name} {type(module).__module__}.{type(module).__qualname__} {plain}")
    shapes = [(name, tuple(param.shape)) for name, param in network.named_parameters() if _has_shape(param)]
    return f"{parts} {shapes}"


def _plain_text(value: Any) -> str:
    if isinstance(value, (bool, int, float, str, list, tuple)):
        return repr(value)[:1000]
    return str(getattr(value, "__qualname__", None) or type(value).__qualname__)


def _histogram_events(network: "Module", epoch: int) -> Iterator[bytes]:
    """The epoch's histograms in one event, and how many values were not finite in another, where there are any."""
    from runmanager.tracking.histograms import histograms  # numpy, which a run without a network does not need

    found, num_not_finite = histograms(_trained_values(network))
    if found:
        yield _event(Summary(value=[_histogram_value(tag, one) for tag, one in found.items()]), epoch)
    if num_not_finite:
        yield scalars_event(epoch, num_not_finite)


def _trained_values(network: "Module") -> dict[str, "torch.Tensor"]:
    """Each trained parameter and its gradient."""
    values: dict[str, torch.Tensor] = {}
    for name, param in network.named_parameters():
        if param.requires_grad and _has_shape(param):
            values[name] = param
            if param.grad is not None:
                values[f"{name}.grad"] = param.grad
    return values


def _histogram_value(tag: str, found: "Histogram") -> Summary.Value:
    """A histogram's message. Its lists go in as bytes, which takes a tenth of the time of a number at a time."""
    content = HistogramProto(
        min=found.min, max=found.max, num=found.num, sum=found.sum, sum_squares=found.sum_squares
    ).SerializeToString()
    content += _packed(_BUCKET_LIMIT, found.limits) + _packed(_BUCKET, found.counts)
    return Summary.Value(tag=tag, histo=HistogramProto.FromString(content))


def _packed(key: bytes, numbers: "NDArray[Any]") -> bytes:
    """A field of repeated doubles, as protocol buffers have it."""
    content = numbers.astype("<f8", copy=False).tobytes()
    return key + _varint(len(content)) + content
