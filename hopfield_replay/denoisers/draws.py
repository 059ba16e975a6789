"""Random draws of a training step: noted as they are made, or replaced by what they are in the middle."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from hopfield_replay.denoisers.doors import is_unseen

Law = Literal["normal", "uniform", "integers", "other"]

_LAWS: dict[Any, Law] = {
    torch.randn: "normal",
    torch.randn_like: "normal",
    torch.normal: "normal",
    Tensor.normal_: "normal",
    torch.rand: "uniform",
    torch.rand_like: "uniform",
    Tensor.uniform_: "uniform",
    torch.randint: "integers",
    torch.randint_like: "integers",
    Tensor.random_: "integers",
    torch.multinomial: "integers",
    Tensor.multinomial: "integers",
    torch.randperm: "other",
    torch.bernoulli: "other",
    Tensor.bernoulli: "other",
    Tensor.bernoulli_: "other",
}


@dataclass(frozen=True)
class Draw:
    """One random tensor.

    Attributes:
        law: what it is drawn from.
        values: a copy.
        median: the middle of its law, in the same shape; None where it has none.
    """

    law: Law
    values: Tensor
    median: Tensor | None


class Draws(TorchFunctionMode):
    """Notes every random tensor that torch makes while it is entered, and may put another in its place.

    Without ``choose`` nothing changes: the random state moves as it would have.

    Args:
        choose: maps a draw to what the code gets in its place; None: what was drawn.

    Attributes:
        made: the draws so far.
        stopped: whether nothing is noted or replaced any more.

    Example:
        >>> with Draws(lambda draw: draw.median) as draws:
        ...     noise, times, kept = torch.randn(2), torch.randint(0, 9, (2,)), torch.rand(2) > 0.1
        >>> noise, times, kept
        (tensor([0., 0.]), tensor([4, 4]), tensor([True, True]))
        >>> [draw.law for draw in draws.made]
        ['normal', 'integers', 'uniform']
    """

    def __init__(self, choose: Callable[[Draw], Tensor | None] | None = None) -> None:
        super().__init__()
        self.choose = choose
        self.made: list[Draw] = []
        self.stopped = False

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Call a torch function, and note what it drew."""
        given = dict(kwargs or {})
        law = None if self.stopped or is_unseen() else _LAWS.get(func)
        if law is None:
            return func(*args, **given)
        result = func(*args, **given)
        with torch.no_grad():
            draw = Draw(law, result.detach().clone(), _median(func, result, args, given))
            self.made.append(draw)
            chosen = None if self.choose is None else self.choose(draw)
            if chosen is not None and chosen is not draw.values:
                result.copy_(chosen)
        return result


def _median(func: Any, result: Tensor, args: tuple[Any, ...], given: Mapping[str, Any]) -> Tensor | None:
    """The middle of the law that a call of ``func`` draws from, in the shape of its result."""
    numbers = [value for value in args if isinstance(value, int | float)]
    like = result.detach()
    if func in (torch.randn, torch.randn_like):
        return torch.zeros_like(like)
    if func in (torch.normal, Tensor.normal_):
        first = args[0] if func is torch.normal and args else numbers[0] if numbers else 0.0
        middle = given.get("mean", first)
        return (torch.zeros_like(like) + middle) if isinstance(middle, Tensor) else torch.full_like(like, middle)
    if func in (torch.rand, torch.rand_like, Tensor.uniform_):
        bounds = [
            given.get("from", numbers[0] if numbers else 0.0),
            given.get("to", numbers[1] if numbers[1:] else 1.0),
        ]
        return torch.full_like(like, sum(bounds) / 2 if func is Tensor.uniform_ else 0.5)
    if func in (torch.randint, torch.randint_like, Tensor.random_):
        low = given.get("low", given.get("from", numbers[0] if len(numbers) > 1 else 0))
        high = given.get("high", given.get("to", numbers[-1] if numbers else None))
        return None if high is None else torch.full_like(like, (low + high - 1) // 2)
    if func is torch.randperm:
        return torch.arange(len(like), dtype=like.dtype, device=like.device)
    if func in (torch.multinomial, Tensor.multinomial):
        again = given.get("replacement", args[2] if len(args) > 2 else False)
        return _possible(args[0] if args else given["input"], like, bool(again))
    chance: Any = args[0] if func is not Tensor.bernoulli_ else given.get("p", numbers[0] if numbers else 0.5)
    likely: Tensor = torch.zeros_like(like) + (chance > 0.5)
    return likely.to(like.dtype)


def _possible(weights: Tensor, like: Tensor, again: bool) -> Tensor:
    """The middle one of the indices that can be drawn, whatever their weights; without replacement the first ones."""
    can = (weights > 0).to(torch.uint8)
    if not again and like.shape[-1] > 1:
        return can.argsort(dim=-1, descending=True, stable=True)[..., : like.shape[-1]]
    rank = can.cumsum(-1, dtype=torch.int64)
    return (2 * rank >= rank[..., -1:]).to(torch.uint8).argmax(-1, keepdim=True).expand_as(like)


__all__ = ["Draw", "Draws", "Law"]
