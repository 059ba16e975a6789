"""The correction with which the mean responsibility of the memory is the strength that was asked for."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from hopfield_replay.functional import PatternTiles
from hopfield_replay.memory.readings import rows_of

_TOLERANCE = 1e-3  # of the mean responsibility
_FARTHEST = 64.0  # largest correction


@dataclass(frozen=True)
class Probes:
    """Samples drawn from a set, with standard normal noise for every noise level.

    Attributes:
        samples: (P, d).
        masses: (P,) float64, their weights.
        index: (P,) where they stand in the set.
        noise: (P, d).
    """

    samples: Tensor
    masses: Tensor
    index: Tensor
    noise: Tensor

    @classmethod
    def of(cls, patterns: PatternTiles, count: int, generator: torch.Generator) -> "Probes":
        """Draw ``count`` samples, each possibly several times."""
        index = torch.randint(len(patterns), (count,), generator=generator)
        samples, masses = rows_of(patterns, index)
        noise = torch.randn(samples.shape, generator=generator).to(samples)
        return cls(samples, masses, index.to(samples.device), noise)

    def noised(self, sigma: float) -> Tensor:
        """Samples (P, d) with noise of standard deviation sigma."""
        return self.samples + sigma * self.noise

    def mean(self, values: Tensor) -> float:
        """Mean of one value for each probe, (P,)."""
        return float((self.masses * values).sum() / self.masses.sum())


def calibrated_offset(old: Probes, old_odds: Tensor, new: Probes, new_odds: Tensor, strength: float) -> float:
    r"""Smallest :math:`\delta` with :math:`s\,\mathrm{mean}_\mathrm{old} r + (1-s)\,\mathrm{mean}_\mathrm{new} r = s`.

    Args:
        old: probes of the memory.
        old_odds: (P,) log p_mem - log p_cur of each.
        new: probes of the current samples.
        new_odds: (P,) the same of these, each left out of p_cur.
        strength: s, in (0, 1).

    Returns:
        :math:`\delta` in :math:`r = \sigma(\mathrm{logit}\, s + \delta + \mathrm{odds})`.
    """
    prior = math.log(strength / (1 - strength))

    def excess(offset: float) -> float:
        means = (probes.mean((odds + prior + offset).sigmoid()) for probes, odds in ((old, old_odds), (new, new_odds)))
        return strength * next(means) + (1 - strength) * next(means) - strength

    near, far = 0.0, -math.copysign(_FARTHEST, excess(0.0))
    if abs(excess(near)) <= _TOLERANCE:
        return near
    for _ in range(40):  # the excess grows with the offset
        middle = (near + far) / 2
        value = excess(middle)
        if abs(value) <= _TOLERANCE:
            return middle
        near, far = (middle, far) if value * far < 0 else (near, middle)
    return near
