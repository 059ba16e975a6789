"""The likelihood of samples under a diffusion model, along its probability-flow equation."""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from hopfield_replay.functional._diffusion_arguments import (
    amounts,
    check_denoiser,
    check_ids,
    check_samples,
    check_timesteps,
    sigmas,
    take,
    windows,
)
from hopfield_replay.functional._paired_noise import paired_noise
from hopfield_replay.functional.denoiser import Denoiser, evaluating
from hopfield_replay.utilities.checks import check_integer
from hopfield_replay.utilities.device import float64_device, where_float64_is

_PROBES = -1.0  # in place of a timestep: the probes of a sample are the same along its whole path


def log_likelihood(
    denoiser: Denoiser,
    x: Tensor,
    timesteps: Sequence[float] | Tensor,
    noise_seed: int,
    *,
    probes: int | None = 1,
    ids: Tensor | Sequence[int] | None = None,
    condition: Any = None,
    chunk_size: int = 32,
) -> Tensor:
    r"""Log-likelihood :math:`\log p(x)` by the probability flow, for a few hundred samples.

    With y = x_t / a_t and sigma = s_t / a_t the flow is :math:`dy / d\log\sigma = y - \hat x_0(a_t y, t)`, along which
    :math:`d \log p / d\log\sigma = -(d - \mathrm{tr}\, \partial \hat x_0 / \partial y)`. Heun's method on the grid of
    the timesteps, from the smallest sigma to the largest, where p is normal with variance 1 + sigma^2 in every
    direction. The trace is Hutchinson's estimate with random signs, which are paired like all noise here.

    The density is that of the data blurred by the smallest sigma.

    Args:
        denoiser: the diffusion model, differentiable in the noisy samples.
        x: samples, floating, (n, *shape).
        timesteps: two or more of different, finite and positive SNR, in any order; the largest sigma should exceed the
            spread of the data many times over. The error falls with the square of their spacing in log SNR, and is
            largest for samples far from all data.
        noise_seed: whole number; the same before and after.
        probes: sign vectors for each trace, >= 1; None for the exact trace, at the cost of d backward passes.
        ids: (n,) whole numbers that name the samples; 0..n-1 if None.
        condition: None, or any nesting of tensors whose first dimension is n.
        chunk_size: samples that go through the model at a time, >= 1.

    Returns:
        (n,) float64 on x's device (on the CPU for one without float64), in nats.

    Raises:
        TypeError, ValueError: as :func:`reconstruction_error`; timesteps too few or of equal SNR.

    Example:
        >>> from hopfield_replay.denoisers import CallableDenoiser, ContinuousSchedule
        >>> exploding = ContinuousSchedule(signal=lambda t: 1.0, noise=lambda t: t)
        >>> normal = CallableDenoiser(lambda x, t: x / (1 + t[:, None] ** 2), exploding, prediction_type="sample")
        >>> x = torch.tensor([[0.0], [1.0]], dtype=torch.float64)
        >>> log_likelihood(normal, x, torch.logspace(-2, 2, 200), noise_seed=0).round(decimals=2)
        tensor([-0.9200, -1.4200], dtype=torch.float64)

    Source: Song et al., arXiv:2011.13456, section 4.3 and appendix D.2; with sigma as time as in Karras et al.,
    arXiv:2206.00364.
    """
    check_denoiser(denoiser)
    clean = check_samples(x)
    named = check_ids(ids, len(clean))
    check_integer(chunk_size, "chunk_size", 1)
    if probes is not None:
        check_integer(probes, "probes", 1)
    steps = check_timesteps(denoiser, timesteps)
    grid = sorted(zip(sigmas(denoiser, steps), steps, strict=True))
    if len(grid) < 2 or any(first[0] == second[0] for first, second in pairwise(grid)):
        raise ValueError(f"the path needs at least two timesteps of different SNR, got {steps}.")
    # gradients are needed also where the caller measures under no_grad or, as Lightning validates, in inference mode
    with torch.inference_mode(False), torch.enable_grad(), evaluating(denoiser):
        result = torch.empty(len(clean), dtype=torch.float64, device=float64_device(clean.device))
        for window in windows(len(clean), chunk_size):
            part = clean[window].clone()
            signs = _signs(part, named[window], noise_seed, probes)
            result[window] = _integrate(denoiser, part, grid, signs, take(condition, window, len(clean)))
    return result


def _signs(part: Tensor, ids: Sequence[int], noise_seed: int, probes: int | None) -> list[Tensor]:
    """Vectors v whose sum of v^T J v is the trace of J in the mean or, for the unit vectors, exactly."""
    if probes is None:
        elements = math.prod(part.shape[1:])
        return [unit.view(1, *part.shape[1:]).expand_as(part) for unit in torch.eye(elements).to(part)]
    drawn = (paired_noise(part, ids, _PROBES, noise_seed, draw) for draw in range(probes))
    return [torch.where(noise < 0, -1.0, 1.0).to(part) / math.sqrt(probes) for noise in drawn]


def _slope(
    denoiser: Denoiser, y: Tensor, timestep: float, signs: list[Tensor], condition: Any
) -> tuple[Tensor, Tensor]:
    """Slope of y and its divergence (n,), both with respect to log sigma."""
    signal, _ = amounts(denoiser, timestep, y)
    y = y.detach().requires_grad_()
    clean = denoiser.predict_clean(signal * y, timestep, condition).to(y.device, y.dtype)
    trace = torch.zeros(len(y), dtype=torch.float64, device=float64_device(y.device))
    for sign in signs:
        (product,) = torch.autograd.grad(clean, y, sign, retain_graph=True)
        trace += where_float64_is(product * sign).to(torch.float64).flatten(1).sum(1)
    divergence = math.prod(y.shape[1:]) - trace
    return (y - clean).detach(), divergence


def _integrate(
    denoiser: Denoiser, y: Tensor, grid: list[tuple[float, float]], signs: list[Tensor], condition: Any
) -> Tensor:
    expansion = torch.zeros(len(y), dtype=torch.float64, device=float64_device(y.device))
    for (sigma, step), (next_sigma, next_step) in pairwise(grid):
        width = math.log(next_sigma / sigma)
        slope, divergence = _slope(denoiser, y, step, signs, condition)
        ahead, next_divergence = _slope(denoiser, y + width * slope, next_step, signs, condition)
        y = y + width * (slope + ahead) / 2
        expansion += width * (divergence + next_divergence) / 2
    variance = 1 + grid[-1][0] ** 2
    squares = where_float64_is(y).to(torch.float64).square().flatten(1).sum(1)
    elements = math.prod(y.shape[1:])
    return expansion - 0.5 * squares / variance - 0.5 * elements * math.log(2 * math.pi * variance)


__all__ = ["log_likelihood"]
