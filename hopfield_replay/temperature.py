"""The inverse temperature beta: calibrated from the data, and diagnosed before it is trusted."""

import math
import warnings as _warnings
from dataclasses import dataclass

import torch
from torch import Tensor

from hopfield_replay.functional import effective_patterns, energy, fixed_points, responsibilities
from hopfield_replay.functional._validate import Similarity, as_matrix, check_beta, check_masses, check_similarity

_SCORES = 1 << 25  # pairwise numbers held during the calibration: 256 MB


def spread_indices(count: int, most: int) -> Tensor:
    """At most ``most`` indices spread evenly over ``range(count)`` (data is often sorted by class)."""
    return torch.linspace(0, count - 1, min(count, most), dtype=torch.float64).round().to(torch.int64)


def _pairwise(patterns: Tensor, index: Tensor, masses: Tensor | None, similarity: Similarity) -> tuple[Tensor, Tensor]:
    """Scores at beta = 1 of some patterns against all, (q, N), and log masses with the pattern itself masked out."""
    stored = patterns.to(torch.float64)
    if similarity == "distance":
        stored = stored - stored.mean(0)
    queries = stored[index]
    scores = queries @ stored.T
    if similarity == "distance":
        half = 0.5 * stored.square().sum(1)
        scores = (scores - half[index, None] - half).clamp_(max=0.0)
    weights = torch.ones(len(stored), dtype=torch.float64, device=stored.device) if masses is None else masses
    log_masses = weights.log().expand_as(scores).clone()
    log_masses[torch.arange(len(index), device=index.device), index] = -torch.inf
    return scores, log_masses


def _median_n_eff(scores: Tensor, log_masses: Tensor, beta: float) -> float:
    logits = torch.add(log_masses, scores, alpha=beta)
    p = logits.sub_(logits.amax(1, keepdim=True)).exp_()
    total = p.sum(1).square()
    return float((total / p.square_().sum(1)).median())


def calibrate_beta(
    patterns: Tensor,
    *,
    n_eff: float = 5.0,
    similarity: Similarity = "distance",
    masses: Tensor | None = None,
) -> float:
    r"""Inverse temperature at which the median leave-one-out number of effective patterns is ``n_eff``.

    The leave-one-out :math:`n_\mathrm{eff}(\xi_i) = 1/\sum_{\mu\ne i} p_\mu(\xi_i)^2` falls monotonically with beta,
    from N - 1 to 1: bisection on log beta finds the target. Up to 512 patterns, spread evenly over the set, are asked;
    all patterns answer. Extra memory: 64 N to 512 N numbers.

    Args:
        patterns: (N, d) or (N, *shape), floating, N >= 3.
        n_eff: target, between 1 and N - 1. A few (3 to 10) makes energies rank like the distance to a near neighbour,
            the range in which they are informative; large values rank by the distance to the mean.
        similarity: ``"distance"`` or ``"dot"``.
        masses: (N,), >= 0; ones if None.

    Returns:
        beta > 0, in units of one over squared distance.

    Raises:
        ValueError: too few patterns, a target that no beta reaches (identical patterns), or bad values.
        TypeError: patterns that are not a floating tensor.

    Example:
        >>> import torch
        >>> patterns = torch.arange(8.0)[:, None]  # equally spaced on a line
        >>> round(calibrate_beta(patterns, n_eff=3.0), 3)
        0.544

    Source: perplexity calibration as in stochastic neighbour embedding (Hinton and Roweis, 2002), with the inverse
    participation ratio in place of the entropy.
    """
    check_similarity(similarity)
    stored = as_matrix(patterns, "patterns")
    weights = check_masses(masses, stored)
    count = len(stored)
    if count < 3:
        raise ValueError(f"calibrate_beta needs at least 3 patterns, got {count}; pass beta as a number instead.")
    if not 1.0 < n_eff < count - 1:
        raise ValueError(f"n_eff must lie between 1 and N - 1 = {count - 1} (N patterns), got {n_eff}.")
    most = max(64, min(512, _SCORES // count))
    index = spread_indices(count, most).to(stored.device)
    scores, log_masses = _pairwise(stored, index, weights, similarity)
    span = float((scores.amax(1) - scores.amin(1)).median())
    if not span > 0:
        raise ValueError("All patterns score alike (are they identical?): no beta tells them apart. Check the encoder.")
    low = high = 1.0 / span
    for _ in range(200):
        if _median_n_eff(scores, log_masses, low) >= n_eff:
            break
        low /= 4.0
    else:
        raise ValueError(
            f"No beta reaches n_eff = {n_eff}: the largest is {_median_n_eff(scores, log_masses, low):.3g} "
            "(masses concentrated on few patterns?)."
        )
    for _ in range(60):
        if _median_n_eff(scores, log_masses, high) <= n_eff:
            break
        high *= 4.0
    else:
        raise ValueError(
            f"No beta reaches n_eff = {n_eff}: it stays at {_median_n_eff(scores, log_masses, high):.3g} or above, "
            "because that many patterns are (nearly) identical to others. Remove duplicates or raise n_eff."
        )
    while math.log(high / low) > 1e-6:
        middle = math.sqrt(low * high)
        if _median_n_eff(scores, log_masses, middle) > n_eff:
            low = middle
        else:
            high = middle
    return math.sqrt(low * high)


def default_n_eff(count: int) -> float:
    """The target of ``beta="auto"`` for ``count`` patterns: 5, or half of the others where there are fewer than 11."""
    return min(5.0, (count - 1) / 2) if count > 3 else 1.5


@dataclass(frozen=True)
class Diagnosis:
    """Whether energies at this beta can rank samples.

    Attributes:
        beta: the inverse temperature that was diagnosed.
        n_eff: median leave-one-out number of effective patterns, in [1, N - 1].
        self_responsibility: median responsibility of a stored pattern for itself, in [0, 1]. Near 1 the energy of a
            stored pattern says nothing unless the pattern itself is excluded.
        merged_fraction: share of asked patterns whose fixed point coincides with that of another one.
        energy_spread: standard deviation of the leave-one-out energies times beta, in nats.
        warnings: what is wrong and which beta would work; empty if nothing is.
    """

    beta: float
    n_eff: float
    self_responsibility: float
    merged_fraction: float
    energy_spread: float
    warnings: tuple[str, ...]


def _merged_fraction(
    patterns: Tensor, index: Tensor, beta: float, masses: Tensor | None, similarity: Similarity
) -> float:
    start = patterns[index].to(torch.float64)
    scale = float(start.std())
    with _warnings.catch_warnings():
        _warnings.simplefilter("ignore", UserWarning)  # slow convergence happens at the merging itself: 1 % is enough
        ends = fixed_points(
            start, patterns, beta, masses=masses, similarity=similarity, tol=1e-6 * scale or 1e-12, max_iter=200
        )
    apart = torch.cdist(start, start)
    together = torch.cdist(ends, ends) <= 1e-2 * apart
    return float(((apart > 0) & together).any(1).double().mean())


def diagnose(
    patterns: Tensor,
    beta: float,
    *,
    masses: Tensor | None = None,
    similarity: Similarity = "distance",
    queries: int = 128,
) -> Diagnosis:
    """Diagnose whether energies at this beta rank samples; see :class:`Diagnosis`.

    Args:
        patterns: (N, d) or (N, *shape), floating, N >= 3.
        beta: inverse temperature, > 0.
        masses: (N,), >= 0; ones if None.
        similarity: ``"distance"`` or ``"dot"``.
        queries: how many patterns, spread evenly over the set, are asked, >= 2.

    Returns:
        The diagnosis; its ``warnings`` name a range of beta that would work.

    Raises:
        ValueError, TypeError: as :func:`calibrate_beta`.

    Example:
        >>> import torch
        >>> found = diagnose(torch.eye(8), beta=0.1)
        >>> found.merged_fraction, len(found.warnings) > 0
        (1.0, True)
    """
    check_similarity(similarity)
    beta = check_beta(beta)
    stored = as_matrix(patterns, "patterns")
    weights = check_masses(masses, stored)
    if len(stored) < 3:
        raise ValueError(f"diagnose needs at least 3 patterns, got {len(stored)}.")
    if queries < 2:
        raise ValueError(f"queries must be at least 2, got {queries}.")
    index = spread_indices(len(stored), queries).to(stored.device)
    asked = stored[index]
    n_eff = float(
        effective_patterns(asked, stored, beta, exclude=index, masses=weights, similarity=similarity).median()
    )
    own = responsibilities(asked, stored, beta, masses=weights, similarity=similarity)[
        torch.arange(len(index), device=index.device), index
    ]
    energies = energy(asked, stored, beta, exclude=index, masses=weights, similarity=similarity)
    spread = float(energies.std()) * beta
    merged = _merged_fraction(stored, index, beta, weights, similarity)
    found = []
    noise = 1e-9 * beta * float(energies.abs().max())
    if merged > 0.05:
        found.append(
            f"{merged:.0%} of the fixed points are merged: beta={beta:.3g} is too small to tell these patterns apart, "
            "and energies rank by the distance to a common mean."
        )
    if n_eff > 0.5 * (len(stored) - 1):
        found.append(f"n_eff={n_eff:.3g} of {len(stored)} patterns: beta={beta:.3g} is too small to be informative.")
    if not spread > noise:
        found.append(f"The energies are equal up to float noise (spread {spread:.1e} nats): they carry no ranking.")
    self_responsibility = float(own.median())
    if self_responsibility > 0.999:
        found.append(
            f"Stored patterns answer for themselves (self-responsibility {self_responsibility:.6f}): rank them by "
            "leave-one-out energies only (exclude=)."
        )
    if found:
        found.append(_working_range(stored, weights, similarity))
    return Diagnosis(beta, n_eff, self_responsibility, merged, spread, tuple(found))


def _working_range(patterns: Tensor, masses: Tensor | None, similarity: Similarity) -> str:
    few, many = 2.0, min(20.0, 0.25 * (len(patterns) - 1))
    if many <= few:
        return f"With {len(patterns)} patterns there is hardly a range of beta to choose from."
    try:
        low = calibrate_beta(patterns, n_eff=many, similarity=similarity, masses=masses)
        high = calibrate_beta(patterns, n_eff=few, similarity=similarity, masses=masses)
    except ValueError as error:
        return f"No range of beta works for these patterns: {error}"
    return f"A leave-one-out n_eff of {many:.3g} to {few:.3g} needs beta in [{low:.4g}, {high:.4g}]."
