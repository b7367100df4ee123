"""How the parts of a run are built from what its Trainer was given. What is off imports nothing."""

import math
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import Module
from torch.optim import Optimizer
from torch.utils.data import IterableDataset

from runmanager.data.splits import DataError, Splits
from runmanager.training.parts import Parts
from runmanager.training.recipe import Recipe
from runmanager.training.settings import TrainerError, choose_device
from runmanager.training.steppers import Loss

if TYPE_CHECKING:
    from runmanager.training.recipes.averages import Average
    from runmanager.training.recipes.clipping import Clip
    from runmanager.training.recipes.freezing import Unfreezing
    from runmanager.training.recipes.metrics import Metrics
    from runmanager.training.recipes.mixing import Mixing
    from runmanager.training.recipes.monitor import Monitor
    from runmanager.training.recipes.patience import Patience
    from runmanager.training.recipes.penalties import Penalty
    from runmanager.training.recipes.precision import Precision
    from runmanager.training.recipes.scheduling import Schedule
    from runmanager.training.trainer import Trainer


class Building:
    """Builds the parts of a run, one after another."""

    def __init__(
        self,
        trainer: "Trainer",
        run: Any,
        splits: Splits,
        project: Path,
        *,
        with_start: bool = True,
        compiles: bool = True,
    ) -> None:
        """Nothing is built yet.

        Args:
            trainer: what it was given decides.
            run: the run.
            splits: its data.
            project: whose runs it may start from.
            with_start: whether `start_from` is read; not where a saved state takes its place.
            compiles: whether a network that is to be compiled is; that takes its time with the first batches.
        """
        self._trainer, self._run, self._splits, self._project = trainer, run, splits, project
        self._with_start, self._compiles = with_start, compiles
        self.notes: list[str] = []

    def _setting(self, name: str) -> Any:
        try:
            return self._trainer.setting(name, self._run)
        except Exception as error:
            error.__dict__["setting"] = name  # whoever asks for it, the fault is the setting's
            raise

    @cached_property
    def device(self) -> torch.device:
        """Where the run is trained."""
        return choose_device(self._setting("device"))

    def parts(self) -> Parts:
        """All of them.

        Raises:
            TrainerError: a part is not what it should be.
        """
        network = self.network()
        optimizer = self.optimizer(network)
        loss = self.loss(network)
        return Parts(network, optimizer, loss, self.recipe(network, optimizer), self.notes)

    def network(self) -> Module:
        """The run's network on its device: with its head, its first weights, and what of it is frozen."""
        network = self.bare_network()
        for change in self.changes().values():
            change(network)
        return self.placed(network)

    def bare_network(self) -> Module:
        """The run's network as it was given."""
        from runmanager.training.recipes.networks import build_network

        return build_network(self._trainer.part("network", self._run), self._run)

    def changes(self) -> dict[str, Callable[[Module], None]]:
        """What is done to the bare network, one after another."""
        return {
            "head": self._replace_head,
            "init": self._initialise,
            "start_from": self._start,
            "freeze": self._freeze,
        }

    def placed(self, network: Module) -> Module:
        """The network on its device, as it is trained there."""
        return self._fast(network.to(self.device))

    def _replace_head(self, network: Module) -> None:
        head = self._setting("head")
        if head is None:
            return
        from runmanager.training.recipes.networks import replace_head

        num_classes = self._num_classes("head='classes'") if head == "classes" else head
        name = replace_head(network, num_classes)
        self.notes.append(f"a new head: {name} with {num_classes} outputs")

    def _initialise(self, network: Module) -> None:
        init = self._setting("init")
        if init is None:
            return
        from runmanager.training.recipes.initialisation import initialise, told

        self.notes.append(told(initialise(network, init, self._run)))

    def _start(self, network: Module) -> None:
        start_from, is_strict = self._setting("start_from"), self._setting("start_strict")
        if start_from is None or not self._with_start:
            return
        from runmanager.training.recipes.transfer import load_start

        self.notes.append(str(load_start(network, start_from, strict=is_strict, project=self._project)))

    def _freeze(self, network: Module) -> None:
        patterns = self._setting("freeze")
        if patterns is None:
            return
        from runmanager.training.recipes.freezing import check_trainable, freeze, in_short

        names, unfreezing = freeze(network, patterns), self._unfreezing(network)
        check_trainable(network, unfreezing)
        thawed = unfreezing.due if unfreezing else {}
        until = [f"; trained from epoch {epoch} on: {in_short(network, due)}" for epoch, due in thawed.items()]
        self.notes.append(f"frozen: {in_short(network, names)}{''.join(until)}")

    def _note(self, text: str | None) -> None:
        if text is not None:
            self.notes.append(text)

    def _fast(self, network: Module) -> Module:
        if self._setting("channels_last"):
            from runmanager.training.recipes.precision import channels_last

            self._note(channels_last(network))
        how = self._setting("compile")
        if how is not False:
            from runmanager.training.recipes.precision import check_compiler, compiled

            (compiled if self._compiles else check_compiler)(network, how, self.device)
        return network

    def loss(self, network: Module | None = None) -> Loss:
        """The loss of a network's predictions and targets; a Module is on the run's device."""
        from runmanager.training.recipes.losses import build_loss, weights_dtype

        weights = self._setting("class_weights")
        number = None if weights is None else self._splits.num_classes
        given = self._trainer.part("loss", self._run)
        made = build_loss(
            given,
            self._run,
            self.device,
            class_weights=weights,
            targets=partial(self._train_targets, "class_weights='balanced'"),
            num_classes=number,
            dtype=None if weights is None or network is None else weights_dtype(network),
        )
        self._refuse_sum(made)
        return made

    def _refuse_sum(self, loss: Loss) -> None:
        """Of a sum, shares of the pieces of a batch do not add up to the whole."""
        said = {getattr(loss, "reduction", None), getattr(loss, "keywords", {}).get("reduction")}
        if "sum" in said and self._setting("accumulate") > 1:
            raise TrainerError(
                "accumulate needs a loss that is the mean over its samples, and this one is their sum; leave out reduction='sum', "
                "or accumulate"
            )

    def check_sampling(self) -> None:
        """Whether the samples can be drawn as they are to be.

        Raises:
            TrainerError: their targets are no classes, or a stream is to be shuffled.
        """
        if isinstance(self._splits.train, IterableDataset) and self._setting("shuffle"):
            raise TrainerError(
                "shuffle=True: the training data is a stream, which gives its samples in an order of its own; write shuffle=False"
            )
        if self._setting("sampling") is not None:
            from runmanager.data.balance import class_shares

            class_shares(self._train_targets("sampling='balanced'"))

    def _train_targets(self, what: str) -> Tensor:
        try:
            return self._splits.train_targets
        except DataError as error:
            raise TrainerError(f"{what}: {error}") from error

    def optimizer(self, network: Module) -> Optimizer:
        """The optimizer of the network's parameters."""
        from runmanager.training.recipes.optimizers import build_optimizer

        groups, no_decay = self._setting("param_groups"), self._setting("no_decay")
        given = self._trainer.part("optimizer", self._run)
        return build_optimizer(given, self._run, network, param_groups=groups, no_decay=no_decay)

    def recipe(self, network: Module, optimizer: Optimizer) -> Recipe:
        """What the run does beside the plain step."""
        parts = {name: make() for name, make in self.recipe_parts(network, optimizer).items()}
        return self.recipe_of(parts)

    def recipe_parts(self, network: Module, optimizer: Optimizer) -> dict[str, Callable[[], Any]]:
        """What makes each part of the recipe that is more than a setting; it gives None where the part is off."""
        return {
            "schedule": partial(self._schedule, optimizer),
            "mixing": self._mixing,
            "precision": self._precision,
            "penalty": self._penalty,
            "clip": self._clip,
            "average": partial(self._average, network),
            "unfreezing": partial(self._unfreezing, network),
            "patience": self._patience,
            "metrics": self._metrics,
            "accumulate": self._accumulate,
            "log_every": self._log_every,
            "is_deterministic": self._deterministic,
            "is_benchmarked": self._benchmarked,
        }

    def recipe_of(self, parts: Mapping[str, Any]) -> Recipe:
        """The recipe with these parts, and with the settings."""
        return Recipe(
            **parts,
            channels_last=self._setting("channels_last"),
            is_spread=self._setting("devices") > 1,
            is_compiled=bool(self._setting("compile")),
            num_steps=self._num_steps or 0,
            num_shown=self._setting("show_predictions"),
            profile_steps=self._setting("profile"),
        )

    @cached_property
    def _num_epochs(self) -> int:
        return int(self._setting("epochs"))

    @cached_property
    def _num_steps(self) -> int | None:
        """Of an epoch; None where the data is a stream that does not tell how long it is."""
        size = getattr(self._splits.train, "__len__", None)
        return None if size is None else math.ceil(size() / int(self._setting("batch_size")))

    @cached_property
    def monitor(self) -> "Monitor":
        """The metric that schedules and early stopping go by."""
        from runmanager.training.recipes.monitor import parse

        given = self._setting("monitor")
        return parse(
            given if given is not None else "val_loss" if self._splits.validation is not None else "loss",
            self._measured,
        )

    def _measured(self) -> list[str]:
        """The metrics that there may be, as far as their names are known before a batch."""
        names = ["loss", "accuracy", "val_loss", "val_accuracy"]
        with suppress(TrainerError):
            metrics = self._metrics()
            names += [] if metrics is None else [f"val_{name}" for name in metrics.names]
        return names

    def _schedule(self, optimizer: Optimizer) -> "Schedule | None":
        given, warmup = self._trainer.part("scheduler", self._run), self._setting("warmup")
        if given is None and not warmup:
            return None
        from runmanager.training.recipes.schedules import build_schedule

        made = build_schedule(
            given,
            self._run,
            optimizer,
            every=self._setting("schedule_every"),
            warmup=warmup,
            num_epochs=self._num_epochs,
            num_steps=self._num_steps or 1,
            monitor=self.monitor.name,
            mode=self.monitor.mode,
        )
        if made is not None and made.every == "step" and self._num_steps is None:
            raise TrainerError(
                "the schedule goes by steps, and the data is a stream that does not tell how many an epoch has; let it go by "
                "epochs (schedule_every='epoch'), or give data with a __len__"
            )
        return made

    def _mixing(self) -> "Mixing | None":
        mixup, cutmix = self._setting("mixup"), self._setting("cutmix")
        if not (mixup or cutmix):
            return None
        from runmanager.training.recipes.mixing import Mixing

        return Mixing(self._num_classes("mixup and cutmix"), mixup or None, cutmix or None)

    def _num_classes(self, what: str) -> int:
        number = self._splits.num_classes
        if number is None and isinstance(self._splits.train, IterableDataset):
            raise TrainerError(
                f"{what}: a stream does not tell how many classes it has; name them, data=Splits(stream, classes=(...)), or leave "
                "it out"
            )
        if number is None:
            raise TrainerError(f"{what}: the targets of the data are no classes; leave it out")
        return number

    def _precision(self) -> "Precision | None":
        amp = self._setting("amp")
        if amp is None:
            return None
        from runmanager.training.recipes.precision import precision_of

        return precision_of(amp, self.device)

    def _accumulate(self) -> int:
        pieces, size = int(self._setting("accumulate")), int(self._setting("batch_size"))
        if pieces > size:
            raise TrainerError(
                f"accumulate={pieces} is more pieces than a batch of {size} has samples; choose {size} or less"
            )
        return pieces

    def _deterministic(self) -> bool:
        is_strict, _ = self._trainer.modes(self._run)
        if is_strict:
            from runmanager.training.recipes.determinism import not_seen

            self.notes += not_seen(self.device)
        return is_strict

    def _benchmarked(self) -> bool:
        _, is_benchmark = self._trainer.modes(self._run)
        if is_benchmark and self.device.type != "cuda":
            self.notes.append(f"cudnn_benchmark does nothing on {self.device.type}")
        return is_benchmark

    def _penalty(self) -> "Penalty | None":
        l1, l2 = self._setting("l1"), self._setting("l2")
        if not (l1 or l2):
            return None
        from runmanager.training.recipes.penalties import Penalty

        return Penalty(l1, l2)

    def _clip(self) -> "Clip | None":
        norm, value = self._setting("clip_norm"), self._setting("clip_value")
        if norm is None and value is None:
            return None
        from runmanager.training.recipes.clipping import Clip

        return Clip(norm=norm, value=value)

    def _average(self, network: Module) -> "Average | None":
        kind = self._setting("average")
        if kind is None:
            return None
        from runmanager.training.recipes.averages import Average

        start = self._setting("swa_start") or math.ceil(0.75 * self._num_epochs)
        if kind == "swa" and start > self._num_epochs:
            raise TrainerError(
                f"swa_start={start}, but the run has {self._num_epochs} epochs, so that nothing would be averaged; give one of "
                f"them, or leave it out for epoch {math.ceil(0.75 * self._num_epochs)}"
            )
        return Average(kind, network, decay=self._setting("ema_decay"), start=start)

    def _unfreezing(self, network: Module) -> "Unfreezing | None":
        patterns = self._setting("unfreeze")
        if patterns is None:
            return None
        from runmanager.training.recipes.freezing import Unfreezing

        made = Unfreezing(network, patterns)
        late = [epoch for epoch in made.due if epoch > self._num_epochs]
        if late:
            raise TrainerError(
                f"unfreeze has epoch {' and '.join(map(str, late))}, but the run ends with epoch {self._num_epochs}, so that what "
                f"is due then would stay frozen; leave it out, give an earlier epoch, or set epochs={late[-1]}"
            )
        return made

    def _log_every(self) -> int | None:
        every: int | None = self._setting("log_every")
        if every is not None and self._num_steps is None:
            raise TrainerError(
                f"log_every={every} counts steps over the whole run, and the data is a stream that does not tell how many an epoch "
                "has; leave it out, or give data with a __len__"
            )
        return every

    def _patience(self) -> "Patience | None":
        epochs = self._setting("patience")
        if epochs is None:
            return None
        from runmanager.training.recipes.patience import Patience

        return Patience(epochs, self.monitor)

    def _metrics(self) -> "Metrics | None":
        specs = self._setting("metrics")
        if specs is None or (isinstance(specs, (list, tuple)) and not specs):
            return None
        from runmanager.training.recipes.metrics import build_metrics

        names = self._splits.classes  # without names the network's outputs tell how many classes there are
        return build_metrics(
            specs, classes=names, num_classes=None if names is None else len(names), device=self.device
        )
