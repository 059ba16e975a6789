"""Averaged weights that a module keeps beside those it trains: found, and put in their place while it is measured."""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch.distributed as dist
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from hopfield_replay.utilities.holdings import holdings

_WORDS = ("ema", "average", "averaged", "avg", "shadow")


@dataclass(frozen=True, eq=False)
class Average:
    """Averaged weights of a network.

    Attributes:
        path: where the module keeps them.
        pairs: each trained parameter and buffer, with its average.

    Example:
        >>> import torch
        >>> net = nn.Linear(1, 1, bias=False)
        >>> average = Average("ema", [(net.weight, torch.tensor([[7.0]]))])
        >>> with average.in_place():
        ...     held = net.weight.item()
        >>> held, net.weight.item() == held
        (7.0, False)
    """

    path: str
    pairs: list[tuple[Tensor, Tensor]]

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Let the averages stand in for the trained weights, which come back untouched.

        Averages that are spread over processes travel: all of them enter it together, where the weights are whole.
        """
        before = [(trained, trained.data) for trained, _ in self.pairs]
        try:
            for trained, average in self.pairs:
                trained.data = _whole(average).to(trained.device, trained.dtype)
            yield
        finally:
            for trained, data in before:
                trained.data = data


def find_averages(module: nn.Module, network: nn.Module | None = None) -> list[Average]:
    """All averages that a module keeps of its trained network.

    Found are torch's AveragedModel, copies under a name with "ema", "average" or "shadow" in it (such as those inside
    of ema_pytorch's EMA), diffusers' EMAModel and others with ``shadow_params``, dicts of the parameters' names under
    such a name, and modules that keep an average of each parameter as a buffer under its name without dots (such as
    LitEma of latent diffusion).

    Args:
        module: any module.
        network: of which the averages are; None: of whatever is trained.

    Example:
        >>> net = nn.Module()
        >>> net.online, net.ema = nn.Linear(2, 2), AveragedModel(nn.Linear(2, 2))
        >>> [average.path for average in find_averages(net)]
        ['ema.module']
    """
    held = list(holdings(module))
    modules = [(path, value) for path, value in held if isinstance(value, nn.Module)]
    copies = [path for path, value in modules if _is_copy(path, value)]
    if network is None:
        trained = [value for path, value in modules if not _inside(path, copies) and _learns(value)]
    else:
        trained = [value for _, value in modules if any(part is network for part in value.modules())]
    averages: dict[int, Average] = {}
    for path, value in held:
        pairs = None
        if isinstance(value, nn.Module) and _inside(path, copies):
            pairs = next((pairs for item in trained if (pairs := _of_copy(item, value)) is not None), None)
        if pairs is None and (shadows := _shadows(value)) is not None:
            pairs = next((pairs for item in trained if (pairs := _in_order(item, shadows)) is not None), None)
        if pairs is None and isinstance(value, nn.Module) and value._buffers:
            pairs = next((pairs for item in trained if (pairs := _of_buffers(item, value)) is not None), None)
        if pairs is None and isinstance(value, Mapping) and _named(path):
            pairs = next((pairs for item in trained if (pairs := _by_name(item, value)) is not None), None)
        # a copy's own parts are averages of the network's parts: only the whole counts
        if pairs is not None and not any(_inside(path, [average.path]) for average in averages.values()):
            averages[id(value)] = Average(path, pairs)
    return list(averages.values())


def _shadows(value: Any) -> list[Any] | None:
    try:
        shadows = getattr(value, "shadow_params", None)
    except Exception:  # a property of somebody's own that cannot be had
        return None
    return shadows if isinstance(shadows, list) else None


def _whole(average: Tensor) -> Tensor:
    """An average, also one that is spread over processes as the weights are while they are trained (a DTensor)."""
    spread = _spread(average)
    return average.detach() if spread is None else spread.detach().full_tensor()


def _spread(tensor: Tensor) -> Any:
    """The tensor itself if it is spread over processes, else None."""
    if not dist.is_available() or not dist.is_initialized():
        return None
    from torch.distributed.tensor import DTensor

    return tensor if isinstance(tensor, DTensor) else None


def _place(tensor: Tensor) -> int:
    """Where its numbers, or this process's share of them, lie."""
    spread = _spread(tensor)
    return tensor.data_ptr() if spread is None else int(spread.to_local().data_ptr())


def _is_copy(path: str, value: nn.Module) -> bool:
    return isinstance(value, AveragedModel) or _named(path.rsplit(".", 1)[-1])


def _named(path: str) -> bool:
    """Whether a name says that something is an average: net_ema, emaNet, shadow."""
    return any(word.lower() in _WORDS for word in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+", path))


def _inside(path: str, others: list[str]) -> bool:
    return any(path == other or path.startswith(f"{other}.") for other in others)


def _learns(module: nn.Module) -> bool:
    return any(weight.requires_grad for weight in module.parameters())


def _of_copy(trained: nn.Module, copy: nn.Module) -> list[tuple[Tensor, Tensor]] | None:
    if trained is copy:
        return None
    mine, theirs = (dict([*item.named_parameters(), *item.named_buffers()]) for item in (trained, copy))
    return _paired(mine, theirs) if mine.keys() == theirs.keys() else None


def _of_buffers(trained: nn.Module, keeper: nn.Module) -> list[tuple[Tensor, Tensor]] | None:
    mine = {name.replace(".", ""): weight for name, weight in trained.named_parameters() if weight.requires_grad}
    theirs = {name: value for name, value in keeper._buffers.items() if value is not None}
    if not mine or not mine.keys() <= theirs.keys() or any(part is keeper for part in trained.modules()):
        return None
    return _paired(mine, {name: theirs[name] for name in mine})


def _by_name(trained: nn.Module, shadows: Mapping[Any, Any]) -> list[tuple[Tensor, Tensor]] | None:
    every = dict([*trained.named_parameters(), *trained.named_buffers()])
    learning = {name for name, weight in trained.named_parameters() if weight.requires_grad}
    if not learning or not learning <= shadows.keys() <= every.keys():
        return None
    return _paired({name: every[name] for name in shadows}, shadows)


def _in_order(trained: nn.Module, shadows: list[Any]) -> list[tuple[Tensor, Tensor]] | None:
    every = list(trained.parameters())
    for weights in (every, [weight for weight in every if weight.requires_grad]):
        if len(weights) == len(shadows):
            return _paired(dict(enumerate(weights)), dict(enumerate(shadows)))
    return None


def _paired(mine: Mapping[Any, Tensor], theirs: Mapping[Any, Any]) -> list[tuple[Tensor, Tensor]] | None:
    pairs = [(weight, theirs[name]) for name, weight in mine.items()]
    fits = all(isinstance(average, Tensor) and average.shape == weight.shape for weight, average in pairs)
    alike = any(weight is average or _place(weight) == _place(average) for weight, average in pairs if fits)
    return pairs if fits and pairs and not alike else None


__all__ = ["Average", "find_averages"]
