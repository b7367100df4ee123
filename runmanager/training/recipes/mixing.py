"""Mixup and cutmix: each batch is mixed with itself, and its targets become shares of classes."""

import math
from typing import Any

from torch import Tensor

from runmanager.data.splits import DataError
from runmanager.tracking.faults import is_out_of_memory
from runmanager.training.settings import TrainerError, other_number
from runmanager.training.steppers import Loss


class Mixing:
    """Mixes training batches by torchvision's v2.MixUp or v2.CutMix, or by one of both at random.

    Random numbers come from torch's global generator on the CPU and from nowhere else, so that the run's seed and its
    checkpoint cover them, and nothing waits for the device.

    Sources: Zhang et al. 2018, arXiv:1710.09412; Yun et al. 2019, arXiv:1905.04899.
    """

    def __init__(self, num_classes: int, mixup: float | None = None, cutmix: float | None = None) -> None:
        """Takes C and alpha of the Beta(alpha, alpha) that each method's share is drawn from; None leaves a method out.

        Raises:
            TrainerError: an alpha is no number above 0, or none is given.
        """
        self.num_classes = num_classes
        self._has_cutmix = cutmix is not None
        self._setting = ", ".join(
            f"{name}={one}" for name, one in (("mixup", mixup), ("cutmix", cutmix)) if one is not None
        )
        self._mix = _transform(num_classes, _alpha("mixup", mixup), _alpha("cutmix", cutmix))
        self._is_first = True

    def __call__(self, inputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Mixed inputs [N, ...] and the shares of the classes [N, C].

        Where they are on the CPU, all targets are looked at; elsewhere only those of the first batch, since looking waits for
        the device.

        Raises:
            TrainerError: the inputs or the targets cannot be mixed.
            DataError: a target is outside 0 to C - 1.
        """
        self._refuse_shapes(inputs, targets)
        if self._is_first or targets.device.type == "cpu":
            _refuse_outside(inputs, targets, self.num_classes)
            self._is_first = False
        pictures = inputs if inputs.ndim == 4 else inputs.reshape(len(inputs), 1, 1, -1)
        mixed, shares = self._mix(pictures, targets.long())
        return mixed.view(inputs.shape), shares

    def hard(self, shares: Tensor) -> Tensor:
        """The class with the largest share, int64 [N] of [N, C]; of equal ones the first. Training accuracy counts these."""
        return shares.argmax(1)

    def soft_loss(self, loss: Loss) -> Loss:
        """The loss for mixed batches: the same, but one that takes no shares of classes is refused at its first batch."""
        return _SoftLoss(loss, self._setting)

    def _refuse_shapes(self, inputs: Tensor, targets: Tensor) -> None:
        batch = f"the batch has inputs {_text(inputs)} and targets {_text(targets)}"
        if targets.is_floating_point() or targets.is_complex() or targets.ndim != 1 or len(targets) != len(inputs):
            raise TrainerError(f"{self._setting} mixes classes, one whole number [N] for each sample; {batch}")
        if not inputs.is_floating_point():
            raise TrainerError(f"{self._setting} mixes inputs of floats; {batch}; convert them before")
        if self._has_cutmix and inputs.ndim != 4:
            raise TrainerError(f"{self._setting}: cutmix cuts pictures [N, C, H, W]; {batch}; use mixup alone")


class _SoftLoss:
    """A loss that has not yet been seen to take shares of classes."""

    def __init__(self, loss: Loss, setting: str) -> None:
        self._loss, self._setting, self._is_first = loss, setting, True

    def __call__(self, preds: Tensor, targets: Tensor) -> Tensor:
        try:
            value = self._loss(preds, targets)
        except Exception as error:
            if not self._is_first or is_out_of_memory(error):
                raise
            has_others = preds.ndim == 2 and preds.shape[1] != targets.shape[1]
            remedy = other_number(targets.shape[1], preds.shape[1]) if has_others else "use CrossEntropyLoss"
            raise TrainerError(
                f"{self._setting} gives targets {_text(targets)}, the shares of the classes, for predictions {_text(preds)}; "
                f"the loss does not take them ({type(error).__name__}: {error!s:.200}); {remedy}"
            ) from error
        self._is_first = False
        return value


def _transform(num_classes: int, mixup: float | None, cutmix: float | None) -> Any:
    from torchvision.transforms import v2

    ways = [] if mixup is None else [v2.MixUp(alpha=mixup, num_classes=num_classes)]
    ways += [] if cutmix is None else [v2.CutMix(alpha=cutmix, num_classes=num_classes)]
    if not ways:
        raise TrainerError("neither mixup nor cutmix is given; write mixup=0.2")
    return ways[0] if len(ways) == 1 else v2.RandomChoice(ways)


def _alpha(name: str, value: Any) -> float | None:
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if value is not None and not (is_number and 0 < value < math.inf):
        raise TrainerError(
            f"{name}={value!r} is no alpha of a Beta distribution; give a number above 0, or None for off"
        )
    return None if value is None else float(value)


def _refuse_outside(inputs: Tensor, targets: Tensor, num_classes: int) -> None:
    outside = targets[(targets < 0) | (targets >= num_classes)]
    if outside.numel():
        raise DataError(
            f"the target {outside[0].item()} is outside the classes 0 to {num_classes - 1}; "
            f"the batch has inputs {_text(inputs)} and targets {_text(targets)}"
        )


def _text(tensor: Tensor) -> str:
    return f"{list(tensor.shape)} of {str(tensor.dtype).removeprefix('torch.')}"
