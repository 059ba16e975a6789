"""Affinity of old samples to replay candidates: how much each candidate would give back of each sample.

The affinity of target k to candidate r is a_kr = m_r q_r(x_k) exp(beta dE(x_k)), so that replaying the set R protects
the energy (1/beta) log(1 + sum_{r in R} a_kr) of target k. The responsibility q_r = exp(score_r) / Z_old and the rise
exp(beta dE) = Z_old / Z_new share Z_old: a_kr = m_r exp(score_kr) / Z_new(x_k) needs the energy under the next task
only.
"""

import copy
import math
from collections.abc import Sequence
from functools import cached_property
from itertools import pairwise

import torch
from torch import Tensor

from hopfield_replay.functional._distances import half_squared_distances
from hopfield_replay.functional.patterns import Patterns
from hopfield_replay.functional.rows import Matrix, half_squares, pieces, sample_mean
from hopfield_replay.functional.shared_rows import is_shared
from hopfield_replay.utilities.checks import (
    Similarity,
    as_matrix,
    as_pair,
    check_beta,
    check_finite,
    check_integer,
    check_masses,
    check_ratio,
    check_same_space,
    check_similarity,
)
from hopfield_replay.utilities.device import in_chunks_that_fit

_CHUNK_ELEMENTS = 1 << 22  # affinities computed at a time: 32 MB
_PIECE = 1 << 18  # numbers of the samples at a time: they stay in the cache
_MATRIX_ELEMENTS = 1 << 25  # affinities held at a time: 256 MB in float64
FINITE = 600.0  # logarithms up to this have a finite exponential in float64, whose largest is e^709
_FINITE_FLOAT32 = 60.0  # the same in float32, whose largest is e^88, with room for sums
_HELD = 1 << 25  # numbers of the targets that are kept in float64: 256 MB


def replay_mass(k: int, replay_share: float) -> float:
    r"""Mass of each of k replayed samples when a share of every batch is replayed: lam / ((1 - lam) k).

    In units in which the whole next task has mass 1, which are those of the normalised energies.

    Args:
        k: number of samples kept, >= 1.
        replay_share: share lam of replayed samples in a batch, in (0, 1).

    Returns:
        The mass, > 0.

    Raises:
        ValueError: k or the share out of range.

    Example:
        >>> replay_mass(100, 0.5)
        0.01

    Source: a batch shows the N_new samples with weight (1 - lam) / N_new each and the kept ones with lam / k each.
    """
    check_integer(k, "k", 1)
    check_ratio(replay_share, "replay_share")
    return replay_share / ((1 - replay_share) * k)


def far_task_energy(old: Matrix) -> float:
    r"""Energy of every old sample under a next task that is not known: one constant, that of a far task.

    The N samples of a task that has nothing to do with the old ones are about equally far from each of them, say at
    squared distance D^2. Then log sum_nu exp(-beta |x_k - eta_nu|^2 / 2) = log N - beta D^2 / 2 for every old sample
    x_k: the normalised energy is D^2 / 2 whatever beta, k and N. As D^2 serves the mean squared distance between two
    old samples, the distance of unrelated samples in data of this spread, so that D^2 / 2 is the total variance.

    With this constant the affinity of a kept sample r is m_r exp(-beta (|x_k - x_r|^2 - D^2) / 2), and the gain is
    coverage: for large beta each target is protected by max(0, D^2 - min_r |x_k - x_r|^2) / 2, which is facility
    location on squared distances, capped at D^2.

    Args:
        old: old samples, floating, (n, d) or (n, *shape), n >= 2, or Rows.

    Returns:
        D^2 / 2 >= 0, in units of squared distance (distance form).

    Raises:
        ValueError: fewer than two samples, NaN or infinite values.
        TypeError: not a floating tensor.

    Example:
        >>> import torch
        >>> far_task_energy(torch.tensor([[0.0, 0.0], [3.0, 4.0]]))  # one pair, at squared distance 25
        12.5
    """
    matrix = as_matrix(old, "old") if isinstance(old, Tensor) else old
    if len(matrix) < 2:
        raise ValueError(f"old must hold at least two samples to have a distance between them, got {len(matrix)}.")
    # around a mean of some, and corrected: one pass, in as many digits as the samples have
    near = sample_mean(matrix)
    dtype = torch.promote_types(matrix.dtype, torch.float32)
    sums, square = torch.zeros_like(near), 0.0
    for _, piece in pieces(matrix, _PIECE):
        moved = piece.to(dtype) - near.to(dtype)
        sums += moved.sum(0)
        square += float(torch.linalg.vector_norm(moved, dim=1).to(torch.float64).square().sum())
    return max(0.0, square - float(sums.square().sum()) / len(matrix)) / (len(matrix) - 1)


class StreamedAffinity:
    r"""Affinities that are computed from the vectors when asked for, in memory that does not grow with their number.

    Args:
        targets: samples to protect, floating, (n, d) or (n, *shape), or :class:`~hopfield_replay.functional.rows.Rows`.
        candidates: samples that could be replayed, (C, d) or (C, *shape), likewise.
        new_energies: energies of the targets under the next task's patterns, (n,) or one number for all, for instance
            ``energy(targets, new, beta)`` when the next task is known and ``far_task_energy(targets)`` when not.
        beta: inverse temperature, > 0.
        masses: mass of each replayed sample, (C,) or one number for all, >= 0, in the units of ``new_energies``: of the
            whole next task if those are normalised (see :func:`replay_mass`), of one pattern if not.
        similarity: ``"distance"`` or ``"dot"``; that of ``new_energies``.

    Raises:
        ValueError, TypeError: as :func:`energy`; energies that are not finite.

    Example:
        >>> import torch
        >>> x = torch.tensor([[0.0], [1.0], [5.0]])
        >>> rows = StreamedAffinity(x, x, far_task_energy(x), beta=1.0, masses=0.1)
        >>> rows.shape
        (3, 3)
        >>> rows.log_rows(torch.tensor([1])).round(decimals=3)  # of candidate 1 to the three targets
        tensor([[ 4.1970,  4.6970, -3.3030]], dtype=torch.float64)
    """

    def __init__(
        self,
        targets: Matrix,
        candidates: Matrix,
        new_energies: Tensor | float,
        beta: float,
        *,
        masses: Tensor | float,
        similarity: Similarity = "distance",
    ) -> None:
        check_similarity(similarity)
        self.beta = check_beta(beta)
        self.similarity = similarity
        self.targets, self.candidates = _pair(targets, candidates)
        self.among_themselves = targets is candidates
        n, device = len(self.targets), self.targets.device
        energies = torch.as_tensor(new_energies, dtype=torch.float64, device=device)
        if energies.ndim and energies.shape != (n,):
            raise ValueError(
                f"new_energies must be one number or have shape ({n},), one for each target, "
                f"got {tuple(energies.shape)}."
            )
        check_finite(energies.reshape(-1), "new_energies")
        if not isinstance(masses, Tensor):
            masses = torch.full((len(self.candidates),), float(masses), dtype=torch.float64, device=device)
        weights = check_masses(masses, self.candidates)
        assert weights is not None
        self._masses, self.log_masses = weights, weights.log()
        # one centre for both: the distances do not see it, rounding does
        self.centre = torch.zeros(self.targets.shape[1], dtype=torch.float64, device=device)
        if n and similarity == "distance":
            few = self._few
            self.centre = sample_mean(self.targets) if few is None else few.mean(0, dtype=torch.float64)
        self.log_inverse = self.beta * energies.expand(n)  # -log Z_new of each target
        if similarity == "dot":
            self.log_inverse = self.log_inverse - half_squares(self.targets).mul_(self.beta)

    @property
    def _few(self) -> Tensor | None:
        """The targets where they are few."""
        return self.targets if isinstance(self.targets, Tensor) and self.targets.numel() <= _HELD else None

    @cached_property
    def _held(self) -> Tensor | None:
        """The targets as their products are computed, where they are few: only what is asked candidate by candidate."""
        return None if self._few is None else self._few.to(torch.float64) - self.centre

    @property
    def shape(self) -> tuple[int, int]:
        """Numbers of targets and of candidates, (n, C)."""
        return len(self.targets), len(self.candidates)

    @property
    def device(self) -> torch.device:
        """Device of the vectors."""
        return self.targets.device

    def __mul__(self, factor: float) -> "StreamedAffinity":
        """The affinities with every mass multiplied by a factor > 0, as a matrix would be."""
        scaled = copy.copy(self)
        scaled._masses, scaled.log_masses = self._masses * factor, self.log_masses + math.log(factor)
        return scaled

    def log_rows(self, index: Tensor) -> Tensor:
        """Log affinities of the candidates ``index`` (b,) to every target, (b, n) float64; -inf for mass 0."""
        chosen = self.candidates[index].to(torch.float64) - self.centre
        if self._held is not None:
            scores = self._scores(chosen, self._held)
        else:
            scores = chosen.new_empty(len(index), len(self.targets))
            for start, piece in pieces(self.targets):
                scores[:, start : start + len(piece)] = self._scores(chosen, piece.to(torch.float64) - self.centre)
        return scores.add_(self.log_inverse).add_(self.log_masses[index, None])

    def log_sums(self, index: Tensor) -> Tensor:
        """Log of the affinity of each target to the candidates ``index`` (b,) together, (n,) float64."""
        return self.log_sums_of_first(index, [len(index)])[0]

    def log_sums_of_first(self, index: Tensor, sizes: Sequence[int]) -> Tensor:
        """The same of the first so many of these candidates, for each of the rising sizes, (sizes, n) float64."""
        chosen = self.candidates[index].to(torch.float64) - self.centre
        masses = self.log_masses[index, None]
        numbers = _CHUNK_ELEMENTS * self.targets.shape[1] // max(1, len(index), self.targets.shape[1])
        sums = []
        for _, piece in pieces(self.targets, numbers):
            logs = self._scores(chosen, piece.to(torch.float64) - self.centre).add_(masses)
            parts = [logs[first:last].logsumexp(0) for first, last in pairwise([0, *sizes])]
            sums.append(torch.stack(parts).logcumsumexp(0))
        return self.log_inverse + torch.cat(sums, dim=1)

    def _scores(self, chosen: Tensor, targets: Tensor) -> Tensor:
        if self.similarity == "dot":
            return self.beta * (chosen @ targets.T)
        return half_squared_distances(chosen, targets).mul_(-self.beta)

    def log_totals(self) -> Tensor:
        """Log of the affinity of each target to all candidates together, (n,) float64."""
        near = Patterns(self.candidates, self._masses.cpu(), self.device)
        total = near.energies(self.targets, self.beta, similarity=self.similarity).to(self.device)
        if self.similarity == "dot":
            total = total - half_squares(self.targets)
        return self.log_inverse - self.beta * total + self._masses.sum().log()

    def matrix(self, dtype: torch.dtype = torch.float64, place: torch.device | None = None) -> Tensor:
        """All affinities, (n, C), whose transpose is contiguous; values too large for ``dtype`` are infinite.

        Args:
            dtype: of the result.
            place: device of the result; None: where the vectors are.

        Raises:
            MemoryError: not even those of one candidate fit on the vectors' device.
        """
        n, count = self.shape
        result = torch.empty(count, n, dtype=dtype, device=self.device if place is None else place)
        step = max(1, _CHUNK_ELEMENTS // max(1, n))
        if is_shared(self.targets) or is_shared(self.candidates):
            self._fill_from_shared(result, step)
            return result.T

        def fill(size: int) -> None:
            for start in range(0, count, size):
                index = torch.arange(start, min(start + size, count), device=self.device)
                result[start : start + len(index)] = self.log_rows(index).exp_()

        in_chunks_that_fit(fill, step, "The affinities do")
        return result.T

    def _fill_from_shared(self, result: Tensor, step: int) -> None:
        """All affinities: the processes ask each other for the same pieces, whichever of them is short of memory."""
        for first in range(0, len(self.candidates), step):
            index = torch.arange(first, min(first + step, len(self.candidates)), device=self.device)
            chosen, masses = self.candidates[index].to(torch.float64) - self.centre, self.log_masses[index, None]
            for start, piece in pieces(self.targets):
                moved = piece.to(torch.float64) - self.centre
                window = slice(start, start + len(piece))

                def fill(
                    size: int,
                    chosen: Tensor = chosen,
                    moved: Tensor = moved,
                    masses: Tensor = masses,
                    first: int = first,
                    window: slice = window,
                ) -> None:
                    for at in range(0, len(chosen), size):
                        logs = self._scores(chosen[at : at + size], moved).add_(self.log_inverse[window])
                        logs = logs.add_(masses[at : at + size]).exp_()
                        result[first + at : first + at + len(logs), window] = logs

                in_chunks_that_fit(fill, len(chosen), "The affinities do")


def _pair(targets: Matrix, candidates: Matrix) -> tuple[Matrix, Matrix]:
    """Targets and candidates, checked where they are tensors; what lies in parts was checked when it was put there."""
    if isinstance(targets, Tensor) and isinstance(candidates, Tensor):
        return as_pair(targets, candidates)
    checked = [as_matrix(x, n) if isinstance(x, Tensor) else x for x, n in ((targets, "x"), (candidates, "patterns"))]
    check_same_space(checked[0], checked[1].shape[1], checked[1].device)
    return checked[0], checked[1]


def affinity(
    targets: Tensor,
    candidates: Tensor,
    new_energies: Tensor | float,
    beta: float,
    *,
    masses: Tensor | float,
    similarity: Similarity = "distance",
    dtype: torch.dtype = torch.float64,
) -> Tensor:
    r"""Affinity matrix a_kr = m_r q_r(x_k) exp(beta dE(x_k)) of targets and candidates.

    .. math:: a_{kr} = m_r\, e^{\mathrm{score}_r(x_k)} / Z_\mathrm{new}(x_k)

    A target that is itself a candidate has its own affinity too: replaying a sample does protect it, by exactly this
    much. No leave-one-out enters, since the energies before the task change cancel.

    Args:
        targets: samples to protect, floating, (n, d) or (n, *shape).
        candidates: samples that could be replayed, (C, d) or (C, *shape).
        new_energies: energies of the targets under the next task's patterns, (n,) or one number for all, for instance
            ``energy(targets, new, beta)`` when the next task is known and :func:`far_task_energy` when it is not.
        beta: inverse temperature, > 0.
        masses: mass of each replayed sample, (C,) or one number for all, >= 0, in the units of ``new_energies``: of the
            whole next task if those are normalised (see :func:`replay_mass`), of one pattern if not.
        similarity: ``"distance"`` or ``"dot"``; that of ``new_energies``.
        dtype: of the result. float32 halves the memory; the sums of the selection are float64 either way.

    Returns:
        (n, C), >= 0. Its transpose is contiguous, as the selection reads it candidate by candidate.

    Raises:
        ValueError, TypeError: as :func:`energy`; affinities too large for ``dtype`` (then use
        :class:`StreamedAffinity`,
            which keeps their logarithms, or a smaller beta).

    Example:
        >>> import torch
        >>> old = torch.tensor([[0.0], [1.0]]); new = torch.tensor([[9.0]])
        >>> from hopfield_replay.functional import energy, replay_gain
        >>> a = affinity(old, old, energy(old, new, 0.1), beta=0.1, masses=1.0)
        >>> bool(torch.allclose(a[:, 0].log1p() / 0.1, replay_gain(old, old, new, old[:1], 0.1)))
        True

    Source: the identity of :func:`replay_gain`.
    """
    rows = StreamedAffinity(targets, candidates, new_energies, beta, masses=masses, similarity=similarity)
    return affinity_matrix(rows, dtype)


def affinity_matrix(
    rows: StreamedAffinity, dtype: torch.dtype = torch.float64, place: torch.device | None = None
) -> Tensor:
    """The affinities as a matrix, see :func:`affinity`, on a device; None: where the vectors are.

    Raises:
        ValueError: affinities too large for ``dtype``.
    """
    result = rows.matrix(dtype, place)
    if result.numel() and not math.isfinite(result.max().item()):
        raise ValueError(
            f"affinities at beta={rows.beta} are too large for {dtype}. Pass a StreamedAffinity to the selection "
            "instead, which keeps their logarithms, or use a smaller beta."
        )
    return result


def matrix_or_streamed(
    rows: StreamedAffinity,
    *,
    elements: int | None = _MATRIX_ELEMENTS,
    narrow: bool = False,
    place: torch.device | None = None,
) -> Tensor | StreamedAffinity:
    """The affinities as a matrix, which is faster to select from, where it fits into memory and into the floats.

    Args:
        rows: the affinities.
        elements: largest number of elements of a matrix; None: any.
        narrow: whether to hold the matrix in float32 where that has room for it: half the memory.
        place: device of the matrix; None: where the vectors are.

    Returns:
        The matrix (n, C), or ``rows`` themselves.

    Example:
        >>> x = torch.tensor([[0.0], [1.0], [5.0]])
        >>> rows = StreamedAffinity(x, x, far_task_energy(x), beta=1.0, masses=0.1)
        >>> matrix_or_streamed(rows).dtype, matrix_or_streamed(rows, narrow=True).dtype
        (torch.float64, torch.float32)
        >>> matrix_or_streamed(rows, elements=8) is rows
        True
    """
    n, count = rows.shape
    if elements is not None and n * count > elements:
        return rows
    largest = float(rows.log_totals().max()) if n else 0.0
    if not largest < FINITE:
        return rows
    return rows.matrix(torch.float32 if narrow and largest < _FINITE_FLOAT32 else torch.float64, place)
