"""Networks that start from what another run, or somebody else, has trained."""

import math
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import Module
from torch.nn.modules.utils import consume_prefix_in_state_dict_if_present
from torch.nn.parameter import is_lazy

from runmanager.nearest import nearest
from runmanager.tracking.checkpoint import read_checked
from runmanager.tracking.errors import CheckpointError, ResultsNotFoundError, SweepNameError
from runmanager.tracking.history import RunHistory, SweepHistory, read_run, read_sweep
from runmanager.tracking.journal import Record
from runmanager.tracking.run_dir import RunDir, SweepDir, find_sweep, sweep_name_fault, sweep_names
from runmanager.training.plain import from_plain
from runmanager.training.settings import TrainerError

_NETWORKS = (
    "network",
    "model",
    "state_dict",
    "model_state_dict",
    "network_state_dict",
)  # what people call it in a file
_WRAPPERS = ("module.", "_orig_mod.")  # of DataParallel and of torch.compile
_FILES = (".pt", ".pth")
_MANY = 3  # more names than a message lists

StateDict = dict[str, Any]


@dataclass(frozen=True)
class Report:
    """What came from a start and what did not, by the names in the state dicts."""

    source: str
    loaded: tuple[str, ...]
    missing: tuple[str, ...]  # the network has it, the source has not
    unexpected: tuple[str, ...]  # the source has it, the network has not
    other_shape: Mapping[str, tuple[list[int], list[int]]]  # the shape here, and the shape there

    @property
    def is_whole(self) -> bool:
        """Whether the two have the same names and shapes."""
        return not (self.missing or self.unexpected or self.other_shape)

    def __str__(self) -> str:
        num_all = len(self.loaded) + len(self.missing) + len(self.other_shape)
        shapes = [f"{name} {here} is {there} there" for name, (here, there) in self.other_shape.items()]
        not_loaded = [*shapes, *(f"{name} is not there" for name in self.missing)]
        parts = [f"started from {self.source}: {len(self.loaded)} of {num_all} tensors"]
        parts += [f"not loaded: {_some(not_loaded)}"] if not_loaded else []
        parts += [f"not used: {_some(self.unexpected)}"] if self.unexpected else []
        return "; ".join(parts)


def load_start(network: Module, start_from: str | Path, *, strict: bool, project: Path) -> Report:
    """Puts the weights and buffers of a trained network into this one.

    A run is taken as it was after the best of its saved epochs by its sweep's objective, or after the last one where there is no
    objective; `"sweep/3/last"` and `"sweep/3/5"` take the last epoch and epoch 5. No random number is drawn.

    Args:
        network: what is filled.
        start_from: `"sweep/3"` is run 3 of that sweep, `"sweep/best"` its best run by the objective; or a run's folder; or a .pt or
            .pth file with a state dict, bare or under `state_dict`, `network` or `model`.
        strict: whether names and shapes all have to be the same; otherwise what is the same is loaded, and the rest stays as it is.
        project: the folder that has runs/; paths begin there.

    Raises:
        TrainerError: there is no such start, it cannot be read, or it does not fit; the message has the choices.
    """
    source, state = _read(start_from, project)
    _unwrap(network, state)
    report = _compare(network, source, state)
    if strict and not report.is_whole:
        raise TrainerError(f"start_from={str(start_from)!r} does not fit the network: {_misfit(report)}")
    if not report.loaded:
        raise TrainerError(
            f"start_from={str(start_from)!r}: nothing in {source} fits the network by name and shape: {report}"
        )
    fitting = OrderedDict((name, state[name]) for name in report.loaded)
    fitting._metadata = getattr(state, "_metadata", None)  # type: ignore[attr-defined]  # versions of modules, for torch
    try:
        network.load_state_dict(fitting, strict=False)
    except RuntimeError as error:
        raise TrainerError(f"{source} cannot be loaded into the network: {' '.join(str(error).split())}") from error
    return report


def _misfit(report: Report) -> str:
    shapes = [f"{name} {here} is {there} there" for name, (here, there) in report.other_shape.items()]
    lists = {"of another shape": shapes, "missing there": report.missing, "only there": report.unexpected}
    told = "; ".join(f"{what}: {_some(names)}" for what, names in lists.items() if names)
    return f"{told}; start_strict=False loads the {len(report.loaded)} that fit"


def _some(names: Iterable[str]) -> str:
    listed = list(names)
    more = f" and {len(listed) - _MANY} more" if len(listed) > _MANY else ""
    return ", ".join(listed[:_MANY]) + more


def _compare(network: Module, source: str, state: StateDict) -> Report:
    here = network.state_dict()
    both = [name for name in here if name in state]
    loaded = tuple(name for name in both if _fits(here[name], state[name]))
    return Report(
        source,
        loaded,
        missing=tuple(name for name in here if name not in state),
        unexpected=tuple(name for name in state if name not in here),
        other_shape={name: (list(here[name].shape), list(state[name].shape)) for name in both if name not in loaded},
    )


def _fits(here: Any, there: Any) -> bool:
    """Whether the shapes are the same; a module's own extra state, and what has no shape before the first batch, take any."""
    if not isinstance(here, Tensor) or not isinstance(there, Tensor) or is_lazy(here):
        return True
    return here.shape == there.shape


def _unwrap(network: Module, state: StateDict) -> None:
    """Takes from the names what a wrapper put before them, that the network had when it was saved."""
    here = network.state_dict()
    for prefix in _WRAPPERS:
        if all(name.startswith(prefix) for name in state) and not any(name.startswith(prefix) for name in here):
            consume_prefix_in_state_dict_if_present(state, prefix)


def _read(start_from: Any, project: Path) -> tuple[str, StateDict]:
    """What is started from, in words, and its state dict."""
    if not isinstance(start_from, (str, Path)):
        raise TrainerError(
            f"start_from={start_from!r:.80} is no start; write 'sweep/3', 'sweep/best', a folder or a file"
        )
    path = project / start_from
    if path.suffix in _FILES or path.is_file():
        return path.name, _from_file(path)
    if path.is_dir() and RunDir(path, 0).journal_size():
        return _from_run(*_run_at(path.resolve()), "best")
    name, *rest = str(start_from).strip("/").split("/")
    if not rest or len(rest) > 2:
        there = sweep_names(project)
        choices = f"one of the sweeps {_listed(there)}" if there else "the name of a sweep; none has been launched yet"
        raise TrainerError(
            f"start_from={str(start_from)!r} is no run's folder and no file of {project}, and does not name a run; "
            f"write 'sweep/3' or 'sweep/best', with {choices}"
        )
    return _from_run(*_run_of(name, rest[0], project), rest[1] if len(rest) == 2 else "best")


def _from_file(path: Path) -> StateDict:
    if not path.is_file():
        raise TrainerError(f"start_from: there is no file {path}; {_files_in(path)}")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise TrainerError(
            f"start_from: {path} is damaged, or holds more than tensors and plain data, and is not loaded ({reason}); "
            "save it by torch.save(network.state_dict(), file)"
        ) from error
    if isinstance(content, dict) and content.keys() == {"state", "generators"}:
        raise TrainerError(
            f"start_from: {path} is a checkpoint of a run; name the run instead, by its folder or as 'sweep/3', "
            "so that its checksum is looked at"
        )
    return _network_in(content, str(path))


def _files_in(path: Path) -> str:
    if not path.parent.is_dir():
        return f"there is no folder {path.parent} either"
    names = sorted(one.name for one in path.parent.iterdir() if one.suffix in _FILES)
    return f"that folder has {_listed(names)}{nearest(path.name, names)}"


def _network_in(content: Any, source: str) -> StateDict:
    """The state dict of a network, wherever it is in what was saved."""
    state = content
    if isinstance(content, Mapping):
        state = next((content[name] for name in _NETWORKS if isinstance(content.get(name), Mapping)), content)
    is_state = isinstance(state, dict) and any(isinstance(value, Tensor) for value in state.values())
    if not is_state or not all(isinstance(name, str) for name in state):
        has = f"has {_listed(content)}" if isinstance(content, Mapping) else f"is a {type(content).__name__}"
        raise TrainerError(
            f"start_from: {source} {has}, and no state dict of a network; save network.state_dict(), or {{'network': that}}"
        )
    found: StateDict = state
    return found


def _run_of(name: str, which: str, project: Path) -> tuple[RunDir, SweepHistory]:
    """A run by the name of its sweep and its number, `best`, or its folder's name."""
    try:
        sweep_dir = find_sweep(name, project)
    except (ResultsNotFoundError, SweepNameError) as error:
        raise TrainerError(f"start_from: {error}") from error
    sweep, runs = read_sweep(sweep_dir), list(sweep_dir.runs())
    folder = _best_folder(sweep) if which == "best" else which
    found = [run for run in runs if run.path.name == folder or (folder.isdecimal() and run.number == int(folder))]
    if not found:
        there = _listed(run.number for run in runs)
        raise TrainerError(f"start_from: sweep {name!r} has no run {which!r}; it has 'best' and {there}")
    return found[0], sweep


def _best_folder(sweep: SweepHistory) -> str:
    if sweep.best:
        return sweep.best.folder
    why = f"no run has a finite {sweep.objective}" if sweep.objective else "the sweep has no objective"
    numbers = _listed(run.number for run in sweep.runs)
    raise TrainerError(f"start_from: {sweep.name}/best is no run, since {why}; choose one by its number: {numbers}")


def _run_at(folder: Path) -> tuple[RunDir, SweepHistory | None]:
    """A run by its folder, which need not be in a project any more."""
    if folder.parent.parent.name == "runs" and sweep_name_fault(folder.parent.name) is None:
        sweep_dir = SweepDir(folder.parents[2], folder.parent.name)
        for run_dir in sweep_dir.runs():
            if run_dir.path.name == folder.name:
                return run_dir, read_sweep(sweep_dir)
    return RunDir(folder, 0), None


def _from_run(run_dir: RunDir, sweep: SweepHistory | None, which: str) -> tuple[str, StateDict]:
    name = f"{sweep.name}/{run_dir.number}" if sweep else run_dir.path.name
    modes = {sweep.objective: sweep.mode_of(sweep.objective)} if sweep and sweep.objective else {}
    history = read_run(run_dir, modes)
    records = {one["epoch"]: one for one in history.checkpoints} if history else {}
    saved = {epoch: one for epoch, one in sorted(records.items()) if (run_dir.checkpoints / one["file"]).is_file()}
    if history is None or not saved:
        raise TrainerError(f"start_from: {name} has no saved state; {_others_with_states(run_dir, sweep)}")
    record = saved[_epoch(history, saved, which, name)]
    source = f"{name}, epoch {record['epoch']}"
    try:
        content = read_checked(run_dir.checkpoints / record["file"], record)
    except CheckpointError as error:
        others = _listed(epoch for epoch in saved if epoch != record["epoch"])
        raise TrainerError(f"start_from: {error}; other epochs that {name} has: {others}") from error
    return source, _network_in(from_plain(content.get("state")), source)


def _epoch(history: RunHistory, saved: Mapping[int, Record], which: str, name: str) -> int:
    """The epoch that is meant, of those that there are."""
    if which.isdecimal() and int(which) in saved:
        return int(which)
    if which not in ("best", "last"):
        raise TrainerError(
            f"start_from: {name} has no saved epoch {which!r}; it has 'best', 'last' and {_listed(saved)}"
        )
    objective, mode = next(iter(history.modes.items()), ("", "min"))
    values = {row.epoch: row.values().get(objective) for row in history.rows}
    scored = [(value, epoch) for epoch in saved if (value := values.get(epoch)) is not None and math.isfinite(value)]
    if which == "last" or not scored:
        return max(saved)
    sign = 1 if mode == "min" else -1
    return min(scored, key=lambda one: (sign * one[0], one[1]))[1]


def _others_with_states(run_dir: RunDir, sweep: SweepHistory | None) -> str:
    runs = SweepDir(run_dir.path.parents[2], sweep.name).runs() if sweep else ()
    there = [run.number for run in runs if run.checkpoints.is_dir()]
    if there:
        return f"these runs of the sweep have one: {_listed(there)}; with --keep all every run would"
    return "a run keeps one where it is launched without --checkpoint-every 0 and is among those that --keep says"


def _listed(names: Iterable[Any]) -> str:
    """Not all of a thousand."""
    listed = [str(name) for name in names]
    return ", ".join(listed[:20]) + f" and {len(listed) - 20} more" * (len(listed) > 20) or "none"
