"""Paired loss: a module's own loss on single samples, with the same random draws before and after."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from hopfield_replay.denoisers.own_step import Step, seeded, traceless
from hopfield_replay.utilities.nested import rows, take


@dataclass(frozen=True, eq=False)
class PairedLoss:
    """The mean of a module's own loss over ``draws`` random draws, of every sample of a batch.

    A sample is repeated into a batch of its own, and the random states, those of the module's own generators, too, are
    set to one seed: every sample meets the same times and noise, now and later, so that the rise of a sample's loss is
    due to the module alone. The module is in eval mode and without gradients, and all of it comes back as it was.

    Args:
        step: the module's step, a batch to a loss.
        module: whose it is.
        draws: how often a sample is repeated, >= 1.
        seed: of the draws.

    Example:
        >>> net = nn.Linear(3, 3)
        >>> loss = PairedLoss(lambda x: (net(x + torch.randn_like(x)) - x).square().mean(), net, draws=4)
        >>> x = torch.ones(2, 3)
        >>> bool(loss(x)[0] == loss(x)[1]), bool((loss(x) == loss(x)).all())
        (True, True)
    """

    step: Step
    module: nn.Module
    draws: int = 64
    seed: int = 0

    def __call__(self, batch: Any) -> Tensor:
        """Losses (n,) float64 on the CPU.

        Raises:
            ValueError: the step returns no loss.
        """
        losses = []
        with traceless(self.module), torch.no_grad():
            for row in range(rows(batch)):
                repeated = take(batch, torch.full((self.draws,), row))
                with seeded(self.module, self.seed):
                    losses.append(loss_of(self.step(repeated)))
        return torch.tensor(losses, dtype=torch.float64)


def loss_of(result: Any) -> float:
    """The loss in what a training step returns: a scalar, the entry ``"loss"`` of a dict, or the first of several.

    Raises:
        ValueError: no loss.

    Example:
        >>> loss_of({"loss": torch.tensor(0.5), "log": {}})
        0.5
    """
    value = scalar_in(result)
    if value is None:
        raise ValueError(f"the training step returned no loss, but {type(result).__name__}.")
    return float(value.detach())


def is_loss(result: Any) -> bool:
    """Whether there is a loss in what a step returned."""
    return scalar_in(result) is not None


def scalar_in(value: Any) -> Tensor | None:
    """The loss in what a step returned, as a tensor; None if there is none."""
    if isinstance(value, Mapping) and "loss" in value:
        value = value["loss"]
    elif isinstance(value, list | tuple) and value:
        value = value[0]
    return value if isinstance(value, Tensor) and value.numel() == 1 and not value.is_complex() else None


__all__ = ["PairedLoss", "is_loss", "loss_of", "scalar_in"]
