"""Shortlist: which samples count and which compete where there are too many for all affinities between them."""

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from hopfield_replay.functional.rows import Matrix, picked
from hopfield_replay.policies.candidates import Candidates

MATRIX = 1 << 25  # affinities that can all be held: 256 MB in float64
_COUNTED = 1 << 18  # samples whose protection is counted
_COMPETING = 1 << 16  # samples to choose from
_LISTED = 3  # affinities of a sample that are kept, for every competitor that there is to a place
_LEAST = 32  # of them, where the memory allows it
_BYTES = 24  # that each of them takes, at the most


@dataclass(frozen=True, eq=False)
class Shortlist:
    """Positions among the candidates, ascending; random ones where not all of them fit.

    Of C competitors for p places about the C / p nearest to a sample matter to it, so that as many as are kept of each
    sample say how many can compete.

    Attributes:
        counted: (n,) int64, the samples whose protection is counted.
        weights: (n,) float64, of these; None: ones.
        competing: (C,) int64, the samples that can be chosen.
        listed: how many affinities of each sample are to be kept; None: all of them can be.
    """

    counted: Tensor
    weights: Tensor | None
    competing: Tensor
    listed: int | None

    @classmethod
    def of(cls, candidates: Candidates, k: int, places: int) -> Self:
        """Those among whom k are chosen, of which the first ``places`` are to stay."""
        count = len(candidates)
        if count * count <= MATRIX:
            return cls(torch.arange(count), candidates.weights, torch.arange(count), None)
        counted, weights = torch.arange(count), candidates.weights
        if count > _COUNTED:
            counted, weights = _fewer(candidates)
        listed, competing = listed_and_competing(len(counted), count, k, places, candidates.memory)
        return cls(counted, weights, drawn(candidates.keys, competing), listed)

    @property
    def own(self) -> Tensor:
        """(n,) int64, which of those that compete each sample that counts is; -1: none."""
        at = torch.searchsorted(self.competing, self.counted).clamp_(max=len(self.competing) - 1)
        return torch.where(self.competing[at] == self.counted, at, -1)

    @staticmethod
    def pick(vectors: Matrix, index: Tensor) -> Matrix:
        """The vectors at these positions; no copy where they are all of them."""
        return vectors if len(index) == len(vectors) else picked(vectors, index)


def listed_and_competing(targets: int, candidates: int, k: int, places: int, memory: int) -> tuple[int, int]:
    """How many affinities are kept of each of so many targets, and how many of the candidates compete.

    Args:
        targets: samples that count.
        candidates: samples that could be chosen, more than can all be compared.
        k: how many are chosen.
        places: how many of these are to stay.
        memory: bytes, of which half may be taken.
    """
    competing = min(candidates, _COMPETING)
    room = max(1, memory // 2 // _BYTES // targets)
    listed = min(max(_LEAST, _LISTED * competing // places), room, competing)
    competing = max(min(competing, max(listed * places // 2, 4 * k)), k)
    return min(listed, competing), competing


def drawn(keys: Tensor, size: int) -> Tensor:
    """A random choice that depends on the ids and the seed alone, and is not the one of a random policy."""
    if size >= len(keys):
        return torch.arange(len(keys))
    return ((keys + 0.25) % 1.0).argsort()[:size].sort().values


def _fewer(candidates: Candidates) -> tuple[Tensor, Tensor]:
    """Samples to count: those that stand for others, and some of the rest, which stand for all of it."""
    weights = candidates.weights
    weights = torch.ones(len(candidates), dtype=torch.float64) if weights is None else weights
    heavy = (weights > 1.0).nonzero().flatten()[:_COUNTED]
    light = torch.ones(len(weights), dtype=torch.bool).index_fill_(0, heavy, False).nonzero().flatten()
    few = light[drawn(candidates.keys[light], max(1, _COUNTED - len(heavy)))]
    counted = torch.cat([heavy, few]).sort().values
    scale = float(weights[light].sum()) / max(float(weights[few].sum()), 1e-300)
    weights = weights.clone().index_copy_(0, few, weights[few] * scale)
    return counted, weights[counted]


__all__ = ["MATRIX", "Shortlist", "drawn", "listed_and_competing"]
