"""Modern Hopfield energies of queries under patterns, and what follows from them.

With patterns xi_1..xi_N, masses w_mu >= 0 and inverse temperature beta > 0 a query x has the scores

* ``similarity="distance"``: s_mu = -beta |x - xi_mu|^2 / 2 and the energy Ed(x) = -(1/beta) log sum_mu w_mu exp(s_mu),
* ``similarity="dot"``: s_mu = beta <x, xi_mu> and E(x) = |x|^2 / 2 - (1/beta) log sum_mu w_mu exp(s_mu).

Both have the gradient x - retrieval(x). The distance form is the noise-perturbed data density of a diffusion model at
the timestep with signal-to-noise ratio beta (up to a constant); the dot form is that of Ramsauer et al.
(arXiv:2008.02217)
and of Takeda, Oizumi and Karakida (arXiv:2605.27975), for patterns of unit norm.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from hopfield_replay.functional._engine.arguments import Arguments, check, common_centre
from hopfield_replay.functional._engine.gradients import Energy, energy_of
from hopfield_replay.functional._engine.stream import Precision, stream
from hopfield_replay.functional.tiles import PatternTiles
from hopfield_replay.utilities.checks import Similarity


def energy(
    x: Tensor,
    patterns: Tensor | PatternTiles,
    beta: float,
    *,
    masses: Tensor | None = None,
    similarity: Similarity = "distance",
    exclude: Tensor | None = None,
    normalize: bool = True,
    precision: Precision = "auto",
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
        precision: how products are computed. Errors are the largest of an energy where |x - c| |xi - c| is about 64 (c:
            the mean of the patterns), and grow with that; form, beta and how far c is from the origin change little.

            * ``"auto"``: float64 for float64 inputs and small problems (n N d <= 1e9); otherwise the fastest way with
              errors up to 1e-5. That is ``"float32"``, and on an NVIDIA GPU (since Ampere, with Triton) products of the
              numbers' bfloat16 parts on its tensor cores: all of two parts, or of three below 512 dimensions, are
              summed without being written, and scores of 1/64 of a sum or more are computed again in float64. Where
              more than 64 copies of one pattern share a query, up to 3e-5.
            * ``"float64"``.
            * ``"float32"``: the best 16 scores of each query are computed again in float64. Up to 1e-5.
            * ``"fast"``: float32 without that; on a GPU as above, less the product of the second parts. Up to 5e-5, and
              2e-4 where more than 64 copies share a query.
            * ``"tf32"``, ``"bfloat16"``: on a GPU, products of numbers rounded once. Up to 1e-2 and 5e-2.

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
    arguments = check(x, patterns, beta, masses, similarity, exclude, precision)
    return differentiable(arguments, normalize, None)


@dataclass(frozen=True)
class EnergyPass:
    """What one pass over the patterns tells about n queries.

    Attributes:
        energy: (n,) float64.
        retrieval: (n, d) float64, the responsibility-weighted mean of the patterns.
        gradient: (n, d) float64, of the energy with respect to the query: x - retrieval.

    Example:
        >>> import torch
        >>> result = energy_and_retrieval(torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 0.0], [4.0, 0.0]]), beta=50.0)
        >>> result.retrieval, result.gradient  # the nearest pattern, and away from it
        (tensor([[0., 0.]], dtype=torch.float64), tensor([[1., 0.]], dtype=torch.float64))
    """

    energy: Tensor
    retrieval: Tensor
    gradient: Tensor


def energy_and_retrieval(
    x: Tensor,
    patterns: Tensor | PatternTiles,
    beta: float,
    *,
    masses: Tensor | None = None,
    similarity: Similarity = "distance",
    exclude: Tensor | None = None,
    normalize: bool = True,
    precision: Precision = "auto",
) -> EnergyPass:
    r"""Energy, retrieval and gradient :math:`\nabla E(x) = x - \sum_\mu p_\mu(x)\, \xi_\mu` from one pass.

    Args:
        x: queries, (n, d) or (n, *shape).
        patterns: (N, d) or (N, *shape).
        beta: inverse temperature, > 0.
        masses: (N,), >= 0; ones if None.
        similarity: ``"distance"`` or ``"dot"``.
        exclude: (n,) index of the pattern that x[i] itself is, -1 for none.
        normalize: as in :func:`energy`.
        precision: as in :func:`energy`.

    Returns:
        Three tensors without autograd history. Where no mass is left: energy +inf, retrieval 0, gradient x.

    Raises:
        ValueError, TypeError: as :func:`energy`.

    Example:
        >>> import torch
        >>> result = energy_and_retrieval(torch.zeros(1, 2), torch.eye(2), beta=1.0)
        >>> result.energy.round(decimals=9).tolist(), result.retrieval.tolist(), result.gradient.tolist()
        ([0.5], [[0.5, 0.5]], [[-0.5, -0.5]])

    Source: arXiv:2008.02217, equations 2 and 3.
    """
    arguments = check(x, patterns, beta, masses, similarity, exclude, precision)
    queries = arguments.queries.detach()
    sums = stream(
        queries,
        arguments.patterns,
        arguments.beta,
        similarity=similarity,
        exclude=arguments.exclude,
        mean=True,
        precision=precision,
    )
    assert sums.mean is not None
    energies = energy_of(queries, sums, arguments.beta, similarity, normalize)
    return EnergyPass(energies, sums.mean, queries - sums.mean)


def differentiable(arguments: Arguments, normalize: bool, centre: Tensor | None) -> Tensor:
    """The energy of checked arguments, with its gradients."""
    stored = arguments.patterns
    energies: Tensor = Energy.apply(arguments.queries, stored.resident, stored.masses, arguments, normalize, centre)
    return energies


def energy_rise(
    x: Tensor,
    old: Tensor | PatternTiles,
    new: Tensor | PatternTiles,
    beta: float,
    *,
    old_masses: Tensor | None = None,
    new_masses: Tensor | None = None,
    similarity: Similarity = "distance",
    exclude_old: Tensor | None = None,
    normalize: bool = True,
    precision: Precision = "auto",
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
        precision: as in :func:`energy`.

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
    before = check(x, old, beta, old_masses, similarity, exclude_old, precision, "old_")
    after = check(x, new, beta, new_masses, similarity, None, precision, "new_")
    centre = common_centre(before.patterns, after.patterns)
    old_energy, new_energy = (differentiable(arguments, normalize, centre) for arguments in (before, after))
    return (new_energy - old_energy).masked_fill((new_energy == torch.inf) & (old_energy == torch.inf), 0.0)


__all__ = ["EnergyPass", "energy", "energy_and_retrieval", "energy_rise"]
