"""Energies and distances of many samples, wherever they and the patterns are, in as large parts as fit."""

from collections.abc import Callable

import torch
from torch import Tensor

from hopfield_replay.functional._nearest import Nearest
from hopfield_replay.functional.energy import energy
from hopfield_replay.functional.neighbours import knn_distance
from hopfield_replay.functional.responsibilities import effective_patterns
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
    normalize: bool = True,
) -> Tensor:
    """Energies of samples under patterns, computed where the patterns are.

    Args:
        queries: (n, d), wherever they are.
        patterns: that are summed over.
        beta: inverse temperature.
        similarity: ``"distance"`` or ``"dot"``.
        exclude: (n,) index of the pattern that each sample is, -1 for none.
        normalize: as :func:`energy`.

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
    place = queries.device if patterns.device is None else patterns.device

    def asked(some: Tensor, own: Tensor | None) -> Tensor:
        return energy(some, patterns, beta, similarity=similarity, exclude=own, normalize=normalize)

    return torch.cat([none, *(_fitting(asked, part, _cut(exclude, start, len(part)), place) for start, part in parts)])


def distances_of(queries: Tensor, patterns: Matrix, k: int, *, exclude: Tensor | None = None) -> Tensor:
    """Distances of samples to their k-th nearest pattern, computed where the patterns are.

    Args:
        queries: (n, d), wherever they are.
        patterns: (N, d).
        k: which neighbour, >= 1.
        exclude: (n,) index of the pattern that each sample is, -1 for none.

    Returns:
        (n,) float64, on the CPU.

    Raises:
        ValueError, TypeError: as :func:`knn_distance`.
        MemoryError: not even one sample at a time fits on the patterns' device.

    Example:
        >>> distances_of(torch.eye(3), torch.zeros(2, 3), 1)
        tensor([1., 1., 1.], dtype=torch.float64)
    """

    def asked(some: Tensor, own: Tensor | None) -> Tensor:
        return knn_distance(some, patterns, k, exclude=own)

    return _fitting(asked, queries, exclude, patterns.device)


def nearest_of(queries: Tensor, patterns: Matrix, k: int, *, exclude: Tensor | None = None) -> Tensor:
    """Distances (n, k) to the k nearest patterns, ascending; inf where there are fewer without the excluded one.

    Args:
        queries: (n, d), wherever they are.
        patterns: (N, d), N >= k.
        k: how many, >= 1.
        exclude: as :func:`distances_of`.

    Example:
        >>> nearest_of(torch.zeros(1, 2), torch.eye(2), 2, exclude=torch.tensor([0]))
        tensor([[1., inf]], dtype=torch.float64)
    """

    def asked(some: Tensor, own: Tensor | None) -> Tensor:
        return Nearest(some, patterns, k, own).nearest()

    return _fitting(asked, queries, exclude, patterns.device)


def effective_of(
    queries: Tensor,
    patterns: PatternTiles,
    beta: float,
    *,
    similarity: Similarity = "distance",
    exclude: Tensor | None = None,
) -> Tensor:
    """Effective numbers of patterns that share samples, computed where the patterns are; as :func:`energies_of`.

    Example:
        >>> effective_of(torch.zeros(1, 4), PatternTiles(torch.eye(4)), beta=1.0).round(decimals=6)
        tensor([4.], dtype=torch.float64)
    """

    def asked(some: Tensor, own: Tensor | None) -> Tensor:
        return effective_patterns(some, patterns, beta, similarity=similarity, exclude=own)

    return _fitting(asked, queries, exclude, queries.device if patterns.device is None else patterns.device)


def _fitting(
    asked: Callable[[Tensor, Tensor | None], Tensor], queries: Tensor, exclude: Tensor | None, place: torch.device
) -> Tensor:
    """What is asked of samples and of the patterns that they are, split where the device is full."""

    def measure(size: int) -> Tensor:
        answers = [
            asked(
                part.to(place),
                None if exclude is None else exclude[number * size : number * size + len(part)].to(place),
            ).cpu()
            for number, part in enumerate(queries.split(size))
        ]
        return torch.cat(answers)

    return in_chunks_that_fit(measure, max(1, len(queries)), "The patterns do")[0]


def _cut(exclude: Tensor | None, start: int, count: int) -> Tensor | None:
    return None if exclude is None else exclude[start : start + count]


__all__ = ["distances_of", "effective_of", "energies_of", "nearest_of"]
