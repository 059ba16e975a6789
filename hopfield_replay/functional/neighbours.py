"""Distances to nearest neighbours, and the precision and recall of generated samples that rest on them."""

import torch
from torch import Tensor

from hopfield_replay.functional._distances import half_squared_distances
from hopfield_replay.functional._engine import split
from hopfield_replay.functional._nearest import Nearest, is_many
from hopfield_replay.functional.rows import Matrix
from hopfield_replay.utilities.checks import as_matrix, as_pair, check_exclude, check_integer, check_same_space

_HELD = 1 << 23  # numbers of the patterns that a copy in float64 is made of
_TILE_ELEMENTS = 1 << 22  # distances held at a time: 32 MB in float64


def _check_k(k: int, available: int, where: str) -> None:
    check_integer(k, "k", 1)
    if available < k:
        raise ValueError(f"k = {k} neighbours need as many {where}, there are {available}.")


def _distances(queries: Tensor, stored: Tensor) -> Tensor:
    # differences, not products: a sample's distance to its own copy is exactly 0
    return torch.cdist(queries.to(torch.float64), stored, compute_mode="donot_use_mm_for_euclid_dist")


def knn_distance(x: Matrix, patterns: Matrix, k: int = 10, *, exclude: Tensor | None = None) -> Tensor:
    """Distance of each sample to its k-th nearest pattern: large where the patterns are sparse.

    Args:
        x: samples, floating, (n, d) or (n, *shape), or Rows.
        patterns: (N, d) or (N, *shape), on the same device; or Rows, which are read a piece at a time.
        k: which neighbour, >= 1.
        exclude: (n,) index of the pattern that x[i] itself is, -1 for none.

    Returns:
        (n,) float64, in units of x.

    Raises:
        TypeError, ValueError: as :func:`energy`; fewer than k patterns, or k + 1 with ``exclude``.

    Example:
        >>> patterns = torch.tensor([[0.0], [1.0], [3.0]])
        >>> knn_distance(patterns, patterns, k=1, exclude=torch.arange(3))
        tensor([1., 1., 2.], dtype=torch.float64)

    Copies of a sample count as neighbours, at distance 0. Of more than 8 million numbers the nearest are looked for in
    float32, a few more of them than are asked for, and in float64 where rounding could have hidden one; the distances
    are float64's either way.

    Source: Loftsgaarden and Quesenberry (1965), the k-nearest-neighbour density; Ramaswamy, Rastogi and Shim (2000),
    outliers by this distance.
    """
    queries: Matrix
    stored: Matrix
    if isinstance(x, Tensor) and isinstance(patterns, Tensor):
        queries, stored = as_pair(x, patterns)
    else:
        queries = as_matrix(x, "x") if isinstance(x, Tensor) else x
        stored = as_matrix(patterns, "patterns") if isinstance(patterns, Tensor) else patterns
        check_same_space(queries, stored.shape[1], stored.device)
    index = check_exclude(exclude, len(queries), stored)
    _check_k(k, len(stored) - (index is not None), "patterns")
    by_parts = split.available(stored.device) and is_many(len(queries), stored)
    if by_parts or not isinstance(queries, Tensor) or not isinstance(stored, Tensor) or stored.numel() > _HELD:
        return Nearest(queries, stored, k, index).distances()
    stored = stored.to(torch.float64)
    centre = stored.mean(0)
    stored, moved = stored - centre, queries.to(torch.float64) - centre
    result = torch.empty(len(queries), dtype=torch.float64, device=stored.device)
    rows = max(1, _TILE_ELEMENTS // max(1, len(stored), k * stored.shape[1]))
    for start in range(0, len(queries), rows):
        some = moved[start : start + rows]
        half = half_squared_distances(some, stored)
        if index is not None:
            own = index[start : start + rows]
            hit = (own >= 0).nonzero().flatten()
            half[hit, own[hit]] = torch.inf
        nearest = half.topk(k, largest=False).indices
        # through differences: the product leaves 1e-7 of the norm where copies are 0 apart
        result[start : start + rows] = (stored[nearest] - some[:, None]).square().sum(2).amax(1).sqrt()
    return result


def _covered(x: Tensor, centres: Tensor, radii: Tensor) -> float:
    """Share of x within the radius of at least one centre."""
    inside = 0
    rows = max(1, _TILE_ELEMENTS // max(1, len(centres)))
    for start in range(0, len(x), rows):
        inside += int((_distances(x[start : start + rows], centres.to(torch.float64)) <= radii).any(1).sum())
    return inside / len(x)


def precision_recall(real: Tensor, generated: Tensor, k: int = 3) -> tuple[float, float]:
    """Improved precision and recall of generated samples, in a space of features.

    Precision is the share of generated samples that lie within the k-th-neighbour radius of a real sample; recall the
    share of real samples that lie within that of a generated one. A forgotten mode lowers recall.

    Args:
        real: features of real samples, floating, (n, d).
        generated: features of generated samples, (m, d), on the same device; best m = n.
        k: the neighbour that gives a sample its radius, >= 1.

    Returns:
        Precision and recall, both in [0, 1].

    Raises:
        TypeError, ValueError: as :func:`energy`; k or fewer samples on a side.

    Example:
        >>> real = torch.tensor([[0.0], [1.0], [2.0], [9.0], [10.0], [11.0]])
        >>> precision_recall(real, torch.tensor([[0.5], [1.5], [2.5]]), k=1)
        (1.0, 0.5)

    Source: Kynkaanniemi et al., arXiv:1904.06991, equations 1 and 2.
    """
    made, true = as_pair(generated, real)
    _check_k(k, min(len(true), len(made)) - 1, "other samples on each side")
    radii = [
        knn_distance(samples, samples, k, exclude=torch.arange(len(samples), device=samples.device))
        for samples in (true, made)
    ]
    return _covered(made, true, radii[0]), _covered(true, made, radii[1])


__all__ = ["knn_distance", "precision_recall"]
