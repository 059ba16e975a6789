"""Modern Hopfield energies of queries under patterns, and what follows from them.

With patterns xi_1..xi_N, masses w_mu >= 0 and inverse temperature beta > 0 a query x has the scores

* ``similarity="distance"``: s_mu = -beta |x - xi_mu|^2 / 2 and the energy Ed(x) = -(1/beta) log sum_mu w_mu exp(s_mu),
* ``similarity="dot"``: s_mu = beta <x, xi_mu> and E(x) = |x|^2 / 2 - (1/beta) log sum_mu w_mu exp(s_mu).

Both have the gradient x - retrieval(x). The distance form is the noise-perturbed data density of a diffusion model at
the timestep with signal-to-noise ratio beta (up to a constant); the dot form is that of Ramsauer et al.
(arXiv:2008.02217)
and of Takeda, Oizumi and Karakida (arXiv:2605.27975), for patterns of unit norm.
"""

import warnings

import torch
from torch import Tensor

from hopfield_replay.functional._logsumexp import Sums, scores, stream
from hopfield_replay.functional._validate import (
    Similarity,
    as_pair,
    check_beta,
    check_exclude,
    check_masses,
    check_similarity,
)


def _sums(
    x: Tensor,
    patterns: Tensor,
    beta: float,
    masses: Tensor | None,
    similarity: Similarity,
    exclude: Tensor | None,
    mean: bool = False,
    names: str = "",
) -> tuple[Tensor, Sums]:
    check_similarity(similarity)
    beta = check_beta(beta)
    queries, stored = as_pair(x, patterns)
    weights = check_masses(masses, stored, f"{names}masses")
    index = check_exclude(exclude, len(queries), stored)
    return queries, stream(queries, stored, beta, masses=weights, similarity=similarity, exclude=index, mean=mean)


def energy(
    x: Tensor,
    patterns: Tensor,
    beta: float,
    *,
    masses: Tensor | None = None,
    similarity: Similarity = "distance",
    exclude: Tensor | None = None,
    normalize: bool = True,
) -> Tensor:
    r"""Modern Hopfield energy of each query under the patterns.

    .. math:: E_d(x) = -\frac1\beta \log \sum_\mu w_\mu e^{-\beta |x - \xi_\mu|^2 / 2}, \qquad
              E(x) = \frac{|x|^2}{2} - \frac1\beta \log \sum_\mu w_\mu e^{\beta \langle x, \xi_\mu \rangle}

    Args:
        x: queries, floating, (n, d) or (n, *shape).
        patterns: stored patterns, floating, (N, d) or (N, *shape), on the same device.
        beta: inverse temperature, > 0, in units of one over squared distance.
        masses: weight w_mu >= 0 of each pattern, (N,); ones if None.
        similarity: ``"distance"`` (images, latents) or ``"dot"`` (unit-norm patterns).
        exclude: LongTensor (n,): the index of the pattern that x[i] itself is, -1 for none. The energy is then the
            leave-one-out energy: that of x[i] under all patterns but this one, masses normalised over the others.
        normalize: divide the masses by their sum, so that the energy does not change with the mere number of patterns.

    Returns:
        (n,) float64, in units of squared distance. +inf where no mass is left (no patterns, or all masses zero).

    Raises:
        ValueError: shapes, devices or values do not fit (each message names what was given).
        TypeError: a tensor of integers, booleans or complex numbers.

    Example:
        >>> import torch
        >>> patterns = torch.eye(3, dtype=torch.float64)
        >>> energy(patterns, patterns, beta=2.0, normalize=False).round(decimals=4)
        tensor([-0.1198, -0.1198, -0.1198], dtype=torch.float64)
        >>> energy(patterns, patterns, beta=2.0, exclude=torch.arange(3))  # squared distance 2 to the others
        tensor([1., 1., 1.], dtype=torch.float64)

    Source: Takeda, Oizumi, Karakida, arXiv:2605.27975 (dot form).
    """
    queries, sums = _sums(x, patterns, beta, masses, similarity, exclude)
    return _energy(queries, sums, beta, similarity, normalize)


def _energy(queries: Tensor, sums: Sums, beta: float, similarity: Similarity, normalize: bool) -> Tensor:
    logsumexp = sums.logsumexp
    if normalize:
        logsumexp = torch.where(logsumexp == -torch.inf, logsumexp, logsumexp - sums.log_mass)
    if similarity == "distance":
        return -logsumexp / beta
    return 0.5 * queries.to(torch.float64).square().sum(1) - logsumexp / beta


def responsibilities(
    x: Tensor,
    patterns: Tensor,
    beta: float,
    *,
    masses: Tensor | None = None,
    similarity: Similarity = "distance",
    exclude: Tensor | None = None,
) -> Tensor:
    r"""Responsibility of each pattern for each query: :math:`p_\mu(x) = \mathrm{softmax}_\mu(\log w_\mu + s_\mu(x))`.

    The only function here whose result, and memory, is (n, N).

    Args:
        x: queries, (n, d) or (n, *shape).
        patterns: (N, d) or (N, *shape).
        beta: inverse temperature, > 0.
        masses: (N,), >= 0; ones if None.
        similarity: ``"distance"`` or ``"dot"``.
        exclude: (n,) index of the pattern that x[i] itself is (its responsibility is 0), -1 for none.

    Returns:
        (n, N) float64; rows sum to 1, or are all 0 where no mass is left.

    Raises:
        ValueError, TypeError: as :func:`energy`.

    Example:
        >>> import torch
        >>> responsibilities(torch.zeros(1, 2), torch.eye(2), beta=1.0)
        tensor([[0.5000, 0.5000]], dtype=torch.float64)

    Source: arXiv:2008.02217, equation 3 (the softmax of the update rule).
    """
    queries, sums = _sums(x, patterns, beta, masses, similarity, exclude)
    stored = patterns.reshape(len(patterns), -1).to(torch.float64)
    centre = stored.mean(0) if similarity == "distance" and len(stored) else torch.zeros_like(queries[:0]).sum(0)
    logits = scores(queries.to(torch.float64) - centre, stored - centre, float(beta), similarity)
    if masses is not None:
        logits += masses.to(torch.float64).log()
    if exclude is not None:
        rows = (exclude >= 0).nonzero().flatten()
        logits[rows, exclude[rows]] = -torch.inf
    shift = sums.logsumexp.masked_fill(sums.logsumexp == -torch.inf, 0.0)
    return (logits - shift[:, None]).exp()


def retrieve(
    x: Tensor,
    patterns: Tensor,
    beta: float,
    *,
    masses: Tensor | None = None,
    similarity: Similarity = "distance",
    steps: int = 1,
) -> Tensor:
    r"""Retrieval: ``steps`` times :math:`x \leftarrow \sum_\mu p_\mu(x)\, \xi_\mu`, which never raises the energy.

    In the distance form one step is the optimal denoiser's estimate of the clean sample at signal-to-noise ratio beta.

    Args:
        x: queries, (n, d) or (n, *shape).
        patterns: (N, d) or (N, *shape).
        beta: inverse temperature, > 0.
        masses: (N,), >= 0; ones if None.
        similarity: ``"distance"`` or ``"dot"``.
        steps: number of updates, >= 1.

    Returns:
        (n, d) float64; zeros where no mass is left (so that the gradient x - retrieval is x).

    Raises:
        ValueError, TypeError: as :func:`energy`; steps below 1.

    Example:
        >>> import torch
        >>> retrieve(torch.tensor([[0.9, 0.0]]), torch.eye(2), beta=50.0).round(decimals=6)
        tensor([[1., 0.]], dtype=torch.float64)

    Source: arXiv:2008.02217, equation 3.
    """
    if isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
        raise ValueError(f"steps must be a whole number >= 1, got {steps!r}.")
    for _ in range(steps):
        _, sums = _sums(x, patterns, beta, masses, similarity, None, mean=True)
        assert sums.mean is not None
        x = sums.mean
    return x


def fixed_points(
    x: Tensor,
    patterns: Tensor,
    beta: float,
    *,
    masses: Tensor | None = None,
    similarity: Similarity = "distance",
    tol: float = 1e-10,
    max_iter: int = 1000,
) -> Tensor:
    r"""Fixed point of the retrieval that is reached from each query.

    Iterates until every coordinate moves by at most ``tol``. Several queries may end in one (merged) fixed point: then
    beta is too small to tell their patterns apart.

    Args:
        x: start points, (n, d) or (n, *shape).
        patterns: (N, d) or (N, *shape).
        beta: inverse temperature, > 0.
        masses: (N,), >= 0; ones if None.
        similarity: ``"distance"`` or ``"dot"``.
        tol: largest change of a coordinate in the last step, > 0, in units of x.
        max_iter: largest number of retrievals, >= 1. Points that still move then are returned as is, with a warning.

    Returns:
        (n, d) float64.

    Raises:
        ValueError, TypeError: as :func:`energy`; ``tol`` or ``max_iter`` out of range.

    Example:
        >>> import torch
        >>> fixed_points(torch.eye(2), torch.eye(2), beta=1.0).round(decimals=4)  # merged: both end in the mean
        tensor([[0.5000, 0.5000],
                [0.5000, 0.5000]], dtype=torch.float64)

    Source: arXiv:2008.02217, theorems 1 and 2 (convergence of the update).
    """
    if not tol > 0:
        raise ValueError(f"tol must be positive, got {tol}.")
    if isinstance(max_iter, bool) or not isinstance(max_iter, int) or max_iter < 1:
        raise ValueError(f"max_iter must be a whole number >= 1, got {max_iter!r}.")
    points = x.reshape(len(x), -1).to(torch.float64) if isinstance(x, Tensor) and x.ndim > 1 else x
    moving = torch.arange(len(points), device=points.device)
    for _ in range(max_iter):
        following = retrieve(points[moving], patterns, beta, masses=masses, similarity=similarity)
        change = (following - points[moving]).abs().amax(1) if len(moving) else points.new_zeros(0)
        points = points.index_copy(0, moving, following)
        moving = moving[change > tol]
        if not len(moving):
            return points
    warnings.warn(
        f"{len(moving)} of {len(points)} points still moved by more than tol={tol} after max_iter={max_iter} "
        "retrievals; raise max_iter or tol.",
        stacklevel=2,
    )
    return points


def effective_patterns(
    x: Tensor,
    patterns: Tensor,
    beta: float,
    *,
    masses: Tensor | None = None,
    similarity: Similarity = "distance",
    exclude: Tensor | None = None,
) -> Tensor:
    r"""Effective number of patterns that share a query: :math:`n_\mathrm{eff}(x) = 1 / \sum_\mu p_\mu(x)^2`.

    Args:
        x: queries, (n, d) or (n, *shape).
        patterns: (N, d) or (N, *shape).
        beta: inverse temperature, > 0.
        masses: (N,), >= 0; ones if None.
        similarity: ``"distance"`` or ``"dot"``.
        exclude: (n,) index of the pattern that x[i] itself is, -1 for none.

    Returns:
        (n,) float64 in [1, N]; 0 where no mass is left.

    Raises:
        ValueError, TypeError: as :func:`energy`.

    Example:
        >>> import torch
        >>> effective_patterns(torch.zeros(1, 4), torch.eye(4), beta=1.0).round(decimals=6)
        tensor([4.], dtype=torch.float64)

    Source: inverse participation ratio; Kish's effective sample size of the responsibilities.
    """
    _, sums = _sums(x, patterns, beta, masses, similarity, exclude)
    empty = sums.logsumexp == -torch.inf
    return (2 * sums.logsumexp - sums.log_square).exp().masked_fill(empty, 0.0)


def energy_rise(
    x: Tensor,
    old: Tensor,
    new: Tensor,
    beta: float,
    *,
    old_masses: Tensor | None = None,
    new_masses: Tensor | None = None,
    similarity: Similarity = "distance",
    exclude_old: Tensor | None = None,
    normalize: bool = True,
) -> Tensor:
    r"""Intrinsic forgetting: the rise :math:`\Delta E(x) = E(x \mid X_\mathrm{new}) - E(x \mid X_\mathrm{old})`.

    Args:
        x: samples, (n, d) or (n, *shape).
        old: patterns before the task change, (N_old, d) or (N_old, *shape).
        new: patterns after it, (N_new, d) or (N_new, *shape).
        beta: inverse temperature, > 0; the same before and after.
        old_masses: (N_old,), >= 0; ones if None.
        new_masses: (N_new,), >= 0; ones if None.
        similarity: ``"distance"`` or ``"dot"``.
        exclude_old: (n,) index in ``old`` of the pattern that x[i] itself is, -1 for none (leave-one-out).
        normalize: divide each set's masses by their sum; otherwise the number of patterns alone changes the energy.

    Returns:
        (n,) float64, in units of squared distance; positive: forgotten. +inf if ``new`` holds no mass, -inf if ``old``
        holds none, 0 if neither does.

    Raises:
        ValueError, TypeError: as :func:`energy`.

    Example:
        >>> import torch
        >>> old = torch.zeros(1, 2); new = torch.tensor([[1.0, 0.0]])
        >>> energy_rise(old, old, new, beta=3.0)  # the only pattern moved away by 1
        tensor([0.5000], dtype=torch.float64)

    Source: Takeda, Oizumi, Karakida, arXiv:2605.27975 (definition of intrinsic forgetting).
    """
    queries, before = _sums(x, old, beta, old_masses, similarity, exclude_old, names="old_")
    _, after = _sums(x, new, beta, new_masses, similarity, None, names="new_")
    rise = _energy(queries, after, beta, similarity, normalize) - _energy(queries, before, beta, similarity, normalize)
    return torch.where((after.logsumexp == -torch.inf) & (before.logsumexp == -torch.inf), 0.0, rise)


__all__ = [
    "Similarity",
    "effective_patterns",
    "energy",
    "energy_rise",
    "fixed_points",
    "responsibilities",
    "retrieve",
]
