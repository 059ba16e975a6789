"""The samples nearest to the centres of k-means: weighted coverage that knows nothing of energies."""

from functools import partial

import torch
from torch import Tensor

from hopfield_replay.functional._points import Points
from hopfield_replay.functional.draws import proportional
from hopfield_replay.functional.rows import Matrix
from hopfield_replay.utilities.checks import check_integer, check_masses

_GOLDEN = 0.6180339887498949  # its multiples are spread evenly over (0, 1)
_ROWS = 4096  # compared with all centres at a time
_NEAREST = 8  # vectors that are noted for each centre, should others have taken the first of them


def k_means_medoids(
    vectors: Matrix, k: int, uniforms: Tensor, *, masses: Tensor | None = None, starts: int = 3, steps: int = 20
) -> Tensor:
    r"""The vector nearest to each of the k centres of weighted k-means, largest cluster first.

    Lloyd's algorithm on :math:`\sum_i m_i \min_c |x_i - c|^2`, from centres drawn as k-means++ does: each new one with
    chances proportional to m times the squared distance to those before it. Medoids are distinct.

    Args:
        vectors: floating, (n, d) or (n, *shape); or Rows. More than 32 million numbers are read a piece at a time, once
            for each of k first centres and for each step.
        k: number of clusters, from 1 to n.
        uniforms: (n,) independent uniform numbers in (0, 1), of which the first centres are drawn.
        masses: (n,) >= 0; ones if None.
        starts: how often it is done, of which the best is taken, >= 1.
        steps: of Lloyd's algorithm at the most, >= 0.

    Returns:
        (k,) int64.

    Raises:
        ValueError, TypeError: k, starts or steps out of range, vectors that are no finite floating matrix, masses that
            are negative or not finite, uniforms outside [0, 1].

    Example:
        >>> import torch
        >>> x = torch.tensor([[0.0], [1.0], [2.0], [9.0], [10.0]])
        >>> k_means_medoids(x, 2, torch.tensor([0.3, 0.6, 0.2, 0.9, 0.4]))  # of two equally near the first
        tensor([1, 3])

    Source: Lloyd (1982), Least squares quantization in PCM; Arthur, Vassilvitskii (2007) for the first centres.
    """
    points = Points(vectors, k)
    n = len(points)
    check_integer(starts, "starts", 1)
    check_integer(steps, "steps", 0)
    weights = None if masses is None else check_masses(masses, torch.empty(n, 0, device=points.device), "masses")
    if weights is None:
        weights = torch.ones(n, dtype=torch.float64, device=points.device)
    runs = []
    for start in range(starts):
        first = _first_centres(points, k, uniforms, weights, start * k)
        runs.append(_lloyd(points, torch.stack([points[i] for i in first]), weights, steps))
    centres, near, _ = min(runs, key=lambda run: run[2])
    mass = torch.zeros_like(centres[:, 0]).index_add_(0, near, weights)
    order = mass.argsort(descending=True, stable=True)
    return torch.tensor(_medoids(points, centres[order]), device=points.device)


def _lloyd(points: Points, centres: Tensor, weights: Tensor, steps: int) -> tuple[Tensor, Tensor, float]:
    """The centres after Lloyd's algorithm, which of them is nearest to each point, and what is left."""
    near, sums, left = _pass(points, centres, weights)
    for _ in range(steps):
        mass = torch.zeros_like(centres[:, 0]).index_add_(0, near, weights)
        means = sums / mass.clamp(min=torch.finfo(mass.dtype).tiny)[:, None] + points.mean
        centres = torch.where(mass[:, None] > 0, means, centres)
        before, (near, sums, left) = near, _pass(points, centres, weights)
        if torch.equal(before, near):
            break
    return centres, near, left


def _pass(points: Points, centres: Tensor, weights: Tensor) -> tuple[Tensor, Tensor, float]:
    """Which centre is nearest to each point, the sums of the points of each around the mean, and what is left."""
    moved, sums = centres - points.mean, torch.zeros_like(centres)
    near, left = [], 0.0
    for start, rows in points.parts():
        some, masses = rows - points.mean, weights[start : start + len(rows)]
        near.append(torch.cat([torch.cdist(part, moved).argmin(1) for part in some.split(_ROWS)]))
        sums.index_add_(0, near[-1], some * masses[:, None])
        left += float((some - moved[near[-1]]).square().sum(1) @ masses)
    return torch.cat(near), sums, left


def _first_centres(points: Points, k: int, uniforms: Tensor, weights: Tensor, drawn_before: int) -> list[int]:
    """Positions (k) of the first centres; once all vectors are among them, of any that are left."""
    picks: list[int] = []
    squares = torch.ones_like(weights)
    for step in range(k):
        chances = weights * squares
        if not bool((chances > 0).any()):
            chances = torch.ones_like(weights).index_fill_(0, torch.tensor(picks, device=weights.device).long(), 0.0)
        drawn = int(proportional(chances, 1, (uniforms.to(torch.float64) + (drawn_before + step) * _GOLDEN) % 1.0))
        picks.append(drawn)
        new = points.each(partial(_squares, point=points[drawn]))
        squares = new if step == 0 else torch.minimum(squares, new)
    return picks


def _squares(rows: Tensor, point: Tensor) -> Tensor:
    """Squared distance of each row to a point."""
    return (rows - point).square_().sum(1)


def _medoids(points: Points, centres: Tensor) -> list[int]:
    """The nearest vector to each centre that none before it has taken; of equally near ones the first."""
    moved, few = centres - points.mean, min(_NEAREST, len(points))
    distances = torch.full((len(centres), few), torch.inf, dtype=torch.float64, device=points.device)
    places = torch.full((len(centres), few), len(points), device=points.device)
    for start, rows in points.parts():
        for offset, some in enumerate((rows - points.mean).split(_ROWS)):
            first = start + offset * _ROWS
            here = torch.arange(first, first + len(some), device=points.device).expand(len(centres), -1)
            both = torch.cat([distances, torch.cdist(moved, some)], 1)
            # what was noted before comes first, and a stable order keeps it there among equals
            order = both.sort(dim=1, stable=True).indices[:, :few]
            distances, places = both.gather(1, order), torch.cat([places, here], 1).gather(1, order)
    taken: dict[int, None] = {}
    for centre, noted in enumerate(places.tolist()):
        free = [place for place in noted if place not in taken]
        if not free:  # others have taken all of them
            every = points.each(partial(_squares, point=centres[centre]))
            every[list(taken)] = torch.inf
            free = [int(every.argmin())]
        taken[free[0]] = None
    return list(taken)


__all__ = ["k_means_medoids"]
