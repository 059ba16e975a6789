"""The inverse temperature beta: calibrated from the data, and diagnosed before it is trusted."""

import math
import warnings as _warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from hopfield_replay.functional import PatternTiles, effective_patterns, energy, fixed_points
from hopfield_replay.functional.rows import Matrix
from hopfield_replay.memory.readings import (
    HELD,
    Reading,
    held,
    many,
    median_error,
    nearby,
    rows_of,
    self_responsibility,
    spread_indices,
    streamed,
)
from hopfield_replay.utilities.checks import Similarity, as_matrix, check_beta, check_masses, check_similarity
from hopfield_replay.utilities.drawing import draw_bars
from hopfield_replay.utilities.showing import Shown, jsonable

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_FIXED_POINTS = 5 * 10**9  # multiplications of one step towards all fixed points that are asked for


def _solve(reading: Reading, target: float, span: float, falling: bool, name: str) -> float:
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
    patterns: Matrix | PatternTiles,
    *,
    n_eff: float = 5.0,
    self_responsibility: float | None = None,
    similarity: Similarity = "distance",
    masses: Tensor | None = None,
) -> float:
    r"""Inverse temperature at which the median leave-one-out number of effective patterns is ``n_eff``.

    The leave-one-out :math:`n_\mathrm{eff}(\xi_i) = 1/\sum_{\mu\ne i} p_\mu(\xi_i)^2` falls monotonically with beta,
    from N - 1 to 1: bisection on log beta finds the target. Up to 512 patterns, spread evenly over the set, are asked;
    all patterns answer. Of sets of more than 32 million numbers up to 256 are asked, in float32 and in 128 MB at most
    (up to two million patterns); patterns that come in batches (:class:`PatternTiles`) are read once for each of some
    40 steps instead, and asked at 64 places.

    Args:
        patterns: (N, d) or (N, *shape), floating, or :class:`~hopfield_replay.functional.Rows` or PatternTiles; N >= 3.
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
    stored = as_matrix(patterns, "patterns") if isinstance(patterns, Tensor) else patterns
    count = len(stored)
    if count < 3:
        raise ValueError(f"calibrate_beta needs at least 3 patterns, got {count}; pass beta as a number instead.")
    if isinstance(stored, PatternTiles):
        if masses is not None:
            raise TypeError("PatternTiles hold their own masses; do not pass masses beside them.")
        neighbours, own, span = streamed(stored, similarity)
    else:
        weights = check_masses(masses, stored)
        if isinstance(stored, Tensor) and stored.numel() <= HELD:
            neighbours, own, span = held(stored, weights, similarity)
        else:
            neighbours, own, span = many(stored, weights, similarity)
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


@dataclass(frozen=True, repr=False)
class Diagnosis(Shown):
    """Whether energies at this beta can rank samples.

    Attributes:
        beta: the inverse temperature that was diagnosed.
        n_eff: median leave-one-out number of effective patterns, in [1, N - 1], over those that are asked.
        self_responsibility: median responsibility of a stored pattern for itself, in [0, 1]. Near 1 the energy of a
            stored pattern says nothing unless the pattern itself is excluded.
        merged_fraction: share of asked patterns whose fixed point coincides with that of another one.
        energy_spread: standard deviation of the leave-one-out energies times beta, in nats.
        warnings: what is wrong and which beta would work; empty if nothing is.
        n_eff_error: standard error of the median, from the sample that is asked; 0 where all are.

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
    n_eff_error: float = 0.0

    def _line(self) -> str:
        verdict = f"; {'; '.join(self.warnings)}" if self.warnings else ", no warnings"
        return (
            f"Diagnosis(beta={self.beta:.4g}, n_eff={self.n_eff:.3g}, self-responsibility "
            f"{self.self_responsibility:.3g}, {self.merged_fraction:.0%} of fixed points merged, energies spread by "
            f"{self.energy_spread:.3g} nats{verdict})"
        )

    def rows(self) -> list[dict[str, Any]]:
        """One row with all of it."""
        return [self.to_dict() | {"warnings": " ".join(self.warnings)}]

    def to_dict(self) -> dict[str, Any]:
        """All of it in plain Python, ready for JSON."""
        result: dict[str, Any] = jsonable(asdict(self))
        return result

    def _tables(self) -> list[tuple[Sequence[str], Sequence[Sequence[str]]]]:
        return []  # the line says it all

    def _draw(self, axis: "Axes") -> None:
        draw_bars(axis, {"self-responsibility": self.self_responsibility, "merged fixed points": self.merged_fraction})
        axis.set(xlim=(0.0, 1.0), xlabel=f"share, at beta {self.beta:.4g} (n_eff {self.n_eff:.3g})")


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
    patterns: Matrix | PatternTiles,
    beta: float,
    *,
    masses: Tensor | None = None,
    similarity: Similarity = "distance",
    queries: int = 128,
    calibrated: bool = False,
) -> Diagnosis:
    """Diagnose whether energies at this beta rank samples; see :class:`Diagnosis`.

    Args:
        patterns: (N, d) or (N, *shape), floating, or Rows or PatternTiles; N >= 3. Of sets for which all fixed points
            would take minutes they are those under the 64 nearest patterns of each that is asked.
        beta: inverse temperature, > 0.
        masses: (N,), >= 0; ones if None.
        similarity: ``"distance"`` or ``"dot"``.
        queries: how many patterns, spread evenly over the set, are asked, >= 2.
        calibrated: beta is that of :func:`calibrate_beta`, at which a few patterns share each sample: fixed points that
            merge are what was asked for, and no warning.

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
    stored = as_matrix(patterns, "patterns") if isinstance(patterns, Tensor) else patterns
    if len(stored) < 3:
        raise ValueError(f"diagnose needs at least 3 patterns, got {len(stored)}.")
    if queries < 2:
        raise ValueError(f"queries must be at least 2, got {queries}.")
    weights = None if isinstance(stored, PatternTiles) else check_masses(masses, stored)
    index = spread_indices(len(stored), queries)
    tiles = stored if isinstance(stored, PatternTiles) else PatternTiles.of_rows(stored, weights)
    asked, own_masses = rows_of(tiles, index)
    index = index.to(asked.device)
    shared = effective_patterns(asked, tiles, beta, similarity=similarity, exclude=index)
    n_eff = float(shared.median())
    own = self_responsibility(asked, own_masses, tiles, beta, similarity)
    energies = energy(asked, tiles, beta, similarity=similarity, exclude=index)
    spread = float(energies.std()) * beta
    near = tiles if asked.numel() * len(stored) <= _FIXED_POINTS else nearby(asked, tiles, similarity)
    merged = _merged_fraction(asked, near, beta, similarity)
    warnings = []
    noise = 1e-9 * beta * float(energies.abs().max())
    if merged > 0.05 and not calibrated:
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
    error = median_error(shared) if len(shared) < len(stored) else 0.0
    return Diagnosis(beta, n_eff, own_share, merged, spread, tuple(warnings), error)


def _working_range(patterns: Matrix | PatternTiles, masses: Tensor | None, similarity: Similarity) -> str:
    least, most = 2.0, min(20.0, 0.25 * (len(patterns) - 1))
    if most <= least:
        return f"With {len(patterns)} patterns there is hardly a range of beta to choose from."
    try:
        low = calibrate_beta(patterns, n_eff=most, similarity=similarity, masses=masses)
        high = calibrate_beta(patterns, n_eff=least, similarity=similarity, masses=masses)
    except ValueError as error:
        return f"No range of beta works for these patterns: {error}"
    return f"A leave-one-out n_eff of {most:.3g} to {least:.3g} needs beta in [{low:.4g}, {high:.4g}]."
