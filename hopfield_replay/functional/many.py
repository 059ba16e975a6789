"""Energies of many samples, wherever they and the patterns are, in as large parts as fit."""

import torch
from torch import Tensor

from hopfield_replay.functional.energy import energy
from hopfield_replay.functional.rows import Matrix, pieces
from hopfield_replay.functional.tiles import PatternTiles
from hopfield_replay.utilities.checks import Similarity
from hopfield_replay.utilities.device import in_chunks_that_fit

_NUMBERS = 1 << 23  # of samples that are compared with all patterns together, where they are read in pieces


def energies_of(
    queries: Matrix,
    patterns: PatternTiles,
    beta: float,
    *,
    similarity: Similarity = "distance",
    exclude: Tensor | None = None,
) -> Tensor:
    """Energies of samples under patterns, computed where the patterns are.

    Args:
        queries: (n, d), wherever they are.
        patterns: that are summed over.
        beta: inverse temperature.
        similarity: ``"distance"`` or ``"dot"``.
        exclude: (n,) index of the pattern that each sample is, -1 for none.

    Returns:
        (n,) float64, on the CPU.

    Raises:
        ValueError, TypeError: as :func:`energy`.
        MemoryError: not even one sample at a time fits on the patterns' device.

    Example:
        >>> patterns = PatternTiles(torch.eye(3))
        >>> energies_of(torch.eye(3), patterns, 2.0, exclude=torch.arange(3))  # squared distance 2 to the others
        tensor([1., 1., 1.], dtype=torch.float64)
    """
    none = torch.empty(0, dtype=torch.float64)
    parts = [(0, queries)] if isinstance(queries, Tensor) else pieces(queries, _NUMBERS)
    return torch.cat(
        [none, *(_fitting(part, patterns, beta, similarity, _cut(exclude, start, len(part))) for start, part in parts)]
    )


def _fitting(
    queries: Tensor, patterns: PatternTiles, beta: float, similarity: Similarity, exclude: Tensor | None
) -> Tensor:
    """Those of a part, split where the device is full."""
    place = queries.device if patterns.device is None else patterns.device

    def measure(size: int) -> Tensor:
        energies = [
            energy(
                part.to(place),
                patterns,
                beta,
                similarity=similarity,
                exclude=None if exclude is None else exclude[number * size : number * size + len(part)].to(place),
            ).cpu()
            for number, part in enumerate(queries.split(size))
        ]
        return torch.cat(energies)

    return in_chunks_that_fit(measure, max(1, len(queries)), "The patterns do")[0]


def _cut(exclude: Tensor | None, start: int, count: int) -> Tensor | None:
    return None if exclude is None else exclude[start : start + count]


__all__ = ["energies_of"]
