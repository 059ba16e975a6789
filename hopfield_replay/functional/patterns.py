"""Patterns that many samples are compared with, all by this process or each process's share by itself."""

from collections.abc import Iterator
from functools import cached_property

import torch
from torch import Tensor

from hopfield_replay.functional._engine.logsumexp import Sums, merge
from hopfield_replay.functional.many import distances_of, effective_of, energies_of, nearest_of
from hopfield_replay.functional.rows import Matrix, pieces, placed
from hopfield_replay.functional.shared_rows import is_shared, share_of
from hopfield_replay.functional.tiles import PatternTiles
from hopfield_replay.utilities.checks import Similarity
from hopfield_replay.utilities.device import CPU
from hopfield_replay.utilities.distributed import gather_rows, raise_on_all_ranks

_NUMBERS = 1 << 23  # of samples that are compared with all patterns together, where they are read in pieces


class Patterns:
    """Patterns (N, d) and what samples are under them.

    Where rows are spread over processes (:class:`~hopfield_replay.functional.shared_rows.SharedRows`) each process
    compares with those that it holds, and the sums travel; all of them ask for the same samples at the same time.
    Results are (n,) float64 on the CPU.

    Args:
        matrix: (N, d), wherever they are.
        masses: (N,) float64 on the CPU; None: ones.
        device: where they are compared.

    Example:
        >>> patterns = Patterns(torch.eye(3))
        >>> patterns.energies(torch.eye(3), 2.0, exclude=torch.arange(3))  # squared distance 2 to the others
        tensor([1., 1., 1.], dtype=torch.float64)
    """

    def __init__(self, matrix: Matrix, masses: Tensor | None = None, device: torch.device = CPU) -> None:
        self._matrix, self._masses, self._device = matrix, masses, device
        self.shared = is_shared(matrix)

    def energies(
        self, queries: Matrix, beta: float, *, similarity: Similarity = "distance", exclude: Tensor | None = None
    ) -> Tensor:
        """Energies of samples (n, d), as :func:`energy`; ``exclude`` (n,): the pattern that each is, -1 for none."""
        if not self.shared:
            return energies_of(queries, self._tiles, beta, similarity=similarity, exclude=exclude)
        none = torch.empty(0, dtype=torch.float64)
        return torch.cat([none, *(self._energies(*part, beta, similarity) for part in _parts(queries, exclude))])

    def effective(
        self, queries: Tensor, beta: float, *, similarity: Similarity = "distance", exclude: Tensor | None = None
    ) -> Tensor:
        """Effective numbers of patterns, as :func:`effective_patterns`."""
        if not self.shared:
            return effective_of(queries, self._tiles, beta, similarity=similarity, exclude=exclude)
        sums = self._sums(queries, exclude, beta, similarity, concentration=True)
        assert sums.concentration is not None
        return torch.where(sums.concentration > 0, sums.concentration.reciprocal(), 0.0)

    def distances(self, queries: Matrix, k: int, *, exclude: Tensor | None = None) -> Tensor:
        """Distances to the k-th nearest pattern, as :func:`knn_distance`."""
        none = torch.empty(0, dtype=torch.float64)
        return torch.cat([none, *(self._distances(*part, k) for part in _parts(queries, exclude))])

    def _distances(self, queries: Tensor, exclude: Tensor | None, k: int) -> Tensor:
        if not self.shared:
            return distances_of(queries, self._near, k, exclude=exclude)
        nearest = torch.full((len(queries), k), torch.inf, dtype=torch.float64)
        with raise_on_all_ranks("measuring distances"):
            if here := min(k, len(self._mine)):
                nearest[:, :here] = nearest_of(queries, self._near, here, exclude=self._own(exclude))
        return gather_rows(nearest.T.contiguous()).sort(dim=0).values[k - 1]

    @cached_property
    def _share(self) -> tuple[Tensor, Matrix]:
        return share_of(self._matrix) if self.shared else (torch.arange(len(self._matrix)), self._matrix)

    @property
    def _mine(self) -> Tensor:
        return self._share[0]

    @cached_property
    def _near(self) -> Matrix:
        """The patterns that this process compares with, where it does."""
        return placed(self._share[1], self._device)

    @cached_property
    def _tiles(self) -> PatternTiles:
        masses = None if self._masses is None else self._masses[self._mine].to(self._device)
        return PatternTiles.of_rows(self._near, masses)

    def _own(self, exclude: Tensor | None) -> Tensor | None:
        """Which of this process's patterns each sample is, -1 for none; None if none of them is one."""
        if exclude is None:
            return None
        here = torch.full((len(self._matrix) + 1,), -1)
        here[self._mine] = torch.arange(len(self._mine))
        own = here[exclude]  # the last one stands for -1
        return own if bool((own >= 0).any()) else None

    def _energies(self, queries: Tensor, exclude: Tensor | None, beta: float, similarity: Similarity) -> Tensor:
        sums = self._sums(queries, exclude, beta, similarity)
        return _offset(queries, similarity) - sums.log_mean / beta

    def _sums(
        self,
        queries: Tensor,
        exclude: Tensor | None,
        beta: float,
        similarity: Similarity,
        *,
        concentration: bool = False,
    ) -> Sums:
        """What all processes together find, from what each finds by itself."""
        own, offset = self._own(exclude), _offset(queries, similarity)
        found = torch.full((len(queries), 3), -torch.inf, dtype=torch.float64)
        found[:, 2] = 0.0
        with raise_on_all_ranks("measuring energies"):
            if len(self._mine):
                energies = energies_of(queries, self._tiles, beta, similarity=similarity, exclude=own)
                found[:, 0] = self._masses_left(own, len(queries)).log()
                found[:, 1] = (offset - energies) * beta
                if concentration:
                    shared = effective_of(queries, self._tiles, beta, similarity=similarity, exclude=own)
                    found[:, 2] = torch.where(shared > 0, shared.reciprocal(), 0.0)
        every = gather_rows(found[None])
        return merge([Sums(part[:, 0], part[:, 1], part[:, 2] if concentration else None) for part in every])

    def _masses_left(self, own: Tensor | None, count: int) -> Tensor:
        """Mass of this process's patterns for each sample, without the sample itself."""
        masses = torch.ones(len(self._mine), dtype=torch.float64) if self._masses is None else self._masses[self._mine]
        left = masses.sum().expand(count)
        if own is None:
            return left
        zero = masses.new_zeros(1)  # never by subtraction, which cancels
        before = torch.cat([zero, masses.cumsum(0)])
        after = torch.cat([masses.flip(0).cumsum(0).flip(0), zero])
        return torch.where(own >= 0, before[own.clamp(min=0)] + after[own + 1], left)


def _parts(queries: Matrix, exclude: Tensor | None) -> Iterator[tuple[Tensor, Tensor | None]]:
    """Samples that are compared together, and the patterns that they are."""
    whole = isinstance(queries, Tensor)
    for start, piece in [(0, queries)] if isinstance(queries, Tensor) else pieces(queries, _NUMBERS):
        yield piece, exclude if whole or exclude is None else exclude[start : start + len(piece)]


def _offset(queries: Tensor, similarity: Similarity) -> Tensor:
    """What energies hold beside the logarithm, (n,)."""
    if similarity == "distance":
        return torch.zeros(len(queries), dtype=torch.float64)
    return 0.5 * queries.cpu().to(torch.float64).square().sum(1)


__all__ = ["Patterns"]
