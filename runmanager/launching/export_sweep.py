"""`runmanager export-model` and `runmanager features`: what a trained run has learned, in files of their own."""

import json
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from runmanager.launching.load_sweep import find_sweep_file, load_sweep, project_of
from runmanager.launching.one_run import OneRun, built, need_trainer, two_samples
from runmanager.launching.saved import Saved, find_saved
from runmanager.launching.sweep import Sweep, SweepError, cannot
from runmanager.parameters import encode, identity
from runmanager.space.grid import RunBuilder
from runmanager.tracking.files import replace_text
from runmanager.tracking.plan import versions
from runmanager.tracking.rows import metrics_to_json
from runmanager.tracking.run_dir import SweepDir, find_sweep

if TYPE_CHECKING:
    from torch.nn import Module


@cannot("be exported")
def export_model(
    sweep: str | Path, number: int | None = None, *, epoch: str | None = None, output: str | Path | None = None
) -> int:
    """Writes a trained network: FILE.pt, its state dict; FILE.pt2, a program of torch.export; FILE.pt.json, about both.

    Of a run that averages its weights it is the average, as soon as there is one; FILE.pt.json says which weights they are. Of a
    run that a function of the user's own has trained, it is what was saved as `network`, and there is no program.

    Args:
        sweep: the path or the name of a sweep file, or the name of a sweep that was tracked by hand.
        number: which run; by default the best.
        epoch: `best` or `last`; by default the best where the sweep has an objective.
        output: FILE, with or without its ending; by default results/<sweep>-run<number>.

    Returns:
        0; 1 where torch.export cannot make a program of the network.

    Raises:
        SweepError: there is no such run, or it has no such state.
        CheckpointError: the state cannot be read.
        TrainerError: the run is built from other parts than those whose state was saved.
        StorageError: a file cannot be written.
    """
    loaded, sweep_dir = _open(sweep)
    saved = find_saved(sweep_dir, number, epoch)
    stem = _stem(output, sweep_dir.epochs_csv.with_name(f"{sweep_dir.name}-run{saved.run.number}"))
    print(saved.title)
    if loaded is None or loaded.trainer is None:
        return _export_state(saved, stem)
    with restored(loaded, saved) as found:
        _say_weights(found)
        return _export(saved, found, stem)


def _open(sweep: str | Path) -> tuple[Sweep | None, SweepDir]:
    """The sweep file's sweep, and the folder of its runs; of one that was tracked by hand there is the folder alone."""
    name = Path(sweep).stem if str(sweep).endswith(".py") else str(sweep)
    try:
        by_name = find_sweep(name)
    except FileNotFoundError as error:
        missing = [str(error)]
    else:
        if "grid" not in by_name.read_plan():
            return None, by_name
        missing = []
    try:
        file = find_sweep_file(sweep)
    except SweepError as error:
        raise SweepError(error.name, [*error.faults, *missing]) from error
    loaded = load_sweep(file)
    return loaded, _runs_of(loaded, file)


def _runs_of(sweep: Sweep, file: Path) -> SweepDir:
    """The folder of a sweep's runs.

    Raises:
        SweepError: none was launched.
    """
    try:
        return find_sweep(str(sweep.name), project_of(file))
    except FileNotFoundError:
        raise SweepError(sweep.name, [f"it has no runs; train them with `runmanager launch {file.stem}`"]) from None


def _stem(output: str | Path | None, default: Path) -> Path:
    path = Path(output) if output is not None else default
    return path.with_suffix("") if path.suffix in (".pt", ".pt2") else path


class Restored(NamedTuple):
    """The network of a run as it was when its state was saved, in eval mode, and what belongs to it."""

    network: "Module"
    splits: Any  # the run's data
    weights: str  # 'trained', 'ema' or 'swa'
    average: str | None  # that the run keeps, which may not have begun by then


@contextmanager
def restored(sweep: Sweep, saved: Saved) -> Iterator[Restored]:
    """The network of a run as it was when its state was saved: with averaged weights, where there was an average by then.

    Raises:
        TrainerError: the run is built from other parts now.
    """
    import torch

    from runmanager.training.checkpoints import TrainingState

    one = _as_one_run(sweep, saved)
    with built(one, with_start=False) as (parts, splits):
        TrainingState(parts, torch.Generator(), splits).restore(saved.state())
        average = parts.recipe.average
        kind = None if average is None else average.kind
        if average is None or average.network is None:
            yield Restored(parts.network.eval(), splits, "trained", kind)
        else:
            yield Restored(average.network.eval(), splits, average.kind, kind)


def _say_weights(found: Restored) -> None:
    """Says which weights they are, where there is a choice."""
    if found.weights != "trained":
        print(f"the average of its weights ({found.weights})")
    elif found.average:
        print(f"the trained weights: their average ({found.average}) had not begun")


def _as_one_run(sweep: Sweep, saved: Saved) -> OneRun:
    """The run as the grid has it, where it is in there: a class is more than its name, which the journal has."""
    ids = {identity(run._asdict())[:12]: run for run in sweep.runs()}
    run = ids.get(saved.run.folder[-12:])
    if run is None:
        (run,) = RunBuilder.get_runs({name: [value] for name, value in saved.run.params.items()})
    return OneRun(sweep, need_trainer(sweep), saved.sweep_dir.root, run, saved.run.number)


def _export_state(saved: Saved, stem: Path) -> int:
    """Of a loop by hand: what it saved as its network."""
    from torch import Tensor

    from runmanager.training.export import write_state

    content = saved.state()
    state = content.get("network")
    if not isinstance(state, Mapping) or not all(isinstance(one, Tensor) for one in state.values()):
        raise SweepError(
            saved.history.name,
            [
                f"run {saved.run.number} has saved {', '.join(content) or 'nothing'}, and no state dict as 'network'; "
                "write end_epoch(checkpoint={'network': network.state_dict(), ...})"
            ],
        )
    file = _with(stem, ".pt")
    write_state(state, file)
    _write_about(saved, stem, {"files": [file.name]})
    print(f"{file}\nthere is no program of torch.export: only a Trainer's network is known here")
    return 0


def _export(saved: Saved, found: Restored, stem: Path) -> int:
    from runmanager.training.export import NotExportable, write_program, write_state

    network, splits = found.network, found.splits
    state_file, program_file = _with(stem, ".pt"), _with(stem, ".pt2")
    inputs = two_samples(splits)
    write_state(network.state_dict(), state_file)
    print(state_file)
    fault = None
    try:
        write_program(network, inputs, program_file)
        print(program_file)
    except NotExportable as reason:
        fault = str(reason)
        program_file.unlink(missing_ok=True)  # of an earlier export, of other weights
        print(f"{program_file} is not written, since torch.export cannot follow the network: {fault}", file=sys.stderr)
    about = {
        "files": [state_file.name, *([] if fault else [program_file.name])],
        "network": type(network).__name__,
        "weights": found.weights,
        "inputs": {"shape": ["N", *inputs.shape[1:]], "dtype": str(inputs.dtype).removeprefix("torch.")},
        "classes": list(splits.classes) if splits.classes else None,
        "normalization": splits.normalization._asdict() if splits.normalization else None,
    }
    _write_about(saved, stem, about)
    return 1 if fault else 0


def _with(stem: Path, ending: str) -> Path:
    return stem.with_name(stem.name + ending)


def _write_about(saved: Saved, stem: Path, about: Mapping[str, Any]) -> None:
    """Writes what belongs to the weights: which run and epoch they are of, what they reached, what they have to be given."""
    whole = {
        "sweep": saved.history.name,
        "run": saved.run.number,
        "params": {name: encode(value) for name, value in saved.run.params.items()},
        "epoch": saved.epoch,
        "is": saved.which,
        "objective": saved.history.objective,
        "metrics": metrics_to_json(dict(saved.metrics)),
        **about,
        "versions": versions(),
    }
    file = _with(stem, ".pt.json")
    replace_text(file, json.dumps(whole, indent=1, allow_nan=False) + "\n")
    print(file)


@cannot("give features")
def features(
    sweep: str | Path,
    number: int | None = None,
    *,
    layer: str | None = None,
    split: str = "validation",
    epoch: str | None = None,
    output: str | Path | None = None,
) -> None:
    """Writes what a layer of a trained network, or of its average, makes of each sample into an .npz file.

    Args:
        sweep: the path or the name of a sweep file.
        number: which run; by default the best.
        layer: the layer's name, as `runmanager summary` shows it; has to be given, and the message without it lists the layers.
        split: `validation` or `train`.
        epoch: `best` or `last`; by default the best where the sweep has an objective.
        output: the file; by default results/<sweep>-run<number>-<layer>-<split>.npz.

    Raises:
        SweepError: there is no such run, state or split, no layer is given, or the sweep has no Trainer.
        TrainerError: there is no such layer.
    """
    from torch.utils.data import DataLoader

    from runmanager.training.features import layer_names, write_features

    file = find_sweep_file(sweep)
    loaded = load_sweep(file)
    trainer = need_trainer(loaded)
    saved = find_saved(_runs_of(loaded, file), number, epoch)
    with restored(loaded, saved) as found:
        if layer is None:
            raise SweepError(loaded.name, [f"no layer is given; add --layer, one of {layer_names(found.network)}"])
        splits = found.splits
        samples = splits.validation if split == "validation" else splits.train
        if samples is None:
            raise SweepError(loaded.name, ["it has no validation data; use --split train"])
        batch_size = trainer.setting("batch_size", _as_one_run(loaded, saved).run)
        name = f"{loaded.name}-run{saved.run.number}-{layer.replace('/', '-')}-{split}.npz"
        default = saved.sweep_dir.epochs_csv.with_name(name)
        target = Path(output) if output is not None else default
        shape = write_features(found.network, layer, DataLoader(samples, batch_size=batch_size), target)
    print(saved.title)
    _say_weights(found)
    print(f"{layer}: features {list(shape)} of the {split} split\n{target}")
