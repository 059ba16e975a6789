"""What was generated under guidance: how much of it is the memory's, and how close it is to stored samples."""

from dataclasses import dataclass

import torch
from torch import Tensor

from hopfield_replay.functional import PatternTiles, knn_distance

_ROWS = 4096  # samples of a set that are compared together


@dataclass(frozen=True)
class GuidanceReport:
    """Distances of n samples to the stored and to the current ones.

    The memory can only reproduce what it stores: a sample it drove lies at distance 0, or nearly so, from a stored one.
    A sample that the model alone generates may lie nearer to a stored than to a current sample by chance; a report on
    unguided samples tells how many do.

    Attributes:
        nearest_stored: (n,) float64, distance to the nearest stored sample.
        nearest_current: (n,) float64, distance to the nearest current sample.

    Example:
        >>> report = GuidanceReport(torch.tensor([0.0, 3.0]), torch.tensor([5.0, 1.0]))
        >>> report.memory_share
        0.5
        >>> print(report)
        50.0 % of 2 samples are memory-driven, at a median distance of 0 from a stored sample; the others at 3
    """

    nearest_stored: Tensor
    nearest_current: Tensor

    @property
    def memory_driven(self) -> Tensor:
        """(n,) bool: nearer to a stored than to a current sample."""
        return self.nearest_stored < self.nearest_current

    @property
    def memory_share(self) -> float:
        """Share of memory-driven samples."""
        return float(self.memory_driven.double().mean())

    def __str__(self) -> str:
        driven = self.memory_driven
        stored, others = self.nearest_stored[driven], self.nearest_stored[~driven]
        text = f"{100 * self.memory_share:.1f} % of {len(driven)} samples are memory-driven"
        if len(stored):
            text += f", at a median distance of {float(stored.median()):.3g} from a stored sample"
        if len(others):
            text += f"; the others at {float(others.median()):.3g}"
        return text


def nearest(x: Tensor, patterns: PatternTiles) -> Tensor:
    """Distance (n,) of samples (n, *shape) to the nearest pattern."""
    distances = [knn_distance(x, tile.patterns, 1).cpu() for tile in patterns.tiles(_ROWS)]
    return torch.stack(distances).amin(0)


__all__ = ["GuidanceReport", "nearest"]
