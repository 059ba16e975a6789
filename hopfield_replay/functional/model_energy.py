"""The energy that a diffusion model itself gives a sample, and which timestep is which inverse temperature."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from hopfield_replay.functional._diffusion_arguments import check_denoiser, check_samples, check_timesteps, sigmas
from hopfield_replay.functional.denoiser import Denoiser
from hopfield_replay.functional.diffusion import reconstruction_error
from hopfield_replay.utilities.checks import check_beta, check_integer


def elbo_weights(denoiser: Denoiser, timesteps: Sequence[float] | Tensor) -> Tensor:
    r"""Weights :math:`w_t` of the integral :math:`\int f\, d\mathrm{SNR} \approx \sum_t w_t f(t)` over the timesteps.

    The trapezoidal rule in log SNR, in which the integrand SNR f is smooth.

    Args:
        denoiser: the diffusion model.
        timesteps: at least two different timesteps of positive, finite SNR, in any order.

    Returns:
        (T,) float64, in the order of the timesteps.

    Raises:
        TypeError, ValueError: no denoiser; timesteps too few, repeated, out of range or without a finite SNR.

    Example:
        >>> from hopfield_replay.denoisers import CallableDenoiser
        >>> snr = torch.logspace(2, -2, 401, dtype=torch.float64)
        >>> denoiser = CallableDenoiser(lambda x, t: x, snr / (1 + snr))
        >>> weights = elbo_weights(denoiser, range(401))
        >>> float((weights / (1 + snr) ** 2).sum().round(decimals=3))  # the integral of 1 / (1 + SNR)^2, .01 to 100
        0.98

    Source: Kingma et al., arXiv:2107.00630, equation 17 (the loss as an integral over SNR).
    """
    check_denoiser(denoiser)
    steps = check_timesteps(denoiser, timesteps)
    logs = torch.tensor([-2 * math.log(sigma) for sigma in sigmas(denoiser, steps)], dtype=torch.float64)
    order = logs.argsort()
    gaps = logs[order].diff()
    if len(steps) < 2 or bool((gaps <= 0).any()):
        raise ValueError(f"the integral over SNR needs at least two timesteps of different SNR, got {steps}.")
    zero = gaps.new_zeros(1)
    widths = torch.empty_like(logs)
    widths[order] = (torch.cat([zero, gaps]) + torch.cat([gaps, zero])) / 2
    return widths * logs.exp()


def model_energy(
    denoiser: Denoiser,
    x: Tensor,
    timesteps: Sequence[float] | Tensor,
    noise_seed: int,
    *,
    draws: int = 1,
    ids: Tensor | Sequence[int] | None = None,
    condition: Any = None,
    chunk_size: int = 128,
) -> Tensor:
    r"""Energy of each sample under the model itself, in ELBO form, with paired noise.

    .. math:: F(x) = \frac12 \int_{\beta_0}^{\beta_1} E_\epsilon |x - \hat x_0(a_t x + s_t \epsilon)|^2\, d\beta,
              \qquad \beta = a_t^2 / s_t^2

    between the smallest and the largest SNR of the timesteps. For the optimal denoiser of a set of patterns it is, from
    beta_0 = 0 on, beta_1 times their Hopfield energy (distance form, normalised masses, inverse temperature beta_1)
    averaged over x + epsilon / sqrt(beta_1), less d / 2. The terms of single timesteps are d/2 times
    :func:`reconstruction_error` times :func:`elbo_weights`.

    Args:
        denoiser: the diffusion model.
        x: clean samples, floating, (n, *shape).
        timesteps: two or more, best evenly spaced in log SNR (:func:`timesteps_between`).
        noise_seed: whole number; the same before and after.
        draws: noise draws at each timestep, >= 1. The noise of one draw is large beside the differences between
            samples: to rank samples by their energy average several.
        ids: (n,) whole numbers that name the samples; 0..n-1 if None.
        condition: None, or any nesting of tensors whose first dimension is n.
        chunk_size: samples that go through the model at a time, >= 1.

    Returns:
        (n,) float64 on x's device, in nats; divide by the largest SNR for units of squared distance.

    Raises:
        TypeError, ValueError: as :func:`reconstruction_error` and :func:`elbo_weights`.

    Example:
        >>> class Knows:  # that all data is 0: E = |x|^2 / 2 in units of squared distance
        ...     num_timesteps = 100
        ...     def noise(self, clean, timestep, noise): return clean + noise * self.snr(timestep) ** -0.5
        ...     def predict_clean(self, noisy, timestep, condition=None): return torch.zeros_like(noisy)
        ...     def snr(self, timestep): return 0.9**timestep
        >>> float(model_energy(Knows(), torch.tensor([[3.0, 4.0]]), range(100), noise_seed=0).round(decimals=1))
        12.5

    Source: Kong, Brekelmans, Ver Steeg, arXiv:2302.03792, equation 6 (pointwise denoising relation).
    """
    steps = check_timesteps(denoiser, timesteps)
    weights = elbo_weights(denoiser, steps)
    elements = math.prod(check_samples(x).shape[1:])
    errors = reconstruction_error(
        denoiser, x, steps, noise_seed, draws=draws, ids=ids, condition=condition, chunk_size=chunk_size
    )
    return 0.5 * elements * errors @ weights.to(errors.device)


def timestep_of_beta(denoiser: Denoiser, beta: float) -> int:
    """Timestep whose SNR is nearest to the inverse temperature beta, in the logarithm.

    The relation in the other direction is ``denoiser.snr(timestep)``: at that timestep the optimal denoiser of a set of
    patterns is their Hopfield retrieval at that beta. Beta is in units of the samples that the model is trained on.

    Args:
        denoiser: a diffusion model with whole timesteps.
        beta: inverse temperature, > 0.

    Raises:
        TypeError: no denoiser; ``beta`` is no number.
        ValueError: beta outside the model's SNRs; a model of unbounded time.

    Example:
        >>> from hopfield_replay.denoisers import CallableDenoiser
        >>> denoiser = CallableDenoiser(lambda x, t: x, torch.linspace(0.99, 0.01, 99))
        >>> timestep_of_beta(denoiser, 1.0)
        49
    """
    return _nearest(_log_snrs(denoiser), check_beta(beta))


def timesteps_between(denoiser: Denoiser, low: float, high: float, count: int) -> list[int]:
    """Whole timesteps whose SNRs run from ``low`` to ``high`` evenly in the logarithm; timesteps rise, SNRs fall.

    Args:
        denoiser: a diffusion model with whole timesteps.
        low: smallest SNR, > 0.
        high: largest SNR, > low.
        count: number of timesteps, >= 2; fewer are returned where several fall on one.

    Raises:
        TypeError, ValueError: as :func:`timestep_of_beta`; ``low`` not below ``high``, ``count`` below 2.

    Example:
        >>> from hopfield_replay.denoisers import CallableDenoiser
        >>> denoiser = CallableDenoiser(lambda x, t: x, torch.linspace(0.99, 0.01, 99))
        >>> timesteps_between(denoiser, 0.1, 10.0, 3)
        [8, 49, 90]
    """
    low, high = check_beta(low), check_beta(high)
    if not low < high:
        raise ValueError(f"low must be below high, got {low} and {high}.")
    check_integer(count, "count", 2)
    logs = _log_snrs(denoiser)
    wanted = [high * (low / high) ** (index / (count - 1)) for index in range(count)]
    return sorted({_nearest(logs, beta) for beta in wanted})


def _log_snrs(denoiser: Denoiser) -> Tensor:
    check_denoiser(denoiser)
    if denoiser.num_timesteps is None:
        raise ValueError("this denoiser's time is unbounded: there is no list of timesteps to choose from.")
    return torch.tensor([denoiser.snr(step) for step in range(denoiser.num_timesteps)], dtype=torch.float64).log()


def _nearest(logs: Tensor, beta: float) -> int:
    finite = logs[logs.isfinite()]
    wanted = math.log(beta)
    if not float(finite.min()) - 1e-9 <= wanted <= float(finite.max()) + 1e-9:
        raise ValueError(
            f"beta {beta} is outside the signal-to-noise ratios of this model's timesteps, "
            f"{float(finite.min().exp()):.3g} to {float(finite.max().exp()):.3g}."
        )
    return int((logs - wanted).abs().argmin())


__all__ = ["elbo_weights", "model_energy", "timestep_of_beta", "timesteps_between"]
