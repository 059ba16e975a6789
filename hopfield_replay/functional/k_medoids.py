"""The samples nearest to the centres of k-means: weighted coverage that knows nothing of energies."""

import torch
from torch import Tensor

from hopfield_replay.functional.draws import proportional
from hopfield_replay.utilities.checks import as_matrix, check_integer, check_masses

_GOLDEN = 0.6180339887498949  # its multiples are spread evenly over (0, 1)
_ROWS = 4096  # compared with all centres at a time


def k_means_medoids(
    vectors: Tensor, k: int, uniforms: Tensor, *, masses: Tensor | None = None, starts: int = 3, steps: int = 20
) -> Tensor:
    r"""The vector nearest to each of the k centres of weighted k-means, largest cluster first.

    Lloyd's algorithm on :math:`\sum_i m_i \min_c |x_i - c|^2`, from centres drawn as k-means++ does: each new one with
    chances proportional to m times the squared distance to those before it. Medoids are distinct.

    Args:
        vectors: floating, (n, d) or (n, *shape).
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
    points = as_matrix(vectors, "vectors").to(torch.float64)
    n = len(points)
    check_integer(k, "k", 1, n, of="the number of vectors", wrong_type=TypeError)
    check_integer(starts, "starts", 1)
    check_integer(steps, "steps", 0)
    weights = check_masses(masses, points, "masses")
    if weights is None:
        weights = torch.ones(n, dtype=torch.float64, device=points.device)
    points = points - points.mean(0)
    runs = [
        _lloyd(points, points[_first_centres(points, k, uniforms, weights, start * k)], weights, steps)
        for start in range(starts)
    ]
    left = [float((points - centres[near]).square().sum(1) @ weights) for centres, near in runs]
    centres, near = runs[left.index(min(left))]
    mass = torch.zeros_like(centres[:, 0]).index_add_(0, near, weights)
    taken: list[int] = []
    for centre in mass.argsort(descending=True, stable=True).tolist():
        distances = torch.cdist(points, centres[centre][None])[:, 0]
        distances[taken] = torch.inf
        taken.append(int(distances.argmin()))
    return torch.tensor(taken, device=points.device)


def _lloyd(points: Tensor, centres: Tensor, weights: Tensor, steps: int) -> tuple[Tensor, Tensor]:
    """The centres after Lloyd's algorithm, and which of them is nearest to each point."""
    near = _nearest(points, centres)
    for _ in range(steps):
        mass = torch.zeros_like(centres[:, 0]).index_add_(0, near, weights)
        sums = torch.zeros_like(centres).index_add_(0, near, points * weights[:, None])
        centres = torch.where(mass[:, None] > 0, sums / mass.clamp(min=torch.finfo(mass.dtype).tiny)[:, None], centres)
        before, near = near, _nearest(points, centres)
        if torch.equal(before, near):
            break
    return centres, near


def _first_centres(points: Tensor, k: int, uniforms: Tensor, weights: Tensor, drawn_before: int) -> Tensor:
    """Positions (k,) of the first centres; once all vectors are among them, of any that are left."""
    picks: list[int] = []
    squares = torch.ones_like(weights)
    for step in range(k):
        chances = weights * squares
        if not bool((chances > 0).any()):
            chances = torch.ones_like(weights).index_fill_(0, torch.tensor(picks, device=weights.device).long(), 0.0)
        drawn = int(proportional(chances, 1, (uniforms.to(torch.float64) + (drawn_before + step) * _GOLDEN) % 1.0))
        picks.append(drawn)
        new = (points - points[drawn]).square().sum(1)
        squares = new if step == 0 else torch.minimum(squares, new)
    return torch.tensor(picks, device=points.device)


def _nearest(points: Tensor, centres: Tensor) -> Tensor:
    """Which centre is nearest to each point, (n,)."""
    return torch.cat([torch.cdist(part, centres).argmin(1) for part in points.split(_ROWS)])


__all__ = ["k_means_medoids"]
