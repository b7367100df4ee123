"""Parts of a network that are not trained, or not yet."""

from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from typing import Any

from torch.nn import Module

from runmanager.nearest import nearest
from runmanager.training.recipes.naming import as_list, plain
from runmanager.training.settings import TrainerError

_MANY = 8  # more names than a message lists


def freeze(network: Module, patterns: Any) -> list[str]:
    """Leaves the parameters of these names as they are while the others are trained.

    What a BatchNorm measures in training still moves, as in a plain torch loop, because no gradient goes there. Where that is
    not wanted, build the network with `norm_layer=torchvision.ops.FrozenBatchNorm2d`.

    Args:
        network: what is trained.
        patterns: one or several, as the shell has them: `layer1.*` is all of layer1, `*.bias` is every bias.

    Returns:
        The names of what is frozen by them.

    Raises:
        TrainerError: a pattern is that of no parameter.
    """
    return _set(network, matching(network, patterns, "freeze"), False)


class Unfreezing:
    """What is frozen at first, and from some epoch on is trained: {3: "layer4.*", 5: "*"}.

    The optimizer has to have those parameters from the start; it passes over what has no gradient. What is thawed when goes by the
    epoch's number alone, so a run that is resumed has thawed what was due before.
    """

    def __init__(self, network: Module, due: Any) -> None:
        """Looks whether all that is due is there; changes nothing.

        Args:
            network: the network that it will be asked about, or another one like it.
            due: patterns by the epoch, counted from 1, in which they are trained for the first time; a grid, whose values are
                those of JSON, has the epoch as a string, {"3": "layer4.*"}.

        Raises:
            TrainerError: an epoch is no whole number of 2 or more, or a pattern is that of no parameter.
        """
        if not isinstance(due, Mapping):
            raise TrainerError(f"unfreeze={due!r:.80} does not say when; write unfreeze={{3: 'layer4.*'}} for epoch 3")
        due = {int(epoch) if _is_decimal(epoch) else plain(epoch): patterns for epoch, patterns in due.items()}
        for epoch in due:
            if not isinstance(epoch, int) or isinstance(epoch, bool) or epoch < 2:
                raise TrainerError(
                    f"unfreeze has epoch {epoch!r}; give a whole number of 2 or more, since epoch 1 is the first: "
                    "what it is to train is not frozen"
                )
        self.due = {epoch: matching(network, due[epoch], f"unfreeze at epoch {epoch}") for epoch in sorted(due)}
        """The names of the parameters by the epoch in which they are thawed, the first of them first."""

    def begin_epoch(self, network: Module, epoch: int) -> list[str]:
        """Thaws what is due in this epoch or was in one before; returns the names that were frozen until now."""
        frozen = {name for name, param in network.named_parameters() if not param.requires_grad}
        due = [name for at, names in self.due.items() if at <= epoch for name in names if name in frozen]
        return _set(network, list(dict.fromkeys(due)), True)


def _is_decimal(epoch: Any) -> bool:
    return isinstance(epoch, str) and epoch.isascii() and epoch.isdecimal()


def check_trainable(network: Module, unfreezing: Unfreezing | None = None) -> None:
    """Refuses a network that has nothing to train in epoch 1.

    Raises:
        TrainerError: all is frozen; or it is until a later epoch, so that the first ones would train nothing.
    """
    num_all = sum(1 for _ in network.parameters())
    if any(param.requires_grad for param in network.parameters()) or not num_all:
        return
    until = f" until epoch {min(unfreezing.due)}" if unfreezing and unfreezing.due else ""
    raise TrainerError(
        f"all {num_all} parameters of the network are frozen{until}, so there is nothing to train; "
        f"freeze fewer of them, all but {_globs(network)[-1]!r} say"
    )


def matching(network: Module, patterns: Any, setting: str) -> list[str]:
    """The names of the parameters that one of the patterns fits, in the network's order.

    Raises:
        TrainerError: a pattern fits none.
    """
    names = [name for name, _ in network.named_parameters()]
    patterns = as_list(patterns)
    for pattern in patterns:
        if not isinstance(pattern, str) or not any(fnmatchcase(name, pattern) for name in names):
            raise TrainerError(no_match(setting, pattern, network))
    return [name for name in names if any(fnmatchcase(name, pattern) for pattern in patterns)]


def in_short(network: Module, names: Iterable[str]) -> str:
    """Names of parameters in few words: `conv1.*, layer1.*, fc.bias`; an outermost layer that has all of its own is one pattern."""
    chosen = set(names)
    told: dict[str, None] = {}
    for glob in _globs(network):
        own = [name for name, _ in network.named_parameters() if fnmatchcase(name, glob)]
        told.update(dict.fromkeys([glob] if chosen.issuperset(own) else [name for name in own if name in chosen]))
    return ", ".join(told)


def no_match(setting: str, pattern: Any, network: Module) -> str:
    """The message for a pattern that fits no parameter."""
    names = [name for name, _ in network.named_parameters()]
    layers = [name for name, _ in network.named_modules() if name and any(one.startswith(f"{name}.") for one in names)]
    globs = _globs(network)
    listed = ", ".join([*globs[:_MANY], *(["..."] if len(globs) > _MANY else [])]) or "none"
    if pattern in layers:
        hint = f"; {pattern!r} is a layer, and {pattern + '.*'!r} its parameters"
    else:
        hint = nearest(pattern, [*names, *(f"{one}.*" for one in layers)])
    return f"{setting}: {pattern!r} fits no parameter of the network, which has {listed}{hint}"


def _globs(network: Module) -> list[str]:
    """A pattern for each of the outermost layers that have parameters."""
    heads = dict.fromkeys(name.partition(".")[::2] for name, _ in network.named_parameters())
    return list(dict.fromkeys(f"{head}.*" if rest else head for head, rest in heads))


def _set(network: Module, names: Iterable[str], trains: bool) -> list[str]:
    params = dict(network.named_parameters())
    found = list(names)
    for name in found:
        params[name].requires_grad_(trains)
    return found
