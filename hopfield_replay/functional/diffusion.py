"""How well a diffusion model reconstructs given samples, with noise that is paired between measurements."""

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
    take,
    windows,
)
from hopfield_replay.functional._paired_noise import paired_noise
from hopfield_replay.functional.denoiser import Denoiser, evaluating, undisturbed
from hopfield_replay.utilities.checks import check_integer
from hopfield_replay.utilities.device import float64_device, where_float64_is


def squared_error(clean: Tensor, predicted: Tensor) -> Tensor:
    """Mean squared error of each sample (n,) in float64, over its elements."""
    if predicted.shape != clean.shape:
        raise ValueError(
            f"the denoiser returned clean samples of shape {tuple(predicted.shape)} for samples of shape "
            f"{tuple(clean.shape)}."
        )
    exact = where_float64_is(clean).to(torch.float64)
    difference = predicted.detach().to(exact.device).to(torch.float64) - exact
    return difference.square().flatten(1).mean(1)


@torch.no_grad()
def reconstruction_error(
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
    r"""One-step reconstruction error :math:`|x_0 - \hat x_0(a_t x_0 + s_t \epsilon)|^2 / d` at each timestep.

    The noise of a sample depends only on (noise_seed, its id, the timestep), so two measurements of one sample - before
    and after a task, in other batches, on other devices or ranks - differ by the model alone. Their difference is the
    reconstruction forgetting. The model keeps its parameters, gradients, buffers and training flags, and the random
    states stay as they are, also where it is a function of a module: what it refers to runs in eval mode.

    Args:
        denoiser: the diffusion model.
        x: clean samples, floating, (n, *shape), scaled as the model was trained on.
        timesteps: T timesteps, each in 0 <= t < denoiser.num_timesteps.
        noise_seed: whole number; the same before and after.
        draws: noise draws that the error of a sample at a timestep is averaged over, >= 1.
        ids: (n,) whole numbers that name the samples; 0..n-1 if None.
        condition: None, or any nesting of tensors whose first dimension is n.
        chunk_size: samples that go through the model at a time, >= 1.

    Returns:
        (n, T) float64 on x's device (on the CPU for one without float64), in squared units of x. Not finite where the
        model's prediction is not.

    Raises:
        TypeError: ``denoiser`` is none; ``x``, ``ids`` or ``timesteps`` of a wrong type.
        ValueError: timesteps out of range; shapes that do not fit.

    Example:
        >>> import torch
        >>> class Shrink:  # knows that the data is standard normal
        ...     num_timesteps = 10
        ...     def noise(self, clean, timestep, noise): return (clean + noise) / 2**0.5
        ...     def predict_clean(self, noisy, timestep, condition=None): return noisy / 2**0.5
        ...     def snr(self, timestep): return 1.0
        >>> x = torch.randn(2000, 8, generator=torch.Generator().manual_seed(0))
        >>> reconstruction_error(Shrink(), x, [3, 7], noise_seed=0).mean().round(decimals=1)  # 1 / (1 + SNR)
        tensor(0.5000, dtype=torch.float64)

    Source: Ho, Jain, Abbeel, arXiv:2006.11239, equations 4 and 15.
    """
    by_draw = reconstruction_errors(
        denoiser, x, timesteps, noise_seed, draws=draws, ids=ids, condition=condition, chunk_size=chunk_size
    )
    return by_draw.sum(-1) / draws


@torch.no_grad()
def reconstruction_errors(
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
    """The errors whose mean over the draws is :func:`reconstruction_error`, one by one.

    Args:
        denoiser: see there, as for all arguments.
        x: (n, *shape)
        timesteps: T of them.
        noise_seed: whole number.
        draws: D of them.
        ids: (n,)
        condition: of the samples.
        chunk_size: samples at a time.

    Returns:
        (n, T, D) float64.

    Raises:
        TypeError, ValueError: as :func:`reconstruction_error`.

    Example:
        >>> from hopfield_replay.denoisers import CallableDenoiser
        >>> denoiser = CallableDenoiser(lambda x, t: x, torch.tensor([0.9, 0.5]), prediction_type="sample")
        >>> reconstruction_errors(denoiser, torch.zeros(2, 3), [0, 1], 0, draws=4).shape
        torch.Size([2, 2, 4])
    """
    check_denoiser(denoiser)
    clean = check_samples(x)
    steps = check_timesteps(denoiser, timesteps)
    named = check_ids(ids, len(clean))
    check_integer(draws, "draws", 1)
    check_integer(chunk_size, "chunk_size", 1)
    shape = (len(clean), len(steps), draws)
    errors = torch.zeros(shape, dtype=torch.float64, device=float64_device(clean.device))
    with undisturbed(denoiser, seed=noise_seed):  # what a denoiser itself may draw is paired, too
        for window in windows(len(clean), chunk_size):
            part, given = clean[window], take(condition, window, len(clean))
            for column, step in enumerate(steps):
                for draw in range(draws):
                    noisy = denoiser.noise(part, step, paired_noise(part, named[window], step, noise_seed, draw))
                    predicted = denoiser.predict_clean(noisy, step, given)
                    errors[window, column, draw] = squared_error(part, predicted)
    return errors


@torch.no_grad()
def ddim_denoise(denoiser: Denoiser, noisy: Tensor, timesteps: Sequence[float], condition: Any = None) -> Tensor:
    r"""Denoise along falling timesteps without fresh noise (DDIM): one evaluation of the model at each.

    From the estimate :math:`\hat x_0` at t and :math:`\hat\epsilon = (x_t - a_t \hat x_0) / s_t` follows
    :math:`x_{t'} = a_{t'} \hat x_0 + s_{t'} \hat\epsilon` at the next timestep t'; the last estimate is returned.

    Args:
        denoiser: the diffusion model.
        noisy: samples at the first timestep, floating, (n, *shape).
        timesteps: one timestep at least, falling, each with noise (s_t > 0).
        condition: None, or any nesting of tensors whose first dimension is n.

    Returns:
        Clean samples, (n, *shape).

    Raises:
        TypeError, ValueError: as :func:`reconstruction_error`; timesteps that do not fall.

    Example:
        >>> from hopfield_replay.denoisers import CallableDenoiser
        >>> knows = CallableDenoiser(lambda x, t: 0 * x + 3, torch.linspace(0.9, 0.1, 5), prediction_type="sample")
        >>> ddim_denoise(knows, torch.zeros(1, 2), [4, 2, 1])  # a model of one sample, (3, 3)
        tensor([[3., 3.]])

    Source: Song, Meng, Ermon, arXiv:2010.02502, equation 12 with sigma = 0.
    """
    check_denoiser(denoiser)
    steps = check_timesteps(denoiser, timesteps)
    levels = [amounts(denoiser, step, noisy) for step in steps]
    if any(later >= earlier for earlier, later in pairwise(steps)):
        raise ValueError(f"timesteps must fall, got {steps}.")
    if levels[-1][1] == 0:
        raise ValueError(f"timestep {steps[-1]} has no noise; end with a larger one.")
    with evaluating(denoiser):
        clean = denoiser.predict_clean(noisy, steps[0], condition)
        for (signal, noise), (next_signal, next_noise), step in zip(levels, levels[1:], steps[1:], strict=False):
            direction = (noisy.to(clean.device) - signal * clean) / noise
            noisy = next_signal * clean + next_noise * direction
            clean = denoiser.predict_clean(noisy, step, condition)
    return clean


@torch.no_grad()
def multistep_reconstruction_error(
    denoiser: Denoiser,
    x: Tensor,
    timesteps: Sequence[float] | Tensor,
    noise_seed: int,
    *,
    steps: int = 10,
    ids: Tensor | Sequence[int] | None = None,
    condition: Any = None,
    chunk_size: int = 128,
) -> Tensor:
    """Reconstruction error after several DDIM steps from each timestep, with the noise of :func:`reconstruction_error`.

    Where one step returns the mean of all clean samples that fit, several return one sample that the model generates.

    Args:
        denoiser: the diffusion model.
        x: clean samples, floating, (n, *shape).
        timesteps: T timesteps > 0 to start from.
        noise_seed: whole number; the same before and after.
        steps: evaluations of the model, evenly from the start down to start / steps, >= 1; fewer where whole timesteps
            coincide. 1 is :func:`reconstruction_error`.
        ids: (n,) whole numbers that name the samples; 0..n-1 if None.
        condition: None, or any nesting of tensors whose first dimension is n.
        chunk_size: samples that go through the model at a time, >= 1.

    Returns:
        (n, T) float64, in squared units of x.

    Raises:
        TypeError, ValueError: as :func:`reconstruction_error`.

    Example:
        >>> from hopfield_replay.denoisers import CallableDenoiser
        >>> knows = CallableDenoiser(lambda x, t: 0 * x + 3, torch.linspace(0.9, 0.1, 5), prediction_type="sample")
        >>> x = torch.tensor([[3.0, 3.0], [1.0, 3.0]])
        >>> multistep_reconstruction_error(knows, x, [4], noise_seed=0, steps=3)
        tensor([[0.],
                [2.]], dtype=torch.float64)

    Source: Song, Meng, Ermon, arXiv:2010.02502, section 5.4 (reconstruction).
    """
    check_denoiser(denoiser)
    check_integer(steps, "steps", 1)
    check_integer(chunk_size, "chunk_size", 1)
    clean = check_samples(x)
    starts = check_timesteps(denoiser, timesteps)
    named = check_ids(ids, len(clean))
    errors = torch.empty(len(clean), len(starts), dtype=torch.float64, device=float64_device(clean.device))
    whole = denoiser.num_timesteps is not None
    for column, start in enumerate(starts):
        path = [start * (steps - index) / steps for index in range(steps)]
        if whole:
            path = [start, *sorted({round(step) for step in path[1:]} - {0, start}, reverse=True)]
        for window in windows(len(clean), chunk_size):
            part = clean[window]
            noisy = denoiser.noise(part, start, paired_noise(part, named[window], start, noise_seed))
            result = ddim_denoise(denoiser, noisy, path, take(condition, window, len(clean)))
            errors[window, column] = squared_error(part, result)
    return errors


__all__ = ["ddim_denoise", "multistep_reconstruction_error", "reconstruction_error", "reconstruction_errors"]
