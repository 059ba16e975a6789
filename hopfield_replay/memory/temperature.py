"""The inverse temperature beta: calibrated from the data, and diagnosed before it is trusted."""

import math
import warnings as _warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from hopfield_replay.functional import PatternTiles, effective_patterns, energy, fixed_points
from hopfield_replay.utilities.checks import Similarity, as_matrix, check_beta, check_masses, check_similarity

_SCORES = 1 << 25  # pairwise numbers held during the calibration: 256 MB
_Reading = Callable[[float], float]


def spread_indices(count: int, most: int) -> Tensor:
    """At most ``most`` indices spread evenly over ``range(count)`` (data is often sorted by class)."""
    return torch.linspace(0, count - 1, min(count, most), dtype=torch.float64).round().to(torch.int64)


def _pairwise(patterns: Tensor, index: Tensor, masses: Tensor | None, similarity: Similarity) -> tuple[Tensor, Tensor]:
    """Scores at beta = 1 of some patterns against all, (q, N), and log masses (N,)."""
    stored = patterns.to(torch.float64)
    if similarity == "distance":
        stored = stored - stored.mean(0)
    queries = stored[index]
    scores = queries @ stored.T
    if similarity == "distance":
        half = 0.5 * stored.square().sum(1)
        scores = (scores - half[index, None] - half).clamp_(max=0.0)
    weights = torch.ones(len(stored), dtype=torch.float64, device=stored.device) if masses is None else masses
    return scores, weights.log()


def _held(patterns: Tensor, masses: Tensor | None, similarity: Similarity) -> tuple[_Reading, _Reading, float]:
    """Median leave-one-out n_eff and median self-responsibility as functions of beta, and the span of the scores."""
    most = max(64, min(512, _SCORES // len(patterns)))
    index = spread_indices(len(patterns), most).to(patterns.device)
    scores, log_masses = _pairwise(patterns, index, masses, similarity)
    rows = torch.arange(len(index), device=index.device)

    def n_eff(beta: float) -> float:
        logits = torch.add(log_masses, scores, alpha=beta)
        logits[rows, index] = -torch.inf
        p = logits.sub_(logits.amax(1, keepdim=True)).exp_()
        total = p.sum(1).square()
        return float((total / p.square_().sum(1)).median())

    def own(beta: float) -> float:
        logits = beta * scores + log_masses
        return float((logits[rows, index] - logits.logsumexp(1)).exp().median())

    return n_eff, own, float((scores.amax(1) - scores.amin(1)).median())


def _streamed(patterns: PatternTiles, similarity: Similarity) -> tuple[_Reading, _Reading, float]:
    """The same for patterns that are read batch by batch, once for each value of beta."""
    index = spread_indices(len(patterns), 64)
    queries, masses = rows_of(patterns, index)

    def n_eff(beta: float) -> float:
        counts = effective_patterns(queries, patterns, beta, similarity=similarity, exclude=index.to(queries.device))
        return float(counts.median())

    def own(beta: float) -> float:
        return float(self_responsibility(queries, masses, patterns, beta, similarity).median())

    spread = (
        float(queries.double().square().sum(1).mean())
        if similarity == "dot"
        else float((queries.double() - queries.double().mean(0)).square().sum(1).mean())
    )
    return n_eff, own, spread


def rows_of(patterns: PatternTiles, index: Tensor) -> tuple[Tensor, Tensor]:
    """The patterns at these positions (counted over all ranks), and their masses; one pass over the batches."""
    own, masses, at = [], [], []
    for tile in patterns.tiles(4096):
        inside = ((index >= tile.start) & (index < tile.start + len(tile.patterns))).nonzero().flatten()
        here = (index[inside] - tile.start).to(tile.patterns.device)
        own.append(tile.patterns[here])
        weights = torch.ones(len(tile.patterns), dtype=torch.float64) if tile.masses is None else tile.masses.cpu()
        masses.append(weights[here.cpu()])
        at.append(inside)
    share: list[Any] = [(torch.cat(own), torch.cat(masses), torch.cat(at))] if own else [None]
    if patterns.group is not None:
        shares: list[Any] = [None] * dist.get_world_size(patterns.group)
        dist.all_gather_object(shares, share[0], group=patterns.group)
        share = shares
    parts = [part for part in share if part is not None]
    order = torch.cat([part[2] for part in parts]).argsort()
    nearest = torch.cat([part[0].to(parts[0][0].device) for part in parts])
    return nearest[order.to(nearest.device)], torch.cat([part[1] for part in parts])[order].to(nearest.device)


def self_responsibility(
    x: Tensor, masses: Tensor, patterns: Tensor | PatternTiles, beta: float, similarity: Similarity, **options: Any
) -> Tensor:
    """Responsibility (n,) that each stored pattern x[i], of mass masses[i], has for itself."""
    total = energy(x, patterns, beta, similarity=similarity, normalize=False, **options)
    half = 0.5 * x.to(torch.float64).square().sum(1)
    score = beta * (half + total) if similarity == "dot" else beta * total  # score of itself less log-sum-exp
    return (masses.log() + score).exp()


def _solve(reading: _Reading, target: float, span: float, falling: bool, name: str) -> float:
    """Bisect for the beta at which a monotone reading meets its target."""
    sign = -1.0 if falling else 1.0

    def reached(beta: float) -> bool:
        return sign * reading(beta) >= sign * target

    low = high = 1.0 / span
    for _ in range(200):
        if not reached(low):
            break
        low /= 4.0
    else:
        raise ValueError(
            f"No beta reaches {name} = {target}: at the smallest beta it is {reading(low):.3g} "
            "(masses concentrated on few patterns?)."
        )
    for _ in range(60):
        if reached(high):
            break
        high *= 4.0
    else:
        raise ValueError(
            f"No beta reaches {name} = {target}: it stays at {reading(high):.3g}, because that many patterns are "
            "(nearly) identical to others. Remove duplicates or change the target."
        )
    while math.log(high / low) > 1e-6:
        middle = math.sqrt(low * high)
        if reached(middle):
            high = middle
        else:
            low = middle
    return math.sqrt(low * high)


def calibrate_beta(
    patterns: Tensor | PatternTiles,
    *,
    n_eff: float = 5.0,
    self_responsibility: float | None = None,
    similarity: Similarity = "distance",
    masses: Tensor | None = None,
) -> float:
    r"""Inverse temperature at which the median leave-one-out number of effective patterns is ``n_eff``.

    The leave-one-out :math:`n_\mathrm{eff}(\xi_i) = 1/\sum_{\mu\ne i} p_\mu(\xi_i)^2` falls monotonically with beta,
    from N - 1 to 1: bisection on log beta finds the target. Up to 512 patterns, spread evenly over the set, are asked;
    all patterns answer. Extra memory: 64 N to 512 N numbers; patterns that come in batches (:class:`PatternTiles`) are
    read once for each of some 40 steps instead, and asked at 64 places.

    Args:
        patterns: (N, d) or (N, *shape), floating, or PatternTiles; N >= 3.
        n_eff: target, between 1 and N - 1. A few (3 to 10) makes energies rank like the distance to a near neighbour,
            the range in which they are informative; large values rank by the distance to the mean.
        self_responsibility: another target in place of ``n_eff``: the median responsibility of a pattern for itself, in
            (0, 1).
        similarity: ``"distance"`` or ``"dot"``.
        masses: (N,), >= 0; ones if None. Tiles hold their own.

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
    stored = patterns if isinstance(patterns, PatternTiles) else as_matrix(patterns, "patterns")
    count = len(stored)
    if count < 3:
        raise ValueError(f"calibrate_beta needs at least 3 patterns, got {count}; pass beta as a number instead.")
    if isinstance(stored, PatternTiles):
        if masses is not None:
            raise TypeError("PatternTiles hold their own masses; do not pass masses beside them.")
        neighbours, own, span = _streamed(stored, similarity)
    else:
        neighbours, own, span = _held(stored, check_masses(masses, stored), similarity)
    if not span > 0:
        raise ValueError("All patterns score alike (are they identical?): no beta tells them apart. Check the encoder.")
    if self_responsibility is not None:
        if not 0.0 < self_responsibility < 1.0:
            raise ValueError(f"self_responsibility must lie in (0, 1), got {self_responsibility}.")
        return _solve(own, self_responsibility, span, falling=False, name="self_responsibility")
    if not 1.0 < n_eff < count - 1:
        raise ValueError(f"n_eff must lie between 1 and N - 1 = {count - 1} (N patterns), got {n_eff}.")
    return _solve(neighbours, n_eff, span, falling=True, name="n_eff")


def beta_at_timestep(scheduler: Any, timestep: int) -> float:
    r"""Inverse temperature of a diffusion timestep: its signal-to-noise ratio, abar_t / (1 - abar_t).

    With this beta :math:`-(s_t^2/a_t^2) \log p_t(a_t y)` equals the distance-form energy of y under the data, up to the
    constant :math:`(d / 2\beta) \log(2 \pi s_t^2)`.

    Args:
        scheduler: anything with ``alphas_cumprod`` (T,), such as a diffusers DDPMScheduler.
        timestep: whole number in [0, T).

    Raises:
        TypeError: no ``alphas_cumprod``.
        ValueError: a timestep out of range, or one without noise or without signal.

    Example:
        >>> class Scheduler:
        ...     alphas_cumprod = torch.tensor([0.9, 0.5, 0.1])
        >>> beta_at_timestep(Scheduler(), 1)
        1.0

    Source: Ho, Jain, Abbeel, arXiv:2006.11239, equation 4.
    """
    alphas = getattr(scheduler, "alphas_cumprod", None)
    if not isinstance(alphas, Tensor):
        raise TypeError(f"{type(scheduler).__name__} has no alphas_cumprod; pass beta as a number.")
    if isinstance(timestep, bool) or not isinstance(timestep, int) or not 0 <= timestep < len(alphas):
        raise ValueError(f"timestep must be a whole number in [0, {len(alphas)}), got {timestep!r}.")
    alpha = float(alphas[timestep])
    return check_beta(alpha / (1.0 - alpha) if alpha < 1.0 else math.inf)


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

    Example:
        >>> import torch
        >>> diagnosis = diagnose(torch.eye(8), beta=1000.0)
        >>> round(diagnosis.self_responsibility, 6), diagnosis.merged_fraction  # each pattern sees itself alone
        (1.0, 0.0)
    """

    beta: float
    n_eff: float
    self_responsibility: float
    merged_fraction: float
    energy_spread: float
    warnings: tuple[str, ...]


def _merged_fraction(asked: Tensor, patterns: PatternTiles, beta: float, similarity: Similarity) -> float:
    start = asked.to(torch.float64)
    scale = float(start.std())
    with _warnings.catch_warnings():
        _warnings.simplefilter("ignore", UserWarning)  # slow convergence happens at the merging itself: 1 % is enough
        ends = fixed_points(start, patterns, beta, similarity=similarity, tol=1e-6 * scale or 1e-12, max_iter=200)
    apart = torch.cdist(start, start)
    together = torch.cdist(ends, ends) <= 1e-2 * apart
    return float(((apart > 0) & together).any(1).double().mean())


def diagnose(
    patterns: Tensor | PatternTiles,
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
        >>> diagnosis = diagnose(torch.eye(8), beta=0.1)
        >>> diagnosis.merged_fraction, len(diagnosis.warnings) > 0
        (1.0, True)
    """
    check_similarity(similarity)
    beta = check_beta(beta)
    stored = patterns if isinstance(patterns, PatternTiles) else as_matrix(patterns, "patterns")
    if len(stored) < 3:
        raise ValueError(f"diagnose needs at least 3 patterns, got {len(stored)}.")
    if queries < 2:
        raise ValueError(f"queries must be at least 2, got {queries}.")
    weights = None if isinstance(stored, PatternTiles) else check_masses(masses, stored)
    index = spread_indices(len(stored), queries)
    tiles = stored if isinstance(stored, PatternTiles) else PatternTiles(stored, masses=weights)
    asked, own_masses = rows_of(tiles, index)
    index = index.to(asked.device)
    n_eff = float(effective_patterns(asked, tiles, beta, similarity=similarity, exclude=index).median())
    own = self_responsibility(asked, own_masses, tiles, beta, similarity)
    energies = energy(asked, tiles, beta, similarity=similarity, exclude=index)
    spread = float(energies.std()) * beta
    merged = _merged_fraction(asked, tiles, beta, similarity)
    warnings = []
    noise = 1e-9 * beta * float(energies.abs().max())
    if merged > 0.05:
        warnings.append(
            f"{merged:.0%} of the fixed points are merged: at beta={beta:.3g} these patterns are no memories of "
            f"their own, and energies rank by the density around them (n_eff={n_eff:.3g} patterns)."
        )
    if n_eff > 0.5 * (len(stored) - 1):
        warnings.append(f"n_eff={n_eff:.3g} of {len(stored)} patterns: beta={beta:.3g} is too small to be informative.")
    if not spread > noise:
        warnings.append(f"The energies are equal up to float noise (spread {spread:.1e} nats): they carry no ranking.")
    own_share = float(own.median())
    if own_share > 0.999:
        warnings.append(
            f"Stored patterns answer for themselves (self-responsibility {own_share:.6f}): rank them by "
            "leave-one-out energies only (exclude=)."
        )
    if warnings:
        warnings.append(_working_range(stored, weights, similarity))
    return Diagnosis(beta, n_eff, own_share, merged, spread, tuple(warnings))


def _working_range(patterns: Tensor | PatternTiles, masses: Tensor | None, similarity: Similarity) -> str:
    few, many = 2.0, min(20.0, 0.25 * (len(patterns) - 1))
    if many <= few:
        return f"With {len(patterns)} patterns there is hardly a range of beta to choose from."
    try:
        low = calibrate_beta(patterns, n_eff=many, similarity=similarity, masses=masses)
        high = calibrate_beta(patterns, n_eff=few, similarity=similarity, masses=masses)
    except ValueError as error:
        return f"No range of beta works for these patterns: {error}"
    return f"A leave-one-out n_eff of {many:.3g} to {few:.3g} needs beta in [{low:.4g}, {high:.4g}]."
