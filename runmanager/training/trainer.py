"""The Trainer: a network, data, an optimizer and a loss in ordinary torch terms, and the loop that drives them."""

import copy
import inspect
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch.nn import Module

from runmanager.data.sources import splits_of
from runmanager.data.splits import Splits
from runmanager.tracking.faults import one_line
from runmanager.tracking.manager import RunManager
from runmanager.training.alone import Alone
from runmanager.training.building import Building
from runmanager.training.check import exercise, faults_of
from runmanager.training.loaded import LoadedData
from runmanager.training.loaders import (
    LoadedBatches,
    NotResident,
    ResidentBatches,
    ResidentSplits,
    resident_splits,
)
from runmanager.training.parts import Parts, is_function_of_run, is_setting_of_run, num_required, of_run
from runmanager.training.seeding import seeded
from runmanager.training.settings import (
    SETTINGS,
    SWEPT_PARTS,
    TrainerError,
    as_plain,
    choose_device,
    default_of,
    is_plain,
    nowhere,
    setting_fault,
)
from runmanager.training.unused import meant

_NAMED = ("network", "data", "optimizer", "loss", "scheduler")

if TYPE_CHECKING:
    from runmanager.training.distributed_team import StartRanks


class Trainer:
    """Trains a run of the sweep. Network, data, loss and settings are values, or functions of the run that return one.

    A setting that stands in the grid is read from the run: a grid with `batch_size` needs no `batch_size=` here.
    """

    def __init__(
        self,
        network: Any = None,
        data: Any = None,
        optimizer: Any = None,
        loss: Any = None,
        *,
        scheduler: Any = None,
        epochs: Any = None,
        batch_size: Any = None,
        shuffle: Any = None,
        validation: Any = None,
        num_workers: Any = None,
        device: Any = None,
        data_root: str | Path | None = None,
        normalize: Any = None,
        sampling: Any = None,
        init: Any = None,
        head: Any = None,
        start_from: Any = None,
        start_strict: Any = None,
        freeze: Any = None,
        unfreeze: Any = None,
        param_groups: Any = None,
        no_decay: Any = None,
        schedule_every: Any = None,
        warmup: Any = None,
        class_weights: Any = None,
        mixup: Any = None,
        cutmix: Any = None,
        l1: Any = None,
        l2: Any = None,
        clip_norm: Any = None,
        clip_value: Any = None,
        metrics: Any = None,
        log_every: Any = None,
        show_predictions: Any = None,
        monitor: Any = None,
        patience: Any = None,
        average: Any = None,
        ema_decay: Any = None,
        swa_start: Any = None,
        amp: Any = None,
        channels_last: Any = None,
        compile: Any = None,
        accumulate: Any = None,
        cudnn_benchmark: Any = None,
        deterministic: Any = None,
        devices: Any = None,
        parallel: Any = None,
        sync_batchnorm: Any = None,
        profile: Any = None,
    ) -> None:
        """Nothing is built yet.

        A name stands for a class or a function, whose arguments are the hyperparameters that bear their names; others are fixed
        by functools.partial. All that follows `loss` may be a function of the run, and is off where it is None.

        Args:
            network: a Module class, a function of the run that returns a Module, the name of a torchvision model, or a Module
                that each run gets a copy of.
            data: a known name (`cifar10`, `fashion_mnist`, `fashion_mnist_sample`, `image_folder`, `mnist`), a Dataset, a (train,
                validation[, test]) tuple of them, an (inputs, targets) pair of tensors, or a function of the run that returns one
                of these. A function is called once for all runs in which it reads the same values.
            optimizer: one of torch.optim by name or class, or a function of the run and its network.
            loss: one of torch.nn or torch.nn.functional by name, a function of predictions and targets, or a function of the run
                that returns one.
            scheduler: one of torch.optim.lr_scheduler by name (`cosine`, `step`, `plateau`, `one_cycle`, ...) or class, or a
                function of the run and its optimizer.
            epochs: how many times the training data is gone through.
            batch_size: samples per step.
            shuffle: whether the training order is drawn anew in each epoch; by default it is.
            validation: the share of the training data that is held out for val_loss and val_accuracy, by default 0.1; the cut
                is the same for all runs of a sweep, and each class gives its share.
            num_workers: how many processes load the batches of data that cannot be resident, by default 0: this one does.
            device: 'cuda', 'mps', 'cpu' or a torch.device; by default the first of these that there is.
            data_root: where to look for a known data set first.
            normalize: 'measured', or (means, stds) of the channels: inputs less the mean, by the deviation.
            sampling: 'balanced' draws each class equally often, with replacement.
            init: an initialiser of torch.nn.init by name for all weights, or {kind of layer or pattern: initialiser}.
            head: the number of outputs of a new last layer; 'classes' for as many as the data has.
            start_from: another run ('sweep/3', 'sweep/best'), or a file of weights, to start from.
            start_strict: whether all of them have to fit, by default True; with False what fits is taken.
            freeze: patterns of the names of parameters that are not trained.
            unfreeze: {epoch: patterns} of frozen ones that are trained from that epoch on, counted from 1.
            param_groups: {pattern of names: arguments of the optimizer, or lr_scale}.
            no_decay: whether biases and norms go without weight decay.
            schedule_every: 'epoch' or 'step': when the schedule goes on; by default what is usual for it.
            warmup: how many epochs, or steps, the learning rate rises in.
            class_weights: 'balanced', or a weight for each class, for the loss.
            mixup, cutmix: the alpha of the beta distribution by which pairs of samples are mixed.
            l1, l2: the weight of the sum of all parameters' sizes, or squares, in what is minimised.
            clip_norm: the most that the norm of a run's whole gradient may be; a larger one is scaled down to it.
            clip_value: the most that each number of the gradient may be.
            metrics: names ('f1', 'kappa', 'confusion', ...), torchmetrics objects or functions of (preds, labels), which are
                measured on the validation data.
            log_every: steps from one running loss to the next.
            show_predictions: how many validation samples a picture shows with their predictions and labels.
            monitor: the metric that `patience` and a plateau go by, by default val_loss; ('val_f1', 'max') says which way.
            patience: a run stops when so many epochs brought nothing better.
            average: 'ema' or 'swa': validates an average of the weights, too.
            ema_decay: of an exponential average, by default 0.999.
            swa_start: the first epoch of a stochastic average, by default after three quarters.
            amp: 'fp16' or 'bf16', mixed precision.
            channels_last: whether pictures lie in memory by pixels.
            compile: True, or a mode of torch.compile.
            accumulate: how many pieces a batch is gone through in, so that it takes less memory.
            cudnn_benchmark: whether cuDNN tries which of its ways is fastest.
            deterministic: the strict mode: what cannot be deterministic is a fault before epoch 1.
            devices: how many GPUs, or processes of a CPU, train one run.
            parallel: 'ddp' for DistributedDataParallel, or 'dp' for DataParallel.
            sync_batchnorm: whether the devices of a run share the statistics of BatchNorm.
            profile: how many steps are written as a Chrome trace.
        """
        self.network, self.data, self.optimizer, self.loss, self.scheduler = network, data, optimizer, loss, scheduler
        given = locals()
        self._given = {name: given[name] for name in SETTINGS}
        self.data_root = Path(data_root) if data_root is not None else None
        self._loaded = LoadedData()

    def part(self, name: str, run: Any) -> Any:
        """The network, data, optimizer, loss or scheduler: as given here, or else as it is called in the run.

        Raises:
            TrainerError: it is nowhere, and has to be.
        """
        given = getattr(self, name)
        if given is None and name in run._fields:
            return getattr(run, name)
        if given is None and name != "scheduler":
            raise TrainerError(nowhere(name, run._fields))
        if name in ("optimizer", "scheduler") and inspect.isfunction(given) and num_required(given) == 1:
            return _chosen_by(name, given, run)
        return given

    def with_epochs(self, epochs: int) -> "Trainer":
        """The same Trainer for another number of epochs."""
        other = copy.copy(self)
        other._given = {**self._given, "epochs": epochs}
        return other

    def given(self, name: str) -> Any:
        """A setting as it was given here: a value, a function of the run, or None."""
        return self._given[name]

    def plain_settings(self) -> dict[str, Any]:
        """What was given here and decides what a run reaches, as far as it is a plain value and not a function."""
        given = {**{name: getattr(self, name) for name in _NAMED}, **self._given}
        given |= {name: default_of(name) for name in ("shuffle", "validation") if given[name] is None}
        beside = ("device", "num_workers", "log_every", "show_predictions", "profile")  # how it is reached, or seen
        return {name: as_plain(value) for name, value in given.items() if name not in beside and is_plain(value)}

    def setting(self, name: str, run: Any) -> Any:
        """What a setting is for a run: as given here, else from the run, else the default.

        Raises:
            TrainerError: it is neither given nor in the grid, or its value makes no sense.
        """
        value = self._given[name]
        if value is None:
            value = getattr(run, name) if name in run._fields else default_of(name, run._fields)
        elif is_setting_of_run(value):
            value = of_run(value, run)
        value = value.item() if getattr(value, "shape", None) == () else value  # a grid may come from numpy
        fault = setting_fault(name, value)
        if fault:
            raise TrainerError(fault)
        return default_of(name) if value is None else value

    def settings_twice(self, names: Iterable[str]) -> list[str]:
        """What is given here although the grid has it, too."""
        given = {**self._given, **{name: getattr(self, name) for name in SWEPT_PARTS}}
        return [name for name in names if given.get(name) is not None]

    def splits(self, run: Any, split_seed: int, project: Path) -> Splits:
        """The data of a run, its validation split cut; as it was when it was loaded, whatever was drawn from it since.

        Raises:
            DataError: the data is nothing that can be trained on.
            DataNotFoundError: a known data set is nowhere.
        """

        def load(run: Any) -> Splits:
            data = self.part("data", run)
            return splits_of(of_run(data, run) if is_function_of_run(data) else data, self.data_root, project)

        settings = {name: self.setting(name, run) for name in ("validation", "normalize")}
        return self._loaded.splits(load, run, project, seed=split_seed, **settings)

    def device(self, run: Any) -> torch.device:
        """Where a run is trained.

        Raises:
            TrainerError: there is no such device here.
        """
        return choose_device(self.setting("device", run))

    def build(
        self, run: Any, splits: Splits, project: Path, *, with_start: bool = True, compiles: bool = True
    ) -> Parts:
        """The run's network on its device, with optimizer, loss and recipe.

        Args:
            run: the run.
            splits: its data.
            project: whose runs it may start from.
            with_start: whether `start_from` is read; not where a saved state takes its place.
            compiles: False where it is built to be looked at, and the compiler's time would be wasted.

        Raises:
            TrainerError: a part is not what it should be.
        """
        return Building(self, run, splits, project, with_start=with_start, compiles=compiles).parts()

    def faults(
        self,
        runs: Sequence[Any],
        split_seed: int,
        project: Path,
        objective: str | None = None,
        *,
        checkpoints: bool = True,
        started: Sequence[bool] = (),
    ) -> list[str]:
        """What would go wrong in these runs, as far as building them tells.

        Args:
            runs: the runs.
            split_seed: decides the validation split.
            project: where a known data set is looked for.
            objective: the metric that has to be there.
            checkpoints: whether the runs' states will be saved.
            started: of each run whether it has a state to go on from, so that it starts from nothing else.
        """
        with self._loaded.left_as_it_was():
            return faults_of(self, runs, objective, split_seed, project, checkpoints, started)

    def starts_from_runs(self, run: Any) -> bool:
        """Whether runs may start from what others have trained."""
        return self._given["start_from"] is not None or "start_from" in run._fields

    def exercise(self, run: Any, split_seed: int, project: Path) -> None:
        """Puts two samples through the run's network, in eval mode and in train mode, to see what it reads of the run."""
        with self._loaded.left_as_it_was():
            exercise(self, run, split_seed, project)

    def meant(self, name: str, run: Any, split_seed: int, project: Path) -> str:
        """The end of the message for a hyperparameter that nothing reads: the name that was perhaps meant."""
        with self._loaded.left_as_it_was(), seeded(0):
            try:
                parts = self.build(
                    run, self.splits(run, split_seed, project), project, with_start=False, compiles=False
                )
            except Exception:  # noqa: BLE001 (it only adds to a message)
                parts = None
            return meant(self, name, run, parts)

    def num_ranks(self, run: Any) -> int:
        """How many processes train a run together."""
        return int(self.setting("devices", run)) if self.setting("parallel", run) == "ddp" else 1

    def train(
        self,
        run: Any,
        manager: RunManager,
        *,
        seed: int,
        split_seed: int,
        project: Path,
        start_ranks: "StartRanks | None" = None,
    ) -> None:
        """Trains a run from its seed, or from where an earlier attempt left it; `manager` has begun it and gets its rows.

        The seed decides the first weights, the order of the batches and whatever draws from torch, numpy or random. The
        generators outside are left as they were. A run that was stopped reaches the same numbers as one that was not.

        Args:
            run: the run.
            manager: its RunManager.
            seed: what its random numbers come from.
            split_seed: decides the validation split.
            project: where a known data set is looked for.
            start_ranks: starts the other processes of a run on several devices.

        Raises:
            TrainerError: the run is built from other parts than those whose state was saved, or needs other processes.
        """
        if self.num_ranks(run) > 1:
            from runmanager.training.distributed import lead, meeting_for

            meeting = meeting_for(self, run)
            lead(self, run, manager, start_ranks, meeting, seed=seed, split_seed=split_seed, project=project)
            return
        splits = self.splits(run, split_seed, project)
        with self.ready(run, splits, seed, project, with_start=not manager.resumes()) as alone:
            alone.train(manager, self.setting("epochs", run))

    @contextmanager
    def ready(self, run: Any, splits: Splits, seed: int, project: Path, *, with_start: bool = True) -> Iterator[Alone]:
        """A run that is to be trained by itself, and inside the `with` the random numbers that are its own.

        Args:
            run: the run.
            splits: its data, or as much of it as it is to see.
            seed: what its random numbers come from.
            project: whose runs it may start from.
            with_start: whether it starts from them, and not from a state of its own.
        """
        with self._loaded.left_as_it_was(), seeded(seed), self.mode(run) as lines:
            parts = self.build(run, splits, project, with_start=with_start)
            parts.notes += lines
            order = torch.Generator().manual_seed(seed)
            batches = self._batches(run, splits, order, seed, parts.device)
            self._loaded.rewind()  # a data set that draws has drawn where its classes were looked for
            alone = Alone(parts, order, splits, batches)
            if (devices := self.setting("devices", run)) > 1 and self.num_ranks(run) == 1:
                from runmanager.training.distributed_network import data_parallel

                alone.stepper.network = data_parallel(parts.network, devices)
                if parts.device.type != "cuda":
                    parts.notes.append(
                        f"parallel='dp': {parts.device.type} is one device, and the run is trained on that"
                    )
            yield alone

    def modes(self, run: Any) -> tuple[bool, bool]:
        """Whether a run is deterministic, and whether cuDNN may try what is fastest.

        Raises:
            TrainerError: it is to be both.
        """
        is_strict, is_benchmark = self.setting("deterministic", run), self.setting("cudnn_benchmark", run)
        if is_strict and is_benchmark:
            raise TrainerError(
                "deterministic=True and cudnn_benchmark=True cannot both be: what was fastest may be another way each time; "
                "leave one of the two out"
            )
        return is_strict, is_benchmark

    @contextmanager
    def mode(self, run: Any) -> Iterator[list[str]]:
        """The strict mode, or cuDNN's benchmarks, where the run asks for one; as it was before, at the end.

        Yields:
            Lines about what the strict mode came too late for.
        """
        is_strict, is_benchmark = self.modes(run)
        if not (is_strict or is_benchmark):
            yield []
            return
        from runmanager.training.recipes.determinism import strict
        from runmanager.training.recipes.precision import cudnn_benchmark

        with cudnn_benchmark(is_benchmark), strict(is_strict) as lines:
            yield lines

    def train_group(
        self,
        runs: Sequence[Any],
        manager: RunManager,
        *,
        numbers: Sequence[int],
        seeds: Sequence[int],
        arithmetic: str,
        split_seed: int,
        project: Path,
    ) -> None:
        """Trains runs together, each as `train` does it alone to within rounding; `manager` has begun them as a group.

        Raises:
            GroupBroken: they cannot be trained together, or not so many of them.
        """
        from runmanager.training.group import Group, GroupBroken

        try:
            first, *others = [self.splits(run, split_seed, project) for run in runs]
        except Exception as error:
            raise GroupBroken(1, f"the data of a run cannot be had ({one_line(error)[:200]})") from error
        if any(one is not first for one in others):
            raise GroupBroken(1, "the runs of the group have different data")
        with self._loaded.left_as_it_was(), self.mode(runs[0]):  # all have the same
            Group(self, manager, first, project, arithmetic).train(runs, numbers, seeds)

    def not_resident(self, run: Any, splits: Splits) -> str | None:
        """Why a run's data cannot stay on its device, and is read by a DataLoader instead; None where it can."""
        try:
            self.resident(splits, self.device(run))
        except NotResident as reason:
            return str(reason)
        return None

    def resident(self, splits: Splits, device: torch.device) -> ResidentSplits:
        """The data on a device, once for all runs of this process.

        Raises:
            NotResident: why it cannot be there.
        """
        try:
            return resident_splits(splits, device)
        finally:
            self._loaded.rewind()  # a data set that draws has drawn while it was found out

    def _batches(
        self, run: Any, splits: Splits, order: torch.Generator, seed: int, device: torch.device
    ) -> ResidentBatches | LoadedBatches:
        batch_size, shuffle, sampling = (self.setting(name, run) for name in ("batch_size", "shuffle", "sampling"))
        try:
            data = self.resident(splits, device)
        except NotResident:
            num_workers = self.setting("num_workers", run)
            settings = {"batch_size": batch_size, "shuffle": shuffle, "sampling": sampling, "num_workers": num_workers}
            return LoadedBatches(splits, order, seed, device, **settings)
        return ResidentBatches(data, [order], batch_size=batch_size, shuffles=[shuffle], samplings=[sampling])


def _chosen_by(part: str, choose: Callable[[Any], Any], run: Any) -> Any:
    """What a function of the run alone says that the optimizer or the scheduler is.

    Raises:
        TrainerError: it takes the run for a network, or for an optimizer.
    """
    try:
        return choose(run)
    except (AttributeError, TypeError) as error:
        if not hasattr(Module, getattr(error, "name", None) or "") and "is not an Optimizer" not in str(error):
            raise
        second = "network" if part == "optimizer" else "optimizer"
        raise TrainerError(
            f"{part}: a function of one argument gets the run, and this one takes it for the {second} ({error}); "
            f"write {part}=lambda run, {second}: ..."
        ) from error
