"""Samples that are nearly copies of others."""

import torch
from torch import Tensor

from hopfield_replay.functional import knn_distance
from hopfield_replay.functional._distances import half_squared_distances
from hopfield_replay.memory.readings import spread_indices
from hopfield_replay.utilities.checks import as_matrix
from hopfield_replay.utilities.progress import track

_ASKED = 2048  # samples whose neighbours say what is usual
_NEIGHBOUR = 10
_TILE_ELEMENTS = 1 << 22  # distances held at a time


def near_duplicates(vectors: Tensor, share: float = 0.1) -> Tensor:
    """Of which earlier sample each one is nearly a copy: at most ``share`` of the usual distance apart.

    Usual is the median distance of a sample to its 10th nearest one, exact copies counting as one sample: the nearest
    may be a near-duplicate itself.

    Args:
        vectors: (n, d) or (n, *shape), floating, n >= 1.
        share: >= 0; 0: exact copies only.

    Returns:
        (n,) int64: the position of the first sample that it copies, which copies none itself; -1: it is the first.

    Raises:
        ValueError: a negative share, NaN.
        TypeError: vectors that are not floating.

    Example:
        >>> near_duplicates(torch.tensor([[0.0], [1.0], [2.0], [0.01], [1.0]]))
        tensor([-1, -1, -1,  0,  1])
    """
    matrix = as_matrix(vectors, "vectors").to(torch.float64)
    if not share >= 0:
        raise ValueError(f"The share of the usual distance must not be negative, got {share}.")
    matrix = matrix - matrix.mean(0)
    limit = 0.5 * (share * _usual_distance(matrix)) ** 2
    copies = torch.full((len(matrix),), -1, dtype=torch.int64)
    step = max(1, _TILE_ELEMENTS // max(1, len(matrix)))
    for start in track(range(0, len(matrix), step), "Looking for near-duplicates"):
        some = matrix[start : start + step]
        close = half_squared_distances(some, matrix[: start + step]) <= limit + _rounding(some)
        rows, columns = close.nonzero(as_tuple=True)
        earlier = columns < rows + start
        for row, first in zip((rows[earlier] + start).tolist(), columns[earlier].tolist(), strict=True):
            if copies[row] < 0 and copies[first] < 0:
                copies[row] = first
    return copies


def _rounding(matrix: Tensor) -> float:
    """What a distance of 0 may come out as."""
    return 8 * torch.finfo(torch.float64).eps * max(float(matrix.square().sum(1).max()), 1e-300)


def _usual_distance(matrix: Tensor) -> float:
    distinct = matrix.unique(dim=0)
    if len(distinct) < 2:
        return 0.0
    asked = spread_indices(len(distinct), _ASKED)
    return float(knn_distance(distinct[asked], distinct, min(_NEIGHBOUR, len(distinct) - 1), exclude=asked).median())
