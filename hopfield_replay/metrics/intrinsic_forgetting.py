"""Intrinsic forgetting as a torchmetrics class."""

from typing import Any, Literal

import torch
from torch import Tensor

from hopfield_replay.functional import energy_rise
from hopfield_replay.metrics._rows import RowMetric
from hopfield_replay.utilities.checks import Similarity
from hopfield_replay.utilities.device import float64_device


class IntrinsicForgetting(RowMetric):
    """Rise of the Hopfield energy of samples from the old patterns to the new ones; positive: forgotten.

    Args:
        old: patterns before the task change, (N_old, d) or (N_old, *shape); the same on every rank.
        new: patterns after it, (N_new, d) or (N_new, *shape).
        beta: inverse temperature, > 0.
        old_masses: (N_old,), >= 0; ones if None.
        new_masses: (N_new,), >= 0; ones if None.
        similarity: ``"distance"`` or ``"dot"``.
        reduction: ``"mean"`` for one number, ``"none"`` for one of each sample (n,), in the order of the ranks.
        **settings: settings of torchmetrics.Metric.

    Raises:
        ValueError: an unknown reduction; on update: as :func:`hopfield_replay.functional.energy_rise`.

    Example:
        >>> metric = IntrinsicForgetting(torch.zeros(1, 2), torch.tensor([[1.0, 0.0]]), beta=3.0)
        >>> metric.update(torch.zeros(4, 2))
        >>> metric.compute()
        tensor(0.5000, dtype=torch.float64)

    Source: Takeda, Oizumi, Karakida, arXiv:2605.27975.
    """

    higher_is_better = False

    def __init__(
        self,
        old: Tensor,
        new: Tensor,
        beta: float,
        *,
        old_masses: Tensor | None = None,
        new_masses: Tensor | None = None,
        similarity: Similarity = "distance",
        reduction: Literal["mean", "none"] = "mean",
        **settings: Any,
    ) -> None:
        super().__init__(**settings)
        if reduction not in ("mean", "none"):
            raise ValueError(f"reduction must be 'mean' or 'none', got {reduction!r}.")
        self.reduction = reduction
        self.beta = beta
        self.similarity: Similarity = similarity
        self.old, self.old_masses = old, old_masses
        self.new, self.new_masses = new, new_masses
        self.add_rows("rises", torch.float64)

    def update(self, x: Tensor, exclude_old: Tensor | None = None) -> None:
        """Add samples (n, *shape).

        Args:
            x: the samples.
            exclude_old: (n,) index in ``old`` of the pattern that a sample itself is, -1 for none.
        """
        place = float64_device(x.device)
        rises = energy_rise(
            x,
            self.old.to(place),
            self.new.to(place),
            self.beta,
            old_masses=None if self.old_masses is None else self.old_masses.to(place),
            new_masses=None if self.new_masses is None else self.new_masses.to(place),
            similarity=self.similarity,
            exclude_old=exclude_old,
        )
        self.append("rises", rises)

    def compute(self) -> Tensor:
        """Mean rise, or the rises (n,), float64, in units of squared distance; nan without samples."""
        rises = self.rows("rises")
        return rises.mean() if self.reduction == "mean" else rises


__all__ = ["IntrinsicForgetting"]
