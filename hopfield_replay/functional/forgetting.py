"""What replay gives back and what drift takes away, in closed form.

Masses are counted here, not normalised: replaying one sample of mass 1 beside N_new patterns of mass 1 adds one term to
the sum inside the energy, and the gains below are differences of such sums. The mixture form (``replay_share``) is the
normalised one: a fixed batch of which a share is replayed.
"""

import math

import torch
from torch import Tensor

from hopfield_replay.functional.energy import energy
from hopfield_replay.functional.responsibilities import responsibilities
from hopfield_replay.utilities.checks import Similarity, as_pair, check_beta, check_masses

_CHUNK_ELEMENTS = 1 << 22  # responsibilities held at a time: 32 MB


def _lowering(before: Tensor, replay: Tensor, beta: float, share: float | None) -> Tensor:
    """Energy before minus energy with replay; ``before`` and ``replay`` are the energies under either set alone."""
    log_ratio = beta * (before - replay)
    if share is None:
        gain = torch.logaddexp(torch.zeros_like(log_ratio), log_ratio) / beta
    else:
        log_new = torch.full_like(log_ratio, math.log1p(-share) if share < 1 else -math.inf)
        log_replayed = math.log(share) + log_ratio if share > 0 else torch.full_like(log_ratio, -math.inf)
        gain = torch.logaddexp(log_new, log_replayed) / beta
    return gain.masked_fill(replay == torch.inf, 0.0)  # nothing to replay: nothing changes, and inf - inf is no number


def replay_gain(
    x: Tensor,
    old: Tensor,
    new: Tensor,
    replay: Tensor,
    beta: float,
    *,
    replay_masses: Tensor | None = None,
    old_masses: Tensor | None = None,
    new_masses: Tensor | None = None,
    similarity: Similarity = "distance",
    net: bool = False,
    replay_share: float | None = None,
) -> Tensor:
    r"""How much replaying a set lowers the energy of each sample after the task change.

    With masses m_r on the replayed samples, q_r(x) = exp(score_r) / Z_old(x) and the rise dE(x) of the energy without
    replay (an identity, not an approximation):

    .. math:: D(R \to x) = E(x \mid \mathrm{new}) - E(x \mid \mathrm{new} + R)
              = \frac1\beta \log\Big(1 + e^{\beta \Delta E(x)} \sum_{r \in R} m_r q_r(x)\Big)

    Here dE is that of the unnormalised energies. Z_old cancels between exp(beta dE) and q_r: the raw gain does not
    depend on ``old``. The net gain subtracts what the same replay would give without any drift,
    (1/beta) log(1 + sum m_r q_r).

    With ``replay_share`` = lam the masses of both sets are normalised and mixed, as in batches of fixed size:
    D = (1/beta) log[(1 - lam) + lam exp(-beta (E_R - E_new))]. It is negative where replay takes more than it gives.

    Args:
        x: samples, floating, (n, d) or (n, *shape).
        old: patterns before the task change, (N_old, d) or (N_old, *shape).
        new: patterns after it, (N_new, d) or (N_new, *shape).
        replay: replayed samples, (K, d) or (K, *shape).
        beta: inverse temperature, > 0.
        replay_masses: (K,), >= 0, in units of the new patterns' masses; ones if None.
        old_masses: (N_old,), >= 0; ones if None.
        new_masses: (N_new,), >= 0; ones if None.
        similarity: ``"distance"`` or ``"dot"``.
        net: subtract the gain at zero drift.
        replay_share: share of replayed samples in a batch, in [0, 1], for the mixture form; None for the sum form.

    Returns:
        (n,) float64, in units of squared distance. 0 where nothing is replayed, +inf where only replay has mass.

    Raises:
        ValueError, TypeError: as :func:`energy`; a share outside [0, 1].

    Example:
        >>> import torch
        >>> old = torch.zeros(1, 2); new = torch.tensor([[2.0, 0.0]])
        >>> replay_gain(old, old, new, old, beta=1.0)  # log(1 + exp(2)): half the squared distance was lost
        tensor([2.1269], dtype=torch.float64)
        >>> replay_gain(old, old, new, old, beta=1.0, net=True)  # of which log 2 is no recovery
        tensor([1.4338], dtype=torch.float64)

    Source: from the definition of the energy in Takeda, Oizumi, Karakida, arXiv:2605.27975.
    """
    beta = check_beta(beta)
    if replay_share is not None and not 0 <= replay_share <= 1:
        raise ValueError(f"replay_share must lie in [0, 1], got {replay_share}.")
    mixed = replay_share is not None

    def _energy(patterns: Tensor, masses: Tensor | None) -> Tensor:
        return energy(x, patterns, beta, masses=masses, similarity=similarity, normalize=mixed)

    replayed = _energy(replay, replay_masses)
    gain = _lowering(_energy(new, new_masses), replayed, beta, replay_share)
    if not net:
        as_pair(x, old)  # old does not enter the raw gain, but a wrong one is still a mistake
        return gain
    return gain - _lowering(_energy(old, old_masses), replayed, beta, replay_share)


def susceptibility(
    x: Tensor,
    old: Tensor,
    replay: Tensor,
    beta: float,
    *,
    replay_masses: Tensor | None = None,
    old_masses: Tensor | None = None,
    similarity: Similarity = "distance",
) -> Tensor:
    r"""Share of a small energy rise that replay undoes: the net gain is :math:`\rho(x)\, \Delta E(x)` to first order.

    .. math:: \rho(x) = \frac{\sum_r m_r q_r(x)}{1 + \sum_r m_r q_r(x)}

    Args:
        x: samples, (n, d) or (n, *shape).
        old: patterns before the task change, (N_old, d) or (N_old, *shape).
        replay: replayed samples, (K, d) or (K, *shape).
        beta: inverse temperature, > 0.
        replay_masses: (K,), >= 0, in units of the patterns' masses; ones if None.
        old_masses: (N_old,), >= 0; ones if None.
        similarity: ``"distance"`` or ``"dot"``.

    Returns:
        (n,) float64 in [0, 1]; 0 where nothing is replayed.

    Raises:
        ValueError, TypeError: as :func:`energy`.

    Example:
        >>> import torch
        >>> x = torch.tensor([[0.0, 0.0], [5.0, 0.0]])
        >>> susceptibility(x, x, x[:1], beta=2.0)  # the replayed sample itself, and one far from it
        tensor([5.0000e-01, 1.3888e-11], dtype=torch.float64)

    Source: derivative of the net :func:`replay_gain` with respect to the rise, at zero rise.
    """
    beta = check_beta(beta)
    before = energy(x, old, beta, masses=old_masses, similarity=similarity, normalize=False)
    replayed = energy(x, replay, beta, masses=replay_masses, similarity=similarity, normalize=False)
    return torch.sigmoid(beta * (before - replayed)).masked_fill(replayed == torch.inf, 0.0)


def expected_rise(x: Tensor, patterns: Tensor, beta: float, *, masses: Tensor | None = None) -> Tensor:
    r"""Expected energy rise under a small random rotation of the patterns, per squared rotation scale (dot form).

    The patterns drift to xi V^T with V = expm(eps Omega), Omega antisymmetric with independent entries of variance s^2
    above the diagonal. Then E[dE(x)] = eps^2 s^2 A(x) + O(eps^4) with

    .. math:: A(x) = \tfrac12 \big(|x|^2 \operatorname{tr} H - x^\top H x\big) - \tfrac{d-1}{2} \langle g, x \rangle,

    where p are the responsibilities, H = I - beta Cov_p(xi) the Hessian and g = x - sum_mu p_mu xi_mu the gradient of
    the energy. What a task yet unknown will do to a sample, up to a common factor, when the drift has no preferred
    direction.

    Args:
        x: samples, floating, (n, d) or (n, *shape). The old fixed points or the patterns: the values differ.
        patterns: (N, d) or (N, *shape).
        beta: inverse temperature, > 0.
        masses: (N,), >= 0; ones if None.

    Returns:
        (n,) float64, in units of squared distance (per squared radian). 0 where no mass is left.

    Raises:
        ValueError, TypeError: as :func:`energy`.

    Example:
        >>> import torch
        >>> pattern = torch.tensor([[1.0, 0.0, 0.0]])
        >>> expected_rise(pattern, pattern, beta=4.0)  # one unit pattern turns away: (d - 1) / 2
        tensor([1.], dtype=torch.float64)

    Source: second-order expansion of E(V^T x) around V = 1 (E(x | X V^T) = E(V^T x | X)).
    """
    beta = check_beta(beta)
    queries, stored = as_pair(x, patterns)
    check_masses(masses, stored)
    if not len(stored):
        return torch.zeros(len(queries), dtype=torch.float64, device=queries.device)
    dimension = queries.shape[1]
    given, stored = stored, stored.to(torch.float64)
    offset = stored - stored.mean(0)  # the covariance does not see the shift, rounding does
    norms = offset.square().sum(1)
    rows = max(1, _CHUNK_ELEMENTS // len(stored))
    rises = torch.empty(len(queries), dtype=torch.float64, device=queries.device)
    for start in range(0, len(queries), rows):
        chunk = queries[start : start + rows]
        p = responsibilities(chunk, given, beta, masses=masses, similarity="dot")
        point = chunk.to(torch.float64)
        square = point.square().sum(1)
        along = point @ offset.T
        mean = (p * along).sum(1, keepdim=True)
        trace = dimension - beta * (p @ norms - (p @ offset).square().sum(1))
        quadratic = square - beta * (p * (along - mean).square()).sum(1)
        slope = square - (point * (p @ stored)).sum(1)
        rises[start : start + rows] = 0.5 * (square * trace - quadratic) - 0.5 * (dimension - 1) * slope
    return rises
