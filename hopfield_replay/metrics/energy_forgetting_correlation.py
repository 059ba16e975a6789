"""Rank correlation of energy and forgetting as a torchmetrics class."""

from typing import Any

import torch
from torch import Tensor

from hopfield_replay.functional.correlation import spearman_interval
from hopfield_replay.metrics._rows import RowMetric


class EnergyForgettingCorrelation(RowMetric):
    """Do samples of high energy forget more? Spearman's correlation, also controlled for the local density.

    Args:
        confidence: coverage of the percentile bootstrap intervals, in (0, 1).
        resamples: bootstrap resamples, >= 1.
        seed: of the resampling.
        **settings: settings of torchmetrics.Metric.

    Raises:
        ValueError: on update: lengths that do not fit, NaN; on compute: too few samples, a density of some only.

    Example:
        >>> metric = EnergyForgettingCorrelation(resamples=100)
        >>> metric.update(torch.arange(20.0), torch.arange(20.0) ** 2)
        >>> {name: float(value) for name, value in metric.compute().items()}
        {'n': 20.0, 'spearman': 1.0, 'spearman_low': 1.0, 'spearman_high': 1.0}
    """

    def __init__(self, *, confidence: float = 0.95, resamples: int = 1000, seed: int = 0, **settings: Any) -> None:
        super().__init__(**settings)
        self.confidence = confidence
        self.resamples = resamples
        self.seed = seed
        for name in ("energies", "forgetting", "densities"):
            self.add_rows(name, torch.float64)

    def update(self, energy: Tensor, forgetting: Tensor, density: Tensor | None = None) -> None:
        """Add samples.

        Args:
            energy: (n,) energies before the task, or their rises.
            forgetting: (n,) e.g. the rise of the reconstruction error.
            density: (n,) what to control for, e.g. the logarithm of the distance to the k-th neighbour
                (:func:`hopfield_replay.functional.neighbours.knn_distance`); in every update or in none.
        """
        given = {"energies": energy, "forgetting": forgetting} | ({} if density is None else {"densities": density})
        for name, values in given.items():
            if values.shape != energy.shape or values.ndim != 1:
                raise ValueError(f"{name} must have shape ({energy.numel()},), got {tuple(values.shape)}.")
            if bool(values.isnan().any()):
                raise ValueError(f"{name} holds NaN in {int(values.isnan().sum())} samples; leave them out.")
        for name, values in given.items():
            self.append(name, values)

    def compute(self) -> dict[str, Tensor]:
        """Results as float64 tensors.

        ``n``, ``spearman``, ``spearman_low``, ``spearman_high``; with densities also ``partial``, ``partial_low`` and
        ``partial_high``.
        """
        energies, forgetting, densities = (self.rows(name) for name in ("energies", "forgetting", "densities"))
        if len(densities) not in (0, len(energies)):
            raise ValueError(f"density was given for {len(densities)} of {len(energies)} samples; give all or none.")
        result = {"n": self.number(len(energies))}
        for name, control in {"spearman": None, "partial": densities if len(densities) else None}.items():
            if name == "partial" and control is None:
                continue
            rank = spearman_interval(
                energies,
                forgetting,
                control=control,
                confidence=self.confidence,
                resamples=self.resamples,
                seed=self.seed,
            )
            for key, value in ((name, rank.estimate), (f"{name}_low", rank.low), (f"{name}_high", rank.high)):
                result[key] = self.number(value)
        return result


__all__ = ["EnergyForgettingCorrelation"]
