"""Orders of samples by their geometry: what other replay policies keep, best first."""

from functools import partial

import torch
from torch import Tensor

from hopfield_replay.functional._distances import half_squared_distances
from hopfield_replay.functional._lazy import LazyGreedy
from hopfield_replay.functional._points import Points
from hopfield_replay.functional._sparse_gains import SparseCloseness
from hopfield_replay.functional.affinity import StreamedAffinity
from hopfield_replay.functional.neighbours import knn_distance
from hopfield_replay.functional.rows import Matrix, picked
from hopfield_replay.functional.sparse_affinity import SparseAffinity
from hopfield_replay.utilities.checks import as_matrix, check_integer

_LISTED, _LEAST = 3, 32  # distances that are kept of each of many vectors, for each one that there is to a pick
_ENTRIES = 1 << 24  # of these in all: 400 MB while they are put in order
_ASKED = 64  # vectors whose distance to a near neighbour sets the scale
_CHUNK_ELEMENTS = 1 << 22  # distances, or vector entries, held at a time: 32 MB
_KEPT_ELEMENTS = 1 << 27  # distances that facility_location keeps instead of computing them again: 512 MB


def _centred(vectors: Tensor, k: int) -> Tensor:
    matrix = as_matrix(vectors, "vectors").to(torch.float64)
    check_integer(k, "k", 1, len(matrix), of="the number of vectors", wrong_type=TypeError)
    return matrix - matrix.mean(0)


def _distances(points: Tensor, point: Tensor) -> Tensor:
    """Distance of every point to one, (n,), by differences: equal points are at distance 0 exactly."""
    return torch.cdist(points, point[None], compute_mode="donot_use_mm_for_euclid_dist")[:, 0]


def k_center(vectors: Matrix, k: int, *, start: int | None = None) -> Tensor:
    r"""Farthest-first order: each pick is the vector farthest from all picked before.

    The first k picks cover all vectors within at most twice the smallest radius that k centres can reach.

    Args:
        vectors: floating, (n, d) or (n, *shape); or Rows, read once for each pick.
        k: number of picks, from 1 to n.
        start: first pick; the vector nearest to the mean if None.

    Returns:
        (k,) int64, first pick first. Of equally far vectors the lowest index.

    Raises:
        ValueError, TypeError: k or start out of range, vectors that are no finite floating matrix.

    Example:
        >>> import torch
        >>> k_center(torch.tensor([[0.0], [1.0], [4.0], [9.0]]), 3, start=0)
        tensor([0, 3, 2])

    Source: Gonzalez (1985), Clustering to minimize the maximum intercluster distance; Sener, Savarese,
    arXiv:1708.00489 (core-sets).
    """
    points = Points(vectors, k)
    if start is None:
        start = int(points.each(lambda rows: (rows - points.mean).square().sum(1)).argmin())
    elif not 0 <= start < len(points):
        raise ValueError(f"start must be an index in [0, {len(points)}), got {start}.")
    picks = [start]
    nearest = torch.full((len(points),), torch.inf, dtype=torch.float64, device=points.device)
    while len(picks) < k:
        last = points[picks[-1]]  # not centred, which would round equal distances apart
        nearest = torch.minimum(nearest, points.each(partial(_distances, point=last)))
        nearest[picks[-1]] = -1.0  # below every distance: never again, not even beside duplicates
        picks.append(int(nearest.argmax()))
    return torch.tensor(picks, device=points.device)


class _Closeness:
    """Fall of the summed distance to the nearest pick, a monotone submodular function of the picks."""

    def __init__(self, points: Tensor) -> None:
        self._points = points
        # before the first pick every vector is farther than any other could be: the first pick is the medoid
        self._nearest = points.new_full((len(points),), 2 * float(points.square().sum(1).max().sqrt()))
        small = len(points) ** 2 <= _KEPT_ELEMENTS
        self._rows = self._all_rows() if small else None

    @property
    def candidates(self) -> int:
        return len(self._points)

    @property
    def exact_bounds(self) -> bool:
        return True

    def _all_rows(self) -> Tensor:
        every = torch.arange(len(self._points), device=self._points.device)
        rows = torch.empty(len(every), len(every), dtype=torch.float32, device=every.device)
        for index in torch.split(every, max(1, _CHUNK_ELEMENTS // len(every))):
            rows[index] = self._distances(index).float()
        return rows

    def _distances(self, index: Tensor) -> Tensor:
        rows = half_squared_distances(self._points[index], self._points).mul_(2).sqrt_()
        rows[torch.arange(len(index)), index] = 0.0
        return rows

    def _chosen_rows(self, index: list[int]) -> Tensor:
        if self._rows is not None:
            return self._rows[index].to(torch.float64)
        return self._distances(torch.tensor(index, device=self._points.device))

    def bound(self, index: list[int]) -> list[float]:
        gains: list[float] = []
        step = max(1, _CHUNK_ELEMENTS // len(self._points))
        for i in range(0, len(index), step):
            gains += (self._nearest - self._chosen_rows(index[i : i + step])).clamp_(min=0).sum(1).tolist()
        return gains

    exact = bound

    def add(self, candidate: int) -> None:
        self._nearest = torch.minimum(self._nearest, self._chosen_rows([candidate])[0])


def facility_location(vectors: Matrix, k: int) -> Tensor:
    r"""Greedy k-medoids: each pick lowers the summed distance of all vectors to their nearest pick the most.

    Minimises sum_i min_{s in S} |x_i - x_s|, whose fall is monotone and submodular. The first pick is the medoid.

    Args:
        vectors: floating, (n, d) or (n, *shape), or Rows. Up to 11585 vectors all distances are kept, in float32 (at
            most 512 MB). Of more those to the nearest 3 n / k of each, as a projection tells them, and no vector counts
            as farther from the picks than these reach; where they would be too many, an even share of the vectors
            competes.
        k: number of picks, from 1 to n.

    Returns:
        (k,) int64, best first: the first j picks are the greedy set of size j. Of gains equal to 1e-7 the lowest index.

    Raises:
        ValueError, TypeError: k out of range, vectors that are no finite floating matrix.

    Example:
        >>> import torch
        >>> facility_location(torch.tensor([[0.0], [1.0], [2.0], [9.0]]), 2)
        tensor([1, 3])

    Source: Kaufman, Rousseeuw (1990), the BUILD phase of k-medoids; Cornuejols, Fisher, Nemhauser (1977).
    """
    if len(vectors) ** 2 > _KEPT_ELEMENTS:
        return _sparse_facility_location(as_matrix(vectors, "vectors") if isinstance(vectors, Tensor) else vectors, k)
    points = _centred(vectors[:], k)
    greedy = LazyGreedy(_Closeness(points), [0] * len(points), [k], tie=1e-7)
    greedy.run(k)
    return torch.tensor(greedy.picks, device=points.device)


def _sparse_facility_location(vectors: Matrix, k: int) -> Tensor:
    """Of the distances to the nearest of each vector alone."""
    n = len(vectors)
    check_integer(k, "k", 1, n, of="the number of vectors", wrong_type=TypeError)
    keep = min(n, max(1, min(max(_LEAST, _LISTED * n // k), _ENTRIES // n)))
    count = n if keep == n or keep * k >= 2 * n else max(k, keep * k // 2)
    chosen = torch.linspace(0, n - 1, count, dtype=torch.float64).round().to(torch.int64)
    own = torch.full((n,), -1).index_copy_(0, chosen, torch.arange(count))
    some = torch.linspace(0, n - 1, _ASKED, dtype=torch.float64).round().to(torch.int64)
    near = knn_distance(vectors[some], vectors, min(10, n - 1), exclude=some.to(vectors.device)).square().median()
    # at this temperature an error of one nat is one of a tenth of the squared distances of near neighbours
    beta = 20.0 / max(float(near), 1e-30)
    rows = StreamedAffinity(vectors, picked(vectors, chosen), 0.0, beta, masses=1.0)
    function = SparseCloseness(SparseAffinity(rows, keep, own=own, error=1.0))
    greedy = LazyGreedy(function, [0] * count, [k], tie=1e-7)
    greedy.run(k)
    return chosen[torch.tensor(greedy.picks)].to(vectors.device)


def _along(rows: Tensor, direction: Tensor, centre: Tensor) -> Tensor:
    """Products of the centred rows with a direction."""
    return (rows - centre) @ direction


def herding(vectors: Matrix, k: int) -> Tensor:
    r"""Herding: each pick brings the mean of the picks closest to the mean of all vectors.

    Pick t minimises |mean - (x + x_{s_1} + ... + x_{s_{t-1}}) / t| among the vectors not yet picked. For vectors of one
    norm this is Welling's herding, argmax <w, x> with w <- w + mean - x.

    Args:
        vectors: floating, (n, d) or (n, *shape); or Rows, read once for each pick.
        k: number of picks, from 1 to n.

    Returns:
        (k,) int64, first pick first; of equal vectors the lowest index.

    Raises:
        ValueError, TypeError: k out of range, vectors that are no finite floating matrix.

    Example:
        >>> import torch
        >>> herding(torch.tensor([[-3.0], [1.0], [5.0], [-2.0]]), 2)  # mean 0.25: nearest is 1, then (1 - 2) / 2
        tensor([1, 3])

    Source: Welling (2009), Herding dynamical weights to learn; Rebuffi et al., arXiv:1611.07725 (exemplars of iCaRL).
    """
    points = Points(vectors, k)  # around their mean pick t minimises |x|^2 + 2 <x, sum of the picks>
    norms = points.each(lambda rows: (rows - points.mean).square().sum(1))
    total = torch.zeros_like(points.mean)
    free = torch.ones(len(points), dtype=torch.bool, device=points.device)
    picks: list[int] = []
    for _ in range(k):
        along = points.each(partial(_along, direction=total, centre=points.mean))
        scores = norms + 2 * along
        slack = 1e-12 * float(scores.abs().max())  # rounding of the products must not decide between duplicates
        best = free & (scores <= scores[free].min() + slack)
        picks.append(int(best.nonzero()[0]))
        free[picks[-1]] = False
        total = total + (points[picks[-1]] - points.mean)
    return torch.tensor(picks, device=points.device)
