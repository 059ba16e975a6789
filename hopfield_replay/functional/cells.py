"""Approximate energies for millions of patterns: only the cells nearest to a query are summed, exactly."""

from dataclasses import dataclass

import torch
from torch import Tensor

from hopfield_replay.functional._engine.scores import LOG2_E
from hopfield_replay.functional._engine.tile_sums import tile_mass
from hopfield_replay.functional.energy import energy
from hopfield_replay.functional.tiles import Tile
from hopfield_replay.utilities.checks import (
    Similarity,
    as_matrix,
    check_beta,
    check_exclude,
    check_masses,
    check_same_space,
    check_similarity,
)
from hopfield_replay.utilities.device import without_autocast

_CHUNK = 4096  # queries or patterns compared with all cell centres at a time


@dataclass(frozen=True)
class ProbeError:
    """How far approximate energies lie above the exact ones, on a sample of the queries.

    Attributes:
        mean: mean of E_approximate - E, in units of energy.
        largest: largest of them in the sample.
        share: share of all patterns that was summed for a query, on average: the cost relative to the exact sum.
        queries: number of queries in the sample.

    Example:
        >>> ProbeError(mean=0.001, largest=0.01, share=0.1, queries=1000).share
        0.1
    """

    mean: float
    largest: float
    share: float
    queries: int


class PatternCells:
    """Patterns grouped into cells by k-means (an inverted-file index), of which a query reads only the nearest.

    Leaving cells out can only raise an energy. By how much depends on beta and on the data, and no useful bound is
    known in high dimension: measure it with :meth:`error` on queries of your own. Worth its k-means from about a
    million patterns on; below, the exact :func:`energy` is the better choice.

    Args:
        patterns: (N, d) or (N, *shape), at least ``cells`` of them. A sorted, centred copy is kept.
        masses: (N,), >= 0; ones if None.
        cells: number of cells; about the square root of N if None.
        seed: of the k-means.

    Raises:
        ImportError: faiss is not installed.
        ValueError: fewer patterns than cells, or values that do not fit.

    Example:
        >>> generator = torch.Generator().manual_seed(0)
        >>> patterns = torch.randn(2000, 4, generator=generator, dtype=torch.float64)
        >>> cells = PatternCells(patterns, cells=20)
        >>> approximate = cells.energy(patterns[:100], beta=10.0, probes=5)
        >>> bool((approximate >= energy(patterns[:100], patterns, 10.0) - 1e-9).all())
        True
    """

    def __init__(
        self, patterns: Tensor, *, masses: Tensor | None = None, cells: int | None = None, seed: int = 0
    ) -> None:
        stored = as_matrix(patterns, "patterns")
        weights = check_masses(masses, stored)
        cells = max(1, round(len(stored) ** 0.5)) if cells is None else cells
        if not 1 <= cells <= len(stored):
            raise ValueError(f"cells must lie between 1 and the number of patterns {len(stored)}, got {cells}.")
        dtype = torch.promote_types(stored.dtype, torch.float32)
        self._patterns, self._masses = stored, weights
        self._centre = stored.mean(0, dtype=torch.float64).to(dtype)
        near = stored.to(dtype) - self._centre
        self._centroids = _centroids(near, cells, seed)
        with without_autocast(stored.device):
            cell = _nearest(near, self._centroids, 1)[:, 0]
        order = cell.argsort(stable=True)
        self._near = near[order]
        self._sorted_masses = None if weights is None else weights[order]
        self._counts = torch.bincount(cell, minlength=cells)
        self._ends = self._counts.cumsum(0).tolist()
        self._place = torch.empty_like(order)
        self._place[order] = torch.arange(len(order), device=order.device)

    def energy(
        self,
        x: Tensor,
        beta: float,
        *,
        probes: int = 16,
        similarity: Similarity = "distance",
        exclude: Tensor | None = None,
        normalize: bool = True,
    ) -> Tensor:
        """Energies under the patterns of the ``probes`` nearest cells; never below the exact ones, but for rounding.

        Args:
            x: queries, (n, d) or (n, *shape).
            beta: inverse temperature, > 0.
            probes: number of cells to sum for each query.
            similarity: ``"distance"`` or ``"dot"``: also what makes a cell near.
            exclude: (n,) index of the pattern that x[i] itself is, -1 for none.
            normalize: divide by the mass of ALL patterns (but the excluded).

        Returns:
            (n,) float64. +inf where no mass is left in the probed cells.

        Raises:
            ValueError, TypeError: as :func:`hopfield_replay.functional.energy`; ``probes`` out of range.
        """
        check_similarity(similarity)
        beta = check_beta(beta)
        if not 1 <= probes <= len(self._centroids):
            raise ValueError(f"probes must lie between 1 and the number of cells {len(self._centroids)}, got {probes}.")
        queries = as_matrix(x, "x")
        check_same_space(queries, self._near.shape[1], self._near.device)
        own = check_exclude(exclude, len(queries), self._patterns)
        with torch.no_grad(), without_autocast(queries.device):
            logarithm = self._log_sum(queries, beta, probes, similarity, own)
            if normalize:
                mass = tile_mass(Tile(0, self._patterns, self._masses), own).log()
                logarithm = torch.where(logarithm == -torch.inf, logarithm, logarithm - mass)
            moved = queries.to(torch.float64) - self._centre
            if similarity == "distance":
                return 0.5 * moved.square().sum(1) - logarithm / beta
            exact = queries.to(torch.float64)
            return 0.5 * exact.square().sum(1) - exact @ self._centre.to(torch.float64) - logarithm / beta

    def error(
        self,
        x: Tensor,
        beta: float,
        *,
        probes: int = 16,
        similarity: Similarity = "distance",
        exclude: Tensor | None = None,
        sample: int = 256,
        seed: int = 0,
    ) -> ProbeError:
        """Compare a random ``sample`` of the queries with the exact energies; arguments as in :meth:`energy`."""
        generator = torch.Generator().manual_seed(seed)
        chosen = torch.randperm(len(x), generator=generator)[:sample].to(x.device)
        left_out = None if exclude is None else exclude[chosen]
        exact = energy(x[chosen], self._patterns, beta, masses=self._masses, similarity=similarity, exclude=left_out)
        gap = self.energy(x[chosen], beta, probes=probes, similarity=similarity, exclude=left_out) - exact
        near = self._moved(as_matrix(x, "x")[chosen])
        with without_autocast(x.device):
            read = self._counts[_nearest(near, self._centroids, probes, similarity, self._centre)].sum(1)
        share = float(read.double().mean()) / len(self._near)
        return ProbeError(float(gap.mean()), float(gap.max()), share, len(chosen))

    def _moved(self, queries: Tensor) -> Tensor:
        return (queries - self._centre).to(self._near.dtype)

    def _log_sum(self, queries: Tensor, beta: float, probes: int, similarity: Similarity, own: Tensor | None) -> Tensor:
        """Log sum w exp(beta <x', xi'> + the part of the score that does not see x), (n,) float64."""
        scale = beta * LOG2_E
        near = self._moved(queries)
        cells = _nearest(near, self._centroids, probes, similarity, self._centre)
        order = cells.flatten().argsort()
        counts = torch.bincount(cells.flatten(), minlength=len(self._centroids)).tolist()
        peak = torch.full((len(queries),), -torch.inf, dtype=torch.float64, device=queries.device)
        total = torch.zeros_like(peak)
        place = None if own is None else torch.where(own >= 0, self._place[own.clamp(min=0)], -1)
        scaled = near * scale
        start = 0
        for rows, end in zip(torch.split(order // probes, counts), self._ends, strict=True):
            if len(rows) and end > start:
                tile = self._near[start:end]
                if similarity == "distance":
                    bias = -0.5 * scale * torch.linalg.vector_norm(tile, dim=1, dtype=torch.float64).square_()
                else:
                    bias = scale * (tile * self._centre).sum(1, dtype=torch.float64)
                if self._sorted_masses is not None:
                    bias += self._sorted_masses[start:end].log2()
                scores = torch.addmm(bias.to(tile.dtype), scaled[rows], tile.T)
                if place is not None:
                    inside = place[rows] - start
                    hit = ((inside >= 0) & (inside < end - start)).nonzero().flatten()
                    scores[hit, inside[hit]] = -torch.inf
                top = torch.maximum(peak[rows], scores.amax(1))
                safe = top.masked_fill(top == -torch.inf, 0.0)
                part = scores.sub_(safe[:, None]).exp2_().sum(1)
                total[rows] = total[rows] * (peak[rows] - safe).exp2_() + part
                peak[rows] = top
            start = end
        return (total.log2() + peak.masked_fill(peak == -torch.inf, 0.0)) / LOG2_E


def _nearest(
    near: Tensor, centroids: Tensor, count: int, similarity: Similarity = "distance", centre: Tensor | None = None
) -> Tensor:
    """Indices (n, count) of the nearest centroids, or of those of largest product, to centred vectors."""
    constant = -0.5 * centroids.square().sum(1)
    if similarity == "dot" and centre is not None:
        constant = centroids @ centre
    chunks = [near[row : row + _CHUNK] for row in range(0, len(near), _CHUNK)]
    nearest = [torch.addmm(constant, chunk, centroids.T).topk(count, sorted=False).indices for chunk in chunks]
    return torch.cat(nearest) if nearest else near.new_zeros(0, count, dtype=torch.int64)


def _centroids(near: Tensor, cells: int, seed: int) -> Tensor:
    try:
        import faiss
    except ImportError as error:
        raise ImportError(
            "The approximate energies need faiss: pip install 'hopfield-replay[faiss]' (or faiss-cpu)."
        ) from error
    kmeans = faiss.Kmeans(
        near.shape[1], cells, niter=10, seed=seed, min_points_per_centroid=1, max_points_per_centroid=64
    )
    kmeans.train(near.to("cpu", torch.float32).numpy())
    return torch.from_numpy(kmeans.centroids).to(near)


__all__ = ["PatternCells", "ProbeError"]
